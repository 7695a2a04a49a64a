"""`surefoot tune TASK`: options that are searched for, and what the best are worth on fresh seeds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from surefoot.cli.arguments import default, read
from surefoot.cli.signals import StopOnSignal
from surefoot.cli.study import Progress as JudgmentProgress
from surefoot.cli.study import duration, executor_of, finish, shares_program
from surefoot.errors import UserError
from surefoot.machine import user_path
from surefoot.reading import read_text
from surefoot.terminal import say

if TYPE_CHECKING:
    from surefoot.study.executors import Executor
    from surefoot.tune.plan import Trial, Tuning
    from surefoot.tune.results import Found


@dataclass(frozen=True)
class Arguments:
    """Search for options that train a task well, then train the best and the default ones on fresh
    seeds and say what the difference is worth. A search that was interrupted continues when it is
    asked for again; several processes may work in the same --run-dir.
    """

    task: Annotated[str, tyro.conf.Positional]
    """A task, as for `surefoot train`."""
    space: Annotated[Path | None, default("shipped, by the task's actions")] = None
    """A TOML file that says what is searched."""
    trials: int = 50
    """Combinations of options to try."""
    seeds: int = 1
    """Seeds that each is trained with."""
    fresh_seeds: int = 5
    """Seeds that the best and the default options are judged on."""
    total_steps: Annotated[int | None, default("the task's")] = None
    """Environment steps of each training."""
    evaluations: int = 20
    """Times a training's policy is played."""
    episodes: int = 10
    """Episodes each time."""
    run_dir: Annotated[Path | None, default("tuning/TASK")] = None
    """The tuning's folder."""
    workers: Annotated[int | None, default("one for each core")] = None
    """Trainings at once."""
    storage: Annotated[str | None, default("a file in the folder")] = None
    """Address of a database for the record of trials, such as postgresql://HOST/NAME."""
    ray: Annotated[tuple[str, ...] | None, default("", metavar="[ADDRESS]")] = None
    """Train on a Ray cluster: HOST:PORT of its head; without ADDRESS on this machine."""
    sampler_seed: int = 0
    """Seed of the random numbers that options are chosen with."""


def main(argv: Sequence[str]) -> int:
    """Search or continue; 0 at its end, 1 if no trial came to one, 130 if it was stopped before."""
    arguments = read(Arguments, "tune", argv)
    from surefoot.study.plan import slug
    from surefoot.tune.by_optuna import Book, check_storage, import_optuna
    from surefoot.tune.plan import claim_folder
    from surefoot.tune.results import Found
    from surefoot.tune.search import search

    import_optuna()
    tuning = plan(arguments)
    path = user_path(arguments.run_dir or Path("tuning") / slug(arguments.task))
    executor = executor_of(arguments.workers, arguments.ray)
    progress = Progress(arguments, executor.workers)
    if arguments.storage is not None:
        check_storage(arguments.storage)
    claim_folder(path, tuning)
    book = Book(tuning, path, arguments.trials, arguments.storage)
    say(
        f"{tuning.task}: {arguments.trials} trial{'s' * (arguments.trials > 1)} of "
        f"{', '.join(tuning.space)}, {tuning.seeds} seed(s) each, by {executor.describe()}; folder: {path}"
    )
    with StopOnSignal("stopping; what is finished is kept") as stop, book:
        search(
            book,
            tuning,
            path,
            executor=executor,
            progress=progress,
            should_stop=stop,
        )
        command = [Path(sys.argv[0]).name, *sys.argv[1:]]
        found = Found(path, tuning, book.trials(), book.importance(), command, book.why_ended)
        found.write()
        return _conclude(found, arguments, executor, stop)


def _conclude(found: Found, arguments: Arguments, executor: Executor, stop: StopOnSignal) -> int:
    """Say what was found and judge the best on fresh seeds, if that is left to this process."""
    from surefoot.files import hold
    from surefoot.tune.results import BEST, REPORT, judge

    path, best = found.path, found.best
    if best is not None:
        whose = ", the default options" * best.is_default
        say(f"\nBest: trial {best.number}{whose}, {best.score:.5g}; options: {path / BEST}")
        if found.why_ended:
            say(f"The search ended there: {found.why_ended}.")
    others = sum(trial.state == "running" for trial in found.trials)
    if stop():
        return _stopped(stop)
    if others:
        say(f"{others} trial(s) are at work in other processes; who ends last judges the best")
        return 0
    if best is None:
        reasons = [trial.reason for trial in found.trials if trial.reason]
        last = f"; the last one: {reasons[-1]}" if reasons else ""
        say(f"no trial came to its end{last}", stderr=True)
        return 1
    try:
        lock = hold(path, doing="judging the best options")
    except UserError as error:  # it ended at the same time
        say(str(error))
        return 0
    try:
        judged = judge(
            found,
            best,
            seeds=arguments.fresh_seeds,
            executor=executor,
            shares_program=shares_program,
            progress=JudgmentProgress(executor.workers),
            should_stop=stop,
        )
        if judged is None:
            return _stopped(stop)
        found.write(finish(*judged, {}))
    finally:
        lock.release()
    say(f"\nReport of the tuning: {path / REPORT}")
    return 0


def _stopped(stop: StopOnSignal) -> int:
    say("\nStopped. The same command continues.")
    return stop.code or 1


def plan(arguments: Arguments) -> Tuning:
    """The tuning that the command line asks for.

    Raises:
        ValueError: numbers, options, a space or a task that cannot be right.
    """
    from surefoot.agent import make_agent
    from surefoot.config import from_mapping
    from surefoot.envs.tasks import own_options, refuse_code
    from surefoot.study.plan import FIRST_TUNING_SEED
    from surefoot.training import environments
    from surefoot.tune.plan import Tuning, check
    from surefoot.tune.space import SPACES, parse_space, shipped_space

    for name, least in (("trials", 1), ("workers", 1), ("fresh_seeds", 2)):
        number = getattr(arguments, name)
        if number is not None and not least <= number < FIRST_TUNING_SEED:
            flag = name.replace("_", "-")
            raise UserError(
                f"--{flag} {number} must be at least {least}, and less than {FIRST_TUNING_SEED:,}"
            )
    space, shared = None, {}
    if arguments.space is not None:
        file = user_path(arguments.space)
        space, shared = parse_space(read_text(file), where=str(arguments.space))
    if arguments.total_steps is not None:
        shared["total_steps"] = arguments.total_steps
    base = from_mapping(shared, base=own_options(arguments.task))
    refuse_code(arguments.task, base.env_options)
    with environments(arguments.task, base.replace(num_envs=1, env_workers=0)) as env:
        make_agent(base, env.spec)
        space = space or SPACES[shipped_space(arguments.task, env.spec.action.kind)]
    return check(
        Tuning(
            task=arguments.task,
            base=base.replace(seed=0),
            space=space,
            seeds=arguments.seeds,
            evaluations=arguments.evaluations,
            episodes=arguments.episodes,
            sampler_seed=arguments.sampler_seed,
            storage="file" if arguments.storage is None else "database",
        )
    )


class Progress:
    """A line for each trial that has ended.

    Args:
        arguments: how many there are to be.
        workers: trainings at once.
    """

    def __init__(self, arguments: Arguments, workers: int) -> None:
        self._arguments, self._workers = arguments, workers

    def __call__(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Say what it gave, the best until now, and how long the rest may take."""
        from surefoot.tune.plan import best_of

        if trial.state == "interrupted":
            return
        ended = [t for t in trials if t.counts and t.state != "running"]
        told = f"{trial.score:.5g}" if trial.state == "complete" else trial.state
        if trial.reason:
            told += f", {trial.reason.splitlines()[0]}"
        best = best_of(trials)
        best_told = f" (best {best.score:.5g}, trial {best.number})" if best else ""
        left = self._seconds_left(ended)
        rest = f", about {duration(left)} left" if left else ""
        total = self._arguments.trials
        say(f"[{len(ended)}/{total}] trial {trial.number}: {told}{best_told}{rest}")

    def _seconds_left(self, ended: Sequence[Trial]) -> float:
        """How long the other trials and the judgment may take, by those that have ended."""
        paces = [trial.seconds for trial in ended if trial.seconds]
        whole = [t.seconds for t in ended if t.seconds and t.state == "complete"] or paces
        if not paces:
            return 0.0
        left = max(0, self._arguments.trials - len(ended)) * sum(paces) / len(paces)
        training = sum(whole) / len(whole) / self._arguments.seeds
        return (left + 2 * self._arguments.fresh_seeds * training) / self._workers
