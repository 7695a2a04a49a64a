"""Trackio: its folder on this machine, or where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL says."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

import trackio

from surefoot.services.loggers.adapter import About, Logger


class Trackio(Logger):
    """One run, under a name that no other has: by its name Trackio goes on with it.

    Args:
        about: the run.
    """

    def __init__(self, about: About) -> None:
        self.id = about.id or f"{about.name}-{uuid.uuid4().hex[:6]}"
        self._run = trackio.init(
            "surefoot",
            name=self.id,
            group=str(about.options["task"]),
            config={**about.options, "provenance": about.flat()},
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """All of them at once."""
        self._run.log(dict(numbers), step=step)

    def close(self, how: str) -> None:
        """Write what is left."""
        self._run.finish()


def open_run(about: About) -> Trackio:
    """Begin, or go on."""
    return Trackio(about)
