"""Closed forms for everything that is logged about an update."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import extended

from surefoot.functional import (
    approx_kl,
    clip_fraction,
    effective_sample_size,
    explained_variance,
    max_ratio,
)

laws = settings(max_examples=30)
seeds = st.integers(0, 2**32 - 1)

DIAGNOSTICS = {
    "k1": partial(approx_kl, estimator="k1"),
    "k3": approx_kl,
    "clip_fraction": clip_fraction,
    "effective_sample_size": effective_sample_size,
    "max_ratio": max_ratio,
    "explained_variance": explained_variance,
}
every_diagnostic = pytest.mark.parametrize(
    "diagnostic", DIAGNOSTICS.values(), ids=DIAGNOSTICS.keys()
)
# Ratios 2, 1, 1/2.
NEW, OLD = np.log([0.4, 0.3, 0.2]), np.log([0.2, 0.3, 0.4])


def test_by_hand():
    np.testing.assert_allclose(approx_kl(NEW[:2], OLD[:2], estimator="k1"), -math.log(2) / 2)
    k3 = ((2 - 1) - math.log(2) + (0.5 - 1) + math.log(2)) / 3
    np.testing.assert_allclose(approx_kl(NEW, OLD), k3, rtol=1e-6)
    np.testing.assert_allclose(clip_fraction(NEW, OLD), 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(effective_sample_size(NEW, OLD), 3.5**2 / 5.25, rtol=1e-6)
    np.testing.assert_allclose(max_ratio(NEW, OLD), 2.0, rtol=1e-6)


def test_clip_fraction_counts_both_sides_of_the_interval():
    assert clip_fraction(NEW, OLD, clip_epsilon=0.6) == np.float32(1 / 3)
    assert clip_fraction(NEW, OLD, clip_epsilon=math.inf) == 0.0
    ratios = np.array([0.79, 0.81, 1.19, 1.21])
    assert clip_fraction(np.log(ratios), np.zeros(4)) == 0.5
    with pytest.raises(ValueError, match=r"clip_epsilon.*-0\.5"):
        clip_fraction(NEW, OLD, clip_epsilon=-0.5)


def test_explained_variance_by_hand():
    returns = np.array([1.0, 2.0, 3.0, 6.0])
    assert explained_variance(returns + 5.0, returns) == 1.0
    assert explained_variance(np.zeros(4), returns) == 0.0
    np.testing.assert_allclose(explained_variance(-returns, returns), -3.0, rtol=1e-6)
    np.testing.assert_allclose(explained_variance(returns / 2, returns), 0.75, rtol=1e-6)
    masked = explained_variance([1.0, 2.0, np.nan], [1.0, 3.0, 9.0], weights=[1, 1, 0])
    np.testing.assert_allclose(masked, 0.75, rtol=1e-6)


def test_explained_variance_of_constant_returns_is_zero():
    for constant in (0.1, 1800.1):
        assert explained_variance([1.0, 2.0, 3.0], np.full(3, constant)) == 0.0


@laws
@given(seed=seeds)
def test_k3_is_never_negative_and_both_estimate_the_kl(seed):
    rng = np.random.default_rng(seed)
    new, old = np.asarray(jax.nn.log_softmax(rng.normal(size=(2, 5)).astype(np.float32)))
    for log_prob, old_log_prob in zip(new, old, strict=True):
        assert approx_kl(log_prob, old_log_prob) >= 0.0
    kl = np.sum(np.exp(old) * (old - new))
    for estimator in ("k1", "k3"):
        estimate = approx_kl(new, old, estimator=estimator, weights=np.exp(old))
        np.testing.assert_allclose(estimate, kl, rtol=1e-3, atol=1e-5)


def test_k3_keeps_its_digits_for_small_steps():
    np.testing.assert_allclose(approx_kl([1e-3], [0.0]), 5.00167e-7, rtol=1e-3)


def test_unknown_estimator_names_the_known_ones():
    with pytest.raises(ValueError, match=r"k2.*k1, k3"):
        approx_kl(NEW, OLD, estimator="k2")


def test_effective_sample_size_is_stable():
    """Only the differences of the log-ratios matter, even where the ratios leave float32."""
    for offset in (500.0, -500.0):
        shifted = effective_sample_size(NEW + offset, OLD)
        np.testing.assert_allclose(shifted, 3.5**2 / 5.25, rtol=1e-3)
    assert effective_sample_size(np.ones(7), np.zeros(7)) == 7.0
    assert effective_sample_size([0.0, -300.0], [0.0, 0.0]) == 1.0
    assert effective_sample_size([0.0, 0.0], [0.0, -np.inf], weights=[1, 0]) == 1.0


def test_effective_sample_size_weighs():
    np.testing.assert_allclose(
        effective_sample_size(NEW[:2], OLD[:2], weights=[1, 3]), 25 / 7, rtol=1e-6
    )


def test_max_ratio_ignores_rows_of_weight_zero():
    assert max_ratio([-1.0, 0.0], [0.0, 0.0], weights=[1, 0]) == np.float32(math.exp(-1.0))


@every_diagnostic
@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e9])
def test_rows_of_weight_zero_influence_nothing(diagnostic, poison):
    weights = np.array([True, False, True, True, False, True])
    batch = np.random.default_rng(1).normal(size=(2, 6))
    poisoned = diagnostic(*np.where(weights, batch, poison), weights=weights)
    assert poisoned == diagnostic(*np.where(weights, batch, 0.0), weights=weights)
    np.testing.assert_allclose(poisoned, diagnostic(*batch[:, weights]), rtol=1e-5)


@every_diagnostic
def test_without_valid_rows_the_result_is_zero(diagnostic):
    assert diagnostic(NEW, OLD, weights=np.zeros(3)) == 0.0


@every_diagnostic
def test_no_gradient_flows(diagnostic):
    by_new, by_old = jax.grad(diagnostic, argnums=(0, 1))(
        jnp.asarray(NEW, jnp.float32), jnp.asarray(OLD, jnp.float32)
    )
    assert not np.any(by_new)
    assert not np.any(by_old)


@every_diagnostic
@pytest.mark.parametrize("x64", [extended(False), True])
def test_float32_scalar_under_any_setting_and_jit(diagnostic, x64):
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        expected = diagnostic(NEW.astype(np.float32), OLD)
        jitted = jax.jit(diagnostic)(NEW, OLD, weights=np.ones(3, dtype=bool))
    assert expected.dtype == jitted.dtype == np.float32
    assert expected.shape == jitted.shape == ()
    np.testing.assert_allclose(jitted, expected, rtol=1e-5, atol=1e-6)


@every_diagnostic
def test_shape_mismatch_names_both_shapes(diagnostic):
    with pytest.raises(ValueError, match=r"\(3, 1\).*\(3,\)"):
        diagnostic(np.zeros(3), np.zeros((3, 1)))


def test_the_bound_itself_is_not_clipped():
    assert clip_fraction(NEW, NEW, clip_epsilon=0.0) == 0.0


def test_a_row_that_does_not_count_takes_nothing_from_the_effective_sample_size():
    """Its ratio is 1 here, that of the others e^-200: measured against it they would vanish."""
    size = effective_sample_size([-200.0, -200.0, 0.0], np.zeros(3), weights=[1.0, 1.0, 0.0])
    np.testing.assert_allclose(size, 2.0, rtol=1e-6)


def test_the_effective_sample_size_of_a_part_of_a_row():
    np.testing.assert_allclose(effective_sample_size([0.3], [0.1], weights=[0.25]), 0.25)


def test_explained_variance_of_returns_that_hardly_vary():
    returns = np.array([0.1, 0.2, 0.3, 0.4])
    errors = np.array([0.05, -0.05, 0.05, -0.05])
    expected = 1.0 - errors.var() / returns.var()
    np.testing.assert_allclose(explained_variance(returns + errors, returns), expected, rtol=1e-5)
