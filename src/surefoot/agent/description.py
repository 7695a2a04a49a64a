"""A policy's spec as JSON and back: every dataclass of it by its own field types, so that a new network needs
no code here.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
_UNSIGNED = re.compile(r"[0-9]{19,20}")


def to_json(value: Any) -> Any:
    """Dataclasses as mappings, tuples as lists; what JSON does not have, or not in every reader, as text:
    infinity, and integers that only unsigned 64 bits hold.
    """
    if dataclasses.is_dataclass(value):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): to_json(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    beyond = (
        math.isinf(value) if isinstance(value, float) else type(value) is int and value >= 2**63
    )
    return str(value) if beyond else value


def from_json(kind: type[T], value: Any) -> T:
    """What `to_json` wrote, as an instance of `kind`.

    Raises:
        ValueError: a field is missing that is not off by default, unknown, or of another type; with its
            place.
    """
    return _read(kind, value, kind.__name__)


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _read_fields(hint, value, where)
    if origin in (Union, types.UnionType):
        return _read_one_of(args, value, where)
    if origin is Literal and value in args:
        return value
    if origin is tuple and isinstance(value, list):
        kinds = itertools.repeat(args[0]) if args[-1] is ... else args
        if args[-1] is ... or len(args) == len(value):
            return tuple(_read(k, v, where) for k, v in zip(kinds, value, strict=False))
    if hint is float and (value in ("inf", "-inf") or type(value) in (int, float)):
        number = float(cast("float | str", value))
        if not math.isnan(number):
            return number
    if origin is Mapping and isinstance(value, dict):
        return {str(k): _read(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is int and isinstance(value, str) and _is_unsigned(value):
        return int(value)
    if hint in (int, bool, str) and type(value) is hint:
        return value
    raise ValueError(f"{where} = {value!r}")


def _is_unsigned(text: str) -> bool:
    """Whether it is an integer that only unsigned 64 bits hold."""
    return _UNSIGNED.fullmatch(text) is not None and 2**63 <= int(text) < 2**64


def _read_one_of(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    for hint in hints:
        if hint is type(None) and value is None:
            return None
        try:
            return _read(hint, value, where)
        except (ValueError, TypeError):
            continue
    raise ValueError(f"{where} = {value!r}")


def _read_fields(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} = {value!r}")
    hints = get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    # what is nothing or off may be missing: it was not there yet when it was written
    off = (None, False)
    needed = {n for n, field in fields.items() if not any(field.default is x for x in off)}
    if odd := sorted(set(value) - set(fields) | needed - set(value)):
        raise ValueError(f"{where}: {odd[0]!r} is {'unknown' if odd[0] in value else 'missing'}")
    return kind(**{name: _read(hints[name], x, f"{where}.{name}") for name, x in value.items()})
