"""A task for a robot: a frozen dataclass whose fields are its options and whose methods say what it is.

Every method but `edit` is a pure function of *one* environment, written with jax.numpy; they are mapped over
all environments and compiled around the physics. A method whose name is not overridden costs nothing.
"""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
from mujoco.batch import Batch

from surefoot.config import Config
from surefoot.errors import UserError
from surefoot.robots.actuation import Actuation
from surefoot.robots.checks import method_of, refuse
from surefoot.robots.model import ModelSource, Robot, read_spec
from surefoot.robots.sensing import Sensing
from surefoot.robots.state import State
from surefoot.robots.symmetry import Mirror


class Start(NamedTuple):
    """Where an episode begins; what is left out is the home pose, at rest.

    Attributes:
        qpos: positions [nq].
        qvel: velocities [nv].
        ctrl: controls [nu] until the first action.
        act: activations [na] of actuators that have some; left out: the home keyframe's if it has any other
            than 0, else what filters and muscles come to under these controls.
        carry: what the task remembers at first; any arrays.
    """

    qpos: Any = None
    qvel: Any = None
    ctrl: Any = None
    carry: Any = ()
    act: Any = None


@dataclass(frozen=True)
class RobotTask:
    """What a robot is to do. Subclass it, as a frozen dataclass, and override what the task needs.

    Attributes:
        model: an MJCF or URDF file (a relative path is looked for beside the task's own file first), a
            `mujoco.MjSpec`, or a function that returns one.
        control_dt_s: seconds between actions.
        physics_dt_s: seconds of a physics substep; none: as the model says.
        episode_s: seconds after which an episode is truncated.
        stagger: whether the first episodes of a training begin at random ages, so that they do not all end
            together (arXiv 2511.21011); a resumed one goes on where they were.
        command_s: mean seconds between commands, which are redrawn at random times; none: one an episode.
        reward_floor: the reward of a step is at least this; none: no floor.
        actuation: what an action means.
        sensing: how observation groups are measured, by name; a group that is left out shows the truth.
        float64: whether the task's functions calculate in 64 bits.
        practice: fields that are others in training, such as shorter episodes; those that a user sets stay.
        training: options of training that suit the task, which become the defaults for it.
        command_names: names and units of the command's numbers, in order, for people who look at the task.
        mirror: what is left and right of the robot, where both sides are alike; none: not known.
        stale: whether what follows from positions and velocities may be one substep old, as in
            Gymnasium's tasks, and cost nothing.
        engine: what steps the physics, made of the model, how many copies, and how many threads.
    """

    model: ModelSource = ""
    control_dt_s: float = 0.02
    physics_dt_s: float | None = None
    episode_s: float = 20.0
    stagger: bool = True
    command_s: float | None = None
    reward_floor: float | None = None

    actuation: ClassVar[Actuation] = Actuation()
    sensing: ClassVar[Mapping[str, Sensing]] = {}
    float64: ClassVar[bool] = False
    stale: ClassVar[bool] = False
    engine: ClassVar[type[Batch]] = Batch
    command_names: ClassVar[tuple[str, ...]] = ()
    mirror: ClassVar[Mirror | None] = None
    training: ClassVar[Config] = Config()
    practice: ClassVar[Mapping[str, Any]] = {}

    @property
    def name(self) -> str:
        """For messages."""
        return type(self).__name__

    def edit(self, spec: mujoco.MjSpec) -> None:
        """Change the model before it is compiled: what collides, the solver, sensors, terrain."""

    def reset(self, robot: Robot, key: jax.Array, level: jax.Array) -> Start:
        """Where an episode begins: the home pose, at rest.

        Args:
            robot: the model and its names.
            key: random key.
            level: of the curriculum, float, from 0 on.
        """
        return Start()

    def command(self, key: jax.Array, level: jax.Array) -> Any:
        """What is asked of the robot, any arrays; drawn at the start and every `command_s` in the mean."""
        return ()

    def control(self, s: State, action: jax.Array) -> jax.Array:
        """An action [A] after it was heard, as another [A] that `actuation` turns into controls."""
        return action

    def remember(self, s: State) -> Any:
        """The carry after a step, of the shapes that `reset` gave it."""
        return s.carry

    def observe(self, s: State) -> Any:
        """Observation groups by name, or one array."""
        raise NotImplementedError(f"{self.name} needs a method observe(self, s)")

    def rewards(self, s: State) -> Mapping[str, Any]:
        """The terms of the reward of the step that led here, by name; the reward is their sum."""
        raise NotImplementedError(f"{self.name} needs a method rewards(self, s)")

    def terminated(self, s: State) -> Any:
        """Whether the episode ends here for good."""
        return jnp.asarray(False)

    def metrics(self, s: State) -> Mapping[str, Any]:
        """Numbers worth logging that are no rewards; `success` is counted where an episode ends."""
        return {}

    def events(self, s: State, key: jax.Array) -> Mapping[str, Any]:
        """What happens to the robot before the next step: new values of state fields, such as `qvel`."""
        return {}

    def randomize(self, robot: Robot, key: jax.Array) -> Mapping[str, Any]:
        """The model of this episode: new values of MuJoCo's model fields, such as `geom_friction`."""
        return {}

    def next_level(self, s: State) -> Any:
        """The curriculum's level after an episode that ends here."""
        return s.level

    def mirrored(self, s: State) -> Mapping[str, Any]:
        """What becomes of `command`, `carry` and `time_s` in the mirror, where they change."""
        return {}

    def reflect(self, s: State) -> Any:
        """Whether the policy sees, and acts in, the mirror image now; needs `mirror`."""
        return jnp.asarray(False)

    def replace(self, **changes: Any) -> RobotTask:
        """The same task with other options."""
        return dataclasses.replace(self, **changes)

    def practised(self, given: Iterable[str]) -> RobotTask:
        """The task as training has it: with `practice`, but for fields `given` or set otherwise."""
        kind = next(kind for kind in type(self).__mro__ if "practice" in vars(kind))
        defaults = {field.name: field.default for field in dataclasses.fields(kind)}
        changes = {
            name: value
            for name, value in self.practice.items()
            if name not in given and getattr(self, name) == defaults[name]
        }
        return self.replace(**changes)

    def overrides(self, method: str) -> bool:
        """Whether the task has a method of its own."""
        return getattr(type(self), method) is not getattr(RobotTask, method)


def edited_spec(task: RobotTask) -> mujoco.MjSpec:
    """A task's model, read and edited by the task, all of its looks still there.

    Raises:
        ValueError: there is no such model, or the task cannot edit it.
    """
    beside: list[Path] = []
    for kind in itertools.takewhile(lambda kind: kind is not RobotTask, type(task).__mro__):
        with contextlib.suppress(OSError, TypeError):  # made where there is no file
            beside.append(Path(inspect.getfile(kind)).resolve().parent)
    try:
        spec = read_spec(task.model, [*dict.fromkeys(beside)])
    except UserError:
        raise
    except Exception as error:
        raise refuse(f"{task.name}.model", error) from error
    if task.physics_dt_s is not None:
        spec.option.timestep = task.physics_dt_s
    task.actuation.prepare(spec, task.name)
    try:
        edited: Any = task.edit(spec)
    except Exception as error:
        raise refuse(f"{task.name}.edit()", error) from error
    if edited is not None and edited is not spec:
        raise UserError(
            f"{method_of(task, 'edit')} returns something: it is to change `spec` itself"
        )
    if task.physics_dt_s is not None:  # an option comes before what the edit says
        spec.option.timestep = task.physics_dt_s
    return spec
