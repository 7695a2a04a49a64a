"""A batch as loss terms read it, and how minibatches are drawn from it."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from surefoot import functional as F
from surefoot.config import Config
from surefoot.functional.distributions import Distribution
from surefoot.networks import ActorCritic, Inputs
from surefoot.update.experience import Estimates, Experience


class Carries(NamedTuple):
    """What actor and critic carry into the first row of a sequence; `()` without memory."""

    actor: Any
    critic: Any


class Batch(NamedTuple):
    """Rows of experience, [B, ...], or sequences [T, N, ...] for networks with memory.

    `old_distribution` is None unless its KL is needed; `importance` is None unless an older policy
    collected the rows and the advantages do not hold its weight.
    """

    observations: Inputs
    first: jax.Array
    raw_actions: jax.Array
    old_log_probs: jax.Array
    advantages: jax.Array
    targets: jax.Array
    old_values: jax.Array
    weights: jax.Array
    importance: jax.Array | None
    old_distribution: Distribution | None
    carry: Carries


class Forward(NamedTuple):
    """What loss terms see: a learner's networks, and what they make of a batch.

    `distribution` and `value_outputs` are None where the learner owns no actor or critic. `kl_coef` is the
    learner's beta of the KL penalty.
    """

    networks: ActorCritic
    distribution: Distribution | None
    value_outputs: jax.Array | None
    kl_coef: jax.Array


def forward(networks: ActorCritic, batch: Batch, kl_coef: jax.Array) -> Forward:
    """Run a learner's networks on a batch, once for all terms."""
    observations, first, carry = batch.observations, batch.first, batch.carry
    distribution = outputs = None
    if networks.actor is not None:
        distribution = networks.policy().unroll(observations, carry.actor, first)
    if networks.critic is not None:
        outputs, _ = networks.values().outputs(observations, carry.critic, first)
    return Forward(networks, distribution, outputs, kl_coef)


def make_batch(
    networks: ActorCritic,
    experience: Experience,
    estimates: Estimates,
    carry: Any,
    config: Config,
    augment_by: F.PolicyReflection | None = None,
) -> Batch:
    """A batch in sequences [T, N, ...]; `networks` are those before the update, `carry` the critic's.

    With a reflection to `augment_by`, the mirror images are behind them, [T, 2 N, ...].

    Where an older policy collected it, `lag_correction` says what the ratio is taken against:
    `behaviour` that policy; `vtrace` the present one, the advantages hold the (truncated) weight;
    `decoupled` the present one, times the weight (Hilton et al. 2021, arXiv 2110.00641, section 3).
    """
    advantages = estimates.advantages
    old_log_probs, importance = experience.old_log_probs, None
    if experience.proximal_log_probs is not None and config.lag_correction != "behaviour":
        old_log_probs = experience.proximal_log_probs
        if config.lag_correction == "decoupled":
            importance = jnp.exp(old_log_probs - experience.old_log_probs)
    if config.advantage_normalization == "batch":
        advantages = F.normalize_advantages(
            advantages, weights=experience.weights, min_std=config.advantage_floor
        )
    batch = Batch(
        observations=experience.seen(),
        first=experience.first[:-1],
        raw_actions=experience.raw_actions,
        old_log_probs=old_log_probs,
        advantages=advantages,
        targets=estimates.targets,
        old_values=estimates.values,
        weights=experience.weights,
        importance=importance,
        old_distribution=None,
        carry=Carries(experience.carry, carry),
    )
    if augment_by is not None:
        batch = with_mirror_images(batch, augment_by)
    if config.surrogate == "kl_penalty" and networks.actor is not None:
        old = networks.policy().unroll(batch.observations, batch.carry.actor, batch.first)
        batch = batch._replace(old_distribution=old)
    return batch


def with_mirror_images(batch: Batch, symmetry: F.PolicyReflection) -> Batch:
    """The sequences [T, N, ...] and their mirror images, [T, 2 N, ...], which are as good.

    An image comes from the mirrored policy, which gave it the probability that the row had: against that its
    ratio is taken, which is not 1 at first unless the policy is symmetric.
    Source: Mittal et al. 2024, arXiv 2403.04359 (symmetry by augmentation).
    """
    image = batch._replace(
        observations=symmetry(batch.observations), raw_actions=symmetry.action(batch.raw_actions)
    )
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), batch, image)


class Minibatches(abc.ABC):
    """How a batch is cut into `count` random parts."""

    @abc.abstractmethod
    def flatten(self, batch: Any) -> Any:
        """The batch [T, N, ...] with the axes that the losses run over."""

    @abc.abstractmethod
    def draw(self, batch: Any, key: jax.Array) -> Any:
        """The flattened batch in random order, cut into [count, ...]."""


@dataclass(frozen=True)
class RowMinibatches(Minibatches):
    """Every step for itself, for networks without memory."""

    count: int

    def flatten(self, batch: Any) -> Any:
        """[T, N, ...] -> [T * N, ...]; what is carried into sequences has no part in it."""
        if isinstance(batch, Batch):
            batch = batch._replace(carry=Carries((), ()))
        return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), batch)

    def draw(self, batch: Any, key: jax.Array) -> Any:
        """[B, ...] -> [count, B / count, ...]."""
        size, count = jax.tree.leaves(batch)[0].shape[0], self.count
        order = F.random_permutation(key, size)
        return jax.tree.map(lambda x: x[order].reshape(count, size // count, *x.shape[1:]), batch)


@dataclass(frozen=True)
class SequenceMinibatches(Minibatches):
    """Whole environments' sequences, for networks with memory."""

    count: int

    def flatten(self, batch: Any) -> Any:
        """As it is, [T, N, ...]."""
        return batch

    def draw(self, batch: Batch, key: jax.Array) -> Batch:
        """[T, N, ...] -> [count, T, N / count, ...], and the carries with their environments."""
        size, count = batch.weights.shape[1], self.count
        order = F.random_permutation(key, size).reshape(count, size // count)
        rows = jax.tree.map(lambda x: jnp.moveaxis(x[:, order], 1, 0), batch._replace(carry=()))
        return rows._replace(carry=jax.tree.map(lambda x: x[order], batch.carry))
