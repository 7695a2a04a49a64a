"""The best policy of a run, by its evaluations: `best/step-NNNNNNNNNNNN/`, each whole or not there.

Each is itself a small run folder: options, policy, and in `evaluation.json` what it was worth. Whichever
checkpoint a run goes on from, the best policy until then is still there.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from surefoot.agent import save_policy
from surefoot.config import EvaluationOptions
from surefoot.config_file import to_toml
from surefoot.errors import UserError
from surefoot.files import remove_folder, remove_staging, whole_folder, write_json, write_text
from surefoot.reading import read_json
from surefoot.services.step_folders import BEST, CHECKPOINTS, by_step, step_name
from surefoot.training import Hook, Run, TrainState

EVALUATION = "evaluation.json"
Score = tuple[float, float]


class BestPolicy(Hook):
    """Keeps the policy whose evaluation was the best so far.

    A better one is written before the one until then goes, which stays as long as there is a checkpoint from
    before. Of equal ones the first is the best.

    Args:
        run_folder: the run folder; what is of later steps than the run goes on from has made room.
        sync_metrics: puts the lines of metrics on the disk: no policy is there without the line that says
            what it was worth.
    """

    def __init__(
        self, run_folder: Path, *, sync_metrics: Callable[[], None] = lambda: None
    ) -> None:
        self._run_folder, self._folder = run_folder, run_folder / BEST
        self._sync_metrics = sync_metrics
        self._best: Score | None = None
        self._run: Run | None = None

    def on_start(self, run: Run) -> None:
        """See what the best is until now."""
        self._run = run
        if not self._folder.is_dir():
            return
        remove_staging(self._folder)
        for _, path in by_step(self._folder):
            try:
                self._best = score(read_json(path / EVALUATION), run.config)
                return
            except UserError as error:
                run.log(f"{error}; it counts no longer as the best policy")

    def on_iteration(self, state: TrainState, metrics: Mapping[str, Any]) -> None:
        """Keep the policy if it was evaluated and is better."""
        run = self._run
        assert run is not None
        if metrics.get("eval/episode_return") is None:
            return
        now = score(metrics, run.config)
        if self._best is not None and now <= self._best:
            return
        self._sync_metrics()
        try:
            self._write(run, state, metrics)
        except OSError as error:
            run.log(
                f"the best policy, of step {state.step:,}, could not be written ({error}); training goes on"
            )
            return
        self._best = now
        self._forget()

    def _write(self, run: Run, state: TrainState, metrics: Mapping[str, Any]) -> None:
        self._folder.mkdir(exist_ok=True)
        found = {name: x for name, x in metrics.items() if name.startswith("eval/")}
        finished = state.step >= run.config.total_steps
        with whole_folder(self._folder / step_name(state.step)) as folder:
            write_text(folder / "config.toml", to_toml(run.config, task=run.task))
            policy = run.policy(state)
            save_policy(folder, policy, task=run.task, step=state.step, finished=finished)
            write_json(folder / EVALUATION, {"step": state.step, **found})

    def _forget(self) -> None:
        """Remove those that were not the best at any checkpoint, and are not now."""
        here = by_step(self._folder)
        checkpoints = [math.inf, *(step for step, _ in by_step(self._run_folder / CHECKPOINTS))]
        kept = {next((step for step, _ in here if step <= c), None) for c in checkpoints}
        for step, path in here:
            if step not in kept:
                remove_folder(path)


def score(metrics: Mapping[str, Any], options: EvaluationOptions) -> Score:
    """What evaluations are compared by; a number that is not there is the worst."""
    by_return, by_success = (
        value if isinstance(value, (int, float)) else -math.inf
        for value in (metrics.get("eval/episode_return"), metrics.get("eval/success_rate"))
    )
    return (by_success if options.best_by == "success" else 0.0), by_return


def evaluated_best(run_folder: Path) -> Path | None:
    """The folder of the policy with the best evaluation; None where none was evaluated, or none is sound."""
    for _, path in by_step(run_folder / BEST):
        with contextlib.suppress(UserError):
            read_json(path / EVALUATION)
            return path
    return None
