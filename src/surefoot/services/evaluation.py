"""Evaluation while it trains: on environments of its own, of the policy as it is, nothing sampled."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from surefoot.config import EvaluationOptions, parse_options
from surefoot.envs import Environment, make_environment
from surefoot.envs.contract import SUCCESS, release
from surefoot.errors import UserError
from surefoot.rollout import Collector, make_collector
from surefoot.training import (
    CHUNK_STEPS,
    Hook,
    Run,
    TrainState,
    begins_anew,
    crosses,
    evaluate,
    evaluation_stream,
    hosting_of,
    to_key,
)

_MOST_ENVS = 20  # side by side, as `surefoot eval`
_NAMES = {
    "episodes": "eval/episodes",
    "episode_return_mean": "eval/episode_return",
    "episode_return_std": "eval/episode_return_std",
    "episode_length_mean": "eval/episode_length",
}


class Evaluation(Hook):
    """Plays the policy every `eval_every` steps and adds what it is worth to the iteration's metrics.

    Its episodes follow from the run's seed and the step, as far as the simulator can be made anew or
    reset to them; see `begins_anew`. Nothing that training computes is touched.

    Args:
        task: a task name, or what makes an environment.
        after: the step that the run goes on from.

    Attributes:
        reached: what goal was reached, in words; nothing before.

    Raises:
        ValueError: the task is an environment that was made already.
    """

    def __init__(self, task: Any, *, after: int = 0) -> None:
        if isinstance(task, Environment):
            raise UserError(
                f"eval_every: {task.spec.name} was made already, and evaluations have environments of their "
                "own; pass the class or function that makes it"
            )
        self._task, self._step, self.reached = task, after, ""
        self._run: Run | None = None
        self._env: Environment | None = None
        self._collect: Collector | None = None
        self._is_anew = False

    def on_start(self, run: Run) -> None:
        """Refuse what asks for success where the task tells of none."""
        self._run, config = run, run.config
        if not any(name in SUCCESS for name in run.env.info):
            for name, asked in (
                ("best_by = 'success'", config.best_by == "success"),
                (f"stop_at_success = {config.stop_at_success}", config.stop_at_success is not None),
            ):
                if asked:
                    raise UserError(f"{name}: {run.task} tells of no success; judge by its return")
        self._is_anew = begins_anew(config, run.env)

    def measure(self, state: TrainState, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the policy is worth, where it is time to ask.

        An evaluation that fails is said, and training goes on.
        """
        run = self._run
        assert run is not None
        if metrics["step"] < state.step:
            return {}  # seeds side by side: further iterations led to this state, and are heard of next
        before, self._step = self._step, state.step
        if not crosses(run.config.eval_every, before, state.step):
            return {}
        began = time.perf_counter()
        try:
            found = self._evaluate(run, state)
        except UserError as error:
            run.log(f"the evaluation at step {state.step:,} failed, training goes on: {error}")
            return {}
        measured = {
            _NAMES.get(name, f"eval/{name}"): value if math.isfinite(value) else None
            for name, value in found.items()
        }
        self.reached = reached({"step": state.step, **measured}, run.config)
        if self.reached:
            run.log(f"{self.reached}: training ends")
        return {**measured, "time/evaluation_s": time.perf_counter() - began}

    def on_end(self, state: TrainState, policy: Any, *, finished: bool) -> None:
        """Close the environments."""
        self._close()

    def _evaluate(self, run: Run, state: TrainState) -> dict[str, Any]:
        if self._is_anew:
            self._close()
        if self._env is None:
            self._make(state.step if self._is_anew else 0)
        assert self._env is not None
        assert self._collect is not None
        return evaluate(
            run.policy(state),
            self._env,
            run.config.eval_episodes,
            key=to_key(evaluation_stream(run.config.seed, state.step)),
            collect=self._collect,
            log=run.log,
        )

    def _make(self, step: int) -> None:
        run = self._run
        assert run is not None
        config, count = run.config, min(run.config.eval_episodes, _MOST_ENVS)
        hosting = hosting_of(config)
        self._env = make_environment(
            self._task,
            count,
            seed=evaluation_stream(config.seed, step),
            options=parse_options(config.env_options),
            hosting=hosting._replace(workers=min(hosting.workers, count)),
        )
        self._env.log_to(run.log)
        self._env.read_as(run.env.observations)  # as the networks know them
        if self._collect is None:
            self._collect = make_collector(self._env, num_steps=CHUNK_STEPS, deterministic=True)
        else:
            self._collect = self._collect.on(self._env)

    def _close(self) -> None:
        env, self._env = self._env, None
        if env is not None:
            assert self._run is not None
            release(env, self._run.log)


def reached(metrics: Mapping[str, Any], options: EvaluationOptions) -> str:
    """What goal an iteration's evaluation reached, in words; nothing if there was none, or not all goals."""
    goals = {
        "eval/episode_return": ("return", "stop_at_return", options.stop_at_return),
        "eval/success_rate": ("success", "stop_at_success", options.stop_at_success),
    }
    words = []
    for metric, (what, option, goal) in goals.items():
        if goal is None:
            continue
        value = metrics.get(metric)
        if value is None or value < goal:
            return ""
        words.append(f"{what} {value:.4g} (--{option.replace('_', '-')} {goal:g})")
    return (
        f"the evaluation at step {metrics['step']:,} reached {' and '.join(words)}" if words else ""
    )


def reached_before(rows: Sequence[Mapping[str, Any]], step: int, options: EvaluationOptions) -> str:
    """What goal the evaluations up to a step reached, of the last that did."""
    found = [reached(row, options) for row in rows if row["step"] <= step]
    return next(filter(None, reversed(found)), "")
