"""What an agent reads and writes: integers as one-hot numbers, actions in 32 bits and at random."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefoot.envs import ActionSpec, ObservationSpec

KEY = jax.random.key(0)
NUMBERS = ObservationSpec((2,))
ONE = ObservationSpec((), choices=(4,), starts=(-1,))
SEVERAL = ObservationSpec((2,), choices=(2, 3), starts=(5, -1))
GRID = ObservationSpec((2, 2), choices=(2, 1, 1, 2), starts=(0, 0, 0, 0))


@pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
@pytest.mark.parametrize(
    ("spec", "raw", "cast", "encoded"),
    [
        (NUMBERS, [[1.5, -2.0]], [[1.5, -2.0]], [[1.5, -2.0]]),
        (NUMBERS, np.uint8([[255, 0]]), [[255, 0]], [[255, 0]]),
        (ObservationSpec(()), [3.0, 4.0], [3, 4], [[3], [4]]),
        (ObservationSpec((2, 2)), [[1, 2, 3, 4]], [[[1, 2], [3, 4]]], [[1, 2, 3, 4]]),
        (ONE, [-1, 2, 0], [0, 3, 1], [[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]]),
        (ONE, [[-1], [2]], [0, 3], [[1, 0, 0, 0], [0, 0, 0, 1]]),
        (SEVERAL, [[6, -1], [5, 1]], [[1, 0], [0, 2]], [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
        (SEVERAL, np.uint8([[6, 0]]), [[1, 1]], [[0, 1, 0, 1, 0]]),
        (GRID, [[[1, 0], [0, 1]]], [[[1, 0], [0, 1]]], [[0, 1, 1, 1, 0, 1]]),
    ],
    ids=str,
)
def test_integers_are_cast_to_count_from_zero_and_encoded_as_one_hot(
    spec: ObservationSpec, raw: Any, cast: Any, encoded: Any, xp: Any
) -> None:
    ours = spec.cast(np.asarray(raw), xp)
    assert isinstance(ours, np.ndarray if xp is np else jax.Array)
    assert ours.dtype == spec.dtype == ("int32" if spec.choices else "float32")
    np.testing.assert_array_equal(ours, cast)
    flat = spec.encode(jnp.asarray(ours))
    assert flat.dtype == jnp.float32
    assert spec.size == flat.shape[-1]
    np.testing.assert_array_equal(flat, encoded)


@pytest.mark.parametrize("spec", [ObservationSpec((2, 3)), ONE, SEVERAL, GRID], ids=str)
def test_sequences_are_encoded_row_by_row(spec: ObservationSpec) -> None:
    random = np.random.default_rng(0)
    rows = random.integers(0, 2, (3, 4, *spec.shape)).astype(spec.dtype)
    flat = spec.encode(jnp.asarray(rows))
    assert flat.shape == (3, 4, spec.size)
    one_by_one = [[spec.encode(jnp.asarray(row)) for row in rows_t] for rows_t in rows]
    np.testing.assert_array_equal(flat, one_by_one)


def test_double_precision_is_rounded_to_single_where_the_contract_begins() -> None:
    cast = NUMBERS.cast(np.array([[0.1, 1e-50]]))
    assert cast.dtype == np.float32
    np.testing.assert_array_equal(cast, np.float32([[0.1, 0.0]]))


@pytest.mark.parametrize(
    ("shape", "choices", "starts"),
    [((2,), (3,), (0,)), ((), (2, 2), (0, 0)), ((2,), (2, 3), (0,)), ((2,), (2, 3), ())],
)
def test_every_integer_of_a_group_needs_its_choices_and_its_start(
    shape: tuple[int, ...], choices: tuple[int, ...], starts: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="observation spec"):
        ObservationSpec(shape, choices, starts)


DOUBLE = ActionSpec("continuous", (2,), (-0.1, -1.0), (0.1, 1.0), (2,), dtype="float64")


@pytest.mark.parametrize(
    ("dtype", "narrow"),
    [
        ("float64", "float32"),
        ("float32", "float32"),
        ("float16", "float32"),
        ("int64", "int32"),
        ("int8", "int32"),
        ("uint8", "int32"),
        ("uint64", "int32"),
    ],
)
def test_programs_write_actions_in_32_bits_and_the_host_widens_them(
    dtype: str, narrow: str
) -> None:
    spec = ActionSpec("continuous", (2,), (0.0, 0.0), (4.0, 4.0), (2,), dtype)
    sent = spec.narrow.to_env(jnp.float32([[-1.0, 0.5]]))
    assert spec.narrow.dtype == sent.dtype == narrow
    assert spec.narrow.narrow == spec.narrow
    wide = spec.widen(sent)
    assert isinstance(wide, np.ndarray)
    assert wide.dtype == dtype
    np.testing.assert_array_equal(wide, [[0, 3]])


def test_only_the_dtype_is_narrowed() -> None:
    assert DOUBLE.narrow == ActionSpec("continuous", (2,), (-0.1, -1.0), (0.1, 1.0), (2,))
    shifted = ActionSpec("multi_discrete", (2, 3), shape=(2,), dtype="int64", start=(4, -1))
    assert shifted.narrow.start == (4, -1)
    np.testing.assert_array_equal(
        shifted.widen(shifted.narrow.to_env(jnp.int32([[1, 2]]))), [[5, 1]]
    )


def test_a_widened_double_lies_inside_bounds_that_single_precision_does_not_hold() -> None:
    sent = DOUBLE.widen(DOUBLE.narrow.to_env(jnp.float32([[-7.0, -7.0], [7.0, 7.0]])))
    assert sent.dtype == np.float64
    assert (np.abs(sent) <= [0.1, 1.0]).all()
    np.testing.assert_allclose(sent, [[-0.1, -1.0], [0.1, 1.0]], rtol=1e-7)


def test_widening_copies_nothing_where_the_dtype_is_right() -> None:
    action = np.zeros((3, 2), np.float64)
    assert DOUBLE.widen(action) is action


def test_random_continuous_actions_fill_the_canonical_range() -> None:
    drawn = np.asarray(DOUBLE.random(KEY, (50, 8)))
    assert drawn.shape == (50, 8, 2)
    assert drawn.dtype == np.float32
    assert -1 <= drawn.min() < -0.95
    assert 0.95 < drawn.max() < 1
    assert abs(drawn.mean()) < 0.1


@pytest.mark.parametrize(
    ("spec", "shape", "highest"),
    [
        (ActionSpec("discrete", (3,), start=7), (50, 8), 2),
        (ActionSpec("multi_discrete", (2, 4), shape=(2,)), (50, 8, 2), [1, 3]),
        (ActionSpec("multi_discrete", (4,), shape=(1,)), (50, 8, 1), [3]),
        (ActionSpec("multi_binary", (3,), shape=(3,)), (50, 8, 3), [1, 1, 1]),
    ],
    ids=str,
)
def test_random_choices_are_canonical_and_take_every_value(
    spec: ActionSpec, shape: tuple[int, ...], highest: Any
) -> None:
    drawn = np.asarray(spec.random(KEY, (50, 8)))
    assert drawn.shape == shape
    assert drawn.dtype == np.int32
    np.testing.assert_array_equal(drawn.min(axis=(0, 1)), np.zeros(shape[2:]))
    np.testing.assert_array_equal(drawn.max(axis=(0, 1)), highest)
    for component in np.atleast_2d(drawn.reshape(400, -1).T):
        counts = np.bincount(component)
        assert (np.abs(counts / 400 - 1 / len(counts)) < 0.1).all()


def test_other_keys_draw_other_actions_and_equal_keys_the_same() -> None:
    ours, again = DOUBLE.random(KEY, (4,)), DOUBLE.random(KEY, (4,))
    np.testing.assert_array_equal(ours, again)
    assert not np.isclose(ours, DOUBLE.random(jax.random.key(1), (4,))).any()
