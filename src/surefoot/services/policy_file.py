"""Saves the policy into the run folder."""

from __future__ import annotations

import math
from pathlib import Path

from surefoot.agent import Policy, save_policy
from surefoot.agent.saved import DESCRIPTION, WEIGHTS
from surefoot.errors import UserError
from surefoot.reading import read_json
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
        try:
            save_policy(
                self._folder, policy, task=self._run.task, step=state.step, finished=finished
            )
        except OSError as error:
            self._run.log(f"the policy could not be written to {self._folder} ({error})")


def policy_step(folder: Path) -> float | None:
    """Steps of experience that the policy of a folder has; inf: not known; None: there is no policy."""
    if not any((folder / name).exists() for name in (DESCRIPTION, WEIGHTS)):
        return None
    try:
        step = read_json(folder / DESCRIPTION).get("step")
    except UserError:
        return math.inf
    return step if isinstance(step, int) else math.inf
