"""A robot to look at: a pole with a command, which breaks down when it is asked to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import mujoco

from surefoot.robots import Actuation, Robot, RobotTask, Start, State

POLE = """
<mujoco><option timestep="0.005"/><worldbody>
  <geom name="floor" type="plane" size="5 5 .1"/>
  <geom type="box" size=".1 .1 .1" pos="1 0 .1" contype="0" conaffinity="0"/>
  <body name="arm" pos="0 0 1"><joint name="hip" axis="0 1 0" range="-90 90" damping=".1"/>
    <geom name="rod" type="capsule" fromto="0 0 0 0 0 -.6" size=".05" mass="1"/></body>
</worldbody></mujoco>
"""


@dataclass(frozen=True)
class Pole(RobotTask):
    """Hold an angle that is asked for; from `breaks_at_s` on its velocity leaves all bounds,
    where the command is above `breaks_above`."""

    model: Any = lambda: mujoco.MjSpec.from_string(POLE)
    episode_s: float = 0.2
    command_s: float | None = 0.02
    breaks_at_s: float = 1e9
    breaks_above: float = -2.0

    actuation: ClassVar[Actuation] = Actuation(stiffness=20.0, damping=2.0)

    def reset(self, robot: Robot, key: jax.Array, level: jax.Array) -> Start:
        return Start(qpos=robot.home + jax.random.uniform(key, (1,), minval=-0.3, maxval=0.3))

    def command(self, key: jax.Array, level: jax.Array) -> Any:
        return {"angle": jax.random.uniform(key, (), minval=-1.0, maxval=1.0)}

    def observe(self, s: State) -> Any:
        hip = s.joint("hip")
        return jnp.stack([hip.qpos, hip.qvel, s.command["angle"]])

    def rewards(self, s: State) -> Any:
        return {"near": jnp.exp(-jnp.abs(s.joint("hip").qpos - s.command["angle"])), "time": -0.5}

    def randomize(self, robot: Robot, key: jax.Array) -> Any:
        return {"body_mass": robot.model.body_mass * jax.random.uniform(key, minval=0.5, maxval=2)}

    def events(self, s: State, key: jax.Array) -> Any:
        breaks = (s.time_s > self.breaks_at_s) & (s.command["angle"] > self.breaks_above)
        return {"qvel": jnp.where(breaks, 1e12, s.qvel)}
