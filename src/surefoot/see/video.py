"""A video of what happens on a stage: episodes side by side, and in numbers what is going on in them."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from surefoot.envs.contract import Camera
from surefoot.errors import UserError
from surefoot.gl import load_gl
from surefoot.see.choice import Choice
from surefoot.see.film import check_film, write_film
from surefoot.see.frames import Caption, Layout, short
from surefoot.see.stage import Moment, Stage

SECONDS = 10.0
MOST_EPISODES = 16
SMALLEST, LARGEST = 64, 4096  # pixels of a picture
_MOST_FPS = 30.0  # and what is taken for real time where a simulator has no time
_HOLD_S = 1.0  # the last frame stays
_SMOOTH_S = 0.2  # reward terms are averaged over about this long, to be read
_SAY_EVERY_S = 10.0


class Length(NamedTuple):
    """How long a video is, at the most.

    Attributes:
        frames: how many, the first one aside.
        stride: control steps between them.
        fps: frames in a second: time passes as it does for the robot.
    """

    frames: int
    stride: int
    fps: float


class Shot(NamedTuple):
    """How a video is taken.

    Attributes:
        size: of one picture, `WIDTHxHEIGHT`.
        episodes: side by side, one in each picture.
        seconds: how long at the most; None: `SECONDS`. It ends with the last episode.
        steps: control steps, instead.
        camera: see `Camera.name`.
        overwrite: whether a file of that name is replaced.
    """

    size: str = "480x360"
    episodes: int = 2
    seconds: float | None = None
    steps: int | None = None
    camera: str | None = None
    overwrite: bool = False

    def picture(self) -> Camera:
        """Width and height of a picture, and the camera.

        Raises:
            ValueError: a size or a number of episodes that cannot be.
        """
        if not 1 <= self.episodes <= MOST_EPISODES:
            raise UserError(f"episodes = {self.episodes}: a video shows 1 to {MOST_EPISODES}")
        numbers = self.size.lower().split("x")
        sizes = [int(n) for n in numbers if n.isdecimal()]
        if [len(numbers), len(sizes)] != [2, 2] or not all(SMALLEST <= n <= LARGEST for n in sizes):
            raise UserError(
                f"size {self.size!r}: it must be WIDTHxHEIGHT of one picture, such as 640x480, each from "
                f"{SMALLEST} to {LARGEST}"
            )
        return Camera(sizes[0], sizes[1], self.camera)


def length_of(control_dt_s: float | None, shot: Shot) -> Length:
    """Frames of a video in real time.

    Args:
        control_dt_s: seconds of a control step; None: not known.
        shot: how long it is to be.

    Raises:
        ValueError: a length that cannot be.
    """
    seconds, steps = shot.seconds, shot.steps
    if seconds is not None and steps is not None:
        raise UserError(f"--seconds {seconds:g} and --steps {steps}: give one of them")
    for name, value in (("seconds", seconds), ("steps", steps)):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{name} = {value}, it must be above 0")
    step_s = control_dt_s or 1 / _MOST_FPS
    if steps is None:
        steps = max(1, round((seconds or SECONDS) / step_s))
    stride = max(1, math.ceil(1 / (_MOST_FPS * step_s) - 1e-6))
    return Length(math.ceil(steps / stride), stride, 1 / (step_s * stride))


def film(
    choice: Choice,
    path: Path,
    shot: Shot,
    *,
    log: Callable[[str], None],
    pause: Callable[[], None] = lambda: None,
) -> Path:
    """Write a video of what was chosen to be looked at.

    Args:
        choice: what.
        path: of the file: MP4, GIF or WebP.
        shot: how.
        log: hears what goes wrong, and how far it is.
        pause: called after each frame.

    Raises:
        ValueError: it cannot be written, cannot be drawn, or there is nothing to look at; before work starts.
    """
    camera = shot.picture()
    length_of(None, shot)
    check_film(path, overwrite=shot.overwrite)
    with contextlib.suppress(
        UserError
    ):  # who needs it says so; EnvPool needs it before it is imported
        load_gl()
    stage = choice.open(shot.episodes, has_model=False, camera=camera, log=log)
    with contextlib.closing(stage):
        length, said = length_of(stage.control_dt_s, shot), time.monotonic()

        def heard(count: int) -> None:
            nonlocal said
            pause()
            if time.monotonic() - said >= _SAY_EVERY_S:
                said = time.monotonic()
                log(f"{path.name}: {count} of at most {length.frames} frames")

        player = stage.player
        after = f" after {player.step:,.0f} steps of training" if player.step is not None else ""
        title = f"{stage.env.spec.name}    {player.name}{after}"
        frames = frames_of(stage, length, size=camera[:2], title=title)
        write_film(path, frames, length.fps, heard)
    return path


def frames_of(
    stage: Stage, length: Length, *, size: tuple[int, int], title: str = ""
) -> Iterator[np.ndarray]:
    """The frames of the stage's next episodes, one for each of its environments.

    Args:
        stage: its environments made with a `Camera`.
        length: how many at the most; they end with the last episode, whose end stays for a while.
        size: of one picture.
        title: over all pictures.
    """
    count = stage.env.spec.num_envs
    episodes = [_Episode(stage, k) for k in range(count)]
    pictures = [*stage.env.render(stage.env_state, range(count))]
    layout: Layout | None = None
    for step in itertools.count(1):
        moment = next(stage)
        for episode in episodes:
            episode.hear(moment)
        last = step >= length.frames * length.stride or all(e.ending for e in episodes)
        on_time = last or step % length.stride == 0
        # the end of an episode is to be seen, whenever it comes
        rows = [e.row for e in episodes if (on_time and not e.ending) or e.ended_now]
        if rows:
            for row, picture in zip(rows, stage.env.render(stage.env_state, rows), strict=True):
                pictures[row] = picture
        if on_time:
            captions = [episode.caption for episode in episodes]
            layout = layout or Layout(*size, captions[0], count, title)
            frame = layout.draw(pictures, captions)
            yield frame
            if last:
                yield from [frame] * round(_HOLD_S * length.fps)
                return


class _Episode:
    """What is said of one environment's first episode."""

    def __init__(self, stage: Stage, row: int) -> None:
        self.row = row
        self.ending: str | None = None
        self.ended_now = False
        self._dt_s = stage.control_dt_s
        self._names = [part.name for part in stage.command_parts]
        self._fresh = min(1.0, (self._dt_s or 1 / _MOST_FPS) / _SMOOTH_S)
        self._terms: dict[str, float] = {}

    def hear(self, moment: Moment) -> None:
        """One step further, unless it has ended."""
        self.ended_now = False
        if self.ending is not None:
            return
        i = self.row
        for name, values in moment.terms.items():
            now = float(values[i])
            before = self._terms.get(name, now)
            self._terms[name] = before + self._fresh * (now - before)
        steps, dt_s = int(moment.step[i]), self._dt_s
        at = f"{steps * dt_s:.2f} s" if dt_s else f"{steps:,} steps"
        if moment.terminated[i] or moment.truncated[i]:
            self.ending, self.ended_now = f"{_how(moment, i)} after {at}", True
        figures = {"return": short(moment.episode_return[i]), "reward": short(moment.reward[i])}
        if moment.value is not None:
            figures["value"] = short(moment.value[i])
        command = () if moment.command is None else moment.command[i]
        self.caption = Caption(
            heading=f"episode {i + 1}    {at}" + (f"    step {steps:,}" if dt_s else ""),
            figures=figures,
            command=dict(zip(self._names, map(float, command), strict=True)),
            terms=dict(self._terms),
            ending=self.ending,
        )


def _how(moment: Moment, row: int) -> str:
    if not moment.valid[row]:
        return "lost"
    if any(x[row] > 0 for name, x in moment.measures.items() if "success" in name):
        return "success"
    return "terminated" if moment.terminated[row] else "time limit"
