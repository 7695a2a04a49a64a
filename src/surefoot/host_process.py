"""The process behind a worker: makes, resets and steps environments as it is told over a pipe.

Run by `envs.workers.Worker`; it imports nothing heavy, so that it starts fast.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from surefoot.processes import end_with_parent


def main() -> None:
    """Do what is asked until the pipe is closed."""
    os.dup2(2, 1)  # what an environment prints is not to be taken for the command's own output
    end_with_parent()
    pipe = Connection(int(sys.argv[1]))
    sys.path[:], pickled = pickle.loads(pipe.recv_bytes())
    envs: dict[int, Any] = {}
    with contextlib.suppress(EOFError, OSError):
        while True:
            sequence, commands = pickle.loads(pipe.recv_bytes())
            for index, kind, value in commands:
                pipe.send_bytes(answer(sequence, index, kind, value, envs, pickled))
    for env in envs.values():
        with contextlib.suppress(Exception):
            env.close()


def answer(
    sequence: int, index: int, kind: str, value: Any, envs: dict[int, Any], pickled: bytes
) -> bytes:
    """Carry out one command; what came of it, as bytes for the pipe."""
    try:
        came = carry_out(index, kind, value, envs, pickled)
        return pickle.dumps((sequence, index, "answered", came), protocol=5)
    except Exception as error:
        told = (f"raised {type(error).__name__}: {error}", traceback.format_exc())
        return pickle.dumps((sequence, index, "raised", told), protocol=5)


def carry_out(index: int, kind: str, value: Any, envs: dict[int, Any], pickled: bytes) -> Any:
    """The environment's answer to one command."""
    if kind == "step":
        return portable(envs[index].step(value))
    if kind == "reset":
        return portable(envs[index].reset(seed=value))
    if index in envs:
        with contextlib.suppress(Exception):  # it is broken: whatever its end says, it goes
            envs.pop(index).close()
    envs[index] = pickle.loads(pickled)()
    if kind == "spaces":
        import cloudpickle  # spaces may be of classes that only the user's script knows

        return cloudpickle.dumps((envs[index].observation_space, envs[index].action_space))
    return portable(envs[index].reset(seed=value))


def portable(came: Any) -> Any:
    """The answer without what nobody reads: of `info`, the last of a tuple, scalars alone."""
    if isinstance(came, tuple) and came and isinstance(came[-1], Mapping):
        told = {name: x for name, x in came[-1].items() if is_scalar(x)}
        return (*came[:-1], told)
    return came


def is_scalar(x: Any) -> bool:
    """Whether it is one number or flag."""
    return isinstance(x, (bool, int, float)) or (
        getattr(x, "ndim", None) == 0 and getattr(getattr(x, "dtype", None), "kind", "") in "fiub"
    )


if __name__ == "__main__":
    main()
