"""A side of same_bytes.py: trains the kinds that it is told to with the Surefoot under a folder.

    PYTHONPATH=TREE/src python same_bytes_runs.py TREE

Each line it reads names a kind and a folder, each line it answers names the run folders or an error.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import same_bytes_tasks
from same_bytes_kinds import KINDS, STOP_AFTER

import surefoot


def task_of(name: str) -> Any:
    """The task's name, or the class that it names."""
    return getattr(same_bytes_tasks, name.removeprefix("own:")) if name[:4] == "own:" else name


def resumed(task: Any, run: Path, options: dict[str, Any], again: dict[str, Any]) -> Any:
    """A run that is interrupted and goes on."""
    asked = itertools.count()
    first = surefoot.train(
        task, run_dir=run, progress=False, should_stop=lambda: next(asked) >= STOP_AFTER, **options
    )
    assert not first.finished
    assert first.step > options["checkpoint_every"]
    assert list((run / "checkpoints").glob("step-*"))
    return surefoot.resume(run, progress=False, **again)


def run_kind(name: str, folder: Path) -> list[str]:
    """Train a kind into a folder; the run folders it leaves."""
    kind = KINDS[name]
    task, options, run = task_of(kind.task), kind.options, folder / "run"
    again = {"task": task} if kind.task.startswith("own:") else {}
    if kind.how == "seeds":
        results = surefoot.train_seeds(task, num_seeds=2, run_dir=run, progress=False, **options)
    elif kind.how == "resume":
        results = [resumed(task, run, options, again)]
    else:
        results = [surefoot.train(task, run_dir=run, progress=False, **options)]
    if kind.how == "further":
        more = 2 * options["total_steps"]
        results = [surefoot.resume(run, total_steps=more, progress=False, **again)]
    assert all(result.finished for result in results)
    return [str(result.run_dir) for result in results]


def check_origin(tree: Path) -> None:
    """Every module of Surefoot must have come from the tree."""
    files = [m.__file__ for name, m in sys.modules.items() if name.split(".")[0] == "surefoot"]
    away = [f for f in files if f and not Path(f).resolve().is_relative_to(tree / "src/surefoot")]
    assert files
    assert not away, f"imported {away}, not from {tree}"


def main() -> None:
    tree = Path(sys.argv[1]).resolve()
    check_origin(tree)
    # what simulators print must not come between the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer: dict[str, Any] = {"runs": run_kind(order["kind"], Path(order["folder"]))}
            check_origin(tree)
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
