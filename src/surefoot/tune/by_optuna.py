"""The record of trials (extra `tune`): Optuna chooses options, prunes, and says what mattered.

What is recorded are lines of JSON in the folder, or rows of a database; no pickle.
"""

from __future__ import annotations

import threading
import uuid
import warnings
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from surefoot.config import Config
from surefoot.errors import UserError
from surefoot.reading import read_json_lines
from surefoot.study.statistics import LEVEL, Interval
from surefoot.tune.plan import TRIALS, Trial, Tuning
from surefoot.tune.space import Choices, Range, contains

JOURNAL = "journal.jsonl"
PROCESSES = "processes"
_STARTUP = 5  # trials that come to their end before any is pruned
_MOST_REFUSED = 50  # in a row
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

    Raises:
        ValueError: Optuna is not installed, or the database cannot be opened.
    """

    def __init__(self, tuning: Tuning, path: Path, trials: int, url: str | None = None) -> None:
        self._optuna = import_optuna()
        self._tuning, self._path, self._most = tuning, path, trials
        self._choices = {
            name: part.by_name() for name, part in tuning.space.items() if isinstance(part, Choices)
        }
        self._distributions = {name: self._distribution(name) for name in tuning.space}
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
        """A trial to do, its options in agreement; None where there are as many as there are to be, or
        where one has a score that no other can exceed.

        What a process that is gone has left is put back first. A trial's options follow from the
        sampler's seed, its number, and what was known when it began.

        Raises:
            ValueError: options of the space hardly ever go together.
        """
        optuna, reason = self._optuna, ""
        for _ in range(_MOST_REFUSED):
            with self._turn:
                self._put_back_orphans()
                known = self._study.get_trials(deepcopy=False)
                if not known and contains(self._tuning.space, self._tuning.base):
                    self._study.enqueue_trial(self._to_record(self._tuning.base))
                if sum(map(self._counts, known)) >= self._most or any(map(self._is_highest, known)):
                    return None
                seeds = np.random.SeedSequence([self._tuning.sampler_seed, len(known)])
                seed = int(seeds.generate_state(1)[0])
                self._study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
                asked = self._study.ask(self._distributions)
                asked.set_user_attr(_BY, self._me)
            self._asked[asked.number] = asked
            trial = self._read(self._frozen(asked.number))
            try:
                self._tuning.config(trial.options)
            except UserError as error:
                reason = str(error)
                self.end(trial, "refused", reason)
                continue
            return trial
        raise UserError(f"{_MOST_REFUSED} trials in a row were refused, the last as {reason}")

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
        return [self._read(frozen) for frozen in self._study.get_trials(deepcopy=False)]

    def importance(self) -> dict[str, Interval]:
        """What each option has to do with being among the best quarter, as shares of one.

        PED-ANOVA (arXiv 2304.10255) over trials that came to their end: the mean and the 95% percentile
        interval over bootstrap resamples of them. Empty where they are too few or all alike.
        """
        optuna = self._optuna
        done = [t for t in self._study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
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
                study_name=f"{self._tuning.task} {digest}",
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(
                    n_startup_trials=_STARTUP, n_warmup_steps=self._tuning.evaluations // 4
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
        return study

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

    def _frozen(self, number: int) -> Any:
        return self._study.get_trials(deepcopy=False)[number]

    def _put_back_orphans(self) -> None:
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.state.name == "RUNNING" and not self._is_alive(frozen.user_attrs.get(_BY)):
                self._put_back(frozen)

    def _put_back(self, frozen: Any) -> None:
        chosen = {**frozen.system_attrs.get("fixed_params", {}), **frozen.params}
        if chosen:  # first, so that nothing is lost between the two
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

    def _counts(self, frozen: Any) -> bool:
        """Whether it is one of the trials that were asked for, and not put back or refused."""
        if frozen.state.name == "WAITING":
            return False
        return frozen.state.name != "FAIL" and frozen.user_attrs.get(_KIND) != "refused"

    def _is_highest(self, frozen: Any) -> bool:
        return frozen.state.name == "COMPLETE" and frozen.value >= self._tuning.highest

    def _to_record(self, config: Config) -> dict[str, Any]:
        return {
            name: getattr(config, name)
            if isinstance(part, Range)
            else next(k for k, v in self._choices[name].items() if v == getattr(config, name))
            for name, part in self._tuning.space.items()
        }

    def _read(self, frozen: Any) -> Trial:
        names = {"COMPLETE": "complete", "RUNNING": "running", "WAITING": "waiting"}
        state = names.get(frozen.state.name, "interrupted")
        if frozen.state.name == "PRUNED":
            state = frozen.user_attrs.get(_KIND, "pruned")
        params: Mapping[str, Any] = frozen.params
        return Trial(
            number=frozen.number,
            options={
                name: self._choices[name][params[name]] if name in self._choices else params[name]
                for name in self._tuning.space
                if name in params
            },
            state=state,
            score=frozen.value,
            reason=frozen.user_attrs.get(_REASON, ""),
            folder=_folder_of(frozen),
            seconds=frozen.duration.total_seconds() if frozen.duration else None,
        )


def _folder_of(frozen: Any) -> str:
    return frozen.user_attrs.get(_FOLDER, f"{TRIALS}/{frozen.number}")


def import_optuna() -> Any:
    """Optuna; ValueError that says how to install it where it is not."""
    try:
        import optuna
    except ImportError:
        raise UserError("tuning needs Optuna: pip install 'surefoot[tune]'") from None
    return optuna
