"""Searching: each worker does one trial after the other, a process for each of its trainings."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from surefoot.errors import UserError
from surefoot.reading import read_json, read_json_lines
from surefoot.study.executors import Executor, Stop, log_of
from surefoot.study.jobs import EVALUATIONS, RESULT, Job, check_result
from surefoot.tune.by_optuna import Book
from surefoot.tune.plan import Trial, Tuning

Progress = Callable[[Sequence[Trial], Trial], None]  # all trials, and the one that has ended


def search(
    book: Book,
    tuning: Tuning,
    path: Path,
    *,
    executor: Executor,
    progress: Progress,
    should_stop: Stop,
) -> None:
    """Do what is left to do of the trials, or until it is to stop; what is unfinished then is put back.

    Args:
        book: the record of trials.
        tuning: what is searched.
        path: the tuning's folder.
        executor: who trains.
        progress: told of each trial that has ended.
        should_stop: asked now and then.
    """
    stopped, telling = threading.Event(), threading.Lock()

    def stop() -> bool:
        return stopped.is_set() or should_stop()

    def serve() -> None:
        try:
            while not stop() and (trial := book.ask()) is not None:
                record = _do(trial, book, tuning, path, executor, stop)
                with telling:
                    record()
                    trials = book.trials()
                    progress(trials, trials[trial.number])
        except BaseException:
            stopped.set()  # the others put back what they do
            raise

    with ThreadPoolExecutor(executor.workers, thread_name_prefix="surefoot-trial") as pool:
        served = [pool.submit(serve) for _ in range(executor.workers)]
        while not all(one.done() for one in served):  # a signal is heard between two looks
            time.sleep(0.1)
    for one in served:
        one.result()


def _do(
    trial: Trial, book: Book, tuning: Tuning, path: Path, executor: Executor, stop: Stop
) -> Callable[[], None]:
    """Train a trial with one seed after the other; what records how it ended."""
    scores = []
    for place, seed in enumerate(tuning.every_seed()):
        job = tuning.job(trial, seed)
        watch = _Watch(book, trial, job, path, before=place * tuning.evaluations)
        is_done = _result(path, job) is not None or _train(job, path, executor, watch, stop)
        # what came to its end before it was looked at is pruned too, so that no clock decides
        if watch():
            return partial(book.end, trial, "pruned", watch.reason)
        if not is_done:
            return partial(book.put_back, trial)
        result = _result(path, job)
        assert result is not None
        if result["errors"]:
            return partial(book.end, trial, "failed", next(iter(result["errors"].values())))
        scores.append(result["runs"][str(seed)]["final"])
    return partial(book.complete, trial, sum(scores) / len(scores))


def _train(job: Job, path: Path, executor: Executor, watch: _Watch, stop: Stop) -> bool:
    """Do a job; False if it was ended before it had a result."""
    # what an interrupted run has left is not what this one comes to tell
    (path / job.folder / EVALUATIONS).unlink(missing_ok=True)
    if executor.do(job, path, lambda: stop() or watch()):
        return True
    log_of(job, path).unlink(missing_ok=True)
    return False


def _result(path: Path, job: Job) -> Mapping[str, Any] | None:
    """What a training left; None where there is nothing, or what a power cut emptied."""
    try:
        result = read_json(path / job.folder / RESULT)
        check_result(result)
    except (UserError, ValueError):
        return None
    return result


class _Watch:
    """Tells the book of a training's evaluations as they come; true once the trial has fallen behind.

    Attributes:
        has_fallen_behind: whether it has.
        reason: by what.
    """

    def __init__(self, book: Book, trial: Trial, job: Job, path: Path, *, before: int) -> None:
        self._book, self._trial, self._job, self._before = book, trial, job, before
        self._file, self._told = path / job.folder / EVALUATIONS, 0
        self.has_fallen_behind, self.reason = False, ""

    def __call__(self) -> bool:
        total, count = self._job.config.total_steps, self._job.evaluations
        for step, value in self._new():
            if self.has_fallen_behind:
                break
            place = self._before + max(0, min(step, total) * count // total - 1)
            is_behind = self._book.tell(self._trial, place, value)
            if is_behind and step < total:  # at its end there is nothing left to save
                self.has_fallen_behind = True
                self.reason = f"return {value:.5g} after {step:,} steps is below the median"
        return self.has_fallen_behind

    def _new(self) -> list[tuple[int, float]]:
        """Step and return of the evaluations that have come since."""
        if not self._file.is_file():
            return []
        rows = [
            (int(line.value["step"]), float(line.value["return"]))
            for line in read_json_lines(self._file, _check_row)
            if line.value is not None and line.raw.endswith(b"\n")
        ]
        self._told, new = len(rows), rows[self._told :]
        return new


def _check_row(row: Mapping[str, Any]) -> None:
    if type(row.get("step")) is not int or type(row.get("return")) not in (int, float):
        raise ValueError(f"no evaluation: {row!r}")
