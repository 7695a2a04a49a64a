"""How actor and critic are optimised: apart, as two programs, or together on one total loss."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from surefoot.config import Config
from surefoot.networks import Actor, Critic, join
from surefoot.update import ppo, trpo
from surefoot.update.epochs import Learner, begin_update, keep_if_finite, make_learner, summarise
from surefoot.update.experience import Experience, catch_up, estimate
from surefoot.update.lanes import Lanes, in_turn

Learners = Mapping[str, Learner]
Rates = Mapping[str, float | None]


class Outcome(NamedTuple):
    """What an update leaves; every part may still be pending (see `lanes.settle`).

    Attributes:
        learners: by name, after the update.
        metrics: mappings from names to scalars; no name is in two of them.
        experience: the batch, with the log-probabilities of the policy the update began with where
            an older one may have collected it.
        estimates: advantages, targets and values from before the first step.
    """

    learners: Learners
    metrics: tuple[Any, ...]
    experience: Any
    estimates: Any


class Algorithm(abc.ABC):
    """An update on one batch of experience, compiled once.

    Advantages are estimated once a batch, or, with `recompute_advantages`, by the critic as it stands
    before each epoch; then all epochs are one program.

    Args:
        config: the options.
        lanes: where the programs run.

    Attributes:
        main: the name of the learner that holds the actor.
    """

    main: str

    def __init__(self, config: Config, lanes: Lanes | None = None) -> None:
        self.config = config
        self.lanes = lanes or in_turn()
        self._catch_up = jax.jit(
            lambda learner, experience: catch_up(self.actor(learner), experience)
        )
        self._estimate = jax.jit(
            lambda learner, experience: estimate(self.critic(learner), experience, config)
        )

    @abc.abstractmethod
    def init(self, actor: Actor, critic: Critic) -> Learners:
        """Learners that have taken no step."""

    @abc.abstractmethod
    def actor(self, learner: Learner) -> Actor:
        """The actor in the learner named `main`."""

    @abc.abstractmethod
    def critic(self, learner: Learner) -> Critic:
        """The critic in the learner that holds it."""

    @abc.abstractmethod
    def update(
        self, learners: Learners, experience: Experience, key: jax.Array, *, learning_rates: Rates
    ) -> Outcome:
        """Estimate advantages, then take the epochs.

        Args:
            learners: by name; may be pending.
            experience: the batch.
            key: random stream of the shuffling.
            learning_rates: the learners' step sizes now; None keeps the one a learner has.
        """

    def _caught_up(self, learner: Any, experience: Experience) -> Any:
        """The batch, with what an update needs where an older policy collected it."""
        if not self.config.lag:
            return experience
        return self.lanes.actor.start(self._catch_up, learner, experience)

    def _program(self, update: ppo.Update) -> Any:
        config = self.config

        def program(learner: Learner, rate: float | None, *batch: Any) -> Any:
            learner = begin_update(learner, rate)
            after, metrics = update(learner, *batch, config=config, num_epochs=config.num_epochs)
            return keep_if_finite(learner, after, metrics), metrics

        return jax.jit(program)

    def _recomputing(self, one_epoch: Any) -> Any:
        """All epochs as one program, the advantages estimated anew before each.

        `one_epoch(learners, experience, estimates, key)` returns learners and metrics.
        """
        config = self.config

        def program(learners: Learners, rates: Rates, experience: Experience, key: Any) -> Any:
            learners = {name: begin_update(x, rates[name]) for name, x in learners.items()}
            holder = learners.get("critic", learners[self.main])
            first = estimate(self.critic(holder), experience, config)

            def epoch(learners: Any, epoch_key: jax.Array) -> Any:
                holder = learners.get("critic", learners[self.main])
                fresh = estimate(self.critic(holder), experience, config)
                # value clipping stays around the values from before the update
                fresh = fresh._replace(values=first.values)
                return one_epoch(learners, experience, fresh, epoch_key)

            keys = jax.random.split(key, config.num_epochs)
            after, metrics = jax.lax.scan(epoch, learners, keys)
            metrics = summarise(metrics)
            kept = {k: keep_if_finite(x, after[k], metrics) for k, x in learners.items()}
            return kept, metrics, first

        return jax.jit(program)


class SeparateUpdate(Algorithm):
    """Actor and critic each with their own optimiser and gradient clipping, as two programs."""

    main = "actor"

    def __init__(self, config: Config, lanes: Lanes | None = None) -> None:
        super().__init__(config, lanes)
        by_trpo = config.algorithm == "trpo"
        self._update_actor = self._program(trpo.update_actor if by_trpo else ppo.update_actor)
        self._update_critic = self._program(ppo.update_critic)
        self._update_both = self._recomputing(self._one_epoch)

    def init(self, actor: Actor, critic: Critic) -> Learners:
        """Learners `actor` and `critic`."""
        config = self.config
        return {
            "actor": make_learner(actor, config, config.learning_rate),
            "critic": make_learner(critic, config, config.first_critic_rate),
        }

    def actor(self, learner: Learner) -> Actor:
        """The actor of the learner `actor`."""
        return learner.params

    def critic(self, learner: Learner) -> Critic:
        """The critic of the learner `critic`."""
        return learner.params

    def update(
        self, learners: Learners, experience: Experience, key: jax.Array, *, learning_rates: Rates
    ) -> Outcome:
        """See `Algorithm.update`."""
        rates, lanes = learning_rates, self.lanes
        batch = self._caught_up(learners["actor"], experience)
        if self.config.recompute_advantages:
            done = lanes.actor.start(self._update_both, learners, rates, batch, key)
            after = {name: done[0][name] for name in learners}
            return Outcome(after, (done[1],), batch, done[2])
        actor_key, critic_key = jax.random.split(key)
        estimates = lanes.critic.start(self._estimate, learners["critic"], batch)
        critic = lanes.critic.start(
            self._update_critic, learners["critic"], rates["critic"], batch, estimates, critic_key
        )
        actor = lanes.actor.start(
            self._update_actor, learners["actor"], rates["actor"], batch, estimates, actor_key
        )
        return Outcome(
            {"actor": actor[0], "critic": critic[0]}, (actor[1], critic[1]), batch, estimates
        )

    def _one_epoch(
        self, learners: Learners, experience: Any, estimates: Any, key: jax.Array
    ) -> Any:
        common = {"config": self.config, "num_epochs": 1}
        actor_key, critic_key = jax.random.split(key)
        batch = (experience, estimates)
        actor, of_actor = ppo.update_actor(learners["actor"], *batch, actor_key, **common)
        critic, of_critic = ppo.update_critic(learners["critic"], *batch, critic_key, **common)
        return {"actor": actor, "critic": critic}, of_actor | of_critic


class JointUpdate(Algorithm):
    """Actor and critic on one total loss, one optimiser, one gradient norm."""

    main = "joint"

    def __init__(self, config: Config, lanes: Lanes | None = None) -> None:
        super().__init__(config, lanes)
        self._update = self._program(ppo.update_joint)
        self._update_recomputing = self._recomputing(self._one_epoch)

    def init(self, actor: Actor, critic: Critic) -> Learners:
        """The learner `joint`."""
        both = join(actor, critic, shared_trunk=self.config.shared_trunk)
        return {"joint": make_learner(both, self.config, self.config.learning_rate)}

    def actor(self, learner: Learner) -> Actor:
        """The actor's side of the learner `joint`."""
        return learner.params.split()[0]

    def critic(self, learner: Learner) -> Critic:
        """The critic's side of the learner `joint`."""
        return learner.params.split()[1]

    def update(
        self, learners: Learners, experience: Experience, key: jax.Array, *, learning_rates: Rates
    ) -> Outcome:
        """See `Algorithm.update`."""
        rates, lane = learning_rates, self.lanes.actor
        batch = self._caught_up(learners["joint"], experience)
        if self.config.recompute_advantages:
            done = lane.start(self._update_recomputing, learners, rates, batch, key)
            return Outcome({"joint": done[0]["joint"]}, (done[1],), batch, done[2])
        estimates = lane.start(self._estimate, learners["joint"], batch)
        joint = lane.start(self._update, learners["joint"], rates["joint"], batch, estimates, key)
        return Outcome({"joint": joint[0]}, (joint[1],), batch, estimates)

    def _one_epoch(
        self, learners: Learners, experience: Any, estimates: Any, key: jax.Array
    ) -> Any:
        joint, metrics = ppo.update_joint(
            learners["joint"], experience, estimates, key, config=self.config, num_epochs=1
        )
        return {"joint": joint}, metrics


def make_algorithm(config: Config, lanes: Lanes | None = None) -> Algorithm:
    """The update that the options ask for; everything in turn if no lanes are given."""
    return (JointUpdate if config.is_joint else SeparateUpdate)(config, lanes)
