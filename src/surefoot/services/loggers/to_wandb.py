"""Weights & Biases, as its own environment variables say: WANDB_MODE=offline, WANDB_PROJECT, WANDB_ENTITY."""

from __future__ import annotations

import os
from collections.abc import Mapping

import wandb

from surefoot.services.loggers.adapter import About, Logger


class WeightsAndBiases(Logger):
    """One run, under the id that it was begun with.

    Its steps are the metric `step`, not W&B's own, which cannot go back to where a resumed run begins.

    Args:
        about: the run.
    """

    def __init__(self, about: About) -> None:
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "surefoot"),
            group=os.environ.get("WANDB_RUN_GROUP", str(about.options["task"])),
            name=os.environ.get("WANDB_NAME", about.name),
            id=about.id,
            resume="allow",
            dir=about.folder,
            config={**about.options, "provenance": dict(about.facts)},
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )
        self.id = self._run.id
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """All of them at once."""
        self._run.log({**numbers, "step": step})

    def close(self, how: str) -> None:
        """Hand over what is left."""
        self._run.finish(exit_code=int(how == "failed"))


def open_run(about: About) -> WeightsAndBiases:
    """Begin, or go on."""
    return WeightsAndBiases(about)
