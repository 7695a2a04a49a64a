"""The one interface between the training loop and whatever listens to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from surefoot.config import Config
from surefoot.envs import EnvSpec
from surefoot.rollout import Policy
from surefoot.training.agent import AgentSpec
from surefoot.training.state import TrainState


@dataclass(frozen=True)
class Run:
    """What does not change during a run: options, environment, networks' spec.

    `policy` gives the newest policy in a state; `note` tells every hook something in words.
    """

    task: str
    config: Config
    env: EnvSpec
    agent: AgentSpec
    policy: Callable[[TrainState], Policy]
    note: Callable[[str], None]


class Hook:
    """Override what you need; a hook may read everything and change nothing."""

    def on_start(self, run: Run) -> None:
        """Before the first iteration, once the environment and the networks stand."""

    def on_iteration(self, state: TrainState, metrics: Mapping[str, Any]) -> None:
        """After each iteration, with its metrics (see `training.metrics.METRICS`)."""

    def on_note(self, text: str) -> None:
        """Something that a user should know, in a sentence."""

    def on_failure(self, state: TrainState, error: Exception) -> None:
        """Training ends with an error; `state` is the last sound one. `on_end` follows."""

    def on_end(self, state: TrainState, policy: Policy, *, finished: bool) -> None:
        """After the last iteration; `finished` is False if training was interrupted."""
