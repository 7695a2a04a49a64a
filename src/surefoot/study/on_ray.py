"""A study on a Ray cluster (extra `ray`): the same jobs, done by the same workers on its nodes."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from surefoot.errors import UserError
from surefoot.study.executors import Executor, Stop, start_worker, wait_for
from surefoot.study.jobs import Job

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
        self._ray = _import_ray()
        if address and address != "auto":
            _check_answers(address)
        failed: list[BaseException] = []

        def join() -> None:
            try:
                self._ray.init(
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
        self.workers = max(1, int(self._ray.cluster_resources().get("CPU", 0)))

    def describe(self) -> str:
        """E.g. `8 cores of a Ray cluster of 2 nodes`."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        return f"{self.workers} cores of a Ray cluster of {len(nodes)} node{'s' * (len(nodes) > 1)}"

    def run(self, jobs: Sequence[Job], study: Path, should_stop: Stop) -> Iterator[Job]:
        """See `Executor.run`."""
        ray = self._ray
        remote = ray.remote(num_cpus=1, max_retries=_TRIES)(_do)
        waiting = {remote.remote(job.to_json()): job for job in jobs}
        try:
            while waiting and not should_stop():
                ready, _ = ray.wait(list(waiting), timeout=0.5)
                for reference in ready:
                    job = waiting.pop(reference)
                    try:
                        files = ray.get(reference)
                    except ray.exceptions.RayError as error:
                        told = str(error).strip().splitlines()[-1]
                        raise UserError(f"Ray could not do a run: {told}") from None
                    _unpack(files, study / job.folder)
                    yield job
        finally:
            for reference in waiting:  # an interrupted task removes its folder, a killed one cannot
                ray.cancel(reference)
            _, left = (
                ray.wait(list(waiting), num_returns=len(waiting), timeout=_PATIENCE_TO_CANCEL_S)
                if waiting
                else ([], [])
            )
            for reference in left:
                ray.cancel(reference, force=True)


def _do(text: str) -> dict[str, bytes]:
    """On a node: the job in a worker of its own; returns the files it left, the result last."""
    job = Job.from_json(text)
    with tempfile.TemporaryDirectory(prefix="surefoot-") as name:
        study = Path(name)
        wait_for(start_worker(job, study), job, study, lambda: False)
        folder = study / job.folder
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        files.sort(key=lambda p: p.parent == folder)  # the result marks the folder as done
        return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def _unpack(files: dict[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_name(path.name + ".tmp")
        staging.write_bytes(content)
        staging.replace(path)


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
