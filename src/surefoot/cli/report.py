"""`surefoot report STUDY` or `surefoot report RUN...`: one page with everything in it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from surefoot.errors import UserError


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="surefoot report",
        description="Write a page of charts from a study, or from one or several runs. It opens in "
        "any browser, without a network.",
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a study, or runs")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="default: report.html in FOLDER"
    )
    return parser.parse_args(list(argv))


def main(argv: Sequence[str]) -> int:
    """Write the page and say where it is."""
    arguments = parse(argv)
    folders = [folder.expanduser() for folder in arguments.folders]
    from surefoot.study.conduct import STUDY
    from surefoot.study.report import runs_page, study_page

    studies = [folder for folder in folders if (folder / STUDY).is_file()]
    if studies and len(folders) > 1:
        raise UserError(f"one study at a time: {str(studies[0])!r} is a study; give it alone")
    page = study_page(folders[0]) if studies else runs_page(folders)
    file = arguments.output or folders[0] / "report.html"
    file.write_text(page, encoding="utf-8")
    print(f"Report: {file}")
    return 0
