"""`surefoot demo`: a Unitree Go1 learns to walk, and is measured against standing still."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from surefoot.cli.arguments import default, read
from surefoot.cli.presets import preset
from surefoot.cli.resume import report
from surefoot.cli.signals import StopOnSignal
from surefoot.errors import UserError
from surefoot.terminal import say

TASK = "Go1JoystickFlatTerrain-v1"


@dataclass(frozen=True)
class Arguments:
    """Teach a Unitree Go1 to walk, then measure how well it follows velocity commands."""

    total_steps: Annotated[int | None, default("the preset's")] = None
    """Environment steps to train for."""
    seed: int = 0
    """Seed of everything random."""
    episodes: int = 20
    """Episodes to measure over (20 s each)."""
    run_dir: Annotated[Path | None, default("runs/TASK-seedS-DATE-TIME")] = None
    """The run folder."""


def main(argv: Sequence[str]) -> int:
    """Train, evaluate, compare with a policy that stands still."""
    arguments = read(Arguments, "demo", argv)
    config = preset("go1").replace(seed=arguments.seed)
    if arguments.total_steps is not None:
        config = config.replace(total_steps=arguments.total_steps)
    if arguments.episodes < 1:
        raise UserError(f"episodes = {arguments.episodes} must be at least 1")
    from surefoot.api import train

    say(f"A Unitree Go1 learns to follow velocity commands: {TASK}, preset go1.")
    stop = StopOnSignal()
    with stop:
        result = train(TASK, config=config, run_dir=arguments.run_dir, should_stop=stop)
    if not result.finished:
        return report(result, stop)
    say("\nMeasuring the trained policy (deterministic), then one that stands still...")
    walking, standing = measure(result.run_dir, episodes=arguments.episodes)
    say(table(walking, standing))
    say(f"\nRun folder: {result.run_dir}\nNext: surefoot eval {result.run_dir} --env-options")
    return 0


def measure(run_dir: Path, *, episodes: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluation and command-following error of the run's policy, and of zero actions.

    Both on the task's own reward, whatever shaped it for training.
    """
    import equinox as eqx
    import jax.numpy as jnp

    from surefoot.api import open_run
    from surefoot.training import EpisodeStatistics, play, to_key

    results = []
    for stands_still in (False, True):
        # made anew with the same seeds, so that both meet the same commands
        env, loaded, streams = open_run(run_dir, episodes=episodes, env_options=())
        policy = loaded.policy
        if stands_still:
            policy = eqx.tree_at(
                lambda p: (p.actor.output.weight, p.actor.output.bias),
                policy,
                replace_fn=jnp.zeros_like,  # a zero action is the robot's standing pose
            )
        statistics, tracking = EpisodeStatistics(), TrackingError()
        with contextlib.closing(env):
            for played in play(policy, env, episodes, key=to_key(streams.spawn(1)[0])):
                statistics.add(played)
                tracking.add(played.rollout.observations, played.counted)
        results.append(statistics.summary() | tracking.summary())
    return results[0], results[1]


class TrackingError:
    """Mean absolute difference between commanded and true velocity of a Go1.

    Reads the observation as MuJoCo Playground's go1 joystick task lays it out (EnvPool's is a port):
    `state[45:48]` the command (forward m/s, sideways m/s, turn rad/s); in `privileged_state`, which
    starts with `state`, [48:51] the true angular and [57:60] the true linear velocity of the body.
    """

    def __init__(self) -> None:
        self._linear = self._angular = 0.0
        self._steps = 0

    def add(self, observations: Any, counted: Any) -> None:
        """Account for the states that the counted steps led to."""
        import numpy as np

        before, after = observations["state"][:-1], observations["privileged_state"][1:]
        command = before[..., 45:48]
        linear = np.abs(command[..., :2] - after[..., 57:59]).mean(-1)
        angular = np.abs(command[..., 2] - after[..., 50])
        self._linear += float(linear[counted].sum(dtype=np.float64))
        self._angular += float(angular[counted].sum(dtype=np.float64))
        self._steps += int(counted.sum())

    def summary(self) -> dict[str, float]:
        """The two errors."""
        return {
            "linear_velocity_error": self._linear / self._steps,
            "angular_velocity_error": self._angular / self._steps,
        }


def table(walking: dict[str, Any], standing: dict[str, Any]) -> str:
    """The comparison, for people."""
    rows = (
        ("episode return", "episode_return_mean", ""),
        ("episode length", "episode_length_mean", " steps"),
        ("linear velocity error", "linear_velocity_error", " m/s"),
        ("turning velocity error", "angular_velocity_error", " rad/s"),
    )
    head = f"{walking['episodes']} episodes each"
    lines = [f"{head:<26}{'trained':>16}{'standing still':>18}"]
    for label, name, unit in rows:
        left, right = (f"{values[name]:.2f}{unit}" for values in (walking, standing))
        lines.append(f"{label:<26}{left:>16}{right:>18}")
    return "\n".join(lines)
