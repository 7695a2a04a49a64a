"""Stepping a task under a player: what is told of each step, commands that are held, where bodies are."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import jax
import mujoco
import numpy as np
import pytest
from tests.helpers import PROBE
from tests.see.helpers import Pole

from surefoot.errors import UserError
from surefoot.robots import RobotEnvironment
from surefoot.see.choice import Choice
from surefoot.see.players import Home, Random, Zero
from surefoot.see.stage import Moment, Stage, in_gymnasium, reset_key, stage_environment


def stage_of(task: Any, player: type, num_envs: int = 2) -> Stage:
    env = stage_environment(task, num_envs=num_envs)
    given: Any = {Home: (env,), Zero: (env.spec,), Random: (env.spec, jax.random.key(1))}[player]
    return Stage(env, player(*given), key=reset_key(0), log=warnings.warn)


def played(stage: Stage, steps: int) -> list[Moment]:
    return list(itertools.islice(stage, steps))


@pytest.fixture(scope="module")
def poles() -> Stage:
    """Two poles, one after the other in each test's hands."""
    return stage_of(Pole, Random)


def test_a_stage_counts_episodes_steps_and_returns() -> None:
    moments = played(stage_of(PROBE, Zero, 1), 20)
    rewards, total = [], 0.0
    for moment in moments:
        began = not moment.valid[0]
        total = 0.0 if began else total + moment.reward[0]
        assert (moment.step[0] == 0) == began
        rewards.append((moment.episode_return[0], total))
    assert moments[-1].episode[0] > 1
    np.testing.assert_allclose(*zip(*rewards, strict=True))


def test_a_robot_is_told_the_command_that_is_held_and_the_tasks_own_after_it(
    poles: Stage,
) -> None:
    stage = poles
    (part,) = stage.command_parts
    assert part.name == "command['angle'][0]"
    assert -1.0 <= part.low < -0.9 < 0.9 < part.high <= 1.0
    stage.hold_command([0.25])
    moments = played(stage, 30)  # three episodes, and commands drawn in every second step
    told = np.stack([moment.observation["observation"][:, 2] for moment in moments[1:]])
    np.testing.assert_array_equal(told, np.full_like(told, 0.25))
    assert all((moment.command == 0.25).all() for moment in moments[1:])
    assert max(moment.episode[0] for moment in moments) > 1
    stage.hold_command(None)
    again = {
        float(moment.command[0, 0]) for moment in played(stage, 20) if moment.command is not None
    }
    assert len(again) > 3
    with pytest.raises(UserError, match="a command of 2 numbers; Pole has 1"):
        stage.hold_command([0.0, 1.0])


def test_reward_terms_add_up_to_the_reward(poles: Stage) -> None:
    for moment in played(poles, 5):
        np.testing.assert_allclose(sum(moment.terms.values()), moment.reward, rtol=1e-6)


def test_the_home_pose_is_held_by_the_controls_of_the_actuators(
    poles: Stage,
) -> None:
    stage, before = poles, poles.player
    assert isinstance(stage.env, RobotEnvironment)
    stage.reset()
    stage.player = Home(stage.env)
    moment = next(stage)
    stage.player = before
    rows, model = stage.env_state[1].rows, stage.env.robot.model
    data = mujoco.MjData(model)
    mujoco.mj_setState(model, data, rows[1], mujoco.mjtState.mjSTATE_INTEGRATION)
    np.testing.assert_array_equal(moment.action[1], data.ctrl)
    np.testing.assert_array_equal(data.ctrl, np.asarray(stage.env.controls.rest))


def test_a_robot_is_shown_with_its_looks_where_its_bodies_are(poles: Stage) -> None:
    stage = poles
    stage.reset()
    assert isinstance(stage.env, RobotEnvironment)
    view, physics = stage.view(), stage.env.robot.model
    assert view.model.ngeom == physics.ngeom + 1  # the box that collides with nothing
    played(stage, 7)
    data = mujoco.MjData(view.model)
    view.put(1, data)
    np.testing.assert_array_equal(data.qpos, stage.env_state[1].rows[1, 1 : 1 + physics.nq])
    assert data.time == pytest.approx(7 * 0.02)
    assert view.model.ntex == 2  # a sky, and tiles


def test_a_gymnasium_environment_is_shown_as_it_is() -> None:
    stage = stage_of("gymnasium:InvertedPendulum-v5", Random)
    view = stage.view()
    data = mujoco.MjData(view.model)
    played(stage, 3)
    view.put(0, data)
    inner: Any = stage.env.instance(0)  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_array_equal(data.qpos, inner.unwrapped.data.qpos)
    assert stage.control_dt_s == pytest.approx(0.04)
    assert stage.command is None


@pytest.mark.parametrize(
    ("task", "shown"),
    [
        ("Hopper-v5", "gymnasium:Hopper-v5"),
        ("envpool:Ant-v5", "gymnasium:Ant-v5"),
        ("CartPole-v1", "CartPole-v1"),
        ("Go1JoystickFlatTerrain-v1", "Go1JoystickFlatTerrain-v1"),
        ("walk.py:Walk", "walk.py:Walk"),
        (Pole, Pole),
    ],
    ids=str,
)
def test_gymnasiums_twin_stands_for_what_envpool_keeps_to_itself(task: Any, shown: Any) -> None:
    assert in_gymnasium(task) == shown


def test_a_task_without_a_model_names_the_video() -> None:
    with pytest.raises(UserError, match="has no MuJoCo model that the viewer could show"):
        stage_of(PROBE, Zero).view()


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (Choice(), "name what to look at"),
        (Choice(task=PROBE), f"nobody acts on {PROBE}"),
        (Choice(task=PROBE, agent="zeros"), "unknown agent 'zeros'; did you mean 'zero'"),
        (Choice(task=PROBE, agent="home"), "late-reward is no robot's task"),
    ],
)
def test_a_choice_that_says_too_little_is_refused(choice: Choice, words: str) -> None:
    with pytest.raises(UserError, match=words):
        choice.open(log=warnings.warn)
