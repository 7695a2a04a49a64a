"""What processes that work for another share; imports the standard library alone."""

from __future__ import annotations

import contextlib
import os
import signal
import threading


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


def how_it_ended(code: int) -> str:
    """A process's exit code in words, to follow "it"."""
    if code >= 0:
        return f"ended with exit code {code}"
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-code).name}{hint}"
