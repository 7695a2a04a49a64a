"""A worker process: `python -m surefoot.study.worker STUDY` does the job it reads from its input.

It claims a core of its own, so that workers do not slow one another and a result does not depend on
how many there are; and it ends when whoever started it does.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import tempfile
import traceback
from pathlib import Path

from filelock import FileLock, Timeout

from surefoot.processes import end_with_parent


def claim_core() -> FileLock | None:
    """Run on one core, where the system can do that, and hold the claim; None where it cannot.

    A core that no other worker has, of this study or another; where all have one, the core that has fewest.
    """
    if sys.platform != "linux":
        return None
    cores = sorted(os.sched_getaffinity(0))
    folder = Path(tempfile.gettempdir()) / f"surefoot-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for place, core in ((place, core) for place in itertools.count() for core in cores):
        claim = FileLock(folder / f"core-{core}-{place}.lock")
        with contextlib.suppress(Timeout):
            claim.acquire(timeout=0)
            os.sched_setaffinity(0, {core})
            return claim
    raise AssertionError


def main() -> int:
    """Read a job, do it; 0 if it left a result, the run's failure included."""
    study = Path(sys.argv[1])
    text = sys.stdin.readline()
    end_with_parent()
    claim = claim_core()
    # what measures or sizes itself by the cores must be imported behind the claim
    from surefoot.study.jobs import Job, run_job

    run_job(Job.from_json(text), study)
    if claim is not None:
        claim.release()
    return 0


if __name__ == "__main__":
    code = 1
    try:
        code = main()
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a simulator's threads need not be waited for
