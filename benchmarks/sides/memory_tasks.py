"""Environments of `remember.py`: tasks that hide something, and wrappers that hide or stack."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from surefoot.envs import Environment, ObservationSpec, make_environment

# columns of EnvPool's observations that are positions
POSITIONS = {"Hopper-v5": slice(0, 5), "Walker2d-v5": slice(0, 8)}


class _Stack(NamedTuple):
    inner: Any
    frames: Any


class Seen(Environment):
    """An environment of which part of the last few observations is seen, side by side.

    Args:
        env: the environment, with one group of observations.
        columns: what is seen of each.
        stack: how many; an episode begins with its first observation as many times.
    """

    def __init__(self, env: Environment, columns: slice, stack: int) -> None:
        self.env, self.columns, self.stack = env, columns, stack
        (spec,) = env.spec.observations.values()
        shape = np.zeros(spec.shape)[columns].shape if spec.shape else ()
        seen = ObservationSpec(
            (stack, *shape), spec.choices * stack, (0,) * len(spec.choices) * stack
        )
        self.spec = dataclasses.replace(env.spec, observations={"observation": seen})

    def reset(self, key):
        inner, step = self.env.reset(key)
        frames = np.repeat(self._seen(step, np)[:, None], self.stack, axis=1)
        return _Stack(inner, frames), step._replace(observation=frames)

    def step(self, state, action):
        xp = jnp if self.spec.in_graph else np
        inner, step = self.env.step(state.inner, action)
        now = self._seen(step, xp)[:, None]
        begins = ~step.valid & ~(step.terminated | step.truncated)
        begins = begins.reshape(-1, *(1,) * (now.ndim - 1))
        fresh = xp.repeat(now, self.stack, axis=1)
        frames = xp.where(begins, fresh, xp.concatenate([state.frames[:, 1:], now], axis=1))
        return _Stack(inner, frames), step._replace(observation=frames)

    def close(self) -> None:
        self.env.close()

    def _seen(self, step, xp):
        (observation,) = step.observation.values()
        return xp.asarray(observation)[:, self.columns] if observation.ndim > 1 else observation


def environments(name: str, num_envs: int, seed: np.random.SeedSequence, stack: int) -> Environment:
    """The environments of a task of `remember.py`."""
    task, options, columns = name, {}, slice(None)
    if name.startswith("memory-chain-"):
        task, options = "gymnax:MemoryChain-bsuite", {"memory_length": int(name.split("-")[-1])}
    elif name.startswith("popgym-"):
        task = popgym(name)
    elif name.endswith(" without velocities"):
        task = name.split()[0]
        columns = POSITIONS[task]
    env = make_environment(task, num_envs, seed=seed, options=options)
    return env if stack == 1 and columns == slice(None) else Seen(env, columns, stack)


def popgym(name: str) -> Any:
    """A maker of a POPGym task; a tuple of discrete observations as one that is multi-discrete."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import gymnasium
        import popgym  # noqa: F401, registers its tasks
        from gymnasium import spaces

    def make() -> gymnasium.Env:
        env = gymnasium.make(name, disable_env_checker=True)
        space = env.observation_space
        if not isinstance(space, spaces.Tuple):
            return env
        parts = spaces.MultiDiscrete([part.n for part in space.spaces])
        return gymnasium.wrappers.TransformObservation(env, np.array, parts)

    make.__name__ = name
    return make
