"""`surefoot bench-policy FOLDER`: how long an exported policy takes for an action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from surefoot.cli.arguments import read
from surefoot.errors import UserError
from surefoot.machine import user_path
from surefoot.terminal import say


@dataclass(frozen=True)
class Arguments:
    """Measure how long an exported policy takes for an action, in each of its forms, on one core."""

    folder: Annotated[Path, tyro.conf.Positional]
    """What `surefoot export` wrote."""
    calls: int = 5000
    """Actions to time."""


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    arguments = read(Arguments, "bench-policy", argv)
    if arguments.calls < 1:
        raise UserError(f"calls = {arguments.calls} must be at least 1")
    from surefoot.ship.latency import latency

    folder = user_path(arguments.folder)
    inside = folder / "export"
    found = latency(inside if inside.is_dir() else folder, arguments.calls)
    say(f"{'us an action':<14}{'p50':>10}{'p99':>10}{'p99.9':>10}")
    for form, seconds in found.items():
        say(f"{form:<14}" + "".join(f"{1e6 * s:>10.1f}" for s in seconds))
    return 0
