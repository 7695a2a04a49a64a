"""Legged robots that follow velocity commands."""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from surefoot.robots import terms
from surefoot.robots.actuation import Actuation
from surefoot.robots.model import Robot, installed, read_spec
from surefoot.robots.state import State
from surefoot.robots.symmetry import Mirror
from surefoot.robots.task import RobotTask, Start


class Legs(NamedTuple):
    """A quadruped's parts, legs in the order front right, front left, rear right, rear left.

    Attributes:
        trunk: the body that is to follow the commands.
        feet: geoms that touch the ground, their centres a radius above it.
        joints: pattern of the joints of a leg, three of them: hip, thigh, calf.
    """

    trunk: str
    feet: tuple[str, str, str, str]
    foot_radius_m: float


@dataclass(frozen=True)
class QuadrupedWalk(RobotTask):
    """A quadruped follows commands: forward and sideways in m/s, turning in rad/s.

    Attributes:
        forward: largest command forward and back in m/s.
        sideways: largest command sideways in m/s.
        turning: largest command of turning in rad/s.
        standing: share of commands that are to stand still.
        friction: fewest and most sliding friction of the ground, drawn for each episode.
        frequency_hz: strides per second.
        swing_m: how high a foot is to be lifted.
        offset: whether the joint targets carry a nominal trot, to which the actions add.
        by_phase: whether the policy sees the mirror image in the second half of every stride.
        tracking: weight of following the linear command.
        turn: weight of following the turning command.
        gait: weight of keeping to the gait.
        posture: weight of staying near the home pose.
        tilt: weight of tilting the trunk.
        bounce: weight of vertical velocity.
        rolling: weight of roll and pitch rates.
        limits: weight of being near the ends of the joints' ranges.
        action_rate: weight of changes of the action.
    """

    physics_dt_s: float | None = 0.005
    command_s: float | None = 5.0
    reward_floor: float | None = 0.0

    forward: float = 1.5
    sideways: float = 0.8
    turning: float = 1.2
    standing: float = 0.1
    friction: tuple[float, float] = (0.4, 1.0)
    frequency_hz: float = 2.0
    swing_m: float = 0.06
    offset: bool = True
    by_phase: bool = True

    tracking: float = 2.0
    turn: float = 1.0
    gait: float = 2.0
    posture: float = 0.5
    tilt: float = -5.0
    bounce: float = -0.5
    rolling: float = -0.05
    limits: float = -1.0
    action_rate: float = -0.01

    legs: ClassVar[Legs]
    leg_m: ClassVar[float]  # from the thigh's joint down to the foot's centre, in the home pose
    start_m: ClassVar[float]  # height of the trunk where an episode begins, feet just on the ground

    def edit(self, spec: mujoco.MjSpec) -> None:
        """A floor, contacts of the feet alone, and a solver that is fast enough for training."""
        for geom in spec.geoms:
            geom.contype = 0
            geom.conaffinity = int(geom.name in self.legs.feet)
        spec.worldbody.add_geom(
            name="floor",
            type=mujoco.mjtGeom.mjGEOM_PLANE,
            size=[0, 0, 1],
            contype=1,
            conaffinity=0,
            rgba=[0.5, 0.5, 0.5, 1],
        )
        for foot in self.legs.feet:
            geom = spec.geom(foot)
            geom.condim, geom.priority = 3, 1
            geom.solimp[:3] = 0.9, 0.95, 0.023
        option = spec.option
        option.cone = mujoco.mjtCone.mjCONE_PYRAMIDAL
        option.impratio = 1
        option.solver = mujoco.mjtSolver.mjSOL_NEWTON
        option.iterations, option.ls_iterations = 4, 8
        option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST

    def reset(self, robot: Robot, key: jax.Array, level: jax.Array) -> Start:
        """The home pose, its joints a little off."""
        to_joints, to_speed = jax.random.split(key)
        size = robot.model.nq - 7
        joints = robot.home[7:] + jax.random.uniform(to_joints, (size,), minval=-0.1, maxval=0.1)
        above = jnp.array([0.0, 0.0, self.start_m, 1.0, 0.0, 0.0, 0.0])
        qpos = jnp.concatenate([above, joints])
        qvel = (
            jnp.zeros(robot.model.nv)
            .at[:6]
            .set(0.2 * jax.random.uniform(to_speed, (6,), minval=-1.0))
        )
        return Start(qpos, qvel)

    def command(self, key: jax.Array, level: jax.Array) -> jax.Array:
        """[3]: forward and sideways in m/s, turning in rad/s; sometimes to stand still."""
        to_command, to_still = jax.random.split(key)
        most = jnp.array([self.forward, self.sideways, self.turning])
        command = most * jax.random.uniform(to_command, (3,), minval=-1.0)
        return jnp.where(jax.random.bernoulli(to_still, self.standing), 0.0, command)

    def walking(self, s: State) -> jax.Array:
        """Whether the command is to go anywhere."""
        return terms.norm(s.command) > 0.1

    def phases(self, s: State) -> jax.Array:
        """[4] phases of the legs in a trot; in stance where nothing is commanded."""
        phases = terms.phases(s.time_s, self.frequency_hz, (0.0, 0.5, 0.5, 0.0))
        return jnp.where(self.walking(s), phases, 0.75)

    def control(self, s: State, action: jax.Array) -> jax.Array:
        """The actions, and a nominal trot with a stride as long as the command asks for."""
        if not self.offset:
            return action
        phase = self.phases(s)
        lift = terms.swing_height(phase, 1.0)
        # the foot goes back during stance and forth during swing: a cosine that is 1 where it lands
        sweep = jnp.where(self.walking(s), -jnp.cos(2 * jnp.pi * phase), 0.0)
        stride_s = 0.5 / self.frequency_hz  # of stance
        stride = s.command[0] * stride_s / 2 / self.leg_m  # rad, half of it to the front
        joints = jnp.stack([jnp.zeros(4), 0.4 * lift - stride * sweep, -0.8 * lift], axis=1)
        return action + joints.reshape(-1) / self.actuation_scale

    @property
    def actuation_scale(self) -> float:
        """Radians that an action of 1 stands for."""
        scale = self.actuation.scale
        assert isinstance(scale, float)
        return scale

    def observe(self, s: State) -> jax.Array:
        """What the robot senses, the command and the gait's clock."""
        trunk, joints = s.body(self.legs.trunk), s.joints("*_joint")
        angle = 2 * jnp.pi * self.frequency_hz * s.time_s
        clock = jnp.where(self.walking(s), jnp.stack([jnp.sin(angle), jnp.cos(angle)]), 0.0)
        return jnp.concatenate(
            [
                trunk.local_velocity,
                trunk.local_angular_velocity,
                trunk.gravity,
                s.command,
                joints.qpos - joints.home,
                joints.qvel,
                s.action,
                clock,
            ]
        )

    def rewards(self, s: State) -> Mapping[str, Any]:
        """Follow the command in a trot, upright, smoothly."""
        trunk, joints = s.body(self.legs.trunk), s.joints("*_joint")
        feet = [s.geom(foot) for foot in self.legs.feet]
        heights = jnp.stack([foot.position[2] for foot in feet]) - self.legs.foot_radius_m
        speeds = jnp.stack([foot.velocity for foot in feet])
        velocity, turning = trunk.local_velocity, trunk.local_angular_velocity
        bends = jnp.tile(jnp.array([1.0, 1.0, 0.1]), 4)
        return {
            "tracking": self.tracking * terms.tracking(velocity[:2], s.command[:2]),
            "turn": self.turn * terms.tracking(turning[2], s.command[2]),
            "gait": self.gait * terms.gait(heights, speeds, self.phases(s), self.swing_m),
            "posture": self.posture * terms.posture(joints.qpos, joints.home, bends),
            "tilt": self.tilt * terms.tilt(trunk.gravity),
            "bounce": self.bounce * terms.bounce(velocity),
            "rolling": self.rolling * terms.rolling(turning),
            "limits": self.limits * terms.beyond_limits(joints.qpos, joints.lower, joints.upper),
            "action_rate": self.action_rate * terms.action_rate(s.action, s.last_action),
        }

    def terminated(self, s: State) -> jax.Array:
        """It fell: the trunk tilts by more than 60 degrees."""
        return s.body(self.legs.trunk).up < 0.5

    def metrics(self, s: State) -> Mapping[str, Any]:
        """How far from the command it moves."""
        trunk = s.body(self.legs.trunk)
        off = jnp.abs(trunk.local_velocity[:2] - s.command[:2])
        turning = jnp.abs(trunk.local_angular_velocity[2] - s.command[2])
        return {"linear_error": jnp.mean(off), "turning_error": turning}

    def randomize(self, robot: Robot, key: jax.Array) -> Mapping[str, Any]:
        """The ground's friction, which the feet's decides."""
        friction = jax.random.uniform(key, (), minval=self.friction[0], maxval=self.friction[1])
        return {"geom_friction": jnp.asarray(robot.model.geom_friction).at[:, 0].set(friction)}

    def mirrored(self, s: State) -> Mapping[str, Any]:
        """Commands to the side and turns change sign, the legs' phases change sides."""
        half = 0.5 / self.frequency_hz
        return {"command": s.command * jnp.array([1.0, -1.0, -1.0]), "time_s": s.time_s + half}

    def reflect(self, s: State) -> Any:
        """In the second half of every stride, when the policy is to see by phase."""
        half = jnp.mod(self.frequency_hz * s.time_s, 1.0) >= 0.5
        return half & self.walking(s) if self.by_phase else jnp.asarray(False)


@dataclass(frozen=True)
class Go1Walk(QuadrupedWalk):
    """Unitree's Go1 follows velocity commands on flat ground."""

    model: Any = lambda: read_spec(installed("unitree_go1/go1.xml"))

    actuation: ClassVar[Actuation] = Actuation(stiffness=35.0, damping=0.5, scale=0.5)
    legs: ClassVar[Legs] = Legs("trunk", ("FR", "FL", "RR", "RL"), 0.023)
    leg_m: ClassVar[float] = 0.265
    start_m: ClassVar[float] = 0.29
    mirror: ClassVar[Mirror | None] = Mirror((("FR", "FL"), ("RR", "RL")))

    def edit(self, spec: mujoco.MjSpec) -> None:
        """Joints without friction or damping, as the recipe was measured with."""
        super().edit(spec)
        for joint in spec.joints:
            joint.damping, joint.frictionloss, joint.armature = np.zeros(3), 0.0, 0.004
