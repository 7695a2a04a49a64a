"""A run as a page shows it: read within bounds, again and again, what is damaged said and left out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from surefoot.agent.saved import DESCRIPTION
from surefoot.config import Config, option_names
from surefoot.config_file import toml_value
from surefoot.errors import UserError
from surefoot.reading import read_json
from surefoot.services import crash_report
from surefoot.services.best import EVALUATION, evaluated_best
from surefoot.services.health import Watch
from surefoot.services.run_folder import CONFIG, META, METRICS, read_config, read_more_metrics
from surefoot.services.step_folders import CHECKPOINTS, by_step

VIDEOS = "videos"
_FAULTS = 20  # that are told of a run, each

T = TypeVar("T")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunView:
    """What a page shows of a run.

    Attributes:
        name: what the page calls it.
        path: its folder.
        task, config: what is trained; None where config.toml cannot be read.
        rows: an iteration each.
        facts: where it comes from.
        health: what the health rules have found, in words.
        checkpoints: steps of the checkpoints, newest first.
        best: step and mean return of the policy with the best evaluation.
        videos: its videos, newest first.
        ended: how it ended, in words; empty while it may still be training.
        failed: whether that was an error.
        updated: when its metrics were written last, in seconds since 1970; 0 if there are none.
        faults: what could not be read, with file and line.
    """

    name: str
    path: Path
    task: str | None = None
    config: Config | None = None
    rows: Sequence[Row] = ()
    facts: Mapping[str, str] | None = None
    health: Sequence[str] = ()
    checkpoints: Sequence[int] = ()
    best: tuple[int, float] | None = None
    videos: Sequence[Path] = ()
    ended: str = ""
    failed: bool = False
    updated: float = 0.0
    faults: Sequence[str] = ()


class RunReader:
    """Reads a run, and each time after that only what has come to it since.

    Args:
        path: the run folder.
        name: what the page calls it.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._kept: dict[Path, tuple[Any, Any]] = {}
        self._faults: list[str] = []
        self._metrics: _Metrics | None = None

    def read(self, *, to_the_end: bool = False) -> RunView:
        """The run as it is now; `to_the_end`: a last line of metrics without an end too."""
        path, self._faults = self._path, []
        view = RunView(self._name, path)
        task, config = self._read(path / CONFIG, lambda _: read_config(path)) or (None, None)
        facts = None
        if (path / META).exists():
            facts = self._read(path / META, lambda file: facts_of(read_json(file)))
        metrics = self._rows(config, to_the_end)
        best, folder = None, evaluated_best(path)
        if folder is not None:
            best = self._read(folder / EVALUATION, lambda file: _best(read_json(file)))
        ended, failed = self._end(config, metrics.rows)
        return replace(
            view,
            task=task,
            config=config,
            rows=metrics.rows,
            facts=facts,
            health=metrics.health,
            checkpoints=[step for step, _ in by_step(path / CHECKPOINTS)],
            best=best,
            videos=videos_of(path),
            ended=ended,
            failed=failed,
            updated=metrics.updated,
            faults=[*metrics.faults, *self._faults][:_FAULTS],
        )

    def _read(self, file: Path, read: Callable[[Path], T]) -> T | None:
        """What a file holds, read again only if it has changed; a fault is kept in mind."""
        try:
            now = _stamp(file)
            before, value = self._kept.get(file, (None, None))
            if now is None or now != before:
                value = read(file)
                self._kept[file] = now, value
            return value
        except UserError as error:
            said = str(error)
            self._faults.append(said if file.name in said else f"{file}: {said}")
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            self._faults.append(f"{file} is not as Surefoot writes it: {error!r}")
        return None

    def _rows(self, config: Config | None, to_the_end: bool) -> _Metrics:
        file = self._path / METRICS
        if (
            self._metrics is None
            or self._metrics.config != config
            or not self._metrics.goes_on(file)
        ):
            self._metrics = _Metrics(config)
        try:
            self._metrics.read(file, to_the_end)
        except UserError as error:
            self._faults.append(str(error))
        return self._metrics

    def _end(self, config: Config | None, rows: Sequence[Row]) -> tuple[str, bool]:
        """How the run ended, and whether that was an error; empty while it may be training."""
        crashes = sorted(
            self._path.glob(f"{crash_report.FOLDER}*/{crash_report.REPORT}"), key=changed
        )
        newest = changed(self._path / METRICS)
        if crashes and changed(crashes[-1]) >= newest:
            error = self._read(crashes[-1], lambda file: str(read_json(file)["error"]))
            return f"failed: {error or 'its crash report cannot be read'}", True
        if config and rows and rows[-1]["step"] >= config.total_steps:
            return "finished", False
        if changed(self._path / DESCRIPTION) >= newest > 0.0:
            return "stopped early", False
        return "", False


class _Metrics:
    """The lines of metrics so far, and what the health rules make of them."""

    def __init__(self, config: Config | None) -> None:
        self.config = config
        self.rows: list[Row] = []
        self.faults: list[str] = []
        self.health: list[str] = []
        self.updated = 0.0
        self._watch = Watch(config) if config else None
        self._found: set[str] = set()
        self._after = (0, 0)
        self._file: int | None = None

    def goes_on(self, file: Path) -> bool:
        """Whether the file is the one that was read so far, and no shorter: a resumed run writes it anew."""
        try:
            now = file.stat()
        except OSError:
            return self._file is None
        return self._file in (None, now.st_ino) and now.st_size >= self._after[0]

    def read(self, file: Path, to_the_end: bool) -> None:
        """Read what is new; of a last line without an end, what is to come is waited for."""
        if not file.exists():
            return
        self._file, self.updated = file.stat().st_ino, changed(file)
        self._after, rows, faults = read_more_metrics(
            file, after=self._after, to_the_end=to_the_end
        )
        self.rows += rows
        self.faults += faults
        for finding in (
            found for row in rows for found in (self._watch(row) if self._watch else ())
        ):
            if finding.rule.name not in self._found:
                self._found.add(finding.rule.name)
                self.health.append(f"iteration {finding.iteration}: {finding.text}")


def videos_of(run: Path) -> list[Path]:
    """The videos of a run, newest first."""
    found = [file for file in (run / VIDEOS).glob("*.mp4") if file.is_file()]
    return sorted(found, key=lambda file: (changed(file), file.name), reverse=True)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return (folder / CONFIG).is_file()


def changed(file: Path) -> float:
    """When a file was changed; 0 where it is not there."""
    with contextlib.suppress(OSError):
        return file.stat().st_mtime
    return 0.0


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """What changes with a file."""
    with contextlib.suppress(OSError):
        status = file.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns
    return None


def _best(evaluation: Mapping[str, Any]) -> tuple[int, float]:
    return int(evaluation["step"]), float(evaluation["eval/episode_return"])


def facts_of(meta: Mapping[str, Any]) -> dict[str, str]:
    """Where a study or a run comes from."""
    versions = ", ".join(
        f"{name} {version}" for name, version in meta["versions"].items() if version
    )
    git = meta.get("git") or {}
    return {
        "command": " ".join(meta["command"]),
        "versions": versions,
        "python": str(meta["python"]),
        "platform": str(meta["platform"]),
        "processor": f"{meta['processor']}, {meta['cores']} cores",
        "finished" if "study" in meta else "started": str(meta["started"]),
        "commit": f"{git['commit']}{'' if git['clean'] else ' with changes'}" if git else "none",
    }


def changed_options(views: Sequence[RunView]) -> list[list[str]]:
    """Options in which a run differs from the defaults: name, default, and what each run has."""
    rows = []
    for option in option_names():
        default = toml_value(getattr(Config(), option))
        values = [
            toml_value(getattr(view.config, option)) if view.config else "\N{EN DASH}"
            for view in views
        ]
        if any(value not in (default, "\N{EN DASH}") for value in values):
            rows.append([option, default, *values])
    return rows
