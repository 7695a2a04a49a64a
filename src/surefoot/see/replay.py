"""A simulation that broke down, shown again substep by substep: `surefoot play FILE`."""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from surefoot.config import parse_options
from surefoot.envs.tasks import robot_task, task_name
from surefoot.errors import UserError
from surefoot.going_on import task_again
from surefoot.robots.environment import compiled
from surefoot.robots.model import Robot
from surefoot.see.stage import INTEGRATION, CommandPart, Moment, View
from surefoot.services.breakdowns import Recorded, read_breakdown

_WARNINGS = mujoco.mjtWarning
_BROKEN = {
    int(_WARNINGS.mjWARN_BADQPOS): "position",
    int(_WARNINGS.mjWARN_BADQVEL): "velocity",
    int(_WARNINGS.mjWARN_BADQACC): "acceleration",
}
_BAD_CTRL = int(_WARNINGS.mjWARN_BADCTRL)


class Replay(View):
    """What `Show` plays, from the state before a broken step on: every iteration is one substep.

    It stops where the simulation breaks down, and is there again after `reset`.

    Args:
        file: that `services.breakdowns` wrote.
        task: the task again, where it is the user's own code.

    Attributes:
        name: what is shown.
        by: who acts: nobody, the controls are those of the broken step.
        outcome: what came of it; empty before the end.

    Raises:
        ValueError: the file or task cannot be read, or they do not fit each other.
    """

    command_parts: tuple[CommandPart, ...] = ()
    command: np.ndarray | None = None
    policy_step: float | None = None

    def __init__(self, file: Path, task: Any = None) -> None:
        self._recorded: Recorded = read_breakdown(file)
        stored, options = self._recorded.task, parse_options(self._recorded.env_options)
        again = task_again(stored, task)
        robot = robot_task(again, options)
        if robot is None:
            raise UserError(f"{task_name(again)} is no robot's task, and {file} is of {stored}")
        robot = robot.practised(options)
        self.model = compiled(robot, looks=True).model
        self._robot: Robot = compiled(robot)
        self._data = mujoco.MjData(self._robot.model)
        what = self._recorded.breakdown
        sizes = len(what.state), mujoco.mj_stateSize(self._robot.model, INTEGRATION)
        if sizes[0] != sizes[1]:
            raise UserError(
                f"{file} holds a state of {sizes[0]} numbers; the model of {task_name(again)} has "
                f"{sizes[1]}: it is another model now"
            )
        self._randomize(file)
        self.name = f"{task_name(again)}, environment {what.environment}, step {what.step}"
        self.by = f"before it broke down: {what.what}"
        self.control_dt_s = self._robot.model.opt.timestep
        self.reset()

    def _randomize(self, file: Path) -> None:
        """Give the model the fields that were its own."""
        model, fields = self._robot.model, self._recorded.breakdown.model
        for name, values in fields.items():
            part, _, field = name.rpartition(".")
            own = getattr(getattr(model, part) if part else model, field, None)
            if not isinstance(own, np.ndarray) or own.shape != values.shape:
                raise UserError(f"{file}: the model has no {name} of shape {values.shape}")
            own[...] = values
        if any(name in mujoco.MjModel._setconst_inputs for name in fields):
            mujoco.mj_setConst(model, self._data)

    def reset(self) -> None:
        """Go back to before the broken step."""
        mujoco.mj_resetData(self._robot.model, self._data)
        mujoco.mj_setState(
            self._robot.model, self._data, self._recorded.breakdown.state, INTEGRATION
        )
        mujoco.mj_forward(self._robot.model, self._data)
        self._clear_warnings()
        self._substep, self.outcome = 0, ""

    def __iter__(self) -> Replay:
        """Itself."""
        return self

    def __next__(self) -> Moment:
        """One substep, unless it has ended."""
        if not self.outcome:
            self._step()
        return self._moment()

    def state(self, index: int) -> np.ndarray:
        """See `View.state`; the last state that was sound."""
        del index
        row = np.empty(len(self._recorded.breakdown.state))
        mujoco.mj_getState(self._robot.model, self._data, row, INTEGRATION)
        return row

    def hold_command(self, numbers: Sequence[float] | None) -> None:
        """There is none."""
        del numbers

    def newer(self) -> None:
        """There is no policy."""
        return

    def close(self) -> None:
        """Nothing is open."""
        return

    def _step(self) -> None:
        model, data, before = self._robot.model, self._data, self.state(0)
        self._substep += 1
        try:
            mujoco.mj_step(model, data)
            bad = self._bad()
        except mujoco.FatalError as error:
            bad = str(error)
        if bad:
            of = f"substep {self._substep} of {self._recorded.breakdown.substeps}"
            self.outcome = f"{of} breaks down: {bad}"
            mujoco.mj_setState(model, data, before, INTEGRATION)
            mujoco.mj_forward(model, data)
            self._clear_warnings()
        elif self._substep == self._recorded.breakdown.substeps:
            self.outcome = "the step went well this time: MuJoCo or the model is another than then"

    def _bad(self) -> str:
        """Which number was bad in the substep, in words; empty: none."""
        if self._data.warning[_BAD_CTRL].number:
            actuator = self._data.warning[_BAD_CTRL].lastinfo
            return (
                f"the control of actuator {self._robot.names['actuator'][actuator]!r} is no number"
            )
        for kind, what in _BROKEN.items():
            if self._data.warning[kind].number:
                return (
                    f"the {what} of {self._joint(kind, self._data.warning[kind].lastinfo)} is bad"
                )
        return ""

    def _joint(self, kind: int, place: int) -> str:
        """The joint that a place in qpos or in the others belongs to."""
        model = self._robot.model
        starts = model.jnt_qposadr if kind == _WARNINGS.mjWARN_BADQPOS else model.jnt_dofadr
        joint = int(np.searchsorted(starts, place, side="right")) - 1
        body = self._robot.names["body"][model.jnt_bodyid[joint]]
        name = self._robot.names["joint"][joint]
        return f"joint {name!r} of body {body!r}" if name else f"body {body!r}"

    def _clear_warnings(self) -> None:
        for kind in (*_BROKEN, _BAD_CTRL):
            self._data.warning[kind].number = 0

    def _moment(self) -> Moment:
        data, no, zero = self._data, np.zeros(1, bool), np.zeros(1)
        measures = {
            "substep": float(self._substep),
            "largest velocity": float(np.abs(data.qvel).max(initial=0.0)),
            "largest acceleration": float(np.abs(data.qacc).max(initial=0.0)),
            "largest actuator force": float(np.abs(data.actuator_force).max(initial=0.0)),
            "contacts": float(data.ncon),
        }
        return Moment(
            observation={},
            action=np.array(data.ctrl)[None],
            value=None,
            command=None,
            reward=zero,
            terms={},
            measures={name: np.array([x]) for name, x in measures.items()},
            terminated=no,
            truncated=no,
            valid=np.ones(1, bool),
            episode=np.ones(1, int),
            step=np.array([self._recorded.breakdown.step]),
            episode_return=zero,
        )
