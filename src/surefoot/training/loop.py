"""The training loop: collect -> digest -> optimise -> report."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from surefoot import functional as F
from surefoot.config import Config, UserError, parse_options, validate
from surefoot.envs import Environment, make_environment
from surefoot.envs.tasks import task_name
from surefoot.networks import Normalizer
from surefoot.rollout import Policy, Rollout, make_collector, start
from surefoot.training import metrics as report
from surefoot.training.agent import AgentSpec, make_agent_spec, make_networks
from surefoot.training.hooks import Hook, Run
from surefoot.training.state import TrainState, make_streams
from surefoot.update import (
    Experience,
    RewardScaler,
    make_algorithm,
    make_reward_scaler,
)

Metrics = dict[str, Any]


class Trainer:
    """The compiled steps of one run; each method is one line of the loop."""

    def __init__(self, config: Config, env: Environment) -> None:
        self.config = config
        self.env = env
        self.agent: AgentSpec = make_agent_spec(config, env.spec)
        if not env.spec.exact_truncation:
            warnings.warn(
                f"{env.spec.name} loses the last observation at a time limit: values are "
                "bootstrapped from another one there (counted as rollout/inexact_truncations)",
                stacklevel=3,
            )
        self.algorithm = make_algorithm(config)
        self._collector = make_collector(env, num_steps=config.num_steps)
        self._digest = jax.jit(self._digest_rollout)
        self._measure = jax.jit(self._measure_update)

    def start(self) -> TrainState:
        """Fresh networks and freshly reset environments."""
        streams = make_streams(self.config.seed)
        actor, critic, normalizer = make_networks(self.config, self.agent, streams.networks)
        return TrainState(
            learners=self.algorithm.init(actor, critic),
            normalizer=normalizer,
            reward_scaler=make_reward_scaler(self.config),
            collector=start(self.env, streams.reset),
            key=streams.training,
            step=0,
            iteration=0,
        )

    def policy(self, state: TrainState) -> Policy:
        """The policy as it stands."""
        actor, _ = self.algorithm.parts(state.learners)
        return Policy(actor, state.normalizer, self.agent.actor_groups)

    def collect(self, state: TrainState) -> tuple[TrainState, Rollout]:
        """Step the environments with the present policy, its normaliser frozen."""
        key = jax.random.fold_in(state.key, 2 * state.iteration)
        collector, rollout = self._collector(self.policy(state), state.collector, key)
        return state._replace(collector=collector), rollout

    def digest(self, state: TrainState, rollout: Rollout) -> tuple[TrainState, Experience, Metrics]:
        """Turn the rollout into experience; only then let the running statistics see it."""
        normalizer, scaler, experience, metrics, faults = self._digest(
            state.normalizer, state.reward_scaler, rollout
        )
        _refuse_faults(jax.device_get(faults), self.env.spec.name)
        state = state._replace(normalizer=normalizer, reward_scaler=scaler)
        return state, experience, metrics

    def optimise(self, state: TrainState, experience: Experience) -> tuple[TrainState, Metrics]:
        """Advantages, then epochs of minibatches."""
        learners, metrics, estimates = self.algorithm.update(
            state.learners,
            experience,
            jax.random.fold_in(state.key, 2 * state.iteration + 1),
            learning_rates=self.learning_rates(state.step),
        )
        metrics |= self._measure(learners, experience, estimates)
        return state._replace(learners=learners), metrics

    def learning_rates(self, step: int) -> dict[str, float | None]:
        """Each learner's step size after `step` steps; None: the KL decides."""
        config = self.config
        progress = step / config.total_steps

        def scheduled(start: float) -> float:
            schedule = {"linear": F.linear, "cosine": F.cosine}.get(config.learning_rate_schedule)
            return start if schedule is None else float(schedule(progress, start, 0.0))

        follows_kl = config.learning_rate_schedule == "kl_adaptive"
        main = None if follows_kl else scheduled(config.learning_rate)
        if config.is_joint:
            return {"joint": main}
        shared = not follows_kl and config.critic_learning_rate is None
        return {"actor": main, "critic": main if shared else scheduled(config.first_critic_rate)}

    def _digest_rollout(
        self, normalizer: Normalizer, scaler: RewardScaler, rollout: Rollout
    ) -> tuple[Normalizer, RewardScaler, Experience, Metrics, dict[str, jax.Array]]:
        scaler, rewards = scaler(rollout)
        before = {name: rows[:-1] for name, rows in rollout.observations.items()}
        experience = Experience(
            actor_features=normalizer.features(before, self.agent.actor_groups),
            critic_features=normalizer.features(rollout.observations, self.agent.critic_groups),
            raw_actions=rollout.raw_actions,
            old_log_probs=rollout.log_probs,
            rewards=rewards,
            terminated=rollout.terminated,
            truncated=rollout.truncated,
            weights=rollout.valid.astype(np.float32),
        )
        metrics = report.rollout_metrics(rollout, exact_truncation=self.env.spec.exact_truncation)
        faults = {
            f"observation {name!r}": _any_not_finite(x) for name, x in rollout.observations.items()
        }
        faults["reward"] = _any_not_finite(jnp.where(rollout.valid, rollout.rewards, 0.0))
        normalizer = normalizer.update(before, rollout.valid)
        return normalizer, scaler, experience, metrics, faults

    def _measure_update(self, learners: Any, experience: Experience, estimates: Any) -> Metrics:
        actor, _ = self.algorithm.parts(learners)
        main = learners.get("actor") or learners["joint"]
        measured = report.update_metrics(experience, estimates)
        measured |= report.policy_std(actor(experience.actor_features[-1]))
        measured["optim/learning_rate"] = main.learning_rate
        if self.config.surrogate == "kl_penalty":
            measured["optim/kl_coef"] = main.kl_coef
        return measured


def train(
    task: Any,
    config: Config | None = None,
    *,
    hooks: Sequence[Hook] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[TrainState, Policy]:
    """Train a policy.

    Args:
        task: a task name, an environment, or what makes one (see `envs.make_environment`).
        config: the options; the defaults if left out.
        hooks: listeners.
        should_stop: asked after each iteration; True ends training early.

    Returns:
        The last state and its policy.

    Raises:
        ValueError: an option, task or environment that cannot be trained, before any training.
    """
    config = validate(config or Config())
    env = make_environment(
        task,
        config.num_envs,
        seed=make_streams(config.seed).environments,
        options=parse_options(config.env_options),
    )
    made_here = env is not task
    with contextlib.ExitStack() as at_end:
        # what began is ended whatever happens, each hook even if another's end fails
        if made_here:
            at_end.callback(env.close)
        trainer = Trainer(config, env)
        run = _Progress(trainer.start())
        for hook in hooks:
            hook.on_start(Run(task_name(task), config, env.spec, trainer.agent))
            at_end.callback(lambda hook=hook: run.end(hook, trainer))
        clock = _Clock()
        while run.state.step < config.total_steps and not should_stop():
            state, rollout = clock.time("collect", trainer.collect, run.state)
            state, experience, seen = clock.time("update", trainer.digest, state, rollout)
            state, learned = clock.time("update", trainer.optimise, state, experience)
            run.state, metrics = _account(state, seen | learned, clock)
            for hook in hooks:
                hook.on_iteration(run.state, metrics)
    return run.state, trainer.policy(run.state)


def _any_not_finite(rows: jax.Array) -> jax.Array:
    """[T, N, ...] -> [N]: whether any number of an environment is NaN or infinite."""
    return ~jnp.isfinite(rows).all(axis=tuple(i for i in range(rows.ndim) if i != 1))


def _refuse_faults(faults: dict[str, np.ndarray], task: str) -> None:
    """Raise ValueError for a simulator's number that is not finite, before it reaches an update."""
    for field, bad in faults.items():
        if bad.any():
            raise UserError(
                f"{task}, environment {int(np.argmax(bad))}: {field} is not finite "
                f"({int(bad.sum())} of {bad.size} environments); the policy from before is kept"
            )


class _Progress:
    """The newest state that is sound, which is what the hooks see at the end."""

    def __init__(self, state: TrainState) -> None:
        self.state = state

    def end(self, hook: Hook, trainer: Trainer) -> None:
        """Tell a hook that training is over."""
        finished = self.state.step >= trainer.config.total_steps
        hook.on_end(self.state, trainer.policy(self.state), finished=finished)


def _account(state: TrainState, measured: Metrics, clock: _Clock) -> tuple[TrainState, Metrics]:
    """Count the iteration; bring the metrics to the host in one go, NaN as None.

    Raises:
        ValueError: the update diverged; its state must not replace the one before.
    """
    numbers = {name: np.asarray(x).item() for name, x in jax.device_get(measured).items()}
    for name in ("loss/policy", "loss/value", "optim/grad_norm", "optim/critic_grad_norm"):
        if not math.isfinite(numbers.get(name, 0.0)):
            raise UserError(
                f"training diverged in iteration {state.iteration + 1} (after {state.step:,} "
                f"steps): {name} is {numbers[name]}. The policy from before is kept; try a smaller "
                "learning_rate, scale_rewards, or a target_kl"
            )
    steps = numbers.pop("step")
    state = state._replace(step=state.step + steps, iteration=state.iteration + 1)
    head = {"step": state.step, "iteration": state.iteration}
    body = {
        name: None if isinstance(x, float) and not math.isfinite(x) else x
        for name, x in sorted(numbers.items())
    }
    return state, head | body | clock.lap(steps)


class _Clock:
    """Where an iteration's time goes."""

    def __init__(self) -> None:
        self._began = self._lap = time.perf_counter()
        self._spent: dict[str, float] = {}

    def time(self, share: str, step: Callable[..., Any], *args: Any) -> Any:
        """Call `step`, wait for its result, and book the time under `share`."""
        before = time.perf_counter()
        result = jax.block_until_ready(step(*args))
        self._spent[share] = self._spent.get(share, 0.0) + time.perf_counter() - before
        return result

    def lap(self, steps: int) -> Metrics:
        """The iteration's time metrics; the next iteration starts here."""
        now = time.perf_counter()
        elapsed = now - self._lap
        shares = {f"time/share_{name}": spent / elapsed for name, spent in self._spent.items()}
        self._lap, self._spent = now, {}
        return {
            "wall_time_s": now - self._began,
            "time/env_steps_per_second": steps / elapsed,
            **shares,
        }
