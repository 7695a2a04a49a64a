"""A guard around what steps environments: whatever it hands over is taken, or is one error with a name.

The adapters answer for one environment each; this is for those who wrote an `Environment` of their own,
on the host or inside a program. Numbers that are not finite pass: their rows are no experience.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from surefoot.envs.contract import Array, Environment, EnvSpec, ObservationSpec, Step, as_groups
from surefoot.errors import UserError
from surefoot.host_process import FAILURES, failure

_NUMBERS, _FLAGS, _INTEGERS = "fiub", "b", "iu"


class Guarded:
    """Environments whose answers are looked at.

    Args:
        env: the environments.
    """

    def __init__(self, env: Environment) -> None:
        self._env, self._spec = env, spec_of(env)
        self._steps = 0

    def reset(self, key: jax.Array) -> tuple[Any, Step]:
        """See `Environment.reset`.

        Raises:
            ValueError: it failed, or broke the contract; with the author's line or what was handed over.
        """
        return self._answer("reset()", self._env.reset, key)

    def step(self, env_state: Any, action: Array) -> tuple[Any, Step]:
        """See `Environment.step` and `reset`."""
        self._steps += 1
        where = "step()" if self._spec.in_graph else f"step {self._steps}"
        after, step = self._answer(where, self._env.step, env_state, action)
        if self._spec.in_graph:
            check_state(self._spec.name, env_state, after)
        return after, step

    def step_rows(self, env_state: Any, action: Array, rows: np.ndarray) -> tuple[Any, Step]:
        """See `Environment.step_rows` and `reset`."""
        return self._answer("step_rows()", self._env.step_rows, env_state, action, rows)

    def _answer(self, where: str, call: Callable[..., Any], *args: Any) -> tuple[Any, Step]:
        try:
            came = call(*args)
        except UserError:
            raise
        except FAILURES as error:
            if where == "step()" and isinstance(error, Exception):
                raise cannot_be_traced(self._spec.name, where, error) from error
            what, trace = failure(error)
            raise UserError(f"{self._spec.name}, {where}: {what}\n{trace}".rstrip()) from error
        try:
            _check(came, self._spec, begins=where == "reset()")
        except ValueError as error:
            raise UserError(f"{self._spec.name}, {where}: {error}") from None
        return came


def spec_of(env: Environment) -> EnvSpec:
    """The spec of environments.

    Raises:
        ValueError: the author gave it none.
    """
    spec = getattr(env, "spec", None)
    if not isinstance(spec, EnvSpec):
        raise UserError(
            f"{type(env).__name__}: an Environment needs the attribute 'spec', an EnvSpec; it is {spec!r}"
        )
    return spec


def _check(came: Any, spec: EnvSpec, *, begins: bool) -> None:
    """Raise ValueError for what breaks the contract; where episodes begin, info need not say anything."""
    if not (isinstance(came, tuple) and len(came) == 2 and isinstance(came[1], Step)):
        raise ValueError(f"it must return (state, Step), not {kind_of(came)}")
    step: Step = came[1]
    count = (spec.num_envs,)
    _check_groups("observation", step.observation, spec)
    if spec.final_observation and step.final_observation is not None:
        _check_groups("final_observation", step.final_observation, spec)
    _check_array("reward", step.reward, count, _NUMBERS)
    for field in ("terminated", "truncated", "valid"):
        _check_array(field, getattr(step, field), count, _FLAGS)
    if not isinstance(step.info, Mapping):
        raise ValueError(f"info is {kind_of(step.info)}, it must be a mapping")
    for name in spec.info if not begins or step.info else ():
        if name not in step.info:
            raise ValueError(
                f"info has no {name!r}, which the spec declares; it has {list(step.info)}"
            )
        _check_array(f"info[{name!r}]", step.info[name], count, _NUMBERS)


def _check_groups(field: str, observation: Any, spec: EnvSpec) -> None:
    groups = as_groups(observation)
    if set(groups) != set(spec.observations):
        raise ValueError(
            f"{field} has the groups {sorted(groups, key=str)}, the spec says {sorted(spec.observations)}"
        )
    for name, group in spec.observations.items():
        kinds = _INTEGERS if group.choices else _NUMBERS
        _check_array(f"{field} {name!r}", groups[name], (spec.num_envs, *group.shape), kinds)
        if group.choices and isinstance(groups[name], np.ndarray):
            _check_choices(f"{field} {name!r}", groups[name], group)


def _check_array(field: str, array: Any, shape: tuple[int, ...], kinds: str) -> None:
    if not isinstance(array, (np.ndarray, jax.Array)):
        raise ValueError(f"{field} is {kind_of(array)}, it must be an array {list(shape)}")
    if array.shape != shape:
        raise ValueError(f"{field} has shape {list(array.shape)}, it must be {list(shape)}")
    if array.dtype.kind not in kinds:
        wanted = {_FLAGS: "bool", _INTEGERS: "integers"}.get(kinds, "numbers")
        raise ValueError(f"{field} is of {array.dtype}, it must be {wanted}")


def _check_choices(field: str, rows: np.ndarray, group: ObservationSpec) -> None:
    bad = (rows < 0) | (rows >= np.reshape(group.choices, group.shape))
    if bad.any():
        env, *component = np.argwhere(bad)[0].tolist()
        raise ValueError(
            f"{field}, environment {env}: component {component} is {rows[(env, *component)]}, none of the "
            f"{np.reshape(group.choices, group.shape)[tuple(component)]} choices from 0"
        )


def kind_of(returned: Any) -> str:
    """What was handed over, in words."""
    if isinstance(returned, tuple) and type(returned) is tuple:
        return f"({', '.join(type(part).__name__ for part in returned)})"
    return f"a {type(returned).__name__}"


def check_state(name: str, before: Any, after: Any) -> None:
    """A state has the same leaves, shapes and dtypes behind a step as behind a reset."""
    began, stepped = (
        {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(state)}
        for state in (before, after)
    )
    for leaf in {**began, **stepped}:
        forms = [
            f"{x.dtype}{list(x.shape)}" if (x := state.get(leaf)) is not None else "nothing"
            for state in (stepped, began)
        ]
        if forms[0] != forms[1]:
            raise UserError(
                f"{name}: step() returns {forms[0]} as state{leaf}, reset() returned {forms[1]}; the state "
                "must keep its leaves, shapes and dtypes"
            )
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise UserError(
            f"{name}: step() returns the state as {jax.tree.structure(after)}, reset() returned "
            f"{jax.tree.structure(before)}; they must be the same"
        )


def cannot_be_traced(name: str, call: str, error: Exception) -> UserError:
    """What an author's function raised as it was traced, with the author's lines and what to use instead."""
    what = str(error).strip().partition("\n")[0].rstrip(".")
    return UserError(
        f"{name}: {call} cannot be traced, {type(error).__name__}: {what}{_instead(error)}"
        f"\n{_own_lines(error)}".rstrip()
    )


def _instead(error: Exception) -> str:
    """What a traced program has in place of what was tried."""
    instead = None
    if isinstance(error, jax.errors.TracerBoolConversionError):
        instead = (
            "Python's `if`, `while`, `and`, `or` and `not`: jnp.where or jax.lax.cond, &, |, ~"
        )
    elif isinstance(error, jax.errors.NonConcreteBooleanIndexError):
        instead = "an index of booleans: jnp.where"
    elif isinstance(
        error, (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)
    ):
        instead = "NumPy, `math`, float() and int(): jax.numpy"
    if instead is None:
        return ""
    return f". It is compiled once for all states, so no value is there yet; in place of {instead}"


def _own_lines(error: Exception) -> str:
    """The lines of a traceback that are the author's."""
    ours = [str(Path(jax.__file__).parent), str(Path(__file__).parents[1])]
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(tuple(ours))]
    return "".join(traceback.format_list(own))
