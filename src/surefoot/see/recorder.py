"""A process that makes a video beside a training run: `python -m surefoot.see.recorder JOB`, JOB being JSON.

It works when nobody else does and a third of the time at most, until SIGCONT says that the run is over; it
ends with whoever started it, and says in a line what is wrong.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from pathlib import Path

from surefoot.errors import UserError
from surefoot.processes import end_with_parent, step_back
from surefoot.services.videos import REFUSED

_NICENESS = 19
_RESTS = 2.0  # times as long as it works, which empties the caches of those who share them


class _Pause:
    """Rests after each frame, while the run goes on."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._since = time.monotonic()
        with contextlib.suppress(AttributeError):  # a system without it
            signal.signal(signal.SIGCONT, lambda *_: self._over.set())

    def __call__(self) -> None:
        self._over.wait(_RESTS * (time.monotonic() - self._since))
        self._since = time.monotonic()


def main() -> int:
    """Make the video."""
    end_with_parent()
    step_back(_NICENESS)
    pause, job = _Pause(), json.loads(sys.argv[1])
    from surefoot.see.choice import Choice
    from surefoot.see.video import Shot, film

    choice = Choice(run=Path(job["run"]), task=job["task"], env_options=tuple(job["env_options"]))
    try:
        film(choice, Path(job["file"]), Shot(), log=lambda text: None, pause=pause)
    except UserError as error:
        print(error, file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
