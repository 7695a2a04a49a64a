"""The one interface between the training loop and whatever listens to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surefoot.agent import Agent, Policy
from surefoot.config import Config
from surefoot.envs import EnvSpec
from surefoot.envs.contract import Breakdown
from surefoot.training.state import TrainState


@dataclass(frozen=True)
class Run:
    """What does not change during a run: options, environment, agent.

    `policy` gives the newest policy in a state; `log` tells every hook something in words.
    """

    task: str
    config: Config
    env: EnvSpec
    agent: Agent
    policy: Callable[[TrainState], Policy]
    log: Callable[[str], None]


class Hook:
    """Override what you need; a hook may read everything, and change nothing but what is reported."""

    def on_start(self, run: Run) -> None:
        """Before the first iteration, once the environment and the networks stand."""

    def measure(self, state: TrainState, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
        """Further metrics of an iteration: numbers, or None. They join the others before `on_iteration`."""
        return {}

    def on_iteration(self, state: TrainState, metrics: Mapping[str, Any]) -> None:
        """After each iteration, with its metrics (see `training.metrics.METRICS`)."""

    def on_log(self, text: str) -> None:
        """Something that a user should know, in a sentence."""

    def on_breakdown(self, breakdown: Breakdown) -> None:
        """A simulation broke down; training goes on without its episode."""

    def on_failure(self, state: TrainState, error: Exception) -> None:
        """Training ends with an error; `state` is the last sound one. `on_end` follows."""

    def on_end(self, state: TrainState, policy: Policy, *, finished: bool) -> None:
        """After the last iteration; `finished` is False if training was interrupted."""


class Listeners:
    """The hooks of a run, and the order in which they hear of it.

    Args:
        hooks: who hears, in this order.
    """

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self._hooks = hooks

    def log(self, text: str) -> None:
        """Tell the hooks something in words."""
        for hook in self._hooks:
            hook.on_log(text)

    def on_breakdown(self, breakdown: Breakdown) -> None:
        """Tell the hooks of a simulation that broke down."""
        for hook in self._hooks:
            hook.on_breakdown(breakdown)

    def on_iteration(self, state: TrainState, metrics: Mapping[str, Any]) -> None:
        """Let the hooks measure, then tell them of the iteration."""
        for hook in self._hooks:
            metrics = {**metrics, **hook.measure(state, metrics)}
        for hook in self._hooks:
            hook.on_iteration(state, metrics)

    @contextlib.contextmanager
    def during(self, run: Run, state: Callable[[], TrainState]) -> Iterator[None]:
        """Start the hooks, and end them whatever happens.

        They start in order. An error of the block is told to all of them; then every hook that was started
        is ended, the last one first, even if another's end fails.

        Args:
            run: what they are told of.
            state: gives the newest sound state.
        """
        with contextlib.ExitStack() as at_end:
            for hook in self._hooks:
                hook.on_start(run)
                at_end.callback(self._end, hook, run, state)
            try:
                yield
            except Exception as error:
                for hook in self._hooks:
                    hook.on_failure(state(), error)
                raise

    @staticmethod
    def _end(hook: Hook, run: Run, state: Callable[[], TrainState]) -> None:
        last = state()
        hook.on_end(last, run.policy(last), finished=last.step >= run.config.total_steps)
