"""Environments written in JAX: next-step resets around pure functions; the probes' own rules."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefoot.envs import (
    ActionSpec,
    JaxEnvironment,
    ObservationSpec,
    SingleEnvironment,
    SingleStep,
    Step,
)
from surefoot.envs.probes import PROBES, Probe, make_probe
from surefoot.errors import UserError

LENGTH = 4


class Walk(NamedTuple):
    start: jax.Array
    place: jax.Array
    time: jax.Array


class RandomWalk(SingleEnvironment):
    """Starts at random, moves by its action and noise; pays the action; integers as a second group."""

    name = "random-walk"
    observations = {"place": 1, "grid": 6}
    action = ActionSpec("continuous", (1,), low=(-1.0,), high=(1.0,), shape=(1,))
    info = ("reward_move",)

    def reset(self, key: jax.Array) -> tuple[Walk, Any]:
        place = jax.random.uniform(key)
        state = Walk(place, place, jnp.int32(0))
        return state, self.observe(state)

    def step(self, state: Walk, action: jax.Array, key: jax.Array) -> tuple[Walk, SingleStep]:
        place = state.place + action[0] + 0.1 * jax.random.normal(key)
        state = Walk(state.start, place, state.time + 1)
        last = state.time == LENGTH
        info = {"reward_move": action[0], "not_logged": place}
        return state, SingleStep(self.observe(state), action[0], last & False, last, info)

    def observe(self, state: Walk) -> dict[str, jax.Array]:
        return {"place": state.place[None], "grid": jnp.full((2, 3), state.time)}


@functools.cache
def walks() -> tuple[Step, Step, np.ndarray]:
    env = JaxEnvironment(RandomWalk(), 3)
    state, first = env.reset(jax.random.key(1))
    step_env = jax.jit(env.step)
    actions = np.random.default_rng(0).uniform(-1, 1, (15, 3, 1)).astype(np.float32)
    steps = []
    for action in actions:
        state, step = step_env(state, action)
        steps.append(step)
    return first, jax.tree.map(lambda *x: np.stack(x), *steps), actions


def test_the_spec_is_that_of_the_single_environment() -> None:
    spec = JaxEnvironment(RandomWalk(), 3).spec
    assert (spec.name, spec.num_envs) == ("random-walk", 3)
    assert spec.observations == {"place": ObservationSpec((1,)), "grid": ObservationSpec((6,))}
    assert spec.action is RandomWalk.action
    assert spec.in_graph
    assert not spec.needs_float64
    assert spec.saves_state  # all of it is in what reset and step return
    assert spec.info == ("reward_move",)


def test_groups_are_flat_float32() -> None:
    first, rows, _ = walks()
    assert first.observation["grid"].shape == (3, 6)
    assert rows.observation["grid"].shape == (15, 3, 6)
    assert rows.observation["grid"].dtype == rows.observation["place"].dtype == np.float32


class Gridded(RandomWalk):
    """The same, its second group declared as what it is."""

    observations = {"place": 1, "grid": ObservationSpec((2, 3), (8,) * 6, (0,) * 6)}


def test_a_group_that_is_declared_by_its_spec_keeps_its_shape_and_its_integers() -> None:
    env = JaxEnvironment(Gridded(), 3)
    assert env.spec.observations["grid"] == Gridded.observations["grid"]
    state, first = env.reset(jax.random.key(1))
    _, step = env.step(state, jnp.zeros((3, 1)))
    for observed, time in ((first.observation, 0), (step.observation, 1)):
        assert observed["grid"].shape == (3, 2, 3)
        assert observed["grid"].dtype == np.int32
        np.testing.assert_array_equal(observed["grid"], time)
    assert env.spec.observations["grid"].encode(first.observation["grid"]).shape == (3, 48)


def test_the_last_observation_is_that_of_the_last_step_and_the_next_row_starts_anew() -> None:
    first, rows, _ = walks()
    np.testing.assert_array_equal(first.observation["grid"], 0)
    time = rows.observation["grid"][:, :, 0]
    cycle = np.array([1, 2, 3, 4, 0])
    np.testing.assert_array_equal(time, np.tile(cycle, 3)[:, None].repeat(3, 1))
    np.testing.assert_array_equal(rows.truncated, time == LENGTH)
    np.testing.assert_array_equal(rows.valid, time != 0)
    assert not rows.terminated.any()


def test_rewards_and_info_are_those_of_the_actions_sent() -> None:
    _, rows, actions = walks()
    expected = np.where(rows.valid, actions[..., 0], 0)
    np.testing.assert_array_equal(rows.reward, expected)
    np.testing.assert_array_equal(rows.info["reward_move"], expected)
    assert set(rows.info) == {"reward_move"}


def test_every_copy_and_every_episode_draws_its_own_start_and_noise() -> None:
    first, rows, actions = walks()
    place = np.concatenate([first.observation["place"][None], rows.observation["place"]])[..., 0]
    starts = np.concatenate([place[0], place[1:][~rows.valid]])
    noise = (place[1:] - place[:-1] - actions[..., 0])[rows.valid]
    assert len(np.unique(starts)) == len(starts) == 12
    assert len(np.unique(noise.round(5))) == noise.size
    assert noise.std() == pytest.approx(0.1, rel=0.4)


def test_equal_keys_give_equal_starts_and_other_keys_others() -> None:
    env = JaxEnvironment(RandomWalk(), 4)
    places = [env.reset(jax.random.key(k))[1].observation["place"] for k in (0, 0, *range(1, 10))]
    assert np.asarray(places[0]).tobytes() == np.asarray(places[1]).tobytes()
    assert len(np.unique(np.concatenate(places[1:]))) == 40


def test_a_flag_of_the_ignored_step_does_not_end_the_new_episode() -> None:
    env = JaxEnvironment(make_probe("constant"), 2)  # every step ends its episode
    state, _ = env.reset(jax.random.key(0))
    valid = []
    for _ in range(6):
        state, step = env.step(state, jnp.zeros(2, jnp.int32))
        np.testing.assert_array_equal(step.terminated, step.valid)
        valid.append(bool(step.valid[0]))
    assert valid == [True, False] * 3


def episode(probe: Probe, action: Any) -> tuple[list[float], list[float], list[SingleStep]]:
    state, observation = probe.reset(jax.random.key(3))
    observations, rewards, steps = [float(observation[0])], [], []
    for _ in range(probe.length):
        state, step = probe.step(state, jnp.asarray(action), jax.random.key(0))
        observations.append(float(step.observation[0]))
        rewards.append(float(step.reward))
        steps.append(step)
    return observations, rewards, steps


@pytest.mark.parametrize(
    ("name", "rewards", "terminated", "truncated"),
    [
        ("constant", [1], True, False),
        ("delayed", [0, 1], True, False),
        ("truncated", [1] * 5, False, True),
        ("both-flags", [1] * 5, True, True),
        ("late-reward", [0, 0, 0, 0, 100], True, False),
    ],
)
def test_a_probe_pays_and_ends_as_its_name_says(
    name: str, rewards: list[float], terminated: bool, truncated: bool
) -> None:
    _, paid, steps = episode(make_probe(name), 0)
    assert paid == rewards
    assert [bool(s.terminated) for s in steps[:-1]] == [False] * (len(rewards) - 1)
    assert [bool(s.truncated) for s in steps[:-1]] == [False] * (len(rewards) - 1)
    assert bool(steps[-1].terminated) is terminated
    assert bool(steps[-1].truncated) is truncated


@pytest.mark.parametrize(
    ("actions", "upper", "lower"),
    [("discrete", 1, 0), ("continuous", [0.3], [-0.3])],
)
def test_the_action_probe_pays_the_upper_half_of_the_actions(
    actions: Any, upper: Any, lower: Any
) -> None:
    probe = make_probe("action", actions=actions)
    assert episode(probe, upper)[1] == [1]
    assert episode(probe, lower)[1] == [-1]


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_the_probe_both_pays_the_sign_it_shows(actions: Any) -> None:
    probe = make_probe("both", actions=actions)
    state, cue = jax.vmap(probe.reset)(jax.random.split(jax.random.key(0), 16))
    assert set(np.asarray(cue)[:, 0].tolist()) == {-1.0, 1.0}
    match = (cue[:, 0] > 0).astype(jnp.int32) if actions == "discrete" else cue
    for action, reward in ((match, 1), (1 - match if actions == "discrete" else -match, -1)):
        _, step = jax.vmap(lambda s, a: probe.step(s, a, jax.random.key(0)))(state, action)
        np.testing.assert_array_equal(step.reward, reward)


def test_the_observation_probe_pays_its_cue() -> None:
    observations, rewards, _ = episode(make_probe("observation"), 0)
    assert rewards == observations[:1]


class Declared(SingleEnvironment):
    """One number, one discrete action; the tests below spoil one thing each."""

    name = "declared"
    observations = {"observation": 1}
    action = ActionSpec("discrete", (2,), dtype="int32")
    info = ("reward_a",)
    size, reward, term = 1, 0.0, "reward_a"

    def reset(self, key: jax.Array) -> Any:
        return jnp.int32(0), jnp.zeros(self.size)

    def step(self, state: Any, action: Any, key: jax.Array) -> Any:
        no = jnp.bool_(False)
        info = {self.term: jnp.float32(1)}
        return state, SingleStep(jnp.zeros(self.size), jnp.asarray(self.reward), no, no, info)


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        ({"size": 3}, r"sizes \{'observation': 3\}, `observations` declares \{'observation': 1\}"),
        ({"observations": {"place": 1}}, "'place'"),
        *(
            ({"observations": odd}, "`observations`")
            for odd in (
                1,
                None,
                {},
                ["place"],
                {"place": "1"},
                {"place": None},
                {1: 1},
                {"place": True},
            )
        ),
        ({"observations": {"place": -1}}, "observation spec: shape"),
        *(({"info": odd}, "`info` is") for odd in (3, None, "reward_a", (1,))),
        ({"reward": [1.0]}, r"reward has shape \(1,\), it must be one number"),
        ({"term": "reward_b"}, r"one number info\['reward_a'\]"),
    ],
)
def test_what_differs_from_the_declaration_is_refused(spoilt: dict, words: str) -> None:
    JaxEnvironment(Declared(), 2)
    with pytest.raises(ValueError, match=f"declared.*{words}"):
        JaxEnvironment(type("Spoilt", (Declared,), spoilt)(), 2)


def test_a_missing_declaration_is_named() -> None:
    class Nameless(SingleEnvironment):
        observations = {"observation": 1}
        reset = Declared.reset
        step = Declared.step

    with pytest.raises(
        ValueError, match="Nameless: a SingleEnvironment needs the attribute 'name'"
    ):
        JaxEnvironment(Nameless(), 1)


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_says_what_its_failure_points_to(name: str) -> None:
    assert PROBES[name].name == name
    assert PROBES[name].teaches


class Cart(NamedTuple):
    x: Any
    t: Any


def cart(*, after: Any = None, answer: Any = None, act: Any = None) -> SingleEnvironment:
    """A cart whose step returns another state, another answer, or does something on the way."""

    class Ours(SingleEnvironment):
        name = "cart"
        observations = {"observation": 1}
        action = ActionSpec("continuous", (1,), low=(-1.0,), high=(1.0,), shape=(1,))
        info = ("reward_x",)

        def reset(self, key: jax.Array) -> Any:
            return Cart(jax.random.uniform(key), jnp.int32(0)), jnp.zeros(1)

        def step(self, state: Any, action: Any, key: jax.Array) -> Any:
            if act is not None:
                act(state)
            x = state.x + action[0]
            step = SingleStep(jnp.zeros(1), x, False, state.t >= 9, {"reward_x": x})
            state = Cart(x, state.t + 1) if after is None else after(state)
            return (state, step) if answer is None else answer(state, step)

    return Ours()


def test_a_sound_cart_is_taken() -> None:
    JaxEnvironment(cart(), 2)


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (lambda s: s._replace(t=s.t + 0.02), "float32[] as state.t, reset() returned int32[]"),
        (lambda s: s._replace(x=s.x[None]), "float32[1] as state.x, reset() returned float32[]"),
        (lambda s: s._replace(t=None), "nothing as state.t, reset() returned int32[]"),
        (lambda s: s._replace(t=(s.t, s.t)), "nothing as state.t, reset() returned int32[]"),
        (lambda s: s._asdict(), "nothing as state.x, reset() returned float32[]"),
        (lambda s: tuple(s), "nothing as state.x, reset() returned float32[]"),
    ],
)
def test_a_state_that_does_not_keep_its_form_is_named_with_its_leaf(after: Any, says: str) -> None:
    with pytest.raises(UserError) as caught:
        JaxEnvironment(cart(after=after), 2)
    assert f"cart: step() returns {says}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda s: 1 if s.x > 0 else 2, "jnp.where or jax.lax.cond"),
        (lambda s: bool(s.x), "jnp.where or jax.lax.cond"),
        (lambda s: float(s.x), "NumPy, `math`, float() and int(): jax.numpy"),
        (lambda s: np.sin(s.x), "NumPy, `math`, float() and int(): jax.numpy"),
        (lambda s: list(range(s.t)), "float() and int(): jax.numpy"),
        (lambda s: jnp.arange(3)[jnp.arange(3) > s.t], "an index of booleans: jnp.where"),
        (lambda s: jnp.zeros(2) + jnp.zeros(3), "cannot be traced, TypeError"),
        (lambda s: s.velocity, "AttributeError: 'Cart' object has no attribute 'velocity'"),
        (lambda s: {}["gain"], "KeyError: 'gain'"),
    ],
)
def test_what_cannot_be_traced_is_told_with_the_authors_line_and_the_way_out(
    act: Any, says: str
) -> None:
    with pytest.raises(UserError, match=r"cart: step\(\) cannot be traced") as caught:
        JaxEnvironment(cart(act=act), 2)
    said = str(caught.value)
    assert says in said
    files = [line for line in said.splitlines() if line.startswith("  File")]
    assert files
    assert all("test_jax_native.py" in line for line in files)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda state, step: step, "step() must return (state, SingleStep), not a SingleStep"),
        (lambda state, step: None, "not a NoneType"),
        (lambda state, step: (state, tuple(step)), "not (Cart, tuple)"),
        (lambda state, step: (state, step._replace(info=None)), "one number info['reward_x']"),
        (lambda state, step: (state, step._replace(info={})), "one number info['reward_x']"),
        (lambda state, step: (state, step._replace(reward=jnp.zeros(2))), "reward has shape (2,)"),
        (lambda state, step: (state, step._replace(reward=None)), "reward is None"),
        (lambda state, step: (state, step._replace(truncated=None)), "truncated is None"),
        (lambda state, step: (state, step._replace(observation=None)), "observation"),
        (lambda state, step: (state, step._replace(observation={0: 1.0})), "observations of sizes"),
        (lambda state, step: (state, step._replace(info="text")), "cannot be traced"),
        (lambda state, step: (state, step._replace(reward=object())), "cannot be traced"),
    ],
)
def test_what_a_step_returns_in_place_of_its_answer_is_named(answer: Any, says: str) -> None:
    with pytest.raises(UserError, match=r"^cart: ") as caught:
        JaxEnvironment(cart(answer=answer), 2)
    assert says in str(caught.value)
