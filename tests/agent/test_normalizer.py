"""The normalizer, part of the agent: what networks read of raw observation groups."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

from surefoot.agent import Normalizer, NormalizerSpec, make_normalizer
from surefoot.envs import ObservationSpec
from surefoot.functional import Reflection, count_of
from surefoot.networks import MLP, Torso

GROUPS = {"state": ObservationSpec((2,)), "map": ObservationSpec((3,))}

learn = eqx.filter_jit(Normalizer.update)


def observations(rows: int = 200) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {
        "state": (5 + 2 * random.standard_normal((rows, 2))).astype(np.float32),
        "map": (-3 + 0.5 * random.standard_normal((rows, 3))).astype(np.float32),
    }


def normalizer(*, enabled: bool = True, clip: float = 10.0) -> Normalizer:
    return make_normalizer(GROUPS, NormalizerSpec(enabled, clip))


def features(norm: Normalizer, seen: Any, groups: tuple[str, ...] = ("state", "map")) -> np.ndarray:
    """What a torso of the named groups reads."""
    return np.asarray(Torso(MLP((), "tanh"), None, groups).unroll(norm(seen), (), None)[0])


def test_features_are_the_named_groups_in_the_named_order() -> None:
    seen, ones = observations(), np.ones(200, np.float32)
    norm = learn(normalizer(), seen, ones)
    scaled = {n: (x - x.mean(0)) / x.std(0) for n, x in seen.items()}
    for groups in (("state",), ("map", "state"), ("state", "map")):
        expected = np.concatenate([scaled[name] for name in groups], axis=1)
        np.testing.assert_allclose(features(norm, seen, groups), expected, atol=1e-4)


def test_a_disabled_normalizer_only_selects_and_never_learns() -> None:
    seen = observations()
    off = normalizer(enabled=False, clip=0.1)
    after = off.update(seen, np.ones(200, np.float32))
    expected = np.concatenate([seen["map"], seen["state"]], axis=1)
    np.testing.assert_array_equal(features(after, seen, ("map", "state")), expected)
    assert count_of(after.moments["state"]) == 0


def test_a_normalizer_that_has_seen_nothing_passes_observations_through_clipped() -> None:
    state = np.float32([[0.5, -0.5], [30, -30]])
    seen = {"state": state, "map": np.zeros((2, 3), np.float32)}
    np.testing.assert_array_equal(normalizer()(seen)["state"], [[0.5, -0.5], [10, -10]])


def test_features_are_clipped_in_standard_deviations() -> None:
    seen = observations()
    norm = learn(normalizer(clip=1.5), seen, np.ones(200, np.float32))
    assert np.abs(features(norm, seen)).max() == 1.5


def test_identical_environments_get_identical_features() -> None:
    one = observations(10)
    stacked = {name: np.repeat(x[:, None], 4, axis=1) for name, x in one.items()}
    norm = learn(normalizer(), stacked, np.ones((10, 4), np.float32))
    seen = features(norm, stacked)
    assert seen.shape == (10, 4, 5)
    assert all(seen[:, i].tobytes() == seen[:, 0].tobytes() for i in range(4))


@pytest.mark.parametrize("held", [np.nan, 1e6])
def test_masked_rows_do_not_count_whatever_they_hold(held: float) -> None:
    seen = observations()
    weights = (np.arange(200) % 3 != 0).astype(np.float32)
    spoilt = {n: np.where(weights[:, None] > 0, x, np.float32(held)) for n, x in seen.items()}
    alone = {n: x[weights > 0] for n, x in seen.items()}
    ones = np.ones(len(alone["state"]), np.float32)
    masked = learn(normalizer(), spoilt, weights)
    valid = learn(normalizer(), alone, ones)
    for name in seen:
        assert count_of(masked.moments[name]) == ones.size
        np.testing.assert_allclose(masked.moments[name].mean, valid.moments[name].mean, rtol=1e-5)
        np.testing.assert_allclose(
            masked.moments[name].variance, valid.moments[name].variance, rtol=1e-4
        )


def test_a_row_of_nan_poisons_no_statistic_and_no_other_row() -> None:
    seen, ones = observations(), np.ones(200, np.float32)
    spoilt = {n: x.copy() for n, x in seen.items()}
    spoilt["state"][7, 0] = np.nan
    clean, poisoned = learn(normalizer(), seen, ones), learn(normalizer(), spoilt, ones)
    assert count_of(poisoned.moments["state"]) == 199
    others = np.arange(200) != 7
    read = features(poisoned, spoilt)
    assert np.isfinite(read[others]).all()
    np.testing.assert_allclose(read[others], features(clean, seen)[others], atol=0.05)


def test_updates_add_up_to_the_statistics_of_everything_seen() -> None:
    seen, norm = observations(), normalizer()
    for part in np.split(np.arange(200), [30, 100]):
        norm = learn(norm, {n: x[part] for n, x in seen.items()}, np.ones(part.size, np.float32))
    for name, x in seen.items():
        assert count_of(norm.moments[name]) == 200
        np.testing.assert_allclose(norm.moments[name].mean, x.mean(0), rtol=1e-5)
        np.testing.assert_allclose(norm.moments[name].variance, x.var(0), rtol=1e-4)


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan])
def test_a_clip_is_above_0(clip: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        NormalizerSpec(True, clip)
    NormalizerSpec(True, 1e-6)


def test_moments_are_those_of_rows_and_their_mirror_images_of_the_groups_that_are_there() -> None:
    swap = Reflection((1, 0), (1.0, -1.0))
    spec = NormalizerSpec(True, 50.0, (("state", swap), ("gone", Reflection((0,), (1.0,)))))
    seen, ones = observations(), np.ones(200, np.float32)
    norm = learn(make_normalizer(GROUPS, spec), seen, ones)
    both = np.concatenate([seen["state"], np.asarray(swap(seen["state"]))]).astype(np.float64)
    expected = (seen["state"] - both.mean(axis=0)) / both.std(axis=0)
    np.testing.assert_allclose(features(norm, seen, ("state",)), expected, rtol=1e-3, atol=1e-3)
    plain = learn(normalizer(clip=50.0), seen, ones)
    np.testing.assert_array_equal(features(norm, seen, ("map",)), features(plain, seen, ("map",)))


def test_features_change_no_statistic() -> None:
    seen = observations()
    norm = learn(normalizer(), seen, np.ones(200, np.float32))
    before = [np.asarray(x).tobytes() for x in jax.tree.leaves(norm)]
    features(norm, seen)
    assert [np.asarray(x).tobytes() for x in jax.tree.leaves(norm)] == before


def test_a_shaped_group_is_read_flat_with_moments_of_each_of_its_numbers() -> None:
    grid = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    norm = make_normalizer({"grid": ObservationSpec((2, 3))}, NormalizerSpec(True, 10.0))
    norm = learn(norm, {"grid": grid}, np.ones(4, np.float32))
    np.testing.assert_allclose(norm.moments["grid"].mean, [9, 10, 11, 12, 13, 14], rtol=1e-6)
    # 0, 6, 12, 18 have the standard deviation sqrt(45)
    expected = np.repeat(np.float32([-9, -3, 3, 9])[:, None], 6, axis=1) / np.sqrt(45)
    np.testing.assert_allclose(norm({"grid": grid})["grid"], expected, rtol=1e-5)


def test_integers_are_normalized_as_the_one_hot_numbers_that_networks_read() -> None:
    groups = {"legs": ObservationSpec((2,), choices=(2, 3), starts=(0, 0))}
    seen = {"legs": np.int32([[0, 2], [1, 2], [1, 0], [1, 1]])}
    flat = np.float32([[1, 0, 0, 0, 1], [0, 1, 0, 0, 1], [0, 1, 1, 0, 0], [0, 1, 0, 1, 0]])
    off = make_normalizer(groups, NormalizerSpec(False, 10.0))
    np.testing.assert_array_equal(off(seen)["legs"], flat)
    norm = learn(make_normalizer(groups, NormalizerSpec(True, 10.0)), seen, np.ones(4, np.float32))
    np.testing.assert_allclose(norm.moments["legs"].mean, flat.mean(0), atol=1e-6)
    expected = (flat - flat.mean(0)) / flat.std(0)
    np.testing.assert_allclose(norm(seen)["legs"], expected, rtol=1e-5, atol=1e-6)
