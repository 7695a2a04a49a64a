"""The run folder: what a run leaves on disk, and how it is read back. JSON, TOML, safetensors only."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from filelock import FileLock

from surefoot.agent.saved import DESCRIPTION, WEIGHTS
from surefoot.config import Config, from_mapping
from surefoot.config_file import parse_toml, to_toml
from surefoot.errors import UserError, near_matches
from surefoot.files import (
    check_writable,
    contents,
    hold,
    new_folder,
    remove_staging,
    write_bytes,
    write_json,
    write_text,
)
from surefoot.machine import platform_info
from surefoot.reading import MOST_LINE, few, read_json, read_json_lines, read_text
from surefoot.training import Hook, Run, TrainState

CONFIG, META, METRICS, REPLACED = "config.toml", "meta.json", "metrics.jsonl", "replaced"
_PASSWORD = re.compile(r"(://[^\s/:@]*):[^\s/@]+@")  # of a database's address


def default_run_dir(task: str, seed: int) -> Path:
    """`runs/TASK-seedS-DATE-TIME`, with characters that no file system objects to."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", task)
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{safe}-seed{seed}-{now}"


@dataclass(frozen=True)
class GoesOn:
    """Where a run goes on.

    Attributes:
        step: its step there.
        later: what is of later steps, each in one piece: checkpoints, best policies, videos; newest first of
            each kind.
        policy_is_later: whether the folder's policy is.
        facts: what else is known of it, for meta.json.
    """

    step: int
    later: Sequence[Path]
    policy_is_later: bool
    facts: Mapping[str, Any]


class RunFolder(Hook):
    """Makes the folder of a run, or finds it again, and holds it for this process alone.

    What is written is true of what is there, at every moment:

    - A new run writes config.toml, without which it is none, then meta.json.
    - A run that goes on is recorded in meta.json; then what is of later steps makes room: checkpoints and
      best policies, newest first, then lines of metrics, then the policy; then config.toml says what is
      trained now.
    - An iteration writes its line of metrics, then the policy if its evaluation is the best so far, then its
      checkpoint. What was the best before goes last.
    - The end writes the checkpoint, then the policy.

    So a checkpoint, and a best policy, has all lines before it, wherever a run is cut off; the best policy
    until a checkpoint is there as long as it is; and nothing takes the place of what has more steps.

    Args:
        path: the folder.
        goes_on: where the run goes on; None: it is new.
        lock: on the folder, where it is held already.
        facts: what else is known of the run, for meta.json.

    Raises:
        ValueError: a new run's folder holds files already (nothing is ever overwritten), or cannot be
            written.
    """

    def __init__(
        self,
        path: Path,
        *,
        goes_on: GoesOn | None = None,
        lock: FileLock | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.goes_on, self._lock, self._facts = path, goes_on, lock, facts or {}
        if goes_on is None:
            _check_usable(path)

    def on_start(self, run: Run) -> None:
        """Write config.toml and meta.json; put aside what is of later steps than the run begins at."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = self._lock or hold(self.path, doing="training")
        command = [Path(sys.argv[0]).name, *sys.argv[1:]]
        now = describe(command, seed=run.config.seed, task=run.task, **self._facts)
        config = to_toml(run.config, task=run.task)
        if self.goes_on is None:
            _check_usable(self.path)  # another process may have been quicker
            remove_staging(self.path)
            write_text(self.path / CONFIG, config)
            write_json(self.path / META, now)
            return
        first = self._first(run)
        before = first.get("resumed", [])
        before = before if isinstance(before, list) else [before]
        now = {**(first or now), "resumed": [*before, {**now, **self.goes_on.facts}]}
        write_json(self.path / META, now)
        remove_staging(self.path)
        for text in put_aside(self.path, self.goes_on):
            run.log(text)
        write_text(self.path / CONFIG, config)

    def _first(self, run: Run) -> dict[str, Any]:
        """What meta.json says; nothing where it is not there, or damaged: it is for readers alone."""
        file = self.path / META
        try:
            return read_json(file) if file.exists() else {}
        except UserError as error:
            (self.path / REPLACED).mkdir(exist_ok=True)
            aside = new_folder(self.path / REPLACED / "damaged") / META
            file.replace(aside)
            run.log(f"{error}; it is in {aside} now")
            return {}

    def on_end(self, state: TrainState, policy: Any, *, finished: bool) -> None:
        """Let others at the folder."""
        assert self._lock is not None
        self._lock.release()


def put_aside(folder: Path, goes_on: GoesOn) -> list[str]:
    """Move what is of later steps than a run goes on from into `replaced/after-STEP/`, a run folder too.

    Damaged lines of metrics go there with it. Nothing is deleted: what is not moved in one piece is written
    there before it goes here.

    Returns:
        What is there now, in words, where it is more than lines of later steps or half a line at the end.
    """
    metrics = folder / METRICS
    kept, others, faults = _split(metrics, goes_on.step) if metrics.is_file() else (b"", b"", [])
    if not others and not goes_on.later and not goes_on.policy_is_later:
        if metrics.is_file() and metrics.stat().st_size != len(kept):  # its last line had no end
            write_bytes(metrics, kept)
        return []
    (folder / REPLACED).mkdir(exist_ok=True)
    aside = new_folder(folder / REPLACED / f"after-{goes_on.step}")
    write_bytes(aside / CONFIG, (folder / CONFIG).read_bytes())
    for path in goes_on.later:
        (aside / path.parent.name).mkdir(exist_ok=True)
        path.replace(aside / path.parent.name / path.name)
    if others:
        write_bytes(aside / METRICS, others)
        write_bytes(metrics, kept)
    if goes_on.policy_is_later:
        files = [folder / name for name in (DESCRIPTION, WEIGHTS) if (folder / name).exists()]
        for file in files:
            write_bytes(aside / file.name, file.read_bytes())
        for file in files:
            file.unlink()
    kinds = [path.parent.name for path in goes_on.later]
    names = {"checkpoints": "checkpoint(s)", "best": "best so far", "videos": "video(s)"}
    moved = [f"{kinds.count(kind)} {name}" for kind, name in names.items() if kind in kinds]
    moved += ["the policy"] if goes_on.policy_is_later else []
    words = [f"of later steps: {' and '.join(moved)}, in {aside} now"] if moved else []
    return [*(f"{fault}; it is in {aside} now" for fault in few(faults)), *words]


def _split(metrics: Path, step: int) -> tuple[bytes, bytes, list[str]]:
    """Iterations up to a step; what else there is; what is wrong there, but for half a line at the end."""
    lines = list(read_json_lines(metrics, _check_row))
    kept = [x.raw for x in lines if x.value is not None and x.value["step"] <= step]
    others = [x.raw for x in lines if x.value is None or x.value["step"] > step]
    is_half = lines and not lines[-1].raw.endswith(b"\n")
    faults = [x.fault for x in (lines[:-1] if is_half else lines) if x.fault]
    return _whole(kept), _whole(others), faults


def _whole(lines: list[bytes]) -> bytes:
    """With the end of the last line that a kill or an editor left out."""
    content = b"".join(lines)
    return content if content.endswith(b"\n") or not content else content + b"\n"


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


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The iterations of a run, and which lines of the file are none.

    Returns:
        A mapping for each iteration, whose `step`, `iteration` and `wall_time_s` are numbers and the
        others numbers or None; and a sentence with file and line for each line that is left out.

    Raises:
        ValueError: the file cannot be read.
    """
    return read_more_metrics(path, to_the_end=True)[1:]


def read_more_metrics(
    path: Path, *, after: tuple[int, int] = (0, 0), to_the_end: bool = False
) -> tuple[tuple[int, int], list[dict[str, Any]], list[str]]:
    """What has come to a run's metrics, see `read_metrics`.

    Args:
        path: the file.
        after: bytes and lines that were read before.
        to_the_end: read a last line without an end too, which a run that trains may just be writing.

    Returns:
        Bytes and lines that are read now, the iterations, and what is wrong with other lines.

    Raises:
        ValueError: the file cannot be read.
    """
    (size, number), rows, faults = after, [], []
    for line in read_json_lines(path, _check_row, after=after):
        has_end = line.raw.endswith(b"\n")
        if not has_end and not to_the_end and len(line.raw) < MOST_LINE:
            break
        size, number = size + len(line.raw), number + has_end
        rows += [line.value] if line.value is not None else []
        faults += [line.fault] if line.fault else []
    return (size, number), rows, faults


def _check_row(row: Mapping[str, Any]) -> None:
    for name in ("step", "iteration"):
        if type(row.get(name)) is not int or row[name] < 0:
            raise ValueError(f"its {name} is {row.get(name)!r}")
    odd = [name for name, value in row.items() if type(value) not in (int, float, type(None))]
    if odd or row.get("wall_time_s") is None:
        name = odd[0] if odd else "wall_time_s"
        raise ValueError(f"its {name} is {row.get(name)!r}, no number")


def describe(command: list[str], **facts: Any) -> dict[str, Any]:
    """Versions, hardware and source of a run, as they go into meta.json; passwords of addresses do not."""
    return {
        **facts,
        "command": [_PASSWORD.sub(r"\1:***@", word) for word in command],
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
