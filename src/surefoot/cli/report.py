"""`surefoot report FOLDER` of a study or a tuning, or `surefoot report RUN...`: one page with all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from surefoot.cli.arguments import default, read
from surefoot.errors import UserError
from surefoot.machine import user_path
from surefoot.terminal import say


@dataclass(frozen=True)
class Arguments:
    """Write a page of charts from a study, a tuning, or one or several runs. It opens in any browser,
    without a network.
    """

    folders: Annotated[
        tuple[Path, ...], tyro.conf.Positional, default("", metavar="FOLDER ...")
    ] = ()
    """The folder of a study, of a tuning, or of runs."""
    output: Annotated[Path | None, default("report.html in the first folder")] = None
    """The page's file."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace the file even if it is no page of Surefoot's."""


def main(argv: Sequence[str]) -> int:
    """Write the page and say where it is."""
    arguments = read(Arguments, "report", argv)
    folders = [user_path(folder) for folder in arguments.folders]
    if not folders:
        raise UserError("no folder given; for example `surefoot report studies/clipping`")
    from surefoot.pages.frame import write_page
    from surefoot.pages.report import write_report
    from surefoot.study.report import study_page
    from surefoot.study.run_study import STUDY
    from surefoot.tune.plan import TUNING
    from surefoot.tune.report import tuning_page

    studies = [folder for folder in folders if (folder / STUDY).is_file()]
    tunings = [folder for folder in folders if (folder / TUNING).is_file()]
    for kind, found in (("study", studies), ("tuning", tunings)):
        if found and len(folders) > 1:
            raise UserError(f"one {kind} at a time: {str(found[0])!r} is a {kind}; give it alone")
    output = user_path(arguments.output) if arguments.output else None
    if studies or tunings:
        file = output or folders[0] / "report.html"
        text = study_page(folders[0]) if studies else tuning_page(folders[0])
        write_page(file, text, overwrite=arguments.overwrite)
    else:
        file = write_report(folders, output, overwrite=arguments.overwrite)
    say(f"Report: {file}")
    return 0
