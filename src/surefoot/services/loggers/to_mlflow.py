"""MLflow, where MLFLOW_TRACKING_URI says (without it: where MLflow itself would)."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from surefoot.services.loggers.adapter import About, Logger

_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_LONGEST = 500  # characters of a parameter or a tag that every store takes
_MOST = 1000  # metrics that a store takes at once
# its database takes 0.1 ms of a core for a number, and 15 ms for a transaction
_POINT_EVERY_S = 1.0
_WRITTEN_EVERY_S = 2.0


class MLflow(Logger):
    """One run of an experiment: options as parameters, where it comes from as tags.

    Args:
        about: the run.
    """

    def __init__(self, about: About) -> None:
        self._client = client = MlflowClient()
        options = {name: str(value)[:_LONGEST] for name, value in about.options.items()}
        tags = {name: value[:_LONGEST] for name, value in about.flat().items()}
        if about.id:
            self.id = about.id
            before = client.get_run(self.id).data.params  # which MLflow never changes
            changed = {name: value for name, value in options.items() if before.get(name) != value}
            tags = {"resumed_from_step": str(about.step)}
            tags |= {f"resumed.{name}": value for name, value in changed.items()}
            client.update_run(self.id, status="RUNNING")
            params = []
        else:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "surefoot")
            found = client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else client.create_experiment(name)
            self.id = client.create_run(experiment, run_name=about.name).info.run_id
            params = [Param(name, value) for name, value in options.items()]
        own = [RunTag(f"surefoot.{name}", value) for name, value in tags.items()]
        client.log_batch(self.id, params=params, tags=own)
        self._newest: dict[str, Metric] = {}
        self._waiting: list[Metric] = []
        self._took = self._wrote = time.monotonic()

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Of each number the newest of a second, those of two seconds at once."""
        stamp, now = int(1000 * time.time()), time.monotonic()
        self._newest |= {name: Metric(name, float(x), stamp, step) for name, x in numbers.items()}
        if now - self._took >= _POINT_EVERY_S:
            self._take()
            self._took = now
        if now - self._wrote >= _WRITTEN_EVERY_S:
            self._write()
            self._wrote = now

    def _take(self) -> None:
        self._waiting += self._newest.values()
        self._newest = {}

    def _write(self) -> None:
        metrics, self._waiting = self._waiting, []
        for begin in range(0, len(metrics), _MOST):
            self._client.log_batch(self.id, metrics=metrics[begin : begin + _MOST])

    def close(self, how: str) -> None:
        """Write what is left, and say how it ended."""
        self._take()
        self._write()
        self._client.set_terminated(self.id, _STATUS[how])


def open_run(about: About) -> MLflow:
    """Begin, or go on."""
    return MLflow(about)
