"""Simulations that broke down, each in a file that `surefoot play FILE` shows and replays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from surefoot.envs.contract import Breakdown
from surefoot.errors import UserError
from surefoot.files import write_json
from surefoot.reading import read_json
from surefoot.training import Hook, Run, TrainState

FOLDER = "breakdowns"
_FORMAT = 1
_MOST = 10  # files that a process writes: the first ones say what is wrong


class Recorded(NamedTuple):
    """What a file holds.

    Attributes:
        task: the task's name.
        env_options: its settings, as KEY=VALUE.
        seed: of the run.
        breakdown: the simulation.
    """

    task: str
    env_options: tuple[str, ...]
    seed: int
    breakdown: Breakdown


class Breakdowns(Hook):
    """Writes the first simulations of a run that break down into `breakdowns/`; nothing is overwritten.

    Args:
        run_folder: the run folder.
    """

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder / FOLDER
        self._left, self._step = _MOST, 0
        self._run: Run | None = None

    def on_start(self, run: Run) -> None:
        """Remember the run."""
        self._run = run

    def on_iteration(self, state: TrainState, metrics: Mapping[str, Any]) -> None:
        """Remember how far it is."""
        self._step = state.step

    def on_breakdown(self, breakdown: Breakdown) -> None:
        """Write it; a file that cannot be written is said and stops nothing."""
        run = self._run
        if run is None or not self._left:
            return
        self._left -= 1
        options = tuple(run.config.env_options)
        recorded = Recorded(run.task, options, run.config.seed, breakdown)
        try:
            self._folder.mkdir(exist_ok=True)
            file = self._free(f"step-{self._step:012d}-environment-{breakdown.environment}")
            write_breakdown(file, recorded, training_step=self._step)
        except OSError as error:
            run.log(f"what broke down could not be written to {self._folder} ({error})")
        else:
            run.log(f"the simulation before it broke down: surefoot play {file}")

    def _free(self, name: str) -> Path:
        """A file that is not there yet."""
        file, number = self._folder / f"{name}.json", 1
        while file.exists():
            number += 1
            file = self._folder / f"{name}-{number}.json"
        return file


def write_breakdown(file: Path, recorded: Recorded, *, training_step: int) -> None:
    """Write a simulation as JSON, its numbers digit by digit."""
    what = recorded.breakdown
    write_json(
        file,
        {
            "format": _FORMAT,
            "kind": "breakdown",
            "task": recorded.task,
            "env_options": list(recorded.env_options),
            "seed": recorded.seed,
            "training_step": training_step,
            "what": what.what,
            "environment": what.environment,
            "step": what.step,
            "substeps": what.substeps,
            "state": _numbers(what.state),
            "model": {name: _numbers(x) for name, x in what.model.items()},
        },
    )


def read_breakdown(file: Path) -> Recorded:
    """A simulation that broke down.

    Raises:
        ValueError: the file holds none, is damaged, or is of another version.
    """
    facts = read_json(file)
    if facts.get("kind") != "breakdown":
        raise UserError(
            f"{file} holds no simulation that broke down (runs write them into {FOLDER}/)"
        )
    if facts.get("format") != _FORMAT:
        raise UserError(f"{file}: format {facts.get('format')}, this version reads {_FORMAT}")
    try:
        counts = [facts[name] for name in ("environment", "step", "substeps", "seed")]
        if any(type(count) is not int or count < 0 for count in counts):
            raise ValueError(f"{counts} are not counts")
        environment, step, substeps, seed = counts
        model = {str(name): _array(x) for name, x in dict(facts["model"]).items()}
        state = _array(facts["state"])
        what = Breakdown(str(facts["what"]), environment, step, substeps, state, model)
        return Recorded(str(facts["task"]), tuple(map(str, facts["env_options"])), seed, what)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is damaged: {error!r}") from None


def _numbers(array: np.ndarray) -> Any:
    """Nested lists; JSON knows no number that is not finite, a text stands for it."""

    def put(value: Any) -> Any:
        if isinstance(value, list):
            return [put(item) for item in value]
        return value if math.isfinite(value) else str(value)

    return put(np.asarray(array, np.float64).tolist())


def _array(value: Any) -> np.ndarray:
    """What `_numbers` wrote."""

    def read(item: Any) -> Any:
        return [read(part) for part in item] if isinstance(item, list) else float(item)

    return np.asarray(read(value), np.float64)
