"""A few hundred damaged files through every verb that reads; `tests.faults.fuzz` for more."""

from __future__ import annotations

import pytest
from tests.faults.fuzz import fuzz


@pytest.mark.extended
def test_a_damaged_file_is_read_or_refused_with_one_error() -> None:
    # no clock decides here but for what would never end
    assert fuzz(300, seed=7, most_seconds=30.0) == []
