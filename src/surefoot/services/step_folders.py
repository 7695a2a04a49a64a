"""Folders of a run that are named for a step of it: `checkpoints/step-NNNNNNNNNNNN`, and `best/` likewise."""

from __future__ import annotations

import re
from pathlib import Path

CHECKPOINTS, BEST = "checkpoints", "best"
_NAME = re.compile(r"step-(\d{12,18})")


def step_name(step: int) -> str:
    """The name of the folder for a step."""
    return f"step-{step:012d}"


def by_step(folder: Path) -> list[tuple[int, Path]]:
    """Such folders by number (never by name), newest first."""
    if not folder.is_dir():
        return []
    named = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir()]
    return sorted(((int(m.group(1)), path) for m, path in named if m), reverse=True)


def later_than(run_folder: Path, step: int) -> list[Path]:
    """A run's checkpoints and best policies, sound or not, of later steps; newest first."""
    found = [x for kind in (CHECKPOINTS, BEST) for x in by_step(run_folder / kind) if x[0] > step]
    return [path for _, path in sorted(found, reverse=True)]
