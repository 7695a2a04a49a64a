"""What following a run costs: pace of training with each logger, evaluations and videos, over that without.

    python benchmarks/following.py [--rounds 30] [--settings tensorboard video ...]

All runs train at the same time, but only one of them and its helpers has the machine, three seconds each in
turn; the others are frozen (a cgroup, which takes root). So a machine whose pace changes changes it for all.
`without again` is the same run twice: how far its ratio is from 1 is what this cannot tell. Asked: within 2%
for loggers, within 5% plus their own steps for evaluations and videos. Writes
benchmarks/results/following.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import Results, spread

LOGGERS = ("tensorboard", "wandb", "mlflow", "trackio")
SETTINGS: dict[str, tuple[str, ...]] = {
    "without again": (),
    **{name: ("--log", name) for name in LOGGERS},
    "eval": ("--eval-every", "100000", "--eval-episodes", "5"),
    "video": ("--video-every", "100000"),
}
ASKED = dict.fromkeys(SETTINGS, 0.98) | {"eval": 0.95, "video": 0.95}
TURN, BLOCKS = 3.0, 5  # seconds; parts of the measurement whose spread is said
OLD, NEW = Path("/sys/fs/cgroup/freezer"), Path("/sys/fs/cgroup")


class Side:
    """A run that trains for ever, and whether it may."""

    def __init__(self, run: Path, task: str, flags: tuple[str, ...]) -> None:
        self._metrics, self._log = run / "metrics.jsonl", run.parent / f"{run.name}.log"
        name = f"surefoot-{os.getpid()}-{run.name}"
        self._group = (OLD if OLD.exists() else NEW) / name
        self._group.mkdir()
        command = [sys.executable, "-m", "surefoot", "train", task, "--total-steps", "1000000000"]
        environment = os.environ | {
            "WANDB_MODE": "offline",
            "MLFLOW_TRACKING_URI": f"sqlite:///{run.parent}/mlflow.db",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "TRACKIO_DIR": str(run.parent / "trackio"),
        }
        self._process = subprocess.Popen(
            [*command, "--run-dir", str(run), *flags],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=self._log.open("w"),
            preexec_fn=lambda: _write(self._group / "cgroup.procs", str(os.getpid())),
        )

    def run(self, may: bool) -> None:
        """Freeze all its processes, or let them go on."""
        if OLD.exists():
            _write(self._group / "freezer.state", "THAWED" if may else "FROZEN")
            while not may and (self._group / "freezer.state").read_text().strip() != "FROZEN":
                time.sleep(0.001)
        else:
            _write(self._group / "cgroup.freeze", "0" if may else "1")
            while not may and "frozen 1" not in (self._group / "cgroup.events").read_text():
                time.sleep(0.001)

    def wait_for(self, rows: int) -> None:
        """Until so many iterations are done: compiled, loggers begun."""
        while len(self.rows()) < rows:
            if self._process.poll() is not None:
                raise SystemExit(f"a side ended: {self._log.read_text()[-500:]}")
            time.sleep(0.1)

    def rows(self) -> list[dict[str, Any]]:
        """Its metrics."""
        if not self._metrics.exists():
            return []
        lines = self._metrics.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def close(self) -> None:
        """End it and its helpers."""
        self.run(True)
        for _ in range(100):
            found = (self._group / "cgroup.procs").read_text().split()
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            if not found:
                break
            time.sleep(0.05)
        self._process.wait()
        self._group.rmdir()


def _write(file: Path, text: str) -> None:
    file.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="HalfCheetah-v5")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    options = parser.parse_args()
    names = ["without", *options.settings]
    results = Results("following")
    with sides_of(names, options.task) as sides:
        paces = take_turns(sides, options.rounds)
    for name in options.settings:
        blocks = [a / b for a, b in zip(paces[name], paces["without"], strict=True)]
        ratio = sum(paces[name]) / sum(paces["without"])
        print(
            f"{name}: pace {ratio:.3f} of that without ({BLOCKS} parts: {spread(blocks, '.3f')}), "
            f"asked {ASKED[name]}"
        )
        found = {"ratio": ratio, "blocks": blocks, "asked": ASKED[name], "rounds": options.rounds}
        results.save(f"{options.task}/{name}", found)


@contextlib.contextmanager
def sides_of(names: list[str], task: str) -> Iterator[dict[str, Side]]:
    """Runs that have begun, all of them frozen."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as at_end:
        sides: dict[str, Side] = {}
        for name in names:
            run = Path(folder) / name.replace(" ", "-")
            sides[name] = Side(run, task, SETTINGS.get(name, ()))
            at_end.callback(sides[name].close)
            sides[name].wait_for(40)
            sides[name].run(False)
        yield sides


def take_turns(sides: dict[str, Side], rounds: int) -> dict[str, list[float]]:
    """Steps per second of each side's own time in each part of the rounds; evaluations' seconds left out."""
    paces: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for part in range(BLOCKS):
        before = {name: side.rows() for name, side in sides.items()}
        seconds = dict.fromkeys(sides, 0.0)
        for k in range(part * rounds // BLOCKS, (part + 1) * rounds // BLOCKS):
            for name in order[k % len(order) :] + order[: k % len(order)]:
                began = time.perf_counter()
                sides[name].run(True)
                time.sleep(TURN)
                sides[name].run(False)
                seconds[name] += time.perf_counter() - began
        for name, side in sides.items():
            rows = side.rows()
            took = [x for row in rows if (x := row.get("time/evaluation_s"))]
            count = sum(bool(row.get("time/evaluation_s")) for row in rows[len(before[name]) :])
            # the median: some were frozen in between
            own = count * statistics.median(took) if took else 0.0
            steps = rows[-1]["step"] - before[name][-1]["step"]
            paces[name].append(steps / (seconds[name] - own))
        print(", ".join(f"{name} {x[-1]:,.0f}" for name, x in paces.items()), flush=True)
    return paces


if __name__ == "__main__":
    main()
