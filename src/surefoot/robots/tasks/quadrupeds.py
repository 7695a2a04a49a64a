"""Quadrupeds that follow velocity commands."""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from surefoot.config import Config
from surefoot.robots import terms
from surefoot.robots.actuation import Actuation
from surefoot.robots.model import MODELS, Robot, installed, read_spec
from surefoot.robots.state import State
from surefoot.robots.symmetry import Mirror
from surefoot.robots.task import Start
from surefoot.robots.tasks.legged import FLOOR, WALKING, LeggedWalk
from surefoot.robots.terrain import Terrain


@dataclass(frozen=True)
class QuadrupedWalk(LeggedWalk):
    """A small quadruped follows commands: forward and sideways in m/s, turning in rad/s."""

    model: Any = MODELS / "quadruped.xml"

    trunk: ClassVar[str] = "trunk"
    feet: ClassVar[tuple[str, ...]] = ("FR", "FL", "RR", "RL")
    rhythm: ClassVar[tuple[float, ...]] = (0.0, 0.5, 0.5, 0.0)
    swings: ClassVar[int] = 1
    bends: ClassVar[tuple[float, ...]] = (1.0, 1.0, 0.1)
    mirror: ClassVar[Mirror | None] = Mirror((("FR", "FL"), ("RR", "RL")))
    actuation: ClassVar[Actuation] = Actuation(scale=0.5)
    # more changes of larger commands than the task has: falls come from those
    practice: ClassVar[Mapping[str, Any]] = {
        "episode_s": 10.0,
        "command_s": 2.0,
        "forward": 1.65,
        "sideways": 0.88,
        "turning": 1.32,
    }

    def gait_joints(self, lift: jax.Array, ahead: jax.Array, aside: jax.Array) -> jax.Array:
        """[4, 3]: abduction, hip and knee."""
        return jnp.stack([aside, 0.2 * lift - ahead, -0.4 * lift], axis=1)


@dataclass(frozen=True)
class Go1Walk(QuadrupedWalk):
    """Unitree's Go1 follows velocity commands on flat ground."""

    model: Any = lambda: read_spec(installed("unitree_go1/go1.xml"))
    # short strides: each is a chance to correct the course, and swings the trunk less
    frequency_hz: float = 3.5
    tracking: float = 3.0
    turn: float = 2.0
    by_phase: bool = False

    training: ClassVar[Config] = WALKING.replace(symmetry="average", total_steps=1_300_000)
    actuation: ClassVar[Actuation] = Actuation(stiffness=35.0, damping=0.5, scale=0.5)

    def edit(self, spec: mujoco.MjSpec) -> None:
        """Joints without friction or damping, as the recipe was measured with."""
        super().edit(spec)
        for joint in spec.joints:
            joint.damping, joint.frictionloss, joint.armature = np.zeros(3), 0.0, 0.004


@dataclass(frozen=True)
class SpotWalk(QuadrupedWalk):
    """Boston Dynamics' Spot follows velocity commands on flat ground."""

    model: Any = lambda: read_spec(installed("boston_dynamics_spot/spot.xml"))
    swing_m: float = 0.1

    actuation: ClassVar[Actuation] = Actuation(stiffness=300.0, damping=5.0, scale=0.5)
    trunk: ClassVar[str] = "body"
    feet: ClassVar[tuple[str, ...]] = ("FL", "FR", "HL", "HR")
    mirror: ClassVar[Mirror | None] = Mirror(
        (("fl_", "fr_"), ("hl_", "hr_"), ("FL", "FR"), ("HL", "HR"))
    )


@dataclass(frozen=True)
class Go1Rough(Go1Walk):
    """Unitree's Go1 follows velocity commands over rough ground, slopes and stairs, blind.

    An episode begins in the middle of a patch of the curriculum's level, facing anywhere, with one command.
    The level rises where the robot left the patch, and falls where it came less than half as far as asked.
    """

    command_s: float | None = None
    forward: float = 1.0
    sideways: float = 0.3
    turning: float = 0.3
    friction: tuple[float, float] = (0.6, 1.0)
    frequency_hz: float = 2.0
    swing_m: float = 0.1
    tracking: float = 2.0
    turn: float = 1.0

    training: ClassVar[Config] = WALKING.replace(symmetry="average", total_steps=6_000_000)
    practice: ClassVar[Mapping[str, Any]] = {}
    terrain: ClassVar[Terrain] = Terrain(
        kinds=("rough", "slope_up", "slope_down", "stairs_up", "stairs_down"),
        step_m=0.15,
        border_m=20.0,
    )

    def lay_floor(self, spec: mujoco.MjSpec) -> None:
        """Patches of rough ground, slopes and stairs."""
        self.terrain.add_to(spec, **FLOOR)

    def ground(self, xy: jax.Array) -> jax.Array:
        """Of the terrain."""
        return self.terrain.height(xy)

    def reset(self, robot: Robot, key: jax.Array, level: jax.Array) -> Start:
        """The home pose in the middle of a patch; the carry is where that is."""
        start = super().reset(robot, key, level)
        to_place, to_yaw = jax.random.split(jax.random.fold_in(key, 1))
        place = self.terrain.spawn(to_place, level)
        yaw = jax.random.uniform(to_yaw, (), minval=-jnp.pi, maxval=jnp.pi)
        facing = jnp.array([jnp.cos(yaw / 2), 0.0, 0.0, jnp.sin(yaw / 2)])
        assert start.qpos is not None
        qpos = start.qpos.at[:3].add(place).at[3:7].set(facing)
        return start._replace(qpos=qpos, carry=place[:2])

    def next_level(self, s: State) -> jax.Array:
        """By how far it came, beside how far the command takes a robot that keeps to it: along a circle."""
        walked = terms.norm(s.qpos[:2] - s.carry)
        half_turn = s.command[2] * self.episode_s / 2
        asked = terms.norm(s.command[:2]) * self.episode_s * jnp.abs(jnp.sinc(half_turn / jnp.pi))
        return self.terrain.next_level(s.key, s.level, walked, asked)
