"""`surefoot export`: a policy as ONNX, C and NumPy files, each compared with the policy itself."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from surefoot import __version__, deploy
from surefoot.agent import LoadedPolicy, load_policy
from surefoot.agent.description import to_json
from surefoot.agent.saved import DESCRIPTION, WEIGHTS
from surefoot.api import open_run, read_config
from surefoot.config import Config, parse_options
from surefoot.envs import ObservationSpec
from surefoot.envs.tasks import names_code, robot_task
from surefoot.errors import UserError
from surefoot.files import checksum, read_json, whole_folder, write_bytes, write_json
from surefoot.ship.c_file import Compiled, compiler, write_c
from surefoot.ship.card import CARD, card
from surefoot.ship.graph import Graph
from surefoot.ship.onnx_file import write_onnx
from surefoot.ship.policy_graph import policy_graph
from surefoot.terminal import say
from surefoot.training import EpisodeStatistics, play, to_key

FORMS = ("numpy", "onnx", "c")
FOLDER = "export"
TOLERANCE = 1e-5  # for numbers of the size of 1, relative for larger ones
# the most likely action is a quotient of small differences, which float32 resolves no better
TOLERANCE_OF_BETA = 1e-4
_RANDOM, _EXTREME, _RECORDED = 400, 300, 300  # observations to compare on
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
    output: Path | None = None,
    forms: Sequence[str] = FORMS,
    episodes: int = 10,
    task: Any = None,
    license: str = "",
    overwrite: bool = False,
) -> Exported:
    """Write a policy so that it runs without Surefoot, and compare each form with it.

    Args:
        run: the run folder.
        output: the folder to write; by default `export` in the run folder.
        forms: of `numpy`, `onnx` and `c`.
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
    _, config = read_config(folder)
    loaded = load_policy(folder)
    graph = policy_graph(loaded.policy)
    evaluation, recorded = _played(folder, episodes, task) if episodes else ({}, [])
    tests = [*_random(loaded), *_extreme(loaded), *recorded]
    about = {
        "format": deploy.FORMAT,
        "surefoot": __version__,
        "task": loaded.task,
        "step": read_json(folder / DESCRIPTION)["step"],
        "weights": checksum(folder / WEIGHTS),
        "observations": [
            {"name": name, **to_json(spec), "dtype": spec.dtype}
            for name, spec in loaded.observations.items()
        ],
        "action": to_json(loaded.action),
        "robot": _robot(loaded, config, task),
        "evaluation": evaluation,
        "license": license,
    }
    with whole_folder(target) as staging:
        differences = _write(staging, graph, loaded, about, forms, tests)
        if target.exists():
            shutil.rmtree(target)
    return Exported(target, differences, evaluation)


def _write(
    folder: Path,
    graph: Graph,
    loaded: LoadedPolicy,
    about: dict[str, Any],
    forms: Sequence[str],
    tests: list[dict[str, np.ndarray]],
) -> dict[str, float | None]:
    """Write every form and compare it."""
    runs: dict[str, Callable[[Mapping[str, np.ndarray]], np.ndarray] | None] = {}
    rows = tests[-_SEQUENCE:]
    loaded.reset()
    wanted = [np.asarray(loaded(row)) for row in rows]
    with tempfile.TemporaryDirectory() as scratch:
        write_json(folder / deploy.DESCRIPTION, about | {"program": graph.to_json()})
        numbers = io.BytesIO()
        arrays: dict[str, Any] = {f"c{i}": array for i, array in enumerate(graph.constants)}
        np.savez(numbers, **arrays)
        if "numpy" in forms:
            write_bytes(folder / deploy.NUMBERS, numbers.getvalue())
            runs["numpy"] = deploy.load(folder)
        if "onnx" in forms:
            write_onnx(folder / deploy.ONNX, graph, about)
            runs["onnx"] = deploy.load(folder, onnx=True)
        if "c" in forms:
            notes = [f"A policy for {about['task']}, exported by Surefoot {__version__}."]
            write_c(folder, graph, list(zip(rows, wanted, strict=True)), notes)
            runs["c"] = Compiled(folder, graph, Path(scratch)) if compiler() else None
        differences = {
            form: None if run is None else _difference(form, run, loaded, tests)
            for form, run in runs.items()
        }
        (folder / CARD).write_text(card(about, differences), encoding="utf-8")
    return differences


def _difference(
    form: str,
    run: Callable[[Mapping[str, np.ndarray]], np.ndarray],
    loaded: LoadedPolicy,
    tests: list[dict[str, np.ndarray]],
) -> float:
    """The largest difference to the policy's own actions, alone and in a sequence.

    Raises:
        ValueError: it is more than rounding.
    """
    most, kind = 0.0, loaded.policy.actor.head.kind
    tolerance = TOLERANCE_OF_BETA if kind == "beta" else TOLERANCE
    if isinstance(run, Compiled) and not run.test():
        raise UserError(f"the form {form!r} fails the test vectors that it carries")
    for number, row in enumerate(tests):
        in_sequence = number > len(tests) - _SEQUENCE
        if not in_sequence:
            loaded.reset()
            run.reset()  # pyright: ignore[reportFunctionMemberAccess]
        want, got = np.asarray(loaded(row)), np.asarray(run(row))
        if got.shape != want.shape or got.dtype != want.dtype:
            raise UserError(
                f"the form {form!r} gives {got.dtype} actions {got.shape}, the policy {want.dtype} "
                f"{want.shape}"
            )
        error = np.abs(got.astype(float) - want) / np.maximum(1.0, np.abs(want))
        most = max(most, float(np.max(error, initial=0.0)))
        if not most <= tolerance:
            raise UserError(
                f"the form {form!r} gives {got.tolist()} where the policy gives {want.tolist()}, for {row}"
            )
    return most


def _random(loaded: LoadedPolicy) -> list[dict[str, np.ndarray]]:
    """Observations around those that the policy was trained on."""
    random = np.random.default_rng(0)
    moments = loaded.policy.normalizer.moments

    def draw(name: str, spec: ObservationSpec) -> np.ndarray:
        if spec.choices:
            chosen = random.integers(0, spec.choices) + np.asarray(spec.starts)
            return chosen.reshape(spec.shape)
        mean, variance = (np.asarray(x) for x in (moments[name].mean, moments[name].variance))
        drawn = mean + 3.0 * np.sqrt(variance) * random.standard_normal(mean.shape)
        return drawn.astype(np.float32).reshape(spec.shape)

    return [
        {name: draw(name, spec) for name, spec in loaded.observations.items()}
        for _ in range(_RANDOM)
    ]


def _extreme(loaded: LoadedPolicy) -> list[dict[str, np.ndarray]]:
    """Huge numbers, and such as are none."""
    random = np.random.default_rng(1)
    odd = np.array([0.0, -0.0, 1e-30, 1e4, -1e4, 1e30, -1e30, np.inf, -np.inf, np.nan], np.float32)
    rows = _random(loaded)[:_EXTREME]
    for row in rows:
        for array in row.values():
            if array.dtype.kind == "f":
                array[random.random(array.shape) < random.random()] = random.choice(odd)
    return rows


def _played(
    run: Path, episodes: int, task: Any
) -> tuple[dict[str, Any], list[dict[str, np.ndarray]]]:
    """What the policy is worth, and observations of one environment, one after the other."""
    env, loaded, streams = open_run(run, episodes=episodes, task=task)
    tally, rows = EpisodeStatistics(), []
    try:
        for played in play(loaded.policy, env, episodes, key=to_key(streams.spawn(1)[0])):
            tally.add(played)
            seen = played.rollout.observations
            steps = min(_RECORDED - len(rows), len(played.rollout.valid))
            rows += [
                {
                    name: _raw(np.asarray(seen[name][step, 0]), spec)
                    for name, spec in loaded.observations.items()
                }
                for step in range(steps)
            ]
    finally:
        env.close()
    return tally.summary(), rows


def _raw(array: np.ndarray, spec: ObservationSpec) -> np.ndarray:
    """An observation of the contract as the environment gives it."""
    return array + np.asarray(spec.starts).reshape(spec.shape) if spec.choices else array


def _robot(loaded: LoadedPolicy, config: Config, task: Any) -> dict[str, Any] | None:
    """How actions drive the robot, where the task is one."""
    if task is None:
        if names_code(loaded.task):
            say(
                f"{loaded.task} is code of your own: with --task the export says how actions drive the robot"
            )
            return None
        task = loaded.task
    robot = robot_task(task, parse_options(config.env_options))
    if robot is None:
        return None
    from surefoot.robots.hardware import contract_of

    return contract_of(robot)
