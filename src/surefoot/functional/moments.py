"""Running moments: the statistics behind observation normalization and reward scaling.

The count is exact: a float32 counter freezes at 2^24 rows and a uint32 one wraps at 2^32, minutes
and hours of a GPU simulator. Mean and variance are merged as in Chan et al. 1979, around the
larger side, so that the variance is never negative and never loses the mean's digits.
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
    require_between,
    require_positive,
    require_same_shape,
    sanitize,
)

# A row beyond this is treated like one with a NaN: the squares of its distances would leave
# float32 (3e38), and an infinite variance would switch the normalizer off for good.
LARGEST_OBSERVATION = 1e15


class Moments(NamedTuple):
    """Count, mean and population variance of rows; mean 0 and variance 1 while there are none."""

    count_low: jax.Array
    """[] uint32, the number of rows modulo 2^32."""
    count_high: jax.Array
    """[] uint32, the number of rows divided by 2^32."""
    mean: jax.Array
    """[*feature] float32."""
    variance: jax.Array
    """[*feature] float32, with denominator n; never negative."""


def init_moments(shape: tuple[int, ...]) -> Moments:
    """Return the moments of no rows: the identity of `merge_moments`.

    Args:
        shape: the feature shape; () for a scalar such as the reward.

    Returns:
        Count 0, mean 0, variance 1.
    """
    zero = jnp.zeros((), dtype=jnp.uint32)
    ones = jnp.ones(shape, dtype=jnp.float32)
    return Moments(zero, zero, jnp.zeros_like(ones), ones)


def count_of(moments: Moments) -> jax.Array:
    """Return the number of rows seen, rounded to float32.

        count_high * 2^32 + count_low

    Args:
        moments: any.

    Returns:
        [] float32. The exact count stays in the two limbs.
    """
    return as_float(moments.count_high) * 2.0**32 + as_float(moments.count_low)


def _has_rows(moments: Moments) -> jax.Array:
    return (moments.count_low | moments.count_high) != 0


def _first_valid(rows: jax.Array, valid: jax.Array) -> jax.Array:
    """Return the first valid row, or zeros."""
    return jnp.where(jnp.any(valid), rows[jnp.argmax(valid)], 0.0)


def _as_rows(
    batch: ArrayLike, weights: ArrayLike | None, feature_shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """Flatten to ([R, *feature], valid [R]); rows that do not count may hold anything."""
    batch = lax.stop_gradient(as_float(batch))
    leading = batch.shape[: max(batch.ndim - len(feature_shape), 0)]
    if leading + feature_shape != batch.shape:
        raise ValueError(f"batch has shape {batch.shape}, which does not end in {feature_shape}")
    valid = jnp.ones(leading, dtype=bool) if weights is None else as_float(weights) > 0.0
    if valid.shape != leading:
        raise ValueError(
            f"weights has shape {valid.shape}, but batch has shape {batch.shape} with features "
            f"{feature_shape}; weights must have shape {leading}"
        )
    num_rows = math.prod(leading)
    rows = batch.reshape((num_rows, *feature_shape))
    finite = jnp.all(jnp.abs(rows).reshape((num_rows, -1)) <= LARGEST_OBSERVATION, axis=1)
    valid = valid.reshape(num_rows) & finite
    return rows, valid


def _per_row(valid: jax.Array, rows: jax.Array) -> jax.Array:
    return valid.reshape((-1,) + (1,) * (rows.ndim - 1))


def _moments_of_rows(rows: jax.Array, valid: jax.Array, shift: jax.Array) -> Moments:
    """Two passes, both around `shift`: what they square is small even if the mean is not."""
    count = jnp.sum(valid, dtype=jnp.uint32)
    total = jnp.maximum(as_float(count), 1.0)
    mask = _per_row(valid, rows)
    shifted = jnp.where(mask, rows - shift, 0.0)
    offset = jnp.sum(shifted, axis=0) / total
    variance = jnp.sum(jnp.square(jnp.where(mask, shifted - offset, 0.0)), axis=0) / total
    empty = init_moments(rows.shape[1:])
    return Moments(
        count_low=count,
        count_high=empty.count_high,
        mean=jnp.where(count > 0, shift + offset, empty.mean),
        variance=jnp.where(count > 0, variance, empty.variance),
    )


def moments_of(
    batch: ArrayLike, weights: ArrayLike | None = None, shift: ArrayLike | None = None
) -> Moments:
    """Return the moments of one batch over all its leading axes.

        mean = shift + sum_i (x_i - shift) / n,    variance = sum_i (x_i - mean)^2 / n

    Source: Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", sec. 3.

    Args:
        batch: [..., *feature]. The feature shape is that of `shift`; without one, what `weights`
            leaves of the shape; without either, the last axis. No gradient flows.
        weights: [...], validity mask: a row counts once if its weight is above 0, and not at all
            otherwise. A row holding NaN, inf or more than 1e15 does not count either.
        shift: [*feature], a point near the data, for precision only; by default the first valid
            row.

    Returns:
        Moments with the feature shape; those of `init_moments` when no row counts.

    Raises:
        ValueError: the shapes do not fit together.
    """
    if shift is not None:
        feature_shape = jnp.shape(shift)
    else:
        feature_shape = jnp.shape(batch)[-1 if weights is None else jnp.ndim(weights) :]
    rows, valid = _as_rows(batch, weights, feature_shape)
    reference = _first_valid(rows, valid) if shift is None else lax.stop_gradient(as_float(shift))
    return _moments_of_rows(rows, valid, reference)


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Return the moments of the two sides' rows together.

        n    = n_a + n_b,    delta = mean_b - mean_a
        mean = mean_a + delta * n_b / n
        var  = var_a + (n_b / n) * (var_b - var_a + delta^2 * n_a / n)

    Source: Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise algorithm", eq. 2.1,
    written for the mean and the variance.

    Args:
        a: moments of some rows.
        b: moments of other rows, of the same feature shape. Rows in both count twice.

    Returns:
        Moments; a side without rows gives back the other bit by bit. Commutative, up to rounding
        where both counts are equal.

    Raises:
        ValueError: the feature shapes differ.
    """
    require_same_shape(a=a.mean, b=b.mean)
    b_larger = (b.count_high > a.count_high) | (
        (b.count_high == a.count_high) & (b.count_low > a.count_low)
    )
    # Around the larger side the correction is small: no cancellation, no drift of the variance.
    large = Moments(*(jnp.where(b_larger, y, x) for x, y in zip(a, b, strict=True)))
    small = Moments(*(jnp.where(b_larger, x, y) for x, y in zip(a, b, strict=True)))

    count_low = a.count_low + b.count_low
    carry = (count_low < a.count_low).astype(jnp.uint32)
    count_high = a.count_high + b.count_high + carry

    total = jnp.maximum(count_of(large) + count_of(small), 1.0)
    share = count_of(small) / total
    delta = small.mean - large.mean
    spread = jnp.square(delta) * (count_of(large) / total)
    mean = large.mean + share * delta
    variance = large.variance + share * (small.variance - large.variance + spread)
    both = _has_rows(small)
    return Moments(
        count_low,
        count_high,
        jnp.where(both, mean, large.mean),
        jnp.where(both, variance, large.variance),
    )


def update_moments(
    moments: Moments, batch: ArrayLike, *, weights: ArrayLike | None = None
) -> Moments:
    """Return the running moments with the rows of one more batch in them.

        merge_moments(moments, moments_of(batch))

    Source: Chan, Golub, LeVeque 1979 (see `merge_moments`).

    Args:
        moments: the running moments; its feature shape says how many axes of `batch` lead.
        batch: [..., *feature]. No gradient flows.
        weights: [...], validity mask: a row counts once if its weight is above 0, and not at all
            otherwise. A row holding NaN, inf or more than 1e15 does not count either.

    Returns:
        Moments; `moments` itself, bit by bit, when no row counts.

    Raises:
        ValueError: the shapes do not fit together.
    """
    rows, valid = _as_rows(batch, weights, moments.mean.shape)
    shift = jnp.where(_has_rows(moments), moments.mean, _first_valid(rows, valid))
    return merge_moments(moments, _moments_of_rows(rows, valid, shift))


def _checked(x: ArrayLike, moments: Moments) -> jax.Array:
    """Return `x` as float32 once its trailing axes are known to be the features."""
    x = as_float(x)
    features = moments.mean.shape
    if x.ndim < len(features) or x.shape[x.ndim - len(features) :] != features:
        raise ValueError(f"x has shape {x.shape}, which does not end in {features}")
    return x


def _std(moments: Moments, epsilon: ArrayLike) -> jax.Array:
    return lax.stop_gradient(jnp.sqrt(moments.variance + as_float(epsilon)))


def normalize(
    x: ArrayLike, moments: Moments, *, clip: ArrayLike = 10.0, epsilon: ArrayLike = 1e-8
) -> jax.Array:
    """Normalize observations by the running moments, then clip.

        clip((x - mean) / sqrt(variance + epsilon), -clip, clip)

    Source: OpenAI baselines, common/vec_env/vec_normalize.py; both defaults from there.

    Args:
        x: [..., *feature]. Gradient flows through `x` only.
        moments: the running moments; nothing is updated here.
        clip: in standard deviations, at least 0, inf for none.
        epsilon: above 0, in units of the variance.

    Returns:
        Shape of `x`, float32. Only clipped while the moments have no rows.

    Raises:
        ValueError: `x` does not end in the feature shape, `clip` is negative or `epsilon` is not
            positive.
    """
    require_between("clip", clip, 0.0, math.inf)
    require_positive("epsilon", epsilon)
    x = _checked(x, moments)
    scaled = (x - lax.stop_gradient(moments.mean)) / _std(moments, epsilon)
    limit = as_float(clip)
    return jnp.clip(jnp.where(_has_rows(moments), scaled, x), -limit, limit)


def denormalize(x: ArrayLike, moments: Moments, *, epsilon: ArrayLike = 1e-8) -> jax.Array:
    """Undo `normalize`, except for what it clipped.

        x * sqrt(variance + epsilon) + mean

    Source: the inverse of `normalize`.

    Args:
        x: [..., *feature], normalized. Gradient flows through `x` only.
        moments: the running moments.
        epsilon: the one given to `normalize`.

    Returns:
        Shape of `x`, float32; `x` itself while the moments have no rows.

    Raises:
        ValueError: `x` does not end in the feature shape, or `epsilon` is not positive.
    """
    require_positive("epsilon", epsilon)
    x = _checked(x, moments)
    raw = x * _std(moments, epsilon) + lax.stop_gradient(moments.mean)
    return jnp.where(_has_rows(moments), raw, x)


def discounted_return_step(
    accumulator: ArrayLike,
    rewards: ArrayLike,
    ended: ArrayLike,
    *,
    gamma: ArrayLike,
    weights: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """One step of the discounted return so far, whose deviation scales the rewards.

        R_t = gamma * R_{t-1} + r_t,    forgotten after an episode's end

    Source: OpenAI baselines, common/vec_env/vec_normalize.py (`self.ret`); Engstrom et al. 2020,
    arXiv 2005.12729, appendix A.2.

    Args:
        accumulator: [N], the second result of the step before; zeros at first. No gradient flows.
        rewards: [N], not scaled.
        ended: [N] bool, terminated or truncated at this step.
        gamma: discount per step, in [0, 1].
        weights: [N], validity mask (0 = not experience), or None. An invalid step is a boundary.

    Returns:
        (returns, accumulator), both [N] float32: R_t, to be fed to `update_moments` with the same
        weights (0 where invalid), and what to pass to the next step (0 where ended or invalid).

    Raises:
        ValueError: two shapes differ, or `gamma` is outside [0, 1].
    """
    require_between("gamma", gamma, 0.0, 1.0)
    weights, accumulator, rewards = sanitize(weights, accumulator=accumulator, rewards=rewards)
    ended = jnp.asarray(ended, dtype=bool)
    require_same_shape(rewards=rewards, ended=ended)
    returns = lax.stop_gradient(as_float(gamma) * accumulator + rewards)
    return returns, jnp.where(ended, 0.0, returns)


def scale_rewards(
    rewards: ArrayLike, moments: Moments, *, clip: ArrayLike = 10.0, epsilon: ArrayLike = 1e-8
) -> jax.Array:
    """Scale rewards by the deviation of the discounted return, then clip; no mean is subtracted.

        clip(r / sqrt(variance + epsilon), -clip, clip)

    Source: OpenAI baselines, common/vec_env/vec_normalize.py; both defaults from there.

    Args:
        rewards: [T, N] or any shape. No gradient flows.
        moments: those of the discounted return (see `discounted_return_step`), feature shape ().
        clip: after scaling, at least 0, inf for none.
        epsilon: above 0, in units of the variance.

    Returns:
        Shape of `rewards`, float32; not shifted. Only clipped while the moments have no rows.

    Raises:
        ValueError: `rewards` does not end in the feature shape, `clip` is negative or `epsilon`
            is not positive.
    """
    require_between("clip", clip, 0.0, math.inf)
    require_positive("epsilon", epsilon)
    rewards = lax.stop_gradient(_checked(rewards, moments))
    scaled = rewards / _std(moments, epsilon)
    limit = as_float(clip)
    return jnp.clip(jnp.where(_has_rows(moments), scaled, rewards), -limit, limit)
