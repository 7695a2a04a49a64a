"""Whatever an environment hands over, and wherever: it is taken, or it is a failure with a name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from surefoot.envs import Hosting
from surefoot.envs import gymnasium as adapter
from surefoot.envs.gymnasium import GymnasiumEnvironment
from surefoot.envs.hosting import Command, EnvError, InProcess
from surefoot.envs.workers import unpacked
from surefoot.errors import UserError
from surefoot.host_process import answer, as_number

BAD_SEED, AT = 11, 2


class Awkward:
    """Fails whatever is asked of it."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("no array")

    def __bool__(self) -> bool:
        raise RuntimeError("neither")

    __len__ = __iter__ = __float__ = __array__

    @property
    def shape(self) -> Any:
        return ()


class AwkwardMapping(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise OSError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(["observation"])

    def __len__(self) -> int:
        return 1


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=3),
    st.integers() | st.just(10**400),
    st.floats() | st.just(1e300),
    st.sampled_from(
        [{1, 2}, object(), lambda: None, Awkward(), AwkwardMapping(), Silent, b"x", 1j]
    ),
    st.sampled_from(
        [[[1.0, 2.0], [3.0]], [np.zeros(1), 2.0], [np.zeros(2), np.zeros(3)], [Awkward()]]
    ),
    hnp.arrays(
        st.sampled_from(["f4", "f8", "i8", "u1", "O", "U3", "M8[s]", "c8"]),
        hnp.array_shapes(max_dims=3),
    ),
)
HANDED = JUNK | st.dictionaries(
    st.sampled_from(["observation", "reward_a", "success", 0, None, (1, 2)]), JUNK
)
RAISED = st.sampled_from([RuntimeError("x"), Silent(), SystemExit(3), StopIteration(), KeyError(0)])
PLACES = (
    "reset",
    "first",
    "first info",
    "step",
    "observation",
    "reward",
    "terminated",
    "truncated",
    "info",
)


class Healthy(gymnasium.Env):
    """Its episodes have five steps; tells a term and success."""

    observation_space: Any = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space: Any = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.first, self.time = seed or 0, 0
        return np.zeros(2, np.float32), {"reward_a": 1.0}

    def step(self, action: Any) -> Any:
        self.time += 1
        return np.ones(2, np.float32), 1.0, False, self.time == 5, {"reward_a": 2.0}


def handing_over(place: str, value: Any, *, raises: bool, seed: int) -> type[gymnasium.Env]:
    """One that does, in its place, once it is seeded so (or in all, with the seed -1)."""

    class HandsOver(Healthy):
        def reset(self, **kwargs: Any) -> Any:
            answer = list(super().reset(**kwargs))
            if place in ("reset", "first", "first info") and seed in (-1, self.first):
                return self.spoilt(answer, ("first", "first info"))
            return tuple(answer)

        def step(self, action: Any) -> Any:
            answer = list(super().step(action))
            if place in PLACES[3:] and seed in (-1, self.first) and self.time == AT:
                return self.spoilt(answer, PLACES[4:])
            return tuple(answer)

        def spoilt(self, answer: list[Any], fields: tuple[str, ...]) -> Any:
            if raises:
                raise value
            if place in ("reset", "step"):
                return value
            answer[fields.index(place)] = value
            return tuple(answer)

    return HandsOver


class AsInAWorker(InProcess):
    """Answers go through bytes, as they do in a process of their own."""

    def _answer(self, index: int, command: Command) -> Any:
        kind, came = answer(index, *command, self._envs, self._make)
        return EnvError(*came) if kind == "raised" else unpacked(came)


@pytest.fixture(params=[InProcess, AsInAWorker], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "InProcess", request.param)


def start(make: Any, hosting: Hosting = Hosting()) -> GymnasiumEnvironment:  # noqa: B008
    env = GymnasiumEnvironment(
        make, 2, seeds=[BAD_SEED - 1, BAD_SEED], name="ours:Task", hosting=hosting
    )
    env.reset(jax.random.key(0))
    return env


CASES = st.tuples(st.sampled_from(PLACES), HANDED, st.just(False)) | st.tuples(
    st.sampled_from(["reset", "step"]), RAISED, st.just(True)
)


@given(case=CASES)
@settings(max_examples=150)
def test_it_is_taken_or_it_is_one_error_with_environment_seed_and_step(case: Any) -> None:
    place, value, raises = case
    make = handing_over(place, value, raises=raises, seed=BAD_SEED)
    failed = None
    try:
        env = start(make)
        for _ in range(7):
            env.step(None, np.zeros(2, np.int64))
    except UserError as error:
        failed = str(error)
    assert failed or not raises
    if failed:
        at = "the first reset" if place in PLACES[:3] else f"step {AT} (step {AT} of its episode)"
        assert f"ours:Task, environment 1 (seed {BAD_SEED}), {at}: " in failed
        assert not raises or 'test_handed_over.py", line' in failed


@given(case=CASES)
@settings(max_examples=150)
def test_a_run_that_bears_failures_bears_every_one(case: Any) -> None:
    place, value, raises = case
    if place in PLACES[:3]:  # at the very first reset nothing goes on
        return
    make = handing_over(place, value, raises=raises, seed=BAD_SEED)
    env = start(make, Hosting(on_failure="quarantine"))
    said: list[str] = []
    env.log_to(said.append)
    rows = [env.step(None, np.zeros(2, np.int64))[1] for _ in range(4)]
    env.close()
    assert all(row.valid[0] for row in rows)
    valid = [bool(row.valid[1]) for row in rows]
    ended = bool((rows[AT - 1].terminated | rows[AT - 1].truncated)[1])
    assert valid == [True, False, False, False] if said else [True, True, not ended, True]
    numbers = [(row.observation["observation"], row.reward) for row in rows]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(numbers))
    assert not raises or len(said) == 1


@given(
    value=JUNK, which=st.sampled_from(["observation_space", "action_space"]), nested=st.booleans()
)
def test_spaces_that_are_none_are_refused_with_the_tasks_name(
    value: Any, which: str, nested: bool
) -> None:
    if nested and which == "observation_space":
        value = spaces.Dict({"a": spaces.Discrete(2)})
        value.spaces["a"] = None  # type: ignore[assignment]
    kind = type("Spaces", (Healthy,), {which: value})
    with pytest.raises(UserError, match="ours:Task"):
        start(kind)


def test_an_environment_without_spaces_is_told_what_it_lacks() -> None:
    class NoSpaces(gymnasium.Env):
        pass

    with pytest.raises(UserError, match=r"ours:Task cannot be made: .* has no .*observation_space"):
        start(NoSpaces)


def test_an_observation_that_fails_while_it_is_read_is_a_failure_with_its_traceback() -> None:
    env = start(handing_over("observation", AwkwardMapping(), raises=False, seed=BAD_SEED))
    env.step(None, np.zeros(2, np.int64))
    with pytest.raises(
        UserError, match=r"environment 1 .*cannot be read: raised OSError"
    ) as caught:
        env.step(None, np.zeros(2, np.int64))
    assert "in __getitem__" in str(caught.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("the bus is gone"), SystemExit(1), Silent()], ids=type
)
def test_one_that_cannot_be_closed_is_named_and_the_others_are_closed(error: BaseException) -> None:
    closed: list[int] = []

    class Stuck(Healthy):
        def close(self) -> None:
            closed.append(self.first)
            if self.first == BAD_SEED - 1:
                raise error

    env = start(Stuck)
    said: list[str] = []
    env.log_to(said.append)
    env.close()
    assert closed == [BAD_SEED - 1, BAD_SEED]
    assert len(said) == 1
    assert said[0].startswith(
        f"ours:Task, environment 0 (seed {BAD_SEED - 1}), close(): raised {type(error).__name__}"
    )


@pytest.mark.parametrize(
    "info", [None, {"reward_a": None}, {"reward_a": [[1.0, 2.0], [3.0]], 0: 1.0}]
)
def test_a_term_that_is_no_number_is_left_out_and_an_info_that_is_none_is_refused(
    info: Any,
) -> None:
    make = handing_over("info", info, raises=False, seed=BAD_SEED)
    env = start(make)
    if info is None:
        env.step(None, np.zeros(2, np.int64))
        with pytest.raises(UserError, match="info: None is not a dict"):
            env.step(None, np.zeros(2, np.int64))
        return
    told = [env.step(None, np.zeros(2, np.int64))[1].info["reward_a"] for _ in range(AT)]
    np.testing.assert_array_equal(told, [[2.0, 2.0], [2.0, np.nan]])


@pytest.mark.parametrize("one", [np.ones(1), np.ones((1, 1), "f4"), [1.0], np.float16(1), 1, True])
def test_an_array_of_one_element_is_a_number(one: Any) -> None:
    assert as_number(one) == 1.0
    make = handing_over("info", {"reward_a": one}, raises=False, seed=-1)
    env = start(make)
    for _ in range(AT):
        _, row = env.step(None, np.zeros(2, np.int64))
    np.testing.assert_array_equal(row.info["reward_a"], 1.0)
    env = start(handing_over("reward", one, raises=False, seed=-1))
    for _ in range(AT):
        _, row = env.step(None, np.zeros(2, np.int64))
    np.testing.assert_array_equal(row.reward, 1.0)


@pytest.mark.parametrize(
    ("space", "one"),
    [(spaces.Discrete(3), np.array([2])), (spaces.Box(-1, 1, ()), np.array([[0.5]], np.float32))],
    ids=str,
)
def test_an_array_of_one_element_is_an_observation_that_is_one_number(space: Any, one: Any) -> None:
    class One(Healthy):
        observation_space = space

        def reset(self, **kwargs: Any) -> Any:
            return one, super().reset(**kwargs)[1]

        def step(self, action: Any) -> Any:
            return one, *super().step(action)[1:]

    _, row = start(One).step(None, np.zeros(2, np.int64))
    np.testing.assert_array_equal(row.observation["observation"], one.item())
