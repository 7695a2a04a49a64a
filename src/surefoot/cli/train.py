"""`surefoot train TASK`: options from a preset, then a TOML file, then the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from surefoot.cli.arguments import default
from surefoot.cli.presets import PRESETS, preset
from surefoot.cli.resume import report
from surefoot.cli.signals import StopOnSignal
from surefoot.config import Config, from_mapping, validate
from surefoot.config_file import read_toml
from surefoot.errors import UserError


@dataclass(frozen=True)
class Arguments:
    """Train a policy on a task."""

    task: Annotated[str | None, tyro.conf.Positional] = None
    """An EnvPool id, gymnasium:ID, gymnax:ID, probe:NAME, or module:attribute for your own code.
    May be left out if the --config file names it."""
    preset: str | None = None
    """Options to start from instead of the defaults."""
    config: Path | None = None
    """A TOML file of options, such as the config.toml of an earlier run."""
    run_dir: Annotated[Path | None, default("runs/TASK-seedS-DATE-TIME")] = None
    """The run folder. It is never overwritten."""
    num_seeds: int | None = None
    """Train this many seeds in one process (tasks written in JAX: gymnax:, probe:, your own)."""
    options: tyro.conf.OmitArgPrefixes[Config] = field(default_factory=Config)
    """In the order of a run: collecting, networks, normalisation, objective, optimisation."""


def parse(argv: Sequence[str]) -> tuple[str, Path | None, int | None, Config]:
    """Task, run folder, number of seeds and validated options.

    Raises:
        ValueError: a file, preset or value that cannot be right.
        SystemExit: help was asked for, or an option is not known.
    """
    base, task = options_from(argv)
    arguments = tyro.cli(
        Arguments,
        prog="surefoot train",
        description=f"Train a policy on a task. Presets: {', '.join(PRESETS)}.",
        args=list(argv),
        default=Arguments(task=task, options=base),
    )
    if arguments.task is None:
        raise UserError(
            "no TASK given (it comes first); for example `surefoot train CartPole-v1` "
            "(`surefoot tasks` lists them)"
        )
    run_dir = arguments.run_dir and arguments.run_dir.expanduser()
    return arguments.task, run_dir, arguments.num_seeds, validate(arguments.options)


def options_from(argv: Sequence[str]) -> tuple[Config, str | None]:
    """The options that --preset and --config stand for, which become the defaults of the rest."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--preset")
    early.add_argument("--config")
    known, _ = early.parse_known_args(list(argv))
    base = preset(known.preset) if known.preset else Config()
    if known.config is None:
        return base, None
    options: dict[str, Any] = read_toml(known.config)
    task = options.pop("task", None)
    if task is not None and _names_code(task):
        task = None  # an import path is taken from the command line alone
    return from_mapping(options, base=base), task


def _names_code(task: str) -> bool:
    from surefoot.envs.tasks import names_code

    return names_code(task)


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
    print(f"\n{ended} {len(results)} seeds; run folders: {results[0].run_dir.parent}/seed-*")
    return 0 if finished else stop.code or 1
