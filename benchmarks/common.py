"""What the benchmarks share: a run in a process of its own, spreads, result files."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
OURS = Path(sys.executable)
PEERS = ROOT / ".bench-venv/bin/python"


def run_side(
    python: Path, side: Sequence[str], arguments: Iterable[str], tree: Path = ROOT
) -> dict[str, Any]:
    """One run of a script under `sides/` in its own process: what it prints last, or its error."""
    command = [str(python), str(tree / "benchmarks/sides" / side[0]), *side[1:], *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env_of(tree))
    except OSError as error:
        return {"error": f"{python}: {error.strerror}; `make bench` installs the peers"}
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr else "no output"}
    result = json.loads(done.stdout.strip().splitlines()[-1])
    return result | {"rate": result["steps"] / result["seconds"]}


def env_of(tree: Path) -> dict[str, str]:
    """Environment variables of a process that imports the Surefoot of a checkout."""
    return os.environ | {"PYTHONPATH": str(tree / "src")}


@contextlib.contextmanager
def checkout(revision: str, folder: Path) -> Iterator[Path]:
    """A git worktree of a commit, removed at the end."""
    git("worktree", "add", "--quiet", "--detach", str(folder), revision)
    try:
        yield folder
    finally:
        git("worktree", "remove", "--force", str(folder))


def git(*arguments: str) -> str:
    """Standard output of git, or the end of the script with what git says."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    return done.stdout.strip()


def surefoot(*arguments: str) -> str:
    """The command in a process of its own; its standard output."""
    command = [sys.executable, "-m", "surefoot", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def spread(values: Iterable[float], form: str) -> str:
    """Median and range."""
    values = list(values)
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]"


def machine() -> dict[str, Any]:
    """Where a result was measured."""
    return {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}


class Results:
    """A file under `results/`, written case by case; cases that are not run again stay."""

    def __init__(self, name: str) -> None:
        self.file = HERE / "results" / f"{name}.json"
        self.cases: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}

    def save(self, case: str, result: dict[str, Any]) -> None:
        """Keep a case."""
        self.cases[case] = machine() | result
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text(json.dumps(self.cases, indent=2) + "\n")
