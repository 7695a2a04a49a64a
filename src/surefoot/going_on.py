"""Going on with a run: from where, with which options, and what may be said of what follows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surefoot.config import (
    Config,
    EvaluationOptions,
    fixed_options,
    from_mapping,
    option_names,
    parse_options,
)
from surefoot.config_file import toml_value
from surefoot.envs.tasks import names_code, task_fingerprint, task_name
from surefoot.errors import UserError, check_names
from surefoot.reading import read_json
from surefoot.services.checkpoints import Checkpoint
from surefoot.services.evaluation import reached_before
from surefoot.services.policy_file import policy_step
from surefoot.services.run_folder import (
    CONFIG,
    META,
    METRICS,
    GoesOn,
    read_config,
    read_metrics,
)
from surefoot.services.step_folders import later_than
from surefoot.services.videos import later_videos


def with_changes(folder: Path, config: Config, changes: Mapping[str, Any]) -> Config:
    """The options of the run in a folder, some of them others from now on.

    Raises:
        ValueError: an option that there is not, that stays as it is for a whole run, or whose change would
            have no effect; or a value that cannot be right.
    """
    check_names(changes, option_names(), what="option")
    fixed = fixed_options()
    for name, value in changes.items():
        if name in fixed:
            raise UserError(
                f"{name} stays as it is for a whole run: {fixed[name]} (it is {getattr(config, name)!r}, not "
                f"{value!r}). To begin another run with the policy of this one: surefoot train TASK --from "
                f"{folder}"
            )
    after = from_mapping(changes, base=config)
    if "learning_rate" in changes and after.learning_rate_schedule == "kl_adaptive":
        raise UserError(
            "learning_rate is where learning_rate_schedule = 'kl_adaptive' began, and the KL decides on it "
            "now; set desired_kl, or another schedule with it"
        )
    return after


def check_seeds(num_seeds: int, config: Config) -> None:
    """Raise ValueError for what seeds that share a program cannot do."""
    if num_seeds < 1:
        raise UserError(f"num_seeds = {num_seeds} must be at least 1")
    alone = {
        "from_run": "seeds side by side begin with fresh networks",
        "stop_at_return": "seeds that share a program end together, and each reaches it at another step",
        "stop_at_success": "seeds that share a program end together, and each reaches it at another step",
    }
    for name, why in alone.items():
        if (value := getattr(config, name)) is not None:
            raise UserError(
                f"{name} = {value!r} with num_seeds = {num_seeds}: {why}; train one seed after the other"
            )


def check_source(folder: Path, facts: Mapping[str, Any]) -> None:
    """Raise ValueError if a run that begins anew would begin with another policy than is on record."""
    try:
        recorded = read_json(folder / META).get("from")
    except (UserError, OSError):
        return  # it was cut off before, or is damaged: put aside, and written anew
    now = facts.get("from")
    if recorded and now and recorded.get("policy_sha256") != now["policy_sha256"]:
        raise UserError(
            f"{str(folder)!r} began with the policy of {now['run']} at step {recorded.get('step')}, and "
            f"another is there now (step {now['step']}); begin a run of its own: surefoot train --config "
            f"{folder / CONFIG}"
        )


def going_on(
    folder: Path, checkpoint: Checkpoint | None, complaints: list[str], task: Any, config: Config
) -> GoesOn:
    """Where a run goes on, and what is to be known of it.

    Raises:
        ValueError: it is finished, or would begin at the start although it left a policy.
    """
    step, trained = checkpoint.step if checkpoint else 0, policy_step(folder)
    if checkpoint and step >= config.total_steps:
        raise UserError(
            f"{str(folder)!r} has finished its {step:,} steps; to go on, give it more: "
            f"--total-steps {2 * step}"
        )
    if checkpoint and (goal := _goal_reached(folder, step, config)):
        raise UserError(
            f"{str(folder)!r} has ended: {goal}; to go on, ask for more, or for none: --set "
            "stop_at_return=none stop_at_success=none"
        )
    if trained and not checkpoint:
        steps = "" if trained == math.inf else f" of {trained:,} steps"
        raise UserError(
            f"{str(folder)!r} holds a policy{steps} and no checkpoint to go on from (checkpoint_every = "
            f"{config.checkpoint_every}); to train it once more from the start, in a folder of its own: "
            f"surefoot train --config {folder / CONFIG}"
        )
    changed = _changes(checkpoint, task_name(task), config) if checkpoint else {}
    words = [f"{folder}: no checkpoint to go on from yet; beginning at the start"]
    if checkpoint:
        why = _why_not_exact(checkpoint, task, config, changed)
        exact = f"statistically equal, not exact ({'; '.join(why)})"
        if not why:
            exact = "exact, with the very numbers of a run that was not interrupted"
        words = [f"Going on from step {step:,} of {folder}: {exact}"]
    facts = {"from_step": step, "words": [*complaints, *words]}
    if changed:
        facts["changed"] = {name: [*map(toml_value, pair)] for name, pair in changed.items()}
    is_later = trained is not None and trained > step
    later = [*later_than(folder, step), *later_videos(folder, step)]
    return GoesOn(step, later, is_later, facts)


def _goal_reached(folder: Path, step: int, config: Config) -> str:
    """What the run was to reach and has reached, in words; lines that are damaged say nothing."""
    if config.eval_every is None or not (folder / METRICS).is_file():
        return ""
    return reached_before(read_metrics(folder / METRICS)[0], step, config)


def _changes(checkpoint: Checkpoint, task: str, config: Config) -> dict[str, tuple[Any, Any]]:
    """Task and options that are other than when a checkpoint was made: what they were, and are."""
    before_task, before = read_config(checkpoint.path)
    pairs = {name: (getattr(before, name), getattr(config, name)) for name in option_names()}
    pairs = {"task": (before_task, task), **pairs}
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}


def _why_not_exact(
    checkpoint: Checkpoint, task: Any, config: Config, changed: Mapping[str, tuple[Any, Any]]
) -> list[str]:
    """Why what a run will be is not what it would have been; empty: it is."""
    why = []
    if not checkpoint.exact:
        left = checkpoint.environments == "left"
        why.append(
            "its simulators could not be saved, so they begin new episodes"
            if left
            else "its seeds were trained side by side, which rounds otherwise"
        )
    if "total_steps" in changed and config.learning_rate_schedule != "constant":
        why.append(f"its learning rate now anneals over {config.total_steps:,} steps")
    fingerprint = task_fingerprint(task, parse_options(config.env_options))
    # what is looked at and kept of a run is no part of what it learns
    no_matter = {"total_steps", "keep_checkpoints", "log", "video_every"}
    no_matter |= {field.name for field in dataclasses.fields(EvaluationOptions)}
    if checkpoint.environments != "anew":  # else it says where they begin anew
        no_matter.add("checkpoint_every")
    if fingerprint is not None and fingerprint == checkpoint.fingerprint:
        no_matter.add("task")  # another name for the same
    why += [
        f"{name} was {old}, is {new}"
        for name, (old, new) in changed.items()
        if name not in no_matter
    ]
    return why + checkpoint.differences(fingerprint)


def task_again(stored: str, given: Any) -> Any:
    """The task of a run: the stored name, unless it is code, which must be named again."""
    if given is None and names_code(stored):
        again = "pass it as task=" if stored.startswith("python:") else f"--task {stored}"
        raise UserError(
            f"this run was on {stored!r}, which is your own code; name it again: {again} "
            "(no import path is taken from a file)"
        )
    return stored if given is None else given
