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
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from surefoot.envs.contract import Symmetry, as_groups
from surefoot.errors import UserError, check_names
from surefoot.functional import Reflection, joined
from surefoot.robots.actuation import Controls
from surefoot.robots.model import Robot
from surefoot.robots.state import Episode, State

SAMPLES, RECENT = 24, 4
_POLAR, _AXIAL = np.array([1.0, -1.0, 1.0]), np.array([-1.0, 1.0, -1.0])
_QUATERNION = np.array([1.0, -1.0, 1.0, -1.0])  # w first


@dataclass(frozen=True)
class Mirror:
    """What becomes what where left and right are swapped.

    Attributes:
        swap: pairs of parts of names: with ("FL", "FR") the joint `FL_hip` becomes `FR_hip` and back. Names
            in which no part is found are in the middle, their own mirror image.
        tolerance: largest share by which a joint's accelerations may differ in mirrored states: models of
            real robots are not exactly symmetric.
    """

    swap: tuple[tuple[str, str], ...]
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        is_pairs = isinstance(self.swap, (tuple, list)) and all(
            isinstance(pair, (tuple, list))
            and len(pair) == 2
            and all(isinstance(part, str) and part for part in pair)
            for pair in self.swap
        )
        if not is_pairs:
            raise UserError(
                f"mirror: swap = {self.swap!r}: it must be pairs of parts of names, such as (('FL', 'FR'),)"
            )


class ModelSymmetry:
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
        self._check_ranges()
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
        qpos, qvel = _Arrays(model.nq), _Arrays(model.nv)
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
        return qpos.reflection(), qvel.reflection()

    def _actuators(self) -> Reflection:
        robot, model = self._robot, self._robot.model
        ctrl = _Arrays(model.nu)
        for actuator, name in enumerate(robot.names["actuator"]):
            if model.actuator_trntype[actuator] != mujoco.mjtTrn.mjTRN_JOINT:
                if name:
                    ctrl.places[actuator] = robot.id("actuator", self.partner("actuator", name))
                continue
            speed = int(model.jnt_dofadr[model.actuator_trnid[actuator, 0]])
            source = int(self.qvel.places[speed])
            mine, matching = self._driving(speed), self._driving(source)
            if len(matching) != len(mine):
                raise UserError(f"{robot.name}: the actuator {name!r} has no mirror image")
            other = ctrl.places[actuator] = matching[mine.index(actuator)]
            gears = np.sign(model.actuator_gear[[actuator, other], 0])
            ctrl.signs[actuator] = self.qvel.signs[speed] * gears[0] * gears[1]
        return ctrl.reflection()

    def _driving(self, speed: int) -> list[int]:
        """The actuators of the joint whose velocity is at a place, in the model's order."""
        model = self._robot.model
        on_joints = model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT
        there = model.jnt_dofadr[np.where(on_joints, model.actuator_trnid[:, 0], 0)] == speed
        return np.flatnonzero(on_joints & there).tolist()

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
        places, signs = np.array(self.qvel.places), np.array(self.qvel.signs)
        sources = model.dof_jntid[places[dofs]]
        if missing := [int(joint) for joint in sources if int(joint) not in driven]:
            lone = controls.joints[sources.tolist().index(missing[0])]
            names = [self._robot.names["joint"][joint] for joint in (lone, missing[0])]
            raise UserError(
                f"{self._robot.name}: the joint {names[0]!r} is driven, its mirror image {names[1]!r} is not"
            )
        found = Reflection(tuple(driven[int(j)] for j in sources), tuple(signs[dofs].tolist()))
        for what, x in (("scale", controls.scale), ("offset", controls.offset)):
            image = (found if what == "offset" else found.unsigned)(x)
            if off := np.flatnonzero(~np.isclose(image, x, atol=1e-6)).tolist():
                name = self._robot.names["joint"][controls.joints[off[0]]]
                raise UserError(
                    f"{self._robot.name}: the actions' {what} of joint {name!r} is {x[off[0]]:g}, by that of "
                    f"its mirror image it would be {image[off[0]]:g}"
                )
        if not len(controls.others):
            return found
        others = {int(actuator): i for i, actuator in enumerate(controls.others)}
        if any(self.ctrl.places[i] not in others for i in others):
            raise UserError(
                f"{self._robot.name}: actuation.others names actuators of one side alone"
            )
        images = tuple(others[self.ctrl.places[i]] for i in others)
        ends = Reflection(images, tuple(self.ctrl.signs[i] for i in others))
        return joined([found, ends])

    def __iter__(self) -> Iterator[Reflection]:
        """Of qpos, qvel and ctrl."""
        return iter((self.qpos, self.qvel, self.ctrl))

    def _check_ranges(self) -> None:
        """Raise ValueError if joints or actuators end elsewhere on the other side: few states show it."""
        model = self._robot.model
        joints = self._robot.scalar_joints() if model.njnt else np.array([], int)
        dofs, all_actuators = model.jnt_dofadr[joints], np.arange(model.nu)
        places, signs = np.array(self.qvel.places), np.array(self.qvel.signs)
        sources = model.dof_jntid[places[dofs]]
        for kind, what, ids, others, turned in (
            ("joint", "jnt_range", joints, sources, signs[dofs]),
            ("actuator", "actuator_ctrlrange", all_actuators, self.ctrl.places, self.ctrl.signs),
            ("actuator", "actuator_forcerange", all_actuators, self.ctrl.places, self.ctrl.signs),
        ):
            limited = getattr(model, what.replace("range", "limited"))[:, None].astype(bool)
            ranges = np.where(limited, getattr(model, what), (-np.inf, np.inf))
            for i, other, sign in zip(ids, others, turned, strict=True):
                image = np.sort(sign * ranges[other])
                near = self._mirror.tolerance * np.ptp(ranges[i]) if limited[i] else 0.0
                if not np.allclose(ranges[i], image, rtol=0, atol=near):
                    names = self._robot.names[kind]
                    raise UserError(
                        f"{self._robot.name} is not symmetric: {what} of {kind} {names[i]!r} is "
                        f"{ranges[i].tolist()}, by that of {names[other]!r} it would be {image.tolist()}"
                    )

    def _check_dynamics(self) -> None:
        """Raise ValueError if mirrored states do not move as mirror images.

        Each joint by itself without contacts, as light ones accelerate most; with contacts all together.
        """
        model, data, tolerance = self._robot.model, self._data, self._mirror.tolerance
        states = self.samples(np.random.default_rng(0), 8)
        images = [tuple(part(x) for part, x in zip(self, state, strict=True)) for state in states]
        mine = np.stack([_accelerations(model, data, *state) for state in states])  # [K, 2, nv]
        off = np.stack([_accelerations(model, data, *image) for image in images]) - self.qvel(mine)
        size = np.maximum(np.abs(mine), 1e-9)
        alone = np.abs(off[:, 1]) / size[:, 1].max(axis=0)
        together = np.abs(off[:, 0]) / size[:, 0].max(axis=1, keepdims=True)
        for shares, row in ((alone, 1), (together, 0)):
            share, worst = float(shares.max()), int(shares.max(axis=1).argmax())
            if share <= tolerance:
                continue
            # where: as forces; the last of those that feel it, for what is above feels it too
            force = np.zeros(model.nv)
            _forward(model, data, *images[worst])
            mujoco.mj_mulM(model, data, force, off[worst, row])
            dof = np.flatnonzero(np.abs(force) > 0.03 * np.abs(force).max())[-1]
            joint = self._robot.names["joint"][model.dof_jntid[dof]]
            body = self._robot.names["body"][model.dof_bodyid[dof]]
            raise UserError(
                f"{self._robot.name} is not symmetric: mirrored states differ in their accelerations by "
                f"{share:.0%} (tolerance {tolerance:.0%}), at the joint {joint!r} of body {body!r}"
            )

    def samples(self, rng: np.random.Generator, count: int) -> list[tuple[np.ndarray, ...]]:
        """Random states (qpos, qvel, ctrl) around the home pose; high over ground that is not symmetric."""
        robot, model = self._robot, self._robot.model
        above = np.zeros(model.nq)
        if model.nhfield and model.njnt and model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE:
            above[2] = 100.0
        drawn = []
        for _ in range(count):
            move = rng.normal(size=model.nv) * 0.2
            qpos = robot.home + above
            mujoco.mj_integratePos(model, qpos, move, 1.0)
            drawn.append(
                (qpos, rng.normal(size=model.nv), robot.home_ctrl + 0.3 * rng.normal(size=model.nu))
            )
        return drawn


class _Arrays:
    """A reflection in the making; at first nothing moves."""

    def __init__(self, size: int) -> None:
        self.places, self.signs = np.arange(size), np.ones(size)

    def reflection(self) -> Reflection:
        return Reflection(tuple(self.places.tolist()), tuple(self.signs.tolist()))


def _accelerations(model: Any, data: Any, qpos: Any, qvel: Any, ctrl: Any) -> np.ndarray:
    """[2, nv]: those of a state, and those without contacts, limits and dry friction."""
    _forward(model, data, qpos, qvel, ctrl)
    return np.stack([data.qacc, data.qacc_smooth])


def _forward(model: Any, data: Any, qpos: Any, qvel: Any, ctrl: Any) -> None:
    mujoco.mj_resetData(model, data)
    data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, ctrl
    mujoco.mj_forward(model, data)


def find_symmetry(task: Any, robot: Robot, controls: Controls, fields: Iterable[str]) -> Symmetry:
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
    symmetry = ModelSymmetry(task.mirror, robot)
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
        s = State(robot, _at(fields, 0), episode, task.control_dt_s)
        changes = dict(task.mirrored(s))
        time_s = changes.pop("time_s", s.time_s)
        check_names(changes, ("command", "carry"), what=f"{task.name}.mirrored() changes")
        image = episode._replace(
            steps=time_s / task.control_dt_s, action=action(drawn[0]), last_action=action(drawn[1])
        )
        image = image._replace(**changes)

        def seen(episode: Episode, fields: Any) -> State:
            if task.overrides("remember"):  # so that the carry holds more than what it begins with
                for i in range(RECENT - 1):
                    s = State(robot, _at(fields, i), episode, task.control_dt_s)
                    episode = episode._replace(carry=task.remember(s))
            return State(robot, _at(fields, RECENT - 1), episode, task.control_dt_s)

        pair = (seen(episode, fields), seen(image, mirrored))
        return tuple((as_groups(task.observe(x)), dict(task.rewards(x))) for x in pair)

    keys = jax.random.split(jax.random.key(0), SAMPLES)
    plain, mirrored = (_recent(_fields(robot, x, sorted(fields))) for x in (states, images))
    (shown, rewards), (image, image_rewards) = jax.tree.map(
        np.asarray, jax.jit(jax.vmap(both))(keys, plain, mirrored)
    )
    tolerance = task.mirror.tolerance
    _check_rewards(task.name, rewards, image_rewards, tolerance)
    found = {
        name: _match(_flat(x), _flat(image[name]), f"{task.name}: {name}", tolerance)
        for name, x in shown.items()
    }
    history = {name: how.history for name, how in task.sensing.items()}
    return Symmetry({n: joined([x] * history.get(n, 1)) for n, x in found.items()}, action)


def _check_rewards(
    task: str, rewards: Mapping[str, Any], image: Mapping[str, Any], tolerance: float
) -> None:
    for name, x in rewards.items():
        off = np.abs(x - image[name]).max() / max(float(np.abs(x).max()), 1e-6)
        if off > tolerance:
            raise UserError(
                f"{task}: the reward {name!r} is another in the mirror, by {off:.0%} of its size"
            )


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)


def _recent(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """[K, ...] as [K, RECENT, ...]: each with others, as if they had come before."""
    return {
        name: np.stack([np.roll(x, shift, axis=0) for shift in range(RECENT)], axis=1)
        for name, x in fields.items()
    }


def _at(fields: Mapping[str, Any], i: int) -> dict[str, Any]:
    return {name: x[i] for name, x in fields.items()}


def _fields(robot: Robot, states: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """What the engine makes of states: fields [K, ...]."""
    data, rows = mujoco.MjData(robot.model), []
    for state in states:
        _forward(robot.model, data, *state)
        rows.append([np.array(getattr(data, name), np.float32) for name in names])
    return {name: np.stack([row[i] for row in rows]) for i, name in enumerate(names)}


def _match(plain: np.ndarray, mirrored: np.ndarray, name: str, tolerance: float) -> Reflection:
    """Which number becomes which and with which sign: [K, D] and its mirror images."""
    size = plain.shape[1]
    spread = np.maximum(plain.std(axis=0), 1e-6)
    apart = np.stack(
        [
            np.abs(mirrored[:, i, None, None] - np.array([1.0, -1.0]) * plain[..., None]).max(
                axis=0
            )
            / spread[:, None]
            for i in range(size)
        ]
    )  # [D, D, sign]: how far i's mirror image is from j
    if lost := np.flatnonzero(apart.min(axis=(1, 2)) > tolerance).tolist():
        raise UserError(
            f"{name}[{lost[0]}] has no mirror image: no number of the group is plus or minus what it becomes"
        )
    # pairs that become each other: of numbers that are equal or opposite always, several fit
    apart = np.maximum(apart, apart.transpose(1, 0, 2))
    places, signs = np.full(size, -1), np.ones(size)
    for i in range(size):
        if places[i] >= 0:
            continue
        free = np.where((places < 0)[:, None], apart[i], np.inf)
        best = free.min()
        if best > tolerance:
            raise UserError(f"{name}[{i}]: mirrored twice, it is not what it was")
        # where several fit, as of a constant, a number stays itself: those before it are taken
        j, sign = np.unravel_index(free.argmin(), free.shape)
        places[i], places[j] = j, i
        signs[i] = signs[j] = (1.0, -1.0)[sign]
    return Reflection(tuple(places.tolist()), tuple(signs.tolist()))
