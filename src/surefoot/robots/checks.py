"""What a task's author may get wrong, told in one line with the place in the author's own code."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from surefoot.errors import UserError, check_names, near_matches

_NOT_THE_AUTHORS = tuple(
    f"{folder.resolve()}/" for folder in (Path(__file__).parent, Path(jax.__file__).parent)
)
_LONGEST = 600  # of what a library says
_NOT_TO_OVERRIDE = {"name", "overrides", "practised", "replace"}


def refuse(where: str, error: Exception) -> UserError:
    """What went wrong in a function of the task, with the line that it went wrong in."""
    line, said = _line_of(error), " ".join(str(error).split())
    said = said if len(said) < _LONGEST else f"{said[:_LONGEST]}..."
    if isinstance(error, UserError):  # says whose it is
        return UserError(said + line)
    if isinstance(error, AttributeError) and error.name and " near " not in said:
        near = near_matches(error.name, (n for n in dir(error.obj) if not n.startswith("_")))
        said += "" if "did you mean" in said else near
    return UserError(f"{where}{line}: {said}")


def _line_of(error: Exception) -> str:
    """Where an error came to pass in the author's code, in brackets."""
    trace, line = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith(_NOT_THE_AUTHORS):
            line = f" ({file}:{trace.tb_lineno})"
        trace = trace.tb_next
    return line


def kept(task: Any, error: Exception) -> UserError:
    """What JAX finds where a function kept a number of its own."""
    line = _line_of(error)
    return UserError(
        f"{task.name}{line}: a function keeps a number of one call for the next, in a global or an "
        "attribute; what lasts is the carry, which reset() begins and remember() returns"
    )


def method_of(task: Any, name: str) -> str:
    """A method and where it is, such as `Walk.rewards() (walk.py:88)`."""
    function = inspect.unwrap(getattr(type(task), name))
    code = getattr(function, "__code__", None)
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
    return f"{task.name}.{name}(){place}"


# --- what methods return


def table(task: Any, method: str, value: Any, of: str) -> dict[str, jax.Array]:
    """What a method returned, as arrays by name.

    Raises:
        ValueError: it is no dict of arrays.
    """
    if not isinstance(value, Mapping):
        raise _odd(task, method, value, f"a dict of {of} by name")
    for name, x in value.items():
        if not isinstance(name, str) or not _is_array(x):
            raise _odd(task, method, x, f"an array for {name!r}")
    return {name: jnp.asarray(x) for name, x in value.items()}


def numbers(task: Any, method: str, value: Any, of: str) -> dict[str, jax.Array]:
    """The same, one number each."""
    found = table(task, method, value, of)
    for name, x in found.items():
        if x.shape:
            raise UserError(
                f"{method_of(task, method)}: {name} has shape {x.shape}; of one environment it must be one "
                "number"
            )
    return found


def number(task: Any, method: str, value: Any) -> jax.Array:
    """What a method returned, as one number."""
    if not _is_array(value) or jnp.shape(value):
        raise _odd(task, method, value, "one number")
    return jnp.asarray(value)


def flag(task: Any, method: str, value: Any) -> jax.Array:
    """What a method returned, as a bool."""
    if not _is_array(value) or jnp.shape(value) or jnp.asarray(value).dtype != bool:
        raise _odd(task, method, value, "one bool, such as a comparison gives")
    return jnp.asarray(value)


def like(task: Any, method: str, value: Any, action: jax.Array) -> jax.Array:
    """What a method made of an action, of the same shape."""
    if not _is_array(value) or jnp.shape(value) != action.shape:
        raise _odd(task, method, value, f"an action of shape {action.shape}")
    return jnp.asarray(value)


def groups(task: Any, method: str, value: Any) -> Any:
    """What a method observed: one array, or several by name."""
    if isinstance(value, Mapping):
        return table(task, method, value, "observation groups")
    if not _is_array(value):
        raise _odd(task, method, value, "one array, as jnp.concatenate gives, or a dict of arrays")
    return value


def start(task: Any, value: Any, kind: type) -> Any:
    """What `reset` returned."""
    if not isinstance(value, kind):
        raise _odd(
            task, "reset", value, "Start(qpos, qvel, ctrl, carry), of which any may be left out"
        )
    return value


def tree(task: Any, method: str, value: Any) -> Any:
    """What a method returned, as a tree of arrays."""
    if value is None and task.overrides(method):
        raise _odd(task, method, value, "arrays")
    for x in jax.tree.leaves(value):
        if not _is_array(x):
            raise _odd(task, method, x, "arrays")
    return jax.tree.map(jnp.asarray, value)


def carried(task: Any, before: Any, after: Any) -> Any:
    """What `remember` returned, of the structure and shapes that the carry began with."""
    after, place = tree(task, "remember", after), method_of(task, "remember")
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise UserError(
            f"{place} returns {jax.tree.structure(after)}, but reset() began with "
            f"{jax.tree.structure(before)}: let it return Start(carry=...) of the same structure"
        )
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        if a.shape != b.shape:
            raise UserError(
                f"{place} returns an array of shape {b.shape}, reset() began with {a.shape}"
            )
    return after


def _is_array(value: Any) -> bool:
    return isinstance(value, (bool, int, float, np.ndarray, np.generic, jax.Array))


def _odd(task: Any, method: str, value: Any, wanted: str) -> UserError:
    if value is None:
        what = "nothing (is `return` missing?)"
    elif isinstance(value, (np.ndarray, np.generic, jax.Array)):
        what = f"{value.dtype} of shape {value.shape}"
    else:
        what = f"a {type(value).__name__}"
    return UserError(f"{method_of(task, method)} returned {what}, where it must return {wanted}")


# --- what a class says


def check_fields(task: Any) -> None:
    """Raise ValueError for options of a class that cannot be, or that nobody would read.

    Args:
        task: a `RobotTask`.
    """
    for field in dataclasses.fields(task):
        own = getattr(type(task), field.name, field.default)
        is_array = isinstance(own, (np.ndarray, jax.Array))
        if own is not field.default and (is_array or own != field.default):
            said = f"an array of shape {own.shape}" if is_array else repr(own)
            raise UserError(
                f"{task.name} sets {field.name} = {said}, but its default stays {field.default!r}: write "
                f"`@dataclass(frozen=True)` over the class, and a type, as in `{field.name}: Any = ...`"
            )
    _check_kinds(task)
    known = [field.name for field in dataclasses.fields(task)]
    check_names(task.practice, known, what=f"field in {task.name}.practice:")
    for name, meant in _misspelt(type(task)):
        raise UserError(
            f"{task.name} has {name!r}, which nothing calls or reads; did you mean {meant!r}?"
        )


def _check_kinds(task: Any) -> None:
    from surefoot.config import Config
    from surefoot.robots.actuation import Actuation
    from surefoot.robots.sensing import Sensing
    from surefoot.robots.symmetry import Mirror

    kinds = {"actuation": Actuation, "training": Config, "sensing": Mapping, "practice": Mapping}
    kinds |= {"mirror": (Mirror, types.NoneType)}
    for name, kind in kinds.items():
        if not isinstance(value := getattr(task, name), kind):
            wanted = (kind[0] if isinstance(kind, tuple) else kind).__name__
            wanted = "dict" if wanted == "Mapping" else wanted
            raise UserError(f"{task.name}: {name} = {value!r}, it must be a {wanted}")
    for group, value in task.sensing.items():
        if not isinstance(value, Sensing):
            raise UserError(f"{task.name}: sensing[{group!r}] = {value!r}, it must be a Sensing")


def _misspelt(kind: type) -> Iterator[tuple[str, str]]:
    """What a class has that is nearly a method or option that it lacks, and never uses itself."""
    own = [part for part in kind.__mro__ if part.__module__.partition(".")[0] != "surefoot"]
    given = {name for part in own for name in vars(part) if not name.startswith("_")}
    base = next((part for part in kind.__mro__ if part.__name__ == "RobotTask"), object)
    known = {name for name in vars(base) if not name.startswith("_")} - given - _NOT_TO_OVERRIDE
    functions = [
        x for part in own for x in vars(part).values() if isinstance(x, types.FunctionType)
    ]
    used = {name for function in functions for name in _names(function.__code__)}
    for name in sorted(given - {*dir(base)} - used):
        for meant in difflib.get_close_matches(name, known, n=1, cutoff=0.85):
            yield name, meant


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from _names(part)


def check_times(task: Any) -> None:
    """Raise ValueError for times that cannot be."""
    for name in ("control_dt_s", "physics_dt_s", "episode_s", "command_s"):
        value = getattr(task, name)
        if value is None and name in ("physics_dt_s", "command_s"):
            continue
        if not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise UserError(f"{task.name}: {name} = {value!r}, it must be seconds above 0")
    if task.episode_s < task.control_dt_s * (1 - 1e-9):
        raise UserError(
            f"{task.name}: episode_s = {task.episode_s:g} is less than one control step of "
            f"{task.control_dt_s:g} s"
        )
