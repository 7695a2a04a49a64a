"""Humanoids that follow velocity commands."""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import mujoco

from surefoot.config import Config
from surefoot.robots.actuation import Actuation
from surefoot.robots.model import installed, lock, matching, read_spec, set_home
from surefoot.robots.symmetry import Mirror
from surefoot.robots.tasks.legged import WALKING, LeggedWalk


@dataclass(frozen=True)
class G1Walk(LeggedWalk):
    """Unitree's G1 follows velocity commands on flat ground with its legs; waist and arms are held still."""

    model: Any = lambda: read_spec(installed("unitree_g1/g1_mjx.xml"))

    forward: float = 1.0
    sideways: float = 0.4
    turning: float = 0.8
    frequency_hz: float = 1.5
    swing_m: float = 0.08

    trunk: ClassVar[str] = "pelvis"
    foot_kind: ClassVar[Literal["geom", "site"]] = "site"
    feet: ClassVar[tuple[str, ...]] = ("left_foot", "right_foot")
    rhythm: ClassVar[tuple[float, ...]] = (0.0, 0.5)
    driven: ClassVar[str | tuple[str, ...]] = ("*_hip_*", "*_knee_*", "*_ankle_*")
    swings: ClassVar[int] = 0
    # hip: pitch, roll, yaw; knee; ankle: pitch, roll
    bends: ClassVar[tuple[float, ...]] = (0.1, 1.0, 1.0, 0.1, 0.1, 1.0)
    mirror: ClassVar[Mirror | None] = Mirror((("left_", "right_"),))
    actuation: ClassVar[Actuation] = Actuation(joints=driven, scale=0.5)
    training: ClassVar[Config] = WALKING.replace(total_steps=8_000_000)
    practice: ClassVar[Mapping[str, Any]] = {
        "episode_s": 10.0,
        "command_s": 2.0,
        "forward": 1.1,
        "sideways": 0.44,
        "turning": 0.88,
    }

    def edit(self, spec: mujoco.MjSpec) -> None:
        """It stands with its knees bent; joints above the legs are locked."""
        super().edit(spec)
        arms = {"shoulder_pitch": 0.2, "elbow": 1.0, "left_shoulder_roll": 0.22}
        arms |= {"right_shoulder_roll": -0.22}
        driven = [actuator.target for actuator in spec.actuators]
        lock(
            spec,
            {
                name: next((angle for part, angle in arms.items() if part in name), 0.0)
                for name in driven
                if not any(matching([name], pattern) for pattern in self.driven)
            },
        )
        legs = {"hip_pitch": -0.312, "knee": 0.669, "ankle_pitch": -0.363}
        sides = itertools.product(("left", "right"), legs.items())
        set_home(spec, {f"{side}_{joint}_joint": angle for side, (joint, angle) in sides})

    def soles(self, spec: mujoco.MjSpec) -> list[Any]:
        """Small spheres at the corners of the feet."""
        corners = itertools.product((-0.05, 0.13), (-0.03, 0.03))
        return [
            spec.body(f"{side}_ankle_roll_link").add_geom(
                type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.01, 0, 0], pos=[x, y, -0.027]
            )
            for x, y in corners
            for side in ("left", "right")
        ]

    def gait_joints(self, lift: jax.Array, ahead: jax.Array, aside: jax.Array) -> jax.Array:
        """[2, 6]: the hip's pitch, roll and yaw, the knee, the ankle's pitch and roll; soles stay level."""
        still = jnp.zeros_like(lift)
        pitch, knee = -0.35 * lift - ahead, 0.7 * lift
        return jnp.stack([pitch, aside, still, knee, -pitch - knee, -aside], axis=1)
