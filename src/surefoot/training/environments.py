"""The environments of a run: made, made anew at checkpoints where that is decided, closed at the end.

A simulator that gives its whole state away is in the checkpoint. One that cannot can still be continued
exactly, if its environments begin anew at the checkpoint in the uninterrupted run too: from seeds that
follow from the run's seed and the step. Whether they do follows from the options and the task alone.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from surefoot.config import CollectOptions, Config, RecordOptions, parse_options
from surefoot.envs import Environment, EnvSpec, Hosting, ObservationSpec, make_environment
from surefoot.envs.contract import Breakdown, release
from surefoot.errors import UserError
from surefoot.training.state import make_streams

Origins = Mapping[str, tuple[float, ...]]
Groups = Mapping[str, ObservationSpec]
Reads = Callable[[Groups], Groups]


class EnvLifecycle:
    """The environments of a run; used as a context, which closes those that it made.

    Args:
        task: a task name, an environment, or what makes one.
        config: the options.
        step: the step of the run at which it begins.
        reads: gives its observation groups with the origins that the networks know
            (`ObservationSpec.origin`); None: as they are.

    Attributes:
        env: the environments as they are now.
        begins_anew: whether environments begin anew at each checkpoint.

    Raises:
        ValueError: an unknown task or option, or an environment that cannot be trained.
    """

    def __init__(
        self, task: Any, config: Config, step: int = 0, reads: Reads | None = None
    ) -> None:
        self._task, self._config = task, config
        self._log: Callable[[str], None] = warnings.warn
        self._report: Callable[[Breakdown], None] = lambda breakdown: None
        self._make(step)
        if reads is not None:
            self.env.read_as(reads(self.env.spec.observations))
        made_by_us = self.env is not task
        if config.exact_resume == "on" and not made_by_us and not self.env.spec.saves_state:
            raise UserError(
                f"exact_resume = 'on': {self.env.spec.name} was made already, so it cannot be "
                "made anew at a checkpoint; pass the class or function that makes it"
            )
        self.begins_anew = made_by_us and begins_anew(config, self.env.spec)

    def __enter__(self) -> EnvLifecycle:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close(warnings.warn)  # nobody listens any more

    def at(self, step: int) -> Environment:
        """The environments that the run has from this step on: those at hand, or new ones."""
        if step != self._step:
            reads = self.env.spec.observations  # as the networks of this run know them
            self._close(self._log)
            self._make(step)
            self.env.read_as(reads)
        return self.env

    def is_renewed(self, before: int, after: int) -> bool:
        """Whether the iteration between two steps ends at a checkpoint where environments begin anew."""
        return self.begins_anew and is_checkpoint(before, after, self._config)

    def log_to(self, log: Callable[[str], None]) -> None:
        """Where the environments, now and later ones, say what goes wrong."""
        self._log = log
        self.env.log_to(log)

    def report_to(self, report: Callable[[Breakdown], None]) -> None:
        """Where the environments, now and later ones, hand over simulations that broke down."""
        self._report = report
        self.env.report_to(report)

    def _close(self, log: Callable[[str], None]) -> None:
        if self.env is not self._task:
            release(self.env, log)

    def _make(self, step: int) -> None:
        self._step = step
        self.env = make_environment(
            self._task,
            self._config.num_envs,
            seed=make_streams(self._config.seed, step).environments,
            options=parse_options(self._config.env_options),
            hosting=hosting_of(self._config),
            training=True,
        )
        self.env.log_to(self._log)
        self.env.report_to(self._report)


def origins_of(observations: Groups) -> Origins:
    """The origins of the groups that have one."""
    return {n: spec.origin for n, spec in observations.items() if spec.origin is not None}


def with_origins(observations: Groups, origins: Origins) -> Groups:
    """The groups with these origins, and none else."""
    return {n: dataclasses.replace(x, origin=origins.get(n)) for n, x in observations.items()}


def read_like(observations: Groups, known: Groups) -> Groups:
    """The groups, those of them that are known with the origins that they are known with."""
    return {
        n: dataclasses.replace(x, origin=known[n].origin)
        if n in known and known[n].shape == x.shape and not x.choices
        else x
        for n, x in observations.items()
    }


def hosting_of(options: CollectOptions) -> Hosting:
    """How the options say that host environments are stepped."""
    timeout = {} if options.env_timeout is None else {"timeout": options.env_timeout}
    return Hosting(options.env_workers, on_failure=options.on_env_failure, **timeout)


def begins_anew(options: RecordOptions, spec: EnvSpec) -> bool:
    """Whether environments begin anew at checkpoints, as far as they can be made by the run."""
    if spec.saves_state or options.checkpoint_every is None:
        return False
    return {"on": True, "off": False}.get(options.exact_resume, spec.cheap_to_make)


def is_checkpoint(before: int, after: int, options: RecordOptions) -> bool:
    """Whether an iteration that ends at step `after` ends at a checkpoint."""
    return crosses(options.checkpoint_every, before, after)


def crosses(every: int | None, before: int, after: int) -> bool:
    """Whether a multiple of `every` lies behind step `before` and not behind step `after`."""
    return every is not None and before // every < after // every
