"""Where programs run: on the caller's thread in turn, or beside it on a thread of their own.

XLA runs what one thread dispatches in order, so two programs run side by side only if two threads
dispatch them. A lane keeps the order of its own programs; what a program gets from another lane it
waits for. So the result is the same in every case, to the last bit.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax


class Pending:
    """A result in the making, or one item of it."""

    def __init__(self, future: Future, *items: Any) -> None:
        self._future, self._items = future, items

    def __getitem__(self, item: Any) -> Pending:
        return Pending(self._future, *self._items, item)

    def result(self) -> Any:
        """Wait for it; raises what its program raised."""
        value = self._future.result()
        for item in self._items:
            value = value[item]
        return value


def settle(tree: Any) -> Any:
    """The tree with every pending result in place of its promise; waits for them."""

    def is_pending(x: Any) -> bool:
        return isinstance(x, Pending)

    return jax.tree.map(lambda x: x.result() if is_pending(x) else x, tree, is_leaf=is_pending)


class Lane(abc.ABC):
    """Runs programs one after the other."""

    @abc.abstractmethod
    def start(self, program: Callable[..., Any], *args: Any) -> Any:
        """The result of `program(*args)`, or a `Pending` of it; `args` may be pending themselves."""

    def close(self) -> None:
        """Wait for what was started. Nothing by default."""
        return


class InTurn(Lane):
    """On the caller's thread: the result is there when `start` returns."""

    def start(self, program: Callable[..., Any], *args: Any) -> Any:
        """Run now."""
        return program(*settle(args))


class Beside(Lane):
    """On a thread of its own, while the caller goes on."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"surefoot-{name}")

    def start(self, program: Callable[..., Any], *args: Any) -> Any:
        """Run after what was started here before."""
        return Pending(self._thread.submit(self._run, program, args))

    def close(self) -> None:
        """Wait for what was started, and end the thread."""
        self._thread.shutdown(wait=True)

    @staticmethod
    def _run(program: Callable[..., Any], args: Any) -> Any:
        return jax.block_until_ready(program(*settle(args)))


class Lanes(NamedTuple):
    """The actor's (or joint) update and the critic's."""

    actor: Lane
    critic: Lane

    def close(self) -> None:
        """Wait for what was started."""
        for lane in self:
            lane.close()


def in_turn() -> Lanes:
    """Everything on the caller's thread."""
    return Lanes(InTurn(), InTurn())


def critic_beside() -> Lanes:
    """The critic learns while the caller optimises the actor and collects with it."""
    return Lanes(InTurn(), Beside("critic"))


def both_beside() -> Lanes:
    """Actor and critic learn while the caller collects."""
    return Lanes(Beside("actor"), Beside("critic"))
