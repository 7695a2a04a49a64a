"""`surefoot tasks [PATTERN]`: what can be trained here."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from surefoot.cli.arguments import default, read
from surefoot.errors import near_matches
from surefoot.terminal import say


@dataclass(frozen=True)
class Arguments:
    """List the tasks that can be trained; your own go by FILE.py:NAME or module:NAME."""

    pattern: Annotated[str, tyro.conf.Positional, default("all", metavar="[PATTERN]")] = ""
    """Part of a name, or a pattern with * and ?."""
    all: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """List those too that cannot be trained here, and why."""


def main(argv: Sequence[str]) -> int:
    """Print the matching names, one a line; exit code 1 if there are none."""
    arguments = read(Arguments, "tasks", argv)
    names = known_tasks()
    pattern = arguments.pattern.lower()
    if not any(c in pattern for c in "*?["):
        pattern = f"*{pattern}*"
    found = [name for name in names if fnmatch.fnmatchcase(name.lower(), pattern)]
    if not found:
        near = near_matches(arguments.pattern, names)
        say(f"surefoot: no task matches {arguments.pattern!r}{near}", stderr=True)
        return 1
    refused = refusals(found)
    shown = [f"{name}  ({refused[name]})" if name in refused else name for name in found]
    say(
        "\n".join(
            x for x, name in zip(shown, found, strict=True) if arguments.all or name not in refused
        )
    )
    if refused and not arguments.all:
        say(f"{len(refused)} more cannot be trained here; --all lists them, and why", stderr=True)
    return 0 if len(refused) < len(found) else 1


def refusals(names: Sequence[str]) -> dict[str, str]:
    """Why some of the known tasks cannot be trained here, such as those of images, by name."""
    from surefoot.envs import envpool, gymnasium, gymnax

    found = envpool.refusals()
    for name in names:
        prefix, _, task = name.rpartition(":")
        if prefix == "gymnasium":
            found[name] = gymnasium.refusal(task)
        if prefix == "gymnax":
            found[name] = gymnax.refusal(task)
    return {name: " ".join(found[name].split()) for name in names if found.get(name)}


def known_tasks() -> list[str]:
    """Every task that has a name here: EnvPool's, Gymnasium's, gymnax's if installed, robots', the probes."""
    import gymnasium

    from surefoot.envs.envpool import known_tasks as envpool_tasks
    from surefoot.envs.gymnax import known_tasks as gymnax_tasks
    from surefoot.envs.probes import PROBES
    from surefoot.robots.tasks import TASKS

    names = envpool_tasks()
    names += [f"gymnasium:{name}" for name in sorted(gymnasium.registry)]
    names += [f"gymnax:{name}" for name in gymnax_tasks()]
    names += [f"robot:{name}" for name in TASKS]
    return names + [f"probe:{name}" for name in PROBES]
