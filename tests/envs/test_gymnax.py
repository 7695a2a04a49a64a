"""gymnax tasks: their own transitions, without their own resets."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import gymnax
import jax
import numpy as np
import pytest
from tests.helpers import extended

from surefoot.envs import JaxEnvironment
from surefoot.envs.gymnax import GymnaxEnvironment, known_tasks

OPTIONS = {"max_steps_in_episode": 12}


@pytest.fixture(autouse=True, scope="module")
def usual_promotion() -> Iterator[None]:
    with jax.numpy_dtype_promotion("standard"):  # gymnax mixes dtypes
        yield


@pytest.mark.parametrize("task", [extended("CartPole-v1"), "Pendulum-v1"])
def test_every_row_is_what_the_task_returns_when_stepped_by_hand(task: str) -> None:
    single = GymnaxEnvironment(task, OPTIONS)
    env = JaxEnvironment(single, 2)
    task_env, params = gymnax.make(task)
    params = params.replace(**OPTIONS)
    by_hand = jax.jit(jax.vmap(task_env.step_env, in_axes=(None, 0, 0, None)))
    is_truncated = jax.vmap(task_env.is_truncated, in_axes=(0, None))
    step_env = jax.jit(env.step)
    state, _ = env.reset(jax.random.key(0))
    random = np.random.default_rng(0)
    for _ in range(12):
        actions = (
            random.integers(2, size=2) if task == "CartPole-v1" else random.normal(size=(2, 1))
        )
        actions = actions.astype(env.spec.action.dtype)
        inner = state.states
        running = ~np.asarray(state.ended)
        state, step = step_env(state, actions)
        # these two tasks draw nothing at random while they run
        observation, after, reward, terminated, _ = by_hand(
            jax.random.key(9), inner, actions, params
        )
        observation, reward = np.asarray(observation), np.asarray(reward)
        np.testing.assert_array_equal(step.valid, running)
        np.testing.assert_allclose(
            step.observation["observation"][running], observation[running], rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(step.reward[running], reward[running], rtol=1e-6)
        np.testing.assert_array_equal(step.terminated, np.asarray(terminated) & running)
        np.testing.assert_array_equal(
            step.truncated, np.asarray(is_truncated(after, params)) & running
        )
    if task == "Pendulum-v1":
        assert step.truncated.all()
        assert not step.terminated.any()


def test_specs_are_those_of_the_task() -> None:
    cartpole, pendulum = GymnaxEnvironment("CartPole-v1"), GymnaxEnvironment("Pendulum-v1")
    assert cartpole.observations == {"observation": 4}
    assert (cartpole.action.kind, cartpole.action.sizes) == ("discrete", (2,))
    assert pendulum.action.kind == "continuous"
    assert pendulum.action.low == (-2.0,)
    assert pendulum.action.high == (2.0,)
    assert pendulum.action.shape == (1,)


def test_an_observation_that_is_no_box_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    task_env, params = gymnax.make("CartPole-v1")
    monkeypatch.setattr(
        task_env, "observation_space", lambda _: gymnax.environments.spaces.Discrete(3)
    )
    monkeypatch.setattr(gymnax, "make", lambda _: (task_env, params))
    with pytest.raises(ValueError, match="observation space Discrete, need a Box"):
        GymnaxEnvironment("CartPole-v1")


def test_known_tasks_are_those_registered_and_none_without_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "CartPole-v1" in known_tasks()
    monkeypatch.setitem(sys.modules, "gymnax", None)
    assert known_tasks() == []
