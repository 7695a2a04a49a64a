"""`surefoot eval RUN`: what a trained policy is worth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from surefoot.cli.arguments import default, read
from surefoot.config import MAX_EPISODE_STEPS
from surefoot.machine import user_path
from surefoot.terminal import say


@dataclass(frozen=True)
class Arguments:
    """Play a trained policy over whole episodes and report what it is worth."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    best: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Play the run's best policy instead of its last one."""
    episodes: int = 20
    """Episodes to play."""
    num_envs: Annotated[int | None, default("as many as episodes, at most 20")] = None
    """Environments side by side."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object and nothing else."""
    max_episode_steps: int = MAX_EPISODE_STEPS
    """Longest episode; one that goes on for longer is an error."""
    stochastic: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Sample actions instead of taking the most likely one."""
    task: Annotated[str | None, default("the run's")] = None
    """Another task to play it on; needed if it was trained on your own code."""
    seed: Annotated[int | None, default("the run's, on streams it never trained on")] = None
    """Seed of the environments."""
    env_options: Annotated[tuple[str, ...] | None, default("the run's own")] = None
    """Settings of the task as KEY=VALUE; the flag alone: the task as it comes."""


def main(argv: Sequence[str]) -> int:
    """Evaluate and print."""
    arguments = read(Arguments, "eval", argv)
    from surefoot.api import evaluate

    result = evaluate(
        user_path(arguments.run),
        best=arguments.best,
        num_envs=arguments.num_envs,
        progress=True,
        episodes=arguments.episodes,
        deterministic=not arguments.stochastic,
        task=arguments.task,
        seed=arguments.seed,
        env_options=arguments.env_options,
        max_episode_steps=arguments.max_episode_steps,
    )
    say(json.dumps(result) if arguments.json else describe(result))
    return 0


def describe(result: dict[str, Any]) -> str:
    """An evaluation in words."""
    lines = [
        f"{result['episodes']} episodes: return {result['episode_return_mean']:.2f} "
        f"+- {result['episode_return_std']:.2f} (standard deviation), "
        f"length {result['episode_length_mean']:.0f} steps, "
        f"{result['truncated_share']:.1%} to the time limit"
    ]
    if "lost_episodes" in result:
        lines.append(f"{result['lost_episodes']} more were lost, as the simulation broke down")
    if "success_rate" in result:
        lines.append(f"success {result['success_rate']:.0%}")
    for kind, title in (("reward/", "reward terms"), ("measure/", "measured")):
        means = {name: value for name, value in result.items() if name.startswith(kind)}
        if means:
            lines.append(f"{title}, mean per step:")
            lines += [f"  {name.removeprefix(kind):<24}{v: .4f}" for name, v in means.items()]
    return "\n".join(lines)
