"""The means and deviations that every other module takes."""

from __future__ import annotations

import numpy as np

from surefoot.functional import masked_deviations, masked_mean


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
