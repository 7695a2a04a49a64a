"""The picture that opens the README: the demo's robot before, during and after training, and how it learned.

Needs a run of the demo with its checkpoints (`surefoot demo --run-dir runs/go1`), and OpenGL.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from surefoot.agent import load_policy
from surefoot.cli.demo import TASK
from surefoot.envs.contract import Camera
from surefoot.gl import load_gl
from surefoot.see.film import check_film, write_film
from surefoot.see.players import Player, Trained, Zero
from surefoot.see.stage import Stage, reset_key, stage_environment
from surefoot.services.checkpoints import find_checkpoint
from surefoot.services.run_folder import METRICS, read_metrics
from surefoot.services.step_folders import later_than

PICTURE, CURVE = (400, 300), (380, 300)
COMMAND = (0.9, 0.0, 0.5)  # m/s forward and to the side, rad/s
SECONDS, STRIDE = 3.0, 3  # of each part; control steps between frames
PAPER, INK, PALE, LINE, DONE = "#fafaf8", "#212529", "#6e757d", "#c9d3df", "#1d4e89"


def main() -> None:
    """Film it, and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images/go1.webp"))
    options = parser.parse_args()
    check_film(options.out, overwrite=True)
    load_gl()
    frames = film(options.run)
    stage_dt_s = 0.02
    count = write_film(options.out, frames, 1 / (STRIDE * stage_dt_s))
    print(f"{options.out}: {count} frames, {options.out.stat().st_size / 2**20:.2f} MiB")


def film(run: Path) -> Iterator[np.ndarray]:
    """The frames: three parts, each from the same start with the same command."""
    rows, _ = read_metrics(run / METRICS)
    points = [(r["step"], r["rollout/episode_return"]) for r in rows]
    curve = Curve([(step, value) for step, value in points if value is not None])
    env = stage_environment(TASK, seed=1, camera=Camera(*PICTURE))
    newest, _ = find_checkpoint(run)
    assert newest is not None
    first = later_than(run, 0)[-1]
    parts: list[tuple[int, Player, str]] = [(0, Zero(env.spec), "before training")]
    for path in (first, newest.path):
        step = int(path.name.removeprefix("step-"))
        parts.append((step, Trained(load_policy(path), env), f"after {step / 1e6:.1f}M steps"))
    stage = Stage(env, parts[0][1], key=reset_key(1))
    try:
        for step, player, words in parts:
            stage.player = player
            stage.hold_command(COMMAND)
            stage.reset()
            panel = curve.at(step, words)
            for count in range(round(SECONDS / env.task.control_dt_s)):  # type: ignore[attr-defined]
                moment = next(stage)
                if moment.terminated[0]:
                    break
                if count % STRIDE == 0:
                    (picture,) = env.render(stage.env_state, [0])
                    yield np.concatenate([picture, panel], axis=1)
    finally:
        stage.close()


class Curve:
    """A learning curve, drawn up to a step.

    Args:
        points: steps and returns.
    """

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        width, height = CURVE
        most_x, most_y = max(x for x, _ in points), max(y for _, y in points)
        left, right, top, bottom = 56, width - 20, 64, height - 44
        self._box = left, top, right, bottom
        self._points = [
            (
                step,
                (left + (right - left) * step / most_x, bottom - (bottom - top) * value / most_y),
            )
            for step, value in [(0, 0.0), *points]
        ]
        self._ends = most_x, most_y

    def at(self, step: float, words: str) -> np.ndarray:
        """The panel, what was learned until a step in ink; drawn in twice the size."""
        big = Image.new("RGB", (2 * CURVE[0], 2 * CURVE[1]), PAPER)
        pen = ImageDraw.Draw(big)
        left, top, right, bottom = self._box
        self._text(pen, (left, 16), "Unitree Go1 follows velocity commands", INK, 15)
        self._text(pen, (left, 36), words, DONE, 15)
        pen.line([2 * left, 2 * top, 2 * left, 2 * bottom, 2 * right, 2 * bottom], PALE, 2)
        self._text(pen, (right, bottom + 8), f"{self._ends[0] / 1e6:.1f}M steps", PALE, 12, "ra")
        self._text(pen, (left - 6, top), f"{self._ends[1]:,.0f}", PALE, 12, "ra")
        self._text(pen, (left - 6, bottom - 12), "0", PALE, 12, "ra")
        self._text(pen, (left, bottom + 8), "episode return", PALE, 12)
        for ink, points in (
            (LINE, self._points),
            (DONE, [p for p in self._points if p[0] <= step]),
        ):
            places = list(itertools.chain.from_iterable((2 * x, 2 * y) for _, (x, y) in points))
            if len(points) > 1:
                pen.line(places, ink, 4, joint="curve")
        x, y = max(p for p in self._points if p[0] <= step)[1]
        pen.ellipse([2 * x - 11, 2 * y - 11, 2 * x + 11, 2 * y + 11], DONE, PAPER, 3)
        return np.asarray(big.resize(CURVE, Image.Resampling.LANCZOS))

    @staticmethod
    def _text(
        pen: ImageDraw.ImageDraw,
        place: tuple[float, float],
        text: str,
        ink: str,
        size: int,
        anchor: str = "la",
    ) -> None:
        at = (2 * place[0], 2 * place[1])
        pen.text(at, text, ink, ImageFont.load_default(2 * size), anchor=anchor)


if __name__ == "__main__":
    main()
