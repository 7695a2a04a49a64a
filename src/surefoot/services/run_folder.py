"""The run folder: what a run leaves on disk, and how it is read back. JSON, TOML, safetensors only."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from filelock import FileLock

from surefoot.config import Config, from_mapping
from surefoot.config_file import parse_toml, to_toml
from surefoot.errors import UserError, near_matches
from surefoot.files import (
    check_writable,
    contents,
    hold,
    next_number,
    remove_staging,
    write_json,
    write_text,
)
from surefoot.machine import platform_info
from surefoot.reading import read_json, read_text
from surefoot.training import Hook, Run, TrainState

CONFIG, META, METRICS = "config.toml", "meta.json", "metrics.jsonl"
_DAMAGED = "meta-damaged"


def default_run_dir(task: str, seed: int) -> Path:
    """`runs/TASK-seedS-DATE-TIME`, with characters that no file system objects to."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", task)
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{safe}-seed{seed}-{now}"


class RunFolder(Hook):
    """Makes the folder of a run, or finds it again, and holds it for this process alone.

    Args:
        path: the folder.
        resumes: what is known of a run that goes on, for meta.json; None: the run is new.

    Raises:
        ValueError: a new run's folder holds files already (nothing is ever overwritten), or cannot be
            written.
    """

    def __init__(self, path: Path, *, resumes: Mapping[str, Any] | None = None) -> None:
        self.path, self.resumes = path, resumes
        self._lock: FileLock | None = None
        if resumes is None:
            _check_usable(path)

    def on_start(self, run: Run) -> None:
        """Write config.toml and meta.json."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = hold(self.path, doing="training")
        if self.resumes is None:
            _check_usable(self.path)  # another process may have been quicker
        remove_staging(self.path)
        write_text(self.path / CONFIG, to_toml(run.config, task=run.task))
        command = [Path(sys.argv[0]).name, *sys.argv[1:]]
        now = describe(command, seed=run.config.seed, task=run.task)
        file = self.path / META
        if self.resumes is not None and file.exists():
            try:
                first = read_json(file)
            except UserError as error:  # it is for readers; the run needs nothing of it
                number = next_number(self.path, _DAMAGED)
                file.replace(aside := self.path / f"{_DAMAGED}-{number}")
                run.log(f"{error}; it is in {aside} now")
                first = {}
            before = first.get("resumed", [])
            before = before if isinstance(before, list) else [before]
            now = {**(first or now), "resumed": [*before, {**now, **self.resumes}]}
        write_json(file, now)

    def on_end(self, state: TrainState, policy: Any, *, finished: bool) -> None:
        """Let others at the folder."""
        assert self._lock is not None
        self._lock.release()


def _check_usable(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise UserError(f"run folder {str(path)!r} is a file; choose another --run-dir")
    if held := contents(path):
        what = "a run" if CONFIG in held else f"{len(held)} file(s), such as {held[0]!r}"
        raise UserError(
            f"run folder {str(path)!r} is in use: it holds {what}. Choose another --run-dir, go on "
            f"with it (surefoot resume {path}), or remove it if you no longer need it"
        )
    check_writable(path, what="run folder")


def read_config(path: Path) -> tuple[str, Config]:
    """Task and options of a run.

    Raises:
        ValueError: the folder holds no run, or its config is damaged.
    """
    file = path / CONFIG
    if not file.is_file():
        beside = [p for p in sorted(path.parent.glob("*")) if p.is_dir()]
        runs = [p.name for p in beside if (p / CONFIG).is_file()]
        have = f"; runs in {str(path.parent)!r}: {', '.join(runs[-5:])}" if runs else ""
        why, near = f"it has no {CONFIG}", ""
        if not path.exists():
            why, near = "it does not exist", near_matches(path.name, [p.name for p in beside])
        raise UserError(f"{str(path)!r} is not a run folder ({why}){near}{have}")
    options = parse_toml(read_text(file), where=str(file))
    task = options.pop("task", None)
    if not isinstance(task, str):
        raise UserError(f"{file}: the entry `task` is missing")
    return task, from_mapping(options)


def describe(command: list[str], **facts: Any) -> dict[str, Any]:
    """Versions, hardware and source of a run, as they go into meta.json."""
    return {
        **facts,
        "command": command,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **platform_info(),
        "devices": [str(device) for device in jax.devices()],
        "git": _git(),
    }


def _git() -> dict[str, Any] | None:
    """Commit and cleanliness of the checkout the user works in; None outside one."""

    def ask(*args: str) -> str | None:
        try:
            answer = subprocess.run(
                ["git", *args], capture_output=True, text=True, timeout=5, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout.strip()

    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return None
    status = ask("status", "--porcelain", "-uno")
    return {"commit": commit, "clean": None if status is None else status == ""}
