"""Options as TOML text, to and from."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

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
    lines = [f"task = {toml_value(task)}"]
    lines += [f"{name} = {toml_value(getattr(config, name))}" for name in option_names()]
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """An option's value as TOML writes it; None is the text `none`."""
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for characters above U+FFFF and DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return repr(value)
