"""What a run leaves when it fails: `crash/`, with the error, the last metrics and the last sound state."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surefoot.files import new_folder, save_arrays, write_json
from surefoot.training import Hook, Run, TrainState

FOLDER, REPORT, STATE = "crash", "report.json", "state.safetensors"
_ROWS = 50  # iterations whose metrics are kept


class CrashReport(Hook):
    """Writes `crash/` (`crash-2/`, ... where the run had failed before).

    Args:
        run_folder: the run folder.
    """

    def __init__(self, run_folder: Path) -> None:
        self._run_folder = run_folder
        self._rows: deque[Mapping[str, Any]] = deque(maxlen=_ROWS)
        self._notes: list[str] = []
        self._run: Run | None = None

    def on_start(self, run: Run) -> None:
        """Remember the run."""
        self._run = run

    def on_iteration(self, state: TrainState, metrics: Mapping[str, Any]) -> None:
        """Remember the metrics."""
        self._rows.append(metrics)

    def on_log(self, text: str) -> None:
        """Remember what was said."""
        self._notes.append(text)

    def on_failure(self, state: TrainState, error: Exception) -> None:
        """Write the report; the error itself goes on to the caller."""
        assert self._run is not None
        try:
            folder = self._write(state, error)
        except (OSError, ValueError) as refused:  # the error that is reported must not be lost
            self._run.log(f"no {FOLDER} report could be written ({refused})")
        else:
            self._run.log(f"what happened, the last metrics and the last state: {folder}")

    def _write(self, state: TrainState, error: Exception) -> Path:
        folder = new_folder(self._run_folder / FOLDER)
        save_arrays(folder / STATE, state._replace(collector=None))
        report = {
            "error": str(error),
            "kind": type(error).__name__,
            "traceback": traceback.format_exception(error),
            "step": state.step,
            "iteration": state.iteration,
            "learning_rates": {k: float(x.learning_rate) for k, x in state.learners.items()},
            "refused_updates": {k: int(x.skipped) for k, x in state.learners.items()},
            "notes": self._notes,
            "metrics": list(self._rows),
        }
        write_json(folder / REPORT, report)
        return folder
