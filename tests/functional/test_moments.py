"""Running moments: exact counts, merging, the mask, and float32 over long runs."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import extended

from surefoot.functional import (
    Moments,
    count_of,
    denormalize,
    discounted_return_step,
    init_moments,
    merge_moments,
    moments_of,
    normalize,
    scale_rewards,
    update_moments,
)

laws = settings(max_examples=30)
seeds = st.integers(0, 2**32 - 1)


def given_moments(count, mean, variance):
    return Moments(
        jnp.uint32(count % 2**32),
        jnp.uint32(count // 2**32),
        jnp.float32(mean),
        jnp.float32(variance),
    )


def exact_count(moments):
    return int(moments.count_low) + (int(moments.count_high) << 32)


def assert_same_bits(a, b):
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def assert_moments(moments, rows, rtol=1e-5):
    rows = np.asarray(rows, dtype=np.float64)
    assert exact_count(moments) == len(rows)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=rtol, atol=1e-6)
    np.testing.assert_allclose(moments.variance, rows.var(0), rtol=rtol, atol=1e-7)


# One batch ------------------------------------------------------------------------------------


def test_moments_by_hand():
    moments = moments_of(np.array([[1.0, 10.0], [3.0, 10.0], [5.0, 16.0]]))
    assert exact_count(moments) == 3
    np.testing.assert_allclose(moments.mean, [3.0, 12.0])
    np.testing.assert_allclose(moments.variance, [8 / 3, 8.0], rtol=1e-6)


def test_the_feature_shape_follows_from_shift_weights_or_the_last_axis():
    batch = np.random.default_rng(0).normal(size=(2, 3, 4))
    assert moments_of(batch).mean.shape == (4,)
    assert moments_of(batch, weights=np.ones(2)).mean.shape == (3, 4)
    assert moments_of(batch, weights=np.ones((2, 3, 4))).mean.shape == ()
    assert moments_of(batch, shift=np.zeros((3, 4))).mean.shape == (3, 4)
    assert moments_of(batch, weights=np.ones((2, 3)), shift=np.zeros(4)).mean.shape == (4,)
    assert update_moments(init_moments((3, 4)), batch).mean.shape == (3, 4)
    assert exact_count(update_moments(init_moments(()), batch)) == 24
    assert exact_count(update_moments(init_moments((3, 4)), batch[0])) == 1


@laws
@given(seed=seeds, shift=st.sampled_from([None, 0.0, 90.0]))
def test_the_shift_changes_nothing_but_rounding(seed, shift):
    batch = 100.0 + np.random.default_rng(seed).normal(size=(6, 3))
    shift = None if shift is None else np.full(3, shift)
    assert_moments(moments_of(batch, shift=shift), batch, rtol=1e-3)


def test_the_variance_survives_a_large_mean():
    batch = 1e5 + np.arange(8.0)[:, None]
    assert_moments(moments_of(batch), batch, rtol=1e-6)
    assert_moments(update_moments(moments_of(batch), batch), np.tile(batch, (2, 1)), rtol=1e-6)


# Merging --------------------------------------------------------------------------------------


@laws
@given(seed=seeds, split=st.sampled_from([1, 6, 10]), mean=st.sampled_from([0.0, 50.0]))
def test_merging_is_pooling_and_commutes(seed, split, mean):
    rng = np.random.default_rng(seed)
    batch = mean + rng.normal(size=(12, 2)) * rng.uniform(0.1, 10.0)
    a, b = moments_of(batch[:split]), moments_of(batch[split:])
    assert_moments(merge_moments(a, b), batch, rtol=1e-3)
    for x, y in zip(merge_moments(a, b), merge_moments(b, a), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_merging_very_unequal_sides_keeps_the_larger_ones_digits():
    small, large = given_moments(1, 0.0, 1e6), given_moments(10**9, 0.0, 1.0)
    for merged in (merge_moments(small, large), merge_moments(large, small)):
        np.testing.assert_allclose(merged.variance, 1.001, rtol=1e-6)


def test_an_empty_side_is_the_identity():
    moments, empty = moments_of(np.random.default_rng(0).normal(size=(5, 3))), init_moments((3,))
    assert_same_bits(merge_moments(moments, empty), moments)
    assert_same_bits(merge_moments(empty, moments), moments)
    assert_same_bits(merge_moments(empty, empty), empty)


def test_the_count_is_exact_past_2_to_24_and_2_to_32():
    for count in (2**24, 2**32 - 3, 2**33 + 1):
        before = given_moments(count, 0.0, 1.0)
        after = update_moments(before, np.full(8, 5.0))
        assert exact_count(after) == count + 8
        assert after.mean > before.mean
        np.testing.assert_allclose(count_of(after), count + 8, rtol=1e-6)
    a, b = given_moments(2**32 + 7, 0.0, 1.0), given_moments(2**34 - 1, 0.0, 1.0)
    assert exact_count(merge_moments(a, b)) == 2**32 + 7 + 2**34 - 1


@laws
@given(seed=seeds)
def test_the_variance_is_never_negative(seed):
    rng = np.random.default_rng(seed)
    moments = init_moments((2,))
    for _ in range(4):
        scale = 10.0 ** rng.uniform(-6, 6)
        batch = rng.normal() * scale + rng.normal(size=(3, 2)) * scale * rng.choice([0.0, 1e-7, 1])
        moments = update_moments(moments, batch)
        assert np.all(np.asarray(moments.variance) >= 0.0)


@pytest.mark.parametrize("constant", [1800.0, 0.1])
def test_constant_observations_for_a_long_run(constant):
    def step(moments, batch):
        return update_moments(moments, batch), None

    batches = jnp.full((100_000, 7, 1), constant, dtype=jnp.float32)
    moments, _ = jax.jit(lambda m: jax.lax.scan(step, m, batches))(init_moments((1,)))
    assert exact_count(moments) == 700_000
    assert moments.mean == np.float32(constant)
    assert moments.variance == 0.0
    assert normalize(batches[0], moments)[0] == 0.0


def test_equal_rows_have_variance_zero_however_their_sum_is_rounded():
    batch = np.full((1000, 1), 1800.1)
    for moments in (moments_of(batch), update_moments(init_moments((1,)), batch)):
        assert moments.mean == np.float32(1800.1)
        assert moments.variance == 0.0


def test_the_variance_does_not_drift_over_a_long_run():
    batch = jnp.array([[-1.0], [1.0], [-1.0], [1.0]])
    moments, _ = jax.jit(
        lambda m: jax.lax.scan(lambda m, _: (update_moments(m, batch), None), m, length=100_000)
    )(init_moments((1,)))
    np.testing.assert_allclose(moments.variance, 1.0, rtol=1e-6)


# The mask -------------------------------------------------------------------------------------


@laws
@given(seed=seeds, poison=st.sampled_from([np.nan, np.inf, -np.inf, 1e9]))
def test_masked_rows_influence_nothing(seed, poison):
    rng = np.random.default_rng(seed)
    batch, weights = rng.normal(size=(4, 3, 2)), rng.random((4, 3)) < 0.6
    weights[0, 0], weights[1, 1] = False, True
    clean = np.where(weights[..., None], batch, 0.0)
    poisoned = np.where(weights[..., None], batch, poison)
    start = moments_of(rng.normal(size=(5, 2)))
    for before in (init_moments((2,)), start):
        assert_same_bits(
            update_moments(before, poisoned, weights=weights),
            update_moments(before, clean, weights=weights),
        )
    assert_same_bits(moments_of(poisoned, weights), moments_of(clean, weights))
    assert_moments(update_moments(init_moments((2,)), poisoned, weights=weights), batch[weights])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_a_row_that_is_not_finite_does_not_count(bad):
    batch = np.array([[1.0, bad], [2.0, 3.0], [4.0, 7.0]])
    assert_moments(moments_of(batch), batch[1:])
    assert_moments(update_moments(init_moments((2,)), batch), batch[1:])


def test_an_empty_mask_changes_nothing():
    batch = np.random.default_rng(0).normal(size=(5, 3))
    moments = moments_of(batch)
    assert_same_bits(update_moments(moments, batch, weights=np.zeros(5)), moments)
    for shift in (None, np.ones(3)):
        assert_same_bits(moments_of(batch, np.zeros(5), shift), init_moments((3,)))


# Use ------------------------------------------------------------------------------------------


def test_normalize_by_hand_and_back():
    moments = given_moments(10, 3.0, 4.0)
    x = np.array([3.0, 5.0, -1.0, 1e6, -1e6])
    np.testing.assert_allclose(normalize(x, moments), [0, 1, -2, 10, -10], rtol=1e-6)
    np.testing.assert_allclose(normalize(x, moments, clip=0.5), [0, 0.5, -0.5, 0.5, -0.5])
    np.testing.assert_allclose(normalize(5.0, moments, epsilon=12.0), 0.5)
    unclipped = normalize(x, moments, clip=math.inf)
    np.testing.assert_allclose(denormalize(unclipped, moments), x, rtol=1e-6)
    np.testing.assert_allclose(denormalize(0.5, moments, epsilon=12.0), 5.0)


def test_without_rows_there_is_nothing_but_clipping():
    x, empty = np.array([0.3, -20.0]), init_moments(())
    np.testing.assert_array_equal(normalize(x, empty, epsilon=3.0), np.float32([0.3, -10.0]))
    np.testing.assert_array_equal(denormalize(x, empty, epsilon=3.0), np.float32(x))
    np.testing.assert_array_equal(scale_rewards(x, empty, epsilon=3.0), np.float32([0.3, -10.0]))


def test_scale_rewards_keeps_the_sign_and_the_zero():
    moments = given_moments(10, 3.0, 4.0)
    rewards = np.array([0.0, 3.0, -3.0, 100.0])
    np.testing.assert_allclose(scale_rewards(rewards, moments), [0, 1.5, -1.5, 10], rtol=1e-6)
    np.testing.assert_allclose(scale_rewards(rewards, moments, clip=0.5), [0, 0.5, -0.5, 0.5])
    np.testing.assert_allclose(scale_rewards(4.0, moments, epsilon=12.0), 1.0)


def test_gradient_flows_through_x_only():
    moments = moments_of(np.random.default_rng(0).normal(size=(5, 3)))
    by_x = jax.grad(lambda x: normalize(x, moments).sum())(jnp.zeros(3))
    np.testing.assert_allclose(by_x, 1 / np.sqrt(moments.variance), rtol=1e-5)

    def through_statistics(batch):
        updated = update_moments(moments, batch)
        return normalize(1.0, updated._replace(mean=updated.mean[0], variance=updated.variance[0]))

    assert not np.any(jax.grad(through_statistics)(jnp.ones((4, 3))))
    assert not np.any(jax.grad(lambda r: scale_rewards(r, init_moments(())).sum())(jnp.ones(3)))


def test_discounted_return_by_hand():
    """Env 0 ends at step 1; env 1 has an invalid step 1 that holds NaN."""
    rewards = np.array([[1.0, 1.0], [2.0, np.nan], [4.0, 4.0]])
    ended = np.array([[False, False], [True, False], [False, False]])
    weights = np.array([[1, 1], [1, 0], [1, 1]])
    accumulator, returns = np.zeros(2), []
    for t in range(3):
        step, accumulator = discounted_return_step(
            accumulator, rewards[t], ended[t], gamma=0.5, weights=weights[t]
        )
        returns.append(step)
    np.testing.assert_array_equal(returns, [[1, 1], [2.5, 0], [4, 4]])
    np.testing.assert_array_equal(accumulator, [4, 4])
    step, accumulator = discounted_return_step([2.0], [1.0], [False], gamma=0.5)
    np.testing.assert_array_equal([step, accumulator], [[2.0], [2.0]])


# Contract -------------------------------------------------------------------------------------


@pytest.mark.parametrize("x64", [extended(False), True])
def test_dtypes_under_any_setting_and_jit(x64):
    batch, weights = np.random.default_rng(0).normal(size=(4, 3)), np.ones(4, dtype=bool)
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        moments = jax.jit(update_moments)(init_moments((3,)), batch, weights=weights)
        assert [x.dtype for x in moments] == [np.uint32, np.uint32, np.float32, np.float32]
        assert [x.dtype for x in moments_of(batch, weights)] == [x.dtype for x in moments]
        floats = [
            count_of(moments),
            jax.jit(normalize)(batch, moments),
            denormalize(batch, moments),
            scale_rewards(batch, moments),
            *discounted_return_step(batch, batch, batch > 0, gamma=np.float64(0.9)),
        ]
    assert all(x.dtype == np.float32 for x in floats)
    assert_moments(moments, batch)


def test_wrong_arguments_are_refused():
    moments = init_moments((3,))
    for use in (normalize, denormalize, scale_rewards):
        with pytest.raises(ValueError, match=r"\(4, 2\).*\(3,\)"):
            use(np.zeros((4, 2)), moments)
        with pytest.raises(ValueError, match=r"epsilon.*0"):
            use(np.zeros(3), moments, epsilon=0.0)
    for use in (normalize, scale_rewards):
        with pytest.raises(ValueError, match=r"clip.*-1"):
            use(np.zeros(3), moments, clip=-1)
    with pytest.raises(ValueError, match=r"\(4, 2\).*\(3,\)"):
        update_moments(moments, np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"weights.*\(3,\).*\(4, 3\).*\(4,\)"):
        update_moments(moments, np.zeros((4, 3)), weights=np.ones(3))
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        merge_moments(moments, init_moments((2,)))
    with pytest.raises(ValueError, match=r"gamma.*1\.5"):
        discounted_return_step([0.0], [0.0], [False], gamma=1.5)
    with pytest.raises(ValueError, match=r"ended.*\(2,\).*\(1,\)"):
        discounted_return_step([0.0], [0.0], [False, True], gamma=0.5)


# Bounds and gradients -----------------------------------------------------------------------------


def test_no_rows_have_mean_0_and_variance_1():
    empty = init_moments((2,))
    np.testing.assert_array_equal(empty.mean, [0.0, 0.0])
    np.testing.assert_array_equal(empty.variance, [1.0, 1.0])


def test_the_largest_observation_counts():
    beyond = np.array([[np.nextafter(np.float32(1e15), np.float32(np.inf))]])
    assert count_of(moments_of(np.array([[1e15]]))) == 1.0
    assert count_of(moments_of(beyond)) == 0.0


def test_one_row_around_a_point_elsewhere():
    moments = moments_of(np.array([[5.0]]), shift=np.array([2.0]))
    np.testing.assert_array_equal(moments.mean, [5.0])
    np.testing.assert_array_equal(moments.variance, [0.0])


def test_precision_far_from_zero_with_a_row_that_does_not_count():
    rows = np.float32(1e6) + np.float32(0.0625) * np.arange(8, dtype=np.float32)[:, None]
    rows = np.concatenate([np.full((1, 1), np.nan, np.float32), rows])
    moments = moments_of(rows)
    np.testing.assert_allclose(moments.variance, rows[1:].astype(float).var(0), rtol=1e-5)


def test_one_column_is_not_three():
    with pytest.raises(ValueError, match=r"\(4, 1\).*\(3,\)"):
        normalize(np.ones((4, 1)), init_moments((3,)))


def test_no_gradient_reaches_the_statistics():
    rows = jnp.array([[1.0], [2.0], [4.0]])

    def of_rows(x):
        moments = moments_of(x)
        return (moments.mean + moments.variance).sum()

    def of_shift(x):
        moments = moments_of(rows, shift=x)
        return (moments.mean + moments.variance).sum()

    def of_variance(x):
        return normalize(rows, given_moments(3, [1.0], x)._replace(variance=x)).sum()

    def of_mean(x):
        moments = given_moments(3, [1.0], [2.0])._replace(mean=x)
        return (normalize(rows, moments) + denormalize(2 * rows, moments)).sum()

    def of_rewards(x):
        returns, accumulator = discounted_return_step(
            x, x, np.zeros(2, bool), gamma=0.9, weights=None
        )
        return (returns + accumulator).sum()

    for function, at in (
        (of_rows, rows),
        (of_shift, jnp.array([1.5])),
        (of_variance, jnp.array([2.0])),
        (of_mean, jnp.array([1.5])),
        (of_rewards, jnp.array([1.0, 2.0])),
    ):
        assert not np.asarray(jax.grad(function)(at)).any(), function.__name__
