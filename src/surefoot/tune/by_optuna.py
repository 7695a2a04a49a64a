"""The record of trials (extra `tune`): Optuna chooses options, prunes, and says what mattered.

What is recorded are lines of JSON in the folder, or rows of a database; no pickle.
"""

from __future__ import annotations

import itertools
import threading
import uuid
import warnings
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from surefoot.errors import UserError
from surefoot.files import write_text
from surefoot.reading import read_json_lines, read_text
from surefoot.study.statistics import LEVEL, Interval
from surefoot.tune.plan import TRIALS, Trial, Tuning
from surefoot.tune.space import Choices, combinations, contains, size

JOURNAL = "journal.jsonl"
PROCESSES = "processes"
_STARTUP = 5  # trials that come to their end before any is pruned
_MOST_IN_VAIN = 50  # combinations in a row that are refused, or have been tried
_MOST_LISTED = 10_000  # combinations of a space
_LEAST_FOR_IMPORTANCE = 8
_RESAMPLES = 200
_BEST_QUARTER = 0.25
# of Optuna's trials, for other processes and later ones
_BY, _FOLDER, _REASON, _KIND = "by", "folder", "reason", "kind"


class Book:
    """The trials of a tuning, which several processes may add to; used as a context.

    Args:
        tuning: what is searched.
        path: the tuning's folder, which all processes share.
        trials: how many there are to be, those that are refused or put back aside.
        url: a database instead of the folder's file.

    Attributes:
        why_ended: why `ask` found that there is nothing left to try before there were so many; empty: it
            did not.

    Raises:
        ValueError: Optuna is not installed, the database cannot be opened, or the record is not that of
            the trials in the folder.
    """

    def __init__(self, tuning: Tuning, path: Path, trials: int, url: str | None = None) -> None:
        self._optuna = import_optuna()
        self._tuning, self._path, self._most = tuning, path, trials
        self._choices = {
            name: part.by_name() for name, part in tuning.space.items() if isinstance(part, Choices)
        }
        self._distributions = {name: self._distribution(name) for name in tuning.space}
        self.why_ended = ""
        self._me = uuid.uuid4().hex
        self._asked: dict[int, Any] = {}
        self._turn = FileLock(path / f"{JOURNAL}.turn")
        self._mine = FileLock(self._process_file(self._me))
        self._lock = threading.RLock()
        self._study: Any = self._open(url)

    def __enter__(self) -> Book:
        (self._path / PROCESSES).mkdir(exist_ok=True)
        self._mine.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._mine.release()
        self._process_file(self._me).unlink(missing_ok=True)

    def ask(self) -> Trial | None:
        """A trial to do, its options in agreement and not those of another; None where there are as many
        as there are to be, or `why_ended`.

        What a process that is gone has left is put back first. A trial's options follow from the
        sampler's seed, its place among the trials, and what was known when it began.

        Raises:
            ValueError: options of the space hardly ever go together.
        """
        for _ in range(_MOST_IN_VAIN):
            with self._turn:
                self._put_back_orphans()
                known = self.trials()
                if sum(trial.counts for trial in known) >= self._most:
                    return None
                if self._is_over(known):
                    break
                asked = self._draw(known)
            self._asked[asked.number] = asked
            trial = self._read(self._frozen(asked.number))
            if any(other.was_tried and other.options == trial.options for other in known):
                asked.set_user_attr(_KIND, "repeated")
                self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
                continue
            try:
                self._tuning.config(trial.options)
            except UserError as error:
                self.end(trial, "refused", str(error))
                continue
            return trial
        else:
            self.why_ended = f"{_MOST_IN_VAIN} combinations in a row were refused or had been tried"
        known = self.trials()
        if not any(trial.counts for trial in known):
            reasons = [trial.reason for trial in known if trial.state == "refused"]
            raise UserError(f"{self.why_ended}, the last one: {reasons[-1]}")
        return None

    def _is_over(self, known: Sequence[Trial]) -> bool:
        """Whether no trial can be better, or there is none left to try; says why."""
        best = [frozen.number for frozen in self._all() if self._stays_highest(frozen)]
        if best:
            self.why_ended = (
                f"trial {best[0]} returned {self._tuning.highest:,.0f}, the most that an episode can, "
                "throughout the second half of its training; a smaller --total-steps tells which options "
                "learn sooner"
            )
        elif len(_tried(known)) >= (count := size(self._tuning.space)):
            self.why_ended = f"all {count:,.0f} combinations of the space have been tried"
        return bool(self.why_ended)

    def _stays_highest(self, frozen: Any) -> bool:
        """Whether a trial was at the most that an episode can return, with every seed, half of the time."""
        count, highest = self._tuning.evaluations, self._tuning.highest
        late = [
            seed * count + k for seed in range(self._tuning.seeds) for k in range(count // 2, count)
        ]
        returns = [frozen.intermediate_values.get(place, -np.inf) for place in late]
        return frozen.state.name == "COMPLETE" and min(frozen.value, *returns) >= highest

    def _draw(self, known: Sequence[Trial]) -> Any:
        """Optuna's next trial: the default first, then what was put back, then what the sampler proposes."""
        space, base = self._tuning.space, self._tuning.base
        if not known and contains(space, base):
            self._enqueue({name: getattr(base, name) for name in space})
        # what was put back is another trial's beginning, and counts once
        place = sum(trial.state not in ("interrupted", "waiting") for trial in known)
        random = np.random.default_rng([self._tuning.sampler_seed, place])
        was_in_vain = bool(known) and known[-1].state == "repeated"
        if (
            was_in_vain and size(space) <= _MOST_LISTED
        ):  # the sampler would propose it again and again
            tried = _tried(known)
            untried = [options for options in combinations(space) if str(options) not in tried]
            self._enqueue(untried[random.integers(len(untried))])
        seed = int(random.integers(2**32))
        self._study.sampler = self._optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        asked = self._study.ask(self._distributions)
        asked.set_user_attr(_BY, self._me)
        if _FOLDER not in asked.user_attrs:
            asked.set_user_attr(_FOLDER, self._new_folder(asked.number))
        return asked

    def _new_folder(self, number: int) -> str:
        """A folder for the runs of a trial in which none are."""
        names = (f"{TRIALS}/{number}{'-' * (k > 0)}{k or ''}" for k in itertools.count())
        return next(name for name in names if not (self._path / name).exists())

    def tell(self, trial: Trial, share: int, value: float) -> bool:
        """Record a return that was seen; True if the trial has fallen behind.

        Args:
            trial: a trial.
            share: the evaluations before it, of all the trial's seeds.
            value: the mean return.
        """
        asked = self._asked[trial.number]
        with self._lock:
            asked.report(value, share)
            return asked.should_prune()

    def complete(self, trial: Trial, score: float) -> None:
        """The trial has come to its end."""
        self._study.tell(trial.number, score)

    def end(self, trial: Trial, kind: str, reason: str) -> None:
        """The trial ends early: `refused`, `failed` or `pruned`."""
        asked = self._asked[trial.number]
        asked.set_user_attr(_KIND, kind)
        asked.set_user_attr(_REASON, reason)
        # not as failed: what the sampler does not hear of it would propose again
        self._study.tell(trial.number, state=self._optuna.trial.TrialState.PRUNED)

    def put_back(self, trial: Trial) -> None:
        """The trial was interrupted: its options are tried again, and what its seeds have left is kept."""
        with self._turn:
            self._put_back(self._frozen(trial.number))

    def trials(self) -> list[Trial]:
        """All trials, in the order of their numbers."""
        return [self._read(frozen) for frozen in self._all()]

    def importance(self) -> dict[str, Interval]:
        """What each option has to do with being among the best quarter, as shares of one.

        PED-ANOVA (arXiv 2304.10255) over trials that came to their end: the mean and the 95% percentile
        interval over bootstrap resamples of them. Empty where they are too few or all alike.
        """
        optuna = self._optuna
        done = [t for t in self._all() if t.state.name == "COMPLETE"]
        if len(done) < _LEAST_FOR_IMPORTANCE or len({t.value for t in done}) == 1:
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=_BEST_QUARTER)
        random, shares = np.random.default_rng(0), []
        for _ in range(_RESAMPLES):
            drawn = optuna.create_study(direction="maximize")
            drawn.add_trials([done[k] for k in random.integers(len(done), size=len(done))])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that all of a resample may be alike
                found = optuna.importance.get_param_importances(drawn, evaluator=evaluator)
            shares.append([found.get(name, 0.0) for name in self._tuning.space])
        low, high = np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        mean = np.mean(shares, axis=0)
        return {
            name: Interval(float(mean[k]), float(low[k]), float(high[k]))
            for k, name in enumerate(self._tuning.space)
        }

    def _open(self, url: str | None) -> Any:
        optuna = self._optuna
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        digest = sha256(self._tuning.to_toml().encode()).hexdigest()[:16]
        try:
            study = optuna.create_study(
                storage=self._journal() if url is None else url,
                study_name=f"{self._tuning.task} {digest}{'' if url is None else self._folder_id()}",
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(
                    n_startup_trials=_STARTUP,
                    n_warmup_steps=self._tuning.evaluations // 4,
                    n_min_trials=_STARTUP,
                ),
            )
            for frozen in study.get_trials(deepcopy=False):
                self._read(frozen)
        except UserError:
            raise
        except Exception as error:  # each database has its own kinds, and so has each damage
            said = str(error).splitlines() or [type(error).__name__]
            if url is None:
                raise self._damaged(f"{self._path / JOURNAL} is damaged: {said[0]}") from None
            raise UserError(f"--storage cannot be opened: {said[0]}") from None
        runs = self._path / TRIALS
        if not study.get_trials(deepcopy=False) and runs.is_dir() and any(runs.iterdir()):
            where = f"{self._path / JOURNAL} holds" if url is None else "--storage has"
            raise self._damaged(f"{where} no trial of this folder, in which some were trained")
        return study

    def _folder_id(self) -> str:
        """What tells the folder's trials from those of others in one database."""
        file = self._path / "id"
        with self._turn:
            if not file.exists():
                write_text(file, f" {uuid.uuid4().hex}")
        return read_text(file)

    def _damaged(self, what: str) -> UserError:
        return UserError(
            f"{what}; what was trained is in {self._path / TRIALS}; to search anew, choose another --run-dir"
        )

    def _journal(self) -> Any:
        """The folder's file. Its lock ends with whoever holds it; half a line that was left goes."""
        file = self._path / JOURNAL
        lock: Any = FileLock(f"{file}.lock")
        with lock:
            file.touch()
            content = file.read_bytes()
            if not content.endswith(b"\n") and content:
                with file.open("r+b") as journal:
                    journal.truncate(content.rfind(b"\n") + 1)
            for line in read_json_lines(file, lambda row: None):
                if line.fault:
                    raise self._damaged(line.fault)
        journals = self._optuna.storages.journal
        backend = journals.JournalFileBackend(str(file), lock_obj=lock)
        return self._optuna.storages.JournalStorage(backend)

    def _distribution(self, name: str) -> Any:
        of, part = self._optuna.distributions, self._tuning.space[name]
        if isinstance(part, Choices):
            return of.CategoricalDistribution(list(self._choices[name]))
        whole = isinstance(part.low, int)
        kind = of.IntDistribution if whole else of.FloatDistribution
        return kind(part.low, part.high, log=part.log)

    def _all(self) -> list[Any]:
        return self._study.get_trials(deepcopy=False)

    def _frozen(self, number: int) -> Any:
        return self._all()[number]

    def _put_back_orphans(self) -> None:
        for frozen in self._all():
            if frozen.state.name == "RUNNING" and not self._is_alive(frozen.user_attrs.get(_BY)):
                self._put_back(frozen)

    def _put_back(self, frozen: Any) -> None:
        chosen = {**frozen.system_attrs.get("fixed_params", {}), **frozen.params}
        waiting = [_folder_of(trial) for trial in self._all() if trial.state.name == "WAITING"]
        if (
            chosen and _folder_of(frozen) not in waiting
        ):  # first, so that nothing is lost between the two
            self._study.enqueue_trial(chosen, user_attrs={_FOLDER: _folder_of(frozen)})
        self._study.tell(frozen.number, state=self._optuna.trial.TrialState.FAIL)

    def _is_alive(self, process: str | None) -> bool:
        file = self._process_file(process or "")
        if not process or not file.exists():
            return False
        try:
            with FileLock(file).acquire(timeout=0):
                pass
        except Timeout:
            return True
        file.unlink(missing_ok=True)
        return False

    def _process_file(self, process: str) -> Path:
        return self._path / PROCESSES / f"{process}.lock"

    def _enqueue(self, options: Mapping[str, Any]) -> None:
        """Let these be the next trial's."""
        self._study.enqueue_trial(
            {
                name: next(k for k, v in self._choices[name].items() if v == value)
                if name in self._choices
                else value
                for name, value in options.items()
            }
        )

    def _read(self, frozen: Any) -> Trial:
        names = {"COMPLETE": "complete", "RUNNING": "running", "WAITING": "waiting"}
        state = names.get(frozen.state.name, "interrupted")
        if frozen.state.name in ("PRUNED", "FAIL"):
            state = frozen.user_attrs.get(_KIND, "pruned" if state != "interrupted" else state)
        params: Mapping[str, Any] = frozen.params
        options = {
            name: self._choices[name][params[name]] if name in self._choices else params[name]
            for name in self._tuning.space
            if name in params
        }
        base = self._tuning.base
        return Trial(
            number=frozen.number,
            options=options,
            is_default=options == {name: getattr(base, name) for name in self._tuning.space},
            state=state,
            score=frozen.value,
            reason=frozen.user_attrs.get(_REASON, ""),
            folder=_folder_of(frozen),
            seconds=frozen.duration.total_seconds() if frozen.duration else None,
        )


def _tried(trials: Sequence[Trial]) -> set[str]:
    return {str(trial.options) for trial in trials if trial.was_tried}


def _folder_of(frozen: Any) -> str:
    return frozen.user_attrs.get(_FOLDER, f"{TRIALS}/{frozen.number}")


def check_storage(url: str) -> None:
    """Refuse a database that cannot be opened, or that ends with the process.

    Raises:
        ValueError: in the database's own words.
    """
    optuna = import_optuna()
    if url.startswith("sqlite") and url.partition("://")[2].strip("/") in ("", ":memory:"):
        raise UserError(
            f"--storage {url} ends with this process: name a file, such as sqlite:///trials.db"
        )
    try:
        optuna.storages.get_storage(url)
    except Exception as error:  # each database has its own kinds
        said = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"--storage cannot be opened: {said[0]}") from None


def import_optuna() -> Any:
    """Optuna; ValueError that says how to install it where it is not."""
    try:
        import optuna
    except ImportError:
        raise UserError("tuning needs Optuna: pip install 'surefoot[tune]'") from None
    return optuna
