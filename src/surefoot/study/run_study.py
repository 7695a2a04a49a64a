"""Conducting a study: its folder, its jobs, and its end; it continues where it stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from surefoot.config import option_names
from surefoot.errors import UserError
from surefoot.files import check_writable, contents, hold, write_text
from surefoot.reading import read_json, read_text
from surefoot.study.executors import Executor, Stop
from surefoot.study.jobs import RESULT, Job, check_result
from surefoot.study.plan import FIRST_TUNING_SEED, Study, parse_study, slug, write_study

STUDY = "study.toml"
OUTPUTS = ("results.json", "results.csv", "provenance.json", "report.html")
Results = Mapping[Job, Mapping[str, Any] | None]  # None: not done yet
Progress = Callable[[Job, Results], None]
Rates = dict[tuple[str, str], float]


class StudyFolder:
    """The folder of one study, which one process at a time works in.

    Args:
        path: the folder; a new one, or one that this very study was begun in, if with fewer seeds.
        study: the study.

    Raises:
        ValueError: it holds something else, or another process works in it.
    """

    def __init__(self, path: Path, study: Study) -> None:
        self.path, self.study = path, study
        self._check()
        self._lock: FileLock | None = None

    def __enter__(self) -> StudyFolder:
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = hold(self.path, doing="at work on the study")
        write_text(self.path / STUDY, write_study(self.study))
        return self

    def __exit__(self, *_: object) -> None:
        assert self._lock is not None
        self._lock.release()

    def _check(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"study folder {str(self.path)!r} is a file; choose another --run-dir")
        check_writable(self.path, what="study folder")
        if not self.path.is_dir():
            return
        held = contents(self.path)
        if held and STUDY not in held:
            raise UserError(
                f"folder {str(self.path)!r} holds {len(held)} file(s), such as {held[0]!r}, and no "
                "study; choose another --run-dir"
            )
        if held:
            self._check_same(read_text(self.path / STUDY))

    def _check_same(self, text: str) -> None:
        study, file = self.study, str(self.path / STUDY)
        there, _ = parse_study(text, where=file, presets={}, asked=study.tasks)
        seeds, there = there.seeds, replace(there, seeds=study.seeds, name=study.name)
        if there != study:
            raise UserError(
                f"folder {str(self.path)!r} holds another study: {_difference(there, study)}; choose "
                "another --run-dir, or ask for the same study to continue it"
            )
        if seeds > study.seeds:
            raise UserError(
                f"folder {str(self.path)!r} holds a study of {seeds} seeds; ask for as many, or "
                "for more"
            )

    def result(self, job: Job) -> dict[str, Any] | None:
        """What a job left, or None if it has not been finished."""
        file = self.path / job.folder / RESULT
        found = _read(file)
        if found and (found["task"], found["arm"], tuple(found["seeds"])) != (
            job.task,
            job.arm,
            job.seeds,
        ):
            raise UserError(f"{file} is of another run; remove it to do its run again")
        return found

    def groups(self, task: str, arm: str) -> list[tuple[int, ...]]:
        """Seeds of an arm that were trained together, by what is finished."""
        folder = self.path / "runs" / slug(task) / slug(arm)
        found = [_read(file) for file in sorted(folder.glob(f"seed*-*/{RESULT}"))]
        return [tuple(result["seeds"]) for result in found if result]


def _read(file: Path) -> dict[str, Any] | None:
    """A result; None where there is none, or one that a power cut emptied."""
    try:
        result = read_json(file)
    except UserError:
        return None
    try:
        check_result(result)
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}; remove it to do its run again") from None
    return result


def _difference(there: Study, here: Study) -> str:
    """The first thing that two studies differ in, in words."""
    for what in ("tasks", "arms"):
        names = [list(getattr(study, what)) for study in (there, here)]
        if names[0] != names[1]:
            return f"its {what} are {', '.join(names[0])}, not {', '.join(names[1])}"
    for task in here.tasks:
        for arm in here.arms:
            configs = [study.config(task, arm) for study in (there, here)]
            for name in option_names():
                old, new = (getattr(config, name) for config in configs)
                if old != new:
                    return f"arm {arm!r} on {task} has {name} = {old} there and {new} here"
    names = [f.name for f in fields(Study) if f.compare and f.name not in ("tasks", "arms")]
    name = next(name for name in names if getattr(there, name) != getattr(here, name))
    return f"{name} = {getattr(there, name)} there and {getattr(here, name)} here"


def run_study(
    folder: StudyFolder,
    executor: Executor,
    *,
    shares_program: Callable[[str], bool],
    progress: Progress,
    should_stop: Stop,
    retry_failed: bool = False,
) -> tuple[list[dict[str, Any]], Rates] | None:
    """Do what is left to do of a study.

    Args:
        folder: where, and what.
        executor: who.
        shares_program: whether all seeds of a task can be trained in one program.
        progress: told of each finished job, with what all jobs of the study have left so far.
        should_stop: asked now and then.
        retry_failed: do failed runs again.

    Returns:
        The results of the reported jobs in the study's order and the learning rates that were
        chosen; None if it was stopped before its end.
    """
    study, rates, tuning = folder.study, {}, []
    work = partial(_work, folder, executor, progress, should_stop, retry_failed)
    if study.tune_lr:
        tuning = tuning_jobs(study, shares_program)
        if (tried := work(tuning, reported_jobs(folder, shares_program, rates))) is None:
            return None
        rates = choose_rates(list(zip(tuning, tried, strict=True)))
    results = work(reported_jobs(folder, shares_program, rates), tuning)
    return None if results is None else (results, rates)


def _work(
    folder: StudyFolder,
    executor: Executor,
    progress: Progress,
    should_stop: Stop,
    retry_failed: bool,
    jobs: Sequence[Job],
    others: Sequence[Job],
) -> list[dict[str, Any]] | None:
    """Do what is left of the jobs; the others are done before or after them."""
    results = {job: folder.result(job) for job in [*others, *jobs]}
    kept: dict[Job, Any] = {}
    for job in jobs:
        if retry_failed and (done := results[job]) and done["errors"]:
            results[job], kept[job] = None, done["runs"]
    left = [replace(job, kept=kept.get(job, {})) for job in jobs if not results[job]]
    for name in OUTPUTS if left else ():  # they are not this study's any more
        (folder.path / name).unlink(missing_ok=True)
    for job in _run(executor, left, folder, should_stop):
        results[job] = folder.result(job)
        progress(job, results)
    done = [result for job in jobs if (result := results[job])]
    return done if len(done) == len(jobs) else None


def _run(
    executor: Executor, jobs: Sequence[Job], folder: StudyFolder, should_stop: Stop
) -> Iterator[Job]:
    return executor.run(list(jobs), folder.path, should_stop) if jobs else iter(())


def reported_jobs(
    folder: StudyFolder, shares_program: Callable[[str], bool], rates: Rates
) -> list[Job]:
    """Every run that the statistics will see: seed by seed, so that the arms grow together."""
    study, jobs = folder.study, []
    for task in study.tasks:
        for arm in study.arms:
            config = study.config(task, arm)
            if (task, arm) in rates:
                config = config.replace(learning_rate=rates[task, arm])
            groups = [(seed,) for seed in study.every_seed]
            if shares_program(task):
                groups = folder.groups(task, arm)
                rest = sorted(set(study.every_seed) - {s for group in groups for s in group})
                groups = [*groups, tuple(rest)] if rest else groups
            jobs += [_job(study, task, arm, config, seeds, "runs") for seeds in groups]
    return sorted(jobs, key=lambda job: job.seeds[0])


def tuning_jobs(study: Study, shares_program: Callable[[str], bool]) -> list[Job]:
    """Every learning rate of every arm, on seeds that are not reported."""
    seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + study.tuning_seeds)
    jobs = []
    for task in study.tasks:
        for group in [tuple(seeds)] if shares_program(task) else [(seed,) for seed in seeds]:
            for arm in study.arms:
                config = study.config(task, arm)
                for rate in study.learning_rates(config):
                    tried = config.replace(learning_rate=rate)
                    jobs.append(_job(study, task, arm, tried, group, f"tuning/lr-{rate:.3g}"))
    return jobs


def choose_rates(tried: Sequence[tuple[Job, Mapping[str, Any]]]) -> Rates:
    """Each arm's learning rate with the best mean final score; a rate with a failed run is out."""
    scores: dict[tuple[str, str], dict[float, list[float]]] = {}
    for job, result in tried:
        finals = [run["final"] for run in result["runs"].values()]
        finals += [-math.inf] * len(result["errors"])
        of_arm = scores.setdefault((job.task, job.arm), {})
        of_arm.setdefault(job.config.learning_rate, []).extend(finals)
    return {
        arm: max(sorted(of_rates), key=lambda rate: sum(of_rates[rate]) / len(of_rates[rate]))
        for arm, of_rates in scores.items()
    }


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
        as_it_comes=study.as_it_comes,
    )
