"""`surefoot resume RUN`: go on with a run that was interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from surefoot.cli.arguments import default, read
from surefoot.cli.signals import StopOnSignal
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
    task: Annotated[str | None, default("the run's")] = None
    """The task again; needed if it is your own code."""


def main(argv: Sequence[str]) -> int:
    """Resume; signals end it as they end `surefoot train`."""
    arguments = read(Arguments, "resume", argv)
    from surefoot.api import resume

    with StopOnSignal() as stop:
        result = resume(
            user_path(arguments.run),
            task=arguments.task,
            total_steps=arguments.total_steps,
            from_step=arguments.from_step,
            should_stop=stop,
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
    end = "Trained" if result.finished else "Stopped early, everything saved,"
    say(f"\n{end} {result.step:,} steps; run folder: {result.run_dir}")
    if not result.finished:
        say(f"To go on: surefoot resume {result.run_dir}")
    say(f"Next: surefoot eval {result.run_dir}")
    return 0 if result.finished else stop.code or 1
