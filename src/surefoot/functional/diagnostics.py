"""What to watch while a policy is being updated. Nothing here carries a gradient.

`r = pi_theta(a, s) / pi_old(a, s) = exp(log_probs - old_log_probs)` for actions drawn by pi_old.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from surefoot.functional.masking import (
    as_float,
    masked_deviations,
    masked_mean,
    require_between,
    sanitize,
)

KL_ESTIMATORS = ("k1", "k3")


def _log_ratio(
    log_probs: ArrayLike, old_log_probs: ArrayLike, weights: ArrayLike | None
) -> tuple[jax.Array, jax.Array]:
    """Return (weights, log r); log r is 0 on rows of weight 0."""
    weights, log_probs, old_log_probs = sanitize(
        weights, log_probs=log_probs, old_log_probs=old_log_probs
    )
    return weights, lax.stop_gradient(log_probs - old_log_probs)


def approx_kl(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    *,
    estimator: str = "k3",
    weights: ArrayLike | None = None,
) -> jax.Array:
    """Sample estimate of KL(pi_old, pi_theta), in nats.

        k1 = mean(-log r)              unbiased, may come out negative
        k3 = mean((r - 1) - log r)     unbiased, never negative, smaller variance near r = 1

    Source: Schulman 2020, "Approximating KL divergence", http://joschu.net/blog/kl-approx.html.

    Args:
        log_probs: [B] or [T, N], log pi_theta of the actions taken. No gradient flows.
        old_log_probs: same shape, log pi_old of the same actions. No gradient flows.
        estimator: "k1" or "k3".
        weights: same shape, validity mask (0 = not experience), or None.

    Returns:
        [] float32; 0 when no row is valid.

    Raises:
        ValueError: two shapes differ, or the estimator is unknown.
    """
    weights, log_ratio = _log_ratio(log_probs, old_log_probs, weights)
    if estimator == "k1":
        return masked_mean(-log_ratio, weights)
    if estimator == "k3":
        return masked_mean(jnp.expm1(log_ratio) - log_ratio, weights)
    raise ValueError(f"unknown KL estimator {estimator!r}; known: {', '.join(KL_ESTIMATORS)}")


def clip_fraction(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    *,
    clip_epsilon: ArrayLike = 0.2,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """Share of the samples whose ratio has left the clipping interval, on either side.

        mean(|r - 1| > eps)

    The sign of the advantage is not looked at: about half of these samples still have a gradient.

    Source: OpenAI baselines, ppo2/model.py (`clipfrac`), its only home.

    Args:
        log_probs: [B] or [T, N], log pi_theta of the actions taken. No gradient flows.
        old_log_probs: same shape, log pi_old of the same actions. No gradient flows.
        clip_epsilon: eps, at least 0; inf gives 0.
        weights: same shape, validity mask (0 = not experience), or None.

    Returns:
        [] float32 in [0, 1]; 0 when no row is valid.

    Raises:
        ValueError: two shapes differ, or `clip_epsilon` is negative.
    """
    require_between("clip_epsilon", clip_epsilon, 0.0, math.inf)
    weights, log_ratio = _log_ratio(log_probs, old_log_probs, weights)
    outside = jnp.abs(jnp.expm1(log_ratio)) > as_float(clip_epsilon)
    return masked_mean(outside, weights)


def effective_sample_size(
    log_probs: ArrayLike, old_log_probs: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
    """Effective sample size of the importance weights, in samples (not as a fraction).

        ESS = (sum_i w_i * r_i)^2 / sum_i w_i * r_i^2

    Source: Kong 1992, "A note on importance sampling using standardized weights".

    Args:
        log_probs: [B] or [T, N], log pi_theta of the actions taken. No gradient flows.
        old_log_probs: same shape, log pi_old of the same actions. No gradient flows.
        weights: same shape, validity mask (0 = not experience), or None.

    Returns:
        [] float32, between 1 and the number of valid rows for weights of 0 and 1; 0 when no row
        is valid. Exact for ratios that overflow: only their differences matter.

    Raises:
        ValueError: two shapes differ.
    """
    weights, log_ratio = _log_ratio(log_probs, old_log_probs, weights)
    log_ratio = jnp.where(weights > 0.0, log_ratio, -jnp.inf)
    largest = jnp.max(log_ratio)
    relative = jnp.exp(log_ratio - jnp.where(largest > -jnp.inf, largest, 0.0))
    first, second = jnp.sum(weights * relative), jnp.sum(weights * jnp.square(relative))
    return jnp.square(first) / jnp.where(second > 0.0, second, 1.0)


def max_ratio(
    log_probs: ArrayLike, old_log_probs: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
    """Return the largest importance ratio among the valid samples.

        max_i r_i

    Source: Engstrom et al. 2020, arXiv 2005.12729, sec. 4: what clipping is meant to bound, and
    does not.

    Args:
        log_probs: [B] or [T, N], log pi_theta of the actions taken. No gradient flows.
        old_log_probs: same shape, log pi_old of the same actions. No gradient flows.
        weights: same shape, validity mask (0 = not experience), or None.

    Returns:
        [] float32; 0 when no row is valid, inf where log r > 88.

    Raises:
        ValueError: two shapes differ.
    """
    weights, log_ratio = _log_ratio(log_probs, old_log_probs, weights)
    return jnp.exp(jnp.max(jnp.where(weights > 0.0, log_ratio, -jnp.inf)))


def explained_variance(
    values: ArrayLike, returns: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
    """Share of the variance of the returns that the critic explains.

        1 - Var(returns - values) / Var(returns)

    1 is perfect, 0 no better than a constant, below 0 worse than a constant. A constant offset of
    the critic does not show. Where Var(returns) is 0 the quotient is undefined and this function
    returns 0.

    Source: OpenAI baselines, common/math_util.py (`explained_variance`), which returns NaN there.

    Args:
        values: [B] or [T, N], V(s). No gradient flows.
        returns: same shape, the returns the critic is judged by. No gradient flows.
        weights: same shape, validity mask (0 = not experience), or None.

    Returns:
        [] float32, at most 1; 0 when no row is valid.

    Raises:
        ValueError: two shapes differ.
    """
    weights, values, returns = sanitize(weights, values=values, returns=returns)
    values, returns = lax.stop_gradient(values), lax.stop_gradient(returns)
    unexplained = masked_mean(jnp.square(masked_deviations(returns - values, weights)), weights)
    total = masked_mean(jnp.square(masked_deviations(returns, weights)), weights)
    return jnp.where(total > 0.0, 1.0 - unexplained / jnp.where(total > 0.0, total, 1.0), 0.0)
