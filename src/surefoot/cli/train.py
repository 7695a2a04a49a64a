"""`surefoot train TASK`: options from a preset, then a TOML file, then the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from surefoot.cli.arguments import default, from_file
from surefoot.cli.options import read_with_options
from surefoot.cli.presets import PRESETS
from surefoot.cli.resume import report
from surefoot.cli.signals import StopOnSignal
from surefoot.config import Config
from surefoot.errors import UserError
from surefoot.machine import user_path
from surefoot.terminal import say


@dataclass(frozen=True)
class Arguments:
    """Train a policy on a task."""

    task: Annotated[str | None, tyro.conf.Positional, from_file()] = None
    """An EnvPool id, gymnasium:ID, gymnax:ID, robot:NAME, probe:NAME, or FILE.py:NAME for your own code.
    May be left out if the --config file names it."""
    preset: str | None = None
    """Options to start from instead of the defaults."""
    config: Path | None = None
    """A TOML file of options, such as the config.toml of an earlier run."""
    run_dir: Annotated[Path | None, default("runs/TASK-seedS-DATE-TIME")] = None
    """The run folder. It is never overwritten."""
    num_seeds: int | None = None
    """Train this many seeds in one process (tasks written in JAX: gymnax:, probe:, your own)."""


def parse(argv: Sequence[str]) -> tuple[str, Path | None, int | None, Config]:
    """Task, run folder, number of seeds and validated options.

    Raises:
        ValueError: a file, preset or value that cannot be right.
        SystemExit: help was asked for, or an option is not known.
    """
    about = f"Train a policy on a task. Presets: {', '.join(PRESETS)}."
    arguments, config = read_with_options(Arguments, "train", argv, description=about)
    if arguments.task is None:
        raise UserError(
            "no TASK given (it comes first); for example `surefoot train CartPole-v1` "
            "(`surefoot tasks` lists them)"
        )
    run_dir = arguments.run_dir and user_path(arguments.run_dir)
    return arguments.task, run_dir, arguments.num_seeds, config


def main(argv: Sequence[str]) -> int:
    """Train; a signal once ends the run after the present iteration with everything saved."""
    task, run_dir, num_seeds, config = parse(argv)
    from surefoot.api import train, train_seeds

    stop = StopOnSignal()
    common = {"config": config, "run_dir": run_dir, "should_stop": stop}
    if num_seeds is None:
        with stop:
            result = train(task, **common)
        return report(result, stop)
    with stop:
        results = train_seeds(task, num_seeds=num_seeds, **common)
    finished = all(result.finished for result in results)
    ended = "Trained" if finished else "Stopped early:"
    say(f"\n{ended} {len(results)} seeds; run folders: {results[0].run_dir.parent}/seed-*")
    return 0 if finished else stop.code or 1
