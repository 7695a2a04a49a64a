"""Gymnasium spaces -> what the agent needs: observation groups and an action spec."""

from __future__ import annotations

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
    groups: dict[str, Any] = (
        dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}
    )
    for name, group in groups.items():
        _check_observation(group, name=name, task=task)
    return groups


def _check_observation(space: spaces.Space, *, name: str, task: str) -> None:
    if isinstance(space, spaces.Box):
        if len(space.shape) == 3 and space.dtype == np.uint8:
            raise UserError(
                f"{task}: observation {name!r} is an image {space.shape} of uint8; the networks here "
                "are MLPs on numbers. Wrap the task so that it returns features."
            )
        return
    if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        raise UserError(
            f"{task}: observation {name!r} is a {type(space).__name__} space; "
            f"supported are {SUPPORTED_OBSERVATIONS}"
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
    shape, dtype = tuple(space.shape or ()), str(space.dtype)
    if isinstance(space, spaces.Box):
        low, high = (np.asarray(b, np.float64).reshape(-1) for b in (space.low, space.high))
        if np.any(low >= high):
            where = int(np.argmax(low >= high))
            raise UserError(
                f"{task}: action component {where} has low {low[where]} and high {high[where]}; "
                "the lower bound must lie below the upper one"
            )
        return ActionSpec(
            "continuous",
            (low.size,),
            low=tuple(low.tolist()),
            high=tuple(high.tolist()),
            shape=shape,
            dtype=dtype,
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
        f"{task}: action space {space} is not supported; supported are {SUPPORTED_ACTIONS}"
    )
