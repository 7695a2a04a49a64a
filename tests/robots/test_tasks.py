"""Tasks that come with Surefoot: they build, step, and are what they say."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from surefoot.config import validate
from surefoot.envs.tasks import make_environment, own_options
from surefoot.robots import RobotEnvironment
from surefoot.robots.tasks import TASKS


@pytest.mark.extended
@pytest.mark.parametrize("name", TASKS)
def test_a_shipped_task_steps_and_nothing_breaks_down(name: str) -> None:
    task = f"robot:{name}"
    options = own_options(task)
    validate(options)
    said: list[str] = []
    env = make_environment(task, 4, seed=np.random.SeedSequence(0))
    assert isinstance(env, RobotEnvironment)
    env.log_to(said.append)
    state, step = env.reset(jax.random.key(0))
    size = env.spec.action.sizes[0]
    rng = np.random.default_rng(0)
    valid = 0
    for _ in range(25):
        state, step = env.step(state, rng.uniform(-1, 1, (4, size)).astype(np.float32))
        for group in step.observation.values():
            assert np.isfinite(group).all()
        assert np.isfinite(step.reward).all()
        valid += int(step.valid.sum())
    assert not said
    assert valid > 50
    env.close()


@pytest.mark.extended
def test_zero_actions_keep_a_quadruped_up() -> None:
    from surefoot.robots.tasks.quadrupeds import QuadrupedWalk

    env = RobotEnvironment(QuadrupedWalk(standing=1.0), 4)
    state, step = env.reset(jax.random.key(0))
    still = np.zeros((4, 12), np.float32)
    for _ in range(60):
        state, step = env.step(state, still)
        assert not step.terminated.any()
    assert float(step.info["measure_linear_error"].max()) < 0.05
    env.close()
