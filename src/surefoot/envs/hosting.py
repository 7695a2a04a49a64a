"""Where host environments live and what becomes of those that fail.

A *seat* holds one environment. `Seats` do one order for each seat and give back what the environment
answered, unread, or an `EnvError`. `InProcess` is the simple kind; `workers.Workers` has processes of
their own, which can be given up on.
"""

from __future__ import annotations

import abc
import contextlib
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from surefoot.config import OnEnvFailure
from surefoot.errors import UserError

if TYPE_CHECKING:
    import gymnasium


class Hosting(NamedTuple):
    """How host environments are stepped.

    Attributes:
        workers: processes that step them; 0 steps them here.
        timeout: seconds that a worker's environment may take for a step or a reset.
        on_failure: what becomes of one that fails: the run ends, it is made anew, or it is left out
            from then on.
    """

    workers: int = 0
    timeout: float = 60.0
    on_failure: OnEnvFailure = "fail"


class EnvError(Exception):
    """An environment did not do what it was asked to.

    Attributes:
        what: what happened, to follow "step 3 ...".
        trace: the environment's own traceback, or nothing.
    """

    def __init__(self, what: str, trace: str = "") -> None:
        super().__init__(what)
        self.what, self.trace = what, trace


class Order(NamedTuple):
    """What one seat is to do: `make` the environment anew and reset it, `reset` it, `step` it, or make it
    and tell its `spaces`.
    """

    kind: Literal["make", "reset", "step", "spaces"]
    value: Any = None  # make, reset: the seed or None; step: the action


class Seats(abc.ABC):
    """One environment on each seat, empty until a seat's first `make`."""

    observation_space: gymnasium.Space
    action_space: gymnasium.Space

    @abc.abstractmethod
    def do(self, orders: Sequence[Order | None]) -> Iterable[Any]:
        """Carry out an order for each seat (None: nothing).

        Returns:
            For each seat what its environment returned, or an `EnvError`. To be read before the next is
            asked for: environments may answer in buffers that they share.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Close every environment."""


class InProcess(Seats):
    """Environments of this process, one after the other.

    Args:
        make: makes one.
        count: how many seats.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], count: int) -> None:
        first = make()
        self.observation_space, self.action_space = first.observation_space, first.action_space
        self._unused = [first]  # some are slow to make
        self._make = make
        self._envs: list[gymnasium.Env | None] = [None] * count

    def do(self, orders: Sequence[Order | None]) -> Iterator[Any]:
        """Carry out each order when its answer is asked for."""
        for index, order in enumerate(orders):
            yield None if order is None else self._answer(index, order)

    def close(self) -> None:
        """Close every environment."""
        for env in (*self._envs, *self._unused):
            if env is not None:
                env.close()

    def _answer(self, index: int, order: Order) -> Any:
        try:
            if order.kind == "make":
                self._envs[index] = self._made_anew(self._envs[index])
            env = self._envs[index]
            assert env is not None
            return env.step(order.value) if order.kind == "step" else env.reset(seed=order.value)
        except UserError:
            raise  # says already what is wrong
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            return EnvError(f"raised {type(error).__name__}: {error}", trace)

    def _made_anew(self, old: gymnasium.Env | None) -> gymnasium.Env:
        if old is not None:
            with contextlib.suppress(Exception):  # it is broken: whatever its end says, it goes
                old.close()
        return self._unused.pop() if self._unused else self._make()
