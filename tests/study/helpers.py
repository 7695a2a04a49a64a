"""Made-up studies: what runs left, and what is made of it; and jobs that are done in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surefoot.config import Config
from surefoot.study import statistics
from surefoot.study.executors import Executor, Stop
from surefoot.study.jobs import Job, run_job
from surefoot.study.plan import Study
from surefoot.study.results import analyse

Scores = Mapping[str, Mapping[str, Mapping[int, float]]]  # task -> arm -> seed -> score


def leaves(
    random: np.random.Generator, tasks: Sequence[str], arms: Sequence[str], seeds: int
) -> Scores:
    """Scores of runs, no two alike."""
    return {
        task: {arm: dict(enumerate(random.uniform(1.0, 400.0, seeds))) for arm in arms}
        for task in tasks
    }


def analysed(scores: Scores, *, seeds: int | None = None, measures: bool = False) -> dict[str, Any]:
    """What a study shows whose runs had these scores at every evaluation; the others failed.

    With a quick bootstrap: how well it covers is tested with the statistics.
    """
    arms = list(next(iter(scores.values())))
    of_all = {seed for of_task in scores.values() for x in of_task.values() for seed in x}
    seeds = seeds or 1 + max(of_all)
    study = Study(
        "made up",
        {task: Config() for task in scores},
        {arm: {"gamma": 0.9 + k / 1000} for k, arm in enumerate(arms)},
        arms[0],
        seeds,
    )
    results = []
    for task, of_task in scores.items():
        for arm, of_arm in of_task.items():
            for seed in range(seeds):
                runs, errors = {}, {str(seed): "it failed"}
                if seed in of_arm:
                    final = of_arm[seed]
                    curve = {"steps": [1, 2], "returns": [final, final], "diagnostics": {}}
                    if measures:
                        curve["measures"] = {"measure/error": [0.0, final]}
                    runs, errors = {str(seed): {"final": final, **curve}}, {}
                results.append({"task": task, "arm": arm, "runs": runs, "errors": errors})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_RESAMPLES", 20)
        return analyse(study, results, {})


class ThisProcess(Executor):
    """Does one job after the other."""

    workers = 1

    def run(self, jobs: Sequence[Job], study: Path, should_stop: Stop) -> Iterator[Job]:
        for job in jobs:
            run_job(job, study)
            yield job

    def do(self, job: Job, study: Path, should_stop: Stop) -> bool:
        run_job(job, study)
        return True

    def describe(self) -> str:
        return "this process"
