"""What a logger is told of a run, and what it does; an adapter is a file `to_NAME.py` with `open_run`."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class About:
    """The run that is logged.

    Attributes:
        folder: the run folder.
        options: the task and every option, as in config.toml.
        facts: where the run comes from, as in meta.json.
        step: where the run begins, or goes on.
        id: what the logger called the run when it began; None if it begins now.
    """

    folder: Path
    options: Mapping[str, Any]
    facts: Mapping[str, Any]
    step: int
    id: str | None

    @property
    def name(self) -> str:
        """What people call the run."""
        return self.folder.resolve().name

    def flat(self) -> dict[str, str]:
        """The facts as texts, `versions.jax` and so on."""
        found: dict[str, str] = {}

        def add(prefix: str, value: Any) -> None:
            if isinstance(value, Mapping):
                for name, inner in value.items():
                    add(f"{prefix}.{name}" if prefix else str(name), inner)
            elif isinstance(value, list):
                found[prefix] = " ".join(map(str, value))
            elif value is not None:
                found[prefix] = str(value)

        add("", {name: value for name, value in self.facts.items() if name != "resumed"})
        return found


class Logger(abc.ABC):
    """An open run of a logger; may raise whatever it likes, and take its time.

    Attributes:
        id: by which `open_run` finds the run again; empty where the run folder alone tells.
    """

    id: str = ""

    @abc.abstractmethod
    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log the numbers of an iteration, by the names of metrics.jsonl."""

    @abc.abstractmethod
    def close(self, how: str) -> None:
        """The run has ended: `finished`, `stopped` or `failed`; write what is left."""
