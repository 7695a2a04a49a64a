"""The validity mask, and the checks every function of this floor makes on its arguments.

A batch holds rows that are not experience: the reset row after an episode's end, the padding of
a ragged minibatch. They carry weight 0 and may hold anything, NaN included. `sanitize` replaces
them by zeros *before* any arithmetic, because `0 * nan` is NaN in the value and in the gradient;
the means below then divide by the sum of the weights, never by the number of rows.

Everything is computed in float32, whatever the inputs and whatever `jax_enable_x64` says.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike


def as_float(x: ArrayLike) -> jax.Array:
    """Return `x` as a float32 array, so that NumPy's float64 and Python's numbers mix with ours."""
    return jnp.asarray(x, dtype=jnp.float32)


def require_between(name: str, value: ArrayLike, low: float, high: float) -> None:
    """Check a concrete hyper-parameter; a traced one cannot be looked at and passes.

    Raises:
        ValueError: `value` is a Python or NumPy number outside [low, high], or NaN.
    """
    if isinstance(value, (int, float, np.number)) and not low <= value <= high:
        raise ValueError(f"{name} must be in [{low:g}, {high:g}], got {value}")


def require_positive(name: str, value: ArrayLike) -> None:
    """Check that a concrete hyper-parameter is above zero; a traced one passes.

    Raises:
        ValueError: `value` is a Python or NumPy number that is zero, negative or NaN.
    """
    if isinstance(value, (int, float, np.number)) and not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


def require_same_shape(**arrays: jax.Array) -> None:
    """Check that the named arrays agree in shape: [B] against [B, 1] would broadcast to [B, B].

    Raises:
        ValueError: two shapes differ; both are named.
    """
    (first, expected), *others = arrays.items()
    for name, array in others:
        if array.shape != expected.shape:
            raise ValueError(
                f"{name} has shape {array.shape}, but {first} has shape {expected.shape}; "
                "they must be equal"
            )


def finite_or_zero(x: jax.Array) -> jax.Array:
    """`x` with 0 in place of every number that is not finite; its shape and dtype stay."""
    return jnp.where(jnp.isfinite(x), x, jnp.zeros((), x.dtype))


def sanitize(weights: ArrayLike | None, **arrays: ArrayLike) -> tuple[jax.Array, ...]:
    """Return the weights and the named arrays as float32 of one shape, 0 on rows of weight 0.

    Args:
        weights: [B] or [T, N], or None for all ones; bool or float, not negative. A weight that
            is not above zero (NaN included) counts as zero. No gradient flows.
        **arrays: the inputs of a loss, each of the shape of `weights`. Gradient flows through
            the rows of positive weight and is exactly zero elsewhere.

    Returns:
        (weights, *arrays), in the order given.

    Raises:
        ValueError: two shapes differ; both are named.
    """
    floats = {name: as_float(array) for name, array in arrays.items()}
    if weights is None:
        weights = jnp.ones_like(next(iter(floats.values())))
    weights = lax.stop_gradient(as_float(weights))
    require_same_shape(**floats, weights=weights)
    valid = weights > 0.0
    cleaned = (jnp.where(valid, array, 0.0) for array in floats.values())
    return (jnp.where(valid, weights, 0.0), *cleaned)


def masked_mean(x: ArrayLike, weights: ArrayLike | None = None) -> jax.Array:
    """Weighted mean: the denominator is the sum of the weights, not the number of rows.

        sum_i w_i * x_i / sum_i w_i

    Args:
        x: [B] or [T, N]. Gradient flows.
        weights: shape of `x`, or None for all ones. No gradient flows.

    Returns:
        [] float32; 0 when no row is valid, never NaN.

    Raises:
        ValueError: the shapes differ.
    """
    weights, x = sanitize(weights, x=x)
    total = jnp.sum(weights)
    return jnp.sum(weights * x) / jnp.where(total > 0.0, total, 1.0)


def masked_deviations(x: ArrayLike, weights: ArrayLike | None = None) -> jax.Array:
    """Deviations from the weighted mean, exactly zero for constant `x`.

        x_i - sum_j w_j * x_j / sum_j w_j

    Args:
        x: [B] or [T, N]. Gradient flows.
        weights: shape of `x`, or None for all ones. No gradient flows.

    Returns:
        Shape of `x`; 0 on rows of weight 0. Not divided by the standard deviation.

    Raises:
        ValueError: the shapes differ.
    """
    weights, x = sanitize(weights, x=x)
    valid = weights > 0.0
    # The rounded mean of equal numbers need not equal them (three times 0.1), and a later division
    # by their tiny deviation would blow the error up to 1. Measured from one of them it does.
    reference = jnp.ravel(x)[jnp.argmax(jnp.ravel(valid))]
    shifted = jnp.where(valid, x - reference, 0.0)
    return jnp.where(valid, shifted - masked_mean(shifted, weights), 0.0)
