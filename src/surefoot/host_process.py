"""The process behind a worker: makes, resets and steps environments as it is told over a pipe.

Run by `envs.workers.Worker`; it imports nothing heavy, so that it starts fast.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from surefoot.errors import UserError
from surefoot.processes import end_with_parent

Make = Callable[[], Any]


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
                told = answer(index, kind, value, envs, lambda: pickle.loads(pickled)())
                pipe.send_bytes(pickle.dumps((sequence, index, *told), protocol=5))
    for env in envs.values():
        with contextlib.suppress(*FAILURES):
            env.close()


def answer(index: int, kind: str, value: Any, envs: dict[int, Any], make: Make) -> tuple[str, Any]:
    """Carry out one command: "answered" and what came, as bytes, or "raised" and how it failed."""
    try:
        came = carry_out(index, kind, value, envs, make)
        if kind == "spaces":
            import cloudpickle  # they may be of classes that only the user's script knows

            return "answered", cloudpickle.dumps(came)
        return "answered", pickle.dumps(came, protocol=5)
    except FAILURES as error:
        return "raised", failure(error)


def carry_out(index: int, kind: str, value: Any, envs: dict[int, Any], make: Make) -> Any:
    """The environment's answer to one command (see `envs.hosting.Command`), without what nobody reads.

    Args:
        index: of the environment.
        kind: of the command.
        value: what it takes.
        envs: those that are there, by index; under -1 - index one that was made and not yet used.
        make: makes one.
    """
    if kind == "step":
        return portable(envs[index].step(value))
    if kind == "reset":
        return portable(envs[index].reset(seed=value))
    if kind == "close":
        for place in (index, -1 - index):
            if place in envs:
                envs.pop(place).close()
        return None
    if kind == "spaces":
        envs[-1 - index] = env = make()
        return space_of(env, "observation_space"), space_of(env, "action_space")
    if index in envs:
        with contextlib.suppress(*FAILURES):  # it is broken: whatever its end says, it goes
            envs.pop(index).close()
    envs[index] = envs.pop(-1 - index) if -1 - index in envs else make()
    return portable(envs[index].reset(seed=value))


def space_of(env: Any, name: str) -> Any:
    """A space of an environment; one that it does not declare is named."""
    try:
        return getattr(env, name)
    except AttributeError as error:
        if error.name != name:  # of the author's own property
            raise
        raise UserError(
            f"it has no {name}; a Gymnasium environment declares observation_space and action_space, such as "
            "gymnasium.spaces.Box(-1.0, 1.0, (2,))"
        ) from None


# what an environment may end with; `sys.exit` in one is no reason to end the run without a word
FAILURES = (Exception, SystemExit)


def failure(error: BaseException) -> tuple[str, str]:
    """What was raised, in words, and its traceback; what says already what is wrong, as it is."""
    if isinstance(error, UserError):
        return str(error), ""
    try:
        text = str(error)
    except Exception:  # an author's own exception
        text = "(its message cannot be shown)"
    return f"raised {type(error).__name__}: {text}", "".join(traceback.format_exception(error))


def portable(came: Any) -> Any:
    """The answer without what nobody reads: of `info`, the last of a tuple, numbers by their names alone."""
    if isinstance(came, tuple) and came and isinstance(came[-1], Mapping):
        numbers = {name: as_number(x) for name, x in came[-1].items() if isinstance(name, str)}
        return (*came[:-1], {name: x for name, x in numbers.items() if x is not None})
    return came


def as_number(x: Any) -> float | None:
    """The number that it is: one number or flag, or an array or a list of one."""
    if isinstance(x, (list, tuple)):
        return as_number(x[0]) if len(x) == 1 else None
    if not isinstance(x, (bool, int, float)):
        shape = getattr(x, "shape", None)
        if not isinstance(shape, tuple) or any(size != 1 for size in shape):
            return None
        import numpy as np  # who returns arrays has it loaded

        array = np.asarray(x)
        if array.dtype.kind not in "fiub":
            return None
        x = array.item()
    try:
        return float(x)
    except OverflowError:
        return None


if __name__ == "__main__":
    main()
