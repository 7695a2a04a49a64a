"""An arm that lifts a box, and a hand that turns a cube."""

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
from surefoot.robots.model import Robot, installed, read_spec
from surefoot.robots.state import State
from surefoot.robots.task import RobotTask, Start
from surefoot.robots.tasks.recipe import RECIPE


@dataclass(frozen=True)
class PandaLift(RobotTask):
    """Franka's Panda takes a box from the ground and holds it at a target in the air.

    Attributes:
        speed: rad that a joint's target moves in a control step for an action of 1.
        lead: rad that a joint's target may be ahead of the joint.
        reach: weight of the gripper being near the box.
        grasp: weight of both fingers touching something with the box between them.
        lift: weight of the height of a box that is held, up to 10 cm over where it lay.
        carry: weight of the box being near the target, in the air.
        there: weight of the box being at the target, in the air.
        down: weight of the gripper pointing down.
        action_rate: weight of changes of the action.
        area: how far from the middle the box begins, forward and sideways in m.
        height: lowest and highest targets in m.
        reached_m: distance that counts as success.
    """

    model: Any = lambda: read_spec(installed("franka_emika_panda/mjx_single_cube.xml"))
    control_dt_s: float = 0.04
    physics_dt_s: float | None = 0.005
    episode_s: float = 5.0

    speed: float = 0.08
    lead: float = 0.2
    reach: float = 1.0
    grasp: float = 0.5
    lift: float = 2.0
    carry: float = 2.0
    there: float = 2.0
    down: float = 0.3
    action_rate: float = -0.002
    area: tuple[float, float] = (0.1, 0.15)
    height: tuple[float, float] = (0.15, 0.35)
    reached_m: float = 0.03

    arm: ClassVar[str] = "joint?"
    command_names: ClassVar[tuple[str, ...]] = ("target x m", "target y m", "target z m")
    actuation: ClassVar[Actuation] = Actuation(joints=arm, scale=1.0, others="actuator8")
    training: ClassVar[Config] = RECIPE.replace(
        total_steps=10_000_000, num_envs=128, initial_std=0.5, min_std=0.1, gamma=0.97
    )

    def reset(self, robot: Robot, key: jax.Array, level: jax.Array) -> Start:
        """The arm above the ground with open fingers, the box somewhere in front of it."""
        to_place, to_yaw, to_joints = jax.random.split(key, 3)
        off = jnp.array(self.area) * jax.random.uniform(to_place, (2,), minval=-1.0)
        yaw = jax.random.uniform(to_yaw, (), minval=-jnp.pi, maxval=jnp.pi) / 2
        turn = jnp.array([jnp.cos(yaw / 2), 0.0, 0.0, jnp.sin(yaw / 2)])
        box = jnp.concatenate([jnp.array([0.55, 0.0]) + off, jnp.array([0.03]), turn])
        joints = robot.home[:7] + 0.1 * jax.random.uniform(to_joints, (7,), minval=-1.0)
        return Start(jnp.concatenate([joints, robot.home[7:9], box]))

    def command(self, key: jax.Array, level: jax.Array) -> jax.Array:
        """[3] the target in m."""
        low = jnp.array([0.45, -0.15, self.height[0]])
        return jax.random.uniform(
            key, (3,), minval=low, maxval=jnp.array([0.65, 0.15, self.height[1]])
        )

    def control(self, s: State, action: jax.Array) -> jax.Array:
        """The joints' targets go on from where they are; the gripper's is as it comes."""
        joints = s.joints(self.arm)
        moved = s.ctrl[:7] + self.speed * jnp.clip(action[:7], -1.0, 1.0)
        target = jnp.clip(moved, joints.qpos - self.lead, joints.qpos + self.lead)
        return jnp.concatenate([target - joints.home, action[7:]])

    def observe(self, s: State) -> jax.Array:
        """Joints and their targets, the gripper, the box and the ways to it and on to the target."""
        joints, fingers = s.joints(self.arm), s.joints("finger_joint?")
        gripper, box = s.site("gripper"), s.body("box")
        return jnp.concatenate(
            [
                joints.qpos - joints.home,
                joints.qvel,
                s.ctrl[:7] - joints.qpos,
                fingers.qpos * 25.0,
                gripper.position,
                gripper.rotation[:, :2].reshape(-1),
                box.position - gripper.position,
                (gripper.rotation.T @ box.rotation)[:, :2].reshape(-1),
                s.command - box.position,
                s.action,
            ]
        )

    def rewards(self, s: State) -> Mapping[str, Any]:
        """Reach, grasp, lift, carry: each is paid beside the one before."""
        gripper, box = s.site("gripper"), s.body("box")
        way, off = box.position - gripper.position, s.command - box.position
        touched = s.contact("left_finger").found & s.contact("right_finger").found
        held = touched & (terms.norm(way) < 0.03)
        risen = held * jnp.clip((box.position[2] - 0.03) / 0.1, 0.0, 1.0)  # from where it lies
        # a corner of the box is 4.1 cm from its middle: higher up it is off the ground, however it is turned
        flies = box.position[2] > 0.045
        return {
            "reach": self.reach * (terms.near(way, 0.2) + terms.near(way, 0.03)) / 2,
            "grasp": self.grasp * held,
            "lift": self.lift * risen,
            "carry": self.carry * terms.near(off, 0.2) * flies,
            "there": self.there * terms.near(off, 0.03) * flies,
            "down": self.down * -gripper.rotation[2, 2],
            "action_rate": self.action_rate * terms.action_rate(s.action, s.last_action),
        }

    def terminated(self, s: State) -> jax.Array:
        """The box is out of reach."""
        box = s.body("box").position
        return (terms.norm(box[:2]) > 0.9) | (terms.norm(box[:2]) < 0.2)

    def metrics(self, s: State) -> Mapping[str, Any]:
        """The distance from the target in m, and whether the episode ends with the box there."""
        distance = terms.norm(s.command - s.body("box").position)
        return {"distance": distance, "success": distance < self.reached_m}


@dataclass(frozen=True)
class LeapReorient(RobotTask):
    """The LEAP hand turns a cube on its palm to an orientation.

    The orientation asked for is within `least + level * further` of where the cube begins; the level rises
    with success and falls without it.

    Attributes:
        least: rad at level 0.
        further: rad for each level, up to half a turn.
        turned: weight of the angle that is left, as a share of half a turn.
        aligned: weight of being aligned, with a slope where little is left.
        held: weight of the cube staying over the palm.
        posture: weight of staying near the home pose.
        speed: weight of squared joint velocities.
        action_rate: weight of changes of the action.
        dropped: weight of dropping the cube, once.
        reached: rad that count as success.
    """

    model: Any = lambda: read_spec(installed("leap_hand/xmls/scene_mjx_cube.xml"))
    control_dt_s: float = 0.05
    physics_dt_s: float | None = 0.005
    episode_s: float = 8.0

    least: float = 0.5
    further: float = 0.25
    turned: float = 2.0
    aligned: float = 2.0
    held: float = 0.5
    posture: float = 0.1
    speed: float = -0.0005
    action_rate: float = -0.002
    dropped: float = -20.0
    reached: float = 0.3

    actuation: ClassVar[Actuation] = Actuation(scale=0.5)
    training: ClassVar[Config] = RECIPE.replace(
        total_steps=6_000_000, num_envs=128, initial_std=0.5, min_std=0.1, gamma=0.985
    )
    tips: ClassVar[tuple[str, ...]] = ("th_tip", "if_tip", "mf_tip", "rf_tip")  # sites
    fingers: ClassVar[tuple[str, ...]] = ("th_*", "if_*", "mf_*", "rf_*")  # joints

    def edit(self, spec: mujoco.MjSpec) -> None:
        """The hand touches the cube alone, and a solver that is fast enough for training."""
        for geom in spec.geoms:
            geom.contype, geom.conaffinity = (1, 0) if geom.name == "cube" else (0, geom.contype)
        for body in [body for body in spec.bodies if body.mocap]:
            spec.delete(body)
        for sensor in list(spec.sensors):
            spec.delete(sensor)
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        spec.option.iterations, spec.option.ls_iterations = 6, 10

    def reset(self, robot: Robot, key: jax.Array, level: jax.Array) -> Start:
        """The cube on the palm, turned anyhow; the carry is where it is to turn to."""
        to_joints, to_place, to_turn, to_goal = jax.random.split(key, 4)
        joints = robot.home[:16] + 0.05 * jax.random.uniform(to_joints, (16,), minval=-1.0)
        place = robot.home[16:19] + 0.01 * jax.random.uniform(to_place, (3,), minval=-1.0)
        quat = jax.random.normal(to_turn, (4,))
        quat = quat / terms.norm(quat)
        to_axis, to_angle = jax.random.split(to_goal)
        axis = jax.random.normal(to_axis, (3,))
        most = jnp.minimum(self.least + self.further * level, jnp.pi)
        angle = jax.random.uniform(to_angle, (), minval=0.5, maxval=1.0) * most
        goal = rotation_of(quat) @ turn(axis / terms.norm(axis), angle)
        return Start(jnp.concatenate([joints, place, quat]), carry=goal)

    def observe(self, s: State) -> jax.Array:
        """Joints, finger tips, the cube over the palm, how it is turned and what is left to turn."""
        joints, cube = s.joints(self.fingers), s.body("cube")
        palm = s.site("grasp_site").position
        tips = [s.site(tip).position - cube.position for tip in self.tips]
        return jnp.concatenate(
            [
                joints.qpos - joints.home,
                joints.qvel * 0.1,
                s.ctrl - joints.qpos,
                *tips,
                cube.position - palm,
                cube.rotation.reshape(-1),
                (s.carry @ cube.rotation.T).reshape(-1),
                cube.velocity,
                cube.angular_velocity,
                s.action,
            ]
        )

    def left(self, s: State) -> jax.Array:
        """Rad that are left to turn."""
        return terms.angle_between(s.body("cube").rotation, s.carry)

    def fell(self, s: State) -> jax.Array:
        """Whether the cube left the palm."""
        return s.body("cube").position[2] < -0.05

    def rewards(self, s: State) -> Mapping[str, Any]:
        """Turn the cube, keep it, calmly."""
        joints = s.joints(self.fingers)
        off = s.body("cube").position - s.site("grasp_site").position
        left = self.left(s)
        return {
            "turned": self.turned * (1.0 - left / jnp.pi),
            "aligned": self.aligned * terms.near(left, 0.4),
            "held": self.held * terms.near(off, 0.1),
            "posture": self.posture * terms.posture(joints.qpos, joints.home),
            "speed": self.speed * jnp.sum(jnp.square(joints.qvel)),
            "action_rate": self.action_rate * terms.action_rate(s.action, s.last_action),
            "dropped": self.dropped * self.fell(s),
        }

    def terminated(self, s: State) -> jax.Array:
        """The cube fell."""
        return self.fell(s)

    def metrics(self, s: State) -> Mapping[str, Any]:
        """The angle that is left in rad, and whether the episode ends with the cube as asked."""
        left = self.left(s)
        return {"angle": left, "success": left < self.reached, "level": s.level}

    def next_level(self, s: State) -> jax.Array:
        """One more where the cube is as asked, one less where it is not."""
        return jnp.maximum(s.level + jnp.where(self.left(s) < self.reached, 1.0, -1.0), 0.0)


def rotation_of(quat: jax.Array) -> jax.Array:
    """[3, 3] of a unit quaternion [4], w first."""
    w, v = quat[0], quat[1:]
    return (w**2 - v @ v) * jnp.eye(3) + 2.0 * (jnp.outer(v, v) + w * _cross(v))


def turn(axis: jax.Array, angle: jax.Array) -> jax.Array:
    """[3, 3] the rotation by an angle in rad around a unit vector [3]."""
    return rotation_of(jnp.concatenate([jnp.cos(angle / 2)[None], jnp.sin(angle / 2) * axis]))


def _cross(v: jax.Array) -> jax.Array:
    x, y, z = v
    zero = jnp.zeros(())
    return jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
