"""Arms that reach for a point."""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import mujoco

from surefoot.config import Config
from surefoot.robots import terms
from surefoot.robots.actuation import Actuation
from surefoot.robots.model import MODELS, Robot, installed, read_spec
from surefoot.robots.state import State
from surefoot.robots.task import RobotTask, Start
from surefoot.robots.tasks.recipe import RECIPE

REACHING = RECIPE.replace(
    total_steps=1_000_000, num_envs=64, initial_std=0.5, min_std=0.05, gamma=0.97
)


@dataclass(frozen=True)
class ArmReach(RobotTask):
    """A small arm brings its tip to a point.

    Attributes:
        near: weight of being near the target, with a slope far away.
        there: weight of being at the target.
        speed: weight of squared joint velocities.
        action_rate: weight of changes of the action.
        start: the joints begin within this of the home pose, in rad.
        radius: nearest and farthest targets from the shoulder, in m.
        reached_m: distance that counts as success.
    """

    model: Any = MODELS / "arm.xml"
    physics_dt_s: float | None = 0.005
    episode_s: float = 3.0

    near: float = 1.0
    there: float = 1.0
    speed: float = -0.002
    action_rate: float = -0.01
    start: float = 0.3
    radius: tuple[float, float] = (0.15, 0.38)
    reached_m: float = 0.02

    actuation: ClassVar[Actuation] = Actuation(scale=1.0)
    training: ClassVar[Config] = REACHING
    command_names: ClassVar[tuple[str, ...]] = ("target x m", "target y m", "target z m")
    tip: ClassVar[str] = "tip"  # a site
    shoulder_m: ClassVar[tuple[float, float, float]] = (0.0, 0.0, 0.18)
    driven: ClassVar[str] = "*"

    def edit(self, spec: mujoco.MjSpec) -> None:
        """Nothing touches."""
        for geom in spec.geoms:
            geom.contype = geom.conaffinity = 0

    def reset(self, robot: Robot, key: jax.Array, level: jax.Array) -> Start:
        """Around the home pose."""
        ids = robot.scalar_joints(self.driven)
        places = robot.model.jnt_qposadr[ids]
        off = self.start * jax.random.uniform(key, (len(ids),), minval=-1.0)
        low, high = robot.model.jnt_range[ids].T
        joints = jnp.clip(robot.home[places] + off, low, high)
        return Start(jnp.asarray(robot.home).at[places].set(joints))

    def command(self, key: jax.Array, level: jax.Array) -> jax.Array:
        """[3] the target in m, in the half ball in front of and above the shoulder's height."""
        to_direction, to_radius = jax.random.split(key)
        direction = jax.random.normal(to_direction, (3,))
        direction = direction / terms.norm(direction)
        direction = jnp.stack([jnp.abs(direction[0]), direction[1], jnp.abs(direction[2])])
        low, high = self.radius
        radius = jax.random.uniform(to_radius, (), minval=low, maxval=high)
        return jnp.array(self.shoulder_m) + radius * direction

    def observe(self, s: State) -> jax.Array:
        """Joints, the tip, the target and the way there."""
        joints, tip = s.joints(self.driven), s.site(self.tip).position
        parts = [joints.qpos - joints.home, joints.qvel, tip, s.command, s.command - tip, s.action]
        return jnp.concatenate(parts)

    def rewards(self, s: State) -> Mapping[str, Any]:
        """Near the target, at it, and calmly."""
        off = s.site(self.tip).position - s.command
        return {
            "near": self.near * terms.near(off, width=0.2),
            "there": self.there * terms.near(off, width=0.02),
            "speed": self.speed * jnp.sum(jnp.square(s.joints(self.driven).qvel)),
            "action_rate": self.action_rate * terms.action_rate(s.action, s.last_action),
        }

    def metrics(self, s: State) -> Mapping[str, Any]:
        """The distance in m, and whether the episode ends at the target."""
        distance = terms.norm(s.site(self.tip).position - s.command)
        return {"distance": distance, "success": distance < self.reached_m}


@dataclass(frozen=True)
class PandaReach(ArmReach):
    """Franka's Panda brings the point between its fingers to a target."""

    model: Any = lambda: read_spec(installed("franka_emika_panda/panda.xml"))
    radius: tuple[float, float] = (0.35, 0.7)

    actuation: ClassVar[Actuation] = Actuation(joints="joint*", scale=1.0)
    shoulder_m: ClassVar[tuple[float, float, float]] = (0.0, 0.0, 0.333)
    driven: ClassVar[str] = "joint*"

    def edit(self, spec: mujoco.MjSpec) -> None:
        """A site between the fingers, and a solver that is fast enough."""
        super().edit(spec)
        spec.body("hand").add_site(name="tip", pos=[0, 0, 0.1034])
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        spec.option.iterations, spec.option.ls_iterations = 4, 8
