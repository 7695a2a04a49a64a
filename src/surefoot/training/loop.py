"""The training loop: collect -> digest -> optimise -> report.

With `overlap` the update of an iteration goes on while the next one collects. The loop is the same:
what an update leaves may be pending, and whoever needs it waits for it.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from surefoot import functional as F
from surefoot.config import Config, validate
from surefoot.envs import Environment
from surefoot.envs.tasks import task_name
from surefoot.networks import Normalizer
from surefoot.rollout import Policy, Rollout, make_collector, start
from surefoot.training import metrics as report
from surefoot.training.agent import AgentSpec, make_agent_spec, make_networks
from surefoot.training.hooks import Hook, Run
from surefoot.training.reports import Reports
from surefoot.training.stage import Renewal, Stage
from surefoot.training.state import TrainState, make_streams
from surefoot.update import (
    Experience,
    Lanes,
    Learner,
    RewardScaler,
    both_beside,
    critic_beside,
    in_turn,
    make_algorithm,
    make_reward_scaler,
    settle,
)

Metrics = dict[str, Any]


class Trainer:
    """The compiled steps of one run; each method is one line of the loop.

    Args:
        config: the options.
        env: the environments.
        lanes: where the updates run; in turn if left out.
    """

    def __init__(self, config: Config, env: Environment, lanes: Lanes | None = None) -> None:
        self.config = config
        self._use(env)
        self.agent: AgentSpec = make_agent_spec(config, env.spec)
        if not env.spec.exact_truncation:
            warnings.warn(
                f"{env.spec.name} loses the last observation at a time limit: values are "
                "bootstrapped from another one there (counted as rollout/inexact_truncations)",
                stacklevel=3,
            )
        self.algorithm = make_algorithm(config, lanes)
        self._digest = jax.jit(self._digest_rollout)
        self._measure = jax.jit(self._measure_update)
        self._held_out = jax.jit(self._measure_held_out)

    def start(self, seed: int | None = None) -> TrainState:
        """Fresh networks and freshly reset environments; the options' seed if none is given."""
        return self.enter(self.fresh(seed), self.env, seed)

    def fresh(self, seed: int | None = None) -> TrainState:
        """Fresh networks, and no environments yet."""
        streams = make_streams(self.config.seed if seed is None else seed)
        actor, critic, normalizer = make_networks(self.config, self.agent, streams.networks)
        learners = self.algorithm.init(actor, critic)
        return TrainState(
            learners=learners,
            behind=(),
            previous=learners[self.algorithm.main] if self.config.measure_held_out_kl else None,
            normalizer=normalizer,
            reward_scaler=make_reward_scaler(self.config),
            collector=None,
            key=streams.training,
            step=0,
            iteration=0,
        )

    def enter(self, state: TrainState, env: Environment, seed: int | None = None) -> TrainState:
        """The state with environments that begin anew, at its step."""
        if env is not self.env:
            self._use(env)
        streams = make_streams(self.config.seed if seed is None else seed, state.step)
        return state._replace(
            collector=start(env, streams.reset), reward_scaler=state.reward_scaler.begin_anew()
        )

    def saved(self, iteration: int) -> TrainState:
        """A state of the shape that one has after so many iterations, its numbers without meaning."""
        state = self.fresh()
        if self.env.spec.saves_state:
            state = self.enter(state, self.env)
        main = state.learners[self.algorithm.main]
        return state._replace(behind=(main,) * min(iteration, self.config.lag))

    def policy(self, state: TrainState) -> Policy:
        """The newest policy."""
        return self._policy(state.learners[self.algorithm.main], state.normalizer)

    def acting_policy(self, state: TrainState) -> Policy:
        """The policy that collects: the newest, or one behind it where `overlap` is full."""
        newest = state.learners[self.algorithm.main]
        return self._policy((*state.behind, newest)[0], state.normalizer)

    def collect(self, state: TrainState, policy: Policy) -> tuple[TrainState, Rollout]:
        """Step the environments with a policy, its normaliser frozen."""
        assert state.collector is not None
        key = jax.random.fold_in(state.key, 2 * state.iteration)
        collector, rollout = self._collector(policy, state.collector, key)
        return state._replace(collector=collector), rollout

    def digest(self, state: TrainState, rollout: Rollout) -> tuple[TrainState, Experience, Metrics]:
        """Turn the rollout into experience; only then let the running statistics see it."""
        normalizer, scaler, experience, metrics = self._digest(
            state.normalizer, state.reward_scaler, rollout
        )
        state = state._replace(normalizer=normalizer, reward_scaler=scaler)
        return state, experience, metrics

    def optimise(
        self, state: TrainState, experience: Experience
    ) -> tuple[TrainState, tuple[Metrics, ...]]:
        """Advantages, then epochs of minibatches; what they leave may be pending."""
        done = self.algorithm.update(
            state.learners,
            experience,
            jax.random.fold_in(state.key, 2 * state.iteration + 1),
            learning_rates=self.learning_rates(state.step),
        )
        main, lag = self.algorithm.main, self.config.lag
        measured = self.algorithm.lanes.actor.start(
            self._measure,
            *(state.learners[main], done.learners[main]),
            *(done.experience, done.estimates),
        )
        metrics = (*done.metrics, measured)
        if lag:
            metrics = (*metrics, {"async/lag": len(state.behind)})
        if state.previous is not None:
            held_out = self.algorithm.lanes.actor.start(
                self._held_out, state.previous, state.learners[main], experience, state.iteration
            )
            metrics = (*metrics, held_out)
            state = state._replace(previous=state.learners[main])
        state = state._replace(
            learners=done.learners,
            behind=(*state.behind, state.learners[main])[-lag:] if lag else (),
        )
        return state, metrics

    def learning_rates(self, step: Any) -> dict[str, Any]:
        """Each learner's step size after `step` steps; None: the KL decides."""
        config = self.config
        progress = jnp.asarray(step, jnp.float32) / float(config.total_steps)

        def scheduled(start: float) -> Any:
            schedule = {"linear": F.linear, "cosine": F.cosine}.get(config.learning_rate_schedule)
            return start if schedule is None else schedule(progress, start, 0.0)

        follows_kl = config.learning_rate_schedule == "kl_adaptive"
        main = None if follows_kl else scheduled(config.learning_rate)
        if config.is_joint:
            return {"joint": main}
        shared = not follows_kl and config.critic_learning_rate is None
        return {"actor": main, "critic": main if shared else scheduled(config.first_critic_rate)}

    def _use(self, env: Environment) -> None:
        self.env = env
        # some simulators' calls are part of the program, so that each needs one of its own
        self._collector = make_collector(env, num_steps=self.config.num_steps)

    def _policy(self, learner: Any, normalizer: Normalizer) -> Policy:
        actor = self.algorithm.actor(settle(learner))
        return Policy(actor, normalizer, self.agent.actor_groups)

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
        clip = normalizer.clip if normalizer.enabled else math.inf
        bounded = self.agent.head.kind == "gaussian"
        metrics |= report.batch_metrics(experience, clip=clip, bounded=bounded)
        normalizer = normalizer.update(before, rollout.valid)
        return normalizer, scaler, experience, metrics

    def _measure_update(
        self, before: Learner, after: Learner, experience: Experience, estimates: Any
    ) -> Metrics:
        old, new = self.algorithm.actor(before), self.algorithm.actor(after)
        features = experience.actor_features[-1]
        measured = report.update_metrics(old(features), experience, estimates)
        measured |= report.policy_std(new(features))
        measured["optim/learning_rate"] = after.learning_rate
        if self.config.surrogate == "kl_penalty":
            measured["optim/kl_coef"] = after.kl_coef
        return measured

    def _measure_held_out(
        self, before: Learner, after: Learner, unseen: Experience, iteration: Any
    ) -> Metrics:
        old, new = self.algorithm.actor(before), self.algorithm.actor(after)
        kl = F.masked_mean(
            old(unseen.actor_features).kl(new(unseen.actor_features)), unseen.weights
        )
        # before the first rollout there was no update
        return {"policy/held_out_kl": jnp.where(iteration > 0, kl, jnp.nan)}


@dataclass(frozen=True)
class Beginning:
    """Where a run begins: with fresh networks, or where a checkpoint left it.

    Attributes:
        step: environment steps that came before.
        wall_time_s: seconds that they took.
        anew: whether the environments begin anew at checkpoints; None: not decided yet.
        restore: gives the first state.
    """

    step: int = 0
    wall_time_s: float = 0.0
    anew: bool | None = None
    restore: Callable[[Trainer], TrainState] = Trainer.fresh


def train(
    task: Any,
    config: Config | None = None,
    *,
    hooks: Sequence[Hook] = (),
    should_stop: Callable[[], bool] = lambda: False,
    beginning: Beginning | None = None,
) -> tuple[TrainState, Policy]:
    """Train a policy.

    Args:
        task: a task name, an environment, or what makes one (see `envs.make_environment`).
        config: the options; the defaults if left out.
        hooks: listeners.
        should_stop: asked after each iteration; True ends training early.
        beginning: a checkpoint to go on from.

    Returns:
        The last state and its policy.

    Raises:
        ValueError: an option, task or environment that cannot be trained, before any training.
    """
    config, beginning = validate(config or Config()), beginning or Beginning()
    with contextlib.ExitStack() as at_end:
        # what began is ended whatever happens, each hook even if another's end fails
        stage = at_end.enter_context(contextlib.closing(Stage(task, config, beginning.step)))
        lanes = at_end.enter_context(contextlib.closing(_lanes(config)))
        trainer = Trainer(config, stage.env, lanes)
        state = beginning.restore(trainer)
        reports = Reports(state, hooks, config, stage.env.spec.name, beginning.wall_time_s)
        stage.listen(reports.note)
        renew = Renewal(config, stage, step=state.step, decided=beginning.anew, tell=reports.note)
        run = Run(
            task_name(task), config, stage.env.spec, trainer.agent, trainer.policy, reports.note
        )
        for hook in hooks:
            hook.on_start(run)
            at_end.callback(lambda hook=hook: reports.end(hook, trainer.policy))
        at_end.push(reports.failed)
        at_end.callback(reports.deliver)
        time = reports.clock.time
        while state.step < config.total_steps and not should_stop():
            if state.collector is None:
                state = trainer.enter(state, stage.at(state.step))
            policy = time("update", trainer.acting_policy, state)
            state, rollout = time("collect", trainer.collect, state, policy)
            state, experience, seen = time("update", trainer.digest, state, rollout)
            state, learned = time("update", trainer.optimise, state, experience)
            state = renew(state.after(int(experience.num_steps())), reports.clock.first("collect"))
            reports.add(state, (seen, *learned))
    return reports.state, trainer.policy(reports.state)


@contextlib.contextmanager
def environments(task: Any, config: Config) -> Iterator[Environment]:
    """The environments of a run; closed at the end unless `task` was an environment already."""
    with contextlib.closing(Stage(task, config)) as stage:
        yield stage.env


def _lanes(config: Config) -> Lanes:
    if config.in_making == 0:
        return in_turn()
    return both_beside() if config.overlap == "full" else critic_beside()
