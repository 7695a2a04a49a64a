"""metrics.jsonl: one JSON object an iteration, complete up to the last one whatever happens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surefoot.training import Hook, Run, TrainState


class MetricsFile(Hook):
    """Appends each iteration's metrics to a file.

    Args:
        path: the file; it must not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    def on_start(self, run: Run) -> None:
        """Open the file."""
        self._file = self._path.open("x", encoding="utf-8", buffering=1)

    def on_iteration(self, state: TrainState, metrics: Mapping[str, Any]) -> None:
        """Append a line."""
        self._file.write(json.dumps(metrics, allow_nan=False) + "\n")

    def on_end(self, state: TrainState, policy: Any, *, finished: bool) -> None:
        """Close the file."""
        self._file.close()
