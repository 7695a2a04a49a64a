"""A process that makes a video beside a training run: `python -m surefoot.see.recorder JOB`, JOB being JSON.

It works when nobody else does, ends with whoever started it, and says in a line what is wrong.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from surefoot.errors import UserError
from surefoot.processes import end_with_parent, step_back
from surefoot.services.videos import REFUSED

_NICENESS = 19


def main() -> int:
    """Make the video."""
    end_with_parent()
    step_back(_NICENESS)
    job = json.loads(sys.argv[1])
    from surefoot.see.choice import Choice
    from surefoot.see.video import Shot, film

    choice = Choice(run=Path(job["run"]), task=job["task"], env_options=tuple(job["env_options"]))
    try:
        film(choice, Path(job["file"]), Shot(), log=lambda text: None)
    except UserError as error:
        print(error, file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
