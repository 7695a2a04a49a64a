"""gymnax environments as `SingleEnvironment`s (extra `gymnax`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from surefoot.envs.contract import ActionSpec
from surefoot.envs.jax_native import SingleEnvironment, SingleStep
from surefoot.errors import UserError, check_names, near_matches


class GymnaxEnvironment(SingleEnvironment):
    """One gymnax task, without its own reset, so that the last observation is not lost.

    Args:
        task: a gymnax id, such as `CartPole-v1`.
        options: values for the task's parameters, such as `max_steps_in_episode`.

    Raises:
        ValueError: unknown task or parameter, an unsupported space, or gymnax is not installed.
    """

    def __init__(self, task: str, options: Mapping[str, Any] | None = None) -> None:
        gymnax = _import()
        if gymnax is None:
            raise UserError("gymnax tasks need an extra: pip install 'surefoot[gymnax]'")
        if task not in gymnax.registered_envs:
            near = near_matches(task, gymnax.registered_envs)
            raise UserError(f"unknown gymnax task {task!r}{near}")
        self._env, params = gymnax.make(task)
        known = [name for name in vars(params) if not name.startswith("_")]
        check_names(options or {}, known, what=f"option of gymnax:{task}:")
        self._params = params.replace(**(options or {}))
        self.name = f"gymnax:{task}"
        space = self._env.observation_space(self._params)
        if not hasattr(space, "low"):
            raise UserError(f"{self.name}: observation space {type(space).__name__}, need a Box")
        self.observations = {"observation": int(np.prod(space.shape))}
        self.action = _action_spec(self._env.action_space(self._params), self.name)

    def reset(self, key: jax.Array) -> tuple[Any, Any]:
        """Start an episode."""
        observation, state = self._env.reset_env(key, self._params)
        return state, observation

    def step(self, state: Any, action: jax.Array, key: jax.Array) -> tuple[Any, SingleStep]:
        """One step; a time limit is a truncation, not a termination."""
        observation, state, reward, terminated, _ = self._env.step_env(
            key, state, action, self._params
        )
        truncated = self._env.is_truncated(state, self._params)
        return state, SingleStep(observation, reward, terminated, truncated)


def known_tasks() -> list[str]:
    """Ids of every gymnax task; none if gymnax is not installed."""
    gymnax = _import()
    return [] if gymnax is None else sorted(gymnax.registered_envs)


def refusal(task: str) -> str:
    """Why a known task cannot be trained; empty if it can be."""
    if task == "MNISTBandit-bsuite":  # not even for this is anything to be fetched
        return "it fetches its images when it is made"
    try:
        GymnaxEnvironment(task)
    except UserError as error:
        return str(error).partition(": ")[2]
    return ""


def _import() -> Any:
    try:
        import gymnax
    except ImportError:
        return None
    return gymnax


def _action_spec(space: Any, task: str) -> ActionSpec:
    if hasattr(space, "n"):
        return ActionSpec("discrete", (int(space.n),), dtype="int32")
    if hasattr(space, "low"):
        low, high = (
            np.broadcast_to(np.asarray(b, np.float64), space.shape).reshape(-1)
            for b in (space.low, space.high)
        )
        return ActionSpec(
            "continuous",
            (low.size,),
            low=tuple(low.tolist()),
            high=tuple(high.tolist()),
            shape=tuple(space.shape),
        )
    raise UserError(f"{task}: action space {type(space).__name__} is not supported")
