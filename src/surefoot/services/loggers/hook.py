"""Loggers of a run: rows go into a queue, a thread hands them to a process, and training never waits."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from surefoot.errors import UserError
from surefoot.files import write_json
from surefoot.processes import Patience
from surefoot.reading import read_json
from surefoot.training import Hook, Run, TrainState

FOLDER = "loggers"
_PACKAGES = {
    "tensorboard": "tensorboardX",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
}
_PROGRAM = (sys.executable, "-P", "-m", "surefoot.services.loggers.process")
_WAITING = 4096  # rows that may wait for a logger; some ten megabytes
PATIENCE_S = 30.0  # that the end of a run waits for its loggers: most need two


class Loggers(Hook):
    """Hands each iteration's metrics to loggers; what becomes of them changes nothing in the run.

    It comes after the run folder and before everything that writes, so that at the end all is written when
    the loggers are waited for.

    Args:
        run_folder: the run folder, which says what the loggers are told of the run.
        names: which loggers.
        step: where the run begins.
        patience_s: how long the end of the run waits for them.
        waiting: rows that may wait for each.

    Raises:
        ValueError: a logger's package is not installed.
    """

    def __init__(
        self,
        run_folder: Path,
        names: Sequence[str],
        *,
        step: int = 0,
        patience_s: float = PATIENCE_S,
        waiting: int = _WAITING,
    ) -> None:
        for name in names:
            if not _is_installed(_PACKAGES[name]):
                raise UserError(
                    f"log = {name!r} needs a package that is not installed: pip install 'surefoot[{name}]'"
                )
        self._queues = [_Queue(name, run_folder, step, waiting) for name in dict.fromkeys(names)]
        self._patience_s = patience_s
        self._failed = False
        self._run: Run | None = None

    def on_start(self, run: Run) -> None:
        """Start the processes."""
        self._run = run
        for one in self._queues:
            one.start()

    def on_iteration(self, state: TrainState, metrics: Mapping[str, Any]) -> None:
        """Hand the row on."""
        for one in self._queues:
            one.put(metrics)
        self._tell()

    def on_failure(self, state: TrainState, error: Exception) -> None:
        """Remember it."""
        self._failed = True

    def on_end(self, state: TrainState, policy: Any, *, finished: bool) -> None:
        """Wait for what is left, for so long at most."""
        how = "failed" if self._failed else "finished" if finished else "stopped"
        try:
            for one in self._queues:
                one.end(how, self._patience_s)
            for one in self._queues:
                one.wait()
        finally:
            for one in self._queues:
                one.kill()
        self._tell()

    def _tell(self) -> None:
        """Say what is to be said, on the thread that the other hooks are told on."""
        assert self._run is not None
        for one in self._queues:
            while one.says:
                self._run.log(one.says.popleft())


class _Queue:
    """Rows on their way to one logger, the thread that hands them over, and the logger's process.

    Attributes:
        says: sentences for the user, each once.
    """

    def __init__(self, name: str, run_folder: Path, step: int, waiting: int) -> None:
        self._name, self._run_folder, self._step = name, run_folder, step
        self._rows: queue.Queue[Mapping[str, Any]] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._hand_over, daemon=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._has_failed, self._has_ended, self._is_full = False, False, False
        self._patience: Patience | None = None  # once the run has ended
        self.says: deque[str] = deque()

    def start(self) -> None:
        folder = self._run_folder / FOLDER
        folder.mkdir(exist_ok=True)
        step, known = str(self._step), self._identity()
        with (folder / f"{self._name}.log").open("ab") as log:
            # a process group of its own: Ctrl-C reaches the run, which ends its loggers itself
            self._process = subprocess.Popen(
                [*_PROGRAM, self._name, str(self._run_folder), step, known],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                process_group=0,
            )
        self._thread.start()

    def put(self, row: Mapping[str, Any]) -> None:
        """Take a row, if there is room for it."""
        if self._has_ended:
            return
        try:
            self._rows.put_nowait(row)
        except queue.Full:
            if not self._is_full:
                self._is_full = True
                self.says.append(
                    f"{self._name} does not keep up: {self._rows.maxsize:,} iterations wait for it, and "
                    f"from step {row['step']:,} on some are left out there; metrics.jsonl has them all"
                )

    def end(self, how: str, patience_s: float) -> None:
        """Let it end the run, once it has taken what waits."""
        assert self._process is not None
        self._patience = Patience(self._process.pid, patience_s)
        while self._is_waited_for():
            with contextlib.suppress(queue.Full):
                self._rows.put({"end": how}, timeout=0.1)
                return

    def wait(self) -> None:
        """Wait until it has."""
        while self._is_waited_for():
            self._thread.join(0.1)
        if self._thread.is_alive():
            self._fail("it did not come to its end in time and was ended")

    def _is_waited_for(self) -> bool:
        assert self._patience is not None
        return self._thread.is_alive() and not self._patience.is_over()

    def kill(self) -> None:
        """End its process, however it is."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(OSError):
            if os.name == "posix":  # with what it has started
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        self._thread.join()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()
        process.wait()

    def _hand_over(self) -> None:
        """One row after the other, each once the one before is logged."""
        assert self._process is not None
        to, answers = self._process.stdin, self._process.stdout
        assert to is not None
        assert answers is not None
        try:
            if not self._understood(answers.readline()):
                return
            while not self._has_ended:
                row = self._rows.get()
                to.write(json.dumps(row).encode() + b"\n")
                to.flush()
                while not self._understood(answers.readline()):
                    pass
        except (OSError, ValueError):
            self._fail("its process has died")
        finally:
            self._has_ended = True

    def _understood(self, line: bytes) -> bool:
        """Take an answer; whether it is the last one to what was asked."""
        if not line:
            raise OSError
        answer = json.loads(line)
        if "fault" in answer:
            self._fail(answer["fault"])
            return False
        if answer.get("id"):
            write_json(self._file(), {"id": answer["id"]})
        self._has_ended = answer.get("ended", False)
        return True

    def _fail(self, why: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            words = " ".join(why.split())
            words = words if len(words) < 300 else f"{words[:300]}..."
            self.says.append(
                f"{self._name} does not log everything ({words}); training goes on, metrics.jsonl has all "
                f"of it, and {self._run_folder / FOLDER / self._name}.log what it printed"
            )

    def _identity(self) -> str:
        """What it called the run before; empty where that is not known."""
        try:
            found = read_json(self._file())["id"] if self._file().exists() else ""
        except (UserError, LookupError):
            found = ""
        return found if isinstance(found, str) else ""

    def _file(self) -> Path:
        return self._run_folder / FOLDER / f"{self._name}.json"


def _is_installed(package: str) -> bool:
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None  # a folder of that name is no package
