"""Host environments in processes of their own: side by side, and with a limit to how long they take.

Every command carries a number that its answer repeats, so that a late answer is never taken for another. A
process that does not answer in time, or dies, is given up with all its environments; an
environment's next `make` starts another.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, cast

import cloudpickle  # what Gymnasium's own workers are sent with: classes of scripts and notebooks too

from surefoot.envs.hosting import Backend, Command, EnvError
from surefoot.errors import UserError
from surefoot.host_process import failure
from surefoot.processes import how_it_ended

if TYPE_CHECKING:
    import gymnasium

_MAKING = 10.0  # making an environment may take this many times as long as a step
_CLOSING = 5.0  # seconds: nothing is lost if it is ended without
_FITS = 2**15  # bytes that a pipe takes at once, whoever reads it


class Workers(Backend):
    """Environments in worker processes, environment i in process i modulo their number.

    Args:
        make: makes one environment; sent to the processes.
        count: how many environments.
        workers: how many processes.
        timeout: seconds that a step or a reset may take.
        name: the task's name, for messages.

    Raises:
        ValueError: `make` cannot be sent.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        count: int,
        *,
        workers: int,
        timeout: float,
        name: str,
    ) -> None:
        if sys.platform == "win32":
            raise UserError("env_workers needs Linux or macOS")
        try:
            self._make = cloudpickle.dumps(make)
        except Exception as error:
            raise UserError(
                f"{name} cannot be sent to a worker process ({type(error).__name__}: {error}); "
                "leave env_workers at 0, or define it in a module"
            ) from error
        self._timeout, self._sequence = timeout, 0
        self._workers = [Worker(range(k, count, workers)) for k in range(workers)]
        self._gone: dict[int, EnvError] = {}  # environments that are no more, and why

    def do(self, commands: Sequence[Command | None]) -> list[Any]:
        """Carry out the commands, all processes at once."""
        self._sequence += 1
        answers: list[Any] = [None] * len(commands)
        for worker in self._workers:
            self._ask(worker, commands, answers)
        while busy := [worker for worker in self._workers if worker.owed]:
            patience = min(worker.deadline for worker in busy) - time.monotonic()
            ready = wait([worker.pipe for worker in busy], timeout=max(0.0, patience))
            for worker in busy:
                if worker.pipe in ready:
                    self._hear(worker, answers)
                elif time.monotonic() >= worker.deadline:
                    worker.kill()
                    limit = self._limit(worker.owed[0][1])
                    self._give_up(worker, answers, f"gave no answer within {limit:g} s")
        return answers

    def _ask(self, worker: Worker, commands: Sequence[Command | None], answers: list[Any]) -> None:
        """Send a process its commands; those for an environment that is gone have failed already."""
        worker.owed.clear()  # of a call that was interrupted
        for index in worker.indices:
            if (command := commands[index]) is None:
                continue
            if command.kind == "close" and (index in self._gone or not worker.is_running):
                continue
            if command.kind == "make":
                self._gone.pop(index, None)
            if index in self._gone:
                answers[index] = self._gone[index]
            else:
                worker.owed.append((index, command))
        if worker.owed:
            if not worker.is_running:
                worker.start(self._make)
            worker.send((self._sequence, [(index, *command) for index, command in worker.owed]))
            self._wait_for_next(worker)

    def _hear(self, worker: Worker, answers: list[Any]) -> None:
        """Take one answer from a process, or the news of its death."""
        try:
            sequence, index, kind, came = worker.receive()
        except (EOFError, OSError):
            self._give_up(worker, answers, worker.end())
            return
        if sequence != self._sequence:
            return  # late: an answer to what was asked before
        answers[index] = EnvError(*came) if kind == "raised" else unpacked(came)
        worker.owed.popleft()
        if worker.owed:
            self._wait_for_next(worker)

    def _wait_for_next(self, worker: Worker) -> None:
        worker.deadline = time.monotonic() + self._limit(worker.owed[0][1])

    def _limit(self, command: Command) -> float:
        if command.kind == "close":
            return min(self._timeout, _CLOSING)
        return self._timeout * (1.0 if command.kind in ("step", "reset") else _MAKING)

    def _give_up(self, worker: Worker, answers: list[Any], what: str) -> None:
        """A process is no more, because of the environment it was at: so are all that lived in it."""
        culprit = worker.owed[0][0]
        lost = EnvError(f"was lost with its process: environment {culprit} {what}")
        self._gone |= dict.fromkeys(worker.indices, lost)
        for index, _ in worker.owed:
            answers[index] = lost
        answers[culprit] = EnvError(what)
        worker.owed.clear()

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.close()


def unpacked(came: bytes) -> Any:
    """An answer; it may be of a class that only the worker can import."""
    try:
        return pickle.loads(came)
    except Exception as error:
        return EnvError("answered what its worker alone can read: it " + failure(error)[0])


class Worker:
    """One process and the pipe to it, once started.

    Attributes:
        indices: of the environments that live in it.
        owed: commands it has not answered yet.
        deadline: when the first of them must be answered.
        is_running: whether there is a process.
    """

    pipe: Connection
    _process: subprocess.Popen[bytes]
    _sending: threading.Thread | None

    def __init__(self, indices: Sequence[int]) -> None:
        self.indices = indices
        self.owed: deque[tuple[int, Command]] = deque()
        self.deadline = math.inf
        self.is_running = False

    def start(self, make: bytes) -> None:
        """Start the process; `make` makes its environments."""
        self.pipe, theirs = cast("tuple[Connection, Connection]", Pipe())
        with theirs:
            # a process group of its own: Ctrl-C reaches the run, which ends its workers itself
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "surefoot.host_process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.PIPE,  # its closing ends the process
                process_group=0,
            )
        self.is_running, self._sending = True, None
        self.send((sys.path, make))

    def send(self, message: Any) -> None:
        """Ask for something; that it is gone, or takes nothing, is found out when it owes an answer."""
        pickled = pickle.dumps(message, protocol=5)
        if len(pickled) <= _FITS:
            self._write(pickled)
            return
        # a process that is stopped does not read: it is not waited for here
        self._sending = threading.Thread(target=self._write, args=(pickled,), daemon=True)
        self._sending.start()

    def _write(self, pickled: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send_bytes(pickled)

    def receive(self) -> Any:
        """The next answer: (sequence, index, "answered" or "raised", what)."""
        return pickle.loads(self.pipe.recv_bytes())

    def kill(self) -> int:
        """End the process at once; its exit code."""
        with self._process:  # closes its input
            self._process.kill()
        self._close_pipe()
        self.is_running = False
        return self._process.returncode

    def _close_pipe(self) -> None:
        if self._sending is not None:
            self._sending.join()  # ends with the process
        self.pipe.close()

    def end(self, patience: float = 5.0) -> str:
        """Wait for a process whose pipe is closed; how it ended, in words."""
        if self._sending is not None and self._sending.is_alive():
            patience = 0.0  # it does not even read
        else:
            self.pipe.close()
        try:
            code = self._process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            code = self.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self.is_running = False
        return f"died: its process {how_it_ended(code)}"

    def close(self) -> None:
        """Let it close its environments, then end it."""
        if self.is_running:
            self.end()
