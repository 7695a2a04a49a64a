"""Saves the policy into the run folder."""

from __future__ import annotations

from pathlib import Path

from surefoot.agent import Policy, save_policy
from surefoot.training import Hook, Run, TrainState


class PolicyFile(Hook):
    """Saves the policy when training ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run: Run | None = None

    def on_start(self, run: Run) -> None:
        """Remember what the policy is for."""
        self._run = run

    def on_end(self, state: TrainState, policy: Policy, *, finished: bool) -> None:
        """Save."""
        assert self._run is not None
        save_policy(self._folder, policy, task=self._run.task, step=state.step, finished=finished)
