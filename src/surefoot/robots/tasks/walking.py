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

from surefoot.config import Config
from surefoot.robots import terms
from surefoot.robots.actuation import Actuation
from surefoot.robots.model import MODELS, Robot, installed, read_spec
from surefoot.robots.state import State
from surefoot.robots.symmetry import Mirror
from surefoot.robots.task import RobotTask, Start
from surefoot.robots.tasks.recipe import RECIPE
from surefoot.robots.terrain import Terrain


class Stance(NamedTuple):
    """How a quadruped stands at home, numpy arrays; legs are in the order of the feet.

    Attributes:
        radius_m: of the feet, [4].
        places_m: of the feet in the trunk's frame, forward and to the left, [4, 2].
        leg_m: from the second joint of a leg down to the foot's centre.
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
class QuadrupedWalk(RobotTask):
    """A small quadruped follows commands: forward and sideways in m/s, turning in rad/s.

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

    model: Any = MODELS / "quadruped.xml"
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

    trunk: ClassVar[str] = "trunk"
    # geoms, in the order of the model's joints, three for each; diagonal legs at the ends
    feet: ClassVar[tuple[str, ...]] = ("FR", "FL", "RR", "RL")
    mirror: ClassVar[Mirror | None] = Mirror((("FR", "FL"), ("RR", "RL")))
    actuation: ClassVar[Actuation] = Actuation(scale=0.5)
    training: ClassVar[Config] = WALKING
    # more changes of larger commands than the task has: falls come from those
    practice: ClassVar[Mapping[str, Any]] = {
        "episode_s": 10.0,
        "command_s": 2.0,
        "forward": 1.65,
        "sideways": 0.88,
        "turning": 1.32,
    }

    def edit(self, spec: mujoco.MjSpec) -> None:
        """A floor, contacts of the feet alone, and a solver that is fast enough for training."""
        for geom in spec.geoms:
            geom.contype = 0
            geom.conaffinity = int(geom.name in self.feet)
        self.lay_floor(spec)
        for foot in self.feet:
            geom = spec.geom(foot)
            geom.condim, geom.priority = 3, 1
            geom.solimp[:3] = 0.9, 0.95, 0.023
        option = spec.option
        option.cone = mujoco.mjtCone.mjCONE_PYRAMIDAL
        option.impratio = 1
        option.solver = mujoco.mjtSolver.mjSOL_NEWTON
        option.iterations, option.ls_iterations = 4, 8
        option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST

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
        feet = [robot.id("geom", foot) for foot in self.feet]
        trunk = data.body(self.trunk)
        places = (data.geom_xpos[feet] - trunk.xpos) @ trunk.xmat.reshape(3, 3)
        radius = model.geom_size[feet, 0]
        second = model.jnt_bodyid[robot.scalar_joints()[1]]
        leg = data.xpos[second, 2] - data.geom_xpos[feet[0], 2]
        height = float(np.max(radius - places[:, 2]))
        return Stance(radius, places[:, :2], float(leg), height)

    def ground(self, xy: jax.Array) -> jax.Array:
        """Height of the ground in m [...] at places [..., 2]."""
        return jnp.zeros(xy.shape[:-1])

    def walking(self, s: State) -> jax.Array:
        """Whether the command is to go anywhere."""
        return terms.norm(s.command) > 0.1

    def phases(self, s: State) -> jax.Array:
        """[4] phases of the legs in a trot; in stance where nothing is commanded."""
        phases = terms.phases(s.time_s, self.frequency_hz, (0.0, 0.5, 0.5, 0.0))
        return jnp.where(self.walking(s), phases, 0.75)

    def control(self, s: State, action: jax.Array) -> jax.Array:
        """The actions, and a nominal trot with strides as long as the command asks of each foot."""
        if not self.offset:
            return action
        phase, stance = self.phases(s), self.stance(s.robot)
        forward, sideways, turning = s.command
        lift = terms.swing_height(phase, 1.0)
        # a foot goes back in stance and forth in swing: 1 in front, where it lands, -1 behind
        sweep = jnp.where(self.walking(s), -jnp.cos(2 * jnp.pi * phase), 0.0)
        reach = sweep * 0.25 / self.frequency_hz / stance.leg_m  # rad for 1 m/s, half a stride
        ahead = (forward - turning * stance.places_m[:, 1]) * reach
        aside = (sideways + turning * stance.places_m[:, 0]) * reach
        joints = jnp.stack([aside, 0.2 * lift - ahead, -0.4 * lift], axis=1)
        return action + joints.reshape(-1) / self.actuation_scale

    @property
    def actuation_scale(self) -> float:
        """Radians that an action of 1 stands for."""
        scale = self.actuation.scale
        assert isinstance(scale, float)
        return scale

    def observe(self, s: State) -> jax.Array:
        """What the robot senses, the command and the gait's clock."""
        trunk, joints = s.body(self.trunk), s.joints()
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
        trunk, joints = s.body(self.trunk), s.joints()
        feet = [s.geom(foot) for foot in self.feet]
        places = jnp.stack([foot.position for foot in feet])
        radius = self.stance(s.robot).radius_m
        heights = places[:, 2] - self.ground(places[:, :2]) - radius
        # of the lowest points: a foot that rolls does not slide
        down = -radius[:, None] * np.array([0.0, 0.0, 1.0])
        spins = jnp.stack([foot.angular_velocity for foot in feet])
        speeds = jnp.stack([foot.velocity for foot in feet]) + jnp.cross(spins, down)
        velocity, turning = trunk.local_velocity, trunk.local_angular_velocity
        off, turned = velocity[:2] - s.command[:2], jnp.abs(turning[2] - s.command[2])
        bends = jnp.tile(jnp.array([1.0, 1.0, 0.1]), 4)
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


@dataclass(frozen=True)
class Go1Walk(QuadrupedWalk):
    """Unitree's Go1 follows velocity commands on flat ground."""

    model: Any = lambda: read_spec(installed("unitree_go1/go1.xml"))

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
    swing_m: float = 0.1

    training: ClassVar[Config] = WALKING.replace(total_steps=6_000_000)
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
