"""Gymnasium's MuJoCo tasks as robots' tasks: the same numbers step by step, the same starts."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from tests.helpers import extended

from surefoot.robots import RobotEnvironment, RobotTask
from surefoot.robots.tasks.gymnasium import (
    Ant,
    ForcesAfter,
    HalfCheetah,
    Hopper,
    Humanoid,
    Walker2d,
    read_installed,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*compiler attribute 'settotalmass':UserWarning")

COPIES, STEPS = 3, 120
TASKS = (HalfCheetah, Hopper, Walker2d, Ant, Humanoid)
# options of ours, and the same of Gymnasium's
OTHERS: dict[type[RobotTask], tuple[dict[str, Any], dict[str, Any]]] = {
    HalfCheetah: (
        {"forward": 2.0, "ctrl": 0.3},
        {"forward_reward_weight": 2.0, "ctrl_cost_weight": 0.3},
    ),
    Hopper: (
        {
            "forward": 2.0,
            "ctrl": 0.1,
            "healthy": 3.0,
            "z_range": (0.9, 2.0),
            "angle_range": (-0.3, 0.1),
            "state_range": (-4.0, 5.0),
        },
        {
            "forward_reward_weight": 2.0,
            "ctrl_cost_weight": 0.1,
            "healthy_reward": 3.0,
            "healthy_z_range": (0.9, 2.0),
            "healthy_angle_range": (-0.3, 0.1),
            "healthy_state_range": (-4.0, 5.0),
        },
    ),
    Walker2d: (
        {"end_unhealthy": False, "healthy": 3.0, "z_range": (1.0, 1.3), "angle_range": (-0.3, 0.5)},
        {
            "terminate_when_unhealthy": False,
            "healthy_reward": 3.0,
            "healthy_z_range": (1.0, 1.3),
            "healthy_angle_range": (-0.3, 0.5),
        },
    ),
    Ant: (
        {
            "forward": 2.0,
            "ctrl": 0.1,
            "contact": 1e-3,
            "contact_range": (-3.0, 2.0),
            "healthy": 3.0,
            "z_range": (0.3, 0.8),
        },
        {
            "forward_reward_weight": 2.0,
            "ctrl_cost_weight": 0.1,
            "contact_cost_weight": 1e-3,
            "contact_force_range": (-3.0, 2.0),
            "healthy_reward": 3.0,
            "healthy_z_range": (0.3, 0.8),
        },
    ),
    Humanoid: (
        {
            "forward": 2.0,
            "ctrl": 0.3,
            "contact": 1e-6,
            "contact_range": (0.05, 0.2),
            "healthy": 3.0,
            "z_range": (1.2, 1.5),
        },
        {
            "forward_reward_weight": 2.0,
            "ctrl_cost_weight": 0.3,
            "contact_cost_weight": 1e-6,
            "contact_cost_range": (0.05, 0.2),
            "healthy_reward": 3.0,
            "healthy_z_range": (1.2, 1.5),
        },
    ),
}


@pytest.mark.extended
@pytest.mark.parametrize("other", [False, True], ids=["defaults", "other options"])
@pytest.mark.parametrize("kind", TASKS)
def test_a_task_is_gymnasiums_step_by_step(kind: type[RobotTask], other: bool) -> None:
    ours, theirs = OTHERS[kind] if other else ({}, {})
    task = kind(**ours)
    env = RobotEnvironment(task, COPIES, threads=2)
    own: Any = [gymnasium.make(f"{task.name}-v5", **theirs).unwrapped for _ in range(COPIES)]
    state, step = env.reset(jax.random.key(1))
    high = own[0].action_space.high
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(STEPS):
        begun = ~np.asarray(step.valid)
        for row in np.flatnonzero(begun):
            same(step.observation["observation"][row], start_as(own[row], state[1].rows[row]))
        action = rng.uniform(-high, high, (COPIES, high.size)).astype(np.float32)
        state, step = env.step(state, action)
        for row in np.flatnonzero(step.valid):
            observation, reward, terminated, *_ = own[row].step(action[row].astype(np.float64))
            same(step.observation["observation"][row], observation)
            same(step.reward[row], reward)
            assert step.terminated[row] == terminated
            ends += terminated
    can_end = getattr(task, "end_unhealthy", False)
    assert (ends > 2) == can_end, ends
    env.close()
    for one in own:
        one.close()


def start_as(own: Any, row: np.ndarray) -> np.ndarray:
    """Gymnasium's environment in the state of a row, which begins with the time; its first observation."""
    own.reset(seed=0)
    nq, nv = own.model.nq, own.model.nv
    own.set_state(row[1 : 1 + nq].copy(), row[1 + nq : 1 + nq + nv].copy())
    return own._get_obs()


def same(a: Any, b: Any) -> None:
    np.testing.assert_allclose(np.asarray(a), b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [TASKS[0], *map(extended, TASKS[1:])])
def test_a_task_begins_and_lasts_as_gymnasiums(kind: type[RobotTask]) -> None:
    task = kind()
    robot = RobotEnvironment(task, 1).robot
    spec = gymnasium.spec(f"{task.name}-v5")
    own: Any = gymnasium.make(spec).unwrapped
    assert task.control_dt_s == pytest.approx(own.dt)
    assert round(task.episode_s / task.control_dt_s) == spec.max_episode_steps
    count = 400
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), count)
        start = jax.vmap(lambda key: task.reset(robot, key, jnp.zeros(())))(keys)
    theirs = []
    for seed in range(count):
        own.reset(seed=seed)
        theirs.append(np.concatenate([own.data.qpos, own.data.qvel]))
    ours = np.concatenate([start.qpos, start.qvel], axis=1)
    for a, b in zip(ours.T, np.stack(theirs).T, strict=True):
        assert a.mean() == pytest.approx(b.mean(), abs=0.3 * b.std())
        assert a.std() == pytest.approx(b.std(), rel=0.2)
        assert np.abs(a - a.mean()).max() == pytest.approx(np.abs(b - b.mean()).max(), rel=0.5)
    own.close()


def test_contact_forces_are_those_of_the_step_also_where_more_is_calculated_after_it() -> None:
    model = read_installed("ant.xml").compile()
    batches = [ForcesAfter(model, 2, 1) for _ in range(2)]
    forces, more = (batch.bind("cfrc_ext") for batch in batches)
    for batch, stage in zip(
        batches, (mujoco.mjtStage.mjSTAGE_NONE, mujoco.mjtStage.mjSTAGE_VEL), strict=True
    ):
        batch.bind("xpos")
        batch.reset()
        for _ in range(20):
            batch.step(nstep=5, stage=stage)
    assert np.abs(forces).max() > 1
    np.testing.assert_array_equal(more, forces)
    assert np.abs(batches[0].xpos - batches[1].xpos).max() > 0
    batches[0].reset([1])
    assert np.abs(forces[0]).max() > 0
    np.testing.assert_array_equal(forces[1], 0)
