"""Videos of the newest policy while it trains, made by a process that can neither stop nor slow the run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surefoot.agent import Policy, save_policy
from surefoot.config_file import to_toml
from surefoot.errors import UserError
from surefoot.files import new_staging, remove_staging, write_text
from surefoot.processes import Patience, how_it_ended
from surefoot.training import Hook, Run, TrainState, crosses

FOLDER = "videos"
CONFIG = "config.toml"  # makes a folder a run's
REFUSED = 2  # its exit code where the next one would fail alike
PATIENCE_S = 60.0  # for the last video, at the end of a run
_NAME = re.compile(r"step-(\d{12})\.mp4")


class Videos(Hook):
    """Has a video made every so many steps, `videos/step-N.mp4`, one at a time.

    What the process needs is written for it; then the run goes on. A video that is due while the one before
    is in the making is left out. At the end of a run the last one gets some time.

    Args:
        run_folder: of the run.
        every: steps from one video to the next.
        task: the run's task, by name.
        after: the step that the run goes on from.

    Raises:
        ValueError: the task has no name, or there is no ffmpeg.
    """

    def __init__(self, run_folder: Path, every: int, task: str, *, after: int = 0) -> None:
        if task.startswith("python:"):
            raise UserError(
                f"video_every = {every}: a process of their own makes videos, and {task} is an object of "
                "this one; name the task (FILE.py:NAME)"
            )
        if importlib.util.find_spec("imageio_ffmpeg") is None:
            raise UserError(
                f"video_every = {every} needs ffmpeg: pip install 'surefoot[video]' (68 MB, ffmpeg itself)"
            )
        self._folder, self._every = run_folder / FOLDER, every
        self._process: subprocess.Popen[bytes] | None = None
        self._staging = self._folder
        self._step, self._seen = 0, after  # of the last video, of the last iteration
        self._said: set[str] = set()
        self._given_up = False

    def on_start(self, run: Run) -> None:
        """Clear away what a killed run has left."""
        self._run = run
        self._folder.mkdir(exist_ok=True)
        remove_staging(self._folder)

    def on_iteration(self, state: TrainState, metrics: Mapping[str, Any]) -> None:
        """See how the last one ended; begin the next when it is due."""
        self._look()
        before, self._seen = self._seen, state.step
        if not crosses(self._every, before, state.step) or self._given_up:
            return
        if self._process is not None:
            self._say(
                "busy",
                f"the video of step {state.step:,} is left out, as that of step {self._step:,} is still in "
                "the making; so will be others",
            )
            return
        try:
            self._begin(state)
        except OSError as error:
            self._clear()
            self._say("failed", f"no video could be begun at step {state.step:,} ({error})")

    def on_end(self, state: TrainState, policy: Policy, *, finished: bool) -> None:
        """Wait a little for the last one, if the run was not cut short; then end it."""
        self._look()
        if self._process is None:
            return
        if finished:
            self._run.log(
                f"waiting for the video of step {self._step:,}, {PATIENCE_S:g} s at most, but for time in "
                "which others have the cores"
            )
            with contextlib.suppress(AttributeError):  # a system without it
                self._process.send_signal(signal.SIGCONT)  # it need not rest any more
            patience = Patience(self._process.pid, PATIENCE_S)
            while self._process.poll() is None and not patience.is_over():
                time.sleep(0.1)
            self._look()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._clear()
            self._run.log(f"the video of step {self._step:,} was not ready at the end of the run")

    def _begin(self, state: TrainState) -> None:
        run, self._step = self._run, state.step
        self._staging = new_staging(self._folder)
        write_text(self._staging / CONFIG, to_toml(run.config, task=run.task))
        save_policy(
            self._staging, run.policy(state), task=run.task, step=state.step, finished=False
        )
        job = {
            "run": str(self._staging),
            "task": run.task,
            "env_options": list(run.config.env_options),
            "file": str(video_of(self._folder.parent, state.step)),
        }
        alone = {"JAX_PLATFORMS": "cpu", "LP_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with (self._staging / "said").open("wb") as said:
            self._process = subprocess.Popen(
                recorder(job),
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                env={**os.environ, **alone},
                process_group=0,  # Ctrl-C is for the run to hear; in its session niceness counts
            )

    def _look(self) -> None:
        """What became of the process, if it has ended."""
        process = self._process
        if process is None or process.poll() is None:
            return
        code = process.returncode
        if code:
            said = (self._staging / "said").read_text(errors="replace").strip().splitlines()
            why = said[-1] if said and code > 0 else f"its process {how_it_ended(code)}"
            self._given_up = code == REFUSED
            then = "there will be no videos" if self._given_up else "the next one is tried"
            self._say("failed", f"there is no video of step {self._step:,}: {why}; {then}")
        self._clear()

    def _clear(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None
        remove_staging(self._folder)

    def _say(self, kind: str, text: str) -> None:
        """Say it, the first time that such a thing happens."""
        if kind not in self._said:
            self._said.add(kind)
            self._run.log(text)


def recorder(job: Mapping[str, Any]) -> list[str]:
    """The command of the process that makes a video."""
    return [sys.executable, "-m", "surefoot.see.recorder", json.dumps(job)]


def video_of(run_folder: Path, step: int) -> Path:
    """The file of a run's video of a step."""
    return run_folder / FOLDER / f"step-{step:012d}.mp4"


def later_videos(run_folder: Path, step: int) -> list[Path]:
    """The videos of later steps, newest first."""
    folder = run_folder / FOLDER
    found = [(_NAME.fullmatch(path.name), path) for path in folder.glob("*.mp4")]
    return sorted((path for name, path in found if name and int(name[1]) > step), reverse=True)
