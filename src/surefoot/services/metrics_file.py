"""metrics.jsonl: one JSON object an iteration, complete up to the last one whatever happens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surefoot.files import write_text
from surefoot.training import Hook, Run, TrainState


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
        """Put lines of later steps into `metrics-replaced.jsonl`; drop half a line at the end."""
        kept, later = [], []
        for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                (kept if json.loads(line)["step"] <= step else later).append(line)
            except (ValueError, KeyError, TypeError):
                continue
        if later:
            with self._path.with_name("metrics-replaced.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(later)
        write_text(self._path, "".join(kept))
