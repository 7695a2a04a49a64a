"""TensorBoard: event files in `tensorboard/` of the run folder (`tensorboard --logdir runs`)."""

from __future__ import annotations

import html
import uuid
from collections.abc import Mapping
from typing import Any

from tensorboardX import SummaryWriter

from surefoot.services.loggers.adapter import About, Logger

_FLUSHED_EVERY_S = 5


class TensorBoard(Logger):
    """One file of events for each time that the run was begun or went on.

    Args:
        about: the run.
    """

    def __init__(self, about: About) -> None:
        # what TensorBoard has of later steps than the run goes on from, it forgets
        later = about.step + 1 if about.step else None
        # files are named by the second in which they begin, and the last one of a name would be the only one
        own = f".{about.step}.{uuid.uuid4().hex[:6]}"
        self._writer = SummaryWriter(
            str(about.folder / "tensorboard"),
            purge_step=later,
            flush_secs=_FLUSHED_EVERY_S,
            filename_suffix=own,
        )
        for tag, facts in (("config", about.options), ("provenance", about.flat())):
            self._writer.add_text(tag, _table(facts), about.step)
        self._writer.flush()

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """A scalar for each."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self, how: str) -> None:
        """Close the file."""
        self._writer.close()


def open_run(about: About) -> TensorBoard:
    """Begin, or go on."""
    return TensorBoard(about)


def _table(facts: Mapping[str, Any]) -> str:
    """Facts as a table of Markdown, in which they are text."""
    cells = (
        f"<code>{html.escape(str(value)).replace('|', '&#124;')}</code>" for value in facts.values()
    )
    rows = (
        f"| {name} | {' '.join(cell.split())} |" for name, cell in zip(facts, cells, strict=True)
    )
    return "\n".join(["| | |", "|---|---|", *rows])
