"""What processes that work for another share; imports the standard library alone."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

_LONGEST = 10  # times its patience that a process is waited for, at most


def end_with_parent() -> None:
    """Leave when the input is closed, which the parent's death does too, even in the middle of something."""

    def wait() -> None:
        while os.read(0, 2**16):  # not sys.stdin, whose lock would be held when the process ends
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def step_back(niceness: int) -> None:
    """Work when others of this session do not need the cores.

    Linux may give every session its share of them first (autogroups), so a process in a session of its own
    would not be nice to others, however nice it is.
    """
    with contextlib.suppress(AttributeError, OSError):  # not on Windows
        os.nice(niceness)


class Patience:
    """How long a process that stepped back is waited for: time in which others had the cores hardly counts.

    Args:
        pid: the process.
        seconds: of time in which it could work.
    """

    def __init__(self, pid: int, seconds: float) -> None:
        self._pid, self._seconds = pid, seconds
        self._began, self._starved = time.monotonic(), starved_s(pid)

    def is_over(self) -> bool:
        """Whether it was waited for as long as that, or ten times as long in all."""
        took = time.monotonic() - self._began
        had_a_core = took - (starved_s(self._pid) - self._starved)
        return max(had_a_core, took / _LONGEST) >= self._seconds


def starved_s(pid: int) -> float:
    """Seconds that a process could have worked and had no core; 0 where the system does not say."""
    with contextlib.suppress(OSError, LookupError, ValueError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    return 0.0


def how_it_ended(code: int) -> str:
    """A process's exit code in words, to follow "it"."""
    if code >= 0:
        return f"ended with exit code {code}"
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-code).name}{hint}"
