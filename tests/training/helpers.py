"""What tests of several floors need: a tiny run, a hook that keeps what it hears, a run's numbers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from surefoot.config import Config
from surefoot.envs import Environment, JaxEnvironment, SingleEnvironment, Step, make_environment
from surefoot.training import Hook, Trainer, train
from surefoot.update import Executors
from surefoot.update.executors import Serial

# the same task and shapes everywhere: what one test has compiled, the next one finds in the cache
PROBE = "probe:late-reward/continuous"
TINY = Config(
    total_steps=300,
    num_envs=4,
    num_steps=16,
    num_minibatches=4,
    num_epochs=2,
    actor_hidden=(8,),
    critic_hidden=(8,),
)


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    """Metrics of an iteration that are the same each time."""
    return {k: v for k, v in row.items() if not k.startswith(("time/", "wall"))}


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics, without times."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [without_times(json.loads(line)) for line in lines]


def bytes_of(tree: Any) -> list[bytes]:
    """All numbers of a tree, to the last bit."""
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


class Recorder(Hook):
    """Keeps all that a hook hears.

    Attributes:
        events: `start`, `iteration`, `failure` and `end`, in order.
        rows: the metrics of each iteration.
        notes: what was told in words.
        states: the states of the iterations.
        run, state, policy, error, finished: as they were heard last; None before.
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.states: list[Any] = []
        self.run: Any = None
        self.state: Any = None
        self.policy: Any = None
        self.error: Exception | None = None
        self.finished: bool | None = None

    def on_start(self, run: Any) -> None:
        self.run = run
        self.events.append("start")

    def on_iteration(self, state: Any, metrics: Any) -> None:
        self.state = state
        self.states.append(state)
        self.rows.append(dict(metrics))
        self.events.append("iteration")

    def on_log(self, text: str) -> None:
        self.notes.append(text)

    def on_failure(self, state: Any, error: Exception) -> None:
        self.state, self.error = state, error
        self.events.append("failure")

    def on_end(self, state: Any, policy: Any, *, finished: bool) -> None:
        self.state, self.policy, self.finished = state, policy, finished
        self.events.append("end")


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
