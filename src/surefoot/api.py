"""Training and evaluation with everything around them: run folder, progress, saved policy."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from surefoot.agent import LoadedPolicy, Policy, load_policy
from surefoot.config import Config, from_mapping, parse_options
from surefoot.envs import Environment, make_environment
from surefoot.envs.contract import closing, release
from surefoot.envs.tasks import own_options, refuse_code, task_fingerprint, task_name
from surefoot.errors import UserError
from surefoot.files import hold
from surefoot.going_on import check_seeds, check_source, going_on, task_again, with_changes
from surefoot.machine import user_path
from surefoot.services.best import BestPolicy, evaluated_best
from surefoot.services.breakdowns import Breakdowns
from surefoot.services.checkpoints import Checkpoint, Checkpoints, find_checkpoint
from surefoot.services.console import ConsoleProgress, EpisodeProgress
from surefoot.services.crash_report import CrashReport
from surefoot.services.evaluation import Evaluation
from surefoot.services.health import Health
from surefoot.services.loggers.hook import Loggers
from surefoot.services.metrics_file import MetricsFile
from surefoot.services.policy_file import PolicyFile
from surefoot.services.run_folder import METRICS, RunFolder, default_run_dir, read_config
from surefoot.services.step_folders import CHECKPOINTS, step_name
from surefoot.services.videos import Videos
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
from surefoot.warm_start import Source


@dataclass(frozen=True)
class TrainResult:
    """What training leaves.

    Attributes:
        run_dir: the run folder.
        policy: the trained policy.
        step: environment steps of experience.
        finished: whether `total_steps` was reached.
        reached: the goal that ended it before (`stop_at_return`, `stop_at_success`), in words; else nothing.
    """

    run_dir: Path
    policy: LoadedPolicy
    step: int
    finished: bool
    reached: str = ""


class _Services(NamedTuple):
    """What listens to every run.

    Attributes:
        folder: the run folder.
        hooks: all of it, in the order in which it is written; see `RunFolder`.
        evaluation: of them, if there is one.
    """

    folder: RunFolder
    hooks: list[Hook]
    evaluation: Evaluation | None


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
    if options.get("from_run") is not None:
        options["from_run"] = str(options["from_run"])
    config = from_mapping(options, base=config or own_options(task))
    config, point, facts = _begin(task, config)
    path = Path(run_dir) if run_dir else default_run_dir(task_name(task), config.seed)
    own = _services(RunFolder(path, facts=facts), task, config)
    return _run(task, config, own, hooks, should_stop, progress=progress, resume_point=point)


def resume(
    run: str | Path,
    *,
    task: Any = None,
    total_steps: int | None = None,
    from_step: int | None = None,
    progress: bool = True,
    hooks: Sequence[Hook] = (),
    should_stop: Callable[[], bool] = lambda: False,
    **options: Any,
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
        **options: options that are others from here on, by name; not all may be.

    Raises:
        ValueError: there is no run, it is finished, every checkpoint is damaged, or an option cannot be
            changed; nothing is changed.
    """
    folder = Path(run)
    stored_task, config = read_config(folder)
    task = task_again(stored_task, task)
    if "env_options" not in options:  # else they are the user's own words
        refuse_code(task, config.env_options)
    changes = {} if total_steps is None else {"total_steps": total_steps}
    config = with_changes(folder, config, changes | options)
    with contextlib.ExitStack() as at_end:
        lock = hold(folder, doing="training")  # what is found here stays so until the end
        at_end.callback(lock.release)
        wants_exact = config.exact_resume == "on"
        checkpoint, complaints = find_checkpoint(folder, step=from_step, exact=wants_exact)
        goes_on = going_on(folder, checkpoint, complaints, task, config)
        point, facts = checkpoint and checkpoint.resume_point(), {}
        if checkpoint is None:
            config, point, facts = _begin(task, config)
            check_source(folder, facts)
        if progress:
            for text in goes_on.facts["words"]:
                say(text, stderr=True)
        run_folder = RunFolder(folder, goes_on=goes_on, lock=lock, facts=facts)
        own = _services(run_folder, task, config, checkpoint)
        return _run(task, config, own, hooks, should_stop, progress=progress, resume_point=point)


def _begin(task: Any, config: Config) -> tuple[Config, ResumePoint | None, dict[str, Any]]:
    """Options, begin and provenance of a run that begins: with fresh networks, or another's policy."""
    if config.from_run is None:
        return config, None, {}
    config = config.replace(from_run=str(user_path(config.from_run).absolute()))
    source = Source(config)
    source.check_joints(task)
    return config, source.begin(), {"from": source.facts}


def _services(
    folder: RunFolder,
    task: Any,
    config: Config,
    after: Checkpoint | None = None,
    *,
    alone: bool = True,
) -> _Services:
    metrics = MetricsFile(folder.path / METRICS, goes_on=folder.goes_on is not None)
    step = after.step if after else 0
    hooks: list[Hook] = [folder]
    if config.log:  # at the end they are waited for last, when all else is written
        hooks.append(Loggers(folder.path, config.log, step=step))
    if config.video_every is not None:  # likewise
        hooks.append(Videos(folder.path, config.video_every, task_name(task), after=step))
    hooks.append(metrics)
    evaluation = None
    if config.eval_every is not None:
        evaluation = Evaluation(task, after=step)
        best = BestPolicy(folder.path, sync_metrics=metrics.sync)
        hooks = [evaluation, *hooks, best]  # it may refuse the task, before anything is written
    hooks += [PolicyFile(folder.path), CrashReport(folder.path), Health(), Breakdowns(folder.path)]
    if config.checkpoint_every is not None:
        hooks.append(Checkpoints(folder.path, after=after, sync_metrics=metrics.sync, alone=alone))
    return _Services(folder, hooks, evaluation)


def _run(
    task: Any,
    config: Config,
    own: _Services,
    hooks: Sequence[Hook],
    should_stop: Callable[[], bool],
    *,
    progress: bool,
    resume_point: ResumePoint | None = None,
) -> TrainResult:
    evaluation, heard = own.evaluation, [*own.hooks, *hooks]
    with contextlib.ExitStack() as console:
        if progress:
            making = f"Making {config.num_envs} environments of {task_name(task)}..."
            shown = ConsoleProgress(PlainConsole(), making)
            heard.append(console.enter_context(shown))
        trained = run_training(
            task,
            config,
            hooks=heard,
            should_stop=lambda: bool(evaluation and evaluation.reached) or should_stop(),
            resume_point=resume_point,
        )
    result = _result(own.folder, task, config, *trained)
    return replace(result, reached=evaluation.reached) if evaluation else result


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
    config = from_mapping(options, base=config)
    check_seeds(num_seeds, config)
    name = task_name(task)
    parent = Path(run_dir) if run_dir else default_run_dir(name, config.seed)
    folders = [RunFolder(parent / f"seed-{config.seed + k}") for k in range(num_seeds)]
    if config.video_every is not None:
        raise UserError(
            f"video_every = {config.video_every}: seeds side by side have no videos made; look at them when "
            "they are trained (surefoot play RUN --video FILE.mp4)"
        )
    own = [_services(folder, task, config, alone=False).hooks for folder in folders]
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


def best_folder(run: str | Path) -> Path:
    """The folder with a run's best policy, itself a small run folder, for whoever plays or exports it.

    By its evaluations (`eval_every`); of a run without any, the checkpoint before which training episodes had
    the highest mean return.

    Raises:
        ValueError: the folder holds no run, or nothing of it was judged yet.
    """
    folder = Path(run)
    read_config(folder)
    if (evaluated := evaluated_best(folder)) is not None:
        return evaluated
    checkpoint, _ = find_checkpoint(folder)
    best = checkpoint and checkpoint.best
    if best is None:
        raise UserError(
            f"{str(folder)!r} has no best policy: none was evaluated (--eval-every), and no checkpoint has "
            "seen an episode end; leave --best out for its last one"
        )
    return folder / CHECKPOINTS / step_name(best.step)


def evaluate(
    run: str | Path,
    *,
    best: bool = False,
    episodes: int = 20,
    deterministic: bool = True,
    task: Any = None,
    seed: int | None = None,
    num_envs: int | None = None,
    env_options: Sequence[str] | None = None,
    max_episode_steps: int = MAX_EPISODE_STEPS,
    progress: bool = False,
) -> dict[str, Any]:
    """What the policy of a run is worth, over whole episodes on environments of its own.

    Args:
        run: the run folder.
        best: play the best policy of the run, not its last one; see `best_folder`.
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
        progress: show how far it is, where there is a terminal.

    Returns:
        `episodes`, `episode_return_mean`, `episode_return_std` (population), `episode_length_mean`;
        `truncated_share`, `success_rate`, `reward/NAME` and `measure/NAME` per step where the task has them.
    """
    if max_episode_steps < 1:
        raise UserError(f"max_episode_steps = {max_episode_steps} must be at least 1")
    played = best_folder(run) if best else run
    env, policy, streams = open_run(
        played, episodes=episodes, task=task, seed=seed, num_envs=num_envs, env_options=env_options
    )
    shown = EpisodeProgress(episodes, shown=progress)
    with closing(env, warnings.warn), shown:
        if env_options is None:
            _say_if_changed(Path(run), task)
        return evaluate_policy(
            policy.policy,
            env,
            episodes,
            key=to_key(streams.spawn(1)[0]),
            deterministic=deterministic,
            max_episode_steps=max_episode_steps,
            log=lambda text: say(text, stderr=True),
            progress=shown,
        )


def _say_if_changed(run: Path, task: Any) -> None:
    """Tell who plays a run's own task that its code or model is other than in training."""
    stored, config = read_config(run)
    task = task_again(stored, task)
    if task_name(task) != stored:
        return
    with contextlib.suppress(UserError):  # a damaged checkpoint is no matter of an evaluation
        checkpoint, _ = find_checkpoint(run)
        before = checkpoint and checkpoint.fingerprint
        if before and before != task_fingerprint(task, parse_options(config.env_options)):
            say(
                f"note: the code or model of {stored} has changed since the run trained on it; "
                "it is played as it is now",
                stderr=True,
            )


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
    env.read_as(policy.observations)
    try:
        policy.check_fits(env.spec)
    except UserError:
        release(env, warnings.warn)
        raise
    return env, policy, streams
