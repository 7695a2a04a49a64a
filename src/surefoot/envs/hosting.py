"""Where host environments live and what becomes of those that fail.

A `Backend` carries out one command for each environment and gives back what it answered, unread, or an
`EnvError`. `InProcess` is the simple kind; `workers.Workers` has processes of
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


class Command(NamedTuple):
    """What one environment is to do: be made anew and reset (`make`), `reset`, `step`, or be made and tell
    its `spaces`.
    """

    kind: Literal["make", "reset", "step", "spaces"]
    value: Any = None  # make, reset: the seed or None; step: the action


class Backend(abc.ABC):
    """Some environments, each there from its first `make` on."""

    observation_space: gymnasium.Space
    action_space: gymnasium.Space

    @abc.abstractmethod
    def do(self, commands: Sequence[Command | None]) -> Iterable[Any]:
        """Carry out an command for each environment (None: nothing).

        Returns:
            For each environment what it returned, or an `EnvError`. To be read before the next is
            asked for: environments may answer in buffers that they share.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Close every environment."""


class InProcess(Backend):
    """Environments of this process, one after the other.

    Args:
        make: makes one.
        count: how many.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], count: int) -> None:
        first = make()
        self.observation_space, self.action_space = first.observation_space, first.action_space
        self._unused = [first]  # some are slow to make
        self._make = make
        self._envs: list[gymnasium.Env | None] = [None] * count

    def do(self, commands: Sequence[Command | None]) -> Iterator[Any]:
        """Carry out each command when its answer is asked for."""
        for index, command in enumerate(commands):
            yield None if command is None else self._answer(index, command)

    def close(self) -> None:
        """Close every environment."""
        with contextlib.ExitStack() as at_end:  # every one, even if another's end fails
            for env in (*self._envs, *self._unused):
                if env is not None:
                    at_end.callback(env.close)

    def _answer(self, index: int, command: Command) -> Any:
        try:
            if command.kind == "make":
                self._envs[index] = self._made_anew(self._envs[index])
            env = self._envs[index]
            assert env is not None
            return (
                env.step(command.value) if command.kind == "step" else env.reset(seed=command.value)
            )
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
