"""Where host environments live and what becomes of those that fail.

A `Backend` carries out one command for each environment and gives back what it answered, unread, or an
`EnvError`. `InProcess` is the simple kind; `workers.Workers` has processes of
their own, which can be given up on.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from surefoot.config import OnEnvFailure
from surefoot.host_process import FAILURES, carry_out, failure

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


class Command(NamedTuple):
    """What one environment is to do: be made and tell its `spaces`, be made anew and reset (`make`),
    `reset`, `step`, or `close`.
    """

    kind: Literal["spaces", "make", "reset", "step", "close"]
    value: Any = None  # make, reset: the seed or None; step: the action


class Backend(abc.ABC):
    """Carries out commands, one for each environment at a time."""

    @abc.abstractmethod
    def do(self, commands: Sequence[Command | None]) -> Iterable[Any]:
        """Carry out a command for each environment (None: nothing).

        Returns:
            For each environment what it returned, of `info` the numbers alone, or an `EnvError`. To be read
            before the next is asked for: environments may answer in buffers that they share.
        """

    def instance(self, index: int) -> gymnasium.Env | None:
        """An environment itself, to look at; None where it lives in another process."""
        del index
        return None

    def close(self) -> None:
        """Release what is left, once every environment is closed."""
        return


class InProcess(Backend):
    """Environments of this process, one after the other.

    Args:
        make: makes one.
    """

    def __init__(self, make: Callable[[], gymnasium.Env]) -> None:
        self._make = make
        self._envs: dict[int, gymnasium.Env] = {}

    def do(self, commands: Sequence[Command | None]) -> Iterator[Any]:
        """Carry out each command when its answer is asked for."""
        for index, command in enumerate(commands):
            yield None if command is None else self._answer(index, command)

    def instance(self, index: int) -> gymnasium.Env | None:
        """See `Backend.instance`."""
        return self._envs.get(index)

    def _answer(self, index: int, command: Command) -> Any:
        try:
            return carry_out(index, *command, self._envs, self._make)
        except FAILURES as error:
            return EnvError(*failure(error))
