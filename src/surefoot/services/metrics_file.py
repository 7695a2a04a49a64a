"""metrics.jsonl: one JSON object an iteration, complete up to the last one whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surefoot.training import Hook, Run, TrainState


class MetricsFile(Hook):
    """Appends each iteration's metrics to a file; what a full disk refuses is kept and tried again.

    Args:
        path: the file; it must not exist yet, unless the run goes on.
        goes_on: whether it does.
    """

    def __init__(self, path: Path, *, goes_on: bool = False) -> None:
        self._path, self._mode = path, "ab" if goes_on else "xb"
        self._file: Any = None
        self._run: Run | None = None
        self._waiting = b""

    def on_start(self, run: Run) -> None:
        """Open the file."""
        self._run = run
        self._file = self._path.open(self._mode, buffering=0)

    def on_iteration(self, state: TrainState, metrics: Mapping[str, Any]) -> None:
        """Append a line."""
        self._write(json.dumps(metrics, allow_nan=False).encode() + b"\n")

    def sync(self) -> None:
        """Put all lines so far on the disk, as far as it takes them."""
        self._write(b"")
        with contextlib.suppress(OSError):
            os.fsync(self._file.fileno())

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
