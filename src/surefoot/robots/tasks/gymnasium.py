"""Gymnasium's MuJoCo tasks (v5) as robots' tasks, step by step the same numbers (1e-6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from surefoot.robots.actuation import Actuation
from surefoot.robots.model import Robot, installed
from surefoot.robots.state import State
from surefoot.robots.task import RobotTask, Start


@dataclass(frozen=True)
class HalfCheetah(RobotTask):
    """Gymnasium's HalfCheetah-v5: run forward.

    Attributes:
        forward: weight of the speed in m/s.
        ctrl: weight of the squared actions.
        reset_noise: scale of the noise in the first positions and velocities.
    """

    model: Any = lambda: read_installed("half_cheetah.xml")
    control_dt_s: float = 0.05
    episode_s: float = 50.0
    forward: float = 1.0
    ctrl: float = 0.1
    reset_noise: float = 0.1

    actuation: ClassVar[Actuation] = Actuation(kind="ctrl")
    float64: ClassVar[bool] = True
    stale: ClassVar[bool] = True

    def reset(self, robot: Robot, key: jax.Array, level: jax.Array) -> Start:
        """The model's pose with noise; the carry is the place before the step."""
        to_qpos, to_qvel = jax.random.split(key)
        model, noise = robot.model, self.reset_noise
        qpos = robot.home + jax.random.uniform(to_qpos, (model.nq,), minval=-noise, maxval=noise)
        qvel = noise * jax.random.normal(to_qvel, (model.nv,))
        return Start(qpos, qvel, carry={"before": qpos[0], "now": qpos[0]})

    def remember(self, s: State) -> Any:
        """Where it was before the step, and where it is."""
        return {"before": s.carry["now"], "now": s.qpos[0]}

    def observe(self, s: State) -> Any:
        """Positions without the first, and velocities."""
        return jnp.concatenate([s.qpos[1:], s.qvel])

    def rewards(self, s: State) -> Mapping[str, Any]:
        """Speed minus the cost of control."""
        speed = (s.carry["now"] - s.carry["before"]) / self.control_dt_s
        return {"forward": self.forward * speed, "ctrl": -self.ctrl * jnp.sum(s.action**2)}


def read_installed(name: str) -> Any:
    """A model that comes with Gymnasium."""
    from surefoot.robots.model import read_spec

    return read_spec(installed(name))
