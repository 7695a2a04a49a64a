"""The training loop: collect -> make experience -> estimate advantages -> update -> report.

With `overlap` the update of an iteration goes on while the next one collects. The loop is the same:
what an update leaves may be a future, and whoever needs it waits for it.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from surefoot import functional as F
from surefoot.agent import Agent, Normalizer, Policy, make_agent
from surefoot.config import Config, parse_options, validate
from surefoot.envs import Environment
from surefoot.envs.tasks import fingerprinted, task_name
from surefoot.errors import UserError
from surefoot.networks import Actor, Critic
from surefoot.rollout import Rollout, make_collector, start
from surefoot.training import metrics as measure
from surefoot.training.environments import EnvLifecycle, Reads
from surefoot.training.hooks import Hook, Run
from surefoot.training.reports import Reports
from surefoot.training.state import TrainState, make_streams
from surefoot.update import (
    Estimated,
    Estimates,
    Executors,
    Experience,
    Learner,
    RewardScaler,
    Updater,
    make_executors,
    make_experience,
    make_reward_scaler,
)

Metrics = Mapping[str, Any]


# random actions at most that no option asks for: time limits may be tens of thousands of frames
_MOST_STAGGERED = 1_000


class Gathered(NamedTuple):
    """A rollout made ready for learning, and what is worth reporting of it.

    Attributes:
        experience: what the update needs.
        metrics: of the rollout and the batch.
        faults: [N] by what a number that is not finite was in.
    """

    experience: Experience
    metrics: Metrics
    faults: Metrics


class Begun(NamedTuple):
    """What a run begins with, before its first iteration."""

    actor: Actor
    critic: Critic
    normalizer: Normalizer
    reward_scaler: RewardScaler


class Trainer:
    """The compiled steps of one run; each method is one line of the loop.

    Args:
        config: the options.
        env: the environments.
        executors: where the updates run.
    """

    def __init__(self, config: Config, env: Environment, executors: Executors) -> None:
        self._stagger_steps = _stagger_steps(config, env)
        self.config = config
        self.env = env
        self.agent: Agent = make_agent(config, env.spec)
        noise = self.agent.noise(config)
        self._collector = make_collector(env, num_steps=config.num_steps, noise=noise)
        if not env.spec.exact_truncation:
            warnings.warn(
                f"{env.spec.name} loses the last observation at a time limit: values are "
                "bootstrapped from the one before it (counted as rollout/inexact_truncations)",
                stacklevel=3,
            )
        self.updater = Updater(
            config,
            executors,
            exact=env.spec.exact_truncation,
            augment_by=self.agent.symmetry if config.symmetry == "augment" else None,
        )
        self._executor = executors.main
        self._make_experience = jax.jit(self._experience_program)
        self._measure = jax.jit(self._measure_update)
        self._held_out = jax.jit(self._measure_held_out)

    def start(self, seed: int | None = None) -> TrainState:
        """Fresh networks and freshly reset environments; the options' seed if none is given."""
        return self.reset_envs(self.init(seed), self.env, seed)

    def init(
        self, seed: int | None = None, inherit: Callable[[Agent, Begun], Begun] | None = None
    ) -> TrainState:
        """Fresh networks, or what `inherit` makes of them, and no environments yet."""
        config = self.config
        streams = make_streams(config.seed if seed is None else seed)
        begun = Begun(*self.agent.init(config, streams.networks), make_reward_scaler(config))
        if inherit is not None:
            begun = inherit(self.agent, begun)
        learners = self.updater.init(begun.actor, begun.critic)
        return TrainState(
            learners=learners,
            stale_learners=(),
            last_learner=learners[self.updater.main] if config.measure_held_out_kl else None,
            critic_carry=self.agent.critic.initial_carry(config.num_envs),
            normalizer=begun.normalizer,
            reward_scaler=begun.reward_scaler,
            collector=None,
            key=streams.training,
            step=0,
            iteration=0,
        )

    def reset_envs(
        self, state: TrainState, env: Environment, seed: int | None = None
    ) -> TrainState:
        """The state with environments that begin anew, at its step."""
        if env is not self.env:
            self.env, self._collector = env, self._collector.on(env)
        streams = make_streams(self.config.seed if seed is None else seed, state.step)
        carry = self.agent.actor.initial_carry(env.spec.num_envs)
        collector = start(
            env,
            carry,
            streams.reset,
            noise=self.agent.noise(self.config),
            stagger_steps=0 if state.step else self._stagger_steps,
        )
        return state._replace(
            collector=collector,
            reward_scaler=state.reward_scaler.begin_anew(),
        )

    def state_template(self, iteration: int) -> TrainState:
        """A state of the shape that one has after so many iterations, its numbers without meaning."""
        state = self.learned_template(iteration)
        begun = state._replace(step=1)  # behind the run's start, where environments are staggered
        return self.reset_envs(begun, self.env) if self.env.spec.saves_state else state

    def learned_template(self, iteration: int) -> TrainState:
        """The same without environments."""
        state = self.init()
        main = state.learners[self.updater.main]
        return state._replace(stale_learners=(main,) * min(iteration, self.config.lag))

    def policy(self, state: TrainState) -> Policy:
        """The newest policy."""
        return self._policy(state.learners[self.updater.main], state.normalizer)

    def critic(self, state: TrainState) -> Critic:
        """The newest critic."""
        return self.updater.critic(state.learners)

    def acting_policy(self, state: TrainState) -> Policy:
        """The policy that collects: the newest, or one behind it where `overlap` is full."""
        newest = state.learners[self.updater.main]
        return self._policy((*state.stale_learners, newest)[0], state.normalizer)

    def collect(self, state: TrainState, policy: Policy) -> tuple[TrainState, Rollout]:
        """Step the environments with a policy, its normalizer frozen."""
        assert state.collector is not None
        key = jax.random.fold_in(state.key, 2 * state.iteration)
        collector, rollout = self._collector(policy, state.collector, key)
        return state._replace(collector=collector), rollout

    def make_experience(self, state: TrainState, rollout: Rollout) -> tuple[TrainState, Gathered]:
        """Turn the rollout into experience; only then let the running statistics see it."""
        normalizer, scaler, gathered = self._make_experience(
            state.normalizer, state.reward_scaler, rollout
        )
        return state._replace(normalizer=normalizer, reward_scaler=scaler), gathered

    def estimate_advantages(
        self, state: TrainState, experience: Experience
    ) -> tuple[TrainState, Estimated]:
        """What the critic makes of it; may be a future."""
        estimated, onward = self.updater.estimate_advantages(
            state.learners, state.critic_carry, experience
        )
        return state._replace(critic_carry=onward), estimated

    def update(
        self, state: TrainState, experience: Experience, estimated: Estimated
    ) -> tuple[TrainState, tuple[Metrics, ...]]:
        """Let every learner move on the batch; what they leave may be futures."""
        key = jax.random.fold_in(state.key, 2 * state.iteration + 1)
        progress = jnp.asarray(state.step, jnp.float32) / float(self.config.total_steps)
        rates = self.updater.learning_rates(progress)
        learners, metrics = self.updater.update(state.learners, estimated, key, rates)
        before, lag = state.learners[self.updater.main], self.config.lag
        measured = self._executor.submit(
            self._measure, before, learners[self.updater.main], *estimated[:2]
        )
        metrics = (*metrics, measured)
        if lag:
            metrics = (*metrics, {"async/lag": len(state.stale_learners)})
        if state.last_learner is not None:
            held_out = self._executor.submit(
                self._held_out, state.last_learner, before, experience, state.iteration
            )
            metrics = (*metrics, held_out)
            state = state._replace(last_learner=before)
        stale = (*state.stale_learners, before)[-lag:] if lag else ()
        return state._replace(learners=learners, stale_learners=stale), metrics

    def _policy(self, learner: Any, normalizer: Normalizer) -> Policy:
        return self.agent.policy(self.updater.actor(learner), normalizer)

    def _experience_program(
        self, normalizer: Normalizer, scaler: RewardScaler, rollout: Rollout
    ) -> tuple[Normalizer, RewardScaler, Gathered]:
        scaler, rewards = scaler(rollout)
        experience = make_experience(rollout, rewards, normalizer)
        metrics = measure.rollout_metrics(rollout, exact=self.env.spec.exact_truncation)
        clip = normalizer.spec.clip if normalizer.spec.enabled else math.inf
        metrics |= measure.batch_metrics(
            experience, self.agent.actor.groups, clip=clip, head=self.agent.head.kind
        )
        before = {name: rows[:-1] for name, rows in rollout.observations.items()}
        normalizer = normalizer.update(before, rollout.valid)
        return normalizer, scaler, Gathered(experience, metrics, rollout.faults)

    def _measure_update(
        self, before: Learner, after: Learner, experience: Experience, estimates: Estimates
    ) -> Metrics:
        old, new = before.params.policy(), after.params.policy()
        measured = measure.update_metrics(old, new, experience, estimates)
        measured["optim/learning_rate"] = after.learning_rate
        if self.config.surrogate == "kl_penalty":
            measured["optim/kl_coef"] = after.kl_coef
        return measured

    def _measure_held_out(
        self, before: Learner, after: Learner, unseen: Experience, iteration: Any
    ) -> Metrics:
        sequence = (unseen.seen(), unseen.carry, unseen.first[:-1])
        old, new = (learner.params.policy().unroll(*sequence) for learner in (before, after))
        kl = F.masked_mean(old.kl(new), unseen.weights)
        # before the first rollout there was no update
        return {"policy/held_out_kl": jnp.where(iteration > 0, kl, jnp.nan)}


@dataclass(frozen=True)
class ResumePoint:
    """Where a run begins: with fresh networks, or where a checkpoint left it.

    Attributes:
        step: environment steps that came before.
        wall_time_s: seconds that they took.
        restore: gives the first state.
        reads: gives its observation groups with the origins that the networks know; None: those that follow
            from the first observations.
    """

    step: int = 0
    wall_time_s: float = 0.0
    restore: Callable[[Trainer], TrainState] = Trainer.init
    reads: Reads | None = None


def train(
    task: Any,
    config: Config | None = None,
    *,
    hooks: Sequence[Hook] = (),
    should_stop: Callable[[], bool] = lambda: False,
    resume_point: ResumePoint | None = None,
) -> tuple[TrainState, Policy]:
    """Train a policy.

    Args:
        task: a task name, an environment, or what makes one (see `envs.make_environment`).
        config: the options; the defaults if left out.
        hooks: listeners.
        should_stop: asked after each iteration; True ends training early.
        resume_point: a checkpoint to go on from.

    Returns:
        The last state and its policy.

    Raises:
        ValueError: an option, task or environment that cannot be trained, before any training.
    """
    config, resume_point = validate(config or Config()), resume_point or ResumePoint()
    with (
        EnvLifecycle(task, config, resume_point.step, resume_point.reads) as envs,
        contextlib.closing(make_executors(config)) as executors,
    ):
        spec = fingerprinted(envs.env.spec, task, parse_options(config.env_options))
        trainer = Trainer(config, envs.env, executors)
        state = resume_point.restore(trainer)
        reports = Reports(state, hooks, config, envs.env.spec.name, resume_point.wall_time_s)
        envs.log_to(reports.log)
        envs.report_to(reports.report)
        run = Run(task_name(task), config, spec, trainer.agent, trainer.policy, reports.log)
        with reports.to_hooks(run):
            time = reports.clock.time
            while state.step < config.total_steps and not should_stop():
                if state.needs_reset:
                    state = trainer.reset_envs(state, envs.at(state.step))
                policy = time("update", trainer.acting_policy, state)
                state, rollout = time("collect", trainer.collect, state, policy)
                state, gathered = time("update", trainer.make_experience, state, rollout)
                experience = gathered.experience
                state, estimated = trainer.estimate_advantages(state, experience)
                state, learned = time("update", trainer.update, state, experience, estimated)
                before, state = state.step, state.advance(int(experience.num_steps()))
                if envs.is_renewed(before, state.step):
                    state = state._replace(collector=None)
                reports.add(state, gathered, learned)
    return reports.state, trainer.policy(reports.state)


def _stagger_steps(config: Config, env: Environment) -> int:
    """Random actions before training: what the options say, or follows from the time limit.

    Raises:
        ValueError: the options ask for what the environments cannot do.
    """
    steps, able = config.stagger_steps, type(env).step_rows is not Environment.step_rows
    if steps is None:
        limit = env.spec.max_episode_steps
        return min(limit, _MOST_STAGGERED) if able and limit is not None else 0
    if steps and not able:
        raise UserError(
            f"stagger_steps = {steps}: {env.spec.name} steps its environments together alone; leave it at 0 "
            "(a robot's task has `stagger` for that)"
        )
    return steps


@contextlib.contextmanager
def environments(task: Any, config: Config) -> Iterator[Environment]:
    """The environments of a run; closed at the end unless `task` was an environment already."""
    with EnvLifecycle(task, config) as envs:
        yield envs.env
