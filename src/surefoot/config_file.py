"""Options as TOML text, to and from."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from surefoot.config import Config, option_names
from surefoot.errors import UserError, check_names


def parse_toml(text: str, *, where: str) -> dict[str, Any]:
    """Options in a TOML text as a mapping; unknown keys are refused with a suggestion."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{where} is not valid TOML: {error}") from None
    check_names(table, [*option_names(), "task"], what=f"option in {where}:")
    if not isinstance(table.get("task", ""), str):
        raise UserError(f"task in {where} must be a text, not {table['task']!r}")
    # "none" stands for None, which TOML lacks
    return {name: None if value == "none" else value for name, value in table.items()}


def read_toml(path: str | Path) -> dict[str, Any]:
    """Options in a TOML file as a mapping; see `parse_toml`."""
    return parse_toml(read_text(Path(path)), where=str(path))


def read_text(path: Path) -> str:
    """A text file of the user's.

    Raises:
        ValueError: it is not there, a folder, or not UTF-8.
    """
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"file {str(path)!r} {state}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"file {str(path)!r} is not UTF-8 text: {error}") from None


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
