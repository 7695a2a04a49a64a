"""Jobs on a Ray cluster (extra `ray`): the same ones, done by the same workers on its nodes."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from surefoot.errors import UserError
from surefoot.files import write_bytes
from surefoot.study.executors import Executor, Stop, start_worker, wait_for
from surefoot.study.jobs import EVALUATIONS, Job

_PATIENCE_S = 4.0  # for a head node's port to answer
_PATIENCE_TO_JOIN_S = 10.0
_PATIENCE_TO_CANCEL_S = 10.0
_TRIES = 5  # nodes that a run may be lost with
_DEFAULT_PORT = 6379


class OnRay(Executor):
    """Jobs as Ray tasks, a core each. What was lost with a node is done again on another.

    Args:
        address: `HOST:PORT` of the head node; empty starts Ray on this machine.

    Raises:
        ValueError: Ray is not installed, or nothing answers at the address.
    """

    def __init__(self, address: str = "") -> None:
        self._ray = ray = _import_ray()
        if address and address != "auto":
            _check_answers(address)
        failed: list[BaseException] = []

        def join() -> None:
            try:
                ray.init(
                    address=address or "local",
                    include_dashboard=False if not address else None,
                    log_to_driver=False,
                    logging_level="ERROR",
                )
            except BaseException as error:  # Ray has many kinds
                failed.append(error)

        if not address:
            join()  # what Ray starts on this machine ends with the thread that started it
        else:
            # what answers at the address may not be Ray, which then asks for long
            joining = threading.Thread(target=join, daemon=True)
            joining.start()
            joining.join(timeout=_PATIENCE_TO_JOIN_S)
            if joining.is_alive():
                raise UserError(
                    f"--ray {address}: what answers there is no Ray cluster of this version"
                )
        if failed:
            raise UserError(f"--ray {address}: {str(failed[0]).strip().splitlines()[0]}")
        self.workers = max(1, int(ray.cluster_resources().get("CPU", 0)))
        self._task = ray.remote(num_cpus=1, max_retries=_TRIES)(_do)

    def describe(self) -> str:
        """E.g. `8 cores of a Ray cluster of 2 nodes`."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        return f"{self.workers} cores of a Ray cluster of {len(nodes)} node{'s' * (len(nodes) > 1)}"

    def run(self, jobs: Sequence[Job], study: Path, should_stop: Stop) -> Iterator[Job]:
        """See `Executor.run`."""
        ray = self._ray
        waiting = {self._task.remote(job.to_json()): job for job in jobs}
        try:
            while waiting and not should_stop():
                ready, _ = ray.wait(list(waiting), timeout=0.5)
                for reference in ready:
                    job = waiting.pop(reference)
                    self._take(reference, job, study)
                    yield job
        finally:
            self._cancel(list(waiting))

    def do(self, job: Job, study: Path, should_stop: Stop) -> bool:
        """See `Executor.do`."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray = self._ray
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        told = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(_Told).remote()
        reference = self._task.remote(job.to_json(), told)
        waiting = [reference]
        try:
            while not should_stop():
                ready, _ = ray.wait(waiting, timeout=0.5)
                if ready:
                    waiting = []
                    self._take(reference, job, study)
                    return True
                # where its node was lost, it comes again with the next evaluation
                with contextlib.suppress(ray.exceptions.RayError):
                    text = ray.get(told.take.remote(), timeout=0.5)
                    _grow(study / job.folder / EVALUATIONS, text)
            return False
        finally:
            self._cancel(waiting)
            ray.kill(told)

    def _take(self, reference: Any, job: Job, study: Path) -> None:
        """Put what a task left into the study's folder."""
        try:
            files = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            told = str(error).strip().splitlines()[-1]
            raise UserError(f"Ray could not do a run: {told}") from None
        for name, content in files.items():
            path = study / job.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, content)

    def _cancel(self, references: list[Any]) -> None:
        """End tasks: an interrupted one removes its folder, a killed one cannot."""
        ray = self._ray
        for reference in references:
            ray.cancel(reference)
        if references:
            everyone = len(references)
            _, left = ray.wait(references, num_returns=everyone, timeout=_PATIENCE_TO_CANCEL_S)
            for reference in left:
                ray.cancel(reference, force=True)


class _Told:
    """Somewhere on the cluster: the evaluations of a job that is at work."""

    def __init__(self) -> None:
        self._text = b""

    def give(self, text: bytes) -> None:
        self._text = text

    def take(self) -> bytes:
        return self._text


def _do(text: str, told: Any = None) -> dict[str, bytes]:
    """On a node: the job in a worker of its own; returns the files it left, the result last."""
    job = Job.from_json(text)
    given = b""

    def tell() -> bool:
        nonlocal given
        file = study / job.folder / EVALUATIONS
        if told is not None and file.is_file() and (new := file.read_bytes()) != given:
            told.give.remote(given := new)
        return False

    with tempfile.TemporaryDirectory(prefix="surefoot-") as name:
        study = Path(name)
        wait_for(start_worker(job, study), job, study, tell)
        folder = study / job.folder
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        files.sort(key=lambda p: p.parent == folder)  # the result marks the folder as done
        return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def _grow(file: Path, text: bytes) -> None:
    """Write what is longer than what is there: what begins anew says the same once more."""
    if len(text) > (file.stat().st_size if file.is_file() else 0):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, text)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UserError("--ray needs Ray: pip install 'surefoot[ray]'") from None
    return ray


def _check_answers(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        host, port = address, str(_DEFAULT_PORT)
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE_S).close()
    except OSError as error:
        raise UserError(
            f"--ray {address}: nothing answers at {host} port {port} ({error}); start the cluster "
            "with `ray start --head`, or leave the address out to run on this machine"
        ) from None
