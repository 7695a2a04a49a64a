"""Who does a study's jobs: worker processes on this machine, or on a Ray cluster."""

from __future__ import annotations

import abc
import contextlib
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from surefoot.machine import usable_cores
from surefoot.processes import how_it_ended
from surefoot.study.jobs import RESULT, Job, write_failure

Stop = Callable[[], bool]


class Executor(abc.ABC):
    """Does jobs; each leaves its folder in the study's.

    Attributes:
        workers: how many at once.
    """

    workers: int

    @abc.abstractmethod
    def run(self, jobs: Sequence[Job], study: Path, should_stop: Stop) -> Iterator[Job]:
        """Do the jobs, in any order; yields each when its result is in the study's folder."""

    @abc.abstractmethod
    def do(self, job: Job, study: Path, should_stop: Stop) -> bool:
        """Do one job; false if it was ended before it had a result. Called by several threads at once.

        The evaluations of a `live` job lie in its folder as they come.
        """

    @abc.abstractmethod
    def describe(self) -> str:
        """Where the jobs run, for the progress line."""


def start_worker(job: Job, study: Path) -> subprocess.Popen[bytes]:
    """A process that does one job; closing its input ends it."""
    folder = study / job.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = log_of(job, study)
    # a session of its own: Ctrl-C reaches the study, which ends its workers itself
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "surefoot.study.worker", str(study)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    assert worker.stdin is not None
    try:
        worker.stdin.write(job.to_json().encode() + b"\n")
        worker.stdin.flush()
    except BrokenPipeError:  # it died at once: its log says why
        with contextlib.suppress(BrokenPipeError):  # closing writes what is left
            worker.stdin.close()
    return worker


def log_of(job: Job, study: Path) -> Path:
    """The file that a job's worker prints to, beside its folder."""
    return (study / job.folder).with_suffix(".log")


def wait_for(worker: subprocess.Popen[bytes], job: Job, study: Path, should_stop: Stop) -> bool:
    """Wait for the worker; False if it was ended because the study stops.

    A worker that died without a result is a failed run; what it printed stays beside its folder.
    """
    with worker:
        while worker.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(timeout=0.2)
            if worker.returncode is None and should_stop():
                worker.kill()
                return False
    log = log_of(job, study)
    if worker.returncode == 0 and (study / job.folder / RESULT).is_file():
        log.unlink(missing_ok=True)
    else:
        assert worker.returncode is not None
        write_failure(job, study, _how_it_ended(worker.returncode, log))
    return True


def _how_it_ended(code: int, log: Path) -> str:
    """In words that do not depend on when and where it was."""
    printed = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if code < 0 or not printed:
        return f"the worker {how_it_ended(code)}"
    return f"the worker failed: {printed[-1]}"


class LocalProcesses(Executor):
    """Worker processes on this machine, a core each.

    Args:
        workers: how many at once; as many as there are cores if left out.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or usable_cores()

    def describe(self) -> str:
        """E.g. `2 processes on this machine`."""
        return f"{self.workers} process{'es' * (self.workers > 1)} on this machine"

    def do(self, job: Job, study: Path, should_stop: Stop) -> bool:
        """See `Executor.do`."""
        return wait_for(start_worker(job, study), job, study, should_stop)

    def run(self, jobs: Sequence[Job], study: Path, should_stop: Stop) -> Iterator[Job]:
        """See `Executor.run`."""
        waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in jobs:
            waiting.put(job)
        done: queue.SimpleQueue[Job | BaseException | None] = queue.SimpleQueue()
        stopped = threading.Event()

        def stop() -> bool:
            return stopped.is_set() or should_stop()

        def serve() -> None:
            try:
                while not stop():
                    job = waiting.get_nowait()
                    if self.do(job, study, stop):
                        done.put(job)
            except queue.Empty:
                pass
            except BaseException as error:  # raised where the study is driven
                done.put(error)
            done.put(None)

        threads = [
            threading.Thread(target=serve, name=f"surefoot-worker-{k}")
            for k in range(min(self.workers, len(jobs)))
        ]
        for thread in threads:
            thread.start()
        try:
            yield from _drain(done, len(threads))
        finally:
            stopped.set()
            for thread in threads:
                thread.join()


def _drain(done: queue.SimpleQueue[Job | BaseException | None], servers: int) -> Iterator[Job]:
    while servers:
        item = done.get()
        if item is None:
            servers -= 1
        elif isinstance(item, BaseException):
            raise item
        else:
            yield item
