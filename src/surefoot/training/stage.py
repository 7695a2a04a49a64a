"""The environments of a run, and the steps at which they begin anew.

A simulator written in JAX has its whole state in a checkpoint. One that cannot give its state away can
still be continued exactly, if its environments begin anew at the checkpoint in the uninterrupted run too:
from seeds that follow from the run's seed and the step. `Stage` makes them, `Renewal` says when.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

from surefoot.config import Config, parse_options
from surefoot.envs import Environment, Hosting, make_environment
from surefoot.errors import UserError
from surefoot.training.state import TrainState, make_streams

WORTH = 0.02  # share of the time between checkpoints that beginning anew may cost


class Stage:
    """The environments of a run, closed at the end unless `task` was an environment already.

    Args:
        task: a task name, an environment, or what makes one.
        config: the options.
        step: the step of the run at which it begins.

    Attributes:
        env: the environments as they are now.
        seconds: how long it took to make them.

    Raises:
        ValueError: an unknown task or option, or an environment that cannot be trained.
    """

    def __init__(self, task: Any, config: Config, step: int = 0) -> None:
        self._task, self._config = task, config
        self._tell: Callable[[str], None] = warnings.warn
        self._open(step)

    @property
    def can_begin_anew(self) -> bool:
        """Whether there is something that makes the environments."""
        return self.env is not self._task

    def at(self, step: int) -> Environment:
        """The environments that the run has from this step on: those at hand, or new ones."""
        if step != self._step:
            self.close()
            self._open(step)
        return self.env

    def listen(self, tell: Callable[[str], None]) -> None:
        """Where the environments, now and later ones, say what goes wrong."""
        self._tell = tell
        self.env.listen(tell)

    def close(self) -> None:
        """Close the environments."""
        if self.can_begin_anew:
            self.env.close()

    def _open(self, step: int) -> None:
        began = time.perf_counter()
        self._step = step
        self.env = make_environment(
            self._task,
            self._config.num_envs,
            seed=make_streams(self._config.seed, step).environments,
            options=parse_options(self._config.env_options),
            hosting=hosting_of(self._config),
        )
        self.env.listen(self._tell)
        self.seconds = time.perf_counter() - began


def hosting_of(config: Config) -> Hosting:
    """How the options say that host environments are stepped."""
    timeout = {} if config.env_timeout is None else {"timeout": config.env_timeout}
    return Hosting(config.env_workers, on_failure=config.on_env_failure, **timeout)


class Renewal:
    """Whether the environments begin anew at a checkpoint.

    Args:
        config: the options; `exact_resume` says what the user wants.
        stage: the environments.
        step: the step at which the run, or its continuation, begins.
        decided: what the run decided before it was interrupted; None: nothing yet.
        tell: hears what `auto` decided, and why.

    Raises:
        ValueError: the environments are to begin anew, and nothing can make them.
    """

    def __init__(
        self,
        config: Config,
        stage: Stage,
        *,
        step: int = 0,
        decided: bool | None = None,
        tell: Callable[[str], None],
    ) -> None:
        self._config, self._step, self._tell = config, step, tell
        self._began, self._cost = time.perf_counter(), stage.seconds
        wanted = {"on": True, "off": False}.get(config.exact_resume, decided)
        if stage.env.spec.saves_state:
            wanted = False
        elif not stage.can_begin_anew:
            if wanted:
                raise UserError(
                    f"exact_resume = 'on': {stage.env.spec.name} was made already, so it cannot be "
                    "made anew at a checkpoint; pass the class or function that makes it"
                )
            wanted = False
        self._wanted = wanted

    def __call__(self, state: TrainState, compiling: float) -> TrainState:
        """The state behind an iteration, without environments if they begin anew here.

        Args:
            state: the state.
            compiling: seconds it took to compile the collector, which new environments do again.
        """
        due = is_checkpoint(self._step, state.step, self._config)
        self._step = state.step
        if not due or self._wanted is False:
            return state
        if self._wanted is None:
            self._wanted = self._decide(compiling)
        return state._replace(collector=None) if self._wanted else state

    def _decide(self, compiling: float) -> bool:
        share = (self._cost + compiling) / (time.perf_counter() - self._began)
        worth = share <= WORTH
        self._tell(
            f"exact resume is {'on' if worth else 'off'}: making the environments anew at each "
            f"checkpoint takes {share:.1%} of the time between them ({WORTH:.0%} at most; "
            f"--exact-resume {'off' if worth else 'on'} decides otherwise)"
        )
        return worth


def is_checkpoint(before: int, after: int, config: Config) -> bool:
    """Whether an iteration that ends at step `after` ends at a checkpoint."""
    every = config.checkpoint_every
    return every is not None and before // every < after // every
