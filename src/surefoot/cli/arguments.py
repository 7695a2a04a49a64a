"""What the verbs' command lines share: dataclasses read by tyro, which names near matches itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, TypeVar

import tyro

from surefoot.terminal import plain

T = TypeVar("T")
RULES = tyro.constructors.ConstructorRegistry()


@RULES.primitive_rule
def _whole_numbers(kind: tyro.constructors.PrimitiveTypeInfo) -> Any:
    """Whole numbers may be written as `1e6`."""
    if kind.type is not int:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: whole_number(words[0]),
        is_instance=lambda x: isinstance(x, int) and not isinstance(x, bool),
        str_from_instance=lambda x: [str(x)],
    )


def whole_number(text: str) -> int:
    """`1000000`, `1_000_000` or `1e6`; ValueError for all else."""
    try:
        return int(text)
    except ValueError:
        number = Decimal(text) if re.fullmatch(r"[+-]?\d+(\.\d+)?[eE]\+?\d{1,2}", text) else None
        if number is None or number != int(number):
            raise
        return int(number)


def read(kind: type[T], verb: str, argv: Sequence[str], **settings: Any) -> T:
    """The arguments of a verb: an instance of `kind`, whose None means that nothing was given.

    Raises:
        SystemExit: help was asked for, or an argument is not known or not of its kind.
    """
    config = (tyro.conf.DisallowNone,)
    return tyro.cli(
        kind, prog=f"surefoot {verb}", args=list(argv), config=config, registry=RULES, **settings
    )


def from_file(within: str = "", *, also: str | None = None) -> Any:
    """What an argument is if it is not given may come from a file: `--help` shows it as text.

    Args:
        within: its range, in words.
        also: another flag that means the same.
    """
    return tyro.conf.arg(
        aliases=[also] if also else None,
        help_behavior_hint=lambda default: f"(default: {plain(default)}{within})",
    )


def default(text: str, *, metavar: str | None = None) -> Any:
    """What an argument is if it is not given, as `--help` shows it; put into its `Annotated`."""
    hint = f"(default: {text})" if text else ""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)
