"""A first task for a robot: what its model says and what it lacks, and the commented file that follows.

What cannot be read is guessed from the body: feet are what is lowest in the home pose, gains follow from
masses, lengths and the limits of the motors.
"""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import mujoco
import numpy as np

from surefoot.errors import UserError
from surefoot.robots.actuation import kind_of
from surefoot.robots.model import Robot, compile_spec, leave_out_looks, read_spec

PHYSICS_S = (0.005, 0.004, 0.0025, 0.002, 0.001)  # to try, all dividing the control step of 0.02 s

_TYPES = ("free", "ball", "slide", "hinge")
_SHAPES = mujoco.mjtGeom
_GROUND = (_SHAPES.mjGEOM_PLANE, _SHAPES.mjGEOM_HFIELD)
_AXES = {
    tuple(sign * float(name == axis) + 0.0 for name in "xyz"): f"{'-' if sign < 0 else ''}{axis}"
    for axis in "xyz"
    for sign in (1.0, -1.0)
}
_SANE = 20  # a limit of effort beyond so many times the robot's own pull is no motor's
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


class Gains(NamedTuple):
    """Of a joint's motor: Nm/rad, Nms/rad, Nm (N/m, Ns/m, N of a slide)."""

    stiffness: float
    damping: float
    effort: float


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
        start_m: height of the trunk, feet just on the ground.
        effector: kind and name of what is to reach: a site or a body.
        workspace: of the effector, [3, 2] in m.
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
    start_m: float = 0.0
    effector: tuple[str, str] = ("body", "")
    workspace: np.ndarray = field(default_factory=lambda: np.zeros((3, 2)))
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
    body = _Body(robot, trunk, free)
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
        "lacks": tuple(_lacks(spec, robot, add_base, gains, free)),
        "notes": (*_notes(robot, gains, kind, drives), *body.leaning()),
    }
    if free:
        return Findings(**common, feet=body.foot_names(), start_m=round(body.start_m(), 3))
    effector = body.effector()
    return Findings(**common, effector=effector, workspace=body.workspace(effector))


def class_name(file: Path, given: str = "") -> str:
    """A class's name: of the robot's own, of the file's, or, where that says nothing, of the folder's."""
    word = given or (file.parent.name if file.stem.lower() in _NAMELESS else file.stem)
    parts = re.findall(r"[A-Za-z0-9]+", word)
    name = "".join(part[0].upper() + part[1:] for part in parts) or "MyRobot"
    return f"{name}Task" if name in _TAKEN else name if not name[0].isdigit() else f"Robot{name}"


# what is there -----------------------------------------------------------------------------------


def _moves(body: Any) -> bool:
    scalar = (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE)
    return any(j.type in scalar for j in body.joints) or any(map(_moves, body.bodies))


def _base(spec: Any, file: Path, free: bool | None) -> tuple[str, bool]:
    """The body that the rest hangs on, and whether it has a free joint."""
    tops = [body for body in spec.worldbody.bodies if _moves(body)]
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
    if model.nu and (twice or len(by_joint) <= model.nu / 2):
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
            effort = _effort(robot, robot.id("joint", name))
            most = f", up to {_short(effort)}" if math.isfinite(effort) else ""
            drives[name] = f"position, {_short(gain * gear**2)}{most}"
    return "position", unkept, drives


def _effort(robot: Robot, joint: int) -> float:
    """The largest torque that the model allows a joint's motors; infinite where it says nothing."""
    model, most = robot.model, math.inf
    if model.jnt_actfrclimited[joint]:
        most = min(most, float(np.abs(model.jnt_actfrcrange[joint]).min()) or math.inf)
    for index in np.flatnonzero(model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT):
        if model.actuator_trnid[index, 0] != joint:
            continue
        gear = abs(model.actuator_gear[index, 0])
        if model.actuator_forcelimited[index]:
            most = min(most, gear * float(np.abs(model.actuator_forcerange[index]).min()))
        no_feedback = model.actuator_biastype[index] == mujoco.mjtBias.mjBIAS_NONE
        if no_feedback and model.actuator_ctrllimited[index]:
            gain = gear * abs(model.actuator_gainprm[index, 0])
            most = min(most, gain * float(np.abs(model.actuator_ctrlrange[index]).min()))
    return most


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
    if bare := _bare(robot, gains):
        yield f"the joints' {' and '.join(bare)}"
    if not robot.model.nkey:
        yield f"a home pose{' to stand in' if free else ''}"
    if not _has_ground(robot):
        yield "a floor"
    if not spec.lights:
        yield "a light"


def _bare(robot: Robot, gains: Iterable[str]) -> list[str]:
    """What stands for motors and gears in joints, where the model has nothing of it."""
    model = robot.model
    dofs = [model.jnt_dofadr[robot.id("joint", name)] for name in gains]
    values = {"armature": model.dof_armature, "damping": model.dof_damping}
    return [what for what, all_dofs in values.items() if dofs and not np.any(all_dofs[dofs])]


def _has_ground(robot: Robot) -> bool:
    model = robot.model
    return bool(np.isin(model.geom_type[model.geom_bodyid == 0], _GROUND).any())


def _notes(
    robot: Robot, gains: Mapping[str, Gains], kind: str, drives: Mapping[str, str]
) -> Iterable[str]:
    model, names = robot.model, robot.names["joint"]
    stated = {name: _effort(robot, robot.id("joint", name)) for name in gains}
    for name, effort in stated.items():
        if 1.1 * gains[name].effort < effort < math.inf:
            yield f"a limit of {effort:g} ({name}) is no motor's: what masses ask for stands in the file"
            break
    passive = [names[j] for j in robot.scalar_joints() if names[j] not in (*gains, *drives)]
    if passive and kind == "position":
        yield f"nothing of its own drives {some(passive)}"
    others = model.nu - int((model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT).sum())
    if others and kind == "position":
        yield f"{others} actuator(s) of tendons or sites stay as they are in the home pose"
    if kind == "ctrl":
        yield "actions are the controls of the model's own actuators, from -1 to 1 over their ranges"


def some(names: Sequence[str], most: int = 4) -> str:
    """The first of names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# the body ----------------------------------------------------------------------------------------


class _Body:
    """A robot's shape in a pose: the home pose, or one to find.

    Args:
        robot: the model.
        trunk: the body that the rest hangs on.
        free: whether it is free.
    """

    def __init__(self, robot: Robot, trunk: str, free: bool) -> None:
        self._robot, self._model, self._free = robot, robot.model, free
        self.data, self._root = mujoco.MjData(robot.model), robot.id("body", trunk)
        model, self.qpos = robot.model, robot.home.copy()
        self.scalars = robot.scalar_joints()
        limited = model.jnt_limited[self.scalars].astype(bool)
        self.at = model.jnt_qposadr[self.scalars]
        low, high = model.jnt_range[self.scalars].T
        self._low, self._high = np.where(limited, low, -np.pi), np.where(limited, high, np.pi)
        self.qpos[self.at] = np.clip(self.qpos[self.at], self._low, self._high)
        # bodies that are fixed to each other move as one, which goes by the first one's number
        self._one = model.body_weldid
        self._above = {
            int(one): int(self._one[model.body_parentid[one]])
            for one in set(self._one.tolist())
            if one
        }
        self.pose()

    def pose(self) -> None:
        """Let all follow from `qpos`."""
        self.data.qpos[:] = self.qpos
        mujoco.mj_kinematics(self._model, self.data)
        mujoco.mj_comPos(self._model, self.data)

    def positions(self) -> dict[str, float]:
        """Of hinges and slides, by name, rounded."""
        names, places = self._robot.names["joint"], zip(self.scalars, self.at, strict=True)
        return {names[j]: round(float(self.qpos[a]), 3) + 0.0 for j, a in places if names[j]}

    def axes(self) -> tuple[str, ...]:
        """Of all joints in the world, in words."""
        rows = self.data.xaxis.round(2) + 0.0
        return tuple(
            _AXES.get(tuple(row), " ".join(f"{x:g}" for x in row)) for row in rows.tolist()
        )

    def leaning(self) -> Iterable[str]:
        """That the trunk's z axis does not point up, where it does not, in words."""
        up = float(self.data.xmat[self._root].reshape(3, 3)[2, 2])
        if self._free and up < 0.9:
            angle = math.degrees(math.acos(up))
            yield (
                f"the trunk's z axis leans by {angle:.0f} degrees in the home pose: what is upright and what "
                "is forward in the file has to be turned by hand"
            )

    # feet

    def _geoms(self) -> dict[int, list[int]]:
        """What can touch the ground, by the bodies that move as one, of the robot alone."""
        model, found = self._model, {}
        mine = model.body_rootid[model.geom_bodyid] == model.body_rootid[self._root]
        touches = (model.geom_contype | model.geom_conaffinity) > 0
        touches[[*model.pair_geom1, *model.pair_geom2]] = True
        # where nothing collides by itself, what is for collisions is in group 3 by custom
        for chosen in (touches, model.geom_group == 3, np.ones(model.ngeom, bool)):
            for geom in np.flatnonzero(chosen & mine).tolist():
                found.setdefault(int(self._one[model.geom_bodyid[geom]]), []).append(geom)
            if found:
                return found
        raise UserError(
            f"{self._robot.name} has no geoms that could touch the ground: give its feet some"
        )

    def bottom(self, geom: int) -> float:
        """Height of a geom's lowest point."""
        model, data, shape = self._model, self.data, self._model.geom_type[geom]
        up, size = data.geom_xmat[geom].reshape(3, 3)[2], model.geom_size[geom]
        if shape == _SHAPES.mjGEOM_MESH:
            mesh = model.geom_dataid[geom]
            at, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
            below = float(-(model.mesh_vert[at : at + count] @ up).min())
        else:
            below = {
                _SHAPES.mjGEOM_SPHERE: size[0],
                _SHAPES.mjGEOM_CAPSULE: size[0] + size[1] * abs(up[2]),
                _SHAPES.mjGEOM_CYLINDER: size[1] * abs(up[2]) + size[0] * math.hypot(*up[:2]),
                _SHAPES.mjGEOM_ELLIPSOID: float(np.linalg.norm(size * up)),
                _SHAPES.mjGEOM_BOX: float(size @ np.abs(up)),
            }.get(_SHAPES(int(shape)), 0.0)
        return float(data.geom_xpos[geom, 2]) - float(below)

    def feet(self) -> dict[int, list[int]]:
        """The ends of limbs that are lowest in the pose: their geoms that are lowest there."""
        geoms = self._geoms()
        inner = {above for one in geoms for above in self._up(one)[1:]}
        bottoms = {
            one: min(map(self.bottom, mine)) for one, mine in geoms.items() if one not in inner
        }
        lowest = min(bottoms.values())
        near = 0.15 * (self.data.xpos[self._root, 2] - lowest)
        return {
            one: self.lowest_of(one)
            for one, bottom in bottoms.items()
            if bottom - lowest < max(near, 0.01)
        }

    def lowest_of(self, one: int) -> list[int]:
        """The geoms of what moves as one that are lowest, or that have a name and nearly are."""
        bottoms, names = {g: self.bottom(g) for g in self._geoms()[one]}, self._robot.names["geom"]
        over = {geom: bottom - min(bottoms.values()) for geom, bottom in bottoms.items()}
        for chosen in ({geom for geom, x in over.items() if x < near} for near in (0.005, 0.02)):
            if named := [geom for geom in chosen if names[geom]]:
                return sorted(named)
        return [geom for geom, x in over.items() if x < 0.005]

    def ends(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of hinges' and slides' ranges, by their places."""
        return self._low[joints], self._high[joints]

    def _up(self, one: int) -> list[int]:
        """What moves as one, and what it hangs on, up to the base."""
        chain = [one]
        while self._above.get(chain[-1]):
            chain.append(self._above[chain[-1]])
        return chain

    def foot_names(self) -> tuple[str, ...]:
        """Of geoms, or, where those have none, of their bodies."""
        model, names, found = self._model, self._robot.names, []
        for geoms in self.feet().values():
            named = [names["geom"][geom] for geom in geoms if names["geom"][geom]]
            found += named or {names["body"][model.geom_bodyid[geom]]: 0 for geom in geoms}
        return tuple(name for name in found if name)

    def start_m(self) -> float:
        """Height of the base with the lowest foot a millimetre over the ground."""
        model = self._model
        grounds = np.flatnonzero((model.geom_bodyid == 0) & np.isin(model.geom_type, _GROUND))
        ground = float(model.geom_pos[grounds[0], 2]) if len(grounds) else 0.0
        lowest = min(self.bottom(geom) for geoms in self.feet().values() for geom in geoms)
        return float(self.data.xpos[self._root, 2]) - lowest + ground + 0.001

    # the pose

    def stand(self) -> None:
        """Take a pose to stand in: legs bent a little, the feet level and around the centre of mass.

        Legs whose joints do not turn forward and back stay as they are.
        """
        legs = [_Leg(self, one) for one in self.feet()] if self._free else []
        if not legs or any(len(leg.pitches) < 2 for leg in legs):
            return
        folded = self.qpos.copy()
        for leg in legs:  # straight down
            leg.reach([*leg.hip[:2], leg.hip[2] - leg.length])
            if not leg.has_ankle:
                leg.look_down()
        straight = self.qpos.copy()
        shorter = 0.08 if len(legs) < 3 else 0.3  # as people and as dogs stand
        length = min(leg.length for leg in legs)
        level = max(leg.hip[2] - leg.length for leg in legs) + shorter * length
        best, least = folded, 0.05 * length
        for forward in (True, False):  # knees as people's, where both are as good
            self.qpos = straight.copy()
            for leg in legs:
                leg.bend(math.acos(1 - shorter), forward=forward)
            for _ in range(3):
                self.pose()
                middle = np.mean([leg.hip[0] for leg in legs])
                shift = self.data.subtree_com[self._root, 0] - middle
                for leg in legs:
                    leg.reach([leg.hip[0] + shift, leg.hip[1], level])
            self.pose()
            off = max(abs(leg.sole()[2] - level) for leg in legs)
            if off < least - 0.01 * length:
                best, least = self.qpos.copy(), off
        self.qpos = best
        self.pose()

    def leg(self, one: int) -> np.ndarray:
        """Places among hinges and slides of the hinges from the base to an end, in this order."""
        bodies = self._one[self._model.jnt_bodyid[self.scalars]]
        hinges = self._model.jnt_type[self.scalars] == mujoco.mjtJoint.mjJNT_HINGE
        hinges &= np.isin(bodies, self._up(one)) & (bodies != self._one[self._root])
        return np.flatnonzero(hinges)

    # motors

    def gains(self, names: Sequence[str]) -> dict[str, Gains]:
        """Of motors that the model does not describe: from masses, lengths, and limits that are sane."""
        robot, model, data = self._robot, self._model, self.data
        if not names:
            return {}
        feet = self.feet() if self._free else {}
        legs = {int(self.scalars[place]) for one in feet for place in self.leg(one)}
        mass, gravity = float(model.body_subtreemass[self._root]), 9.81
        lowest = min((self.bottom(g) for geoms in feet.values() for g in geoms), default=0.0)
        load = mass * gravity * (float(data.xpos[self._root, 2]) - lowest) / max(len(feet), 1)
        tipping = (
            mass * gravity * (float(data.subtree_com[self._root, 2]) - lowest) / max(len(feet), 1)
        )
        mine = model.body_rootid == model.body_rootid[self._root]
        reach = np.linalg.norm(data.xipos[mine] - data.xpos[self._root], axis=1).max()
        found, most = {}, _SANE * mass * gravity * float(reach)
        for name in names:
            joint = robot.id("joint", name)
            carried, slides = self._carried(joint), model.jnt_type[joint] == 2
            arms = np.linalg.norm(data.xipos[carried] - data.xanchor[joint], axis=1)
            arms = np.ones(len(carried)) if slides else arms
            masses = model.body_mass[carried]
            inertia = float(masses @ arms**2 + (model.body_inertia[carried].mean(axis=1).sum()))
            needed = 1.5 * gravity * float(masses @ arms) + 5 * inertia
            needed = 2.5 * load if joint in legs else needed
            effort, stated = needed, _effort(robot, joint)
            if stated < most:
                effort, needed = stated, min(stated, 3 * needed)
            stiffness = needed / (0.02 if slides else 0.4 if self._free else 0.1)
            if joint in legs and len(feet) <= 2:  # else it tips over its ankles
                stiffness = max(stiffness, 1.5 * tipping)
            damping = max(
                (0.6 if joint in legs else 1.4) * math.sqrt(stiffness * inertia), stiffness / 40
            )
            found[name] = Gains(*(float(f"{x:.2g}") for x in (stiffness, damping, effort)))
        return found

    def _carried(self, joint: int) -> np.ndarray:
        """The bodies that a joint moves."""
        model, first = self._model, int(self._model.jnt_bodyid[joint])
        moved = {first}
        for body in range(first + 1, model.nbody):
            if int(model.body_parentid[body]) in moved:
                moved.add(body)
        return np.array(sorted(moved))

    # what reaches

    def effector(self) -> tuple[str, str]:
        """The last body of the longest chain, or what its fingers are on; a site there, if it has one."""
        moving, names = self._joints_above(), self._robot.names
        inner = set(self._above.values())
        ends = [one for one in moving if one not in inner]
        one = max(ends, key=lambda end: moving[end])
        for above in self._up(one)[1:]:
            branches = [child for child, parent in self._above.items() if parent == above]
            if len(branches) > 1 and moving.get(above, 0) >= 3:
                one = above
                break
        for kind, bodies in (
            ("site", self._model.site_bodyid),
            ("body", np.arange(self._model.nbody)),
        ):
            here = [
                names[kind][i] for i in np.flatnonzero(self._one[bodies] == one) if names[kind][i]
            ]
            if here:
                return kind, here[0 if kind == "site" else -1]
        raise UserError(f"the last body of {self._robot.name} has no name: give it one")

    def _joints_above(self) -> dict[int, int]:
        """How many hinges and slides move what moves as one, of the robot alone."""
        model = self._model
        count = np.bincount(self._one[model.jnt_bodyid[self.scalars]], minlength=model.nbody)
        roots = model.body_rootid
        return {
            one: int(sum(count[above] for above in self._up(one)))
            for one in self._above
            if roots[one] == roots[self._root]
        }

    def workspace(self, effector: tuple[str, str]) -> np.ndarray:
        """[3, 2]: where the effector is in the middle of poses around home, in m."""
        kind, name = effector
        index, rng = self._robot.id(kind, name), np.random.default_rng(0)
        places, home = [], self.qpos.copy()
        most = np.minimum(0.6, 0.4 * (self._high - self._low))
        for _ in range(400):
            moved = home[self.at] + most * rng.uniform(-1, 1, len(most))
            self.qpos[self.at] = np.clip(moved, self._low, self._high)
            self.pose()
            places.append((self.data.site_xpos if kind == "site" else self.data.xpos)[index].copy())
        self.qpos = home
        self.pose()
        low, high = np.percentile(places, (20, 80), axis=0)
        return np.stack([low, np.maximum(high, low + 0.01)], axis=1).round(3)


class _Leg:
    """A limb that is to stand on its end.

    Args:
        body: whose, in a pose.
        one: number of the body at its end.
    """

    def __init__(self, body: _Body, one: int) -> None:
        self._body, self._one, self._joints = body, one, body.leg(one)
        data, ids = body.data, body.scalars[self._joints]
        sideways = data.xaxis[ids, 1]
        self.pitches = [
            (j, np.sign(y)) for j, y in zip(self._joints, sideways, strict=True) if abs(y) > 0.7
        ]
        self._at, self._first = body.at[self._joints], body.qpos[body.at[self._joints]].copy()
        self._rolls = 0.02 * (np.abs(sideways) <= 0.7)
        self.has_ankle = len(self._joints) >= 5
        self.look_down()
        self._level = data.geom_xmat[self._geoms[0]].reshape(3, 3)[2].copy()
        sole = self.sole()
        anchors = [data.xanchor[body.scalars[joint]] for joint, _ in self.pitches]
        steps = np.diff([*anchors, sole], axis=0)[:, [0, 2]]
        self.length = float(np.linalg.norm(steps, axis=1).sum())
        self.hip = np.array([anchors[0][0], sole[1], anchors[0][2]]) if anchors else sole

    def look_down(self) -> None:
        """Find anew which geoms are lowest."""
        self._geoms = self._body.lowest_of(self._one)

    def sole(self) -> np.ndarray:
        """[3]: the middle of the lowest points."""
        middle = self._body.data.geom_xpos[self._geoms].mean(axis=0)
        return np.array([*middle[:2], min(map(self._body.bottom, self._geoms))])

    def bend(self, angle: float, *, forward: bool) -> None:
        """Turn hip, knee and ankle of a straight leg, the knee forward or back."""
        body = self._body
        for turn, (joint, sign) in zip((-1.0, 2.0, -1.0), self.pitches, strict=False):
            body.qpos[body.at[joint]] += sign * turn * angle * (1 if forward else -1)
        body.qpos[self._at] = np.clip(body.qpos[self._at], *body.ends(self._joints))

    def reach(self, target: Sequence[float]) -> None:
        """Bring the sole to a place; a foot that an ankle turns stays as level as it was at first."""
        from scipy.optimize import least_squares

        body, (low, high) = self._body, self._body.ends(self._joints)

        def off(angles: np.ndarray) -> np.ndarray:
            body.qpos[self._at] = angles
            body.pose()
            tilt = body.data.geom_xmat[self._geoms[0]].reshape(3, 3)[2] - self._level
            away = (self.sole() - target) / self.length
            return np.concatenate(
                [away, self.has_ankle * tilt, self._rolls * (angles - self._first)]
            )

        start = np.clip(body.qpos[self._at], low, high)
        body.qpos[self._at] = np.clip(
            least_squares(off, start, bounds=(low - 1e-6, high + 1e-6)).x, low, high
        )
        body.pose()


# the file ----------------------------------------------------------------------------------------


def text_of(found: Findings, model: str, physics_s: float, file: str) -> str:
    """The source text of a task's file.

    Args:
        found: what `look` found.
        model: a Python expression for the model.
        physics_s: seconds of a substep.
        file: its name.
    """
    helpers = [*(("installed", "read_spec") if model.startswith("lambda") else ())]
    helpers += ["set_home"] if found.home else []
    words = {
        "name": found.name,
        "file": file,
        "mass": _short(float(found.robot.model.body_mass.sum())),
        "model": _wrapped(model),
        "dt": f"{physics_s:g}",
        "imports": f"from surefoot.robots.model import {', '.join(helpers)}\n" if helpers else "",
        "table": "\n".join(_table(found)),
        "constants": "\n".join(_constants(found)),
        "actuation": _actuation(found),
        "action": "an action of 1 moves a joint's target by its scale from home, rad (m of slides)"
        if found.kind == "position"
        else "actions from -1 to 1 are the controls of the model's own actuators, over their ranges",
        "kind": found.effector[0],
        "height": _height_at(found),
        "episodes": '"episode_s=10.0",' if found.free else "",
        "edit": textwrap.indent("\n".join(_edit(found)), 8 * " "),
    }
    return Template(_HEAD + (_STAND if found.free else _REACH)).substitute(words)


def _table(found: Findings) -> Iterable[str]:
    """The joints, in comments."""
    robot, model = found.robot, found.robot.model
    wide = max(len(name) for name in robot.names["joint"])
    row = f"# {{:<{wide}}}  {{:<5}}  {{:<15}}  {{:>6}}  {{:<14}}  {{}}"
    yield row.format(
        "joint", "type", "range (rad, m)", "home", "axis at home", "driven by"
    ).rstrip()
    for joint, name in enumerate(robot.names["joint"]):
        kind, limited = _TYPES[model.jnt_type[joint]], model.jnt_limited[joint]
        low, high = model.jnt_range[joint]
        scalar = kind in ("hinge", "slide")
        ends = f"{low:.2f} to {high:.2f}" if limited and scalar else "any"
        home = found.home.get(name) if found.home else None
        if home is None:
            home = float(robot.home[model.jnt_qposadr[joint]])
        axis = found.axes[joint] if scalar else ""
        at_home = f"{home + 0.0:.2f}" if scalar else ""
        drive = found.drives.get(name, "nothing of its own" if scalar else "")
        yield row.format(_line(name) or "(no name)", kind, ends, at_home, axis, drive).rstrip()
    sensors = [
        f"{_line(name)} ({mujoco.mjtSensor(int(kind)).name.removeprefix('mjSENS_').lower()})"
        for name, kind in zip(robot.names["sensor"], model.sensor_type, strict=True)
    ]
    said = ", ".join(sensors) or "none; a task may read positions and velocities without"
    yield "#"
    yield from textwrap.wrap(
        f"Sensors: {said}.",
        98,
        initial_indent="# ",
        subsequent_indent="#   ",
        break_long_words=False,
    )


def _constants(found: Findings) -> Iterable[str]:
    """What the class reads."""
    if found.free:
        yield f"TRUNK = {quoted(found.trunk)}  # the body that is to stay upright"
        yield "# guessed: what is lowest in the home pose; geoms, or bodies whose geoms touch the ground"
        yield f"FEET = {_tuple(found.feet)}"
        yield f"START_M = {found.start_m:g}  # height of the trunk, feet just on the ground"
    else:
        kind, name = found.effector
        yield f"EFFECTOR = {quoted(name)}  # the {kind} that is to reach the target, guessed: the last one"
        yield "# where targets are drawn, in m: where it gets from poses around the home pose"
        ends = ", ".join(f"({low + 0.0:g}, {high + 0.0:g})" for low, high in found.workspace)
        yield f"WORKSPACE = ({ends})"
        yield f"WIDTH_M = {_width(found):g}  # distance at which a quarter of the reward is left"
    if found.home is not None and found.home:
        yield ""
        guessed = "legs bent a little" if found.free else "zero, or the nearest that ranges allow"
        yield f"# the home pose in rad (m of slides), which the model lacks: {guessed}"
        yield f"HOME = {_dict({name: repr(x) for name, x in found.home.items()})}"
    if found.gains:
        yield ""
        yield from _gains_words(found)
        yield f"GAINS = {_dict({n: f'({g[0]:g}, {g[1]:g}, {g[2]:g})' for n, g in found.gains.items()})}"


def _gains_words(found: Findings) -> Iterable[str]:
    yield "# Nm/rad, Nms/rad, Nm of the motors, made up: replace them by the data sheet's"
    if found.free:
        yield "# the largest torque could carry 2.5 robots, unless the model has a limit that is a motor's;"
        yield "# it is there when a joint is 0.4 rad off"
    else:
        yield "# the largest torque could hold 1.5 arms, unless the model has a limit that is a motor's;"
        yield "# it is there when a joint is 0.1 rad off"


def _height_at(found: Findings) -> int:
    """The place in qpos of the trunk's height."""
    model = found.robot.model
    first = model.body_jntadr[found.robot.id("body", found.trunk)]
    return int(model.jnt_qposadr[first]) + 2 if found.free else 0


def _width(found: Findings) -> float:
    return round(float(np.linalg.norm(np.ptp(found.workspace, axis=1))) / 3, 3)


def _actuation(found: Findings) -> str:
    """The expression that says what an action means."""
    robot, model = found.robot, found.robot.model
    if found.kind == "ctrl":
        return 'Actuation(kind="ctrl")'
    driven = [n for n in robot.names["joint"] if n in found.gains or n in found.drives]
    slides = {
        name: f"{np.ptp(model.jnt_range[robot.id('joint', name)]) / 2 or 0.1:.2g}"
        for name in driven
        if model.jnt_type[robot.id("joint", name)] == 2
    }
    scale = _dict(slides | {"*": "0.5"}, 2) if slides else "0.5"
    lines = [f"scale={scale},"]
    if found.gains:
        lines += [
            f"{what}={{name: gains[{i}] for name, gains in GAINS.items()}},"
            for i, what in enumerate(Gains._fields)
        ]
        if not model.nu:
            lines.insert(0, "joints=tuple(GAINS),")
    return "\n".join(["Actuation(", *(f"        {line}" for line in lines), "    )"])


def _edit(found: Findings) -> Iterable[str]:
    """The lines that change the model."""
    if found.delete_base:
        yield f"for joint in list(spec.body({quoted(found.trunk)}).joints):  # the base is fixed"
        yield "    spec.delete(joint)"
    if found.add_base:
        yield 'spec.body(TRUNK).add_freejoint(name="base")  # without it the base is fixed'
    if bare := _bare(found.robot, found.gains):
        yield f"# the {' and '.join(bare)} of motors and gears, made up; more armature lets steps be longer"
        yield "for name, (stiffness, damping, _) in GAINS.items():"
        shares = {
            "armature": "armature = 1e-4 * stiffness",
            "damping": "damping[0] = 0.05 * damping",
        }
        yield from (f"    spec.joint(name).{shares[what]}" for what in bare)
    if found.home:
        yield f"set_home(spec, HOME{', height_m=START_M' if found.free else ''})"
    yield from _contacts(found)
    if not _has_ground(found.robot):
        yield "spec.worldbody.add_geom("
        yield '    name="floor",'
        yield "    type=mujoco.mjtGeom.mjGEOM_PLANE,"
        yield "    size=[0, 0, 1],"
        yield "    contype=1,"
        yield "    conaffinity=0,"
        yield "    rgba=[0.5, 0.5, 0.5, 1],"
        yield ")"
    if "a light" in found.lacks:
        yield "spec.worldbody.add_light(pos=[0, 0, 4], dir=[0, 0, -1])"
    yield "# pyramidal friction and few iterations: several times faster than MuJoCo's defaults"
    yield "option = spec.option"
    yield "option.cone, option.impratio = mujoco.mjtCone.mjCONE_PYRAMIDAL, 1"
    yield "option.solver = mujoco.mjtSolver.mjSOL_NEWTON"
    if found.robot.model.dof_frictionloss.any():
        yield "option.iterations, option.ls_iterations = 10, 20  # without friction loss 4, 8 would do"
    else:
        yield "option.iterations, option.ls_iterations = 4, 8"
    yield "option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST"


def _contacts(found: Findings) -> Iterable[str]:
    unnamed = "  # nor is it simulated, as nothing asks for it"
    if not found.free:
        yield "# nothing collides, which is faster: delete these lines when it is to touch things"
        yield "for geom in spec.geoms:"
        yield "    geom.contype = geom.conaffinity = 0"
        if found.is_urdf:
            yield '    geom.name = ""' + unnamed
        return
    yield "# feet touch the ground, nothing else touches anything: without the loop all does, and slowly"
    yield "for geom in spec.geoms:"
    yield "    collides = geom.contype or geom.conaffinity"
    yield '    ground = geom.parent.name == "world" and collides'
    yield "    foot = geom.name in FEET or (geom.parent.name in FEET and collides)"
    yield "    geom.contype, geom.conaffinity = int(bool(ground)), int(bool(foot))"
    yield "    if foot:"
    yield "        geom.condim, geom.priority = 3, 1"
    if found.is_urdf:
        yield "    else:"
        yield '        geom.name = ""' + unnamed


def _line(name: str) -> str:
    """A name in a comment, which it must not end."""
    return " ".join(name.split())


def _wrapped(model: str) -> str:
    """The expression for the model, in lines as long as they may be."""
    line = f"    model: Any = {model}"
    if len(line) > 100 and model.startswith("lambda: read_spec("):
        inside = model.removeprefix("lambda: read_spec(").removesuffix(")")
        return f"lambda: read_spec(\n        {inside}\n    )"
    if len(line) > 100 and len(model) <= 92:
        return f"(\n        {model}\n    )"
    return model + ("  # noqa: E501" if len(line) > 110 else "")


def quoted(text: str) -> str:
    """A string of Python."""
    return json.dumps(text, ensure_ascii=False)


def _tuple(names: Sequence[str]) -> str:
    inside = ", ".join(map(quoted, names)) + ("," if len(names) == 1 else "")
    if len(inside) < 88:
        return f"({inside})"
    return "\n".join(["(", *(f"    {quoted(name)}," for name in names), ")"])


def _dict(values: Mapping[str, str], depth: int = 0) -> str:
    pad = 4 * depth * " "
    return "\n".join(["{", *(f"{pad}    {quoted(n)}: {x}," for n, x in values.items()), f"{pad}}}"])


def _short(number: float) -> str:
    return f"{number:.3g}" if number < 1000 else f"{number:.0f}"


_HEAD = '''\
"""$name: a first task, written by `surefoot new-robot`. It is yours: change what you like.

`surefoot train $file:$name` trains it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import mujoco

from surefoot.config import Config
from surefoot.robots import Actuation, Robot, RobotTask, Start, State, terms
$imports
# The model: $mass kg.
#
$table

$constants


@dataclass(frozen=True)
class $name(RobotTask):
'''

_TRAINING = '''\
    training: ClassVar[Config] = Config(
        total_steps=500_000,  # about a minute; ten times as many are a training
        num_envs=64,
        num_steps=32,
        env_options=($episodes),
        actor_hidden=(128, 128),
        critic_hidden=(128, 128),
        activation="elu",
        initial_std=0.6,
        min_std=0.1,
        gamma=0.985,
        gae_lambda=0.95,
        learning_rate=1e-3,
        num_epochs=5,
        num_minibatches=8,
        max_grad_norm=1.0,
    )

    def edit(self, spec: mujoco.MjSpec) -> None:
        """What the model lacks, what may touch what, and a solver that is fast enough for training."""
$edit

    def reset(self, robot: Robot, key: jax.Array, level: jax.Array) -> Start:
        """The home pose, its joints a little off."""
        hinges = robot.model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE
        places = robot.model.jnt_qposadr[hinges]
        off = jax.random.uniform(key, places.shape, minval=-0.05, maxval=0.05)
'''

_STAND = (
    '''\
    """It stands upright in its home pose. Its fields are options: `--env-options upright=-2.0`.

    Attributes:
        tracking: weight of moving as the command says, in m/s; here it is to stand still.
        turning: weight of turning as the command says, in rad/s.
        upright: weight of tilting the trunk.
        height: weight of the trunk's squared distance from START_M.
        posture: weight of staying near the home pose.
        action_rate: weight of changes of the action.
    """

    model: Any = $model
    physics_dt_s: float | None = $dt  # a substep: smaller is finer and slower
    command_s: float | None = None  # to walk: 5.0, mean seconds between commands
    reward_floor: float | None = 0.0

    tracking: float = 1.0  # to walk: 2.0
    turning: float = 0.5  # to walk: 1.0
    upright: float = -5.0
    height: float = -20.0
    posture: float = 0.5  # to walk: 0.2
    action_rate: float = -0.01

    # $action
    actuation: ClassVar[Actuation] = $actuation
'''
    + _TRAINING
    + '''\
        return Start(jnp.asarray(robot.home).at[places].add(off).at[$height].set(START_M))

    def command(self, key: jax.Array, level: jax.Array) -> jax.Array:
        """[3]: forward and to the left in m/s, turning in rad/s."""
        most = jnp.array([0.0, 0.0, 0.0])  # to walk: [1.0, 0.5, 1.0]
        return most * jax.random.uniform(key, (3,), minval=-1.0)

    def observe(self, s: State) -> jax.Array:
        """What the robot senses, and the command."""
        trunk, joints = s.body(TRUNK), s.joints()
        return jnp.concatenate(
            [
                trunk.local_angular_velocity,
                trunk.gravity,
                s.command,
                joints.qpos - joints.home,
                joints.qvel,
                s.action,
            ]
        )

    def rewards(self, s: State) -> Mapping[str, Any]:
        """Terms of `surefoot.robots.terms`, by name; their sum is the reward.

        To walk, feet have to leave the ground: add a term such as `terms.gait`, as Surefoot's own Go1Walk has
        it (surefoot/robots/tasks/walking.py).
        """
        trunk, joints = s.body(TRUNK), s.joints()
        velocity, turning = trunk.local_velocity, trunk.local_angular_velocity
        return {
            "tracking": self.tracking * terms.tracking(velocity[:2], s.command[:2]),
            "turning": self.turning * terms.tracking(turning[2], s.command[2]),
            "upright": self.upright * terms.tilt(trunk.gravity),
            "height": self.height * terms.height_error(trunk.position[2], START_M),
            "posture": self.posture * terms.posture(joints.qpos, joints.home),
            "action_rate": self.action_rate * terms.action_rate(s.action, s.last_action),
        }

    def terminated(self, s: State) -> jax.Array:
        """It fell: the trunk tilts by more than 60 degrees."""
        return s.body(TRUNK).up < 0.5
'''
)

_REACH = (
    '''\
    """The effector is to reach a target. Its fields are options: `--env-options near=2.0`.

    Attributes:
        near: weight of being near the target.
        action_rate: weight of changes of the action.
    """

    model: Any = $model
    physics_dt_s: float | None = $dt  # a substep: smaller is finer and slower
    episode_s: float = 4.0

    near: float = 1.0
    action_rate: float = -0.01

    # $action
    actuation: ClassVar[Actuation] = $actuation
'''
    + _TRAINING
    + '''\
        return Start(jnp.asarray(robot.home).at[places].add(off))

    def command(self, key: jax.Array, level: jax.Array) -> jax.Array:
        """[3]: the target, in m."""
        low, high = jnp.array(WORKSPACE).T
        return jax.random.uniform(key, (3,), minval=low, maxval=high)

    def away(self, s: State) -> jax.Array:
        """[3]: from the effector to the target, in m."""
        return s.command - s.$kind(EFFECTOR).position

    def observe(self, s: State) -> jax.Array:
        """Joints, the way to the target, the last action."""
        joints = s.joints()
        return jnp.concatenate(
            [joints.qpos - joints.home, joints.qvel, self.away(s), s.action],
        )

    def rewards(self, s: State) -> Mapping[str, Any]:
        """Terms of `surefoot.robots.terms`, by name; their sum is the reward."""
        return {
            "near": self.near * terms.near(self.away(s), WIDTH_M),
            "action_rate": self.action_rate * terms.action_rate(s.action, s.last_action),
        }

    def metrics(self, s: State) -> Mapping[str, Any]:
        """How far it is; an episode that ends near is a success."""
        distance = terms.norm(self.away(s))
        return {"distance_m": distance, "success": distance < 0.3 * WIDTH_M}
'''
)
