"""The process behind a logger: takes rows as lines of JSON, and answers each once it is logged.

Run by `services.loggers.hook`. It may hang, print, or die without the run noticing more than its silence.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from surefoot.processes import step_back
from surefoot.reading import read_json, read_text, toml_table
from surefoot.services.loggers.adapter import About, Logger

_NICENESS = 19  # what else the machine does comes first


def main() -> None:
    """Log what comes until there is no more."""
    name, folder, step, identity = sys.argv[1:]
    rows, answers = _own_pipes()
    step_back(_NICENESS)

    def answer(**what: Any) -> None:
        answers.write(json.dumps(what).encode() + b"\n")
        answers.flush()

    def attempt(do: Callable[..., Any], *args: Any) -> Any:
        """What comes of it, or None where it fails, which is answered."""
        try:
            return do(*args)
        except BaseException as error:  # a library may exit
            answer(fault=f"{type(error).__name__}: {error}")
            return None

    adapter = attempt(importlib.import_module, f"surefoot.services.loggers.to_{name}")
    logger = adapter and attempt(
        lambda: adapter.open_run(about(Path(folder), int(step), identity or None))
    )
    if logger is None:
        return
    answer(id=logger.id)
    for row in rows:
        if "end" in row:
            attempt(logger.close, row["end"])
            break
        attempt(_log, logger, row)
        answer()
    else:  # the run was killed
        attempt(logger.close, "failed")
    answer(ended=True)


def about(folder: Path, step: int, identity: str | None) -> About:
    """What a logger is told of a run."""
    config, meta = folder / "config.toml", folder / "meta.json"
    options = toml_table(read_text(config), where=str(config))
    return About(folder, options, read_json(meta), step, identity)


def _log(logger: Logger, row: Mapping[str, Any]) -> None:
    numbers = {name: x for name, x in row.items() if x is not None and name != "step"}
    logger.log(row["step"], numbers)


def _own_pipes() -> tuple[Iterator[dict[str, Any]], Any]:
    """What comes and what is answered; libraries read from nowhere and print into the log."""
    rows, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    os.dup2(2, 1)
    return map(json.loads, rows), answers


if __name__ == "__main__":
    main()
