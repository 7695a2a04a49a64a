"""Critic losses. One convention throughout: the factor is 1/2, so dL/dV is the error itself."""

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
    require_same_shape,
    sanitize,
)

_SMOOTHING = 0.75  # standard deviation of a target in widths of a bin


def value_targets(advantages: ArrayLike, values: ArrayLike) -> jax.Array:
    """Return targets of the critic: the advantage put back on the value it was measured from.

        R_hat_t = A_t + V_old(s_t)

    With `gae` this is the TD(lambda) return, with `vtrace_advantages` the V-trace target.

    Source: OpenAI baselines, ppo2/runner.py (`mb_returns = mb_advs + mb_values`).

    Args:
        advantages: [T, N], before normalization. No gradient flows.
        values: [T, N], V_old(s_t), the values the advantages were computed with. No gradient.

    Returns:
        [T, N] float32, not normalized. Rows of weight 0 hold whatever `values` holds there: the
        losses below ignore them.

    Raises:
        ValueError: the shapes differ.
    """
    advantages, values = as_float(advantages), as_float(values)
    require_same_shape(advantages=advantages, values=values)
    return lax.stop_gradient(advantages + values)


def squared_value_loss(
    values: ArrayLike, returns: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
    """Squared error of the critic, with the factor 1/2.

        loss = 0.5 * mean((V(s) - R_hat)^2)

    Source: Schulman et al. 2017, arXiv 1707.06347, eq. 9 (L^VF; the factor is this library's).

    Args:
        values: [B] or [T, N], V_phi(s). Gradient flows.
        returns: same shape, R_hat (see `value_targets`). No gradient flows.
        weights: same shape, validity mask (0 = not experience), or None. No gradient flows.

    Returns:
        [] float32, to minimize; averaged over the weights, 0 when no row is valid. Not multiplied
        by the value coefficient.

    Raises:
        ValueError: two shapes differ.
    """
    weights, values, returns = sanitize(weights, values=values, returns=returns)
    return 0.5 * masked_mean(jnp.square(values - lax.stop_gradient(returns)), weights)


def histogram_values(logits: ArrayLike, *, limit: float) -> jax.Array:
    """Mean of a histogram over [-limit, limit], whose bins are equally wide.

        V = sum_i softmax(logits)_i * c_i,    c_i the middle of bin i

    Source: Farebrother et al. 2024, "Stop Regressing", arXiv 2403.03950, eq. 2.

    Args:
        logits: [..., K]. Gradient flows.
        limit: the histogram's ends, above 0.

    Returns:
        [...] float32.
    """
    logits = as_float(logits)
    width = 2.0 * limit / logits.shape[-1]
    middles = -limit + width * (jnp.arange(logits.shape[-1], dtype=jnp.float32) + 0.5)
    return jax.nn.softmax(logits) @ middles


def histogram_targets(returns: ArrayLike, *, limit: float, bins: int) -> jax.Array:
    """The histogram that a return stands for: a normal distribution around it, bin by bin.

        p_i = (Phi((b_{i+1} - R_hat) / s) - Phi((b_i - R_hat) / s)) / Z,    s = 0.75 bin widths

    b_i are the edges of the bins, Z makes the sum 1. What lies beyond the limit counts as the limit.

    Source: Imani & White 2018, arXiv 1806.04613 (HL-Gauss); s: Farebrother et al. 2024, arXiv 2403.03950.

    Args:
        returns: [...], R_hat. No gradient flows.
        limit: the histogram's ends, above 0.
        bins: how many.

    Returns:
        [..., bins] float32.
    """
    returns = lax.stop_gradient(jnp.clip(as_float(returns), -limit, limit))
    edges = jnp.linspace(-limit, limit, bins + 1, dtype=jnp.float32)
    scale = _SMOOTHING * (2.0 * limit / bins) * math.sqrt(2.0)
    below = lax.erf((edges - returns[..., None]) / scale)
    shares = jnp.maximum(jnp.diff(below), 0.0)  # rounding
    return shares / shares.sum(axis=-1, keepdims=True)


def hl_gauss_loss(
    logits: ArrayLike, returns: ArrayLike, *, limit: float, weights: ArrayLike | None = None
) -> jax.Array:
    """Cross-entropy of a critic that puts out a histogram, to that of `histogram_targets`.

        loss = -mean(sum_i p_i(R_hat) * log softmax(logits)_i)

    Source: Farebrother et al. 2024, "Stop Regressing", arXiv 2403.03950, eq. 3 (HL-Gauss).

    Args:
        logits: [B, K] or [T, N, K]. Gradient flows.
        returns: [B] or [T, N], R_hat (see `value_targets`). No gradient flows.
        limit: the histogram's ends, above 0, in units of the return.
        weights: as `returns`, validity mask (0 = not experience), or None. No gradient flows.

    Returns:
        [] float32 in nats, to minimize; averaged over the weights, 0 when no row is valid. At best the
        mean entropy of the targets, about 1.1.

    Raises:
        ValueError: two shapes differ.
    """
    logits = as_float(logits)
    require_same_shape(logits_rows=logits[..., 0], returns=as_float(returns))
    weights, returns = sanitize(weights, returns=returns)
    logits = jnp.where((weights > 0.0)[..., None], logits, 0.0)
    targets = histogram_targets(returns, limit=limit, bins=logits.shape[-1])
    return -masked_mean((targets * jax.nn.log_softmax(logits)).sum(axis=-1), weights)


def clipped_value_loss(
    values: ArrayLike,
    old_values: ArrayLike,
    returns: ArrayLike,
    *,
    value_clip_epsilon: ArrayLike,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """Squared error of the critic, pessimistic about values far from the old ones; factor 1/2.

        V_clip = V_old + clip(V - V_old, -eps_v, eps_v)
        loss   = 0.5 * mean(max((V - R_hat)^2, (V_clip - R_hat)^2))

    Source: OpenAI baselines, ppo2/model.py, its only home (the paper does not have it); Engstrom
    et al. 2020, arXiv 2005.12729, sec. 3, item 1.

    Args:
        values: [B] or [T, N], V_phi(s). Gradient flows, and is zero where V_clip decides and V
            has left the band.
        old_values: same shape, V of the parameters that collected the batch. No gradient flows.
        returns: same shape, R_hat (see `value_targets`). No gradient flows.
        value_clip_epsilon: eps_v, at least 0, in units of the return: it depends on the scale of
            the reward. inf gives `squared_value_loss` up to rounding. No gradient flows.
        weights: same shape, validity mask (0 = not experience), or None. No gradient flows.

    Returns:
        [] float32, to minimize; averaged over the weights, 0 when no row is valid. Not multiplied
        by the value coefficient.

    Raises:
        ValueError: two shapes differ, or `value_clip_epsilon` is negative.
    """
    require_between("value_clip_epsilon", value_clip_epsilon, 0.0, math.inf)
    weights, values, old_values, returns = sanitize(
        weights, values=values, old_values=old_values, returns=returns
    )
    old_values, returns = lax.stop_gradient(old_values), lax.stop_gradient(returns)
    epsilon = lax.stop_gradient(as_float(value_clip_epsilon))
    clipped = old_values + jnp.clip(values - old_values, -epsilon, epsilon)
    errors = jnp.maximum(jnp.square(values - returns), jnp.square(clipped - returns))
    return 0.5 * masked_mean(errors, weights)
