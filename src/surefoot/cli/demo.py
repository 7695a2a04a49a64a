"""`surefoot demo`: a Unitree Go1 learns to walk, and is measured against standing still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from surefoot.cli.arguments import default, read
from surefoot.cli.resume import report
from surefoot.cli.signals import StopOnSignal
from surefoot.errors import UserError
from surefoot.terminal import say

TASK = "robot:Go1Walk"


@dataclass(frozen=True)
class Arguments:
    """Teach a Unitree Go1 to walk, then measure how well it follows velocity commands."""

    total_steps: Annotated[int | None, default("the task's")] = None
    """Environment steps to train for."""
    seed: int = 0
    """Seed of everything random."""
    episodes: int = 20
    """Episodes to measure over (20 s each)."""
    run_dir: Annotated[Path | None, default("runs/TASK-seedS-DATE-TIME")] = None
    """The run folder."""


def main(argv: Sequence[str]) -> int:
    """Train, evaluate, compare with a policy that stands still, film."""
    arguments = read(Arguments, "demo", argv)
    if arguments.episodes < 1:
        raise UserError(f"episodes = {arguments.episodes} must be at least 1")
    from surefoot.api import train
    from surefoot.envs.tasks import own_options
    from surefoot.pages.report import write_report

    config = own_options(TASK).replace(seed=arguments.seed)
    if arguments.total_steps is not None:
        config = config.replace(total_steps=arguments.total_steps)
    say(f"A Unitree Go1 learns to follow velocity commands: {TASK}, {config.total_steps:,} steps.")
    say(f"That takes about {expected_seconds(config.total_steps, config.num_envs):.0f} s here.")
    stop = StopOnSignal()
    with stop:
        result = train(TASK, config=config, run_dir=arguments.run_dir, should_stop=stop)
    if not result.finished:
        return report(result, stop)
    say("\nMeasuring the trained policy (deterministic), then one that stands still...")
    walking, standing = measure(result.run_dir, episodes=arguments.episodes)
    say(table(walking, standing))
    say(f"\n{video(result.run_dir, result.step)}")
    say(f"Report: {write_report([result.run_dir], overwrite=True)}")
    say(f"Run folder: {result.run_dir}\nNext: surefoot play {result.run_dir}")
    return 0


def video(run_dir: Path, step: int) -> str:
    """Film the trained robot; where the video is, or in a sentence why there is none."""
    from surefoot.see.choice import Choice
    from surefoot.see.video import Shot, film
    from surefoot.services.videos import video_of

    path, shot = video_of(run_dir, step), Shot(seconds=VIDEO_S, overwrite=True)
    try:
        film(Choice(run=run_dir), path, shot, log=lambda text: say(text, stderr=True))
    except UserError as error:
        return f"There is no video: {error}"
    return f"Video: {path}"


def expected_seconds(total_steps: int, num_envs: int) -> float:
    """Seconds that training will take on this machine, by the pace of the physics alone."""
    from surefoot.robots.environment import physics_pace
    from surefoot.robots.tasks import shipped

    pace = physics_pace(shipped(TASK.partition(":")[2])(), num_envs)
    return STARTING_S + total_steps / (pace * PHYSICS_SHARE)


# measured on two cores: 103 s of training, of which 11 s until the first iteration was done, 16,500 steps/s
# after that, where the physics of standing robots alone makes 42,000
STARTING_S = 11.0
PHYSICS_SHARE = 0.39
VIDEO_S = 6.0


def measure(run_dir: Path, *, episodes: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluation of the run's policy, and of zero actions, on the task as it comes."""
    import equinox as eqx
    import jax.numpy as jnp

    from surefoot.api import open_run
    from surefoot.envs.contract import closing
    from surefoot.training import evaluate, to_key

    results = []
    for stands_still in (False, True):
        # made anew with the same seeds, so that both meet the same commands
        own = ("offset=false",) if stands_still else ()
        env, loaded, streams = open_run(run_dir, episodes=episodes, env_options=own)
        policy = loaded.policy
        if stands_still:
            policy = eqx.tree_at(
                lambda p: (p.actor.output.weight, p.actor.output.bias),
                policy,
                replace_fn=jnp.zeros_like,  # a zero action is the robot's standing pose
            )
        with closing(env, say):
            key = to_key(streams.spawn(1)[0])
            results.append(evaluate(policy, env, episodes, key=key))
    return results[0], results[1]


def table(walking: dict[str, Any], standing: dict[str, Any]) -> str:
    """The comparison, for people."""
    rows = (
        ("episode return", "episode_return_mean", "{:.0f}"),
        ("episodes without a fall", "truncated_share", "{:.0%}"),
        ("velocity error, per axis", "measure/linear_error", "{:.2f} m/s"),
        ("turning error", "measure/turning_error", "{:.2f} rad/s"),
    )
    head = f"{walking['episodes']} episodes each"
    lines = [f"{head:<26}{'trained':>16}{'standing still':>18}"]
    for label, name, form in rows:
        left, right = (form.format(values[name]) for values in (walking, standing))
        lines.append(f"{label:<26}{left:>16}{right:>18}")
    return "\n".join(lines)
