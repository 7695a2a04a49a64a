"""A robot's left-right symmetry: declared by names, checked on the model, carried over to what a policy sees.

A reflection swaps left and right and turns the y axis around. Which joint becomes which, and with which sign,
follows from names and axes; what an observation becomes is found by comparing what the task shows of random
states and of their mirror images.
"""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from surefoot.envs.contract import as_groups
from surefoot.errors import UserError, check_names
from surefoot.robots.actuation import Controls
from surefoot.robots.model import Robot
from surefoot.robots.state import Episode, State

SAMPLES = 24
_POLAR, _AXIAL = np.array([1.0, -1.0, 1.0]), np.array([-1.0, 1.0, -1.0])
_QUATERNION = np.array([1.0, -1.0, 1.0, -1.0])  # w first


@dataclass(frozen=True)
class Mirror:
    """What becomes what where left and right are swapped.

    Attributes:
        swap: pairs of parts of names: with ("FL", "FR") the joint `FL_hip` becomes `FR_hip` and back. Names
            in which no part is found are in the middle, their own mirror image.
        tolerance: largest share by which accelerations of mirrored states may differ: models of real robots
            are not exactly symmetric.
    """

    swap: tuple[tuple[str, str], ...]
    tolerance: float = 0.1


class Reflection(NamedTuple):
    """A vector's mirror image: `signs * vector[..., places]`."""

    places: np.ndarray
    signs: np.ndarray

    def __call__(self, vector: Any) -> Any:
        """The mirror image of [..., D]."""
        return vector[..., self.places] * self.signs.astype(vector.dtype)

    def repeated(self, count: int) -> Reflection:
        """The same for `count` vectors one behind the other."""
        size = len(self.places)
        places = np.concatenate([self.places + size * i for i in range(count)])
        return Reflection(places, np.tile(self.signs, count))

    @property
    def involution(self) -> bool:
        """Whether the mirror image of the mirror image is the vector itself."""
        there = self.places[self.places]
        return bool(
            np.array_equal(there, np.arange(len(there)))
            and np.all(self.signs * self.signs[self.places] == 1)
        )


class Symmetry:
    """A robot's reflection.

    Args:
        mirror: what the task declares.
        robot: the model.

    Attributes:
        qpos: of positions; quaternions and places of free joints included.
        qvel: of velocities.
        ctrl: of the actuators' controls.

    Raises:
        ValueError: a name whose partner is not there, or a model whose two sides differ.
    """

    def __init__(self, mirror: Mirror, robot: Robot) -> None:
        self._mirror, self._robot, model = mirror, robot, robot.model
        self._data = mujoco.MjData(model)
        self._data.qpos[:] = robot.home
        mujoco.mj_forward(model, self._data)
        self.qpos, self.qvel = self._joints()
        self.ctrl = self._actuators()
        for what in ("qpos", "qvel", "ctrl"):
            if not getattr(self, what).involution:
                raise UserError(f"{robot.name}: mirrored twice, {what} is not what it was")
        self._check_dynamics()

    def partner(self, kind: str, name: str) -> str:
        """The name of an object's mirror image."""
        for left, right in self._mirror.swap:
            for mine, other in ((left, right), (right, left)):
                if mine in name:
                    partner = name.replace(mine, other)
                    if partner in self._robot.names[kind]:
                        return partner
                    raise UserError(
                        f"{self._robot.name}: the mirror image of the {kind} {name!r} would be {partner!r}, "
                        "which is not there"
                    )
        return name

    def _joints(self) -> tuple[Reflection, Reflection]:
        robot, model = self._robot, self._robot.model
        qpos = Reflection(np.arange(model.nq), np.ones(model.nq))
        qvel = Reflection(np.arange(model.nv), np.ones(model.nv))
        for joint, name in enumerate(robot.names["joint"]):
            other = robot.id("joint", self.partner("joint", name)) if name else joint
            if model.jnt_type[other] != model.jnt_type[joint]:
                raise UserError(f"{robot.name}: joint {name!r} and its mirror image differ in type")
            places, speeds = robot.joint_slices(joint)
            from_places, from_speeds = robot.joint_slices(other)
            qpos.places[places] = np.arange(from_places.start, from_places.stop)
            qvel.places[speeds] = np.arange(from_speeds.start, from_speeds.stop)
            kind = int(model.jnt_type[joint])
            if kind == mujoco.mjtJoint.mjJNT_FREE:
                qpos.signs[places] = np.concatenate([_POLAR, _QUATERNION])
                qvel.signs[speeds] = np.concatenate([_POLAR, _AXIAL])
            elif kind == mujoco.mjtJoint.mjJNT_BALL:
                qpos.signs[places], qvel.signs[speeds] = _QUATERNION, _AXIAL
            else:
                turn = _AXIAL if kind == mujoco.mjtJoint.mjJNT_HINGE else _POLAR
                cosine = float(self._data.xaxis[joint] @ (turn * self._data.xaxis[other]))
                if abs(cosine) < 0.99:
                    raise UserError(
                        f"{robot.name}: in the home pose the axes of joint {name!r} and of its mirror image "
                        f"{robot.names['joint'][other]!r} are not mirror images of each other"
                    )
                qpos.signs[places] = qvel.signs[speeds] = np.sign(cosine)
        return qpos, qvel

    def _actuators(self) -> Reflection:
        robot, model = self._robot, self._robot.model
        ctrl = Reflection(np.arange(model.nu), np.ones(model.nu))
        for actuator, name in enumerate(robot.names["actuator"]):
            if model.actuator_trntype[actuator] != mujoco.mjtTrn.mjTRN_JOINT:
                ctrl.places[actuator] = robot.id("actuator", self.partner("actuator", name))
                continue
            joint = int(model.actuator_trnid[actuator, 0])
            speed = robot.joint_slices(joint)[1].start
            source = int(self.qvel.places[speed])
            matching = [
                i
                for i in range(model.nu)
                if robot.joint_slices(int(model.actuator_trnid[i, 0]))[1].start == source
            ]
            if not matching:
                raise UserError(f"{robot.name}: the actuator {name!r} has no mirror image")
            ctrl.places[actuator] = matching[0]
            ctrl.signs[actuator] = self.qvel.signs[speed]
        return ctrl

    def action(self, controls: Controls) -> Reflection:
        """Of a policy's actions.

        Raises:
            ValueError: what is driven, its home pose or its scale is not the same on both sides.
        """
        model = self._robot.model
        if not len(controls.joints):
            return self.ctrl
        driven = {int(joint): i for i, joint in enumerate(controls.joints)}
        dofs = model.jnt_dofadr[controls.joints]
        sources = model.dof_jntid[self.qvel.places[dofs]]
        if missing := [int(joint) for joint in sources if int(joint) not in driven]:
            name = self._robot.names["joint"][missing[0]]
            raise UserError(f"{self._robot.name}: the joint {name!r} is driven on one side alone")
        found = Reflection(np.array([driven[int(j)] for j in sources]), self.qvel.signs[dofs])
        for what, x in (("scale", controls.scale), ("offset", controls.offset)):
            image = x[found.places] * (found.signs if what == "offset" else 1.0)
            if off := np.flatnonzero(~np.isclose(image, x, atol=1e-6)).tolist():
                name = self._robot.names["joint"][controls.joints[off[0]]]
                raise UserError(
                    f"{self._robot.name}: the actions' {what} of joint {name!r} is {x[off[0]]:g}, by that of "
                    f"its mirror image it would be {image[off[0]]:g}"
                )
        return found

    def __iter__(self) -> Iterator[Reflection]:
        """Of qpos, qvel and ctrl."""
        return iter((self.qpos, self.qvel, self.ctrl))

    def _check_dynamics(self) -> None:
        """Raise ValueError if mirrored states do not move as mirror images."""
        model, data = self._robot.model, self._data
        for qpos, qvel, ctrl in self.samples(np.random.default_rng(0), 8):
            mine = _acceleration(model, data, qpos, qvel, ctrl)
            image = (part(x) for part, x in zip(self, (qpos, qvel, ctrl), strict=True))
            theirs = _acceleration(model, data, *image)
            off = np.abs(self.qvel(mine) - theirs)
            share = float(off.max() / max(np.abs(mine).max(), 1e-9))
            if share > self._mirror.tolerance:
                dof = int(off.argmax())
                joint = self._robot.names["joint"][int(model.dof_jntid[dof])]
                raise UserError(
                    f"{self._robot.name} is not symmetric: mirrored states differ in their accelerations by "
                    f"{share:.0%} (tolerance {self._mirror.tolerance:.0%}), most at the joint {joint!r}"
                )

    def samples(self, rng: np.random.Generator, count: int) -> list[tuple[np.ndarray, ...]]:
        """Random states (qpos, qvel, ctrl) around the home pose."""
        robot, model = self._robot, self._robot.model
        drawn = []
        for _ in range(count):
            move = rng.normal(size=model.nv) * 0.2
            qpos = robot.home.copy()
            mujoco.mj_integratePos(model, qpos, move, 1.0)
            drawn.append(
                (qpos, rng.normal(size=model.nv), robot.home_ctrl + 0.3 * rng.normal(size=model.nu))
            )
        return drawn


def _acceleration(model: Any, data: Any, qpos: Any, qvel: Any, ctrl: Any) -> np.ndarray:
    _forward(model, data, qpos, qvel, ctrl)
    return data.qacc.copy()


def _forward(model: Any, data: Any, qpos: Any, qvel: Any, ctrl: Any) -> None:
    mujoco.mj_resetData(model, data)
    data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, ctrl
    mujoco.mj_forward(model, data)


class Mirrored(NamedTuple):
    """What a policy sees and does, in the mirror."""

    action: Reflection
    observations: Mapping[str, Reflection]


def find_mirrored(task: Any, robot: Robot, controls: Controls, fields: Iterable[str]) -> Mirrored:
    """How actions and observation groups are reflected, found by comparing random states and their images.

    Args:
        task: a `RobotTask` with a `mirror`.
        robot: its model.
        controls: its controls.
        fields: fields of the engine that its functions read.

    Raises:
        ValueError: the model's sides differ, a number of an observation becomes no other one, or a reward is
            another in the mirror.
    """
    symmetry = Symmetry(task.mirror, robot)
    action = symmetry.action(controls)
    states = symmetry.samples(np.random.default_rng(1), SAMPLES)
    images = [tuple(part(x) for part, x in zip(symmetry, state, strict=True)) for state in states]

    def both(key: jax.Array, fields: Any, mirrored: Any) -> tuple[Any, Any]:
        keys = jax.random.split(key, 5)
        level = jnp.zeros(())
        drawn = 0.5 * jax.random.normal(keys[2], (2, *controls.spec.sizes))
        episode = Episode(
            key=keys[3],
            steps=jax.random.randint(keys[4], (), 0, 1000),
            level=level,
            command=task.command(keys[1], level),
            carry=task.reset(robot, keys[0], level).carry,
            action=drawn[0],
            last_action=drawn[1],
            control=None,
            sensing=None,
        )
        s = State(robot, fields, episode, task.control_dt_s)
        changes = dict(task.mirrored(s))
        time_s = changes.pop("time_s", s.time_s)
        check_names(changes, ("command", "carry"), what=f"{task.name}.mirrored() changes")
        image = episode._replace(
            steps=time_s / task.control_dt_s, action=action(drawn[0]), last_action=action(drawn[1])
        )
        other = State(robot, mirrored, image._replace(**changes), task.control_dt_s)
        return tuple((as_groups(task.observe(x)), dict(task.rewards(x))) for x in (s, other))

    keys = jax.random.split(jax.random.key(0), SAMPLES)
    plain, mirrored = (_fields(robot, x, sorted(fields)) for x in (states, images))
    (shown, rewards), (image, image_rewards) = jax.tree.map(
        np.asarray, jax.jit(jax.vmap(both))(keys, plain, mirrored)
    )
    tolerance = task.mirror.tolerance
    for name, x in rewards.items():
        off = np.abs(x - image_rewards[name]).max() / max(float(np.abs(x).max()), 1e-6)
        if off > tolerance:
            raise UserError(
                f"{task.name}: the reward {name!r} is another in the mirror, by {off:.0%} of its size"
            )
    reflections = {
        name: _match(
            x.reshape(SAMPLES, -1),
            image[name].reshape(SAMPLES, -1),
            f"{task.name}: {name}",
            tolerance,
        )
        for name, x in shown.items()
    }
    history = {name: how.history for name, how in task.sensing.items()}
    return Mirrored(action, {n: x.repeated(history.get(n, 1)) for n, x in reflections.items()})


def _fields(robot: Robot, states: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """What the engine makes of states: fields [K, ...]."""
    data, rows = mujoco.MjData(robot.model), []
    for state in states:
        _forward(robot.model, data, *state)
        rows.append([np.array(getattr(data, name), np.float32) for name in names])
    return {name: np.stack([row[i] for row in rows]) for i, name in enumerate(names)}


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)


def _match(plain: np.ndarray, mirrored: np.ndarray, name: str, tolerance: float) -> Reflection:
    """Which number becomes which and with which sign: [K, D] and its mirror images."""
    size = plain.shape[1]
    spread = np.maximum(plain.std(axis=0), 1e-6)
    places, signs = np.zeros(size, int), np.ones(size)
    for i in range(size):
        apart = np.stack(
            [
                np.abs(mirrored[:, i, None] - sign * plain).max(axis=0) / spread
                for sign in (1.0, -1.0)
            ]
        )  # [sign, D]
        best = apart.min()
        if best > tolerance:
            raise UserError(
                f"{name}[{i}] has no mirror image: no number of the group is plus or minus what it becomes"
            )
        # where several fit, as of a constant, a number stays itself
        sign, place = (
            (0, i) if apart[0, i] <= best else np.unravel_index(apart.argmin(), apart.shape)
        )
        places[i], signs[i] = place, (1.0, -1.0)[sign]
    found = Reflection(places, signs)
    if not found.involution:
        raise UserError(f"{name}: mirrored twice, it is not what it was")
    return found
