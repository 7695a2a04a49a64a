"""The means and deviations that every other module takes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefoot.functional import finite_or_zero, masked_deviations, masked_mean


def test_the_mean_of_a_part_of_a_row() -> None:
    assert masked_mean([3.0], [0.5]) == 3.0
    np.testing.assert_allclose(masked_mean([1.0, 4.0], [0.25, 0.5]), 3.0)


def test_equal_numbers_deviate_by_exactly_zero_behind_a_row_that_does_not_count() -> None:
    for number in (0.1, 0.3, 1e6 + 0.3):
        for size in (3, 7, 11, 100):
            numbers = np.full(size + 1, number, np.float32)
            numbers[0] = np.nan
            weights = np.arange(size + 1) > 0
            assert not np.asarray(masked_deviations(numbers, weights)).any()


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8", "bool"])
def test_what_is_finite_stays_with_its_shape_and_dtype(dtype: str) -> None:
    rows = jnp.asarray(np.arange(6).reshape(1, 2, 3)).astype(dtype)
    same = finite_or_zero(rows)
    assert same.dtype == dtype
    np.testing.assert_array_equal(same, rows)


def test_what_is_not_finite_becomes_zero_where_it_stands_and_passes_no_gradient() -> None:
    rows = jnp.float32([[1.0, np.nan], [np.inf, -2.0], [-np.inf, 0.0]])
    np.testing.assert_array_equal(finite_or_zero(rows), [[1, 0], [0, -2], [0, 0]])
    largest = jnp.float32(np.finfo(np.float32).max)
    assert finite_or_zero(largest) == largest
    gradient = jax.grad(lambda x: finite_or_zero(x).sum())(rows)
    np.testing.assert_array_equal(gradient, [[1, 0], [0, 1], [0, 1]])
