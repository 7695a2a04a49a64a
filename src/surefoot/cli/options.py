"""The options of a run on the command line: flat names, shown in sections with range and default."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from surefoot.cli.arguments import RULES, from_file
from surefoot.cli.presets import preset
from surefoot.config import SECTIONS, Config, from_mapping, in_words, range_of
from surefoot.config_file import read_toml
from surefoot.errors import UserError

T = TypeVar("T")
_ALSO = {"from_run": "--from"}  # a word of its own in Python


def read_with_options(
    arguments: type[T], verb: str, argv: Sequence[str], *, description: str | None = None
) -> tuple[T, Config]:
    """The arguments of a verb that takes every option, and the options; no code that a file names.

    Args:
        arguments: a dataclass with the fields `task`, `preset` and `config`.
        verb: the verb.
        argv: the command line.
        description: what `--help` says at its top; the dataclass's docstring if left out.

    Raises:
        ValueError: a file, preset or value that cannot be right.
        SystemExit: help was asked for, or an option is not known.
    """
    base, task = options_from(argv)
    kind: Any = _with_sections(arguments, base)
    given = tyro.cli(
        kind,
        prog=f"surefoot {verb}",
        description=description,
        args=list(argv),
        default=kind(task=task),
        registry=RULES,
    )
    parts = [part for part in vars(given).values() if dataclasses.is_dataclass(part)]
    config = from_mapping({name: x for part in parts for name, x in vars(part).items()})
    if config.env_options and not any(
        word.replace("_", "-").startswith("--env-options") for word in argv
    ):
        from surefoot.envs.tasks import refuse_code

        refuse_code(given.task, config.env_options)
    return given, config


def options_from(argv: Sequence[str]) -> tuple[Config, str | None]:
    """The options that the task, --preset and --config stand for, which become the defaults of the rest."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--preset")
    early.add_argument("--config")
    known, _ = early.parse_known_args(list(argv))
    base = preset(known.preset) if known.preset else _own_options(_task_in(argv))
    if known.config is None:
        return base, None
    options: dict[str, Any] = read_toml(known.config)
    task = options.pop("task", None)
    if not known.preset and isinstance(task, str) and not _names_code(task):
        base = _own_options(task)
    if task is not None and _names_code(task):
        task = None  # an import path is taken from the command line alone
    return from_mapping(options, base=base), task


def _task_in(argv: Sequence[str]) -> str:
    """The positional argument that has a colon, as every task with options of its own."""
    for before, word in itertools.pairwise(["", *argv]):
        if ":" in word and not word.startswith("-") and not before.startswith("--"):
            return word
    return ""


def _own_options(task: str) -> Config:
    if not task:
        return Config()
    from surefoot.envs.tasks import own_options

    try:
        return own_options(task)
    except UserError:  # said where the task is made
        return Config()


def _names_code(task: str) -> bool:
    from surefoot.envs.tasks import names_code

    return names_code(task)


def _with_sections(arguments: type, base: Config) -> type:
    """The arguments with a field for each section of options, whose defaults are those of `base`."""
    fields = []
    for section in SECTIONS:
        hints = get_type_hints(section, include_extras=True)
        own = [
            (name, Annotated[hint, _shown(name, hint)], getattr(base, name))
            for name, hint in hints.items()
        ]
        # a subclass, so that tyro finds the texts under the fields
        kind = dataclasses.make_dataclass(section.__name__, own, bases=(section,), frozen=True)
        kind.__doc__ = section.__doc__
        title = (section.__doc__ or "").partition(":")[0].lower().replace(" ", "_")
        default = dataclasses.field(default=kind())
        fields.append((title, tyro.conf.OmitArgPrefixes[kind], default))
    made = dataclasses.make_dataclass(arguments.__name__, fields, bases=(arguments,), frozen=True)
    made.__doc__ = arguments.__doc__
    return made


def _shown(name: str, hint: Any) -> Any:
    interval = range_of(hint)
    within = f", range: {in_words(interval)}" if interval else ""
    return from_file(within, also=_ALSO.get(name))
