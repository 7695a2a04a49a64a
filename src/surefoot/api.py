"""Training and evaluation with everything around them: run folder, progress, saved policy."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.agent import LoadedPolicy, Policy, load_policy
from surefoot.config import Config, from_mapping, option_names, parse_options
from surefoot.config_file import toml_value
from surefoot.envs import Environment, make_environment
from surefoot.envs.contract import release
from surefoot.envs.tasks import (
    names_code,
    own_options,
    refuse_code,
    task_fingerprint,
    task_name,
)
from surefoot.errors import UserError
from surefoot.files import hold
from surefoot.services.breakdowns import Breakdowns
from surefoot.services.checkpoints import Checkpoint, Checkpoints, find_checkpoint, later_than
from surefoot.services.console import ConsoleProgress
from surefoot.services.crash_report import CrashReport
from surefoot.services.health import Health
from surefoot.services.loggers.hook import Loggers
from surefoot.services.metrics_file import MetricsFile
from surefoot.services.policy_file import PolicyFile, policy_step
from surefoot.services.run_folder import (
    CONFIG,
    METRICS,
    GoesOn,
    RunFolder,
    default_run_dir,
    read_config,
)
from surefoot.services.videos import Videos, later_videos
from surefoot.terminal import PlainConsole, say
from surefoot.training import (
    MAX_EPISODE_STEPS,
    REPORTS,
    Hook,
    ResumePoint,
    TrainState,
    make_streams,
    to_key,
)
from surefoot.training import evaluate as evaluate_policy
from surefoot.training import train as run_training
from surefoot.training import train_seeds as run_train_seeds


@dataclass(frozen=True)
class TrainResult:
    """What training leaves.

    Attributes:
        run_dir: the run folder.
        policy: the trained policy.
        step: environment steps of experience.
        finished: whether `total_steps` was reached.
    """

    run_dir: Path
    policy: LoadedPolicy
    step: int
    finished: bool


def train(
    task: Any,
    *,
    config: Config | None = None,
    run_dir: str | Path | None = None,
    progress: bool = True,
    hooks: Sequence[Hook] = (),
    should_stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> TrainResult:
    """Train a policy and leave a run folder.

    Args:
        task: a task name, or an environment, or a class or function that makes one.
        config: options to start from; the task's own or the defaults if left out.
        run_dir: the run folder; `runs/TASK-seedS-DATE-TIME` if left out.
        progress: show progress on the console.
        hooks: further listeners.
        should_stop: asked after each iteration; True ends training early, with everything saved.
        **options: options that differ from `config`, by name.

    Raises:
        ValueError: anything that cannot be trained, before training begins; nothing is overwritten.
    """
    config = from_mapping(options, base=config or own_options(task))
    name = task_name(task)
    folder = RunFolder(Path(run_dir) if run_dir else default_run_dir(name, config.seed))
    own = _services(folder, config, task)
    return _run(task, config, folder, [*own, *hooks], should_stop, progress=progress)


def resume(
    run: str | Path,
    *,
    task: Any = None,
    total_steps: int | None = None,
    from_step: int | None = None,
    progress: bool = True,
    hooks: Sequence[Hook] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Go on with a run that was interrupted, from its newest sound checkpoint.

    Args:
        run: the run folder.
        task: the task again, where it is the user's own code: no import path is taken from a file.
        total_steps: a new end for the run, for one that is finished too.
        from_step: go on from this checkpoint; later ones are put aside.
        progress: show progress on the console.
        hooks: further listeners.
        should_stop: asked after each iteration; True ends training early, with everything saved.

    Raises:
        ValueError: there is no run, it is finished, or every checkpoint is damaged; nothing is changed.
    """
    folder = Path(run)
    stored_task, config = read_config(folder)
    task = task_again(stored_task, task)
    refuse_code(task, config.env_options)
    changes = {} if total_steps is None else {"total_steps": total_steps}
    config = from_mapping(changes, base=config)
    with contextlib.ExitStack() as at_end:
        lock = hold(folder, doing="training")  # what is found here stays so until the end
        at_end.callback(lock.release)
        wants_exact = config.exact_resume == "on"
        checkpoint, complaints = find_checkpoint(folder, step=from_step, exact=wants_exact)
        goes_on = _going_on(folder, checkpoint, complaints, task, config)
        if progress:
            for text in goes_on.facts["words"]:
                say(text, stderr=True)
        own = _services(RunFolder(folder, goes_on=goes_on, lock=lock), config, task, checkpoint)
        point = checkpoint.resume_point() if checkpoint else None
        return _run(
            task,
            config,
            own[0],
            [*own, *hooks],
            should_stop,
            progress=progress,
            resume_point=point,
        )


def _going_on(
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
    no_matter = {"total_steps", "keep_checkpoints", "log", "video_every"}
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


def _services(
    folder: RunFolder,
    config: Config,
    task: Any,
    after: Checkpoint | None = None,
    *,
    alone: bool = True,
) -> list[Any]:
    """What every run folder has, in the order in which it is written; see `RunFolder`."""
    metrics = MetricsFile(folder.path / METRICS, goes_on=folder.goes_on is not None)
    services: list[Hook] = [folder]
    if config.log:  # their end is waited for last, when all else is written
        services.append(Loggers(folder.path, config.log, step=after.step if after else 0))
    if config.video_every is not None:  # likewise
        services.append(Videos(folder.path, config.video_every, task_name(task)))
    services += [metrics, PolicyFile(folder.path), CrashReport(folder.path), Health()]
    services.append(Breakdowns(folder.path))
    if config.checkpoint_every is not None:
        services.append(
            Checkpoints(folder.path, after=after, sync_metrics=metrics.sync, alone=alone)
        )
    return services


def _run(
    task: Any,
    config: Config,
    folder: RunFolder,
    hooks: list[Hook],
    should_stop: Callable[[], bool],
    *,
    progress: bool,
    resume_point: ResumePoint | None = None,
) -> TrainResult:
    with contextlib.ExitStack() as console:
        if progress:
            making = f"Making {config.num_envs} environments of {task_name(task)}..."
            shown = ConsoleProgress(PlainConsole(), making)
            hooks = [*hooks, console.enter_context(shown)]
        trained = run_training(
            task, config, hooks=hooks, should_stop=should_stop, resume_point=resume_point
        )
    return _result(folder, task, config, *trained)


def _result(
    folder: RunFolder, task: Any, config: Config, state: TrainState, policy: Policy
) -> TrainResult:
    """What is in memory, whether or not it could be written."""
    loaded = LoadedPolicy(policy, task_name(task))
    return TrainResult(folder.path, loaded, state.step, state.step >= config.total_steps)


def train_seeds(
    task: Any,
    *,
    num_seeds: int,
    config: Config | None = None,
    run_dir: str | Path | None = None,
    progress: bool = True,
    hooks: Sequence[Sequence[Hook]] = (),
    should_stop: Callable[[], bool] = lambda: False,
    reports: int = REPORTS,
    **options: Any,
) -> list[TrainResult]:
    """Train several seeds of a task written in JAX side by side, in one process.

    Args:
        task: `gymnax:ID`, `probe:NAME`, or an environment in JAX of your own.
        num_seeds: how many policies; their seeds are `seed`, `seed + 1`, ... Each is what its seed
            gives alone, up to rounding.
        config: options to start from; the defaults if left out.
        run_dir: holds a run folder `seed-S` for each; named after the task if left out.
        progress: show the first seed's progress on the console.
        hooks: further listeners, a list for each seed.
        should_stop: asked now and then; True ends training early, with everything saved.
        reports: how often the host hears of the runs, at least; hooks see a state that often.
        **options: options that differ from `config`, by name.

    Raises:
        ValueError: anything that cannot be trained so, before training begins.
    """
    if num_seeds < 1:
        raise UserError(f"num_seeds = {num_seeds} must be at least 1")
    config = from_mapping(options, base=config)
    name = task_name(task)
    parent = Path(run_dir) if run_dir else default_run_dir(name, config.seed)
    folders = [RunFolder(parent / f"seed-{config.seed + k}") for k in range(num_seeds)]
    if config.video_every is not None:
        raise UserError(
            f"video_every = {config.video_every}: seeds side by side have no videos made; look at them when "
            "they are trained (surefoot play RUN --video FILE.mp4)"
        )
    own = [_services(folder, config, task, alone=False) for folder in folders]
    further = hooks or [()] * num_seeds
    with contextlib.ExitStack() as console:
        if progress:
            making = (
                f"Making {config.num_envs} environments of {name} for each of {num_seeds} seeds..."
            )
            shown = ConsoleProgress(PlainConsole(), making, seeds=num_seeds)
            own[0].append(console.enter_context(shown))
        listeners = [[*a, *b] for a, b in zip(own, further, strict=True)]
        states = run_train_seeds(
            task, config, hooks=listeners, should_stop=should_stop, reports=reports
        )
    return [
        _result(folder, task, config, *trained)
        for folder, trained in zip(folders, states, strict=True)
    ]


def evaluate(
    run: str | Path,
    *,
    episodes: int = 20,
    deterministic: bool = True,
    task: Any = None,
    seed: int | None = None,
    num_envs: int | None = None,
    env_options: Sequence[str] | None = None,
    max_episode_steps: int = MAX_EPISODE_STEPS,
) -> dict[str, Any]:
    """What the policy of a run is worth, over whole episodes on environments of its own.

    Args:
        run: the run folder.
        episodes: how many episodes to count.
        deterministic: play the mode of the action distribution, not samples.
        task: another task to play; needed where the run was on the user's own code, because no
            import path is ever taken from a file.
        seed: of the evaluation's environments; by default from the run's seed, yet disjoint from
            the streams it trained on.
        num_envs: environments side by side.
        env_options: settings of the task as KEY=VALUE; by default those the run trained with, which
            may shape its reward. Empty: the task as it comes.
        max_episode_steps: an episode that goes on for longer is an error: what it is worth is not known.

    Returns:
        `episodes`, `episode_return_mean`, `episode_return_std` (population), `episode_length_mean`;
        `truncated_share`, `success_rate`, `reward/NAME` and `measure/NAME` per step where the task has them.
    """
    if max_episode_steps < 1:
        raise UserError(f"max_episode_steps = {max_episode_steps} must be at least 1")
    env, policy, streams = open_run(
        run, episodes=episodes, task=task, seed=seed, num_envs=num_envs, env_options=env_options
    )
    try:
        key = to_key(streams.spawn(1)[0])
        return evaluate_policy(
            policy.policy,
            env,
            episodes,
            key=key,
            deterministic=deterministic,
            max_episode_steps=max_episode_steps,
            log=lambda text: say(text, stderr=True),
        )
    finally:
        release(env, warnings.warn)


def open_run(
    run: str | Path,
    *,
    episodes: int,
    task: Any = None,
    seed: int | None = None,
    num_envs: int | None = None,
    env_options: Sequence[str] | None = None,
) -> tuple[Environment, LoadedPolicy, np.random.SeedSequence]:
    """A run's policy, environments to play it in, and their random stream; see `evaluate`."""
    for name, number in (("episodes", episodes), ("num_envs", num_envs)):
        if number is not None and number < 1:
            raise UserError(f"{name} = {number} must be at least 1")
    stored_task, config = read_config(Path(run))
    task = task_again(stored_task, task)
    if env_options is None:
        refuse_code(task, config.env_options)
    policy = load_policy(run)
    streams = make_streams(config.seed if seed is None else seed).evaluation
    env = make_environment(
        task,
        task.spec.num_envs if isinstance(task, Environment) else num_envs or min(episodes, 20),
        seed=streams,
        options=parse_options(config.env_options if env_options is None else env_options),
    )
    env.log_to(lambda text: say(text, stderr=True))
    try:
        check_fits(policy, env)
    except UserError:
        release(env, warnings.warn)
        raise
    return env, policy, streams


def check_fits(policy: LoadedPolicy, env: Environment) -> None:
    """Raise ValueError if the environment does not offer what the policy reads and writes."""
    spec = env.spec
    offered = {name: group.size for name, group in spec.observations.items()}
    for name, group in policy.observations.items():
        if spec.observations.get(name) != group:
            raise UserError(
                f"the policy (trained on {policy.task}) reads observation {name!r} of size "
                f"{group.size}; {spec.name} offers {offered}"
            )
    if differences := policy.action.differences(spec.action):
        raise UserError(
            f"the policy's actions (here; trained on {policy.task}) are not those of {spec.name} (there): "
            f"{'; '.join(differences)}"
        )
