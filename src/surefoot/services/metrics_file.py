"""metrics.jsonl: one JSON object an iteration, complete up to the last one whatever happens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surefoot.files import write_bytes
from surefoot.reading import read_json_lines
from surefoot.training import Hook, Run, TrainState

REPLACED = "metrics-replaced.jsonl"


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The iterations of a run, and which lines of the file are none.

    Returns:
        A mapping for each iteration, whose `step`, `iteration` and `wall_time_s` are numbers and the
        others numbers or None; and a sentence with file and line for each line that is left out.

    Raises:
        ValueError: the file cannot be read.
    """
    lines = list(read_json_lines(path, _check_row))
    return [x.value for x in lines if x.value is not None], [x.fault for x in lines if x.fault]


def _check_row(row: Mapping[str, Any]) -> None:
    for name in ("step", "iteration"):
        if type(row.get(name)) is not int or row[name] < 0:
            raise ValueError(f"its {name} is {row.get(name)!r}")
    odd = [name for name, value in row.items() if type(value) not in (int, float, type(None))]
    if odd or row.get("wall_time_s") is None:
        name = odd[0] if odd else "wall_time_s"
        raise ValueError(f"its {name} is {row.get(name)!r}, no number")


class MetricsFile(Hook):
    """Appends each iteration's metrics to a file; what a full disk refuses is kept and tried again.

    Args:
        path: the file; it must not exist yet, unless the run goes on.
        after: the step that the run goes on from; lines of later steps are put into a file beside it.
    """

    def __init__(self, path: Path, *, after: int | None = None) -> None:
        self._path, self._after = path, after
        self._file: Any = None
        self._run: Run | None = None
        self._waiting = b""

    def on_start(self, run: Run) -> None:
        """Open the file."""
        self._run = run
        if self._after is not None and self._path.exists():
            self._keep_until(self._after)
        self._file = self._path.open("xb" if self._after is None else "ab", buffering=0)

    def on_iteration(self, state: TrainState, metrics: Mapping[str, Any]) -> None:
        """Append a line."""
        self._write(json.dumps(metrics, allow_nan=False).encode() + b"\n")

    def on_end(self, state: TrainState, policy: Any, *, finished: bool) -> None:
        """Close the file."""
        assert self._run is not None
        self._write(b"")
        self._file.close()
        if self._waiting:
            lines = self._waiting.count(b"\n")
            with self._path.open("rb+") as file:  # no half a line for those who read it
                file.truncate(file.read().rfind(b"\n") + 1)
            self._run.log(f"the last {lines} line(s) of {self._path} could not be written")

    def _write(self, line: bytes) -> None:
        assert self._run is not None
        waited, self._waiting = bool(self._waiting), self._waiting + line
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            if not waited:
                self._run.log(
                    f"{self._path} cannot be written ({error.strerror}); training goes on, its "
                    "lines wait"
                )

    def _keep_until(self, step: int) -> None:
        """Put lines of later steps, and damaged ones, into a file beside; drop half a line at the end."""
        assert self._run is not None
        kept, aside, faults = [], [], []
        for line in read_json_lines(self._path, _check_row):
            if line.value is None and not line.raw.endswith(b"\n"):
                continue
            is_kept = line.value is not None and line.value["step"] <= step
            (kept if is_kept else aside).append(_whole(line.raw))
            faults += [line.fault] if line.fault else []
        if aside:
            beside = self._path.with_name(REPLACED)
            before = beside.read_bytes() if beside.exists() else b""
            write_bytes(beside, b"".join([_whole(before), *aside]))
            for fault in faults:
                self._run.log(f"{fault}; it is in {REPLACED} now")
        write_bytes(self._path, b"".join(kept))


def _whole(lines: bytes) -> bytes:
    """With the end of the line that a kill or an editor left out."""
    return lines if lines.endswith(b"\n") or not lines else lines + b"\n"
