"""Schedules at their ends, in between and beyond; the KL rules on each side of their bands."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.functional import (
    adaptive_kl_coefficient,
    cosine,
    kl_adaptive_learning_rate,
    linear,
)

laws = settings(max_examples=50)
both_curves = pytest.mark.parametrize("schedule", [linear, cosine])


@both_curves
@pytest.mark.parametrize(("start", "end"), [(3e-4, 0.0), (0.1, 0.7), (3e-4, 3e-5)])
def test_exact_at_both_ends_and_clipped_beyond(schedule, start, end):
    for progress in (-1.0, 0.0, 0):
        assert schedule(progress, start, end) == np.float32(start)
    for progress in (1.0, 1, 7.0, math.inf):
        assert schedule(progress, start, end) == np.float32(end)
    np.testing.assert_allclose(schedule(0.5, start, end), (start + end) / 2, rtol=1e-6)


def test_in_between_by_hand():
    np.testing.assert_allclose(linear(0.25, 4.0, 8.0), 5.0)
    np.testing.assert_allclose(cosine(0.25, 0.0, 1.0), (1 - math.sqrt(0.5)) / 2, rtol=1e-6)


@both_curves
@laws
@given(first=st.floats(0, 1), second=st.floats(0, 1))
def test_annealing_never_rises(schedule, first, second):
    early, late = sorted((first, second))
    assert schedule(early, 1.0, 0.25) >= schedule(late, 1.0, 0.25)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (0.021, 1e-3 / 1.5),
        (math.inf, 1e-3 / 1.5),
        (0.0199, 1e-3),
        (0.0051, 1e-3),
        (0.0049, 1.5e-3),
        (1e-9, 1.5e-3),
        (0.0, 1e-3),
        (-0.001, 1e-3),
        (math.nan, 1e-3),
    ],
)
def test_kl_adaptive_learning_rate(kl, expected):
    actual = kl_adaptive_learning_rate(1e-3, kl, target_kl=0.01)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_kl_adaptive_learning_rate_stays_within_its_bounds():
    assert kl_adaptive_learning_rate(1.2e-5, 1.0, target_kl=0.01) == np.float32(1e-5)
    assert kl_adaptive_learning_rate(9e-3, 1e-3, target_kl=0.01) == np.float32(1e-2)
    bounds = {"factor": 4.0, "minimum": 0.5, "maximum": 2.0}
    assert kl_adaptive_learning_rate(1.0, 1.0, target_kl=0.01, **bounds) == 0.5
    assert kl_adaptive_learning_rate(1.0, 1e-3, target_kl=0.01, **bounds) == 2.0
    assert kl_adaptive_learning_rate(8.0, 1.0, target_kl=0.01, **bounds) == 2.0


@pytest.mark.parametrize(
    ("kl", "expected"),
    [(0.0151, 6.0), (0.0149, 3.0), (0.0067, 3.0), (0.0066, 1.5), (0.0, 1.5), (math.nan, 3.0)],
)
def test_adaptive_kl_coefficient(kl, expected):
    assert adaptive_kl_coefficient(3.0, kl, target_kl=0.01) == expected


@pytest.mark.parametrize("kl", [0.0, 10.0])
def test_adaptive_kl_coefficient_stays_positive_finite_and_can_return(kl):
    adapt = jax.jit(lambda beta, kl: adaptive_kl_coefficient(beta, kl, target_kl=0.01))
    beta = 1.0
    for _ in range(300):
        beta = adapt(beta, kl)
    assert beta == np.float32(1e-6 if kl == 0.0 else 1e6)
    assert adapt(beta, 10.0 - kl) == beta * (2.0 if kl == 0.0 else 0.5)


@pytest.mark.parametrize("x64", [False, True])
def test_float32_under_any_setting_and_jit(x64):
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        one = np.float64(1.0)
        results = [
            jax.jit(linear)(one, one, 1),
            jax.jit(cosine)(one, 1, one),
            jax.jit(kl_adaptive_learning_rate)(one, one, target_kl=one),
            jax.jit(adaptive_kl_coefficient)(one, one, target_kl=one),
        ]
    assert all(x.dtype == np.float32 and x.shape == () for x in results)


def test_wrong_arguments_are_refused():
    for target_kl in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"target_kl.*{target_kl}"):
            kl_adaptive_learning_rate(1e-3, 0.01, target_kl=target_kl)
        with pytest.raises(ValueError, match=f"target_kl.*{target_kl}"):
            adaptive_kl_coefficient(1.0, 0.01, target_kl=target_kl)
    with pytest.raises(ValueError, match=r"factor.*0\.5"):
        kl_adaptive_learning_rate(1e-3, 0.01, target_kl=0.01, factor=0.5)


def test_at_the_bounds_nothing_changes():
    """Bounds that float32 holds exactly."""
    for kl in (1.0, 0.25):
        assert kl_adaptive_learning_rate(1e-3, kl, target_kl=0.5) == np.float32(1e-3)
    assert adaptive_kl_coefficient(1.0, 1.0, target_kl=1.5) == 1.0
    assert adaptive_kl_coefficient(1.0, 3.0, target_kl=2.0) == 1.0
