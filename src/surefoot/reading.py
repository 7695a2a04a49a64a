"""Text that is read: within bounds, or one error that says which file, which line, and what is wrong.

What comes out is shallow, and its numbers are finite and of 64 bits. Imports the standard library alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from surefoot.errors import UserError, near_matches

_MOST_JSON, _MOST_TOML, MOST_LINE = 2**23, 2**19, 2**18  # bytes; ours have a few thousand
_DEEPEST = 32  # lists and tables in one another; ours have eight
_LONG_KEY = re.compile(
    r"(?:\.[\w\s\"'-]{0,40}){64}"
)  # a.b.c. and so on, which takes tomllib minutes


class Line(NamedTuple):
    """One line of a file: the JSON object it holds, or what is wrong with it.

    Attributes:
        raw: its bytes, with the end of the line if it has one.
        value: the object; None if it holds none.
        fault: what is wrong, with file and line; empty if nothing is.
    """

    raw: bytes
    value: dict[str, Any] | None
    fault: str


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A file to read, and its size.

    Raises:
        ValueError: it is not there, or cannot be read, or is no file (a pipe may keep us waiting).
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no ordinary file"
            raise UserError(f"{str(path)!r} is {kind}")
        with path.open("rb") as file:
            yield file, status.st_size
    except FileNotFoundError:
        near = near_matches(path.name, [beside.name for beside in sorted(path.parent.glob("*"))])
        raise UserError(f"{str(path)!r} does not exist{near}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def read_bytes(path: Path, *, most: int) -> bytes:
    """The bytes of a file, see `open_file`; one that has more than `most` is refused."""
    with open_file(path) as (file, size):
        if size > most:
            raise UserError(f"{path}: {size:,} bytes, more than the {most:,} it could need")
        return file.read(most)


def read_text(path: Path) -> str:
    """A text file of the user's, see `read_bytes`; one that is not UTF-8 is refused."""
    try:
        return _decoded(read_bytes(path, most=_MOST_TOML))
    except _FaultError as fault:
        raise UserError(f"{path}, {fault}") from None


def toml_table(text: str, *, where: str) -> dict[str, Any]:
    """A TOML text as a table.

    Raises:
        ValueError: it is none, or holds what no file of ours does, with the line.
    """
    try:
        if found := _LONG_KEY.search(text):
            raise _FaultError("a key of very many parts", text, found.start())
        return _plain(tomllib.loads(text, parse_float=_toml_float), text)
    except RecursionError:
        raise UserError(f"{where} is not valid TOML: {_TOO_DEEP}") from None
    except ValueError as error:
        raise UserError(f"{where} is not valid TOML: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, see `read_bytes`; a file that holds none is refused, with the line."""
    content = read_bytes(path, most=_MOST_JSON)
    try:
        return _parse_json(content)
    except _FaultError as fault:
        raise UserError(f"{path} is damaged, {fault}") from None


def read_json_lines(
    path: Path, check: Callable[[dict[str, Any]], None], *, after: tuple[int, int] = (0, 0)
) -> Iterator[Line]:
    """The lines of a file that has a JSON object in each, one after the other; see `open_file`.

    One that is too long comes in pieces, of which the first has the fault and none a value.

    Args:
        path: the file.
        check: raises ValueError for an object that has no place in it.
        after: bytes and lines that were read before and are left out.
    """
    with open_file(path) as (file, _):
        file.seek(after[0])
        number, is_rest = after[1], False
        for raw in iter(lambda: file.readline(MOST_LINE), b""):
            number, value, fault = number + (not is_rest), None, ""
            if not is_rest:
                try:
                    value = _parse_line(raw)
                    check(value)
                except ValueError as error:
                    what = error.what if isinstance(error, _FaultError) else error
                    value, fault = None, f"{path}, line {number} is damaged: {what}"
            yield Line(raw, value, fault)
            is_rest = not raw.endswith(b"\n")


def few(faults: Sequence[str], most: int = 3) -> list[str]:
    """The first of them; the last one says how many more there are."""
    if len(faults) <= most:
        return list(faults)
    left = len(faults) - most
    return [*faults[: most - 1], f"{faults[most - 1]} (and {left:,} more such lines)"]


class _FaultError(ValueError):
    """What is wrong with a text, and at which of its characters."""

    def __init__(self, what: str, text: str | bytes, place: int) -> None:
        end: Any = b"\n" if isinstance(text, bytes) else "\n"
        super().__init__(f"line {text.count(end, 0, max(place, 0)) + 1}: {what}")
        self.what = what


_TOO_DEEP = f"lists and tables more than {_DEEPEST} deep"


def _parse_json(content: bytes) -> dict[str, Any]:
    text = _decoded(content)

    def refuse(number: str) -> NoReturn:
        raise _FaultError(
            f"{_short(number)} is no finite number of 64 bits", text, text.find(number)
        )

    def integer(digits: str) -> int:
        # the length first: what has thousands of digits is not even read
        return value if len(digits) < 21 and _fits(value := int(digits)) else refuse(digits)

    def number(digits: str) -> float:
        return value if math.isfinite(value := float(digits)) else refuse(digits)

    try:
        value = json.loads(text, parse_int=integer, parse_float=number, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise _FaultError(error.msg, text, error.pos) from None
    except RecursionError:
        raise _FaultError(_TOO_DEEP, text, 0) from None
    if not isinstance(value, dict):
        raise _FaultError("it holds no JSON object", text, 0)
    return _plain(value, text)


def _parse_line(raw: bytes) -> dict[str, Any]:
    if len(raw) == MOST_LINE and not raw.endswith(b"\n"):
        raise _FaultError(f"it has {MOST_LINE:,} bytes or more", raw, 0)
    return _parse_json(raw)


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")  # editors on Windows begin with a mark
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise _FaultError(f"the byte 0x{byte:02x} is not UTF-8", content, error.start) from None


def _toml_float(digits: str) -> float:
    """TOML has infinity and NaN, by name; what is too large is neither."""
    value = float(digits)
    if math.isinf(value) and "inf" not in digits:
        raise ValueError(f"{_short(digits)} is no finite number of 64 bits")
    return value


def _plain(table: dict[str, Any], text: str) -> dict[str, Any]:
    """The table, if it is not too deep and its integers have 64 bits."""
    left: list[tuple[Any, int]] = [(table, 1)]
    while left:
        value, depth = left.pop()
        if isinstance(value, (dict, list)):
            if depth > _DEEPEST:
                raise _FaultError(_TOO_DEEP, text, 0)
            items = value.values() if isinstance(value, dict) else value
            left += [(item, depth + 1) for item in items]
        elif type(value) is int and not _fits(value):
            digits = hex(value) if value.bit_length() > 2**12 else str(value)
            what = f"{_short(digits)} is no finite number of 64 bits"
            raise _FaultError(what, text, text.find(digits))
    return table


def _fits(value: int) -> bool:
    return -(2**63) <= value < 2**63


def _short(number: str) -> str:
    return number if len(number) < 40 else f"{number[:16]}... ({len(number):,} characters)"
