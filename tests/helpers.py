"""What tests of several floors need: a tiny run, a hook that keeps what it hears, a run's numbers."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from surefoot.config import Config, option_names
from surefoot.training import Hook

# the same task and shapes everywhere: what one test has compiled, the next one finds in the cache
PROBE = "probe:late-reward/continuous"
TINY = Config(
    total_steps=300,
    num_envs=4,
    num_steps=16,
    num_minibatches=4,
    num_epochs=2,
    actor_hidden=(8,),
    critic_hidden=(8,),
)


def described(section: type) -> dict[str, tuple[str, str]]:
    """What the text under each field of a section of options says: meaning, and source of the default."""
    (body,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for field, text in itertools.pairwise(body.body):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(text, ast.Expr), f"{ast.unparse(field)} has no text under it"
            assert isinstance(text.value, ast.Constant)
            words = " ".join(str(text.value.value).split())
            found = re.fullmatch(r"(.+) \[([^\]]+)\]", words)
            assert found is not None, f"no source in brackets at the end of: {words}"
            texts[ast.unparse(field.target)] = (found.group(1), found.group(2))
    return texts


def extended(*values: Any) -> Any:
    """A row of a parametrized test that `make test` leaves to the extended tests."""
    return pytest.param(*values, marks=pytest.mark.extended)


def few(count: int, rows: Iterable[Any]) -> list[Any]:
    """All rows of a parametrized test, of which `make test` runs so many, evenly spread."""
    rows = [*rows]
    kept = {round(i * len(rows) / count) for i in range(count)}
    return [
        row if i in kept else extended(*row) if isinstance(row, tuple) else extended(row)
        for i, row in enumerate(rows)
    ]


def flags(config: Config = TINY) -> list[str]:
    """A run's numbers as one types them: those that are not the defaults."""
    words = []
    for name in option_names():
        value = getattr(config, name)
        if value != getattr(Config(), name):
            numbers = value if isinstance(value, tuple) else (value,)
            words += ["--" + name.replace("_", "-"), *map(str, numbers)]
    return words


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    """Metrics of an iteration that are the same each time."""
    return {k: v for k, v in row.items() if not k.startswith(("time/", "wall"))}


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics, without times."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [without_times(json.loads(line)) for line in lines]


class Recorder(Hook):
    """Keeps all that a hook hears.

    Attributes:
        events: `start`, `iteration`, `failure` and `end`, in order.
        rows: the metrics of each iteration.
        notes: what was told in words.
        run, state, policy, error, finished: as they were heard last; None before.
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.run: Any = None
        self.state: Any = None
        self.policy: Any = None
        self.error: Exception | None = None
        self.finished: bool | None = None

    def on_start(self, run: Any) -> None:
        self.run = run
        self.events.append("start")

    def on_iteration(self, state: Any, metrics: Any) -> None:
        self.state = state
        self.rows.append(dict(metrics))
        self.events.append("iteration")

    def on_log(self, text: str) -> None:
        self.notes.append(text)

    def on_failure(self, state: Any, error: Exception) -> None:
        self.state, self.error = state, error
        self.events.append("failure")

    def on_end(self, state: Any, policy: Any, *, finished: bool) -> None:
        self.state, self.policy, self.finished = state, policy, finished
        self.events.append("end")
