"""`surefoot export RUN`: the policy as ONNX, C and NumPy files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from surefoot.cli.arguments import default, read
from surefoot.machine import user_path
from surefoot.terminal import say


@dataclass(frozen=True)
class Arguments:
    """Write a trained policy so that it runs without Surefoot, each form compared with the policy itself."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    best: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the run's best policy instead of its last one."""
    output: Annotated[Path | None, default("export in the run folder")] = None
    """The folder to write."""
    forms: tuple[Literal["numpy", "onnx", "c"], ...] = ("numpy", "onnx", "c")
    """What to write."""
    from_state: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Of a robot: from what it measures to its actuators' controls, with the task's own functions."""
    episodes: int = 10
    """Episodes to play for the scores in the model card; 0: none."""
    task: Annotated[str | None, default("the run's")] = None
    """The task; needed if it was trained on your own code."""
    license: str = ""
    """License of the policy, for the model card."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace an export that is there."""


def main(argv: Sequence[str]) -> int:
    """Export and say what was written."""
    arguments = read(Arguments, "export", argv)
    from surefoot.ship.export import export

    result = export(
        user_path(arguments.run),
        best=arguments.best,
        output=arguments.output and user_path(arguments.output),
        forms=arguments.forms,
        from_state=arguments.from_state,
        episodes=arguments.episodes,
        task=arguments.task,
        license=arguments.license,
        overwrite=arguments.overwrite,
    )
    for form, difference in result.differences.items():
        said = "not compared: there is no C compiler here"
        if difference is not None:
            said = f"differs from the policy by at most {difference:.1e}"
        say(f"{form:<6} {said}")
    say(f"Exported: {result.folder}")
    return 0
