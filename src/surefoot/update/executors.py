"""Where programs run: on the caller's thread, or beside it on a thread of their own.

XLA runs what one thread dispatches in order, so two programs run side by side only if two threads
dispatch them. An executor keeps the order of its own programs; what a program gets from another executor
it waits for. So the result is the same in every case, to the last bit.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax

from surefoot.config import Config


def resolve(tree: Any) -> Any:
    """The tree with every future's result in its place; waits for them, raises what a program raised."""

    def is_future(x: Any) -> bool:
        return isinstance(x, Future)

    return jax.tree.map(lambda x: x.result() if is_future(x) else x, tree, is_leaf=is_future)


class Executor(abc.ABC):
    """Runs programs one after the other."""

    @abc.abstractmethod
    def submit(self, program: Callable[..., Any], *args: Any, parts: int | None = None) -> Any:
        """Run `program(*args)`.

        Args:
            program: what to run.
            *args: may hold futures.
            parts: how many results it returns; None: one.

        Returns:
            The result, or a future of it; with `parts` a tuple of as many.
        """

    def close(self) -> None:
        """Wait for what was submitted. Nothing by default."""
        return


class Serial(Executor):
    """On the caller's thread: the result is there when `submit` returns."""

    def submit(self, program: Callable[..., Any], *args: Any, parts: int | None = None) -> Any:
        """Run now."""
        del parts
        return program(*resolve(args))


class Thread(Executor):
    """On a thread of its own, while the caller goes on."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"surefoot-{name}")

    def submit(self, program: Callable[..., Any], *args: Any, parts: int | None = None) -> Any:
        """Run after what was submitted here before."""
        whole = self._pool.submit(self._run, program, args)
        return whole if parts is None else tuple(_part(whole, i) for i in range(parts))

    def close(self) -> None:
        """Wait for what was submitted, and end the thread."""
        self._pool.shutdown(wait=True)

    @staticmethod
    def _run(program: Callable[..., Any], args: Any) -> Any:
        return jax.block_until_ready(program(*resolve(args)))


def _part(whole: Future[Any], index: int) -> Future[Any]:
    """The future of one of a future's results."""
    part: Future[Any] = Future()

    def hand_on(done: Future[Any]) -> None:
        if error := done.exception():
            part.set_exception(error)
        else:
            part.set_result(done.result()[index])

    whole.add_done_callback(hand_on)
    return part


class Executors(NamedTuple):
    """Of the learner that holds the actor, and of a separate critic."""

    main: Executor
    critic: Executor

    def close(self) -> None:
        """Wait for what was submitted."""
        for executor in self:
            executor.close()


def make_executors(config: Config) -> Executors:
    """Threads for what may go on while the next iteration collects."""
    if config.in_flight == 0:
        return Executors(Serial(), Serial())
    return Executors(Thread("actor") if config.overlap == "full" else Serial(), Thread("critic"))
