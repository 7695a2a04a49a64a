"""PPO's losses, and the update of actor and critic, apart or together."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from surefoot import functional as F
from surefoot.config import Config
from surefoot.functional.distributions import Distribution
from surefoot.networks import Actor, ActorCritic, Critic
from surefoot.update.epochs import KLControl, Learner, run_epochs
from surefoot.update.experience import Estimates, Experience

Metrics = dict[str, jax.Array]
_USUAL_CLIP = 0.2  # what would be clipped is worth knowing where nothing is

Update = Callable[..., tuple[Learner, Metrics]]


class ActorBatch(NamedTuple):
    """Rows [B, ...] the policy loss reads.

    `old_distribution` is None unless its KL is needed; `importance` is None unless an older policy
    collected the rows and the advantages do not hold its weight.
    """

    features: jax.Array
    raw_actions: jax.Array
    old_log_probs: jax.Array
    advantages: jax.Array
    weights: jax.Array
    importance: jax.Array | None
    old_distribution: Distribution | None


class CriticBatch(NamedTuple):
    """Rows [B, ...] the value loss reads."""

    features: jax.Array
    targets: jax.Array
    old_values: jax.Array
    weights: jax.Array


class PolicySeen(NamedTuple):
    """What the policy loss computed on rows [B] and is worth reporting."""

    loss: jax.Array
    log_probs: jax.Array
    entropies: jax.Array


def policy_loss(
    actor: Actor, batch: ActorBatch, kl_coef: jax.Array, config: Config
) -> tuple[jax.Array, PolicySeen]:
    """The surrogate to minimise, minus the entropy bonus: -L - c_e * H.

    Args:
        actor: the policy being optimised; gradients flow into it alone.
        batch: rows [B, ...].
        kl_coef: beta of the KL penalty.
        config: the options.

    Returns:
        The scalar loss, and what `policy_metrics` reads.
    """
    weights = batch.weights
    distribution = actor(batch.features)
    log_probs = distribution.log_prob(batch.raw_actions)
    advantages = batch.advantages
    if config.advantage_normalization == "minibatch":
        advantages = F.normalize_advantages(
            advantages, weights=weights, min_std=config.advantage_floor
        )
    if batch.importance is not None:
        advantages = advantages * batch.importance
    ratios = (log_probs, batch.old_log_probs)
    if config.surrogate == "clipped":
        loss = F.clipped_loss(
            *ratios, advantages, clip_epsilon=config.clip_epsilon, weights=weights
        )
    elif config.surrogate == "ratio":
        loss = F.ratio_loss(*ratios, advantages, weights=weights)
    elif config.surrogate == "policy_gradient":
        loss = F.policy_gradient_loss(log_probs, advantages, weights=weights)
    else:
        assert batch.old_distribution is not None
        kl = batch.old_distribution.kl(distribution)
        loss = F.kl_penalized_loss(*ratios, advantages, beta=kl_coef, kl=kl, weights=weights)
    seen = PolicySeen(loss, log_probs, distribution.entropy())
    # without a bonus the entropy is a number to report, not to differentiate
    if config.entropy_coef:
        loss = loss - config.entropy_coef * F.masked_mean(seen.entropies, weights)
    return loss, seen


def policy_metrics(seen: PolicySeen, batch: ActorBatch, config: Config) -> Metrics:
    """The metrics of the policy on a minibatch, before the step on it."""
    weights = batch.weights
    watched = config.clip_epsilon if math.isfinite(config.clip_epsilon) else _USUAL_CLIP
    ratios = (seen.log_probs, batch.old_log_probs)
    return {
        "loss/policy": seen.loss,
        "policy/entropy": F.masked_mean(seen.entropies, weights),
        "policy/approx_kl": F.approx_kl(*ratios, weights=weights),
        "policy/clip_fraction": F.clip_fraction(*ratios, clip_epsilon=watched, weights=weights),
        "policy/ratio_max": F.max_ratio(*ratios, weights=weights),
    }


def value_loss(critic: Critic, batch: CriticBatch, config: Config) -> tuple[jax.Array, Metrics]:
    """The (clipped) squared error of the critic, with the factor 1/2 of `functional`."""
    values = critic(batch.features)
    if config.value_clip_epsilon is None:
        loss = F.squared_value_loss(values, batch.targets, weights=batch.weights)
    else:
        loss = F.clipped_value_loss(
            values,
            batch.old_values,
            batch.targets,
            value_clip_epsilon=config.value_clip_epsilon,
            weights=batch.weights,
        )
    return loss, {"loss/value": loss}


def update_actor(
    learner: Learner,
    experience: Experience,
    estimates: Estimates,
    key: jax.Array,
    *,
    config: Config,
    num_epochs: int,
) -> tuple[Learner, Metrics]:
    """`num_epochs` passes of the actor over one batch."""
    batch = actor_batch(learner.params, experience, estimates, config)
    learner, metrics = run_epochs(
        lambda actor, rows, beta: policy_loss(actor, rows, beta, config),
        learner,
        batch,
        key,
        config,
        num_epochs=num_epochs,
        control=kl_control(config),
        measure=partial(policy_metrics, config=config),
    )
    return _adapt_kl_coef(learner, learner.params, batch, config), metrics


def update_critic(
    learner: Learner,
    experience: Experience,
    estimates: Estimates,
    key: jax.Array,
    *,
    config: Config,
    num_epochs: int,
) -> tuple[Learner, Metrics]:
    """`num_epochs` passes of the critic over one batch."""
    learner, metrics = run_epochs(
        lambda critic, rows, _: value_loss(critic, rows, config),
        learner,
        critic_batch(experience, estimates),
        key,
        config,
        num_epochs=num_epochs,
        control=KLControl(),
    )
    metrics["optim/critic_grad_norm"] = metrics.pop("optim/grad_norm")
    del metrics["optim/step_fraction"]  # the KL stops the actor alone
    return learner, metrics


def update_joint(
    learner: Learner,
    experience: Experience,
    estimates: Estimates,
    key: jax.Array,
    *,
    config: Config,
    num_epochs: int,
) -> tuple[Learner, Metrics]:
    """Passes of actor and critic over one batch on the total loss -L + c_v * L_V - c_e * H."""

    def total_loss(
        params: ActorCritic, rows: tuple[ActorBatch, CriticBatch], beta: jax.Array
    ) -> tuple[jax.Array, tuple[PolicySeen, Metrics]]:
        actor, critic = params.split()
        of_policy, seen = policy_loss(actor, rows[0], beta, config)
        of_value, value_metrics = value_loss(critic, rows[1], config)
        return of_policy + config.value_coef * of_value, (seen, value_metrics)

    def measure(seen: tuple[PolicySeen, Metrics], rows: tuple[ActorBatch, CriticBatch]) -> Metrics:
        return policy_metrics(seen[0], rows[0], config) | seen[1]

    rows = actor_batch(learner.params.split()[0], experience, estimates, config)
    learner, metrics = run_epochs(
        total_loss,
        learner,
        (rows, critic_batch(experience, estimates)),
        key,
        config,
        num_epochs=num_epochs,
        control=kl_control(config),
        measure=measure,
    )
    return _adapt_kl_coef(learner, learner.params.split()[0], rows, config), metrics


def actor_batch(
    actor: Actor, experience: Experience, estimates: Estimates, config: Config
) -> ActorBatch:
    """The policy's rows, time and environments flattened; `actor` is the one before the update.

    Where an older policy collected them, `lag_correction` says what the ratio is taken against:
    `behaviour` that policy; `vtrace` the present one, the advantages hold the (truncated) weight;
    `decoupled` the present one, times the weight (Hilton et al. 2021, arXiv 2110.00641, section 3).
    """
    advantages = estimates.advantages
    old_log_probs, importance = experience.old_log_probs, None
    if experience.proximal_log_probs is not None and config.lag_correction != "behaviour":
        old_log_probs = experience.proximal_log_probs
        if config.lag_correction == "decoupled":
            importance = flatten(jnp.exp(old_log_probs - experience.old_log_probs))
    if config.advantage_normalization == "batch":
        advantages = F.normalize_advantages(
            advantages, weights=experience.weights, min_std=config.advantage_floor
        )
    features = flatten(experience.actor_features)
    return ActorBatch(
        features=features,
        raw_actions=flatten(experience.raw_actions),
        old_log_probs=flatten(old_log_probs),
        advantages=flatten(advantages),
        weights=flatten(experience.weights),
        importance=importance,
        old_distribution=actor(features) if config.surrogate == "kl_penalty" else None,
    )


def critic_batch(experience: Experience, estimates: Estimates) -> CriticBatch:
    """The critic's rows, time and environments flattened."""
    return CriticBatch(
        features=flatten(experience.critic_features[:-1]),
        targets=flatten(estimates.targets),
        old_values=flatten(estimates.values),
        weights=flatten(experience.weights),
    )


def flatten(x: jax.Array) -> jax.Array:
    """[T, N, ...] -> [T * N, ...]."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def kl_control(config: Config) -> KLControl:
    """What the options let the KL do; the stop is at 1.5 times the target, as in Spinning Up."""
    return KLControl(
        stop_above=None if config.target_kl is None else 1.5 * config.target_kl,
        adapt_towards=(
            config.desired_kl if config.learning_rate_schedule == "kl_adaptive" else None
        ),
    )


def _adapt_kl_coef(learner: Learner, actor: Actor, batch: ActorBatch, config: Config) -> Learner:
    """Beta after the update: halved or doubled around the KL wanted (only for the penalty)."""
    if batch.old_distribution is None:
        return learner
    kl = F.masked_mean(batch.old_distribution.kl(actor(batch.features)), batch.weights)
    beta = F.adaptive_kl_coefficient(learner.kl_coef, kl, target_kl=config.desired_kl)
    return learner._replace(kl_coef=beta)
