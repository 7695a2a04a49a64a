"""The training loop: collect -> digest -> optimise -> report."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from surefoot import functional as F
from surefoot.config import Config, validate
from surefoot.envs import Environment, make_environment
from surefoot.envs.tasks import parse_options, task_name
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
        normalizer, scaler, experience, metrics = self._digest(
            state.normalizer, state.reward_scaler, rollout
        )
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
            if config.learning_rate_schedule == "linear":
                return float(F.linear(progress, start, 0.0))
            if config.learning_rate_schedule == "cosine":
                return float(F.cosine(progress, start, 0.0))
            return start

        follows_kl = config.learning_rate_schedule == "kl_adaptive"
        actor = None if follows_kl else scheduled(config.learning_rate)
        critic = scheduled(config.critic_learning_rate or config.learning_rate)
        return {"actor": actor, "joint": actor, "critic": critic}

    def _digest_rollout(
        self, normalizer: Normalizer, scaler: RewardScaler, rollout: Rollout
    ) -> tuple[Normalizer, RewardScaler, Experience, Metrics]:
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
        return normalizer.update(before, rollout.valid), scaler, experience, metrics

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
    trainer = Trainer(config, env)
    state = trainer.start()
    for hook in hooks:
        hook.on_start(Run(task_name(task), config, env.spec, trainer.agent))
    clock = _Clock()
    finished = False
    try:
        while state.step < config.total_steps and not should_stop():
            state, rollout = clock.time("collect", trainer.collect, state)
            state, experience, seen = clock.time("update", trainer.digest, state, rollout)
            state, learned = clock.time("update", trainer.optimise, state, experience)
            state, metrics = _account(state, seen | learned, clock)
            for hook in hooks:
                hook.on_iteration(state, metrics)
        finished = state.step >= config.total_steps
    finally:
        for hook in hooks:
            hook.on_end(state, trainer.policy(state), finished=finished)
        env.close()
    return state, trainer.policy(state)


def _account(state: TrainState, measured: Metrics, clock: _Clock) -> tuple[TrainState, Metrics]:
    """Count the iteration; bring the metrics to the host in one go, NaN as None."""
    numbers = {name: np.asarray(x).item() for name, x in jax.device_get(measured).items()}
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
