"""Surrogate objectives: what the actor maximizes, returned negated as losses to minimize.

`r = pi_theta(a, s) / pi_old(a, s) = exp(log_probs - old_log_probs)`, where `pi_old` is the policy
that collected the sample. In every function the gradient flows through `log_probs` (and through a
`kl` that is passed in) and through nothing else.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from surefoot.functional.masking import (
    as_float,
    masked_mean,
    require_between,
    require_positive,
    sanitize,
)


def _log_ratio_and_advantages(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    weights: ArrayLike | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return (weights, log r, advantages), with gradient through `log_probs` alone."""
    weights, log_probs, old_log_probs, advantages = sanitize(
        weights, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages
    )
    return weights, log_probs - lax.stop_gradient(old_log_probs), lax.stop_gradient(advantages)


def policy_gradient_loss(
    log_probs: ArrayLike, advantages: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
    """Policy-gradient loss: the score-function estimator, without an importance ratio.

        loss = -mean(log pi_theta(a, s) * A)

    Source: Williams 1992 (REINFORCE); Schulman et al. 2017, arXiv 1707.06347, eq. 2.

    Args:
        log_probs: [B] or [T, N], log pi_theta of the actions taken. Gradient flows.
        advantages: same shape. No gradient flows. Not normalized here.
        weights: same shape, validity mask (0 = not experience), or None. No gradient flows.

    Returns:
        [] float32, to minimize; averaged over the weights, 0 when no row is valid.

    Raises:
        ValueError: two shapes differ.
    """
    weights, log_probs, advantages = sanitize(weights, log_probs=log_probs, advantages=advantages)
    return -masked_mean(log_probs * lax.stop_gradient(advantages), weights)


def ratio_loss(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    *,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """Ratio loss: the importance-sampled objective of TRPO, without clipping.

        loss = -mean(r * A),    r = exp(log_probs - old_log_probs)

    Source: Schulman et al. 2015, arXiv 1502.05477, eq. 14; 2017, arXiv 1707.06347, eq. 6 (L^CPI).

    Args:
        log_probs: [B] or [T, N], log pi_theta of the actions taken. Gradient flows.
        old_log_probs: same shape, log pi_old of the same actions. No gradient flows.
        advantages: same shape. No gradient flows. Not normalized here.
        weights: same shape, validity mask (0 = not experience), or None. No gradient flows.

    Returns:
        [] float32, to minimize; averaged over the weights, 0 when no row is valid. The ratio is
        not bounded: it overflows to inf where log r > 88.

    Raises:
        ValueError: two shapes differ.
    """
    weights, log_ratio, advantages = _log_ratio_and_advantages(
        log_probs, old_log_probs, advantages, weights
    )
    return -masked_mean(jnp.exp(log_ratio) * advantages, weights)


def clipped_loss(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    *,
    clip_epsilon: ArrayLike = 0.2,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """Clipped loss of PPO: a pessimistic bound on the ratio objective.

        loss = -mean(min(r * A, clip(r, 1 - eps, 1 + eps) * A))

    The gradient of a sample is exactly zero where the step would lead further away from the old
    policy (A > 0 and r > 1 + eps, or A < 0 and r < 1 - eps) and survives everywhere else.

    Source: Schulman et al. 2017, arXiv 1707.06347, eq. 7; default: best of its table 1.

    Args:
        log_probs: [B] or [T, N], log pi_theta of the actions taken. Gradient flows.
        old_log_probs: same shape, log pi_old of the same actions. No gradient flows.
        advantages: same shape. No gradient flows. Not normalized here.
        clip_epsilon: eps, at least 0; inf gives `ratio_loss`. No gradient flows.
        weights: same shape, validity mask (0 = not experience), or None. No gradient flows.

    Returns:
        [] float32, to minimize; averaged over the weights, 0 when no row is valid.

    Raises:
        ValueError: two shapes differ, or `clip_epsilon` is negative.
    """
    require_between("clip_epsilon", clip_epsilon, 0.0, math.inf)
    weights, log_ratio, advantages = _log_ratio_and_advantages(
        log_probs, old_log_probs, advantages, weights
    )
    epsilon = lax.stop_gradient(as_float(clip_epsilon))
    highest = jnp.log1p(epsilon)
    lowest = jnp.log(jnp.maximum(1.0 - epsilon, 0.0))
    # The minimum bounds r from above where A >= 0 and from below where A < 0. Bounding log r
    # rather than r keeps a clipped sample's gradient 0 where exp overflows (0 * inf is NaN).
    bounded = jnp.where(
        advantages >= 0.0, jnp.minimum(log_ratio, highest), jnp.maximum(log_ratio, lowest)
    )
    return -masked_mean(jnp.exp(bounded) * advantages, weights)


def spo_loss(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    *,
    clip_epsilon: ArrayLike = 0.2,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """Loss of SPO: each sample pulls its ratio to the edge of the trust region, and back from beyond it.

        loss = -mean(r * A - |A| / (2 eps) * (r - 1)^2)

    A sample is best off at r = 1 + eps sign(A), where its gradient is zero; in contrast to `clipped_loss`
    what lies beyond comes back.

    Source: Xie et al. 2025, "Simple Policy Optimization", arXiv 2401.16025, eq. 12; default: theirs.

    Args:
        log_probs: [B] or [T, N], log pi_theta of the actions taken. Gradient flows.
        old_log_probs: same shape, log pi_old of the same actions. No gradient flows.
        advantages: same shape. No gradient flows. Not normalized here.
        clip_epsilon: eps, above 0; inf gives `ratio_loss`. No gradient flows.
        weights: same shape, validity mask (0 = not experience), or None. No gradient flows.

    Returns:
        [] float32, to minimize; averaged over the weights, 0 when no row is valid. The ratio is
        not bounded: its square overflows to inf where log r > 44.

    Raises:
        ValueError: two shapes differ, or `clip_epsilon` is not above 0.
    """
    require_positive("clip_epsilon", clip_epsilon)
    weights, log_ratio, advantages = _log_ratio_and_advantages(
        log_probs, old_log_probs, advantages, weights
    )
    epsilon = lax.stop_gradient(as_float(clip_epsilon))
    leaves = jnp.square(jnp.expm1(log_ratio))
    penalty = jnp.abs(advantages) / (2.0 * epsilon) * leaves
    return -masked_mean(jnp.exp(log_ratio) * advantages - penalty, weights)


def kl_penalized_loss(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    *,
    beta: ArrayLike,
    kl: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """KL-penalized loss: PPO's second variant, the ratio loss with a soft trust region.

        loss = -(mean(r * A) - beta * mean(KL(pi_old, pi_theta)))

    Source: Schulman et al. 2017, arXiv 1707.06347, eq. 8. The estimate of the KL is k3 of
    Schulman 2020, "Approximating KL divergence": (r - 1) - log r, never negative, and unbiased
    for actions drawn from pi_old.

    Args:
        log_probs: [B] or [T, N], log pi_theta of the actions taken. Gradient flows.
        old_log_probs: same shape, log pi_old of the same actions. No gradient flows.
        advantages: same shape. No gradient flows. Not normalized here.
        beta: the penalty coefficient, at least 0 (see `adaptive_kl_coefficient`). No gradient.
        kl: same shape, the exact KL(pi_old, pi_theta) at each sample's state in nats; gradient
            flows through it. None estimates it from the ratio.
        weights: same shape, validity mask (0 = not experience), or None. No gradient flows.

    Returns:
        [] float32, to minimize; averaged over the weights, 0 when no row is valid.

    Raises:
        ValueError: two shapes differ, or `beta` is negative.
    """
    require_between("beta", beta, 0.0, math.inf)
    weights, log_ratio, advantages = _log_ratio_and_advantages(
        log_probs, old_log_probs, advantages, weights
    )
    if kl is None:
        divergence = jnp.expm1(log_ratio) - log_ratio
    else:
        _, _, divergence = sanitize(weights, log_probs=log_ratio, kl=kl)
    penalty = lax.stop_gradient(as_float(beta)) * masked_mean(divergence, weights)
    return penalty - masked_mean(jnp.exp(log_ratio) * advantages, weights)
