"""`surefoot play`: look at a policy, or at a task before it is trained, in the browser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from surefoot.cli.arguments import default, read
from surefoot.errors import UserError
from surefoot.machine import user_path
from surefoot.terminal import say

if TYPE_CHECKING:
    from surefoot.see.choice import Choice

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Arguments:
    """Look at a run's newest policy, an exported one, or a task under simple actions, in the browser."""

    run: Annotated[Path | None, tyro.conf.Positional, default("none")] = None
    """The run folder; one that is still training is followed. Or a file of breakdowns/."""
    best: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Play the run's best policy instead of its newest one."""
    task: Annotated[str | None, default("the run's")] = None
    """The task; needed without a run, or if it was trained on your own code."""
    agent: Annotated[Literal["zero", "random", "home"] | None, default("the policy")] = None
    """Who acts without a policy; home holds a robot's home pose."""
    policy: Annotated[Path | None, default("the run's")] = None
    """An exported policy that acts: policy.onnx, policy.npz or their folder."""
    episodes: Annotated[int | None, default("until Ctrl-C")] = None
    """Episodes to play."""
    seed: Annotated[int | None, default("the run's")] = None
    """Seed of the episodes."""
    stochastic: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Sample actions instead of taking the most likely one."""
    env_options: Annotated[tuple[str, ...] | None, default("the run's own")] = None
    """Settings of the task as KEY=VALUE; the flag alone: the task as it comes."""
    host: str = HOST
    """Address to serve the page at; only 127.0.0.1 keeps it to this machine."""
    port: Annotated[int | None, default("8080, or the next that is free")] = None
    """Port to serve the page at."""
    video: Annotated[Path | None, default("in the browser")] = None
    """Write a video instead: FILE.mp4, .gif or .webp."""
    size: str = "480x360"
    """Of one picture of the video, WIDTHxHEIGHT."""
    seconds: Annotated[float | None, default("10")] = None
    """Length of the video; it ends earlier with its last episode."""
    steps: Annotated[int | None, default("seconds")] = None
    """Length of the video in control steps."""
    camera: Annotated[str | None, default("one that follows the robot")] = None
    """A camera of the model's for the video; of EnvPool's tasks, its number."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace a video of that name."""
    no_browser: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the address and open no browser."""


def main(argv: Sequence[str]) -> int:
    """Play until it ends or Ctrl-C."""
    arguments = read(Arguments, "play", argv)
    from surefoot.see.choice import Choice

    choice = Choice(
        run=_run(arguments),
        task=arguments.task,
        agent=arguments.agent,
        policy=_path(arguments.policy),
        seed=arguments.seed,
        env_options=arguments.env_options,
        stochastic=arguments.stochastic,
    )
    if arguments.video is not None:
        return _film(choice, user_path(arguments.video), arguments)
    from surefoot.see.browse import browse

    browse(
        choice,
        episodes=arguments.episodes,
        host=arguments.host,
        port=arguments.port,
        opens_browser=not arguments.no_browser,
        log=say,
    )
    return 0


def _film(choice: Choice, path: Path, arguments: Arguments) -> int:
    """Write a video and say where it is."""
    from surefoot.see.video import Shot, film

    shot = Shot(
        size=arguments.size,
        episodes=2 if arguments.episodes is None else arguments.episodes,
        seconds=arguments.seconds,
        steps=arguments.steps,
        camera=arguments.camera,
        overwrite=arguments.overwrite,
    )
    say(str(film(choice, path, shot, log=lambda text: say(text, stderr=True))))
    return 0


def _run(arguments: Arguments) -> Path | None:
    """The folder whose policy is meant."""
    run = _path(arguments.run)
    if not arguments.best:
        return run
    if run is None or arguments.agent is not None or arguments.policy is not None:
        raise UserError(
            "--best is the best policy of a run: surefoot play RUN --best, without --agent and --policy"
        )
    from surefoot.api import best_folder

    return best_folder(run)


def _path(path: Path | None) -> Any:
    return None if path is None else user_path(path)
