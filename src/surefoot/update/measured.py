"""Numbers that an update measures, and how those of many steps become one."""

from __future__ import annotations

from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from surefoot import functional as F


class Measured(eqx.Module):
    """A number, or one for each step, and how it is reduced over steps."""

    value: jax.Array
    reduce: Literal["mean", "max"] = eqx.field(static=True, default="mean")


Metrics = dict[str, Measured]


class Steps(NamedTuple):
    """What gradient steps were.

    Attributes:
        loss: the total loss.
        grad_norm: the gradient's norm before clipping.
        fraction: 1 where a step was taken, 0 where the KL had stopped them; of many steps, their share.
    """

    loss: jax.Array
    grad_norm: jax.Array
    fraction: jax.Array


def summarize(metrics: Metrics, steps: Steps) -> tuple[Metrics, Steps]:
    """Many steps as one, over those that were taken; if none was, the first one speaks for all.

    Args:
        metrics: a value for each step.
        steps: the steps; `fraction` weighs them, so that epochs can be summarized as their steps were.
    """
    taken = steps.fraction
    weights = jnp.where(taken.sum() > 0, taken, jnp.zeros_like(taken).at[(0,) * taken.ndim].set(1))

    def over_steps(measured: Measured) -> jax.Array:
        if measured.reduce == "max":
            return jnp.max(jnp.where(weights > 0, measured.value, -jnp.inf))
        return F.masked_mean(measured.value, weights)

    summary = {name: Measured(over_steps(x), x.reduce) for name, x in metrics.items()}
    loss, grad_norm = (over_steps(Measured(x)) for x in (steps.loss, steps.grad_norm))
    return summary, Steps(loss, grad_norm, jnp.mean(taken))
