"""What tests of training and its environments need, beside `tests.helpers`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tests.helpers import PROBE, TINY, Recorder, without_times

from surefoot.config import Config
from surefoot.envs import Environment, JaxEnvironment, SingleEnvironment, Step, make_environment
from surefoot.training import Trainer, train
from surefoot.update import Executors
from surefoot.update.executors import Serial


def bytes_of(tree: Any) -> list[bytes]:
    """All numbers of a tree, to the last bit."""
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


class After:
    """Stops a run after some iterations."""

    def __init__(self, iterations: int) -> None:
        self.left = iterations

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def recorded(task: Any = PROBE, config: Config = TINY, **options: Any) -> Recorder:
    """A run, as a hook hears it."""
    recorder = Recorder()
    train(task, config.replace(**options), hooks=[recorder])
    return recorder


def trace(
    task: Any = PROBE, config: Config = TINY, **options: Any
) -> tuple[list[Any], list[bytes]]:
    """A run's metrics without times, and its parameters."""
    recorder = recorded(task, config, **options)
    return [without_times(row) for row in recorder.rows], bytes_of(recorder.state.learners)


def in_turn() -> Executors:
    """Every program on the caller's thread."""
    return Executors(Serial(), Serial())


def trainer_for(task: Any = PROBE, config: Config = TINY) -> Trainer:
    """A trainer whose methods are called one by one."""
    env = make_environment(task, config.num_envs, seed=np.random.SeedSequence(0))
    return Trainer(config, env, in_turn())


class Chosen(Environment):
    """Several environments of equal shapes, so that one program serves them all.

    Attributes:
        index: which of them it is, from the next reset on.
    """

    def __init__(self, singles: Sequence[SingleEnvironment], num_envs: int) -> None:
        self._envs = [JaxEnvironment(single, num_envs) for single in singles]
        self.spec = dataclasses.replace(self._envs[0].spec, name="chosen")
        self.index = 0

    def reset(self, key: jax.Array) -> tuple[Any, Step]:
        state, step = self._envs[self.index].reset(key)
        return (jnp.int32(self.index), state), step

    def step(self, env_state: Any, action: Any) -> tuple[Any, Step]:
        index, state = env_state
        state, step = jax.lax.switch(index, [env.step for env in self._envs], state, action)
        return (index, state), step
