"""Environments written in JAX: many copies of one, stepped inside the graph with next-step resets."""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from surefoot.envs.contract import (
    ActionSpec,
    Environment,
    EnvSpec,
    ObservationSpec,
    Step,
    as_groups,
    as_specs,
)
from surefoot.envs.guard import cannot_be_traced, check_state, kind_of
from surefoot.errors import UserError


class SingleStep(NamedTuple):
    """What one environment answers to one action (no batch axis; scalars are 0-d)."""

    observation: Any
    reward: Any
    terminated: Any
    truncated: Any
    info: Mapping[str, Any] = {}


class SingleEnvironment(abc.ABC):
    """One environment as pure functions; subclass this for your own JAX task.

    Attributes:
        name: for messages.
        observations: each observation group by name: an `ObservationSpec`, or how many numbers it has.
        action: the action spec.
        info: names of the scalars in `SingleStep.info`.
    """

    name: str
    observations: Mapping[str, int | ObservationSpec]
    action: ActionSpec
    info: tuple[str, ...] = ()

    @abc.abstractmethod
    def reset(self, key: jax.Array) -> tuple[Any, Any]:
        """Start an episode: (state, observation array or mapping of groups)."""

    @abc.abstractmethod
    def step(self, state: Any, action: jax.Array, key: jax.Array) -> tuple[Any, SingleStep]:
        """One step of a running episode; no reset in here."""


class _BatchState(NamedTuple):
    states: Any
    keys: jax.Array
    ended: jax.Array


class JaxEnvironment(Environment):
    """N copies of a `SingleEnvironment`, each with its own random stream.

    Args:
        single: the environment.
        num_envs: how many copies.
    """

    def __init__(self, single: SingleEnvironment, num_envs: int) -> None:
        _check_declared(single)
        self._single = single
        self.spec = EnvSpec(
            name=single.name,
            num_envs=num_envs,
            observations=as_specs(single.observations),
            action=single.action,
            in_graph=True,
            info=single.info,
            saves_state=True,
        )

    def reset(self, key: jax.Array) -> tuple[_BatchState, Step]:
        """Start every copy with its own stream split from `key`."""
        pairs = jax.vmap(jax.random.split)(jax.random.split(key, self.spec.num_envs))
        states, observation = jax.vmap(self._single.reset)(pairs[:, 0])
        no = jnp.zeros(self.spec.num_envs, bool)
        zero = jnp.zeros(self.spec.num_envs, jnp.float32)
        info = dict.fromkeys(self.spec.info, zero)
        step = Step(self._groups(observation), zero, no, no, no, info)
        return _BatchState(states, pairs[:, 1], no), step

    def step(self, env_state: _BatchState, action: Any) -> tuple[_BatchState, Step]:
        """Step the running copies; those that ended begin a new episode instead."""
        states, keys, needs_reset = env_state
        keys, step_keys, reset_keys = jnp.moveaxis(
            jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0
        )
        stepped, result = jax.vmap(self._single.step)(states, action, step_keys)
        fresh, first = jax.vmap(self._single.reset)(reset_keys)

        running = ~needs_reset
        terminated = jnp.asarray(result.terminated, bool) & running
        truncated = jnp.asarray(result.truncated, bool) & running
        reward = jnp.where(running, jnp.asarray(result.reward).astype(jnp.float32), 0.0)
        info = {
            name: jnp.where(running, jnp.asarray(result.info[name]).astype(jnp.float32), 0.0)
            for name in self.spec.info
        }
        after = self._groups(result.observation)
        # a copy whose numbers are not finite will not recover: it begins anew
        sound = jnp.isfinite(reward)
        for group in after.values():
            sound &= jnp.isfinite(group).all(axis=tuple(range(1, group.ndim)))
        truncated |= running & ~sound
        observation = _chosen(needs_reset, self._groups(first), after)
        states = _chosen(needs_reset, fresh, stepped)
        state = _BatchState(states, keys, terminated | truncated)
        return state, Step(observation, reward, terminated, truncated, running, info)

    def step_rows(
        self, env_state: _BatchState, action: Any, rows: np.ndarray
    ) -> tuple[_BatchState, Step]:
        """See `Environment.step_rows`."""
        return self._step_some(env_state, action, rows)

    @functools.cached_property
    def _step_some(self) -> Callable[..., tuple[_BatchState, Step]]:
        def step(env_state: _BatchState, action: Any, rows: Any) -> tuple[_BatchState, Step]:
            after, step = self.step(env_state, action)
            return _chosen(rows, after, env_state), step

        return jax.jit(step)

    def _groups(self, observation: Any) -> dict[str, jax.Array]:
        """Observation groups [N, *shape] as the spec says."""
        groups = as_groups(observation)
        return {name: spec.cast(groups[name], jnp) for name, spec in self.spec.observations.items()}


def _chosen(rows: jax.Array, new: Any, old: Any) -> Any:
    """A tree of arrays [N, ...], of the new one in these rows."""

    def pick(a: jax.Array, b: jax.Array) -> jax.Array:
        mask = rows.reshape(-1, *(1,) * (b.ndim - 1))
        return jnp.where(mask, a if a.dtype == b.dtype else a.astype(b.dtype), b)

    return jax.tree.map(pick, new, old)


def _check_declared(single: SingleEnvironment) -> None:
    """Trace one reset and one step, and compare them with what the environment declares, and each other.

    Raises:
        ValueError: naming the field, what it is and what it should be; or the line that cannot be traced.
    """
    name = str(getattr(single, "name", type(single).__name__))
    for field in ("name", "observations", "action"):
        if not hasattr(single, field):
            raise UserError(f"{name}: a SingleEnvironment needs the attribute {field!r}")
    if not isinstance(single.action, ActionSpec):
        raise UserError(f"{name}: `action` is {single.action!r}, it must be an ActionSpec")
    info: Any = single.info
    if not isinstance(info, (tuple, list)) or not all(isinstance(term, str) for term in info):
        raise UserError(f"{name}: `info` is {info!r}, it must be a tuple of names")
    try:
        declared = {g: math.prod(spec.shape) for g, spec in as_specs(single.observations).items()}
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
    action = jax.eval_shape(single.action.to_env, jax.ShapeDtypeStruct(*_canonical(single.action)))
    began = _traced(name, "reset", single.reset, key)
    if not (isinstance(began, tuple) and len(began) == 2):
        raise UserError(f"{name}: reset() must return (state, observation), not {kind_of(began)}")
    state, observation = began
    stepped = _traced(name, "step", single.step, state, action, key)
    if not (
        isinstance(stepped, tuple) and len(stepped) == 2 and isinstance(stepped[1], SingleStep)
    ):
        raise UserError(f"{name}: step() must return (state, SingleStep), not {kind_of(stepped)}")
    after, step = stepped
    check_state(name, state, after)
    for field in ("observation", "reward", "terminated", "truncated"):
        if getattr(step, field) is None:
            raise UserError(f"{name}: {field} is None in what step() returns")
    for call, groups in (("reset", as_groups(observation)), ("step", as_groups(step.observation))):
        sizes = {group: math.prod(jnp.shape(x)) for group, x in groups.items()}
        if sizes != declared:
            raise UserError(
                f"{name}: {call}() returns observations of sizes {sizes}, "
                f"`observations` declares {declared}"
            )
    for field in ("reward", "terminated", "truncated"):
        shape = jnp.shape(getattr(step, field))
        if shape != ():
            raise UserError(f"{name}: {field} has shape {shape}, it must be one number")
    for term in single.info:
        told = step.info if isinstance(step.info, Mapping) else {}
        if term not in told or jnp.shape(told[term]) != ():
            raise UserError(f"{name}: step() must return one number info[{term!r}], as declared")


def _traced(name: str, call: str, function: Callable[..., Any], *args: Any) -> Any:
    """What a function of the author's returns, as shapes and dtypes; it may fail in any way."""
    try:
        return jax.eval_shape(function, *args)
    except Exception as error:
        raise cannot_be_traced(name, f"{call}()", error) from error


def _canonical(action: ActionSpec) -> tuple[tuple[int, ...], Any]:
    if action.kind == "continuous":
        return action.sizes, jnp.float32
    return {"discrete": (), "multi_binary": action.sizes}.get(
        action.kind, (len(action.sizes),)
    ), jnp.int32
