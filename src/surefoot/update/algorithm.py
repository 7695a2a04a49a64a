"""How actor and critic are optimised: apart, as two programs, or together on one total loss."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from functools import partial

import jax

from surefoot.config import Config
from surefoot.networks import Actor, Critic, join
from surefoot.update import ppo
from surefoot.update.epochs import Learner, begin_update, make_learner, summarise
from surefoot.update.experience import Estimates, Experience, estimate

Learners = Mapping[str, Learner]
Metrics = dict[str, jax.Array]


class Algorithm(abc.ABC):
    """An update on one batch of experience, compiled once.

    Advantages are estimated once a batch, or, with `recompute_advantages`, by the critic as it stands
    before each epoch; then all epochs are one program.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._estimate = jax.jit(self._estimate_now)
        again = config.recompute_advantages
        self._compile(partial(self._program, num_epochs=1 if again else config.num_epochs))
        self._run = jax.jit(self._recomputing) if again else self._in_turn

    @abc.abstractmethod
    def init(self, actor: Actor, critic: Critic) -> Learners:
        """Learners that have taken no step."""

    @abc.abstractmethod
    def parts(self, learners: Learners) -> tuple[Actor, Critic]:
        """Actor and critic as they stand."""

    @abc.abstractmethod
    def _compile(self, program: partial) -> None:
        """Make the jitted programs; `program` binds what an update of `ppo` takes besides data."""

    @abc.abstractmethod
    def _epochs(
        self, learners: Learners, experience: Experience, estimates: Estimates, key: jax.Array
    ) -> tuple[Learners, Metrics]:
        """The programs on fixed estimates."""

    def update(
        self,
        learners: Learners,
        experience: Experience,
        key: jax.Array,
        *,
        learning_rates: Mapping[str, float | None],
    ) -> tuple[Learners, Metrics, Estimates]:
        """Estimate advantages, then take the epochs.

        Args:
            learners: by name.
            experience: the batch.
            key: random stream of the shuffling.
            learning_rates: the learners' step sizes now; None keeps the one a learner has.

        Returns:
            The learners, the metrics, and the estimates from before the first step.
        """
        learners = {
            name: begin_update(learner, learning_rates[name]) for name, learner in learners.items()
        }
        return self._run(learners, experience, key)

    def _program(self, update: ppo.Update, *, num_epochs: int) -> ppo.Update:
        return jax.jit(partial(update, config=self.config, num_epochs=num_epochs))

    def _estimate_now(self, learners: Learners, experience: Experience) -> Estimates:
        return estimate(self.parts(learners)[1], experience, self.config)

    def _in_turn(
        self, learners: Learners, experience: Experience, key: jax.Array
    ) -> tuple[Learners, Metrics, Estimates]:
        estimates = self._estimate(learners, experience)
        learners, metrics = self._epochs(learners, experience, estimates, key)
        return learners, metrics, estimates

    def _recomputing(
        self, learners: Learners, experience: Experience, key: jax.Array
    ) -> tuple[Learners, Metrics, Estimates]:
        first = self._estimate_now(learners, experience)

        def one_epoch(learners: Learners, epoch_key: jax.Array) -> tuple[Learners, Metrics]:
            fresh = self._estimate_now(learners, experience)
            # value clipping stays around the values from before the update
            fresh = fresh._replace(values=first.values)
            return self._epochs(learners, experience, fresh, epoch_key)

        keys = jax.random.split(key, self.config.num_epochs)
        learners, metrics = jax.lax.scan(one_epoch, dict(learners), keys)
        return learners, summarise(metrics), first


class SeparateUpdate(Algorithm):
    """Actor and critic each with their own optimiser and gradient clipping, as two programs."""

    def init(self, actor: Actor, critic: Critic) -> Learners:
        """Learners `actor` and `critic`."""
        config = self.config
        critic_rate = config.first_critic_rate
        return {
            "actor": make_learner(actor, config, config.learning_rate),
            "critic": make_learner(critic, config, critic_rate),
        }

    def parts(self, learners: Learners) -> tuple[Actor, Critic]:
        """Actor and critic as they stand."""
        return learners["actor"].params, learners["critic"].params

    def _compile(self, program: partial) -> None:
        self._update_actor = program(ppo.update_actor)
        self._update_critic = program(ppo.update_critic)

    def _epochs(
        self, learners: Learners, experience: Experience, estimates: Estimates, key: jax.Array
    ) -> tuple[Learners, Metrics]:
        actor_key, critic_key = jax.random.split(key)
        batch = (experience, estimates)
        actor, of_actor = self._update_actor(learners["actor"], *batch, actor_key)
        critic, of_critic = self._update_critic(learners["critic"], *batch, critic_key)
        # what both report is the actor's, but for the critic's gradient norm
        metrics = of_critic | of_actor
        metrics["optim/critic_grad_norm"] = of_critic["optim/grad_norm"]
        return {"actor": actor, "critic": critic}, metrics


class JointUpdate(Algorithm):
    """Actor and critic on one total loss, one optimiser, one gradient norm."""

    def init(self, actor: Actor, critic: Critic) -> Learners:
        """The learner `joint`."""
        both = join(actor, critic, shared_trunk=self.config.shared_trunk)
        return {"joint": make_learner(both, self.config, self.config.learning_rate)}

    def parts(self, learners: Learners) -> tuple[Actor, Critic]:
        """Actor and critic as they stand."""
        return learners["joint"].params.split()

    def _compile(self, program: partial) -> None:
        self._update = program(ppo.update_joint)

    def _epochs(
        self, learners: Learners, experience: Experience, estimates: Estimates, key: jax.Array
    ) -> tuple[Learners, Metrics]:
        joint, metrics = self._update(learners["joint"], experience, estimates, key)
        return {"joint": joint}, metrics


def make_algorithm(config: Config) -> Algorithm:
    """The update that the options ask for."""
    return (JointUpdate if config.is_joint else SeparateUpdate)(config)
