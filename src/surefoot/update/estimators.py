"""Advantage estimators: what multiplies the log-probability, and what the critic is fitted to."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from surefoot import functional as F
from surefoot.config import AdvantageOptions


class Rows(NamedTuple):
    """What an estimator reads, all [T, N].

    `next_values` are those of the states that the steps led to, at an episode's end of its true last one;
    `log_probs` are the present policy's where an older one collected and V-trace is to correct it, else None.
    """

    rewards: jax.Array
    values: jax.Array
    next_values: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    weights: jax.Array
    old_log_probs: jax.Array
    log_probs: jax.Array | None


Estimator = Callable[[Rows, AdvantageOptions], tuple[jax.Array, jax.Array]]


def gae(rows: Rows, options: AdvantageOptions) -> tuple[jax.Array, jax.Array]:
    """GAE, or its V-trace form where an older policy collected; targets A + V."""
    lam = options.gae_lambda
    if rows.log_probs is None:
        advantages = F.gae(*rows[:5], **_common(rows, options), gae_lambda=lam)
    else:
        advantages = F.vtrace_advantages(
            *rows[:5],
            **_common(rows, options),
            gae_lambda=lam,
            log_probs=rows.log_probs,
            old_log_probs=rows.old_log_probs,
        )
    return advantages, F.value_targets(advantages, rows.values)


def td(rows: Rows, options: AdvantageOptions) -> tuple[jax.Array, jax.Array]:
    """The TD residual; targets A + V."""
    advantages = F.td_residuals(*rows[:5], **_common(rows, options))
    return advantages, F.value_targets(advantages, rows.values)


def monte_carlo(rows: Rows, options: AdvantageOptions) -> tuple[jax.Array, jax.Array]:
    """The (bootstrapped) return minus the value; targets A + V."""
    advantages = F.monte_carlo_advantages(*rows[:5], **_common(rows, options))
    return advantages, F.value_targets(advantages, rows.values)


def reward_to_go(rows: Rows, options: AdvantageOptions) -> tuple[jax.Array, jax.Array]:
    """The return from here on, which is the target too."""
    returns = F.reward_to_go(*rows[:5], **_common(rows, options))
    return returns, returns


def trajectory_return(rows: Rows, options: AdvantageOptions) -> tuple[jax.Array, jax.Array]:
    """The return of the whole episode; the target is the return from here on."""
    common = _common(rows, options)
    return F.trajectory_returns(*rows[:5], **common), F.reward_to_go(*rows[:5], **common)


def _common(rows: Rows, options: AdvantageOptions) -> dict[str, jax.Array | float]:
    return {"gamma": options.gamma, "weights": rows.weights}


ESTIMATORS: dict[str, Estimator] = {
    "gae": gae,
    "td": td,
    "monte_carlo": monte_carlo,
    "reward_to_go": reward_to_go,
    "trajectory_return": trajectory_return,
}


def next_values(
    values: jax.Array, ended: jax.Array, final_values: jax.Array | None, *, exact: bool
) -> jax.Array:
    """[T, N]: the values of the states that the steps led to.

    Args:
        values: [T + 1, N], of the rollout's observations.
        ended: [T, N], the steps that end an episode.
        final_values: [T, N], of the final observations of simulators that reset within the step.
        exact: whether the last observation of an episode is known. Where it is lost, the value of the one
            before is as near as can be had; never that of the next episode's first.
    """
    if final_values is not None:
        return jnp.where(ended, final_values, values[1:])
    return values[1:] if exact else jnp.where(ended, values[:-1], values[1:])
