"""What robots on legs have in common that follow velocity commands."""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from surefoot.config import Config
from surefoot.robots import terms
from surefoot.robots.model import Robot
from surefoot.robots.state import State
from surefoot.robots.task import RobotTask, Start
from surefoot.robots.tasks.recipe import RECIPE


class Stance(NamedTuple):
    """How a robot stands at home, numpy arrays; legs are in the order of the feet.

    Attributes:
        radius_m: from the feet's points down to the ground, [F].
        places_m: of the feet in the trunk's frame, forward and to the left, [F, 2].
        leg_m: from the joint that swings a leg down to its foot.
        height_m: of the trunk over the ground.
    """

    radius_m: np.ndarray
    places_m: np.ndarray
    leg_m: float
    height_m: float


WALKING = RECIPE.replace(
    total_steps=1_500_000,
    num_envs=128,
    initial_std=0.4,
    min_std=0.1,
    gamma=0.985,
    max_grad_norm=1.0,
)


FLOOR: dict[str, Any] = {"contype": 1, "conaffinity": 0, "rgba": [0.5, 0.5, 0.5, 1]}


@dataclass(frozen=True)
class LeggedWalk(RobotTask):
    """A robot on legs follows commands: forward and sideways in m/s, turning in rad/s.

    Attributes:
        forward: largest command forward and back in m/s.
        sideways: largest command sideways in m/s.
        turning: largest command of turning in rad/s.
        standing: share of commands that are to stand still.
        friction: fewest and most sliding friction of the ground, drawn for each episode.
        frequency_hz: strides per second.
        swing_m: how high a foot is to be lifted.
        offset: whether the joint targets carry a nominal gait, to which the actions add.
        by_phase: whether the policy sees the mirror image in the second half of every stride.
        sigma: squared error in m^2/s^2 and rad^2/s^2 at which 1/e of following remains.
        tracking: weight of following the linear command.
        turn: weight of following the turning command.
        distance: weight of the distance from the command in m/s, half of it in rad/s: it has a slope where
            following has none, at the command and far from it.
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

    sigma: float = 0.1
    tracking: float = 2.0
    turn: float = 1.0
    distance: float = -0.5
    gait: float = 2.0
    posture: float = 0.5
    tilt: float = -5.0
    bounce: float = -0.5
    rolling: float = -0.05
    limits: float = -1.0
    action_rate: float = -0.01

    command_names: ClassVar[tuple[str, ...]] = (
        "forward m/s",
        "sideways m/s",
        "turning rad/s",
    )
    trunk: ClassVar[str]  # a body
    foot_kind: ClassVar[Literal["geom", "site"]] = (
        "geom"  # geoms are spheres, sites lie on the soles
    )
    feet: ClassVar[tuple[str, ...]]  # one a leg, legs in the order of the model's joints
    rhythm: ClassVar[tuple[float, ...]]  # phases of the legs in the gait
    driven: ClassVar[str | tuple[str, ...]] = "*"  # joints; as many for each leg
    swings: ClassVar[int]  # which of a leg's joints swings it forward
    bends: ClassVar[tuple[float, ...]]  # what leaving home costs the joints of a leg
    training: ClassVar[Config] = WALKING

    def edit(self, spec: mujoco.MjSpec) -> None:
        """A floor, contacts of the feet alone, and a solver that is fast enough for training."""
        for geom in spec.geoms:
            geom.contype = geom.conaffinity = 0
        self.lay_floor(spec)
        for geom in self.soles(spec):
            geom.conaffinity, geom.condim, geom.priority = 1, 3, 1
            geom.solimp[:3] = 0.9, 0.95, 0.023
        option = spec.option
        option.cone = mujoco.mjtCone.mjCONE_PYRAMIDAL
        option.impratio = 1
        option.solver = mujoco.mjtSolver.mjSOL_NEWTON
        option.iterations, option.ls_iterations = 4, 8
        option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST

    def soles(self, spec: mujoco.MjSpec) -> list[Any]:
        """Geoms of a spec that touch the ground: the feet."""
        return [spec.geom(foot) for foot in self.feet]

    def lay_floor(self, spec: mujoco.MjSpec) -> None:
        """What it walks on: a plane."""
        plane = mujoco.mjtGeom.mjGEOM_PLANE
        spec.worldbody.add_geom(name="floor", type=plane, size=[0, 0, 1], **FLOOR)

    def reset(self, robot: Robot, key: jax.Array, level: jax.Array) -> Start:
        """The home pose, its joints a little off."""
        to_joints, to_speed = jax.random.split(key)
        size = robot.model.nq - 7
        joints = robot.home[7:] + jax.random.uniform(to_joints, (size,), minval=-0.1, maxval=0.1)
        above = jnp.array([0.0, 0.0, self.stance(robot).height_m, 1.0, 0.0, 0.0, 0.0])
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

    def stance(self, robot: Robot) -> Stance:
        """How it stands at home."""
        model, data = robot.model, mujoco.MjData(robot.model)
        data.qpos[:] = robot.home
        mujoco.mj_kinematics(model, data)
        feet = [robot.id(self.foot_kind, foot) for foot in self.feet]
        points = getattr(data, f"{self.foot_kind}_xpos")[feet]
        radius = model.geom_size[feet, 0] if self.foot_kind == "geom" else np.zeros(len(feet))
        trunk = data.body(self.trunk)
        places = (points - trunk.xpos) @ trunk.xmat.reshape(3, 3)
        swinging = model.jnt_bodyid[robot.scalar_joints(self.driven)[self.swings]]
        leg = data.xpos[swinging, 2] - points[0, 2]
        height = float(np.max(radius - places[:, 2]))
        return Stance(radius, places[:, :2], float(leg), height)

    def ground(self, xy: jax.Array) -> jax.Array:
        """Height of the ground in m [...] at places [..., 2]."""
        return jnp.zeros(xy.shape[:-1])

    def walking(self, s: State) -> jax.Array:
        """Whether the command is to go anywhere."""
        return terms.norm(s.command) > 0.1

    def phases(self, s: State) -> jax.Array:
        """[F] phases of the legs; in stance where nothing is commanded."""
        phases = terms.phases(s.time_s, self.frequency_hz, self.rhythm)
        return jnp.where(self.walking(s), phases, 0.75)

    def strides(self, s: State) -> tuple[jax.Array, jax.Array, jax.Array]:
        """How high legs are [F], from 0 to 1, and how far forward and to the left of home [F], in rad."""
        phase, stance = self.phases(s), self.stance(s.robot)
        forward, sideways, turning = s.command
        lift = terms.swing_height(phase, 1.0)
        # a foot goes back in stance and forth in swing: 1 in front, where it lands, -1 behind
        sweep = jnp.where(self.walking(s), -jnp.cos(2 * jnp.pi * phase), 0.0)
        reach = sweep * 0.25 / self.frequency_hz / stance.leg_m  # rad for 1 m/s, half a stride
        ahead = (forward - turning * stance.places_m[:, 1]) * reach
        aside = (sideways + turning * stance.places_m[:, 0]) * reach
        return lift, ahead, aside

    def control(self, s: State, action: jax.Array) -> jax.Array:
        """The actions, and a nominal gait with strides as long as the command asks of each foot."""
        if not self.offset:
            return action
        return action + self.gait_joints(*self.strides(s)).reshape(-1) / self.actuation_scale

    def gait_joints(self, lift: jax.Array, ahead: jax.Array, aside: jax.Array) -> jax.Array:
        """[F, J] joints of the legs in the nominal gait, from home, in rad."""
        raise NotImplementedError

    @property
    def actuation_scale(self) -> float:
        """Radians that an action of 1 stands for."""
        scale = self.actuation.scale
        assert isinstance(scale, float)
        return scale

    def observe(self, s: State) -> jax.Array:
        """What the robot senses, the command and the gait's clock."""
        trunk, joints = s.body(self.trunk), s.joints(self.driven)
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
        """Follow the command in step, upright, smoothly."""
        trunk, joints = s.body(self.trunk), s.joints(self.driven)
        feet = [getattr(s, self.foot_kind)(foot) for foot in self.feet]
        places = jnp.stack([foot.position for foot in feet])
        radius = self.stance(s.robot).radius_m
        heights = places[:, 2] - self.ground(places[:, :2]) - radius
        # of the lowest points: a foot that rolls does not slide
        down = -radius[:, None] * np.array([0.0, 0.0, 1.0])
        spins = jnp.stack([foot.angular_velocity for foot in feet])
        speeds = jnp.stack([foot.velocity for foot in feet]) + jnp.cross(spins, down)
        velocity, turning = trunk.local_velocity, trunk.local_angular_velocity
        off, turned = velocity[:2] - s.command[:2], jnp.abs(turning[2] - s.command[2])
        bends = jnp.tile(jnp.array(self.bends), len(self.feet))
        return {
            "tracking": self.tracking * terms.tracking(velocity[:2], s.command[:2], self.sigma),
            "turn": self.turn * terms.tracking(turning[2], s.command[2], self.sigma),
            "distance": self.distance * (terms.norm(off) + 0.5 * turned),
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
        return s.body(self.trunk).up < 0.5

    def metrics(self, s: State) -> Mapping[str, Any]:
        """How far from the command it moves."""
        trunk = s.body(self.trunk)
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
