"""Advantage estimators: what multiplies the log-probability.

All take [T, N] arrays of a rollout and return [T, N], not normalized and without gradient. Rows:

- `next_values[t]` is V of the true next observation of step t; for an episode's last step, of its
  true last observation, not of the first observation of the next episode.
- `terminated` stops the bootstrap. `terminated | truncated`, the last row of the rollout, and a
  next row of weight 0 stop the recursion. With both flags set the step counts as terminated.
- A row of weight 0 is not experience (the reset row that follows an episode's end): whatever it
  holds, NaN included, reaches no other row, and its own result is 0.

Source of the distinction: Pardo et al. 2018, "Time limits in RL", arXiv 1712.00378.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from surefoot.functional.masking import (
    as_float,
    masked_deviations,
    masked_mean,
    require_between,
    require_positive,
    require_same_shape,
    sanitize,
)


class _Steps(NamedTuple):
    """A checked rollout: [T, N] each, 0 on rows of weight 0, and `gamma` as a float32 scalar."""

    rewards: jax.Array
    values: jax.Array
    bootstraps: jax.Array
    """V of the true next observation; 0 where the episode terminated."""
    continues: jax.Array
    """bool: whether the next row is experience of the same episode."""
    gamma: jax.Array


def _as_steps(
    rewards: ArrayLike,
    values: ArrayLike,
    next_values: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    gamma: ArrayLike,
    weights: ArrayLike | None,
) -> _Steps:
    """Check and sanitize the arguments that every estimator takes."""
    require_between("gamma", gamma, 0.0, 1.0)
    weights, rewards, values, next_values = sanitize(
        weights, rewards=rewards, values=values, next_values=next_values
    )
    terminated, truncated = jnp.asarray(terminated, dtype=bool), jnp.asarray(truncated, dtype=bool)
    require_same_shape(rewards=rewards, terminated=terminated, truncated=truncated)
    if rewards.ndim != 2:
        raise ValueError(f"rewards must be [T, N], got shape {rewards.shape}")
    valid = weights > 0.0
    next_valid = jnp.concatenate([valid[1:], jnp.zeros_like(valid[:1])])
    return _Steps(
        rewards=lax.stop_gradient(rewards),
        values=lax.stop_gradient(values),
        bootstraps=lax.stop_gradient(jnp.where(terminated, 0.0, next_values)),
        continues=valid & next_valid & ~(terminated | truncated),
        gamma=lax.stop_gradient(as_float(gamma)),
    )


def _accumulate(
    later: jax.Array, row: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """One step of `_discounted_backward_sum`; a function of the module, so that scan caches it."""
    term, discount, continues = row
    # Selected, not multiplied by 0: a NaN of the next episode must not leak into this one.
    total = term + jnp.where(continues, discount * later, 0.0)
    return total, total


def _discounted_backward_sum(
    terms: jax.Array, discounts: jax.Array, continues: jax.Array
) -> jax.Array:
    """Return y_t = terms_t + discounts_t * y_{t+1} where `continues`, y_t = terms_t elsewhere."""
    rows = (terms, jnp.broadcast_to(discounts, terms.shape), continues)
    _, totals = lax.scan(_accumulate, jnp.zeros_like(terms[0]), rows, reverse=True)
    return totals


def _td_residuals(steps: _Steps) -> jax.Array:
    """Return r + gamma * (1 - terminated) * V' - V; 0 on rows of weight 0."""
    return steps.rewards + steps.gamma * steps.bootstraps - steps.values


def _reward_to_go(steps: _Steps) -> jax.Array:
    """Return the bootstrapped discounted return from each row on; 0 on rows of weight 0."""
    tails = jnp.where(steps.continues, 0.0, steps.gamma * steps.bootstraps)
    return _discounted_backward_sum(steps.rewards + tails, steps.gamma, steps.continues)


def trajectory_returns(
    rewards: ArrayLike,
    values: ArrayLike,
    next_values: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    *,
    gamma: ArrayLike,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """Return of the whole trajectory, the same number on each of its steps.

        R(tau) = sum_k gamma^k * r_k  [+ gamma^K * V(s_K) if cut, not terminated, after K steps]

    A trajectory starts at row 0, after an ended row, and after a row of weight 0; what happened
    before the rollout began is not in it. Unbiased up to the bootstrap, largest variance of all.

    Source: Williams 1992 (REINFORCE); Schulman et al. 2016, arXiv 1506.02438, sec. 2, choice 1.

    Args:
        rewards: [T, N]. No gradient flows, here and below.
        values: [T, N], V(s_t); not used, accepted so that the estimators are interchangeable.
        next_values: [T, N], V of the true next observation; used where a trajectory is cut.
        terminated: [T, N] bool, the episode ended and is worth nothing from here on.
        truncated: [T, N] bool, a time limit cut the episode.
        gamma: discount per step, in [0, 1].
        weights: [T, N], validity mask (0 = not experience), or None.

    Returns:
        [T, N] float32, no baseline subtracted, not normalized; 0 on rows of weight 0.

    Raises:
        ValueError: two shapes differ, are not [T, N], or `gamma` is outside [0, 1].
    """
    steps = _as_steps(rewards, values, next_values, terminated, truncated, gamma, weights)
    first = jnp.ones_like(steps.continues[:1])
    starts = jnp.concatenate([first, ~steps.continues[:-1]])
    rows = jnp.arange(len(starts), dtype=jnp.int32)[:, None]
    start_rows = lax.cummax(jnp.where(starts, rows, 0), axis=0)
    return jnp.take_along_axis(_reward_to_go(steps), start_rows, axis=0)


def reward_to_go(
    rewards: ArrayLike,
    values: ArrayLike,
    next_values: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    *,
    gamma: ArrayLike,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """Discounted return from each step on, bootstrapped where it is cut.

        G_t = r_t + gamma * G_{t+1}                      inside an episode
        G_t = r_t + gamma * (1 - terminated_t) * V'_t    at its end, or where the rollout stops

    Source: Schulman et al. 2016, arXiv 1506.02438, sec. 2, choice 2.

    Args:
        rewards: [T, N]. No gradient flows, here and below.
        values: [T, N], V(s_t); not used, accepted so that the estimators are interchangeable.
        next_values: [T, N], V'_t, V of the true next observation; used where a return is cut.
        terminated: [T, N] bool, the episode ended and is worth nothing from here on.
        truncated: [T, N] bool, a time limit cut the episode.
        gamma: discount per step, in [0, 1].
        weights: [T, N], validity mask (0 = not experience), or None.

    Returns:
        [T, N] float32, no baseline subtracted, not normalized; 0 on rows of weight 0.

    Raises:
        ValueError: two shapes differ, are not [T, N], or `gamma` is outside [0, 1].
    """
    steps = _as_steps(rewards, values, next_values, terminated, truncated, gamma, weights)
    return _reward_to_go(steps)


def monte_carlo_advantages(
    rewards: ArrayLike,
    values: ArrayLike,
    next_values: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    *,
    gamma: ArrayLike,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """Monte-Carlo advantage: the reward-to-go minus the critic as a baseline.

        A_t = G_t - V(s_t)

    Source: Schulman et al. 2016, arXiv 1506.02438, eq. 18 (GAE with lambda = 1).

    Args:
        rewards: [T, N]. No gradient flows, here and below.
        values: [T, N], V(s_t).
        next_values: [T, N], V of the true next observation; used where a return is cut.
        terminated: [T, N] bool, the episode ended and is worth nothing from here on.
        truncated: [T, N] bool, a time limit cut the episode.
        gamma: discount per step, in [0, 1].
        weights: [T, N], validity mask (0 = not experience), or None.

    Returns:
        [T, N] float32, not normalized; 0 on rows of weight 0.

    Raises:
        ValueError: two shapes differ, are not [T, N], or `gamma` is outside [0, 1].
    """
    steps = _as_steps(rewards, values, next_values, terminated, truncated, gamma, weights)
    return _reward_to_go(steps) - steps.values


def td_residuals(
    rewards: ArrayLike,
    values: ArrayLike,
    next_values: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    *,
    gamma: ArrayLike,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """TD residual: the one-step advantage, low in variance and as biased as the critic.

        delta_t = r_t + gamma * (1 - terminated_t) * V'_t - V(s_t)

    Source: Schulman et al. 2016, arXiv 1506.02438, sec. 3 and eq. 17 (GAE with lambda = 0).

    Args:
        rewards: [T, N]. No gradient flows, here and below.
        values: [T, N], V(s_t).
        next_values: [T, N], V'_t, V of the true next observation.
        terminated: [T, N] bool, the episode ended and is worth nothing from here on.
        truncated: [T, N] bool, a time limit cut the episode; checked, and of no influence.
        gamma: discount per step, in [0, 1].
        weights: [T, N], validity mask (0 = not experience), or None.

    Returns:
        [T, N] float32, not normalized; 0 on rows of weight 0.

    Raises:
        ValueError: two shapes differ, are not [T, N], or `gamma` is outside [0, 1].
    """
    return _td_residuals(
        _as_steps(rewards, values, next_values, terminated, truncated, gamma, weights)
    )


def gae(
    rewards: ArrayLike,
    values: ArrayLike,
    next_values: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    *,
    gamma: ArrayLike,
    gae_lambda: ArrayLike = 0.95,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """Generalized advantage estimation.

        delta_t = r_t + gamma * (1 - terminated_t) * V'_t - V(s_t)
        A_t     = delta_t + gamma * lambda * (1 - ended_t) * A_{t+1},    A_T = 0

    Source: Schulman et al. 2016, arXiv 1506.02438, eq. 16; default from Schulman et al. 2017,
    arXiv 1707.06347, table 3.

    Args:
        rewards: [T, N]. No gradient flows, here and below.
        values: [T, N], V(s_t).
        next_values: [T, N], V'_t, V of the true next observation.
        terminated: [T, N] bool, the episode ended and is worth nothing from here on.
        truncated: [T, N] bool, a time limit cut the episode.
        gamma: discount per step, in [0, 1].
        gae_lambda: in [0, 1]; 0 is `td_residuals`, 1 is `monte_carlo_advantages` provided that
            next_values[t] = values[t + 1] inside an episode.
        weights: [T, N], validity mask (0 = not experience), or None.

    Returns:
        [T, N] float32, not normalized; 0 on rows of weight 0.

    Raises:
        ValueError: two shapes differ, are not [T, N], or `gamma` or `gae_lambda` is outside
            [0, 1].
    """
    require_between("gae_lambda", gae_lambda, 0.0, 1.0)
    steps = _as_steps(rewards, values, next_values, terminated, truncated, gamma, weights)
    decay = steps.gamma * lax.stop_gradient(as_float(gae_lambda))
    return _discounted_backward_sum(_td_residuals(steps), decay, steps.continues)


def vtrace_advantages(
    rewards: ArrayLike,
    values: ArrayLike,
    next_values: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    *,
    gamma: ArrayLike,
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    gae_lambda: ArrayLike = 1.0,
    rho_bar: ArrayLike = 1.0,
    c_bar: ArrayLike = 1.0,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """V-trace: GAE with truncated importance weights, for data older than the policy.

        rho_t = min(rho_bar, r_t),    c_t = lambda * min(c_bar, r_t)
        A_t   = rho_t * delta_t + gamma * c_t * (1 - ended_t) * A_{t+1}

    `A_t + V(s_t)` is the V-trace target v_t. With lambda = 1 and rho_bar = c_bar, A_t is also the
    paper's policy gradient advantage rho_t * (r_t + gamma * v_{t+1} - V(s_t)). It holds the weight
    of step t: a ratio or clipped loss against the same old_log_probs would weight it twice.

    Source: Espeholt et al. 2018 (IMPALA), arXiv 1802.01561, eq. 1, and its remark 2 for lambda.

    Args:
        rewards: [T, N]. No gradient flows, here and below.
        values: [T, N], V(s_t).
        next_values: [T, N], V of the true next observation.
        terminated: [T, N] bool, the episode ended and is worth nothing from here on.
        truncated: [T, N] bool, a time limit cut the episode.
        gamma: discount per step, in [0, 1].
        log_probs: [T, N], log-probability of the actions under the current policy.
        old_log_probs: [T, N], the same under the policy that collected them.
        gae_lambda: in [0, 1].
        rho_bar: bound of rho_t, at least 0, inf for none; decides the fixed point.
        c_bar: bound of c_t, at least 0, inf for none; decides the speed of convergence.
        weights: [T, N], validity mask (0 = not experience), or None.

    Returns:
        [T, N] float32, not normalized; 0 on rows of weight 0.

    Raises:
        ValueError: two shapes differ, are not [T, N], or a hyper-parameter is out of its range.
    """
    require_between("gae_lambda", gae_lambda, 0.0, 1.0)
    require_between("rho_bar", rho_bar, 0.0, math.inf)
    require_between("c_bar", c_bar, 0.0, math.inf)
    steps = _as_steps(rewards, values, next_values, terminated, truncated, gamma, weights)
    _, _, log_probs, old_log_probs = sanitize(
        weights, rewards=steps.rewards, log_probs=log_probs, old_log_probs=old_log_probs
    )
    ratios = jnp.exp(log_probs - old_log_probs)
    decays = steps.gamma * as_float(gae_lambda) * jnp.minimum(as_float(c_bar), ratios)
    terms = jnp.minimum(as_float(rho_bar), ratios) * _td_residuals(steps)
    return lax.stop_gradient(_discounted_backward_sum(terms, decays, steps.continues))


def normalize_advantages(
    advantages: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    epsilon: ArrayLike = 1e-8,
    min_std: ArrayLike = 0.0,
) -> jax.Array:
    """Normalize advantages to mean 0 and standard deviation 1 over the valid rows.

        (A - mean(A)) / (max(std(A), min_std) + epsilon),    std with denominator sum(weights)

    Source: OpenAI baselines, ppo2/model.py, its only home; epsilon from there. A scale that only
    shrinks below a limit: DreamerV3, arXiv 2301.04104, eq. 7 (there for returns).

    Args:
        advantages: [B] or [T, N]; what is passed together is normalized together. No gradient.
        weights: same shape, validity mask (0 = not experience), or None.
        epsilon: above 0, in units of the advantages.
        min_std: advantages that spread less are not scaled up to 1, as what is left of them on a
            solved task is noise. 0 or above, in units of the advantages.

    Returns:
        Shape of `advantages`, float32; 0 on rows of weight 0, and exactly 0 everywhere for a
        batch of one or of equal advantages. Not clipped.

    Raises:
        ValueError: the shapes differ, or `epsilon` is not positive.
    """
    require_positive("epsilon", epsilon)
    weights, advantages = sanitize(weights, advantages=advantages)
    deviations = masked_deviations(lax.stop_gradient(advantages), weights)
    std = jnp.sqrt(masked_mean(jnp.square(deviations), weights))
    return deviations / (jnp.maximum(std, as_float(min_std)) + as_float(epsilon))
