"""Gymnasium spaces -> what the agent needs: flat float groups and an action spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from surefoot.envs.contract import ActionSpec, Encoding
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


def encodings(groups: Mapping[str, spaces.Space]) -> dict[str, Encoding]:
    """How each group's raw observations become flat numbers (one-hot where they are discrete)."""
    return {name: _encoding(space) for name, space in groups.items()}


def _encoding(space: spaces.Space) -> Encoding:
    if isinstance(space, spaces.Discrete):
        return Encoding("codes", (), (int(space.n),), (int(space.start),))
    shape = tuple(space.shape or ())
    if isinstance(space, spaces.MultiDiscrete):
        sizes, starts = (tuple(int(x) for x in v.reshape(-1)) for v in (space.nvec, space.start))
        return Encoding("codes", shape, sizes, starts)
    return Encoding("numbers", shape)


def in_range(space: spaces.Space, observation: np.ndarray) -> bool:
    """Whether a discrete observation is one of its space's; numbers are not held to their bounds."""
    if isinstance(space, spaces.Discrete):
        return bool(space.start <= observation < space.start + space.n)
    if isinstance(space, spaces.MultiDiscrete):
        codes = observation - space.start
        return bool(np.all((codes >= 0) & (codes < space.nvec)))
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
        sizes, starts = (tuple(int(x) for x in v.reshape(-1)) for v in (space.nvec, space.start))
        start = starts if any(starts) else 0
        return ActionSpec("multi_discrete", sizes, shape=shape, dtype=dtype, start=start)
    if isinstance(space, spaces.MultiBinary):
        return ActionSpec("multi_binary", (int(np.prod(shape)),), shape=shape, dtype=dtype)
    raise UserError(
        f"{task}: action space {space} is not supported; supported are {SUPPORTED_ACTIONS}"
    )
