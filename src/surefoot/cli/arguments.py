"""What the verbs' command lines share: dataclasses read by tyro, which names near matches itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from surefoot.terminal import plain

T = TypeVar("T")


def read(kind: type[T], verb: str, argv: Sequence[str], **settings: Any) -> T:
    """The arguments of a verb: an instance of `kind`, whose None means that nothing was given.

    Raises:
        SystemExit: help was asked for, or an argument is not known or not of its kind.
    """
    config = (tyro.conf.DisallowNone,)
    return tyro.cli(kind, prog=f"surefoot {verb}", args=list(argv), config=config, **settings)


def from_file(within: str = "") -> Any:
    """What an argument is if it is not given may come from a file: `--help` shows it as text."""
    return tyro.conf.arg(help_behavior_hint=lambda default: f"(default: {plain(default)}{within})")


def default(text: str, *, metavar: str | None = None) -> Any:
    """What an argument is if it is not given, as `--help` shows it; put into its `Annotated`."""
    hint = f"(default: {text})" if text else ""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)
