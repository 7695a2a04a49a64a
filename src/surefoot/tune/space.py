"""What is searched: for each option a range or a list of choices, shipped or from a TOML file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from surefoot.config import (
    Config,
    EvaluationOptions,
    RecordOptions,
    StartOptions,
    option_names,
    typed,
)
from surefoot.config_file import toml_value
from surefoot.errors import UserError, check_names
from surefoot.reading import toml_table

OPTIONS = "options"  # the table of a space's file that holds the options it searches around


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones where the option is.

    Attributes:
        low: the least.
        high: the most.
        log: whether they are drawn evenly on a logarithmic scale.
    """

    low: float
    high: float
    log: bool = False

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, (int, float)) and self.low <= value <= self.high

    def to_toml(self) -> Any:
        """As the file has it."""
        return {"low": self.low, "high": self.high, "log": self.log}

    def in_words(self) -> str:
        """E.g. `0.0001 to 0.01, logarithmic`."""
        return f"{self.low} to {self.high}{', logarithmic' if self.log else ''}"


@dataclass(frozen=True)
class Choices:
    """Values of any kind, one of which a trial has."""

    values: tuple[Any, ...]

    def __contains__(self, value: Any) -> bool:
        return value in self.values

    def to_toml(self) -> Any:
        """As the file has it."""
        return ["none" if value is None else value for value in self.values]

    def in_words(self) -> str:
        """E.g. `0.9, 0.99`."""
        return ", ".join(self.by_name())

    def by_name(self) -> dict[str, Any]:
        """Each value by its TOML text, which a record of trials can hold."""
        return {toml_value(value): value for value in self.values}


Space = Mapping[str, Range | Choices]


def size(space: Space) -> float:
    """How many combinations there are; infinite where a number need not be whole."""
    return math.prod(
        len(values) if (values := _listed(part)) else math.inf for part in space.values()
    )


def combinations(space: Space) -> Iterator[dict[str, Any]]:
    """All of them, of a space whose size is finite."""
    for values in itertools.product(*map(_listed, space.values())):
        yield dict(zip(space, values, strict=True))


def _listed(part: Range | Choices) -> Sequence[Any]:
    if isinstance(part, Choices):
        return part.values
    if isinstance(part.low, int) and isinstance(part.high, int):
        return range(part.low, part.high + 1)
    return ()


_LEARNING: dict[str, Range | Choices] = {
    "learning_rate": Range(5e-5, 3e-3, log=True),
    "gae_lambda": Choices((0.8, 0.9, 0.95, 0.98)),
    "clip_epsilon": Choices((0.1, 0.2, 0.3)),
}
# num_envs and the choices are powers of 2: minibatches divide every batch
_CONTINUOUS: Space = {
    **_LEARNING,
    "gamma": Choices((0.95, 0.97, 0.98, 0.99, 0.995, 0.998)),
    "num_steps": Choices((64, 128, 256)),
    "num_epochs": Range(3, 20, log=True),
    "num_minibatches": Choices((8, 16, 32, 64)),
    "entropy_coef": Range(0.0, 0.01),
    "initial_std": Choices((0.3, 0.6, 1.0)),
}
_DISCRETE: Space = {
    **_LEARNING,
    "gamma": Choices((0.95, 0.97, 0.98, 0.99, 0.995, 0.998)),
    "num_steps": Choices((32, 64, 128, 256)),
    "num_epochs": Range(3, 20, log=True),
    "num_minibatches": Choices((4, 8, 16, 32)),
    "entropy_coef": Range(0.0, 0.03),
}
_ROBOTS: Space = {
    **_LEARNING,
    "gamma": Choices((0.95, 0.97, 0.98, 0.985, 0.99, 0.995)),
    "num_steps": Choices((16, 32, 64)),
    "num_epochs": Range(3, 10, log=True),
    "num_minibatches": Choices((4, 8, 16, 32)),
    "entropy_coef": Range(0.0, 0.01),
    "initial_std": Choices((0.3, 0.4, 0.5, 0.6, 1.0)),
}
SPACES: dict[str, Space] = {
    "continuous": _CONTINUOUS,
    "discrete": _DISCRETE,
    "robots": _ROBOTS,
}


def shipped_space(task: str, action_kind: str) -> str:
    """The name of the shipped space for a task.

    Args:
        task: the task.
        action_kind: the kind of its actions, `EnvSpec.action.kind`.
    """
    if task.startswith("robot:"):
        return "robots"
    return "continuous" if action_kind == "continuous" else "discrete"


def not_tuned() -> dict[str, str]:
    """The options that are not searched, and why."""
    records = "it changes nothing that is learned"
    start = "it says where a run begins, and every trial begins anew"
    stepping = "it says who steps the environments, and not how the policy learns"
    return {
        **{field.name: records for field in fields(RecordOptions)},
        **{field.name: records for field in fields(EvaluationOptions)},
        **{field.name: start for field in fields(StartOptions)},
        **dict.fromkeys(("env_workers", "env_timeout", "on_env_failure"), stepping),
        "seed": "every trial is judged on the same seeds",
        "total_steps": "every trial has the same budget, --total-steps",
        "env_options": "scores of other tasks, or with other rewards, cannot be compared",
        "stop_at_return": "every trial has the same budget, --total-steps",
        "stop_at_success": "every trial has the same budget, --total-steps",
    }


def parse_space(text: str, *, where: str) -> tuple[Space, dict[str, Any]]:
    """A space from TOML text, and the options over the task's own that it searches around.

    Args:
        text: for each option that is searched a table of `low`, `high` and `log`, or a list of choices;
            `[options]` for what the others, and the default that the best is compared with, have.
        where: the file's name, for errors.

    Raises:
        ValueError: no TOML, an option that is not known (with near matches) or not to be tuned, a value
            of the wrong type or out of its range.
    """
    table = toml_table(text, where=where)
    shared = table.pop(OPTIONS, {})
    if not isinstance(shared, Mapping):
        raise UserError(f"{OPTIONS} in {where} must be a table, not {shared!r}")
    check_names(table, option_names(), what=f"option in {where}:")
    if not table:
        raise UserError(
            f"{where} names no option to tune; for example learning_rate = "
            "{low = 1e-4, high = 1e-2, log = true}"
        )
    reasons = not_tuned()
    for name in table:
        if name in reasons:
            raise UserError(f"{name} in {where} cannot be tuned: {reasons[name]}")
    check_names(shared, option_names(), what=f"option in [{OPTIONS}] of {where}:")
    for name in shared:
        if name in ("seed", "stop_at_return", "stop_at_success"):
            raise UserError(f"{name} among [{OPTIONS}] in {where}: {reasons[name]}")
    space = {name: _dimension(name, value, where) for name, value in table.items()}
    return space, {name: _from_toml(value) for name, value in shared.items()}


def _dimension(name: str, value: Any, where: str) -> Range | Choices:
    try:
        if isinstance(value, list):
            return _choices(value, name)
        if isinstance(value, Mapping):
            return _range(value, name)
        raise UserError(
            f"{name} = {value!r} must be a list of choices, or {{low = ..., high = ...}}"
        )
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _choices(given: list[Any], name: str) -> Choices:
    values = []
    for item in given:
        value = typed(name, _from_toml(item))
        if value in values:
            raise UserError(f"{name} has the choice {item!r} twice")
        values.append(value)
    if len(values) < 2:
        raise UserError(f"{name} = {given!r}: a choice needs at least 2 values")
    return Choices(tuple(values))


def _range(given: Mapping[str, Any], name: str) -> Range:
    check_names(given, [field.name for field in fields(Range)], what=f"key of {name}:")
    for key in ("low", "high"):
        if key not in given:
            raise UserError(f"{name} has no {key}: a range is {{low = ..., high = ...}}")
    if type(log := given.get("log", False)) is not bool:
        raise UserError(f"log of {name} must be true or false, not {log!r}")
    low, high = typed(name, given["low"]), typed(name, given["high"])
    for bound in (low, high):
        if type(bound) not in (int, float) or not math.isfinite(bound):
            raise UserError(f"{name} has no range of finite numbers: give a list of choices")
    if low >= high:
        raise UserError(f"low = {low} of {name} must lie below high = {high}")
    if log and low <= 0:
        raise UserError(f"low = {low} of {name} must be above 0 with log = true")
    return Range(low, high, log)


def _from_toml(value: Any) -> Any:
    return None if value == "none" else value


def contains(space: Space, config: Config) -> bool:
    """Whether a config's options all lie in the space."""
    return all(getattr(config, name) in space[name] for name in space)
