"""Where episodes begin and end in a rollout, what is carried across, and the simulators' own numbers."""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import extended

from surefoot.agent import Act
from surefoot.envs import (
    ActionSpec,
    Environment,
    EnvSpec,
    JaxEnvironment,
    ObservationSpec,
    SingleEnvironment,
    SingleStep,
    Step,
)
from surefoot.envs.contract import HostPhysics
from surefoot.rollout import CollectorState, Rollout, make_collector, start
from surefoot.rollout.rollout import Transition, assemble, lost_rows, start_episodes

BOX = ActionSpec("continuous", (1,), low=(-1.0,), high=(1.0,), shape=(1,))
KEY = jax.random.key(0)
each_side = pytest.mark.parametrize("side", ["graph", "host"])
every_side = pytest.mark.parametrize("side", ["graph", "host", "physics"])


class Counting(eqx.Module):
    """A policy with a memory: the log-probability that it tells is the step of the episode it thinks it is.

    Its action is 0; it begins to count anew at an episode's first observation.
    """

    def act(
        self, observation: Any, carry: Any, first: Any, key: Any, *, deterministic: bool = False
    ) -> tuple[Act, Any]:
        count = jnp.where(first, 0.0, carry)
        action = jnp.zeros((len(count), 1), jnp.float32)
        return Act(action, count, action), count + 1.0


class Script(NamedTuple):
    """What becomes of a step: it goes on (`.`), terminates (`T`), is truncated (`C`), is lost with its
    episode (`L`), or resets (`r`).
    """

    rows: tuple[str, ...]

    def flags(self, letters: str) -> np.ndarray:
        """[T, N]: the rows with one of the letters."""
        return np.array([[x in letters for x in row] for row in self.rows])


class Scripted(Environment):
    """Plays a script; observations count the steps of the episode, or are 100 at a same-step end's first.

    Args:
        script: the letters, one a row and environment.
        side: where it is stepped.
        options: of the spec.
        final: [T, N] the last observations that are handed over, if any are.
    """

    def __init__(
        self, script: Script, side: str, final: np.ndarray | None = None, **options: Any
    ) -> None:
        rows = script.flags("T"), script.flags("CL"), ~script.flags("Lr")
        self.rows = [np.asarray(x) for x in rows]
        self.final = final
        self.spec = EnvSpec(
            "scripted",
            len(script.rows[0]),
            {"observation": ObservationSpec((1,))},
            BOX,
            in_graph=side == "graph",
            final_observation=final is not None,
            **options,
        )

    def reset(self, key: jax.Array) -> tuple[Any, Step]:
        zero, no = np.zeros(self.spec.num_envs, np.float32), np.zeros(self.spec.num_envs, bool)
        state = (np.int32(0), zero)
        return state, Step(zero[:, None], zero, no, no, no, {})

    def step(self, env_state: Any, action: Any) -> tuple[Any, Step]:
        xp = jnp if self.spec.in_graph else np
        row, time = env_state
        terminated, truncated, valid = (xp.asarray(x)[row] for x in self.rows)
        ended = terminated | truncated
        begins = ended if self.spec.autoreset == "same_step" else ~valid & ~ended
        time = xp.where(begins, xp.zeros_like(time), time + 1)
        final = None if self.final is None else xp.asarray(self.final)[row][:, None]
        step = Step(time[:, None], xp.ones_like(time), terminated, truncated, valid, {}, final)
        return (row + 1, time), step


class Physical(Scripted, HostPhysics):
    """The same, stepped on the host between two halves that are traced."""

    def reset(self, key: jax.Array) -> tuple[Any, Step]:
        state, step = super().reset(key)
        return ((), state), step

    def command(self, carried: Any, action: Any) -> tuple[Any, Any]:
        return carried, action

    def advance(self, env_state: Any, told: Any) -> tuple[Any, Any]:
        carried, physics = env_state
        physics, sensed = Scripted.step(self, physics, told)
        return (carried, physics), sensed

    def judge(self, carried: Any, sensed: Any) -> tuple[Any, Step]:
        return carried, sensed

    step = HostPhysics.step


def scripted(
    script: Script, side: str, final: np.ndarray | None = None, **options: Any
) -> Scripted:
    return (Physical if side == "physics" else Scripted)(script, side, final, **options)


def collected(
    env: Environment, lengths: tuple[int, ...], policy: Any = None
) -> list[tuple[CollectorState, Rollout]]:
    """States and rollouts of so many steps, one after the other, with the policy that counts."""
    state = start(env, jnp.zeros(env.spec.num_envs), KEY)
    done = []
    for length in lengths:
        state, rollout = make_collector(env, num_steps=length)(Counting(), state, KEY)
        done.append((state, rollout))
    return done


# environments: two ordinary ends; lost episodes, one after the other and beside a last row
NEXT_STEP = Script(("..L", ".Lr", "Tr.", "r.L", ".Lr", "CrL", "r.r", ".T."))
FIRST = np.array(
    [
        [1, 1, 1],
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 0],
        [1, 0, 0],
        [0, 0, 1],
        [0, 1, 0],
        [1, 0, 1],
        [0, 0, 0],
    ],
    bool,
)
SAME_STEP = Script(("..L", ".C.", "T.C", "CL.", "..T", "T.."))
SAME_FIRST = np.array(
    [[1, 1, 1], [0, 0, 1], [0, 1, 0], [1, 0, 1], [1, 1, 0], [0, 0, 1], [1, 0, 0]], bool
)


@every_side
@pytest.mark.parametrize(
    "lengths", [extended((8,)), (3, 5), extended((4, 4)), extended((1, 1, 1, 5))], ids=str
)
def test_first_marks_the_observation_of_each_reset_row_and_no_other(
    side: str, lengths: tuple[int, ...]
) -> None:
    rollouts = [x for _, x in collected(scripted(NEXT_STEP, side), lengths)]
    np.testing.assert_array_equal(joined(rollouts), FIRST)


@every_side
@pytest.mark.parametrize("lengths", [extended((6,)), extended((3, 3)), (2, 4)], ids=str)
def test_first_marks_the_observation_of_each_end_where_the_reset_is_in_the_same_step(
    side: str, lengths: tuple[int, ...]
) -> None:
    env = scripted(SAME_STEP, side, autoreset="same_step")
    rollouts = [x for _, x in collected(env, lengths)]
    np.testing.assert_array_equal(joined(rollouts), SAME_FIRST)


def joined(rollouts: list[Rollout]) -> np.ndarray:
    """`first` of rollouts that follow each other, which agree on the observation between them."""
    for before, after in itertools.pairwise(rollouts):
        np.testing.assert_array_equal(before.first[-1], after.first[0])
    rows = [x.first[:-1] for x in rollouts] + [rollouts[-1].first[-1:]]
    return np.concatenate(rows)


def test_rows_that_are_left_out_of_a_lost_episode_begin_none() -> None:
    _, rollout = collected(scripted(NEXT_STEP, "host"), (8,))[0]
    # the second environment loses its first episode, two rows, and its second one
    np.testing.assert_array_equal(rollout.valid[:, 1], [0, 0, 0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(rollout.first[:, 1], FIRST[:, 1])


class Timed(SingleEnvironment):
    """Shows the time; episodes of five steps."""

    name = "timed"
    observations = {"time": 1}
    action = BOX

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.float32(0), {"time": jnp.zeros(1)}

    def step(self, state: jax.Array, action: jax.Array, key: jax.Array) -> Any:
        after = state + 1
        return after, SingleStep(
            {"time": after[None]}, jnp.float32(1), jnp.bool_(False), after == 5
        )


# ends before, with and behind a reset
@pytest.mark.parametrize("num_steps", [extended(5), 6, extended(13)])
def test_an_observation_is_the_first_where_its_time_is_zero(num_steps: int) -> None:
    env = JaxEnvironment(Timed(), 2)
    for _, rollout in collected(env, (num_steps, num_steps)):
        np.testing.assert_array_equal(rollout.first, rollout.observations["time"][..., 0] == 0)


@every_side
@pytest.mark.parametrize("lengths", [(8,), (3, 5), (4, 4)], ids=str)
def test_what_a_policy_remembers_goes_from_step_to_step_and_from_rollout_to_rollout(
    side: str, lengths: tuple[int, ...]
) -> None:
    done = collected(scripted(NEXT_STEP, side), lengths)
    told = np.concatenate([rollout.log_probs for _, rollout in done])
    seen = np.concatenate([rollout.observations["observation"][:-1, :, 0] for _, rollout in done])
    assert seen.max() == 3
    np.testing.assert_array_equal(told, seen)
    np.testing.assert_array_equal(done[0][1].carry, np.zeros(3))
    for (state, _), (_, after) in itertools.pairwise(done):
        np.testing.assert_array_equal(after.carry, state.carry)
    last_state, last = done[-1]
    np.testing.assert_array_equal(last_state.carry, last.log_probs[-1] + 1)
    np.testing.assert_array_equal(last_state.first, FIRST[-1])


class Noted(Counting):
    """The same, and notes when it is traced."""

    def act(self, *args: Any, **options: Any) -> tuple[Act, Any]:
        TRACES.append(1)
        return super().act(*args, **options)


TRACES: list[int] = []


@every_side
def test_a_collector_goes_on_with_environments_made_anew(side: str) -> None:
    other = scripted(Script(NEXT_STEP.rows[::-1]), side)
    begun = start(other, jnp.zeros(3), KEY)
    own = make_collector(scripted(NEXT_STEP, side), num_steps=8)
    moved = own.on(other)
    TRACES.clear()
    _, rollout = own(Noted(), begun, KEY)
    np.testing.assert_array_equal(rollout.first, FIRST)
    _, elsewhere = moved(Noted(), begun, KEY)
    _, expected = make_collector(other, num_steps=8)(Counting(), begun, KEY)
    assert (np.asarray(elsewhere.first) != FIRST).any()
    for ours, theirs in zip(*map(jax.tree.leaves, (elsewhere, expected)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if side == "host":  # what is compiled has no part of the environments
        assert len(TRACES) == 1


class Drawing(Counting):
    """Actions that the random stream says."""

    def act(
        self, observation: Any, carry: Any, first: Any, key: Any, *, deterministic: bool = False
    ) -> tuple[Act, Any]:
        drawn = jax.random.normal(key, (len(carry), 1))
        return Act(drawn, carry, drawn), carry


def test_every_side_draws_the_same_actions() -> None:
    drawn = []
    for side in ("graph", "host", "physics"):
        env = scripted(NEXT_STEP, side)
        begun = start(env, jnp.zeros(3), KEY)
        _, rollout = make_collector(env, num_steps=8)(Drawing(), begun, KEY)
        drawn.append(np.asarray(rollout.raw_actions))
    assert len(np.unique(drawn[0])) == drawn[0].size
    np.testing.assert_array_equal(drawn[1], drawn[0])
    np.testing.assert_array_equal(drawn[2], drawn[0])


# --- simulators that reset within the step


SPOILT = np.float32(
    [
        [1, np.nan, 13],
        [np.inf, 22, 23],
        [31, np.nan, 33],
        [np.inf, 42, np.nan],
        [51, 52, np.nan],
        [61, 62, 63],
    ]
)


@every_side
def test_the_last_observations_of_a_same_step_simulator_are_kept_beside_the_first_ones(
    side: str,
) -> None:
    final = np.arange(18, dtype=np.float32).reshape(6, 3)
    env = scripted(SAME_STEP, side, final, autoreset="same_step")
    _, rollout = collected(env, (6,))[0]
    np.testing.assert_array_equal(rollout.final_observations["observation"][..., 0], final)
    time = np.asarray(rollout.observations["observation"][..., 0])
    np.testing.assert_array_equal(time == 0, rollout.first)
    ended = SAME_STEP.flags("TCL")
    np.testing.assert_array_equal(rollout.ended, ended)
    np.testing.assert_array_equal(rollout.first[1:], ended)
    # there is no reset row: what is not lost is experience
    lost = lost_in(SAME_STEP) if side != "graph" else SAME_STEP.flags("L")
    np.testing.assert_array_equal(rollout.valid, ~lost)
    without = collected(scripted(SAME_STEP, side, autoreset="same_step"), (6,))[0][1]
    assert without.final_observations is None


def lost_in(script: Script) -> np.ndarray:
    """The rows of episodes that end in `L`."""
    lost = script.flags("L")
    for t in range(len(lost) - 2, -1, -1):
        lost[t] |= lost[t + 1] & ~script.flags("TCL")[t]
    return lost


@every_side
def test_a_last_observation_that_is_not_finite_spoils_the_row_that_it_ends_and_no_other(
    side: str,
) -> None:
    env = scripted(SAME_STEP, side, SPOILT, autoreset="same_step")
    _, rollout = collected(env, (6,))[0]
    clean = scripted(SAME_STEP, side, np.zeros((6, 3), np.float32), autoreset="same_step")
    _, expected = collected(clean, (6,))[0]
    # rows whose episode goes on are not read: of the ends, two are spoilt, and one is lost anyway
    spoilt = SAME_STEP.flags("TC") & ~np.isfinite(SPOILT)
    np.testing.assert_array_equal(np.argwhere(spoilt), [[3, 0], [4, 2]])
    np.testing.assert_array_equal(rollout.valid, expected.valid & ~spoilt)
    np.testing.assert_array_equal(rollout.faults["observation 'observation'"], [1, 0, 1])
    np.testing.assert_array_equal(rollout.masked - expected.masked, [1, 0, 1])
    kept = rollout.final_observations["observation"][..., 0]
    np.testing.assert_array_equal(kept, np.where(np.isfinite(SPOILT), SPOILT, 0))


# --- the simulators' state


LOW_BIT = 2.0**-45  # of numbers about 1: float64 holds it, float32 does not


class Precise(Environment):
    """Its state counts in bits that float32 does not have, and shows them."""

    def __init__(self, side: str) -> None:
        self.xp = jnp if side == "graph" else np
        groups = {"observation": ObservationSpec((1,))}
        self.spec = EnvSpec(
            "precise", 2, groups, BOX, in_graph=side == "graph", needs_float64=side == "graph"
        )

    def reset(self, key: jax.Array) -> tuple[Any, Step]:
        position = self.xp.array([1.0, 1.0 + LOW_BIT], "float64")
        state = {"position": position, "ticks": self.xp.array(2**40, "int64")}
        return state, self.observed(state, self.xp.zeros(2, bool))

    def step(self, env_state: Any, action: Any) -> tuple[Any, Step]:
        state = {
            "position": env_state["position"] + LOW_BIT,
            "ticks": env_state["ticks"] + 1,
        }
        return state, self.observed(state, self.xp.ones(2, bool))

    def observed(self, state: Any, valid: Any) -> Step:
        seen = ((state["position"] - 1.0) / LOW_BIT).astype("float32")
        no = self.xp.zeros(2, bool)
        return Step(seen[:, None], self.xp.zeros(2, "float32"), no, no, valid, {})


@each_side
def test_a_simulators_state_keeps_every_bit_from_its_reset_on(side: str) -> None:
    begun = start(Precise(side), jnp.zeros(2), KEY)
    (after, rollout), *_ = collected(Precise(side), (10,))
    for state, steps in ((begun, 0), (after, 10)):
        position, ticks = state.env_state["position"], state.env_state["ticks"]
        assert isinstance(position, jax.Array if side == "graph" else np.ndarray)
        assert position.dtype == np.float64
        assert np.asarray(position).tolist() == [1 + steps * LOW_BIT, 1 + (1 + steps) * LOW_BIT]
        assert ticks.dtype == np.int64
        assert int(ticks) == 2**40 + steps
    seen = np.arange(11)[:, None] + [0, 1]
    np.testing.assert_array_equal(rollout.observations["observation"][..., 0], seen)


@each_side
def test_what_is_ours_stays_in_32_bits_beside_a_simulator_in_64(side: str) -> None:
    (state, rollout), *_ = collected(Precise(side), (10,))
    dtypes = {np.dtype(x.dtype) for x in jax.tree.leaves((rollout, state._replace(env_state=None)))}
    assert dtypes == {np.dtype(x) for x in ("float32", "int32", "bool")}


class Opaque(Precise):
    """A host environment whose state is an object of its own."""

    class State:
        time = 0

    def reset(self, key: jax.Array) -> tuple[Any, Step]:
        _, step = super().reset(key)
        self.state = Opaque.State()
        return self.state, step

    def step(self, env_state: Any, action: Any) -> tuple[Any, Step]:
        assert env_state is self.state
        env_state.time += 1
        _, step = super().step({"position": np.ones(2), "ticks": 0}, action)
        return env_state, step


def test_a_host_simulators_state_may_be_anything() -> None:
    env = Opaque("host")
    (state, _), *_ = collected(env, (10,))
    assert state.env_state is env.state
    assert state.env_state.time == 10


@functools.cache
def wide_action(side: str) -> Any:
    """The action that a simulator of float64 gets."""
    got = []

    class Watching(Precise):
        def step(self, env_state: Any, action: Any) -> tuple[Any, Step]:
            got.append(action)
            return super().step(env_state, action)

    env = Watching(side)
    env.spec = EnvSpec(
        "watching",
        2,
        env.spec.observations,
        ActionSpec("continuous", (1,), (-1.0,), (1.0,), (1,), "float64"),
        in_graph=side == "graph",
        needs_float64=side == "graph",
    )
    collected(env, (10,))
    return got[0]


@each_side
def test_a_simulator_gets_actions_of_its_own_dtype(side: str) -> None:
    assert wide_action(side).dtype == np.float64
    assert wide_action(side).shape == (2, 1)


# numbers that are not finite ---------------------------------------------------------------------


def spoilt(rng: np.random.Generator, shape: tuple[int, ...], share: float) -> np.ndarray:
    """Random numbers, some of which are not finite."""
    rows = rng.normal(size=shape).astype(np.float32)
    return np.where(rng.random(shape) < share, rng.choice([np.nan, np.inf, -np.inf], shape), rows)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("final", [False, True])
def test_a_row_is_experience_if_all_numbers_around_it_are_finite(seed: int, final: bool) -> None:
    rng, (length, count, width) = np.random.default_rng(seed), (7, 3, 2)
    observations = spoilt(rng, (length + 1, count, width), 0.08)
    actions = spoilt(rng, (length, count, 2), 0.03)
    log_probs, rewards = (spoilt(rng, (length, count), 0.05) for _ in range(2))
    terminated, truncated = (rng.random((length, count)) < 0.2 for _ in range(2))
    valid = rng.random((length, count)) < 0.8
    finals = spoilt(rng, (length, count, width), 0.2) if final else None
    step = Step(
        None, rewards, terminated, truncated, valid, {}, None if finals is None else {"o": finals}
    )
    before = CollectorState(
        None, {"o": observations[0]}, jnp.ones(count, bool), (), start_episodes(count), ()
    )
    after = before._replace(observation={"o": observations[-1]})
    rows = jax.tree.map(jnp.asarray, Transition({"o": observations[:-1]}, actions, log_probs, step))
    rollout, _ = assemble(rows, before, after, "next_step")

    sound, faults = valid.copy(), {}
    for t, n in itertools.product(range(length), range(count)):
        ends = terminated[t, n] or truncated[t, n]
        seen = [*observations[t, n], *observations[t + 1, n]]
        seen += [*finals[t, n]] if finals is not None and ends else []
        parts = {
            "observation 'o'": seen,
            "reward": [rewards[t, n]],
            "action": [*actions[t, n], log_probs[t, n]],
        }
        for name, numbers in parts.items():
            odd = not np.isfinite(numbers).all()
            faults.setdefault(name, np.zeros(count, int))[n] += odd and valid[t, n]
            sound[t, n] &= not odd
    np.testing.assert_array_equal(rollout.valid, sound)
    assert {*faults} == {*rollout.faults}
    for name, counts in faults.items():
        np.testing.assert_array_equal(rollout.faults[name], counts, name)
    np.testing.assert_array_equal(rollout.masked, (valid & ~sound).sum(axis=0))
    for rows, kept in (
        (observations, rollout.observations["o"]),
        (actions, rollout.raw_actions),
        (log_probs, rollout.log_probs),
        (rewards, rollout.rewards),
    ):
        np.testing.assert_array_equal(kept, np.where(np.isfinite(rows), rows, 0.0))


@pytest.mark.parametrize("seed", range(8))
def test_the_rows_of_a_lost_episode_are_those_from_its_beginning_in_the_rollout(seed: int) -> None:
    rng, shape = np.random.default_rng(seed), (9, 4)
    terminated, truncated = (rng.random(shape) < 0.2 for _ in range(2))
    valid = rng.random(shape) < 0.6
    nothing = np.zeros(shape)
    step = Step(None, nothing, terminated, truncated, valid, {})
    lost = lost_rows(step)
    for n in range(shape[1]):
        began = 0
        for t in range(shape[0]):
            if terminated[t, n] or truncated[t, n]:
                np.testing.assert_array_equal(lost[began : t + 1, n], not valid[t, n])
                began = t + 1
        assert not lost[began:, n].any()
