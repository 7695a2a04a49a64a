"""Conducting a study: its folder, its jobs, and its end; it continues where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from surefoot.config import UserError
from surefoot.study.executors import Executor, Stop
from surefoot.study.jobs import RESULT, Job
from surefoot.study.plan import FIRST_TUNING_SEED, Study, slug, write_study

STUDY = "study.toml"
LOCK = ".lock"
Progress = Callable[[Job, Mapping[str, Any], int, int], None]
Rates = dict[tuple[str, str], float]


class StudyFolder:
    """The folder of one study, which one process at a time works in.

    Args:
        path: the folder; a new one, or one that this very study was begun in. More seeds than it was
            begun with are fine.
        study: the study.

    Raises:
        ValueError: it holds something else, or another process works in it.
    """

    def __init__(self, path: Path, study: Study) -> None:
        self.path, self.study = path, study
        self._check()
        self._lock = FileLock(path / LOCK)

    def __enter__(self) -> StudyFolder:
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"another process is at work on the study in {str(self.path)!r}"
            ) from None
        (self.path / STUDY).write_text(write_study(self.study), encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _check(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"study folder {str(self.path)!r} is a file; choose another --run-dir")
        if not self.path.is_dir():
            return
        held = sorted(entry.name for entry in self.path.iterdir() if entry.name != LOCK)
        if held and STUDY not in held:
            raise UserError(
                f"folder {str(self.path)!r} holds {len(held)} file(s), such as {held[0]!r}, and no "
                "study; choose another --run-dir"
            )
        if held:
            self._check_same((self.path / STUDY).read_text(encoding="utf-8"))

    def _check_same(self, there: str) -> None:
        def lines(text: str) -> list[str]:
            return [line for line in text.splitlines() if not line.startswith("seeds = ")]

        here = write_study(self.study)
        if lines(there) == lines(here):
            return
        differs = [new for old, new in zip(lines(there), lines(here), strict=False) if old != new]
        first = f": here {differs[0]!r}" if differs else ""
        raise UserError(
            f"folder {str(self.path)!r} holds another study{first}; choose another --run-dir, or ask "
            "for the same study to continue it"
        )

    def result(self, job: Job) -> dict[str, Any] | None:
        """What a job left, or None if it has not been finished."""
        file = self.path / job.folder / RESULT
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def conduct(
    folder: StudyFolder,
    executor: Executor,
    *,
    shares_program: Callable[[str], bool],
    progress: Progress,
    should_stop: Stop,
) -> tuple[list[dict[str, Any]], Rates] | None:
    """Do what is left to do of a study.

    Args:
        folder: where, and what.
        executor: who.
        shares_program: whether all seeds of a task can be trained in one program.
        progress: told of each finished job with its result, how many are done and how many there are.
        should_stop: asked now and then.

    Returns:
        The results of the reported jobs in the study's order and the learning rates that were
        chosen; None if it was stopped before its end.
    """
    study, rates = folder.study, {}
    if study.tune_lr:
        tuning = tuning_jobs(study, shares_program)
        if _work(folder, executor, tuning, progress, should_stop) is None:
            return None
        rates = choose_rates(study, [(job, folder.result(job) or {}) for job in tuning])
    jobs = reported_jobs(study, shares_program, rates)
    results = _work(folder, executor, jobs, progress, should_stop)
    return None if results is None else (results, rates)


def _work(
    folder: StudyFolder,
    executor: Executor,
    jobs: Sequence[Job],
    progress: Progress,
    should_stop: Stop,
) -> list[dict[str, Any]] | None:
    left = [job for job in jobs if folder.result(job) is None]
    done = len(jobs) - len(left)
    for job in executor.run(left, folder.path, should_stop) if left else ():
        done += 1
        result = folder.result(job)
        assert result is not None
        progress(job, result, done, len(jobs))
    results = [folder.result(job) for job in jobs]
    return None if None in results else [result for result in results if result is not None]


def reported_jobs(study: Study, shares_program: Callable[[str], bool], rates: Rates) -> list[Job]:
    """Every run that the statistics will see: seed by seed, so that the arms grow together."""
    jobs = []
    for task in study.tasks:
        groups = _groups(range(study.seeds), shares_program(task))
        for seeds in groups:
            for arm in study.arms:
                config = study.config(task, arm)
                if (task, arm) in rates:
                    config = config.replace(learning_rate=rates[task, arm])
                jobs.append(_job(study, task, arm, config, seeds, "runs"))
    return jobs


def tuning_jobs(study: Study, shares_program: Callable[[str], bool]) -> list[Job]:
    """Every learning rate of every arm, on seeds that are not reported."""
    seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + study.tuning_seeds)
    jobs = []
    for task in study.tasks:
        for group in _groups(seeds, shares_program(task)):
            for arm in study.arms:
                config = study.config(task, arm)
                for rate in study.learning_rates(config):
                    tried = config.replace(learning_rate=rate)
                    jobs.append(_job(study, task, arm, tried, group, f"tuning/lr-{rate:.3g}"))
    return jobs


def choose_rates(study: Study, tried: Sequence[tuple[Job, Mapping[str, Any]]]) -> Rates:
    """Each arm's learning rate with the best mean final score; a rate with a failed run is out."""
    scores: dict[tuple[str, str], dict[float, list[float]]] = {}
    for job, result in tried:
        rate = job.config.learning_rate
        finals = [run["final"] for run in result.get("runs", {}).values()] or [float("-inf")]
        scores.setdefault((job.task, job.arm), {}).setdefault(rate, []).extend(finals)
    return {
        arm: max(sorted(of_rates), key=lambda rate: sum(of_rates[rate]) / len(of_rates[rate]))
        for arm, of_rates in scores.items()
    }


def _groups(seeds: Sequence[int], together: bool) -> list[tuple[int, ...]]:
    return [tuple(seeds)] if together else [(seed,) for seed in seeds]


def _job(study: Study, task: str, arm: str, config: Any, seeds: tuple[int, ...], where: str) -> Job:
    name = f"seed-{seeds[0]}" if len(seeds) == 1 else f"seeds-{seeds[0]}-{seeds[-1]}"
    return Job(
        folder=f"{where}/{slug(task)}/{slug(arm)}/{name}",
        task=task,
        arm=arm,
        config=replace(config, seed=0),
        seeds=seeds,
        evaluations=study.evaluations,
        episodes=study.episodes,
    )
