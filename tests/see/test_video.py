"""Videos: how long they are, what is drawn, what becomes of the file; and real ones, of every simulator."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from tests.helpers import PROBE, extended

import surefoot
from surefoot.cli.demo import video
from surefoot.envs import make_environment
from surefoot.envs.contract import Camera
from surefoot.errors import UserError
from surefoot.gl import PACKAGES
from surefoot.see import recorder
from surefoot.see.choice import Choice
from surefoot.see.film import check_film, write_film
from surefoot.see.frames import Caption, Layout, short
from surefoot.see.video import Length, Shot, film, frames_of, length_of

# not by LD_LIBRARY_PATH, which a loader may ignore
NO_LIBRARY = "from surefoot import gl; gl._LIBRARIES = ('libnothing.so.1',)"
NO_NUMBERS = Caption("episode 1", {}, {}, {})


@pytest.mark.parametrize(
    ("control_dt_s", "shot", "length"),
    [
        (0.02, Shot(seconds=2.0), Length(50, 2, 25.0)),
        (0.05, Shot(seconds=2.0), Length(40, 1, 20.0)),
        (1 / 30, Shot(), Length(300, 1, 30.0)),
        (0.008, Shot(steps=11), Length(3, 5, 25.0)),
        (None, Shot(seconds=1.0), Length(30, 1, 30.0)),
    ],
)
def test_time_passes_as_it_does_for_the_robot(
    control_dt_s: float | None, shot: Shot, length: Length
) -> None:
    found = length_of(control_dt_s, shot)
    assert found[:2] == length[:2]
    assert found.fps == pytest.approx(length.fps)


@pytest.mark.parametrize(
    ("shot", "words"),
    [
        (Shot(seconds=0.0), "seconds = 0.0"),
        (Shot(steps=-3), "steps = -3"),
        (Shot(seconds=1.0, steps=3), "give one of them"),
        (Shot(size="640"), "WIDTHxHEIGHT"),
        (Shot(size="640x99999"), "WIDTHxHEIGHT"),
        (Shot(episodes=0), "1 to 16"),
    ],
)
def test_a_shot_that_cannot_be_is_refused(shot: Shot, words: str) -> None:
    with pytest.raises(UserError, match=words):
        length_of(0.02, shot), shot.picture()


@pytest.mark.parametrize("count", [extended(1), extended(2), 3, extended(5)])
@pytest.mark.parametrize("size", [(165, 77), (480, 360)])
def test_all_that_is_said_changes_the_frame_and_never_its_size(
    size: tuple[int, int], count: int
) -> None:
    whole = Caption("episode 1", {"return": "1.0"}, {"forward m/s": 1.0}, {"tracking": 1.0})
    layout = Layout(*size, whole, count, "a task")
    pictures = [np.full((*size[::-1], 3), 90, np.uint8)] * count
    plain = layout.draw(pictures, [whole] * count)
    assert plain.shape == (*layout.size[::-1], 3)
    assert layout.size[0] % 2 == layout.size[1] % 2 == 0
    for other in (
        whole._replace(heading="episode 2"),
        whole._replace(figures={"return": "2.0"}),
        whole._replace(command={"forward m/s": -1.0}),
        whole._replace(terms={"tracking": -0.5}),
        whole._replace(terms={"tracking": np.nan}),
        whole._replace(terms={"t" * 500: 0.5}),
        whole._replace(ending="terminated after 1.00 s"),
    ):
        frame = layout.draw(pictures, [whole] * (count - 1) + [other])
        assert frame.shape == plain.shape
        assert (frame != plain).any()


def test_a_picture_of_another_size_fills_its_place() -> None:
    layout = Layout(100, 80, NO_NUMBERS, 1, "")
    frame = layout.draw([np.full((400, 500, 3), 7, np.uint8)], [NO_NUMBERS])
    assert (frame == 7).all(axis=2).sum() == 100 * 80


def test_numbers_are_short() -> None:
    found = [short(x) for x in (0.0, -0.001, 1.234, -45.678, 123.45, 98765.4, np.inf)]
    assert found == ["0.00", "0.00", "1.23", "-45.68", "123.5", "98,765", "-"]


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_a_film_plays_in_real_time(tmp_path: Path, kind: str) -> None:
    frames = [np.full((20, 30, 3), 40 * k, np.uint8) for k in range(5)]
    path = tmp_path / f"new/film.{kind}"
    assert write_film(path, iter(frames), fps=30.0) == 5
    with Image.open(path) as film:
        durations = []
        for k in range(film.n_frames):
            film.seek(k)
            film.load()
            durations.append(film.info["duration"])
        assert (film.n_frames, film.size) == (5, (30, 20))
    assert sum(durations) == pytest.approx(5000 / 30, abs=10)


def test_a_film_that_fails_leaves_nothing_and_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    path.write_bytes(b"precious")

    def frames() -> Iterator[np.ndarray]:
        yield np.zeros((20, 30, 3), np.uint8)
        raise UserError("the simulation broke down")

    with pytest.raises(UserError, match="broke down"):
        write_film(path, frames(), fps=25.0)
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_bytes() == b"precious"
    with pytest.raises(UserError, match="--overwrite"):
        check_film(path, overwrite=False)
    check_film(path, overwrite=True)
    with pytest.raises(UserError, match=r"ends in \.mp4, \.gif or \.webp"):
        check_film(tmp_path / "film.avi", overwrite=False)


class _Lamps:
    """A stage on which environment k ends its episode after 3 (k + 1) steps; its picture is the step."""

    control_dt_s, command_parts = 0.02, ()

    def __init__(self) -> None:
        self.steps = 0
        self.drawn: list[tuple[int, ...]] = []
        self.env = SimpleNamespace(spec=SimpleNamespace(num_envs=2), render=self.render)
        self.env_state = None

    def render(self, state: None, rows: Any) -> list[np.ndarray]:
        self.drawn.append(tuple(rows))
        return [np.full((64, 64, 3), self.steps, np.uint8) for _ in rows]

    def __next__(self) -> Any:
        self.steps += 1
        step = np.array([self.steps] * 2)
        ended = step == [3, 6]
        no = np.zeros(2, bool)
        return SimpleNamespace(
            terms={"t": step * 1.0},
            measures={},
            step=step,
            episode_return=step * 1.0,
            reward=step * 1.0,
            value=None,
            command=None,
            terminated=ended,
            truncated=no,
            valid=~no,
        )


def test_a_video_ends_with_its_last_episode_and_shows_each_end() -> None:
    stage: Any = _Lamps()
    frames = [*frames_of(stage, Length(100, 2, 25.0), size=(64, 64))]
    # at steps 2, 4 and 6, then a second of the last; what has ended is not drawn again
    assert len(frames) == 3 + 25
    assert stage.drawn == [(0, 1), (0, 1), (0,), (1,), (1,)]
    assert len({frame.tobytes() for frame in frames}) == 3


def test_a_video_is_no_longer_than_asked_for() -> None:
    frames = [*frames_of(_Lamps(), Length(1, 2, 25.0), size=(64, 64))]  # type: ignore[arg-type]
    assert len(frames) == 1 + 25


def test_what_cannot_be_drawn_says_so() -> None:
    env = make_environment(PROBE, 2, seed=np.random.SeedSequence(0), camera=Camera())
    state, _ = env.reset(jax.random.key(0))
    with pytest.raises(UserError, match="cannot be drawn"):
        env.render(state, [0])


@pytest.mark.extended
@pytest.mark.parametrize(
    ("task", "count"),
    [
        ("robot:QuadrupedWalk", 10 + 25),
        ("gymnasium:Hopper-v5", 10 + 25),
        ("HalfCheetah-v5", 8 + 20),
    ],
)
def test_every_simulator_is_filmed(task: str, count: int, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    # zero actions: no episode ends within 0.4 s
    done = _play(task, path, "--seconds", "0.4", "--size", "160x120")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    frames = _decoded(path)
    assert len(frames) == count
    moving = frames[: -(count - 1) // 2]
    assert {frame.shape for frame in frames} == {frames[0].shape}
    assert frames[0].shape[1] == 320
    pictures = [frame[30:140] for frame in moving]
    assert all(picture.std() > 5 for picture in pictures)  # there is something to see
    assert all((a != b).any() for a, b in itertools.pairwise(pictures[:6]))  # and it moves


@pytest.mark.extended
@pytest.mark.parametrize("task", ["robot:QuadrupedWalk", "gymnasium:Hopper-v5", "HalfCheetah-v5"])
def test_without_opengl_one_sentence_names_the_packages(task: str, tmp_path: Path) -> None:
    no_library = _play(task, tmp_path / "film.mp4", before=NO_LIBRARY)
    no_driver = _play(task, tmp_path / "film.mp4", __EGL_VENDOR_LIBRARY_DIRS=str(tmp_path))
    for done in (no_library, no_driver):
        assert done.returncode == 2, done.stderr
        assert PACKAGES in done.stderr
        lines = filter(None, done.stderr.splitlines())
        # what MuJoCo says of EnvPool's model aside
        assert len([line for line in lines if "WARNING: compiler" not in line]) == 1
        assert not (tmp_path / "film.mp4").exists()


@pytest.mark.extended
def test_the_demo_ends_well_without_a_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = "robot:QuadrupedWalk"
    run = surefoot.train(
        task, run_dir=tmp_path / "r", progress=False, should_stop=lambda: True, num_envs=2
    ).run_dir
    monkeypatch.setattr("surefoot.gl._LIBRARIES", ("libnothing.so.1",))
    assert video(run, 5).startswith("There is no video: pictures need OpenGL")
    monkeypatch.undo()
    assert video(run, 5) == f"Video: {run / 'videos/step-000000000005.mp4'}"
    assert len(_decoded(run / "videos/step-000000000005.mp4")) > 25


def _play(task: str, path: Path, *flags: str, before: str = "", **environment: str) -> Any:
    """The command that films, in a process of its own where something is done before."""
    command = ["play", "--task", task, "--agent", "zero", "--video", str(path), *flags]
    run = f"{before}; from surefoot.cli.main import main; raise SystemExit(main())"
    return subprocess.run(
        [sys.executable, "-c", run.removeprefix("; "), *command],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def _decoded(path: Path) -> list[np.ndarray]:
    """The frames of a video."""
    from imageio_ffmpeg import get_ffmpeg_exe

    raw = path.with_suffix(".ppm")
    command = [get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path), "-f", "image2pipe"]
    subprocess.run([*command, "-c:v", "ppm", str(raw)], check=True)
    content, frames = raw.read_bytes(), []
    while content:
        head = content.split(b"\n", 3)
        width, height = map(int, head[1].split())
        size = width * height * 3
        frames.append(np.frombuffer(head[3][:size], np.uint8).reshape(height, width, 3))
        content = head[3][size:]
    return frames


@pytest.mark.skipif(not hasattr(signal, "SIGCONT"), reason="a system without the signal")
def test_a_recorder_rests_twice_as_long_as_it_works_until_the_run_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, rested, before = [100.0], [], signal.getsignal(signal.SIGCONT)
    monkeypatch.setattr(recorder.time, "monotonic", lambda: now[0])
    pause = recorder._Pause()
    try:
        wait = pause._over.wait
        monkeypatch.setattr(pause._over, "wait", lambda seconds: rested.append(seconds))
        for worked in (0.5, 3.0):
            now[0] += worked
            pause()
        assert rested == [1.0, 6.0]
        os.kill(os.getpid(), signal.SIGCONT)
        assert wait(10)  # and none of the next ones waits
    finally:
        signal.signal(signal.SIGCONT, before)


@pytest.mark.extended
def test_a_film_pauses_after_each_frame(tmp_path: Path) -> None:
    paused: list[int] = []
    choice = Choice(task="robot:ArmReach", agent="zero")
    shot = Shot(size="64x64", episodes=1, steps=4)
    file = film(choice, tmp_path / "arm.gif", shot, log=print, pause=lambda: paused.append(1))
    with Image.open(file) as image:
        frames = image.n_frames
    assert len(paused) >= frames > 1
