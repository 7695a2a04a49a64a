"""Options as TOML text, to and from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from surefoot.config import Config, option_names
from surefoot.errors import UserError, check_names
from surefoot.machine import user_path
from surefoot.reading import read_text, toml_table


def parse_toml(text: str, *, where: str) -> dict[str, Any]:
    """Options in a TOML text as a mapping; unknown keys are refused with a suggestion."""
    table = toml_table(text, where=where)
    check_names(table, [*option_names(), "task"], what=f"option in {where}:")
    if not isinstance(table.get("task", ""), str):
        raise UserError(f"task in {where} must be a text, not {table['task']!r}")
    # "none" stands for None, which TOML lacks
    return {name: None if value == "none" else value for name, value in table.items()}


def read_toml(path: str | Path) -> dict[str, Any]:
    """Options in a TOML file as a mapping; see `parse_toml`."""
    return parse_toml(read_text(user_path(path)), where=str(path))


def to_toml(config: Config, *, task: str) -> str:
    """The config with every option as TOML text, `task` first."""
    return dump_toml({"task": task, **asdict(config)})


def dump_toml(table: Mapping[str, Any]) -> str:
    """A table as TOML text, one entry a line; None is the text `none`."""
    text = tomli_w.dumps(_without_none(table), indent=0)
    # tomli-w begins a line for each item of an array; in a text the end of a line is escaped
    return text.replace("[\n", "[").replace(",\n]", "]").replace(",\n", ", ")


def toml_value(value: Any) -> str:
    """A value as TOML writes it; see `dump_toml`."""
    return dump_toml({"value": value}).removeprefix("value = ").removesuffix("\n")


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_none(x) for name, x in value.items()}
    return "none" if value is None else value
