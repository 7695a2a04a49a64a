"""Laws of the critic's losses (mathematics.md sec. 3)."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from tests.helpers import extended

from surefoot.functional import (
    clipped_value_loss,
    histogram_targets,
    histogram_values,
    hl_gauss_loss,
    squared_value_loss,
    value_targets,
)

laws = settings(max_examples=30)
seeds = st.integers(0, 2**32 - 1)

# Both with the arguments (values, old_values, returns), so that one law can be told of each.
LOSSES = {
    "squared": lambda values, old, returns, **kw: squared_value_loss(values, returns, **kw),
    "clipped": partial(clipped_value_loss, value_clip_epsilon=0.2),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def random_batch(seed, shape=(6,)):
    values, old_values, returns = np.random.default_rng(seed).normal(size=(3, *shape))
    return jnp.asarray(values, jnp.float32), old_values, returns


def test_squared_value_loss_by_hand_with_its_half():
    value, gradient = jax.value_and_grad(squared_value_loss)(jnp.array([1.0, 5.0]), [3.0, 1.0])
    assert value == 0.5 * (4.0 + 16.0) / 2
    np.testing.assert_array_equal(gradient, [-1.0, 2.0])  # the error, averaged


@pytest.mark.parametrize(
    ("value", "returns", "loss", "gradient"),
    [
        (2.0, 3.0, 2.0, 0.0),  # towards the target, beyond the band: V_clip = 1 decides
        (2.0, 1.0, 0.5, 1.0),  # away from the target: V decides
        (-2.0, -3.0, 2.0, 0.0),
        (-2.0, 1.0, 4.5, -3.0),
        (0.5, 3.0, 3.125, -2.5),  # inside the band: as without clipping
    ],
)
def test_clipped_value_loss_by_hand(value, returns, loss, gradient):
    """V_old = 0 and eps_v = 1."""
    run = jax.value_and_grad(partial(clipped_value_loss, value_clip_epsilon=1.0))
    actual, actual_gradient = run(value, 0.0, returns)
    assert actual == loss
    assert actual_gradient == gradient


def test_the_band_is_around_the_old_value():
    assert clipped_value_loss(12.0, 10.0, 13.0, value_clip_epsilon=1.0) == 2.0


@laws
@given(seed=seeds, epsilon=st.sampled_from([0.0, 0.1, 1.0]))
def test_the_clipped_loss_is_never_smaller_and_is_the_squared_loss_at_infinity(seed, epsilon):
    values, old_values, returns = random_batch(seed)
    squared = squared_value_loss(values, returns)
    assert clipped_value_loss(values, old_values, returns, value_clip_epsilon=epsilon) >= squared
    unbounded = clipped_value_loss(values, old_values, returns, value_clip_epsilon=math.inf)
    np.testing.assert_allclose(unbounded, squared, rtol=1e-5)


@every_loss
def test_gradient_flows_through_values_only(loss):
    batch = (jnp.asarray(x, jnp.float32) for x in random_batch(0))
    by_values, by_old, by_returns = jax.grad(loss, argnums=(0, 1, 2))(*batch)
    assert np.any(by_values)
    assert not np.any(by_old)
    assert not np.any(by_returns)


def test_a_histogram_by_hand():
    # four bins over [-2, 2]: middles -1.5, -0.5, 0.5, 1.5
    logits = np.log([0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(
        histogram_values(logits, limit=2.0), -0.15 - 0.1 + 0.15 + 0.6, rtol=1e-5
    )
    edges = norm.cdf((np.array([-2, -1, 0, 1, 2]) - 0.3) / 0.75)
    expected = np.diff(edges) / (edges[-1] - edges[0])
    targets = histogram_targets(0.3, limit=2.0, bins=4)
    np.testing.assert_allclose(targets, expected, rtol=1e-4)
    loss = hl_gauss_loss(logits[None], [0.3], limit=2.0)
    np.testing.assert_allclose(loss, -(expected * logits).sum(), rtol=1e-4)


@laws
@given(returns=st.floats(-50, 50), limit=st.floats(0.5, 40), bins=st.sampled_from([11, 51, 101]))
def test_the_mean_of_a_targets_histogram_is_the_target_within_the_limit(returns, limit, bins):
    targets = histogram_targets(returns, limit=limit, bins=bins)
    np.testing.assert_allclose(targets.sum(), 1.0, rtol=1e-5)
    mean, width = histogram_values(jnp.log(targets + 1e-30), limit=limit), 2 * limit / bins
    inside = limit - 3 * width
    # near the ends the normal distribution is cut off, and its mean lies further inside
    allowed = 0.02 * width if abs(returns) < inside else 0.7 * width
    assert abs(mean - np.clip(returns, -limit, limit)) < allowed + 1e-5 * limit


@laws
@given(seed=seeds)
def test_the_gradient_of_the_cross_entropy_is_the_difference_of_the_histograms(seed):
    rng = np.random.default_rng(seed)
    logits, returns = jnp.asarray(rng.normal(size=(3, 21)), jnp.float32), 3 * rng.normal(size=3)
    by_logits, by_returns = jax.grad(partial(hl_gauss_loss, limit=5.0), argnums=(0, 1))(
        logits, jnp.asarray(returns, jnp.float32)
    )
    expected = jax.nn.softmax(logits) - histogram_targets(returns, limit=5.0, bins=21)
    np.testing.assert_allclose(by_logits, expected / 3, atol=1e-6)
    assert not np.any(by_returns)


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e9])
def test_rows_of_weight_zero_of_a_histogram_influence_nothing(poison):
    weights = np.array([2.0, 0.0, 1.0])
    logits, returns = np.random.default_rng(0).normal(size=(3, 7)), np.array([0.1, -2.0, 3.0])

    def run(filler):
        rows = np.where(weights[:, None], logits, filler).astype(np.float32)
        return jax.value_and_grad(partial(hl_gauss_loss, limit=2.0))(
            jnp.asarray(rows), np.where(weights, returns, filler), weights=weights
        )

    (value, gradient), (expected, expected_gradient) = run(poison), run(0.0)
    assert value == expected
    np.testing.assert_array_equal(gradient, expected_gradient)
    assert not np.any(gradient[1])
    assert hl_gauss_loss(logits, returns, limit=2.0, weights=np.zeros(3)) == 0.0
    alone = [hl_gauss_loss(logits[i : i + 1], returns[i : i + 1], limit=2.0) for i in (0, 2)]
    np.testing.assert_allclose(value, (2 * alone[0] + alone[1]) / 3, rtol=1e-5)


def test_a_histogram_of_another_shape_is_refused_with_both():
    with pytest.raises(ValueError, match=r"returns.*\(3, 1\).*\(3,\)"):
        hl_gauss_loss(np.zeros((3, 5)), np.zeros((3, 1)), limit=1.0)


def test_value_targets_are_constants():
    targets = value_targets(np.array([1.0, -2.0]), np.array([10.0, 20.0]))
    np.testing.assert_array_equal(targets, [11.0, 18.0])
    total = jax.grad(lambda a, v: value_targets(a, v).sum(), argnums=(0, 1))
    assert not np.any(np.asarray(total(jnp.ones(2), jnp.ones(2))))
    with pytest.raises(ValueError, match=r"\(2, 1\).*\(2,\)"):
        value_targets(np.zeros(2), np.zeros((2, 1)))


@every_loss
@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e9])
def test_rows_of_weight_zero_influence_nothing(loss, poison):
    weights = np.array([True, False, True, True, False, True])

    def run(filler):
        values, old, returns = (np.where(weights, x, filler) for x in random_batch(1))
        return jax.value_and_grad(loss)(
            jnp.asarray(values, jnp.float32), old, returns, weights=weights
        )

    value, gradient = run(poison)
    expected, expected_gradient = run(0.0)
    assert value == expected
    np.testing.assert_array_equal(gradient, expected_gradient)
    assert not np.any(gradient[~weights])


@every_loss
def test_padding_and_empty_batches(loss):
    batch = random_batch(2)
    padded = [np.concatenate([x, np.full(10, 7.0)]) for x in batch]
    weights = np.arange(16) < 6
    np.testing.assert_allclose(loss(*padded, weights=weights), loss(*batch), rtol=1e-6)
    assert loss(*padded, weights=np.zeros(16)) == 0.0


@every_loss
@pytest.mark.parametrize("x64", [extended(False), True])
def test_float32_scalar_under_any_setting_and_jit(loss, x64):
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        batch = random_batch(3, (2, 3))
        expected, jitted = loss(*batch), jax.jit(loss)(*batch, weights=np.ones((2, 3)))
        targets = value_targets(np.ones(3), np.ones(3, dtype=np.float32))
    assert expected.dtype == jitted.dtype == targets.dtype == np.float32
    assert expected.shape == jitted.shape == ()
    np.testing.assert_allclose(jitted, expected, rtol=1e-5)


@every_loss
def test_wrong_arguments_are_refused(loss):
    with pytest.raises(ValueError, match=r"returns.*\(3, 1\).*\(3,\)"):
        loss(np.zeros(3), np.zeros(3), np.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"value_clip_epsilon.*-1"):
        clipped_value_loss([0.0], [0.0], [0.0], value_clip_epsilon=-1)


def test_no_gradient_reaches_the_clip_range():
    def loss(epsilon):
        return clipped_value_loss(
            np.array([1.0]), np.array([0.0]), np.array([3.0]), value_clip_epsilon=epsilon
        )

    assert loss(0.2) > loss(0.5)  # it matters here
    assert jax.grad(loss)(0.2) == 0.0
