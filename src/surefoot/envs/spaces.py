"""Gymnasium spaces -> what the agent needs: flat float groups and an action spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from surefoot.config import UserError
from surefoot.envs.contract import ActionSpec

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


def flat_size(space: spaces.Space) -> int:
    """Numbers in the flattened observation (one-hot where it is discrete)."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(np.sum(space.nvec))
    return int(np.prod(space.shape or ()))


def in_range(space: spaces.Space, observation: np.ndarray) -> bool:
    """Whether a discrete observation is one of its space's; numbers are not held to their bounds."""
    if isinstance(space, spaces.Discrete):
        return bool(space.start <= observation < space.start + space.n)
    if isinstance(space, spaces.MultiDiscrete):
        codes = observation - space.start
        return bool(np.all((codes >= 0) & (codes < space.nvec)))
    return True


def flatten(space: spaces.Space, batch: Any, xp: Any = np) -> Any:
    """A batch of observations [N, ...] as float32 [N, D], discrete ones one-hot.

    Args:
        space: the space of one observation.
        batch: the observations, stacked.
        xp: numpy, or jax.numpy inside a jitted program.
    """
    if isinstance(space, spaces.Discrete):
        codes = xp.asarray(batch).reshape(-1, 1) - int(space.start)
        return (codes == np.arange(int(space.n))).astype(np.float32)
    if isinstance(space, spaces.MultiDiscrete):
        batch = xp.asarray(batch)
        codes = (batch - space.start.astype(batch.dtype)).reshape(batch.shape[0], -1)
        columns = [
            (codes[:, i : i + 1] == np.arange(int(n))).astype(np.float32)
            for i, n in enumerate(space.nvec.reshape(-1))
        ]
        return xp.concatenate(columns, axis=1)
    batch = xp.asarray(batch)
    return batch.reshape(batch.shape[0], -1).astype(np.float32)


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
    if isinstance(space, spaces.MultiDiscrete) and not np.any(space.start):
        sizes = tuple(int(n) for n in space.nvec.reshape(-1))
        return ActionSpec("multi_discrete", sizes, shape=shape, dtype=dtype)
    if isinstance(space, spaces.MultiBinary):
        return ActionSpec("multi_binary", (int(np.prod(shape)),), shape=shape, dtype=dtype)
    raise UserError(
        f"{task}: action space {space} is not supported; supported are {SUPPORTED_ACTIONS}"
    )


def group_sizes(groups: Mapping[str, spaces.Space]) -> dict[str, int]:
    """Flat size of each group."""
    return {name: flat_size(space) for name, space in groups.items()}
