"""Ending early with everything saved: Ctrl-C, and what a scheduler sends before it ends a job."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Any

# exit codes by signal; USR1 is what Slurm and others send ahead of time, and means TERM here
_CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 143}


class StopOnSignal:
    """True once SIGINT (Ctrl-C), SIGTERM or SIGUSR1 has arrived; the second one ends the process.

    Args:
        note: what happens now, said after the first.

    Attributes:
        code: the exit code that goes with it; 0 if none has arrived.
    """

    def __init__(self, note: str = "finishing this iteration, then saving") -> None:
        self.code, self._say = 0, note
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether to stop after this iteration."""
        return self.code != 0

    def __enter__(self) -> StopOnSignal:
        for name in _CODES:
            number = getattr(signal, name, None)  # Windows has no SIGUSR1
            if number is not None:
                self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _heard(self, number: int, *_: object) -> None:
        code = _CODES[signal.Signals(number).name]
        if self.code and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.code:
            os._exit(code)
        self.code = code
        again = "Ctrl-C again" if number == signal.SIGINT else "the same signal again"
        with contextlib.suppress(OSError):  # nobody may be listening any more
            print(f"\n{self._say} ({again}: leave now)", file=sys.stderr, flush=True)
