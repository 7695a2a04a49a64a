"""EnvPool: the same rows as the raw pool, from inside the graph and from the host."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import jax
import numpy as np
import pytest

from surefoot.envs import ObservationSpec, Step
from surefoot.envs.envpool import EnvPoolEnvironment, known_tasks

SEEDS = [7, 70]
LIMITS = {"Hopper-v5": 20, "CartPole-v1": 12, "Pendulum-v1": 10}


def actions_for(env: EnvPoolEnvironment, num_steps: int) -> np.ndarray:
    random = np.random.default_rng(1)
    spec = env.spec.action
    if spec.kind == "discrete":
        return random.integers(spec.sizes[0], size=(num_steps, 2)).astype(spec.dtype)
    return random.uniform(-1, 1, (num_steps, 2, *spec.shape)).astype(spec.dtype)


def play(env: EnvPoolEnvironment, actions: np.ndarray) -> tuple[Step, Step]:
    with jax.enable_x64(env.spec.needs_float64):
        step_env = jax.jit(env.step) if env.spec.in_graph else env.step
        state, first = env.reset(jax.random.key(0))
        steps = []
        for action in actions:
            state, step = step_env(state, action)
            steps.append(jax.tree.map(np.asarray, step))
    return first, jax.tree.map(lambda *leaves: np.stack(leaves), *steps)


def by_hand(task: str, actions: np.ndarray) -> tuple[np.ndarray, list[Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import envpool

        pool = envpool.make(
            task,
            env_type="gymnasium",
            num_envs=2,
            seed=SEEDS,
            max_episode_steps=LIMITS[task],
        )
        first = pool.reset()[0]
        return first, [pool.step(action)[:4] for action in actions]


@pytest.mark.parametrize("in_graph", [True, False], ids=["graph", "host"])
@pytest.mark.parametrize("task", LIMITS)
def test_every_row_is_what_the_raw_pool_returns_to_the_same_actions(
    task: str, in_graph: bool
) -> None:
    options = {"max_episode_steps": LIMITS[task]}
    env = EnvPoolEnvironment(task, 2, seeds=SEEDS, options=options, in_graph=in_graph)
    actions = actions_for(env, 50)
    first, rows = play(env, actions)
    raw_first, raw = by_hand(task, actions)
    np.testing.assert_array_equal(first.observation["observation"], raw_first.astype(np.float32))
    valid = np.ones(2, bool)
    for t, (observation, reward, terminated, truncated) in enumerate(raw):
        np.testing.assert_array_equal(
            rows.observation["observation"][t], observation.astype(np.float32)
        )
        np.testing.assert_array_equal(rows.valid[t], valid)
        np.testing.assert_array_equal(rows.terminated[t], terminated & valid)
        np.testing.assert_array_equal(rows.truncated[t], truncated & valid)
        np.testing.assert_array_equal(rows.reward[t], np.where(valid, reward, 0).astype(np.float32))
        valid = ~(terminated | truncated)
    assert (rows.terminated | rows.truncated).any()


@pytest.mark.parametrize("in_graph", [True, False], ids=["graph", "host"])
def test_a_time_limit_flags_truncation_alone(in_graph: bool) -> None:
    options = {"max_episode_steps": 10}
    env = EnvPoolEnvironment("Pendulum-v1", 2, seeds=SEEDS, options=options, in_graph=in_graph)
    _, rows = play(env, actions_for(env, 33))
    expected = np.zeros((33, 2), bool)
    expected[[9, 20, 31]] = True  # ten steps, then the row of the reset
    np.testing.assert_array_equal(rows.truncated, expected)
    assert not rows.terminated.any()


@pytest.mark.parametrize("in_graph", [True, False], ids=["graph", "host"])
def test_the_graph_is_asked_for_64_bit_types_and_the_host_is_not(in_graph: bool) -> None:
    env = EnvPoolEnvironment("CartPole-v1", 2, seeds=SEEDS, in_graph=in_graph)
    assert env.spec.in_graph is in_graph
    assert env.spec.needs_float64 is in_graph


def test_actions_are_wanted_in_the_simulators_own_dtype() -> None:
    for task, dtype in {
        "Hopper-v5": "float64",
        "Pendulum-v1": "float32",
        "CartPole-v1": "int32",
    }.items():
        env = EnvPoolEnvironment(task, 2, seeds=SEEDS, in_graph=False)
        assert env.spec.action.dtype == dtype


def test_known_tasks_name_each_simulator_once() -> None:
    names = known_tasks()
    assert {"CartPole-v1", "Hopper-v5", "Go1JoystickFlatTerrain-v1"} <= set(names)
    assert len(names) == len(set(names))
    assert not [n for n in names if "/" in n and n.split("/")[-1] in names]


@pytest.fixture(scope="module")
def go1() -> tuple[EnvPoolEnvironment, Step, Step]:
    env = EnvPoolEnvironment(
        "Go1JoystickFlatTerrain-v1", 2, seeds=SEEDS, options={"noise_level": 0.0}
    )
    actions = actions_for(env, 80)
    first, rows = play(env, actions)
    return env, first, rows


def test_go1_has_a_group_for_the_actor_and_one_for_the_critic(go1: Any) -> None:
    env, first, rows = go1
    sizes = {"state": 48, "privileged_state": 123}
    assert env.spec.observations == {name: ObservationSpec((n,)) for name, n in sizes.items()}
    for name, size in sizes.items():
        assert first.observation[name].shape == (2, size)
        assert rows.observation[name].shape == (80, 2, size)
        assert rows.observation[name].dtype == np.float32
        assert np.isfinite(rows.observation[name]).all()


def test_go1_options_reach_the_simulator(go1: Any) -> None:
    _, _, rows = go1
    privileged = rows.observation["privileged_state"]
    # state holds the measured angular velocity, privileged_state the exact one behind a copy of it
    measured, exact = rows.observation["state"][..., 3:6], privileged[..., 48:51]
    np.testing.assert_allclose(measured, exact, atol=1e-6)
    assert np.abs(exact).max() > 0.1


def test_go1_logs_the_terms_of_its_reward(go1: Any) -> None:
    env, first, rows = go1
    assert "reward_tracking_lin_vel" in env.spec.info
    assert set(rows.info) == set(first.info) == set(env.spec.info)
    for term in rows.info.values():
        assert term.shape == (80, 2)
        assert term.dtype == np.float32
        assert not term[~rows.valid].any()
    assert rows.info["reward_tracking_lin_vel"].any()


def test_go1_falls_and_starts_elsewhere(go1: Any) -> None:
    _, first, rows = go1
    assert (~rows.valid).any()
    starts = np.concatenate([first.observation["state"], rows.observation["state"][~rows.valid]])
    assert len(np.unique(starts, axis=0)) == len(starts)


def test_a_spec_is_frozen() -> None:
    env = EnvPoolEnvironment("CartPole-v1", 1, seeds=[0], in_graph=False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        env.spec.num_envs = 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_threads": -5}, "num_threads = -5 must be at least 1"),
        ({"max_episode_steps": "ten"}, "max_episode_steps = 'ten' must be int, like 1000"),
        ({"reset_noise_scale": True}, "reset_noise_scale = True must be float"),
        ({"reset_noise": 1}, "did you mean 'reset_noise_scale'"),
    ],
)
def test_a_wrong_option_is_refused_by_name(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        EnvPoolEnvironment("Hopper-v5", 2, seeds=SEEDS, options=options)
    assert "\n" not in str(error.value)


def test_threads_are_as_many_as_the_process_may_use_and_change_no_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("surefoot.envs.envpool.usable_cores", lambda: 2)
    played = []
    for options, threads in (({}, 2), ({"num_threads": 1}, 1)):
        env = EnvPoolEnvironment("Hopper-v5", 2, seeds=SEEDS, options=options)
        assert env.spec.threads == threads
        played.append(play(env, actions_for(env, 40)))
    jax.tree.map(np.testing.assert_array_equal, *played)
