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
