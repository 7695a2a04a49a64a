"""Gymnasium spaces -> what the agent needs: observation groups and an action spec."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from surefoot.envs.contract import ActionSpec, ObservationSpec
from surefoot.errors import UserError

SUPPORTED_OBSERVATIONS = "Box (numbers), Discrete, MultiDiscrete, MultiBinary, or a Dict of these"
SUPPORTED_ACTIONS = "Box, Discrete, MultiDiscrete, MultiBinary"


def observation_groups(space: spaces.Space, *, task: str) -> dict[str, spaces.Space]:
    """The named groups of an observation space; a plain space is the group `observation`.

    Raises:
        ValueError: for a space the agent cannot read, naming the group.
    """
    _check_class(space, what="observation_space", task=task)
    groups: dict[Any, Any] = (
        dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}
    )
    for name, group in groups.items():
        if not isinstance(name, str):
            raise UserError(
                f"{task}: observation_space has the key {name!r}, a {type(name).__name__}; the keys name "
                "observation groups, so they must be text"
            )
        _check_observation(group, name=name, task=task)
    return groups


def _check_class(space: Any, *, what: str, task: str) -> None:
    """Refuse what is not a space of Gymnasium's."""
    if isinstance(space, spaces.Space):
        return
    kind = type(space)
    if space is None or isinstance(space, type):
        raise UserError(
            f"{task}: {what} is {space!r}; an environment declares one, such as {what} = "
            "gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)"
        )
    raise UserError(
        f"{task}: {what} is a {kind.__module__}.{kind.__qualname__}, which is not Gymnasium's class: import "
        "spaces from gymnasium (`from gymnasium import spaces`), not from gym or elsewhere"
    )


def _check_observation(space: spaces.Space, *, name: str, task: str) -> None:
    _check_class(space, what=f"observation {name!r}", task=task)
    if isinstance(space, spaces.Box):
        if len(space.shape) == 3 and space.dtype == np.uint8:
            raise UserError(
                f"{task}: observation {name!r} is an image {space.shape} of uint8; the networks here "
                "are MLPs on numbers. Wrap the task so that it returns features."
            )
        return
    if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        nested = isinstance(space, (spaces.Dict, spaces.Tuple))
        way = (
            "gymnasium.wrappers.FlattenObservation makes one Box of it"
            if nested
            else "a gymnasium.ObservationWrapper can make numbers of it"
        )
        raise UserError(
            f"{task}: observation {name!r} is a {type(space).__name__} space; "
            f"supported are {SUPPORTED_OBSERVATIONS}; {way}"
        )


def observation_specs(groups: Mapping[str, spaces.Space]) -> dict[str, ObservationSpec]:
    """Each group as the contract hands it over: numbers, or integers from 0 where it is discrete."""
    return {name: _observation_spec(space) for name, space in groups.items()}


def _observation_spec(space: spaces.Space) -> ObservationSpec:
    if isinstance(space, spaces.Discrete):
        return ObservationSpec((), (int(space.n),), (int(space.start),))
    shape = tuple(space.shape or ())
    if isinstance(space, spaces.MultiDiscrete):
        return ObservationSpec(shape, _integers(space.nvec), _integers(space.start))
    return ObservationSpec(shape)


def _integers(array: np.ndarray) -> tuple[int, ...]:
    return tuple(int(x) for x in array.reshape(-1))


def in_range(space: spaces.Space, observation: np.ndarray) -> bool:
    """Whether a discrete observation is one of its space's; numbers are not held to their bounds."""
    if isinstance(space, spaces.Discrete):
        return bool(space.start <= observation < space.start + space.n)
    if isinstance(space, spaces.MultiDiscrete):
        from_zero = observation - space.start
        return bool(np.all((from_zero >= 0) & (from_zero < space.nvec)))
    return True


def action_spec(space: spaces.Space, *, task: str) -> ActionSpec:
    """The action spec of a Gymnasium space.

    Raises:
        ValueError: for a space no policy here can serve.
    """
    _check_class(space, what="action_space", task=task)
    try:
        return _action_spec(space)
    except UserError as error:
        raise UserError(f"{task}: {error}") from None


def _action_spec(space: spaces.Space) -> ActionSpec:
    shape, dtype = tuple(space.shape or ()), str(space.dtype)
    if isinstance(space, spaces.Box):
        # of integers, the dtype's own limits stand for infinity
        low, high = (
            [b if is_bound else infinite for b, is_bound in zip(bounds, flags, strict=True)]
            for bounds, flags, infinite in (
                (space.low.ravel().tolist(), space.bounded_below.ravel(), -math.inf),
                (space.high.ravel().tolist(), space.bounded_above.ravel(), math.inf),
            )
        )
        return ActionSpec(
            "continuous", (len(low),), low=tuple(low), high=tuple(high), shape=shape, dtype=dtype
        )
    if isinstance(space, spaces.Discrete):
        return ActionSpec("discrete", (int(space.n),), dtype=dtype, start=int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        starts = _integers(space.start)
        start = starts if any(starts) else 0
        return ActionSpec(
            "multi_discrete", _integers(space.nvec), shape=shape, dtype=dtype, start=start
        )
    if isinstance(space, spaces.MultiBinary):
        return ActionSpec("multi_binary", (int(np.prod(shape)),), shape=shape, dtype=dtype)
    raise UserError(
        f"action space {space} is not supported; supported are {SUPPORTED_ACTIONS}; a "
        "gymnasium.ActionWrapper can make one Box of it"
    )


def random_action(space: spaces.Space, *, seed: int) -> Any:
    """An action of the space; a bound that means none is not drawn from."""
    if isinstance(space, spaces.Box):
        spec = _action_spec(space)
        low, high = (np.reshape(bounds, space.shape) for bounds in (spec.low, spec.high))
        if np.any(np.isinf(low) & space.bounded_below | np.isinf(high) & space.bounded_above):
            kind = space.dtype.type
            space = spaces.Box(low.astype(kind), high.astype(kind), dtype=kind)
    space.seed(seed)
    return space.sample()
