"""Gymnasium spaces as observation groups and action specs; canonical actions as the environment's own."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.agent.description import from_json, to_json
from surefoot.envs import ActionSpec, EnvSpec
from surefoot.envs.spaces import action_spec, observation_groups, observation_specs, random_action
from surefoot.errors import UserError
from surefoot.reading import read_json

INF = np.inf


def box(low: Any, high: Any, dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(np.asarray(low, dtype), np.asarray(high, dtype), dtype=dtype)


def to_env(space: spaces.Space, actions: Any) -> np.ndarray:
    return np.asarray(action_spec(space, task="t").to_env(jnp.asarray(actions)))


@pytest.mark.parametrize(
    ("space", "batch", "flat"),
    [
        (box([-1, -1], [1, 1]), [[0.5, -0.5]], [[0.5, -0.5]]),
        (box([[-1] * 2] * 2, [[1] * 2] * 2), [[[1, 2], [3, 4]]], [[1, 2, 3, 4]]),
        (spaces.Box(-INF, INF, (1,)), [[1e6]], [[1e6]]),
        (spaces.Box(-INF, INF, ()), [3.0, 4.0], [[3], [4]]),
        (spaces.Box(0, 255, (2,), np.uint8), np.array([[255, 0]], np.uint8), [[255, 0]]),
        (spaces.Discrete(3), [0, 2], [[1, 0, 0], [0, 0, 1]]),
        (spaces.Discrete(3, start=-1), [-1, 1], [[1, 0, 0], [0, 0, 1]]),
        (spaces.MultiDiscrete([2, 3]), [[1, 0], [0, 2]], [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
        (spaces.MultiDiscrete([2, 2], start=[5, -1]), [[6, -1]], [[0, 1, 1, 0]]),
        (spaces.MultiDiscrete([[2, 1], [1, 2]]), [[[1, 0], [0, 1]]], [[0, 1, 1, 1, 0, 1]]),
        (spaces.MultiBinary(3), np.array([[1, 0, 1]], np.int8), [[1, 0, 1]]),
        (spaces.MultiBinary([2, 2]), np.array([[[1, 0], [0, 1]]], np.int8), [[1, 0, 0, 1]]),
    ],
    ids=str,
)
@pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
def test_observations_are_read_as_flat_float32_and_one_hot_where_discrete(
    space: spaces.Space, batch: Any, flat: Any, xp: Any
) -> None:
    spec = observation_specs({"observation": space})["observation"]
    raw = np.asarray(batch)
    handed_over = spec.cast(raw, xp)
    assert handed_over.shape == (len(raw), *(space.shape or ()))
    discrete = isinstance(space, (spaces.Discrete, spaces.MultiDiscrete))
    assert handed_over.dtype == spec.dtype == ("int32" if discrete else "float32")
    read = spec.encode(jnp.asarray(handed_over))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, flat)
    assert spec.size == np.shape(flat)[1]


def test_a_plain_space_is_the_group_observation_and_a_dict_has_its_own_names() -> None:
    plain = observation_groups(spaces.Discrete(4), task="t")
    named = observation_groups(
        spaces.Dict(state=box([0], [1]), map=spaces.MultiBinary(6), legs=spaces.MultiDiscrete([2])),
        task="t",
    )
    sizes = {name: spec.size for name, spec in observation_specs(plain).items()}
    assert sizes == {"observation": 4}
    sizes = {name: spec.size for name, spec in observation_specs(named).items()}
    assert sizes == {"state": 1, "map": 6, "legs": 2}


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Box(0, 255, (8, 8, 3), np.uint8), ("'observation'", "image", "(8, 8, 3)")),
        (spaces.Tuple([spaces.Discrete(2)]), ("'observation'", "Tuple", "supported are")),
        (spaces.Dict(a=spaces.Text(3)), ("'a'", "Text", "supported are")),
        (spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2))), ("'a'", "Dict", "supported are")),
        (spaces.Dict(a=spaces.Box(0, 255, (8, 8, 3), np.uint8)), ("'a'", "image")),
    ],
    ids=str,
)
def test_an_observation_the_networks_cannot_read_is_refused_by_name(
    space: spaces.Space, words: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match="our-task") as error:
        observation_groups(space, task="our-task")
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("space", "spec"),
    [
        (
            box([-2, 0], [2, 5]),
            ActionSpec("continuous", (2,), low=(-2.0, 0.0), high=(2.0, 5.0), shape=(2,)),
        ),
        (
            box([[-1], [0]], [[1], [INF]], np.float64),
            ActionSpec(
                "continuous",
                (2,),
                low=(-1.0, 0.0),
                high=(1.0, INF),
                shape=(2, 1),
                dtype="float64",
            ),
        ),
        (spaces.Discrete(4), ActionSpec("discrete", (4,), dtype="int64")),
        (spaces.Discrete(4, start=-3), ActionSpec("discrete", (4,), dtype="int64", start=-3)),
        (
            spaces.MultiDiscrete([2, 3]),
            ActionSpec("multi_discrete", (2, 3), shape=(2,), dtype="int64"),
        ),
        (
            spaces.MultiDiscrete([[2, 3], [4, 5]]),
            ActionSpec("multi_discrete", (2, 3, 4, 5), shape=(2, 2), dtype="int64"),
        ),
        (
            spaces.MultiDiscrete([2, 3], start=[0, -4]),
            ActionSpec("multi_discrete", (2, 3), shape=(2,), dtype="int64", start=(0, -4)),
        ),
        (spaces.MultiBinary(3), ActionSpec("multi_binary", (3,), shape=(3,), dtype="int8")),
        (spaces.MultiBinary([2, 3]), ActionSpec("multi_binary", (6,), shape=(2, 3), dtype="int8")),
    ],
    ids=str,
)
def test_an_action_space_becomes_its_spec(space: spaces.Space, spec: ActionSpec) -> None:
    assert action_spec(space, task="t") == spec


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (box([-1, 1], [1, 1]), ("component 1", "low 1.0", "high 1.0", "below")),
        (spaces.Tuple([spaces.Discrete(2)]), ("not supported", "Tuple")),
        (spaces.Dict(a=spaces.Discrete(2)), ("not supported", "Dict")),
    ],
    ids=str,
)
def test_an_action_space_no_policy_serves_is_refused(
    space: spaces.Space, words: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match="our-task") as error:
        action_spec(space, task="our-task")
    assert all(word in str(error.value) for word in words)


bounds = st.floats(-1e6, 1e6, width=32).map(lambda x: float(np.float32(x)))


@settings(max_examples=60)
@given(bounds, bounds, st.floats(1, 2.0**100, width=32))
def test_canonical_one_and_all_beyond_it_hit_the_bounds_exactly(
    a: float, b: float, beyond: float
) -> None:
    low, high = min(a, b), max(a, b)
    if low == high:
        high = float(np.float32(low + 1.0))
    spec = ActionSpec("continuous", (1,), low=(low,), high=(high,), shape=(1,))
    sent = spec.to_env(jnp.array([[-1.0], [-beyond], [1.0], [beyond]], jnp.float32))
    np.testing.assert_array_equal(np.asarray(sent)[:, 0], np.float32([low, low, high, high]))


def test_canonical_zero_is_the_middle_and_the_map_is_linear() -> None:
    sent = to_env(box([-2, 0, -1], [2, 5, 1]), np.float32([[0, 0, 0], [0.5, 0.5, 0.1]]))
    np.testing.assert_allclose(sent, [[0, 2.5, 0], [1, 3.75, 0.1]], rtol=1e-6)
    assert sent.dtype == np.float32


def test_an_unbounded_component_passes_through_beside_a_bounded_one() -> None:
    sent = to_env(box([-INF, -3], [INF, 3]), np.float32([[123.0, 123.0], [-0.25, -0.5]]))
    np.testing.assert_array_equal(sent, [[123.0, 3.0], [-0.25, -1.5]])


def test_a_component_with_one_bound_is_clipped_to_it_and_not_scaled() -> None:
    sent = to_env(box([0, -INF], [INF, 2]), np.float32([[-5, -5], [0.5, 0.5], [7, 7]]))
    np.testing.assert_array_equal(sent, [[0, -5], [0.5, 0.5], [7, 2]])


def test_discrete_actions_are_shifted_to_their_start() -> None:
    actions = np.int32([0, 1, 2])
    np.testing.assert_array_equal(
        to_env(spaces.Discrete(3, start=-1, dtype=np.int32), actions), [-1, 0, 1]
    )
    np.testing.assert_array_equal(to_env(spaces.Discrete(3, dtype=np.int32), actions), actions)
    several = spaces.MultiDiscrete([2, 3], start=[5, -1], dtype=np.int32)
    np.testing.assert_array_equal(to_env(several, np.int32([[0, 0], [1, 2]])), [[5, -1], [6, 1]])


@pytest.mark.parametrize(
    ("space", "canonical", "shape"),
    [
        (spaces.Box(-1, 1, (2, 3)), np.zeros((4, 6), np.float32), (4, 2, 3)),
        (spaces.Box(-1, 1, ()), np.zeros((4, 1), np.float32), (4,)),
        (spaces.Discrete(3, dtype=np.int32), np.zeros(4, np.int32), (4,)),
        (spaces.MultiDiscrete([[2, 3]], dtype=np.int32), np.zeros((4, 2), np.int32), (4, 1, 2)),
        (spaces.MultiBinary([2, 2]), np.zeros((4, 4), np.int32), (4, 2, 2)),
    ],
    ids=str,
)
def test_actions_have_the_shape_and_dtype_of_the_environment(
    space: spaces.Space, canonical: np.ndarray, shape: tuple[int, ...]
) -> None:
    sent = to_env(space, canonical)
    assert sent.shape == shape
    assert sent.dtype == space.dtype


def test_components_keep_their_places_in_a_shaped_action() -> None:
    space = box([[0, 0, 0], [0, 0, 0]], [[1, 2, 3], [4, 5, 6]])
    sent = to_env(space, np.ones((1, 6), np.float32))
    np.testing.assert_array_equal(sent[0], space.high)


def test_double_precision_actions_arrive_as_doubles_inside_their_bounds() -> None:
    space = box([-0.1, -0.4], [0.1, 0.7], np.float64)
    spec = action_spec(space, task="t")
    with jax.enable_x64(True):
        sent = np.asarray(spec.to_env(jnp.float32([[-1, -1], [1, 1], [0, 0]])))
    assert sent.dtype == np.float64
    assert all(space.contains(row) for row in sent)
    np.testing.assert_allclose(sent, [[-0.1, -0.4], [0.1, 0.7], [0, 0.15]], atol=1e-7)


def test_64_bit_integers_arrive_as_such() -> None:
    spec = action_spec(spaces.Discrete(3, start=1), task="t")
    with jax.enable_x64(True):
        sent = np.asarray(spec.to_env(jnp.array([0, 2], jnp.int32)))
    assert sent.dtype == np.int64
    np.testing.assert_array_equal(sent, [1, 3])


@pytest.mark.parametrize("largest", [1.7976931348623157e308, 3.4028234663852886e38, 1e30])
def test_bounds_that_no_actuator_has_count_as_none(largest: float) -> None:
    spec = ActionSpec("continuous", (1,), low=(-largest,), high=(largest,), shape=(1,))
    np.testing.assert_array_equal(spec.to_env(jnp.float32([[-3.5], [42.0]])), [[-3.5], [42.0]])


FLOATS = ("float16", "float32", "float64")
INTEGERS = ("int8", "uint8", "int16", "int32", "uint32", "int64", "uint64")


@st.composite
def bounds(draw: st.DrawFn, dtype: str) -> tuple[Any, Any]:
    """Of one component: bounded, on one side or on none, as Gymnasium holds them; -inf and inf for none."""
    if dtype in INTEGERS:
        limits = np.iinfo(dtype)
        numbers = st.integers(int(limits.min), int(limits.max))
        low, high = sorted(draw(st.lists(numbers, min_size=2, max_size=2, unique=True)))
        return low, high
    width = int(dtype.removeprefix("float"))
    largest = min(float(np.finfo(dtype).max), float(np.float32(1e29)))
    numbers = st.floats(-largest, largest, width=width)
    low, high = sorted(draw(st.lists(numbers, min_size=2, max_size=2)))
    if not low < high:
        low, high = -1.0, 1.0
    none = draw(st.sampled_from([INF, float(np.finfo(np.float32).max), float(np.finfo(dtype).max)]))
    none = none if dtype != "float16" else INF
    none = none if dtype == "float64" or none < 1e39 else INF
    ends = draw(st.sampled_from([(low, high)] * 3 + [(-none, none), (low, none), (-none, high)]))
    return ends if ends[0] < ends[1] else (low, high)


@st.composite
def boxes(draw: st.DrawFn) -> spaces.Box:
    dtype = draw(st.sampled_from(FLOATS + INTEGERS))
    shape = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    ends = [draw(bounds(dtype)) for _ in range(int(np.prod(shape)))]
    low, high = (np.array(column, dtype).reshape(shape) for column in zip(*ends, strict=True))
    return spaces.Box(low, high, dtype=np.dtype(dtype).type)


STARTS = st.integers(-(2**62), 2**62) | st.sampled_from([0, 1, -1, 2**31 - 2, 2**40, -(2**31)])
OTHERS = st.one_of(
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 9), STARTS),
    st.builds(
        lambda n, start: spaces.MultiDiscrete([n, 2], start=[start, 0]), st.integers(1, 9), STARTS
    ),
    st.builds(spaces.MultiBinary, st.integers(1, 4)),
)


def as_sent(space: spaces.Space, canonical: Any) -> np.ndarray:
    """What collecting and a loaded policy both do."""
    spec = action_spec(space, task="t")
    return spec.widen(np.asarray(spec.narrow.to_env(jnp.asarray(canonical))))


@given(space=boxes(), extra=st.lists(st.floats(-1e4, 1e4, width=32), min_size=4, max_size=4))
@settings(max_examples=80, deadline=None)
def test_every_action_lies_in_its_box_and_the_ends_and_the_middle_are_met(
    space: spaces.Box, extra: list[float]
) -> None:
    spec = action_spec(space, task="t")
    count = spec.sizes[0]
    rows = [np.full(count, x, np.float32) for x in (-1, 0, 1, -1e30, 1e30)]
    sent = as_sent(space, np.stack([*rows, np.float32(extra[:1] * count)]))
    assert sent.dtype == space.dtype
    assert all(space.contains(np.asarray(row)) for row in sent)
    least, middle, most, *_ = sent.reshape(len(sent), -1).tolist()
    for i, (low, high) in enumerate(zip(spec.low, spec.high, strict=True)):
        if np.isfinite([low, high]).all():
            fine = 0 if space.dtype != np.float64 else 2e-3 * (high - low)
            assert abs(least[i] - low) <= fine
            assert abs(most[i] - high) <= fine
            largest = max(abs(low), abs(high))
            step = np.finfo(np.float16 if space.dtype == np.float16 else np.float32)
            rounding = (
                0.5 if space.dtype.kind in "iu" else float(step.eps) * largest + float(step.tiny)
            )
            exact = low + (high - low) / 2
            assert abs(middle[i] - exact) <= rounding + fine + 1e-15 * abs(exact)
        else:  # a number that means no bound is never sent
            assert abs(middle[i]) <= max(abs(b) for b in (low, high, 0) if np.isfinite(b))


@pytest.mark.parametrize(
    "offset", [0, -20, 2**40]
)  # the last one is mapped on the host, in 64 bits
def test_integers_are_the_nearest_ones(offset: int) -> None:
    space = spaces.Box(offset, offset + 8, (1,), np.int64)
    exact = np.array([[0.25], [0.75], [3.25], [3.75], [7.25], [7.75]])
    sent = as_sent(space, np.float32(exact / 4 - 1))
    assert (sent - offset).ravel().tolist() == [0, 1, 3, 4, 7, 8]


@given(space=OTHERS)
@settings(max_examples=100, deadline=None)
def test_every_choice_lies_in_its_space_counted_from_its_start(space: Any) -> None:
    spec = action_spec(space, task="t")
    if spec.kind == "discrete":
        sent = as_sent(space, np.arange(space.n, dtype=np.int32))
        np.testing.assert_array_equal(sent, [int(space.start) + i for i in range(space.n)])
    elif spec.kind == "multi_discrete":
        sent = as_sent(space, np.array([[space.nvec[0] - 1, 1]], np.int32))
        np.testing.assert_array_equal(sent, [space.start + space.nvec - 1])
    else:
        sent = as_sent(space, np.eye(spec.sizes[0], dtype=np.int32))
    assert all(space.contains(row) for row in sent)


@given(space=boxes() | OTHERS)
@settings(max_examples=50, deadline=None)
def test_a_policy_keeps_its_actions_on_disk(
    space: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spec = action_spec(space, task="t")
    file = tmp_path_factory.getbasetemp() / "action.json"
    file.write_text(json.dumps(to_json(spec)))
    again = from_json(ActionSpec, read_json(file))
    assert again == spec
    assert again.differences(spec) == []


@pytest.mark.parametrize("none", [3.4028234663852886e38, 1.7976931348623157e308, 1e30])
def test_a_random_action_is_no_bound_that_means_none(none: float) -> None:
    dtype = np.float32 if none < 1e39 else np.float64
    space = spaces.Box(np.array([-none, 0], dtype), np.array([none, 1], dtype), dtype=dtype)
    for seed in range(20):
        action = random_action(space, seed=seed)
        assert np.abs(action).max() < 100
        assert space.contains(action)


def test_a_random_action_of_real_bounds_is_gymnasiums_own() -> None:
    for space in (spaces.Box(-2, 3, (4,)), spaces.Box(-INF, 1, (2,)), spaces.Discrete(5, start=2)):
        action = random_action(space, seed=3)
        space.seed(3)
        np.testing.assert_array_equal(action, space.sample())


A = ActionSpec("continuous", (2,), low=(-1.0, -2.0), high=(1.0, 2.0), shape=(2,))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"high": (1.0, 3.0)}, ["component 1 from -2.0 to 2.0 here, -2.0 to 3.0 there"]),
        ({"low": (-INF, -2.0)}, ["component 0 from -1.0 to 1.0 here, -inf to 1.0 there"]),
        ({"shape": (1, 2)}, ["shape (2,) here, (1, 2) there"]),
        ({"dtype": "int32"}, ["dtype float32 here, int32 there"]),
        ({"dtype": "float16"}, ["dtype float32 here, float16 there"]),
        ({"dtype": "float64"}, []),
        ({"low": (-1.0 - 1e-9, -2.0)}, []),
    ],
)
def test_what_makes_an_action_mean_something_else_is_named(change: Any, says: list[str]) -> None:
    assert A.differences(dataclasses.replace(A, **change)) == says


def test_a_width_that_changes_how_an_action_is_mapped_is_a_difference() -> None:
    ends = {"low": (1e6,), "high": (1e6 + 1e-3,)}
    wide = ActionSpec("continuous", (1,), **ends, shape=(1,), dtype="float64")
    (said,) = wide.differences(dataclasses.replace(wide, low=(1e6 - 1,), dtype="float32"))[:1]
    assert said == "dtype float64 here, float32 there"
    whole = ActionSpec("continuous", (1,), low=(-9,), high=(9,), shape=(1,), dtype="int8")
    assert whole.differences(dataclasses.replace(whole, dtype="int64")) == [
        "dtype int8 here, int64 there"
    ]


@pytest.mark.parametrize(
    ("space", "start"),
    [(spaces.Discrete(3), 1), (spaces.Discrete(3), 2**40), (spaces.MultiDiscrete([3, 3]), [1, 0])],
)
def test_another_start_makes_another_action(space: Any, start: Any) -> None:
    kind = type(space)
    other = kind(space.n if isinstance(space, spaces.Discrete) else space.nvec, start=start)
    (said,) = action_spec(space, task="t").differences(action_spec(other, task="t"))
    assert said.startswith("start 0 here, ")


def test_actions_of_64_bits_are_refused_inside_a_program() -> None:
    action = action_spec(spaces.Discrete(3, start=2**40), task="t")
    with pytest.raises(UserError, match=r"ours: .* need 64 bits"):
        EnvSpec("ours", 1, {}, action, in_graph=True)


class Old:
    """Stands for another package's space: right by name."""

    shape, dtype, low, high = (2,), np.dtype("float32"), -np.ones(2), np.ones(2)

    def __repr__(self) -> str:
        return "another package's Box"  # without an address: it is a test's name


Old.__name__ = Old.__qualname__ = "Box"
NESTED = spaces.Dict({"a": spaces.Dict({"b": spaces.Box(-1, 1)})})


@pytest.mark.parametrize(
    ("space", "way"),
    [
        (
            Old(),
            "a .*test_spaces.Box, which is not Gymnasium's class: import spaces from gymnasium",
        ),
        (None, "observation_space is None; an environment declares one"),
        (spaces.Box, "an environment declares one"),
        (NESTED, "observation 'a' is a Dict space.*gymnasium.wrappers.FlattenObservation"),
        (spaces.Tuple([spaces.Box(-1, 1)]), "FlattenObservation makes one Box of it"),
        (spaces.Text(3), "a gymnasium.ObservationWrapper can make numbers of it"),
        (spaces.Dict({0: spaces.Box(-1, 1)}), "has the key 0, a int"),  # type: ignore[dict-item]
    ],
    ids=repr,
)
def test_an_observation_space_that_is_none_of_ours_is_told_the_way_out(
    space: Any, way: str
) -> None:
    with pytest.raises(UserError, match=way):
        observation_groups(space, task="t")


@pytest.mark.parametrize(
    ("space", "way"),
    [
        (Old(), "which is not Gymnasium's class: import spaces from gymnasium"),
        (None, "action_space is None; an environment declares one"),
        (spaces.Tuple([spaces.Discrete(2)]), "a gymnasium.ActionWrapper can make one Box of it"),
        (spaces.Box(-1, 1, (0,)), "there is nothing to choose"),
        (spaces.Discrete(2**40), "1,099,511,627,776 choices.*Make it a Box"),
        (spaces.Box(1, 1, (1,)), "component 0 has low 1.0 and high 1.0"),
    ],
    ids=repr,
)
def test_an_action_space_that_is_none_of_ours_is_told_the_way_out(space: Any, way: str) -> None:
    with pytest.raises(UserError, match=way):
        action_spec(space, task="t")
