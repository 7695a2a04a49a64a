"""Schedules as pure functions: of the progress of training in [0, 1], or of the measured KL.

Nothing here remembers where it was, so a resumed run continues where the saved progress, learning
rate or coefficient says, and a schedule cannot restart by itself.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from surefoot.functional.masking import as_float, require_between, require_positive

# Doubling or halving without end would leave float32 in about 130 updates, and a beta of exactly 0
# could never recover. Within these bounds the penalty is already negligible, or alone in the loss.
BETA_MIN, BETA_MAX = 1e-6, 1e6


def linear(progress: ArrayLike, start: ArrayLike, end: ArrayLike) -> jax.Array:
    """Linear schedule.

        (1 - p) * start + p * end,    p = clip(progress, 0, 1)

    Source: OpenAI baselines, ppo2/defaults.py (`lr=lambda f: 3e-4 * f`), with end = 0.

    Args:
        progress: [] steps done / total steps; clipped to [0, 1].
        start: [] the value at progress 0.
        end: [] the value at progress 1.

    Returns:
        [] float32, exactly `start` and `end` at the two ends.
    """
    share = jnp.clip(as_float(progress), 0.0, 1.0)
    return (1.0 - share) * as_float(start) + share * as_float(end)


def cosine(progress: ArrayLike, start: ArrayLike, end: ArrayLike) -> jax.Array:
    """Half-cosine schedule, flat at both ends.

        end + (start - end) * (1 + cos(pi * p)) / 2,    p = clip(progress, 0, 1)

    Source: Loshchilov and Hutter 2017, arXiv 1608.03983, eq. 5, without restarts.

    Args:
        progress: [] steps done / total steps; clipped to [0, 1].
        start: [] the value at progress 0.
        end: [] the value at progress 1.

    Returns:
        [] float32, exactly `start` and `end` at the two ends.
    """
    share = 0.5 * (1.0 + jnp.cos(math.pi * jnp.clip(as_float(progress), 0.0, 1.0)))
    return share * as_float(start) + (1.0 - share) * as_float(end)


def kl_adaptive_learning_rate(
    learning_rate: ArrayLike,
    kl: ArrayLike,
    *,
    target_kl: ArrayLike,
    factor: ArrayLike = 1.5,
    minimum: ArrayLike = 1e-5,
    maximum: ArrayLike = 1e-2,
) -> jax.Array:
    """Learning rate steered by the measured KL.

        kl > 2 * target_kl        ->  max(learning_rate / factor, minimum)
        0 < kl < target_kl / 2    ->  min(learning_rate * factor, maximum)
        otherwise                 ->  learning_rate

    Source: rsl_rl, algorithms/ppo.py (schedule "adaptive"), with its factor and bounds.

    Args:
        learning_rate: [] the current one; its one home is the caller's train state.
        kl: [] mean KL(pi_old, pi_theta) of the last update, in nats. NaN, zero and negative
            estimates change nothing.
        target_kl: [] the KL to stay near, above 0.
        factor: [] at least 1.
        minimum: [] the smallest learning rate a decrease may reach.
        maximum: [] the largest learning rate an increase may reach.

    Returns:
        [] float32. A rate inside the KL band is returned as it is, even outside the bounds.

    Raises:
        ValueError: `target_kl` is not positive, or `factor` is below 1.
    """
    require_positive("target_kl", target_kl)
    require_between("factor", factor, 1.0, math.inf)
    rate, kl, target, factor = (as_float(x) for x in (learning_rate, kl, target_kl, factor))
    lower = jnp.maximum(rate / factor, as_float(minimum))
    higher = jnp.minimum(rate * factor, as_float(maximum))
    raised = jnp.where((kl > 0.0) & (kl < 0.5 * target), higher, rate)
    return jnp.where(kl > 2.0 * target, lower, raised)


def adaptive_kl_coefficient(beta: ArrayLike, kl: ArrayLike, *, target_kl: ArrayLike) -> jax.Array:
    """Coefficient of the KL penalty, doubled or halved around the target.

        kl < target_kl / 1.5    ->  beta / 2
        kl > target_kl * 1.5    ->  beta * 2

    Source: Schulman et al. 2017, arXiv 1707.06347, sec. 4. The bounds [1e-6, 1e6] are ours.

    Args:
        beta: [] the current coefficient.
        kl: [] mean KL(pi_old, pi_theta) of the last update, in nats. NaN changes nothing.
        target_kl: [] the KL to stay near, above 0.

    Returns:
        [] float32, kept in [1e-6, 1e6].

    Raises:
        ValueError: `target_kl` is not positive.
    """
    require_positive("target_kl", target_kl)
    beta, kl, target = (as_float(x) for x in (beta, kl, target_kl))
    halved = jnp.where(kl < target / 1.5, 0.5 * beta, beta)
    adapted = jnp.where(kl > target * 1.5, 2.0 * beta, halved)
    return jnp.clip(adapted, BETA_MIN, BETA_MAX)
