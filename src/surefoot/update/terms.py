"""Loss terms: what a learner minimizes is the sum of its terms."""

from __future__ import annotations

import abc
import functools
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from surefoot import functional as F
from surefoot.config import Config
from surefoot.networks import ValueHead
from surefoot.update.batch import Batch, Forward
from surefoot.update.measured import Measured, Metrics

_USUAL_CLIP = 0.2  # what would be clipped is worth knowing where nothing is


class Term(abc.ABC):
    """One summand of a loss."""

    @abc.abstractmethod
    def loss(self, seen: Forward, batch: Batch) -> tuple[jax.Array, Any]:
        """The scalar to minimize on a minibatch, and what `measure` needs of it."""

    @abc.abstractmethod
    def measure(self, computed: Any, batch: Batch) -> Metrics:
        """Metrics of a minibatch before the step on it, computed for all steps of an epoch at once."""


class PolicySeen(NamedTuple):
    """What the policy term computed on rows."""

    loss: jax.Array
    log_probs: jax.Array


@dataclass(frozen=True)
class PolicyTerm(Term):
    """The surrogate, minimized: -L.

    Attributes:
        surrogate: which one.
        clip_epsilon: of the clipped one.
        normalize: whether advantages are normalized within the minibatch.
        min_std: the least standard deviation that they are divided by then.
    """

    surrogate: str
    clip_epsilon: float
    normalize: bool
    min_std: float

    def loss(self, seen: Forward, batch: Batch) -> tuple[jax.Array, PolicySeen]:
        """Gradient flows into the actor alone."""
        weights, distribution = batch.weights, seen.distribution
        assert distribution is not None
        log_probs = distribution.log_prob(batch.raw_actions)
        advantages = batch.advantages
        if self.normalize:
            advantages = F.normalize_advantages(advantages, weights=weights, min_std=self.min_std)
        if batch.importance is not None:
            advantages = advantages * batch.importance
        ratios = (log_probs, batch.old_log_probs)
        if self.surrogate == "clipped":
            loss = F.clipped_loss(
                *ratios, advantages, clip_epsilon=self.clip_epsilon, weights=weights
            )
        elif self.surrogate == "spo":
            loss = F.spo_loss(*ratios, advantages, clip_epsilon=self.clip_epsilon, weights=weights)
        elif self.surrogate == "ratio":
            loss = F.ratio_loss(*ratios, advantages, weights=weights)
        elif self.surrogate == "policy_gradient":
            loss = F.policy_gradient_loss(log_probs, advantages, weights=weights)
        else:
            assert batch.old_distribution is not None
            kl = batch.old_distribution.kl(distribution)
            loss = F.kl_penalized_loss(
                *ratios, advantages, beta=seen.kl_coef, kl=kl, weights=weights
            )
        return loss, PolicySeen(loss, log_probs)

    def measure(self, computed: PolicySeen, batch: Batch) -> Metrics:
        """Loss, KL and ratios."""
        weights = batch.weights
        watched = self.clip_epsilon if math.isfinite(self.clip_epsilon) else _USUAL_CLIP
        ratios = (computed.log_probs, batch.old_log_probs)
        clipped = F.clip_fraction(*ratios, clip_epsilon=watched, weights=weights)
        return {
            "loss/policy": Measured(computed.loss),
            "policy/approx_kl": Measured(self.kl(computed, batch)),
            "policy/clip_fraction": Measured(clipped),
            "policy/ratio_max": Measured(F.max_ratio(*ratios, weights=weights), "max"),
        }

    @staticmethod
    def kl(computed: PolicySeen, batch: Batch) -> jax.Array:
        """KL from the old policy on a minibatch, which early stopping and adaptive rates look at."""
        return F.approx_kl(computed.log_probs, batch.old_log_probs, weights=batch.weights)


@dataclass(frozen=True)
class EntropyTerm(Term):
    """The entropy bonus, minimized: -c_e * H."""

    coef: float

    def loss(self, seen: Forward, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Without a bonus the entropy is a number to report, not to differentiate."""
        assert seen.distribution is not None
        entropies = seen.distribution.entropy()
        if not self.coef:
            return jnp.float32(0), entropies
        return -self.coef * F.masked_mean(entropies, batch.weights), entropies

    def measure(self, computed: jax.Array, batch: Batch) -> Metrics:
        """The mean entropy."""
        return {"policy/entropy": Measured(F.masked_mean(computed, batch.weights))}


@dataclass(frozen=True)
class ValueTerm(Term):
    """The (clipped) squared error of the critic, with the factor 1/2 of `functional`, or the cross-entropy of
    its histogram, times `coef`; of a critic with a scale, the error of its outputs.
    """

    clip_epsilon: float | None
    coef: float = 1.0
    head: ValueHead = field(default_factory=ValueHead)

    def loss(self, seen: Forward, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Gradient flows into the critic alone."""
        outputs, weights = seen.value_outputs, batch.weights
        assert outputs is not None
        assert seen.networks.critic is not None
        scale, old, targets = seen.networks.critic.scale, batch.old_values, batch.targets
        epsilon = self.clip_epsilon
        if scale is not None:
            old, targets = scale.outputs(old), scale.outputs(targets)
            epsilon = None if epsilon is None else epsilon / scale.std
        if self.head.bins > 1:
            loss = F.hl_gauss_loss(outputs, targets, limit=self.head.limit, weights=weights)
        elif epsilon is None:
            loss = F.squared_value_loss(self.head(outputs), targets, weights=weights)
        else:
            loss = F.clipped_value_loss(
                self.head(outputs),
                old,
                targets,
                value_clip_epsilon=epsilon,
                weights=weights,
            )
        return self.coef * loss, loss

    def measure(self, computed: jax.Array, batch: Batch) -> Metrics:
        """The loss without its weight."""
        return {"loss/value": Measured(computed)}


def policy_terms(config: Config) -> tuple[Term, ...]:
    """What an actor minimizes."""
    normalize = config.advantage_normalization == "minibatch"
    surrogate = "ratio" if config.algorithm == "trpo" else config.surrogate
    return (
        PolicyTerm(surrogate, config.clip_epsilon, normalize, config.advantage_floor),
        EntropyTerm(config.entropy_coef),
    )


def total_loss(
    terms: tuple[Term, ...], seen: Forward, batch: Batch
) -> tuple[jax.Array, tuple[Any, ...]]:
    """The sum of the terms, and what each computed."""
    losses, computed = zip(*(term.loss(seen, batch) for term in terms), strict=True)
    return functools.reduce(jnp.add, losses), computed


def measure_all(terms: tuple[Term, ...], computed: tuple[Any, ...], batch: Batch) -> Metrics:
    """The metrics of all terms; no name is in two of them."""
    metrics: Metrics = {}
    for term, own in zip(terms, computed, strict=True):
        metrics |= term.measure(own, batch)
    return metrics
