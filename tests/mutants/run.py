"""Put each bug back into a copy of the source, run the tests that are to find it, and count.

    python -m tests.mutants.run [catalogue] [functional] [--only TEXT] [--processes N]

`catalogue` are the known bugs of catalogue.py. `functional` changes every operator, comparison, number
and selection in surefoot/functional, one at a time (operators.py), and prints the score and the
survivors; those of explained.toml are known to change nothing that could be noticed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from tests.mutants.catalogue import CATALOGUE
from tests.mutants.operators import mutations

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/surefoot"
PATIENCE = 600.0  # seconds; a mutant that takes longer is found, too
EXPLAINED = Path(__file__).with_name("explained.toml")


class Job(NamedTuple):
    """A mutant to try: its name, the file, the file's new text, and the tests."""

    name: str
    file: str
    text: str
    tests: tuple[str, ...]


def of_catalogue() -> Iterator[Job]:
    """The known bugs."""
    for mutant in CATALOGUE:
        text = (SOURCE / mutant.file).read_text(encoding="utf-8")
        assert text.count(mutant.old) == 1, f"{mutant.name}: {mutant.old!r} is not there once"
        changed = text.replace(mutant.old, mutant.new)
        yield Job(f"{mutant.line}: {mutant.name}", mutant.file, changed, mutant.tests)


def of_functional() -> Iterator[Job]:
    """Every small change of the mathematics, each to be found by the tests of its module."""
    for path in sorted((SOURCE / "functional").glob("*.py")):
        tests = (
            ("tests/functional",)
            if path.stem in ("masking", "__init__")
            else (f"tests/functional/test_{path.stem}.py",)
        )
        for where, text in mutations(path.read_text(encoding="utf-8")):
            yield Job(f"{path.stem}.py:{where}", f"functional/{path.name}", text, tests)


def is_found(job: Job, shared: Path) -> bool:
    """Whether the tests fail on it."""
    return failure(job, shared) is not None


def failure(job: Job, shared: Path) -> str | None:
    """What the tests print if they fail on it."""
    # the tests keep compiled programs beside their folder: all mutants share those that stay the same
    with tempfile.TemporaryDirectory(prefix="mutant-", dir=shared) as folder:
        copy = Path(folder) / "surefoot"
        shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / job.file).write_text(job.text, encoding="utf-8")
        path = os.pathsep.join([folder, str(ROOT)])
        command = [
            *(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"),
            *("-m", "not slow", "--basetemp", f"{folder}-made", *job.tests),
        ]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"not done after {PATIENCE:.0f} s"
    shutil.rmtree(f"{folder}-made", ignore_errors=True)
    # passed, failed, could not even be imported; below 0 it was ended by a signal, memory exhausted
    if done.returncode > 2:
        raise RuntimeError(f"{job.name}: pytest ended with {done.returncode}\n{done.stdout}")
    return (done.stdout or f"ended with {done.returncode}") if done.returncode else None


def try_all(jobs: Iterable[Job], processes: int, shared: Path) -> list[str]:
    """The names of those that no test finds."""
    jobs = list(jobs)
    print(f"{len(jobs)} mutants", flush=True)
    began = time.monotonic()
    survivors = []
    with ThreadPoolExecutor(processes) as pool:
        for number, (job, found) in enumerate(
            zip(jobs, pool.map(is_found, jobs, repeat(shared)), strict=True), start=1
        ):
            if not found:
                survivors.append(job.name)
            word = "found" if found else "SURVIVED"
            print(f"[{number}/{len(jobs)}] {word}: {job.name}", flush=True)
    print(f"{time.monotonic() - began:.0f} s", flush=True)
    return survivors


def main() -> int:
    """0 if every mutant was found, but for those that are explained."""
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = ("catalogue", "functional")
    parser.add_argument("which", nargs="*", choices=kinds, default=list(kinds))
    parser.add_argument("--only", default="", help="those whose name holds this text")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutants-") as shared:
        return report(asked.which, asked.only, asked.processes, Path(shared))


def report(asked: list[str], only: str, processes: int, shared: Path) -> int:
    """Try them, say what was found; `shared` is a folder for all of them."""
    unmutated = Job(
        "unchanged", "config.py", (SOURCE / "config.py").read_text(), ("tests/functional",)
    )
    if said := failure(unmutated, shared):
        print(f"the tests fail on the source as it is:\n{said}")
        return 1
    explained = tomllib.loads(EXPLAINED.read_text(encoding="utf-8"))
    unexplained: list[str] = []
    for which in asked:
        jobs = of_catalogue() if which == "catalogue" else of_functional()
        jobs = [job for job in jobs if only in job.name]
        survivors = try_all(jobs, processes, shared)
        known = [name for name in survivors if without_line(name) in explained]
        new = [name for name in survivors if without_line(name) not in explained]
        found = len(jobs) - len(survivors)
        print(
            f"{which}: {found} of {len(jobs)} found ({found / max(len(jobs), 1):.1%}); "
            f"{len(known)} survive and are explained, {len(new)} are not",
            flush=True,
        )
        for name in new:
            print(f"  survived: {name}")
        unexplained += new
    return 1 if unexplained else 0


def without_line(name: str) -> str:
    """A mutant's name without the line number, which moves with every edit."""
    head, _, rest = name.partition(":")
    return f"{head}: {rest.partition(':')[2].strip()}"


if __name__ == "__main__":
    raise SystemExit(main())
