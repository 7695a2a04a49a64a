"""Laws of the environment contract, the same for every family of simulators."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from surefoot.envs import Environment, ObservationSpec, Step, make_environment
from surefoot.envs.contract import ActionSpec, EnvSpec, as_groups, as_specs
from surefoot.envs.envpool import EnvPoolEnvironment

NUM_ENVS, NUM_STEPS, LIMIT = 3, 60, 14
SEEDS = (3, 14, 15)


def envpool_cartpole(seed: int, *, in_graph: bool) -> Environment:
    seeds = [seed + s for s in SEEDS]
    options = {"max_episode_steps": LIMIT}
    return EnvPoolEnvironment(
        "CartPole-v1", NUM_ENVS, seeds=seeds, options=options, in_graph=in_graph
    )


def by_name(seed: int, *, task: str, options: dict[str, Any]) -> Environment:
    return make_environment(task, NUM_ENVS, seed=np.random.SeedSequence(seed), options=options)


CARTPOLES: dict[str, Callable[[int], Environment]] = {
    "envpool-graph": functools.partial(envpool_cartpole, in_graph=True),
    "envpool-host": functools.partial(envpool_cartpole, in_graph=False),
    "gymnasium": functools.partial(
        by_name, task="gymnasium:CartPole-v1", options={"max_episode_steps": LIMIT}
    ),
    "gymnax": functools.partial(
        by_name, task="gymnax:CartPole-v1", options={"max_steps_in_episode": LIMIT}
    ),
}
ADAPTERS = CARTPOLES | {
    f"probe-{name}": functools.partial(by_name, task=f"probe:{name}", options={})
    for name in ("both", "truncated/continuous", "both-flags")
}


class Recording(NamedTuple):
    """Rows [T, ...] of one play; `before` is the observation each action was taken at."""

    env: Environment
    first: Step
    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]
    steps: Step

    @property
    def ended(self) -> np.ndarray:
        return self.steps.terminated | self.steps.truncated


def play(env: Environment, actions: np.ndarray, seed: int) -> Recording:
    with jax.enable_x64(env.spec.needs_float64):
        step_env = jax.jit(env.step) if env.spec.in_graph else env.step
        state, first = env.reset(jax.random.key(seed))
        steps = []
        for action in actions:
            state, step = step_env(state, action)
            steps.append(jax.tree.map(np.asarray, step))
    rows = jax.tree.map(lambda *leaves: np.stack(leaves), *steps)
    start = {name: np.asarray(x) for name, x in as_groups(first.observation).items()}
    after = as_groups(rows.observation)
    before = {name: np.concatenate([start[name][None], x[:-1]]) for name, x in after.items()}
    return Recording(env, first, before, after, rows)


def random_actions(env: Environment) -> np.ndarray:
    random = np.random.default_rng(0)
    spec = env.spec.action
    if spec.kind == "discrete":
        return random.integers(spec.sizes[0], size=(NUM_STEPS, NUM_ENVS)).astype(spec.dtype)
    shape = (NUM_STEPS, NUM_ENVS, *spec.shape)
    return random.uniform(-1, 1, shape).astype(spec.dtype)


@pytest.fixture(autouse=True, scope="module")
def usual_promotion() -> Iterator[None]:
    with jax.numpy_dtype_promotion("standard"):  # gymnax mixes dtypes
        yield


@functools.cache
def recorded(adapter: str) -> Recording:
    env = ADAPTERS[adapter](0)
    return play(env, random_actions(env), seed=0)


def same_bytes(a: Recording, b: Recording) -> bool:
    pairs = zip(jax.tree.leaves(a[1:]), jax.tree.leaves(b[1:]), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


every_adapter = pytest.mark.parametrize("adapter", ADAPTERS)
every_cartpole = pytest.mark.parametrize("adapter", CARTPOLES)


@every_adapter
def test_rows_of_the_first_reset_are_no_experience(adapter: str) -> None:
    first = recorded(adapter).first
    for rows in (first.reward, first.terminated, first.truncated, first.valid):
        np.testing.assert_array_equal(rows, np.zeros(NUM_ENVS, rows.dtype))


@every_adapter
def test_invalid_rows_are_exactly_those_after_an_ended_one(adapter: str) -> None:
    play_ = recorded(adapter)
    previous = np.concatenate([np.zeros((1, NUM_ENVS), bool), play_.ended[:-1]])
    assert previous.any()
    np.testing.assert_array_equal(play_.steps.valid, ~previous)


@every_adapter
def test_a_reset_row_has_no_reward_no_flag_and_no_info(adapter: str) -> None:
    steps = recorded(adapter).steps
    for rows in (steps.reward, steps.terminated, steps.truncated, *steps.info.values()):
        assert not np.nan_to_num(rows[~steps.valid]).any()


@every_adapter
def test_every_row_has_the_shapes_and_dtypes_of_the_spec(adapter: str) -> None:
    play_ = recorded(adapter)
    groups = play_.env.spec.observations
    for rows in (play_.before, play_.after):
        assert {n: x.shape for n, x in rows.items()} == {
            n: (NUM_STEPS, NUM_ENVS, *group.shape) for n, group in groups.items()
        }
        assert {n: x.dtype for n, x in rows.items()} == {
            n: np.dtype(group.dtype) for n, group in groups.items()
        }
    assert play_.steps.reward.dtype == np.float32
    for flags in (play_.steps.terminated, play_.steps.truncated, play_.steps.valid):
        assert flags.dtype == bool
        assert flags.shape == (NUM_STEPS, NUM_ENVS)
    assert set(play_.steps.info) == set(play_.env.spec.info)


@every_adapter
def test_equal_seeds_play_alike_and_the_action_of_a_reset_row_is_ignored(adapter: str) -> None:
    play_ = recorded(adapter)
    again = ADAPTERS[adapter](0)
    actions = random_actions(again)
    other = 1 - actions if actions.dtype.kind == "i" else -actions
    reset_rows = ~play_.steps.valid.reshape(NUM_STEPS, NUM_ENVS, *(1,) * (actions.ndim - 2))
    changed = np.where(reset_rows, other, actions)
    assert (changed != actions).any()
    assert same_bytes(play_, play(again, changed, seed=0))


@every_cartpole
def test_other_seeds_start_elsewhere(adapter: str) -> None:
    env = ADAPTERS[adapter](100)
    _, first = env.reset(jax.random.key(100))
    ours = np.asarray(as_groups(first.observation)["observation"])
    theirs = recorded(adapter).before["observation"][0]
    assert len(np.unique(np.concatenate([ours, theirs]), axis=0)) == 2 * NUM_ENVS


@every_cartpole
def test_the_step_that_ends_an_episode_returns_its_true_last_observation(adapter: str) -> None:
    play_ = recorded(adapter)
    before, after = play_.before["observation"], play_.after["observation"]
    tau = 0.02  # positions move by the velocities before the step: explicit Euler
    moved = before[..., [0, 2]] + tau * before[..., [1, 3]]
    follows = np.isclose(after[..., [0, 2]], moved, atol=1e-6).all(-1)
    np.testing.assert_array_equal(follows, play_.steps.valid)
    fallen = (np.abs(after[..., 0]) > 2.4) | (np.abs(after[..., 2]) > 12 * np.pi / 180)
    # EnvPool flags a fall on the very step of the time limit as a truncation alone
    hidden = play_.steps.truncated if adapter.startswith("envpool") else False
    assert (fallen & ~play_.steps.truncated).any()
    np.testing.assert_array_equal(play_.steps.terminated, fallen & ~hidden)


@every_cartpole
def test_a_reset_row_returns_the_first_observation_of_a_new_episode(adapter: str) -> None:
    play_ = recorded(adapter)
    firsts = play_.after["observation"][~play_.steps.valid]
    assert len(firsts) >= 6
    assert np.abs(firsts).max() <= 0.05
    assert len(np.unique(firsts, axis=0)) == len(firsts)


@every_cartpole
def test_the_time_limit_truncates_and_does_not_terminate(adapter: str) -> None:
    play_ = recorded(adapter)
    lengths = np.zeros((NUM_STEPS, NUM_ENVS), int)
    running = np.zeros(NUM_ENVS, int)
    for t in range(NUM_STEPS):
        running = running + play_.steps.valid[t]
        lengths[t] = running
        running = np.where(play_.ended[t], 0, running)
    at_limit = (lengths == LIMIT) & play_.steps.valid
    assert at_limit.any()
    np.testing.assert_array_equal(play_.steps.truncated, at_limit)
    assert (play_.steps.truncated & ~play_.steps.terminated).any()
    assert lengths.max() == LIMIT


@every_cartpole
def test_every_step_of_experience_is_rewarded_once(adapter: str) -> None:
    steps = recorded(adapter).steps
    np.testing.assert_array_equal(steps.reward, steps.valid.astype(np.float32))


def test_both_flags_arrive_together_where_the_simulator_sets_both() -> None:
    steps = recorded("probe-both-flags").steps
    assert steps.terminated.any()
    np.testing.assert_array_equal(steps.terminated, steps.truncated)


@pytest.mark.parametrize("task", ["CartPole-v1", "gymnasium:CartPole-v1"])
def test_first_observations_are_distinct_in_a_run_and_disjoint_across_seeds(task: str) -> None:
    firsts = []
    for seed in range(10):
        env = make_environment(task, 4, seed=np.random.SeedSequence(seed))
        _, step = env.reset(jax.random.key(0))
        firsts.append(np.asarray(as_groups(step.observation)["observation"]))
        env.close()
    assert len(np.unique(np.concatenate(firsts), axis=0)) == 40


@pytest.mark.parametrize("name", ["CartPole-v1", "gymnasium:CartPole-v1", "gymnax:CartPole-v1"])
def test_an_environment_says_what_it_is(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make_environment(name, 2, seed=np.random.SeedSequence(0))
    assert env.spec.name == name
    assert env.spec.num_envs == 2
    assert env.spec.observations == {"observation": ObservationSpec((4,))}
    assert env.spec.action.kind == "discrete"
    assert env.spec.action.sizes == (2,)
    assert env.spec.exact_truncation
    env.close()


@pytest.mark.parametrize(
    ("autoreset", "final_observation", "exact"),
    [
        ("next_step", False, True),
        ("next_step", True, True),
        ("same_step", True, True),
        ("same_step", False, False),
    ],
)
def test_truncation_is_exact_where_the_last_observation_arrives(
    autoreset: Any, final_observation: bool, exact: bool
) -> None:
    spec = EnvSpec(
        "ours",
        1,
        as_specs({"observation": 1}),
        ActionSpec("discrete", (2,)),
        in_graph=False,
        autoreset=autoreset,
        final_observation=final_observation,
    )
    assert spec.exact_truncation is exact
    # what an adapter does not promise is not taken for granted
    assert not spec.saves_state
    assert not spec.cheap_to_make


def test_how_many_numbers_a_group_has_may_stand_for_its_spec() -> None:
    phase = ObservationSpec((), choices=(4,), starts=(0,))
    assert as_specs({"state": 3, "phase": phase}) == {
        "state": ObservationSpec((3,)),
        "phase": phase,
    }


def test_an_array_alone_is_the_group_observation() -> None:
    array = np.zeros((2, 3))
    assert as_groups(array)["observation"] is array
    assert as_groups({"state": array})["state"] is array
