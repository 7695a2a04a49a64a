"""`surefoot resume RUN`: go on with a run that was interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from surefoot.cli.arguments import default, read
from surefoot.cli.signals import StopOnSignal
from surefoot.errors import UserError
from surefoot.machine import user_path
from surefoot.terminal import say


@dataclass(frozen=True)
class Arguments:
    """Go on with a run that was interrupted, from its newest undamaged checkpoint."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    total_steps: Annotated[int | None, default("the run's")] = None
    """A new end for the run, in environment steps; a finished run needs one."""
    from_step: Annotated[int | None, default("the newest sound one")] = None
    """Go on from the checkpoint at this step; later ones are put aside."""
    set: Annotated[tuple[str, ...], default("the run's options", metavar="OPTION=VALUE")] = ()
    """Options that are others from here on, such as learning_rate=1e-4; not all may be."""
    task: Annotated[str | None, default("the run's")] = None
    """The task again; needed if it is your own code."""


def main(argv: Sequence[str]) -> int:
    """Resume; signals end it as they end `surefoot train`."""
    arguments = read(Arguments, "resume", argv)
    changes = read_changes(arguments.set)
    from surefoot.api import resume

    with StopOnSignal() as stop:
        result = resume(
            user_path(arguments.run),
            task=arguments.task,
            total_steps=arguments.total_steps,
            from_step=arguments.from_step,
            should_stop=stop,
            **changes,
        )
    return report(result, stop)


def report(result: object, stop: StopOnSignal) -> int:
    """What training left, and what comes next; the exit code."""
    from surefoot.api import TrainResult
    from surefoot.services.policy_file import policy_step

    assert isinstance(result, TrainResult)
    if policy_step(result.run_dir) != result.step:  # the disk was full, as was said
        say(f"\nTrained {result.step:,} steps, and the policy could not be written.")
        return 1
    ended = result.finished or bool(result.reached)
    end = "Trained" if ended else "Stopped early, everything saved,"
    say(f"\n{end} {result.step:,} steps; run folder: {result.run_dir}")
    if result.reached:
        say(f"Ended early: {result.reached}")
    if not ended:
        say(f"To go on: surefoot resume {result.run_dir}")
    say(f"Next: surefoot eval {result.run_dir}")
    return 0 if ended else stop.code or 1


def read_changes(words: Sequence[str]) -> dict[str, Any]:
    """`OPTION=VALUE` as options; values are TOML, `none` stands for nothing.

    Raises:
        ValueError: what has no `=`, is given twice, or `total_steps`, which has a flag of its own.
    """
    from surefoot.config import parse_options

    for word in words:
        name, equals, _ = word.partition("=")
        if not equals:
            raise UserError(f"--set {word}: write OPTION=VALUE, such as learning_rate=1e-4")
        if name == "total_steps":
            raise UserError(f"--set {word}: the end of a run has a flag of its own: --total-steps")
        if [other.partition("=")[0] for other in words].count(name) > 1:
            raise UserError(f"--set {name}: given more than once")
    values = parse_options(words, what="--set")
    return {name: None if value in ("none", "None") else value for name, value in values.items()}
