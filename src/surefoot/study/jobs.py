"""One piece of a study's work: train an arm on a task with its seeds, play the policy now and then.

A job of one seed leaves its run folder, one of several a folder of run folders, and `result.json` in it
last of all: a folder that has none was not finished.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from surefoot.agent import from_json
from surefoot.config import Config, from_mapping, parse_options
from surefoot.config_file import parse_toml, to_toml
from surefoot.envs import Environment, make_environment
from surefoot.envs.contract import release
from surefoot.errors import UserError
from surefoot.files import write_json
from surefoot.rollout import make_collector
from surefoot.services.run_folder import METRICS, read_metrics
from surefoot.training import CHUNK_STEPS, Hook, Run, TrainState, evaluate, make_streams, to_key

RESULT = "result.json"
EVALUATIONS = "evaluations.jsonl"
DIAGNOSTICS = (
    "policy/approx_kl",
    "policy/held_out_kl",
    "policy/ratio_max",
    "policy/clip_fraction",
    "policy/entropy",
    "optim/grad_norm",
    "optim/step_fraction",
    "value/explained_variance",
)


MEASURES = ("episode_length_mean", "truncated_share", "success_rate")  # of an evaluation
Played = tuple[int, Mapping[str, Any]]  # step, what `evaluate` found


@dataclass(frozen=True)
class Job:
    """What a worker needs to know.

    Attributes:
        folder: where it goes, relative to the study's.
        task: the task.
        arm: the arm's name.
        config: the arm's options; the seeds are put into it.
        seeds: one, or several where they share a program.
        evaluations: how many times the policy is played.
        episodes: episodes each time.
        as_it_comes: whether it is played without the task's env_options.
        live: whether its runs write evaluations as they come, a line each, to `EVALUATIONS`.
        kept: of a job that is done again, what the runs left that did not fail, by seed; they stay.
    """

    folder: str
    task: str
    arm: str
    config: Config
    seeds: tuple[int, ...]
    evaluations: int
    episodes: int
    as_it_comes: bool = False
    live: bool = False
    kept: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def steps(self) -> int:
        """Environment steps of all its seeds."""
        return self.config.total_steps * len(self.seeds)

    def run_dir(self, seed: int) -> str:
        """The run folder of a seed, relative to the study's."""
        return self.folder if len(self.seeds) == 1 else f"{self.folder}/seed-{seed}"

    def to_json(self) -> str:
        """As text for another process; `from_json` reads it."""
        config = to_toml(self.config, task=self.task)
        return json.dumps({**asdict(self), "config": config})

    @staticmethod
    def from_json(text: str) -> Job:
        """The job that `to_json` wrote."""
        fields = json.loads(text)
        options = parse_toml(fields.pop("config"), where="job")
        options.pop("task")
        seeds = tuple(fields.pop("seeds"))
        return Job(**fields, seeds=seeds, config=from_mapping(options))


@dataclass(frozen=True)
class _Outcome:
    """What `outcome` gives."""

    final: float
    steps: tuple[int, ...]
    returns: tuple[float, ...]
    diagnostics: Mapping[str, tuple[float | None, ...]]
    measures: Mapping[str, tuple[float | None, ...]] | None = None


@dataclass(frozen=True)
class _Result:
    """What `RESULT` holds."""

    task: str
    arm: str
    learning_rate: float
    seeds: tuple[int, ...]
    runs: Mapping[str, _Outcome]
    errors: Mapping[str, str]
    wall_time_s: float | None = None


def check_result(result: Mapping[str, Any]) -> None:
    """Raise ValueError for what no job leaves."""
    read = from_json(_Result, result)
    if not read.seeds or sorted([*read.runs, *read.errors]) != sorted(map(str, read.seeds)):
        raise ValueError(
            f"runs {list(read.runs)} and errors {list(read.errors)} of seeds {read.seeds}"
        )
    for seed, run in read.runs.items():
        if not 0 < len(run.steps) == len(run.returns):
            raise ValueError(
                f"{len(run.steps)} steps and {len(run.returns)} returns of seed {seed}"
            )
        for name, curve in (run.measures or {}).items():
            if len(curve) != len(run.steps):
                raise ValueError(
                    f"{len(curve)} values of {name!r} at {len(run.steps)} steps of seed {seed}"
                )
        of_run = (*run.diagnostics.values(), *(run.measures or {}).values())
        curves = [x for curve in of_run for x in curve if x is not None]
        if not all(map(math.isfinite, (run.final, *run.returns, *curves))):
            raise ValueError(f"a number of seed {seed} is not finite")
    if not math.isfinite(read.learning_rate) or not 0.0 <= (read.wall_time_s or 0.0) < math.inf:
        raise ValueError(f"learning_rate = {read.learning_rate}, wall_time_s = {read.wall_time_s}")


class Evaluations(Hook):
    """Plays the deterministic policy at equal distances, the last time at the run's end.

    Args:
        job: how many times, how many episodes, and on which task.
        live: a file for step and mean return of each, a line each as they come.

    Attributes:
        rows: step and what was found, each time.
    """

    def __init__(self, job: Job, live: Path | None = None) -> None:
        self.rows: list[Played] = []
        self._job, self._live = job, live
        self._env: Environment | None = None
        self._collect: Any = None
        self._run: Any = None
        self._key: Any = None
        self._next = 1

    def on_start(self, run: Run) -> None:
        """Make environments of its own, on a stream that training does not use."""
        self._run = run
        stream, key = make_streams(run.config.seed).evaluation.spawn(3)[1:]
        self._key = to_key(key)
        options = {} if self._job.as_it_comes else parse_options(run.config.env_options)
        self._env = make_environment(run.task, self._job.episodes, seed=stream, options=options)
        self._env.read_as(run.env.observations)
        self._collect = make_collector(self._env, num_steps=CHUNK_STEPS, deterministic=True)

    def on_iteration(self, state: TrainState, metrics: Mapping[str, Any]) -> None:
        """Play if another share of the budget is used up."""
        share = state.step * self._job.evaluations / self._run.config.total_steps
        if share < self._next or self._env is None:
            return
        key = jax.random.fold_in(self._key, len(self.rows))
        policy, episodes = self._run.policy(state), self._job.episodes
        played = evaluate(policy, self._env, episodes, key=key, collect=self._collect)
        self.rows.append((state.step, played))
        if self._live is not None:
            row = {"step": state.step, "return": played["episode_return_mean"]}
            with self._live.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        self._next = int(share) + 1

    def on_end(self, state: TrainState, policy: Any, *, finished: bool) -> None:
        """Close the environments."""
        if self._env is not None:
            release(self._env, self._run.log)


def run_job(job: Job, study: Path) -> None:
    """Do the work and write the result, or the errors of runs that cannot be.

    Raises:
        Exception: what is not the user's mistake, such as a simulator's fault.
    """
    began = time.monotonic()
    runs: dict[int, Any] = {}
    errors: dict[int, str] = {}
    seeds = [seed for seed in job.seeds if str(seed) not in job.kept]
    if not job.kept:
        shutil.rmtree(study / job.folder, ignore_errors=True)
        try:
            runs = _train(job, study, job.seeds)
        except UserError as error:
            errors = {job.seeds[0]: str(error)}
    if job.kept or (errors and len(seeds) > 1):
        # one seed's fault ends them all: each goes alone
        errors = {}
        for seed in seeds:
            shutil.rmtree(study / job.run_dir(seed), ignore_errors=True)
            try:
                runs |= _train(job, study, (seed,))
            except UserError as error:
                errors[seed] = str(error)
    _write(job, study, runs, errors, time.monotonic() - began)


def write_failure(job: Job, study: Path, error: str) -> None:
    """Record that a job, or what was left of it, cannot be done."""
    _write(job, study, {}, {seed: error for seed in job.seeds if str(seed) not in job.kept})


def _write(
    job: Job,
    study: Path,
    runs: dict[int, Any],
    errors: dict[int, str],
    wall_time_s: float | None = None,
) -> None:
    folder = study / job.folder
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "task": job.task,
        "arm": job.arm,
        "learning_rate": job.config.learning_rate,
        "seeds": list(job.seeds),
        "runs": {**job.kept, **{str(seed): run for seed, run in runs.items()}},
        "errors": {str(seed): error for seed, error in errors.items()},
        "wall_time_s": wall_time_s,
    }
    write_json(folder / RESULT, result)


def _train(job: Job, study: Path, seeds: Sequence[int]) -> dict[int, Any]:
    """What each seed's run leaves for the statistics."""
    from surefoot.api import train, train_seeds

    # what is interrupted begins again (docs/studies.md says why), so checkpoints would only take room
    changes = {"measure_held_out_kl": True, "checkpoint_every": None}
    config = job.config.replace(seed=seeds[0], **changes)
    watchers = {
        seed: Evaluations(job, study / job.run_dir(seed) / EVALUATIONS if job.live else None)
        for seed in seeds
    }
    if len(seeds) == 1:
        run_dir = study / job.run_dir(seeds[0])
        hooks = list(watchers.values())
        train(job.task, config=config, run_dir=run_dir, progress=False, hooks=hooks)
    else:
        train_seeds(
            job.task,
            num_seeds=len(seeds),
            config=config,
            run_dir=study / job.folder,
            progress=False,
            hooks=[[watcher] for watcher in watchers.values()],
            reports=job.evaluations,
        )
    return {
        seed: outcome(watcher.rows, study / job.run_dir(seed) / METRICS, job.evaluations)
        for seed, watcher in watchers.items()
    }


def outcome(rows: Sequence[Played], metrics: Path, evaluations: int) -> dict[str, Any]:
    """What a seed's run leaves for the statistics.

    The final score is the mean of the last tenth of the evaluations, at least of the last one.
    """
    returns = [found["episode_return_mean"] for _, found in rows]
    if not returns:
        raise UserError("the training ended before its policy was played")
    if not np.isfinite(returns).all():
        raise UserError(f"an evaluation's mean return is not finite: {returns}")
    return {
        "final": float(np.mean(last_tenth(returns))),
        "steps": [step for step, _ in rows],
        "returns": returns,
        "diagnostics": diagnostics(metrics, evaluations),
        "measures": measures([found for _, found in rows]),
    }


def last_tenth(values: Sequence[float]) -> Sequence[float]:
    """The last tenth of the evaluations, at least the last one."""
    return values[-max(1, round(len(values) / 10)) :]


def measures(found: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """What was found beside the return at each evaluation: lengths, ends, success, the task's measures."""
    names = {
        name for row in found for name in row if name in MEASURES or name.startswith("measure/")
    }
    return {name: [row.get(name) for row in found] for name in sorted(names)}


def diagnostics(metrics: Path, points: int) -> dict[str, list[float | None]]:
    """Curves of what explains a result, thinned: the mean of each part of the run (maxima: the max)."""
    rows, _ = read_metrics(metrics)
    parts = np.array_split(np.arange(len(rows)), max(1, min(points, len(rows))))
    curves: dict[str, list[float | None]] = {}
    for name in DIAGNOSTICS:
        reduce = max if name.endswith("_max") else np.mean
        curve: list[float | None] = []
        for part in parts:
            told = [v for i in part if (v := rows[i].get(name)) is not None]
            curve.append(float(reduce(told)) if told else None)
        if any(value is not None for value in curve):
            curves[name] = curve
    return curves
