"""What a robot's model says, what it lacks, and what is guessed in its place.

Feet are what is lowest in the home pose; gains follow from masses, lengths and the limits of the motors.
"""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import builtins
import keyword
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from surefoot.errors import UserError
from surefoot.robots.actuation import kind_of
from surefoot.robots.body import GROUND, Body, Gains, effort_of
from surefoot.robots.looks import leave_out_looks
from surefoot.robots.model import Robot, compile_spec, read_spec

_TAKEN = {
    "Actuation",
    "Any",
    "ClassVar",
    "Config",
    "Mapping",
    "Robot",
    "RobotTask",
    "Start",
    "State",
}
_NAMELESS = {"main", "mjmodel", "model", "robot", "scene", "urdf"}


@dataclass(frozen=True)
class Findings:
    """What a robot's model says, and what was made up where it says nothing.

    Attributes:
        name: of the class to be.
        file: the model.
        robot: the model, compiled, on the base that it is to have.
        free: whether the base is free.
        add_base: whether the file gives the base a free joint.
        delete_base: whether it takes it away.
        trunk: the body that is free, or that all else is fixed to.
        axes: of each joint in the world, in the home pose, in words.
        drives: what drives each joint, in words.
        kind: of actuation, `position` or `ctrl`.
        gains: of the joints whose motors the model does not describe as ones that hold a position.
        home: positions of joints by name, where the model has no keyframe.
        key: name of the keyframe, where it has one.
        feet: names of geoms, or of bodies, that may touch the ground.
        soles: a body and a point in its frame for each foot, what is lowest of it.
        rhythm: phases of these feet in a gait.
        stands: where they are, forward and to the left of the trunk, in m.
        strides: by joint of a leg the foot's number, and the rad that move it 1 m forward, to the left, up.
        swing_m: how high feet are lifted in a stride.
        start_m: height of the trunk, feet just on the ground.
        effector: kind and name of what is to reach: a site or a body.
        workspace: of the effector, [3, 2] in m.
        others: names of moving bodies that are no part of the robot, such as a ball.
        lacks: what the model lacks and the file adds, in words.
        notes: what the user should know, in words.
    """

    name: str
    file: Path
    robot: Robot
    free: bool
    add_base: bool
    delete_base: bool
    trunk: str
    axes: tuple[str, ...]
    drives: Mapping[str, str]
    kind: str
    gains: Mapping[str, Gains]
    home: Mapping[str, float] | None
    key: str
    feet: tuple[str, ...] = ()
    soles: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    rhythm: tuple[float, ...] = ()
    stands: tuple[tuple[float, float], ...] = ()
    strides: Mapping[str, tuple[int, tuple[float, float, float]]] = field(default_factory=dict)
    swing_m: float = 0.0
    start_m: float = 0.0
    effector: tuple[str, str] = ("body", "")
    workspace: np.ndarray = field(default_factory=lambda: np.zeros((3, 2)))
    others: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_urdf(self) -> bool:
        """Whether the model comes from a URDF."""
        return self.file.suffix.lower() == ".urdf"


def look(file: Path, *, free: bool | None = None) -> Findings:
    """What a model says, and what follows where it says nothing.

    Args:
        file: an MJCF or URDF file.
        free: whether the base is free; none: as the model has it.

    Raises:
        ValueError: it is no model, nothing in it moves, or its base cannot be told.
    """
    spec: Any = read_spec(file)
    urdf = file.suffix.lower() == ".urdf"
    for geom in spec.geoms if urdf else ():
        if not geom.contype and not geom.conaffinity:
            geom.name = ""
    leave_out_looks(spec)
    if not any(_moves(body) for body in spec.worldbody.bodies):
        if spec.actuators:
            raise UserError(
                f"the actuators of {file} drive no joint that turns or slides: new-robot writes tasks for "
                "legs and arms alone. A task of your own can drive it, with Actuation(kind='ctrl'): "
                "docs/robots.md"
            )
        raise UserError(
            f"{file} has no joint that turns or slides, so there is nothing to control: is it a scene or an "
            "object? Give the robot's own file"
        )
    trunk, has_base = _base(spec, file, free)
    add_base, delete_base = bool(free) and not has_base, has_base and free is False
    free = add_base or (has_base and not delete_base)
    if add_base or delete_base:
        for key in list(spec.keys):
            spec.delete(key)
    if add_base:
        spec.body(trunk).add_freejoint(name="base")
    if delete_base:
        for joint in list(spec.body(trunk).joints):
            spec.delete(joint)
    robot = Robot(compile_spec(spec, file.name), file.name)
    kind, unkept, drives = _drives(spec, robot)
    body = Body(robot, trunk, free)
    if not robot.model.nkey:
        body.stand()
    gains = body.gains(unkept)
    common: dict[str, Any] = {
        "name": class_name(file, spec.modelname if urdf else ""),
        **{"file": file, "robot": robot, "free": free, "trunk": trunk, "kind": kind},
        **{"add_base": add_base, "delete_base": delete_base, "gains": gains},
        "axes": body.axes(),
        "drives": drives | dict.fromkeys(gains, "GAINS"),
        "home": None if robot.model.nkey else body.positions(),
        "key": (robot.names["key"][_key(robot)] or "the first") if robot.model.nkey else "",
        "others": tuple(_others(robot, trunk)),
        "lacks": tuple(_lacks(spec, robot, add_base, gains, free)),
        "notes": (*_notes(robot, gains, kind, drives), *body.leaning()),
    }
    if free:
        walk: dict[str, Any] = {"soles": body.soles(), "rhythm": body.rhythm()}
        swing = round(min(0.1, 0.2 * body.height_m()), 3)
        walk |= {"stands": body.stands(), "strides": body.strides(swing), "swing_m": swing}
        return Findings(**common, feet=body.foot_names(), start_m=round(body.start_m(), 3), **walk)
    effector = body.effector()
    return Findings(**common, effector=effector, workspace=body.workspace(effector))


def class_name(file: Path, given: str = "") -> str:
    """A class's name: of the robot's own, of the file's, or, where that says nothing, of the folder's."""
    word = given or (file.parent.name if file.stem.lower() in _NAMELESS else file.stem)
    parts = re.findall(r"[A-Za-z0-9]+", word)
    name = "".join(part[0].upper() + part[1:] for part in parts) or "MyRobot"
    name = f"Robot{name}" if name[0].isdigit() else name
    taken = name in _TAKEN or name.isupper() or hasattr(builtins, name) or keyword.iskeyword(name)
    return f"{name}Task" if taken else name


def _moves(body: Any) -> bool:
    scalar = (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE)
    return any(j.type in scalar for j in body.joints) or any(map(_moves, body.bodies))


def _joints(body: Any) -> Iterable[Any]:
    yield from body.joints
    for inner in body.bodies:
        yield from _joints(inner)


def _base(spec: Any, file: Path, free: bool | None) -> tuple[str, bool]:
    """The body that the rest hangs on, and whether it has a free joint."""
    tops = [body for body in spec.worldbody.bodies if _moves(body)]
    targets = {actuator.target for actuator in spec.actuators}
    driven = [body for body in tops if any(j.name in targets for j in _joints(body))]
    tops = driven or tops
    floats = [b for b in tops if any(j.type == mujoco.mjtJoint.mjJNT_FREE for j in b.joints)]
    if free is None and not floats and file.suffix.lower() == ".urdf":
        is_bolted = re.search(r"<link[^>]*\sname=[\"']world[\"']", file.read_text(errors="replace"))
        if not is_bolted:
            raise UserError(
                f"a URDF does not say whether the base of {spec.modelname!r} is fixed: give --free-base (it "
                "stands or walks) or --fixed-base (an arm or a hand)"
            )
    trunk = (floats or tops)[0]
    if not trunk.name:
        raise UserError(f"the base of {file} has no name: give its body one")
    if len(floats) > 1:
        names = " and ".join(body.name for body in floats)
        raise UserError(f"{file} has {len(floats)} robots with a free base ({names}): leave one")
    return trunk.name, bool(floats)


def _drives(spec: Any, robot: Robot) -> tuple[str, list[str], dict[str, str]]:
    """The kind of actuation, the joints that need gains, and in words what drives each joint."""
    model, names = robot.model, robot.names["joint"]
    on_joint = mujoco.mjtTrn.mjTRN_JOINT
    by_joint: dict[str, list[tuple[int, Any]]] = {}
    for index, actuator in enumerate(spec.actuators):
        if actuator.trntype == on_joint:
            by_joint.setdefault(actuator.target, []).append((index, actuator))
    scalars = [names[j] for j in robot.scalar_joints() if names[j]]
    twice = any(len(drivers) > 1 for drivers in by_joint.values())
    others = {kind_of(a) for drivers in by_joint.values() for _, a in drivers}
    others -= {"position", "torque"}  # wheels that turn, muscles
    if model.nu and (twice or others or len(by_joint) <= model.nu / 2):
        words = {n: "ctrl of its own actuators" for n in scalars if n in by_joint}
        return "ctrl", [], words
    if not model.nu:  # a coupled joint follows another one
        coupled = model.eq_obj1id[model.eq_type == mujoco.mjtEq.mjEQ_JOINT]
        return "position", [n for n in scalars if n not in {names[j] for j in coupled}], {}
    drives, unkept = {}, []
    for name in scalars:
        for index, actuator in by_joint.get(name, ()):
            if kind_of(actuator) != "position":
                unkept.append(name)
                continue
            gain, gear = -model.actuator_biasprm[index, 1], model.actuator_gear[index, 0]
            effort = effort_of(robot, robot.id("joint", name))
            most = f", up to {short(effort)}" if math.isfinite(effort) else ""
            drives[name] = f"position, {short(gain * gear**2)}{most}"
    return "position", unkept, drives


def _others(robot: Robot, trunk: str) -> Iterable[str]:
    """Names of bodies that move and do not hang on the trunk."""
    model, root = robot.model, robot.id("body", trunk)
    for body, name in enumerate(robot.names["body"]):
        moves = model.body_weldid[body] != 0
        if name and moves and model.body_rootid[body] != model.body_rootid[root]:
            yield name


def _key(robot: Robot) -> int:
    return robot.names["key"].index("home") if "home" in robot.names["key"] else 0


def _lacks(
    spec: Any, robot: Robot, add_base: bool, gains: Mapping[str, Gains], free: bool
) -> Iterable[str]:
    """What the file adds, in words."""
    if add_base:
        yield "a free joint for the base"
    if gains and not robot.model.nu:
        yield f"actuators ({len(gains)}), their gains and limits"
    elif gains:
        yield f"gains that hold a position ({len(gains)} motors take torques)"
    if bare := bare_of(robot, gains):
        yield f"the joints' {' and '.join(bare)}"
    if not robot.model.nkey:
        yield f"a home pose{' to stand in' if free else ''}"
    if not has_ground(robot):
        yield "a floor"
    if not spec.lights:
        yield "a light"


def bare_of(robot: Robot, gains: Iterable[str]) -> list[str]:
    """What stands for motors and gears in joints, where the model has nothing of it."""
    model = robot.model
    dofs = [model.jnt_dofadr[robot.id("joint", name)] for name in gains]
    values = {"armature": model.dof_armature, "damping": model.dof_damping}
    return [what for what, all_dofs in values.items() if dofs and not np.any(all_dofs[dofs])]


def has_ground(robot: Robot) -> bool:
    """Whether there is a plane or heightfield to stand on."""
    model = robot.model
    return bool(np.isin(model.geom_type[model.geom_bodyid == 0], GROUND).any())


def _notes(
    robot: Robot, gains: Mapping[str, Gains], kind: str, drives: Mapping[str, str]
) -> Iterable[str]:
    model, names = robot.model, robot.names["joint"]
    stated = {name: effort_of(robot, robot.id("joint", name)) for name in gains}
    for name, effort in stated.items():
        if 1.1 * gains[name].effort < effort < math.inf:
            yield f"a limit of {effort:g} ({name}) is no motor's: what masses ask for stands in the file"
            break
    idle = [names[j] for j in robot.scalar_joints() if names[j] not in (*gains, *drives)]
    passive = [name for name in idle if name]
    if nameless := len(idle) - len(passive):
        passive.append(
            f"{nameless} joints without a name" if nameless > 1 else "a joint without a name"
        )
    if passive and kind == "position":
        yield f"nothing of its own drives {some(passive)}"
    others = model.nu - int((model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT).sum())
    if others and kind == "position":
        yield f"{others} actuator(s) of tendons or sites stay as they are in the home pose"
    if kind == "ctrl":
        ranged = model.actuator_ctrllimited.astype(bool)
        over = "from -1 to 1 over their ranges" if ranged.any() else "which have no ranges"
        yield f"actions are the controls of the model's own actuators, {over}"
        if ranged.any() and not ranged.all():
            yield f"{(~ranged).sum()} actuators have no range: they get actions as they are"


def some(names: Sequence[str], most: int = 4) -> str:
    """The first of names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def short(number: float) -> str:
    """A number in three digits, or whole."""
    return f"{number:.3g}" if number < 1000 else f"{number:.0f}"
