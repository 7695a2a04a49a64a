"""`surefoot study`: tasks x arms x seeds, and what they show."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from surefoot.cli.arguments import default, read
from surefoot.cli.presets import PRESETS
from surefoot.cli.signals import StopOnSignal
from surefoot.errors import UserError
from surefoot.machine import user_path
from surefoot.reading import read_text
from surefoot.terminal import say

if TYPE_CHECKING:
    from surefoot.study.executors import Executor
    from surefoot.study.jobs import Job
    from surefoot.study.run_study import Results

_PRESET_SEEDS = 10


@dataclass(frozen=True)
class Arguments:
    """Train arms (named sets of option changes) on tasks with several seeds each, and say what the
    difference is worth. A study that was interrupted continues when it is asked for again with the
    same --run-dir.
    """

    study: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY")]
    """The name of a study, a .toml file, or a study's folder."""
    tasks: Annotated[tuple[str, ...], default("the file's")] = ()
    """Tasks to train, as for `surefoot train`."""
    seeds: Annotated[int | None, default("10, or the file's")] = None
    """Seeds of each arm."""
    first_seed: Annotated[int | None, default("0, or the file's")] = None
    """The first of them: what a study chooses is judged on other seeds."""
    total_steps: Annotated[int | None, default("the task's")] = None
    """Environment steps of each run."""
    arms: Annotated[tuple[str, ...], default("all")] = ()
    """Only these arms (the baseline is always among them)."""
    tune_lr: Annotated[int | None, default("none")] = None
    """Let every arm choose among this many learning rates first."""
    evaluations: Annotated[int | None, default("20, or the file's")] = None
    """Times a run's policy is played."""
    episodes: Annotated[int | None, default("10, or the file's")] = None
    """Episodes each time."""
    run_dir: Annotated[Path | None, default("studies/STUDY")] = None
    """The study's folder."""
    workers: Annotated[int | None, default("one for each core")] = None
    """Processes at once."""
    retry_failed: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Do failed runs again."""
    ray: Annotated[tuple[str, ...] | None, default("", metavar="[ADDRESS]")] = None
    """Run on a Ray cluster: HOST:PORT of its head; without ADDRESS on this machine."""


def parse(argv: Sequence[str]) -> Arguments:
    """The command line."""
    from surefoot.study.presets import STUDIES

    questions = "\n".join(f"  {name:<24}{make().question}" for name, make in STUDIES.items())
    about = f"{inspect.getdoc(Arguments)}\n\nStudies:\n{questions}"
    return read(Arguments, "study", argv, description=about)


def main(argv: Sequence[str]) -> int:
    """Run or continue a study; 0 at its end, 130 if it was stopped before."""
    arguments = parse(argv)
    from surefoot.study.plan import check
    from surefoot.study.run_study import StudyFolder, run_study

    study, run_dir = plan(arguments)
    check(study)
    shares = {task: shares_program(study, task) for task in study.tasks}
    folder = StudyFolder(run_dir, study)
    executor = executor_of(arguments.workers, arguments.ray)
    runs = len(study.tasks) * len(study.arms) * study.seeds
    say(
        f"{study.name}: {len(study.tasks)} task(s) x {len(study.arms)} arms x {study.seeds} seeds = "
        f"{runs} runs, by {executor.describe()}; folder: {run_dir}"
    )
    with StopOnSignal("stopping; what is finished is kept") as stop, folder:
        done = run_study(
            folder,
            executor,
            shares_program=shares.__getitem__,
            progress=Progress(executor.workers),
            should_stop=stop,
            retry_failed=arguments.retry_failed,
        )
        if done is None:
            say(f"\nStopped. To continue: {' '.join(_again(study, run_dir, arguments))}")
            return stop.code or 1
        finish(folder, *done)
    return 0


def _again(study: Any, run_dir: Path, arguments: Arguments) -> list[str]:
    """The command that continues a study; your own code must be named again."""
    from surefoot.envs.tasks import names_code

    words = ["surefoot study", str(run_dir)]
    if any(names_code(task) for task in study.tasks):
        words += ["--tasks", *study.tasks]
    if arguments.ray is not None:
        words += ["--ray", *arguments.ray]
    return words


def plan(arguments: Arguments) -> tuple[Any, Path]:
    """The study that the command line asks for, not yet checked, and its folder."""
    from surefoot.study.plan import Study, parse_study, task_options, with_total_steps
    from surefoot.study.presets import STUDIES, TASK_PRESETS, study_preset
    from surefoot.study.run_study import STUDY

    name, given = arguments.study, user_path(arguments.study)
    run_dir, asked = arguments.run_dir, arguments.tasks
    if (given / STUDY).is_file():
        run_dir, given = run_dir or given, given / STUDY
    shared: Mapping[str, Any] = {}
    if given.suffix == ".toml" or (given.name != name and not given.is_dir()):
        study, shared = parse_study(
            read_text(given), where=str(given), presets=PRESETS, asked=asked
        )
        run_dir = run_dir or Path("studies") / given.stem
    elif given.is_dir() and name not in STUDIES:
        raise UserError(f"folder {name!r} holds no study (it has no {STUDY})")
    else:
        preset = study_preset(name)
        study = Study(
            name,
            {},
            preset.arms,
            preset.baseline,
            _PRESET_SEEDS,
            as_it_comes=True,
            question=preset.question,
        )
        run_dir = run_dir or Path("studies") / name
    if asked:
        own = {
            task: {"preset": TASK_PRESETS[task]} if task in TASK_PRESETS else {} for task in asked
        }
        new = {task: task_options(task, x, shared, PRESETS) for task, x in own.items()}
        bounds = {task: pair for task, pair in study.bounds.items() if task in asked}
        tasks = {task: study.tasks.get(task, new[task]) for task in asked}
        study = replace(study, tasks=tasks, bounds=bounds)
    if arguments.total_steps is not None:
        study = with_total_steps(study, arguments.total_steps)
    numbers = ("seeds", "first_seed", "tune_lr", "evaluations", "episodes")
    changes = {n: getattr(arguments, n) for n in numbers if getattr(arguments, n) is not None}
    return replace(study, **changes, arms=_chosen(study, arguments.arms)), user_path(run_dir)


def _chosen(study: Any, names: Sequence[str] | None) -> Mapping[str, Any]:
    from surefoot.errors import check_names

    if not names:
        return study.arms
    check_names(names, study.arms, what=f"arm of {study.name} ({', '.join(study.arms)}):")
    return {k: v for k, v in study.arms.items() if k in names or k == study.baseline}


def shares_program(study: Any, task: str) -> bool:
    """Whether all seeds of a task can be trained in one program: it is written in JAX.

    Raises:
        ValueError: the task cannot be made, or an arm's options do not fit it.
    """
    from surefoot.agent import make_agent
    from surefoot.training import environments

    with environments(task, study.tasks[task].replace(num_envs=1)) as env:
        for arm in study.arms:
            try:
                make_agent(study.config(task, arm), env.spec)
            except UserError as error:
                raise UserError(f"arm {arm!r}: {error}") from None
        return env.spec.in_graph and not env.spec.needs_float64


def executor_of(workers: int | None, ray: Sequence[str] | None) -> Executor:
    """Who does the runs: processes of this machine, or a Ray cluster if `--ray` was said."""
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers} must be at least 1")
    if ray is not None:
        if len(ray) > 1:
            raise UserError(f"--ray takes one address, not {', '.join(ray)}")
        if workers is not None:
            raise UserError(
                f"--workers {workers} with --ray: it is for processes on this machine, and a cluster does as "
                "many as it has cores; leave it out"
            )
        from surefoot.study.on_ray import OnRay

        return OnRay(*ray)
    from surefoot.study.executors import LocalProcesses

    return LocalProcesses(workers)


class Progress:
    """A line for each finished job.

    Args:
        workers: jobs at once.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def __call__(self, job: Job, results: Results) -> None:
        """Say what it gave and how long the rest may take."""
        result = results[job] or {"runs": {}, "errors": {}}
        seeds = "seed " + str(job.seeds[0])
        if len(job.seeds) > 1:
            seeds = f"seeds {job.seeds[0]} to {job.seeds[-1]}"
        finals = [run["final"] for run in result["runs"].values()]
        told = f"{sum(finals) / len(finals):,.1f}" if finals else ""
        if result["errors"]:
            first = next(iter(result["errors"].values())).splitlines()[0]
            told = "; ".join(x for x in (told, f"{len(result['errors'])} failed: {first}") if x)
        left = seconds_left(results, self._workers)
        rest = f", about {duration(left)} left" if left else ""
        done = sum(result is not None for result in results.values())
        say(f"[{done}/{len(results)}] {job.task}, {job.arm}, {seeds}: {told}{rest}")


def seconds_left(results: Results, workers: int) -> float:
    """How long the jobs that are not done may take; 0 where none is left, or nothing is known.

    A job takes as long a step as those that are done of its arm and task, else of its task, else all.
    """
    paces: dict[tuple[str, ...], list[float]] = {}
    for job, result in results.items():
        if result and not result["errors"] and (seconds := result.get("wall_time_s")):
            for kind in _kinds(job):
                paces.setdefault(kind, []).append(seconds / job.steps)
    known = [
        job.steps * sum(pace) / len(pace)
        for job, result in results.items()
        if not result and (pace := next((paces[k] for k in _kinds(job) if k in paces), None))
    ]
    return max(sum(known) / workers, *known) if known else 0.0


def _kinds(job: Job) -> tuple[tuple[str, ...], ...]:
    """What a job's pace is like, the nearest first."""
    return (job.task, job.arm), (job.task,), ()


def duration(seconds: float) -> str:
    """E.g. `45 s`, `12 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def finish(
    folder: Any, results: Sequence[Mapping[str, Any]], rates: Mapping[Any, float]
) -> dict[str, Any]:
    """Write results.json, results.csv and report.html, print what the study shows, and return it."""
    import sys

    from surefoot.files import write_json, write_text
    from surefoot.services.run_folder import describe
    from surefoot.study.report import study_page
    from surefoot.study.results import analyse, interval, score_form, to_csv

    path, found = folder.path, analyse(folder.study, results, rates)
    write_json(path / "results.json", found)
    write_text(path / "results.csv", to_csv(results))
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    write_json(path / "provenance.json", describe(command, study=folder.study.name))
    write_text(path / "report.html", study_page(path))
    say("")
    for task, arms in found["tasks"].items():
        baseline = arms[found["baseline"]]
        if "mean" in baseline:
            say(f"{task}, {found['baseline']}: mean {interval(baseline['mean'], score_form(arms))}")
        for arm in arms.values():
            if "sentence" in arm:
                say(f"  {arm['sentence']}")
    if found["failed"]:
        say(f"{len(found['failed'])} run(s) failed: see the report")
    say(f"\nReport: {path / 'report.html'}\nNumbers: {path / 'results.json'}, results.csv")
    return found
