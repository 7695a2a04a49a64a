"""What a tuning has found so far: the best options as a file, all numbers, and the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surefoot.config_file import to_toml, toml_value
from surefoot.errors import UserError
from surefoot.files import write_json, write_text
from surefoot.reading import read_json, read_text
from surefoot.services.run_folder import describe
from surefoot.study.executors import Executor, Stop
from surefoot.study.plan import parse_study
from surefoot.study.run_study import STUDY, Progress, StudyFolder, run_study
from surefoot.study.statistics import Interval
from surefoot.tune.plan import Trial, Tuning, best_of
from surefoot.tune.report import tuning_page

BEST = "best.toml"
RESULTS = "results.json"
PROVENANCE = "provenance.json"
REPORT = "report.html"
JUDGMENT = "judgment"


@dataclass(frozen=True)
class Found:
    """What a tuning has found so far.

    Attributes:
        path: the tuning's folder.
        tuning: what was searched.
        trials: all of them.
        importance: of each option, as shares of one; empty: not known.
        command: the words of the command.
        why_ended: why there are no more trials though more were asked for; empty: there are as many.
    """

    path: Path
    tuning: Tuning
    trials: Sequence[Trial]
    importance: Mapping[str, Interval]
    command: Sequence[str]
    why_ended: str = ""

    @property
    def best(self) -> Trial | None:
        """The best trial; None where none has come to its end."""
        return best_of(self.trials)

    def write(self, judged: Mapping[str, Any] | None = None) -> None:
        """Write best.toml, results.json and report.html, in place of what they held.

        Args:
            judged: what the best one's study on fresh seeds shows (its results.json); none: what an
                earlier judgment of it has left, if anything.
        """
        path, tuning, best = self.path, self.tuning, self.best
        shown = self._judged_before() if judged is None else _judged(judged, tuning.task)
        found = {
            "task": tuning.task,
            "total_steps": tuning.base.total_steps,
            "seeds": tuning.seeds,
            "space": {name: part.in_words() for name, part in tuning.space.items()},
            "trials": [
                _row(trial)
                for trial in self.trials
                if trial.state not in ("interrupted", "repeated")
            ],
            "ended": self.why_ended,
            "best": None if best is None else best.number,
            "default": {name: toml_value(getattr(tuning.base, name)) for name in tuning.space},
            "importance": {name: share._asdict() for name, share in self.importance.items()},
            "judged": shown,
        }
        if best is not None:
            write_text(path / BEST, to_toml(tuning.config(best.options), task=tuning.task))
        write_json(path / RESULTS, found)
        write_json(path / PROVENANCE, describe(list(self.command), tuning=tuning.task))
        write_text(path / REPORT, tuning_page(path))

    def judgment(self, best: Trial) -> Path:
        """The folder of the study in which the best trial is judged."""
        return self.path / JUDGMENT / f"trial-{best.number}"

    def _judged_before(self) -> dict[str, Any] | None:
        """What an earlier judgment shows; None where there is none, or what is there is damaged: it is
        written again by the next one.
        """
        if self.best is None:
            return None
        try:
            return _judged(read_json(self.judgment(self.best) / RESULTS), self.tuning.task)
        except (UserError, AttributeError, LookupError, TypeError):
            return None


def _row(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state,
        "score": trial.score,
        "reason": trial.reason,
        "options": {name: toml_value(value) for name, value in trial.options.items()},
    }


def _judged(found: Mapping[str, Any], task: str) -> dict[str, Any]:
    names = ("mean", "difference", "relative", "verdict", "sentence", "scores")
    arms = {
        arm: {name: of_arm[name] for name in names if name in of_arm}
        for arm, of_arm in found["tasks"][task].items()
    }
    return {"seeds": found["seeds"], "arms": arms}


def judge(
    found: Found,
    best: Trial,
    *,
    seeds: int,
    executor: Executor,
    shares_program: Callable[[Any, str], bool],
    progress: Progress,
    should_stop: Stop,
) -> tuple[StudyFolder, list[dict[str, Any]]] | None:
    """Train the best trial's options and the default ones on seeds that no trial has seen, paired.

    Args:
        found: what the tuning has found.
        best: its best trial.
        seeds: 0, 1, ... so many; or more, where it was judged on more before.
        executor: who trains.
        shares_program: whether all seeds of a study's task can be trained in one program.
        progress: told of each finished training.
        should_stop: asked now and then.

    Returns:
        The study's folder and its results; None if it was stopped before its end.
    """
    path = found.judgment(best)
    if (path / STUDY).is_file():
        text, asked = read_text(path / STUDY), (found.tuning.task,)
        before, _ = parse_study(text, where=str(path / STUDY), presets={}, asked=asked)
        seeds = max(seeds, before.seeds)
    study = found.tuning.judgment(best, seeds)
    shares = shares_program(study, found.tuning.task)
    with StudyFolder(path, study) as folder:
        done = run_study(
            folder,
            executor,
            shares_program=lambda _: shares,
            progress=progress,
            should_stop=should_stop,
        )
    return None if done is None else (folder, done[0])
