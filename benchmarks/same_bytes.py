"""Whether a change left learning as it was: trains a commit and this checkout, and compares bytes.

    python benchmarks/same_bytes.py main
    python benchmarks/same_bytes.py main --kinds hopper trpo

Compared are every row of metrics.jsonl, times left out, and the arrays of policy.safetensors, of each
kind under sides/same_bytes_kinds.py (`--list`), resumed runs as they end. A number is the same if its
digits are. Metrics that the commit does not have are named and are no difference; those that it alone has
are one. Arrays are told apart by their names where both sides have the same names, else by what they hold.
Seconds are those of the commit and of this checkout. The exit code is 1 if anything differs.

Most of the time is compilation: a folder in JAX_COMPILATION_CACHE_DIR keeps what was compiled for the next
call (else it is kept until the end of this one). What only a clock decides, as exact_resume = "auto" does,
cannot be compared. A critic is not in a policy file: what it learned shows in the metrics that follow.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
from common import HERE, ROOT, checkout, env_of
from sides.same_bytes_kinds import KINDS

PATIENCE = 300.0  # seconds; a run that takes longer hangs
ERROR_LINES = 20  # of what a side that failed said last
TIMES = ("wall_time_s", "time/")
Row = Mapping[str, Any]
Array = tuple[str, tuple[int, ...], bytes]  # dtype, shape, content


class Outcome(NamedTuple):
    """What a side made of a kind: its run folders, or an error."""

    runs: Sequence[Path]
    error: str
    seconds: float


class Side:
    """A process that trains with the Surefoot under a tree, one kind after the other.

    One that dies or hangs is started anew for the next kind.

    Args:
        name: for messages.
        tree: a checkout.
        folder: where its runs go.
        programs: where JAX keeps what it compiled. Both sides may share it, since a program is found
            there by all that it computes.
    """

    def __init__(self, name: str, tree: Path, folder: Path, programs: Path) -> None:
        self.name, self._tree, self._folder = name, tree, folder
        self._env = {
            "JAX_COMPILATION_CACHE_DIR": str(programs),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
            **env_of(tree),
        }
        self._process: subprocess.Popen[str] | None = None
        folder.mkdir()
        self._said = folder / "stderr.txt"

    def run(self, kind: str) -> Outcome:
        """Train a kind."""
        began = time.perf_counter()
        folder = self._folder / kind
        folder.mkdir()
        process = self._process = self._process or self._start()
        assert process.stdin
        assert process.stdout
        hangs = threading.Timer(PATIENCE, process.kill)
        hangs.start()
        try:
            process.stdin.write(json.dumps({"kind": kind, "folder": str(folder)}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            hangs.cancel()
        seconds = time.perf_counter() - began
        if line:
            answer = json.loads(line)
            runs = [Path(run) for run in answer.get("runs", ())]
            return Outcome(runs, answer.get("error", ""), seconds)
        self.close()
        error = f"{self._said.read_text(errors='replace')}\nended with {process.returncode}"
        return Outcome((), error, seconds)

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin
        assert process.stdout
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, str(HERE / "sides/same_bytes_runs.py"), str(self._tree)]
        with self._said.open("w") as said:
            return subprocess.Popen(
                command,
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )


def read_rows(file: Path) -> list[Row]:
    """Rows without times; numbers are left as they are written."""
    rows = [
        json.loads(line, parse_float=str, parse_int=str, parse_constant=str)
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    return [{name: x for name, x in row.items() if not name.startswith(TIMES)} for row in rows]


def compare_rows(base: Sequence[Row], ours: Sequence[Row]) -> tuple[list[str], list[str]]:
    """What differs, the first number of it in full; and the names of metrics that are new."""
    names, our_names = (
        list(dict.fromkeys(n for row in rows for n in row)) for rows in (base, ours)
    )
    differences = []
    for number, (row, our_row) in enumerate(zip(base, ours, strict=False), start=1):
        absent = "absent"
        pairs = {n: (row.get(n, absent), our_row.get(n, absent)) for n in names if n in our_names}
        differing = [name for name, (old, new) in pairs.items() if old != new]
        if differing:
            old, new = pairs[differing[0]]
            others = f" (and {len(differing) - 1} more in this row)" if differing[1:] else ""
            where = f"row {number} of {len(base)}"
            differences.append(f"{differing[0]}, {where}: {old} became {new}{others}")
            break
    if len(base) != len(ours):
        differences.append(f"{len(base)} rows became {len(ours)}")
    missing = [name for name in names if name not in our_names]
    if missing:
        differences.append(f"missing metrics: {', '.join(missing)}")
    return differences, [name for name in our_names if name not in names]


def read_arrays(file: Path) -> dict[str, Array]:
    """The arrays of a policy."""
    found = sorted(safetensors.deserialize(file.read_bytes()), key=lambda item: item[0])
    return {name: (x["dtype"], tuple(x["shape"]), bytes(x["data"])) for name, x in found}


def compare_arrays(base: Mapping[str, Array], ours: Mapping[str, Array]) -> list[str]:
    """What differs, the first array of it by name."""
    if base.keys() == ours.keys():
        changed = [name for name, array in base.items() if array != ours[name]]
    else:
        left, changed = Counter(ours.values()), []
        for name, array in base.items():
            if left[array]:
                left[array] -= 1
            else:
                changed.append(name)
    differences = []
    if changed:
        dtype, shape, _ = base[changed[0]]
        others = f" and {len(changed) - 1} more of {len(base)}" if changed[1:] else ""
        differences.append(f"array {changed[0]} ({dtype} {list(shape)}){others}")
    if len(base) != len(ours):
        differences.append(f"{len(base)} arrays became {len(ours)}")
    return differences


def compare(base: Outcome, ours: Outcome, sides: Sequence[Side]) -> tuple[list[str], list[str]]:
    """What differs between the runs of a kind, and new names."""
    errors = [
        f"{side.name} failed: {outcome.error.strip().splitlines()[-1]}"
        for side, outcome in zip(sides, (base, ours), strict=True)
        if outcome.error
    ]
    if errors:
        return errors, []
    if len(base.runs) != len(ours.runs):
        return [f"{len(base.runs)} run folders became {len(ours.runs)}"], []
    differences, new = [], []
    for pair in zip(base.runs, ours.runs, strict=True):
        try:
            rows = [read_rows(run / "metrics.jsonl") for run in pair]
            arrays = [read_arrays(run / "policy.safetensors") for run in pair]
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            return [f"cannot be read: {error}"], []
        of_rows, names = compare_rows(*rows)
        where = f"{pair[0].name}: " if len(base.runs) > 1 else ""
        differences += [where + text for text in (*of_rows, *compare_arrays(*arrays))]
        new += [name for name in names if name not in new]
    return differences, new


def train_both(kinds: Sequence[str], sides: Sequence[Side]) -> int:
    """Train the kinds on both sides, print a line for each; how many are the same."""
    same = 0
    for kind in kinds:
        base, ours = (side.run(kind) for side in sides)
        differences, new = compare(base, ours, sides)
        same += not differences
        notes = [*differences, f"new metrics: {', '.join(new)}"] if new else differences
        seconds = f"{base.seconds:5.1f} {ours.seconds:5.1f} s"
        word = "DIFFERENT" if differences else "same"
        print(f"{word:<9} {kind:<20} {seconds}  {'; '.join(notes)}".rstrip(), flush=True)
        for side, outcome in zip(sides, (base, ours), strict=True):
            if outcome.error:
                last = outcome.error.strip().splitlines()[-ERROR_LINES:]
                print("    " + "\n    ".join([f"{side.name}:", *last]), flush=True)
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", nargs="?", metavar="BASE", help="commit to compare with")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="NAME")
    parser.add_argument("--list", action="store_true", help="print the kinds")
    parser.add_argument("--against", metavar="REV", help="this commit instead of the checkout")
    options = parser.parse_args()
    if options.list:
        for kind in KINDS.values():
            how = "" if kind.how == "train" else f" ({kind.how})"
            print(f"{kind.name:<20} {kind.task}{how}")
        return 0
    if options.base is None:
        parser.error("which commit? e.g. main, or HEAD for what is not committed yet")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the worktree is removed
    began = time.perf_counter()
    with (
        tempfile.TemporaryDirectory(prefix="same-bytes-") as name,
        contextlib.ExitStack() as at_end,
    ):
        folder = Path(name).resolve()
        trees = {
            f"commit {options.base}": at_end.enter_context(checkout(options.base, folder / "base"))
        }
        if options.against is None:
            trees["this checkout"] = ROOT
        else:
            other = at_end.enter_context(checkout(options.against, folder / "against"))
            trees[f"commit {options.against}"] = other
        sides = [
            at_end.enter_context(
                contextlib.closing(Side(label, tree, folder / f"runs{k}", folder / "programs"))
            )
            for k, (label, tree) in enumerate(trees.items())
        ]
        same = train_both(options.kinds, sides)
    seconds = time.perf_counter() - began
    print(f"{same} of {len(options.kinds)} kinds are the same ({seconds:.0f} s)")
    return 0 if same == len(options.kinds) else 1


if __name__ == "__main__":
    raise SystemExit(main())
