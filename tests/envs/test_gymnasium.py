"""Gymnasium environments: true rows, copied, and checked at every step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from tests.helpers import extended

from surefoot.envs import Environment, Hosting, ObservationSpec, Step
from surefoot.envs.gymnasium import GymnasiumEnvironment, make_registered
from surefoot.errors import UserError

SEEDS = [3, 4]
OBSERVATION = spaces.Box(-np.inf, np.inf, (2,), np.float32)
UNBOUNDED = spaces.Box(-np.inf, np.inf, (1,), np.float32)


def start(make: Callable[[], gymnasium.Env], num_envs: int = 2) -> Environment:
    seeds = list(range(3, 3 + num_envs))
    return GymnasiumEnvironment(make, num_envs, seeds=seeds, name="ours:Task")


def play(env: Environment, actions: np.ndarray) -> tuple[Step, Step]:
    state, first = env.reset(jax.random.key(0))
    steps = []
    for action in actions:
        state, step = env.step(state, action)
        steps.append(step)
    return first, jax.tree.map(lambda *leaves: np.stack(leaves), *steps)


class Echo(gymnasium.Env):
    """Pays its action; shows (environment, steps so far)."""

    observation_space = OBSERVATION
    action_space = UNBOUNDED
    flags = (True, False)
    length = 3

    def __init__(self, index: int = 0) -> None:
        self.index, self.time, self.running = index, 0, False

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time, self.running = 0, True
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        assert self.running, "stepped an ended episode"
        self.time += 1
        ended = self.time == self.length
        self.running = not ended
        terminated, truncated = (ended and flag for flag in self.flags)
        return self.observe(), float(action[0]), terminated, truncated, {}

    def observe(self) -> Any:
        return np.array([self.index, self.time], np.float32)


class BothFlags(Echo):
    flags = (True, True)


class Scribbler(Echo):
    """One buffer for all instances, which each call overwrites."""

    shared = np.zeros(2, np.float32)
    paid = np.zeros(1)

    def observe(self) -> Any:
        self.shared[:] = self.index, self.time
        return self.shared

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        action[...] = np.nan
        self.paid[:] = reward
        return observation, self.paid, terminated, truncated, info


def numbered(kind: type) -> Callable[[], gymnasium.Env]:
    count = itertools.count()
    return lambda: kind(next(count))


@pytest.mark.parametrize("kind", [Echo, BothFlags, Scribbler])
def test_the_reward_is_that_of_the_action_sent_also_after_resets(kind: type) -> None:
    actions = np.arange(1, 43, dtype=np.float32).reshape(14, 3, 1)
    _, rows = play(start(numbered(kind), 3), actions.copy())
    period = np.arange(14) % 4  # three steps, then the row of the reset
    expected = np.where((period == 3)[:, None], 0, np.arange(1, 43).reshape(14, 3))
    np.testing.assert_array_equal(rows.reward, expected)
    np.testing.assert_array_equal(rows.terminated, np.tile((period == 2)[:, None], 3))
    np.testing.assert_array_equal(rows.truncated, rows.terminated & (kind is BothFlags))


@pytest.mark.parametrize("kind", [Echo, Scribbler])
def test_observations_are_copied_out_of_the_environments_buffers(kind: type) -> None:
    first, rows = play(start(numbered(kind), 3), np.zeros((9, 3, 1), np.float32))
    np.testing.assert_array_equal(first.observation["observation"], [[0, 0], [1, 0], [2, 0]])
    shown = rows.observation["observation"]
    np.testing.assert_array_equal(shown[..., 0], np.tile([0, 1, 2], (9, 1)))
    np.testing.assert_array_equal(shown[..., 1], np.tile([1, 2, 3, 0, 1, 2, 3, 0, 1], (3, 1)).T)


def test_an_environment_may_change_its_action_in_place_and_nobody_elses() -> None:
    actions = np.ones((1, 2, 1), np.float32)
    actions.flags.writeable = False  # as JAX's arrays are
    _, rows = play(start(numbered(Scribbler)), actions)
    np.testing.assert_array_equal(rows.reward, 1)
    np.testing.assert_array_equal(actions, 1)


@pytest.mark.parametrize(
    ("task", "options"),
    [("Pendulum-v1", {"max_episode_steps": 7}), ("CartPole-v1", {"max_episode_steps": 14})],
)
def test_every_row_is_what_the_environment_returns_when_stepped_by_hand(
    task: str, options: dict[str, Any]
) -> None:
    env = GymnasiumEnvironment(make_registered(task, options), 2, seeds=SEEDS, name=task)
    random = np.random.default_rng(0)
    discrete = env.spec.action.kind == "discrete"
    actions = random.integers(2, size=(50, 2)) if discrete else random.uniform(-2, 2, (50, 2, 1))
    actions = actions.astype(env.spec.action.dtype)
    first, rows = play(env, actions)
    assert rows.truncated.any()
    for i, seed in enumerate(SEEDS):
        single = gymnasium.make(task, **options)
        observation, _ = single.reset(seed=seed)
        np.testing.assert_array_equal(first.observation["observation"][i], observation)
        ended = False
        for t in range(50):
            reset_row = (single.reset()[0], 0.0, False, False) if ended else None
            row = reset_row or single.step(actions[t, i])[:4]
            assert rows.valid[t, i] == (not ended)
            np.testing.assert_array_equal(rows.observation["observation"][t, i], row[0])
            assert rows.reward[t, i] == np.float32(row[1])
            assert (rows.terminated[t, i], rows.truncated[t, i]) == row[2:]
            ended = row[2] or row[3]


def test_a_time_limit_flags_truncation_alone() -> None:
    make = make_registered("Pendulum-v1", {"max_episode_steps": 5})
    env = GymnasiumEnvironment(make, 1, seeds=[0], name="Pendulum-v1")
    _, rows = play(env, np.zeros((11, 1, 1), np.float32))
    np.testing.assert_array_equal(np.flatnonzero(rows.truncated), [4, 10])
    assert not rows.terminated.any()


def test_a_second_reset_starts_again_from_the_seeds() -> None:
    make = make_registered("CartPole-v1", {})
    env = GymnasiumEnvironment(make, 2, seeds=SEEDS, name="CartPole-v1")
    actions = np.ones((15, 2), np.int64)
    first, rows = play(env, actions)
    again, rows_again = play(env, actions)
    pairs = zip(jax.tree.leaves((first, rows)), jax.tree.leaves((again, rows_again)), strict=True)
    assert all(a.tobytes() == b.tobytes() for a, b in pairs)


class DiscreteEcho(Echo):
    action_space = spaces.Discrete(5, start=-2)

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step([0.0])
        return observation, float(action) if type(action) is int else 0.5, *rest


def test_a_discrete_action_arrives_as_a_plain_integer() -> None:
    env = start(numbered(DiscreteEcho))
    _, rows = play(env, np.array([[-2, 2]], env.spec.action.dtype))
    np.testing.assert_array_equal(rows.reward, [[-2, 2]])


class Grouped(Echo):
    observation_space = spaces.Dict(
        {
            "speed": spaces.Box(-1, 1, (2, 2), np.float64),
            "mode": spaces.Discrete(3, start=5),
            "legs": spaces.MultiDiscrete([2, 3]),
            "contacts": spaces.MultiBinary(2),
        }
    )

    def observe(self) -> Any:
        return {
            "contacts": np.array([0, 1], np.int8),
            "legs": np.array([1, 0]),
            "mode": np.int64(5 + self.time % 3),
            "speed": np.array([[0.0, 0.25], [0.5, 1.0]]),
        }


def test_groups_keep_their_shapes_and_discrete_ones_count_from_zero() -> None:
    env = start(numbered(Grouped))
    first, rows = play(env, np.zeros((1, 2, 1), np.float32))
    assert env.spec.observations == {
        "speed": ObservationSpec((2, 2)),
        "mode": ObservationSpec((), choices=(3,), starts=(5,)),
        "legs": ObservationSpec((2,), choices=(2, 3), starts=(0, 0)),
        "contacts": ObservationSpec((2,)),
    }
    np.testing.assert_array_equal(first.observation["speed"], [[[0, 0.25], [0.5, 1]]] * 2)
    np.testing.assert_array_equal(first.observation["mode"], [0, 0])
    np.testing.assert_array_equal(rows.observation["mode"], [[1, 1]])
    np.testing.assert_array_equal(first.observation["legs"], [[1, 0]] * 2)
    np.testing.assert_array_equal(first.observation["contacts"], [[0, 1]] * 2)
    dtypes = {name: str(group.dtype) for name, group in first.observation.items()}
    assert dtypes == {"speed": "float32", "mode": "int32", "legs": "int32", "contacts": "float32"}


def test_networks_read_groups_flat_and_discrete_ones_as_one_hot() -> None:
    env = start(numbered(Grouped))
    first, rows = play(env, np.zeros((1, 2, 1), np.float32))
    specs = env.spec.observations
    read = {name: specs[name].encode(jnp.asarray(x)) for name, x in first.observation.items()}
    np.testing.assert_array_equal(read["speed"], [[0, 0.25, 0.5, 1]] * 2)
    np.testing.assert_array_equal(read["mode"], [[1, 0, 0]] * 2)
    later = jnp.asarray(rows.observation["mode"])
    np.testing.assert_array_equal(specs["mode"].encode(later), [[[0, 1, 0]] * 2])
    np.testing.assert_array_equal(read["legs"], [[0, 1, 1, 0, 0]] * 2)
    np.testing.assert_array_equal(read["contacts"], [[0, 1]] * 2)
    assert {name: group.shape[1] for name, group in read.items()} == {
        name: spec.size for name, spec in specs.items()
    }
    assert all(group.dtype == np.float32 for group in read.values())


class Informed(Echo):
    def step(self, action: Any) -> Any:
        *rest, _ = super().step(action)
        info = {"reward_speed": self.time, "is_success": self.time == 3, "debug": 1, "text": "x"}
        return *rest, info | {"reward_vector": np.ones(2)}


def test_reward_terms_and_success_are_logged_and_other_info_is_not() -> None:
    env = start(numbered(Informed))
    first, rows = play(env, np.zeros((5, 2, 1), np.float32))
    assert env.spec.info == ("reward_speed", "success")
    assert set(first.info) == {"reward_speed", "success"}
    nothing = np.nan
    np.testing.assert_array_equal(rows.info["reward_speed"][:, 0], [1, 2, 3, nothing, 1])
    np.testing.assert_array_equal(rows.info["success"][:, 1], [0, 0, 1, nothing, 0])


class TellsAtTheEnd(Informed):
    def step(self, action: Any) -> Any:
        *rest, terminated, truncated, info = super().step(action)
        if not (terminated or truncated):
            info.pop("is_success")
        return *rest, terminated, truncated, info


def test_success_that_is_told_at_the_end_of_an_episode_alone_is_logged() -> None:
    _, rows = play(start(numbered(TellsAtTheEnd)), np.zeros((5, 2, 1), np.float32))
    nothing = np.nan
    np.testing.assert_array_equal(
        rows.info["success"][:, 1], [nothing, nothing, 1, nothing, nothing]
    )


def test_a_discrete_observation_outside_its_space_is_refused() -> None:
    class Strange(Echo):
        observation_space = spaces.Discrete(3)

        def reset(self, **kwargs: Any) -> Any:
            return 3, super().reset(**kwargs)[1]

    with pytest.raises(ValueError, match=r"environment 0.*outside its space Discrete"):
        start(numbered(Strange))


class Faulty(Echo):
    """Environment `bad` answers wrongly at step `at`."""

    bad, at = 0, 1
    observation_space = spaces.Dict({"joints": OBSERVATION, "phase": spaces.Discrete(4)})

    def observe(self) -> Any:
        good = {"joints": np.zeros(2, np.float32), "phase": 0}
        return self.spoil(good) if self.is_now() else good

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return observation, *(self.spoil_rest(*rest) if self.is_now() else rest)

    def is_now(self) -> bool:
        return self.index == self.bad and self.time == self.at

    def spoil(self, good: dict[str, Any]) -> Any:
        return good

    def spoil_rest(self, *rest: Any) -> Any:
        return rest


def wrong_observation(spoil: Callable[[dict[str, Any]], Any]) -> type[Faulty]:
    return type("Wrong", (Faulty,), {"spoil": lambda self, good: spoil(good)})


def wrong_rest(**wrong: Any) -> type[Faulty]:
    def spoil_rest(self: Faulty, *rest: Any) -> Any:
        names = ("reward", "terminated", "truncated", "info")
        return [wrong.get(name, value) for name, value in zip(names, rest, strict=True)]

    return type("Wrong", (Faulty,), {"spoil_rest": spoil_rest})


FAULTS: dict[str, tuple[type[Faulty], tuple[str, ...]]] = {
    "shape": (
        wrong_observation(lambda good: good | {"joints": np.zeros(3, np.float32)}),
        ("'joints'", "(3,)", "(2,)"),
    ),
    "batch-axis": (
        wrong_observation(lambda good: good | {"joints": np.zeros((1, 2), np.float32)}),
        ("'joints'", "(1, 2)", "(2,)"),
    ),
    "float-for-int": (
        wrong_observation(lambda good: good | {"phase": 1.5}),
        ("'phase'", "float64", "int64"),
    ),
    "objects": (
        wrong_observation(lambda good: good | {"joints": np.array([None, None])}),
        ("'joints'", "object"),
    ),
    "text": (
        wrong_observation(lambda good: good | {"joints": np.array(["a", "b"])}),
        ("'joints'", "not numeric"),
    ),
    "nan": (
        wrong_observation(lambda good: good | {"joints": np.array([0.0, np.nan], np.float32)}),
        ("'joints'", "[1]", "nan"),
    ),
    "inf": (
        wrong_observation(lambda good: good | {"joints": np.array([np.inf, 0.0], np.float32)}),
        ("'joints'", "[0]", "inf"),
    ),
    "missing-key": (
        wrong_observation(lambda good: {"joints": good["joints"]}),
        ("['joints']", "['joints', 'phase']"),
    ),
    "extra-key": (
        wrong_observation(lambda good: good | {"camera": 1.0}),
        ("camera", "['joints', 'phase']"),
    ),
    "no-dict": (
        wrong_observation(lambda good: good["joints"]),
        ("['observation']", "['joints', 'phase']"),
    ),
    "nan-reward": (wrong_rest(reward=float("nan")), ("reward", "nan")),
    "inf-reward": (wrong_rest(reward=np.float32(np.inf)), ("reward", "inf")),
    "vector-reward": (wrong_rest(reward=np.ones(2)), ("reward", "not one number")),
    "no-reward": (wrong_rest(reward=None), ("reward", "None")),
    "text-reward": (wrong_rest(reward="1"), ("reward", "'1'")),
    "vector-flag": (wrong_rest(terminated=np.zeros(2, bool)), ("terminated", "not one flag")),
    "no-flag": (wrong_rest(truncated=None), ("truncated", "not one flag")),
}
every_fault = pytest.mark.parametrize("fault", FAULTS)


@every_fault
def test_a_first_step_that_breaks_the_contract_is_refused_at_once(fault: str) -> None:
    kind, words = FAULTS[fault]
    with pytest.raises(ValueError, match="ours:Task, environment 0") as error:
        start(numbered(kind))
    assert all(word in str(error.value) for word in words)


@every_fault
def test_a_later_breach_names_the_environment_and_the_field(fault: str) -> None:
    kind, words = FAULTS[fault]
    env = start(numbered(type("Later", (kind,), {"bad": 1, "at": 2})))
    state, _ = env.reset(jax.random.key(0))
    state, _ = env.step(state, np.zeros((2, 1), np.float32))
    with pytest.raises(ValueError, match="ours:Task, environment 1") as error:
        env.step(state, np.zeros((2, 1), np.float32))
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("fault", ["nan", "shape", "missing-key"])
def test_a_breach_of_a_reset_is_refused_too(fault: str) -> None:
    kind, words = FAULTS[fault]
    with pytest.raises(ValueError, match="environment 0") as error:
        start(numbered(type("AtReset", (kind,), {"at": 0})))
    assert all(word in str(error.value) for word in words)


class Closing(Echo):
    closed: list[int] = []

    def close(self) -> None:
        self.closed.append(self.index)


def test_closing_closes_every_instance() -> None:
    start(numbered(Closing), 3).close()
    assert Closing.closed == [0, 1, 2]


class Undeclared(gymnasium.Env):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.zeros(2, np.float32), {}


class OwnProperty(Undeclared):
    @property
    def observation_space(self) -> Any:
        return self.model.space  # type: ignore[attr-defined]

    @observation_space.setter
    def observation_space(self, value: Any) -> None: ...


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Undeclared, "it has no observation_space; a Gymnasium"),
        (OwnProperty, r"(?s)'model'.*line \d+"),
    ],
)
@pytest.mark.parametrize("workers", [0, extended(1)])
def test_a_space_that_is_missing_is_named_with_the_way_out(
    kind: type, says: str, workers: int
) -> None:
    with pytest.raises(UserError, match=says):
        GymnasiumEnvironment(kind, 2, seeds=[0, 1], name="t", hosting=Hosting(workers=workers))
