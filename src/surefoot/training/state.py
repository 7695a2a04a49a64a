"""All that training carries from one iteration to the next."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from surefoot.agent import Normalizer
from surefoot.rollout import CollectorState
from surefoot.update import Learners, RewardScaler, resolve


class TrainState(NamedTuple):
    """A run at the start of an iteration; a checkpoint holds exactly this.

    Attributes:
        learners: parameters, optimizer state, learning rate, by name. While training overlaps
            collection they may still be futures; hooks see their results.
        stale_learners: the learners that held the actor before, oldest first, as many as the collecting
            policy is behind; empty unless `overlap` is full.
        last_learner: the learner that held the actor before the last update; None unless
            `measure_held_out_kl` asks for it.
        critic_carry: what the critic remembers, may be a future; `()` without memory.
        normalizer: moments of the observations.
        reward_scaler: moments of the discounted return and the running returns.
        collector: simulator state, last observation, the policy's memory, running episodes; None where
            the environments begin anew.
        key: the random stream of actions and shuffling; iterations fold their number into it.
        step: environment steps of experience so far.
        iteration: iterations so far.
    """

    learners: Learners
    stale_learners: tuple[Any, ...]
    last_learner: Any
    critic_carry: Any
    normalizer: Normalizer
    reward_scaler: RewardScaler
    collector: CollectorState | None
    key: jax.Array
    step: int
    iteration: int

    @property
    def needs_reset(self) -> bool:
        """Whether the environments begin anew here."""
        return self.collector is None

    def advance(self, steps: Any) -> TrainState:
        """The state with one more iteration of `steps` steps of experience counted."""
        return self._replace(step=self.step + steps, iteration=self.iteration + 1)

    def resolved(self) -> TrainState:
        """The state without futures; waits for them."""
        return self._replace(
            learners=resolve(self.learners),
            stale_learners=resolve(self.stale_learners),
            last_learner=resolve(self.last_learner),
            critic_carry=resolve(self.critic_carry),
        )


class Streams(NamedTuple):
    """Independent random streams of one run, spawned from its seed."""

    environments: np.random.SeedSequence
    evaluation: np.random.SeedSequence
    networks: jax.Array
    reset: jax.Array
    training: jax.Array


def make_streams(seed: int, step: int = 0) -> Streams:
    """Spawn (never add to) the seed: neighbouring seeds share no stream.

    Args:
        seed: of the run.
        step: where its environments begin anew; they have streams of their own there.
    """
    environments, evaluation, networks, reset, training = np.random.SeedSequence(seed).spawn(5)
    if step:
        later = np.random.SeedSequence(seed, spawn_key=(5, step))
        environments, reset = later.spawn(2)
    return Streams(environments, evaluation, *map(to_key, (networks, reset, training)))


def evaluation_stream(seed: int, step: int) -> np.random.SeedSequence:
    """The random stream of a run's evaluation at a step, apart from those of its training, of its other
    evaluations, and of `surefoot eval`.
    """
    return np.random.SeedSequence(seed, spawn_key=(6, step))


def to_key(sequence: np.random.SeedSequence) -> jax.Array:
    """A JAX key with 64 bits of the sequence's entropy."""
    bits = jnp.asarray(sequence.generate_state(2, np.uint32))
    return jax.random.wrap_key_data(bits, impl="threefry2x32")
