"""`surefoot export`: a policy as ONNX, C and NumPy files, each compared with the policy itself."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from surefoot import __version__, deploy
from surefoot.agent import LoadedPolicy, load_policy
from surefoot.agent.saved import DESCRIPTION, WEIGHTS
from surefoot.api import best_folder
from surefoot.config import Config, parse_options
from surefoot.envs.tasks import names_code, robot_task
from surefoot.errors import UserError
from surefoot.files import checksum, whole_folder, write_bytes, write_json, write_text
from surefoot.reading import read_json
from surefoot.robots import RobotTask
from surefoot.robots.hardware import contract_of
from surefoot.services.run_folder import read_config
from surefoot.ship import subjects
from surefoot.ship.c_file import Compiled, c_files, compiler
from surefoot.ship.card import CARD, card
from surefoot.ship.onnx_file import onnx_model
from surefoot.ship.subjects import Acts, Subject
from surefoot.terminal import say

FORMS = ("numpy", "onnx", "c")
FOLDER = "export"
TOLERANCE = 1e-5  # for numbers of the size of 1, relative for larger ones
# the most likely action is a quotient of small differences, which float32 resolves no better
TOLERANCE_OF_BETA = 1e-4
_SEQUENCE = 32  # steps to compare on one after the other


class Exported(NamedTuple):
    """What was written.

    Attributes:
        folder: where it is.
        differences: largest difference to the policy's own actions, by form; None where a form could not be
            tried here.
        evaluation: of the policy, as `surefoot.evaluate` gives it; empty where none was asked for.
    """

    folder: Path
    differences: Mapping[str, float | None]
    evaluation: Mapping[str, Any]


def export(
    run: str | Path,
    *,
    best: bool = False,
    output: Path | None = None,
    forms: Sequence[str] = FORMS,
    from_state: bool = False,
    episodes: int = 10,
    task: Any = None,
    license: str = "",
    overwrite: bool = False,
) -> Exported:
    """Write a policy so that it runs without Surefoot, and compare each form with it.

    Args:
        run: the run folder.
        best: write the best policy of the run, not its last one; see `surefoot.api.best_folder`.
        output: the folder to write; by default `export` in the run folder.
        forms: of `numpy`, `onnx` and `c`.
        from_state: of a robot: from what it measures to the controls of its actuators, the task's own
            observations and control included.
        episodes: to play for the scores in the model card, and for observations to compare on; 0: none.
        task: the task; needed where the run was on the user's own code.
        license: of the policy, for the model card.
        overwrite: whether an export that is there is replaced.

    Raises:
        ValueError: the policy cannot be exported, a package is missing, a form gives other actions (nothing
            is written then), or the folder is there.
    """
    folder = Path(run)
    target = folder / FOLDER if output is None else output
    if odd := sorted(set(forms) - set(FORMS)):
        raise UserError(f"unknown form {odd[0]!r}; known: {', '.join(FORMS)}")
    if target.exists() and not overwrite:
        raise UserError(f"{target} is there already: choose another --output, or --overwrite it")
    folder = best_folder(folder) if best else folder
    _, config = read_config(folder)
    loaded = load_policy(folder)
    robot = _robot(loaded, config, task)
    if not from_state:
        subject = subjects.from_observations(folder, loaded, episodes, task)
    elif robot is not None:
        subject = subjects.from_state(folder, loaded, episodes, task, robot)
    else:
        raise UserError(
            f"--from-state exports a robot with its task, and {loaded.task} is none; with your own code say "
            "--task FILE.py:NAME"
        )
    about = {
        "format": deploy.FORMAT,
        "surefoot": __version__,
        "task": loaded.task,
        "step": read_json(folder / DESCRIPTION)["step"],
        "weights": checksum(folder / WEIGHTS),
        "observations": subject.reads,
        "action": subject.action,
        "robot": None if robot is None else contract_of(robot),
        "evaluation": subject.evaluation,
        "license": license,
    }
    with whole_folder(target) as staging:
        differences = _write(staging, subject, about, forms, _tolerance(loaded))
        if target.exists():
            shutil.rmtree(target)
    return Exported(target, differences, subject.evaluation)


def _write(
    folder: Path, subject: Subject, about: dict[str, Any], forms: Sequence[str], tolerance: float
) -> dict[str, float | None]:
    """Write every form and compare it."""
    graph, runs = subject.graph, dict[str, Acts | None]()
    if "numpy" in forms:
        write_bytes(folder / deploy.NUMBERS, _packed(graph.constants))
    if "onnx" in forms:
        write_bytes(folder / deploy.ONNX, onnx_model(graph, about))
    if "c" in forms:
        subject.act.reset()
        tests = [(row, subject.act(row)) for row in subject.rows[-_SEQUENCE:]]
        notes = [f"A policy for {about['task']}, exported by Surefoot {__version__}."]
        for name, text in c_files(graph, tests, notes).items():
            write_text(folder / name, text)
    files = {file.name: checksum(file)["sha256"] for file in sorted(folder.iterdir())}
    write_json(folder / deploy.DESCRIPTION, about | {"files": files, "program": graph.to_json()})
    with tempfile.TemporaryDirectory() as scratch:
        if "numpy" in forms:
            runs["numpy"] = deploy.load(folder)
        if "onnx" in forms:
            runs["onnx"] = deploy.load(folder, onnx=True)
        if "c" in forms:
            runs["c"] = Compiled(folder, graph, Path(scratch)) if compiler() else None
        differences = {
            form: None if run is None else _difference(form, run, subject, tolerance)
            for form, run in runs.items()
        }
    write_text(folder / CARD, card(about, differences))
    return differences


def _packed(arrays: Sequence[np.ndarray]) -> bytes:
    """Arrays as policy.npz holds them."""
    named: dict[str, Any] = {f"c{i}": array for i, array in enumerate(arrays)}
    file = io.BytesIO()
    np.savez(file, **named)
    return file.getvalue()


def _difference(form: str, run: Acts, subject: Subject, tolerance: float) -> float:
    """The largest difference to the policy's own actions, alone and in a sequence.

    Raises:
        ValueError: it is more than rounding.
    """
    most = 0.0
    if isinstance(run, Compiled) and not run.test():
        raise UserError(f"the form {form!r} fails the test vectors that it carries")
    for number, row in enumerate(subject.rows):
        if number <= len(subject.rows) - _SEQUENCE:
            subject.act.reset()
            run.reset()
        want, got = subject.act(row), run(row)
        if got.shape != want.shape or got.dtype != want.dtype:
            raise UserError(
                f"the form {form!r} gives {got.dtype} actions {got.shape}, the policy {want.dtype} "
                f"{want.shape}"
            )
        with np.errstate(invalid="ignore"):
            error = np.abs(got.astype(float) - want) / np.maximum(1.0, np.abs(want))
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        most = max(most, float(np.max(np.where(same, 0.0, error), initial=0.0)))
        if not most <= tolerance:
            raise UserError(
                f"the form {form!r} gives {got.tolist()} where the policy gives {want.tolist()}, for {row}"
            )
    return most


def _tolerance(loaded: LoadedPolicy) -> float:
    return TOLERANCE_OF_BETA if loaded.policy.actor.head.kind == "beta" else TOLERANCE


def _robot(loaded: LoadedPolicy, config: Config, task: Any) -> RobotTask | None:
    """The robot's task, where it is one."""
    if task is None:
        if names_code(loaded.task):
            say(
                f"{loaded.task} is code of your own: with --task the export says how actions drive it"
            )
            return None
        task = loaded.task
    return robot_task(task, parse_options(config.env_options))
