"""A tuning: which options of a task are searched, over which seeds; its folder, and its trials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from surefoot.config import Config, from_mapping
from surefoot.config_file import dump_toml
from surefoot.errors import UserError
from surefoot.files import check_writable, contents, write_text
from surefoot.reading import read_text, toml_table
from surefoot.study.bounds import return_bounds
from surefoot.study.jobs import Job
from surefoot.study.plan import FIRST_TUNING_SEED, Study
from surefoot.tune.space import Space

TUNING = "tuning.toml"
TRIALS = "trials"
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Tuning:
    """What is asked. The docstring under a field is its documentation."""

    task: str
    """The task."""
    base: Config
    """The options of every trial but for those that are searched, and of what the best is compared with."""
    space: Space
    """What is searched."""
    seeds: int
    """Seeds that a trial's score is the mean over."""
    evaluations: int = 20
    """How many times a run's policy is played, at equal distances, the last at its end."""
    episodes: int = 10
    """Episodes each time."""
    sampler_seed: int = 0
    """Of the random numbers that options are chosen with."""
    storage: str = "file"
    """Where the trials are recorded: a `file` of the folder, or a `database`."""

    def every_seed(self) -> range:
        """The seeds of a trial; no study begins with them, and no score that is reported uses them."""
        return range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + self.seeds)

    @property
    def highest(self) -> float:
        """The most that an episode can return, which no score exceeds; infinite where it is not known."""
        study = Study(self.task, {self.task: self.base}, {}, "", self.seeds)
        return return_bounds(study, self.task)[1]

    def config(self, options: Options) -> Config:
        """The validated options of a trial, seed 0.

        Raises:
            ValueError: options that do not go together.
        """
        config = from_mapping(options, base=self.base)
        batch = config.num_envs * config.num_steps
        if batch > config.total_steps:
            raise UserError(
                f"a batch of num_envs x num_steps = {batch:,} steps is more than the budget, --total-steps "
                f"{config.total_steps:,}"
            )
        return config

    def job(self, trial: Trial, seed: int) -> Job:
        """The training of a trial with a seed."""
        return Job(
            folder=f"{trial.folder}/seed-{seed}",
            task=self.task,
            arm=f"trial {trial.number}",
            config=self.config(trial.options),
            seeds=(seed,),
            evaluations=self.evaluations,
            episodes=self.episodes,
            live=True,
        )

    def judgment(self, trial: Trial, seeds: int) -> Study:
        """The study of a trial's options against the default ones, on seeds that no trial has seen.

        Where the trial is the default, that is its only arm.
        """
        tuned = {k: list(v) if isinstance(v, tuple) else v for k, v in trial.options.items()}
        is_default = self.config(trial.options) == self.base
        return Study(
            name=f"tuning of {self.task}",
            tasks={self.task: self.base},
            arms={"default": {}} if is_default else {"default": {}, "tuned": tuned},
            baseline="default",
            seeds=seeds,
            evaluations=self.evaluations,
            episodes=self.episodes,
            question=f"What are the options of trial {trial.number} worth on fresh seeds?",
        )

    def to_toml(self) -> str:
        """All of it as TOML text."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        space = {name: part.to_toml() for name, part in self.space.items()}
        return dump_toml({**plain, "base": asdict(self.base), "space": space})


@dataclass(frozen=True)
class Trial:
    """What is known of a trial.

    Attributes:
        number: its number, from 0 on.
        options: what was chosen for it.
        is_default: whether these are the task's own.
        state: `waiting`, `running`, `complete`, `pruned` (it fell behind), `failed` (a training could not
            be done), `refused` (its options do not go together; nothing was trained), `repeated` (its
            options are those of another trial; nothing was trained) or `interrupted` (put back, to be
            done as another trial).
        score: the mean over seeds of the final scores of one that is complete; else the last return
            that was seen; none: nothing was.
        reason: why it was refused, failed or pruned.
        folder: of its runs, in the tuning's.
        seconds: how long it took; none: it has not ended.
    """

    number: int
    options: Options
    is_default: bool
    state: str
    score: float | None
    reason: str
    folder: str
    seconds: float | None

    @property
    def counts(self) -> bool:
        """Whether it is one of the trials that were asked for."""
        return self.state in ("complete", "pruned", "failed", "running")

    @property
    def was_tried(self) -> bool:
        """Whether its options need not be tried again."""
        return self.counts or self.state == "refused"


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The complete trial with the highest score; of equal ones the default, or the first."""
    done = [t for t in trials if t.state == "complete" and t.score is not None]
    return max(done, key=lambda trial: (trial.score or 0.0, trial.is_default), default=None)


def check(tuning: Tuning) -> Tuning:
    """Refuse numbers that cannot be right.

    Raises:
        ValueError: which, and the least it must be.
    """
    for name in ("seeds", "evaluations", "episodes"):
        if getattr(tuning, name) < 1:
            raise UserError(f"{name} = {getattr(tuning, name)} must be at least 1")
    if not 0 <= tuning.sampler_seed < 2**32:
        raise UserError(f"sampler_seed = {tuning.sampler_seed} must be in [0, 2^32)")
    tuning.config({})
    return tuning


def claim_folder(path: Path, tuning: Tuning) -> None:
    """Begin a tuning in a folder, a new one or one that this very tuning was begun in.

    Raises:
        ValueError: it holds something else, with the first difference.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"tuning folder {str(path)!r} is a file; choose another --run-dir")
    check_writable(path, what="tuning folder")
    held = contents(path)
    if held and TUNING not in held:
        raise UserError(
            f"folder {str(path)!r} holds {len(held)} file(s), such as {held[0]!r}, and no tuning; "
            "choose another --run-dir"
        )
    text = tuning.to_toml()
    if not held:
        path.mkdir(parents=True, exist_ok=True)
        write_text(path / TUNING, text)
        return
    there = dict(_flat(toml_table(read_text(path / TUNING), where=str(path / TUNING))))
    here = dict(_flat(toml_table(text, where="")))
    for name in [*here, *there]:
        old, new = there.get(name, "nothing"), here.get(name, "nothing")
        if old != new:
            raise UserError(
                f"folder {str(path)!r} holds another tuning: {name} = {old} there and {new} here; choose "
                "another --run-dir, or ask for the same to continue it"
            )


def _flat(table: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{within}{name}.")
        else:
            yield f"{within}{name}".removeprefix("base."), value
