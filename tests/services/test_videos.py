"""Videos beside a run: they are made, and whatever becomes of their process, the run is as it would be."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import PROBE, TINY, Recorder, metrics_of

import surefoot
from surefoot.errors import UserError
from surefoot.services import videos
from surefoot.services.videos import Videos, later_videos, video_of

HANGS = "import time; time.sleep(3600)"
IS_KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
RAISES = "raise RuntimeError('the graphics card is on fire')"
REFUSES = "import sys; print('no OpenGL', file=sys.stderr); sys.exit(2)"


def test_what_can_never_have_videos_is_refused_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"name the task \(FILE\.py:NAME\)"):
        Videos(tmp_path, 100, "python:Mine")
    with pytest.raises(UserError, match="seeds side by side"):
        surefoot.train_seeds(PROBE, num_seeds=2, config=TINY, video_every=100, run_dir=tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"surefoot\[video\]"):
        surefoot.train(PROBE, config=TINY, video_every=100, run_dir=run, progress=False)
    assert not run.exists()


def test_videos_of_later_steps_are_known_by_their_number(tmp_path: Path) -> None:
    files = [video_of(tmp_path, step) for step in (5, 1_000, 90)]
    files[0].parent.mkdir()
    for file in [*files, files[0].with_name("mine.mp4")]:
        file.touch()
    assert later_videos(tmp_path, 5) == [files[1], files[2]]
    assert later_videos(tmp_path / "none", 0) == []


@pytest.mark.extended
@pytest.mark.parametrize(
    ("program", "words"),
    [
        (HANGS, ["still in the making", "waiting for the video", "was not ready"]),
        (IS_KILLED, ["was ended by SIGKILL"]),
        (RAISES, ["the graphics card is on fire; the next one is tried"]),
        (REFUSES, ["no OpenGL; there will be no videos"]),
    ],
)
def test_whatever_becomes_of_the_process_training_has_the_same_bytes(
    program: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def command(job: Mapping[str, Any]) -> list[str]:
        begun.append(job)
        return [sys.executable, "-c", program]

    monkeypatch.setattr(videos, "recorder", command)
    monkeypatch.setattr(videos, "PATIENCE_S", 0.5)
    plain, filmed = tmp_path / "plain", tmp_path / "filmed"
    recorder = Recorder()
    waits = Recorder() if program == HANGS else _WaitsForTheProcess(monkeypatch)
    surefoot.train(PROBE, config=TINY, run_dir=plain, progress=False)
    surefoot.train(
        PROBE,
        config=TINY,
        run_dir=filmed,
        progress=False,
        video_every=16,
        hooks=[recorder, waits],
    )
    for name in ("policy.safetensors", "policy.json"):
        assert (plain / name).read_bytes() == (filmed / name).read_bytes()
    assert metrics_of(plain) == metrics_of(filmed)
    for text in words:
        assert sum(text in note for note in recorder.notes) == 1, recorder.notes
    assert len(begun) == (1 if program in (HANGS, REFUSES) else len(recorder.rows))
    assert [*(filmed / "videos").iterdir()] == []  # nothing is left of them


@pytest.mark.skipif(not hasattr(signal, "SIGCONT"), reason="a system without the signal")
def test_who_makes_the_last_video_hears_that_the_run_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = tmp_path / "ready"
    program = (
        "import pathlib, signal; wanted = [signal.SIGCONT]; "
        "signal.pthread_sigmask(signal.SIG_BLOCK, wanted); "
        f"pathlib.Path({str(ready)!r}).touch(); signal.sigwait(wanted)"
    )
    monkeypatch.setattr(videos, "recorder", lambda job: [sys.executable, "-c", program])
    recorder = Recorder()

    class Waits(Recorder):
        def on_iteration(self, state: Any, metrics: Mapping[str, Any]) -> None:
            while not ready.exists():
                time.sleep(0.01)

    options = {"config": TINY, "video_every": 16, "hooks": [recorder, Waits()], "progress": False}
    surefoot.train(PROBE, run_dir=tmp_path / "run", **options)
    assert any("waiting for the video" in note for note in recorder.notes)
    assert not any("was not ready" in note for note in recorder.notes)


class _WaitsForTheProcess(Recorder):
    """Lets each process come to its end, so that the test does not depend on how fast it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        begin = subprocess.Popen

        def popen(*arguments: Any, **options: Any) -> Any:
            self.process = begin(*arguments, **options)
            # in another one Linux would give it a share of the cores like the whole run's
            assert os.getsid(self.process.pid) == os.getsid(0)
            return self.process

        monkeypatch.setattr(subprocess, "Popen", popen)

    def on_iteration(self, state: Any, metrics: Mapping[str, Any]) -> None:
        if "process" in vars(self):
            self.process.wait()


@pytest.mark.extended
def test_videos_of_the_newest_policy_are_made_beside_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(videos, "PATIENCE_S", 600.0)  # a machine that is busy is not a failure
    run = tmp_path / "run"
    config = TINY.replace(total_steps=300, checkpoint_every=100)
    surefoot.train("robot:ArmReach", config=config, run_dir=run, progress=False, video_every=256)
    (video,) = (run / "videos").iterdir()
    assert [video] == later_videos(run, 255)
    assert video.read_bytes()[4:8] == b"ftyp"
    # what is of later steps than a run goes on from makes room
    earlier = min(int(path.name[5:]) for path in run.glob("checkpoints/*"))
    surefoot.resume(run, from_step=earlier, progress=False, should_stop=lambda: True)
    assert [*run.glob("videos/*")] == []
    (aside,) = run.glob("replaced/*/videos/*")
    assert aside.name == video.name
