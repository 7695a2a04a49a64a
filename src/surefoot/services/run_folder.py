"""The run folder: what a run leaves on disk, and how it is read back. JSON, TOML, safetensors only."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from surefoot.config import Config, UserError, from_mapping, parse_toml, to_toml
from surefoot.machine import usable_cores
from surefoot.training import Hook, Run

CONFIG, META, METRICS = "config.toml", "meta.json", "metrics.jsonl"
_LIBRARIES = ("surefoot", "jax", "jaxlib", "equinox", "optax", "numpy", "envpool", "gymnasium")
_LIBRARIES += ("mujoco", "gymnax", "safetensors")


def default_run_dir(task: str, seed: int) -> Path:
    """`runs/TASK-seedS-DATE-TIME`, with characters that no file system objects to."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", task)
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{safe}-seed{seed}-{now}"


class RunFolder(Hook):
    """Makes the folder of a new run and writes its options and circumstances.

    Args:
        path: the folder.

    Raises:
        ValueError: it holds files already (nothing is ever overwritten), or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_usable(path)

    def on_start(self, run: Run) -> None:
        """Write config.toml and meta.json."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = to_toml(run.config, task=run.task)
        try:
            with (self.path / CONFIG).open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:  # another process was quicker
            _check_usable(self.path)
            raise
        command = [Path(sys.argv[0]).name, *sys.argv[1:]]
        write_json(self.path / META, describe(command, seed=run.config.seed, task=run.task))


def _check_usable(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise UserError(f"run folder {str(path)!r} is a file; choose another --run-dir")
    if path.is_dir() and (held := sorted(entry.name for entry in path.iterdir())):
        what = "a run" if CONFIG in held else f"{len(held)} file(s), such as {held[0]!r}"
        raise UserError(
            f"run folder {str(path)!r} is in use: it holds {what}. Choose another --run-dir, or "
            "remove it if you no longer need it"
        )
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise UserError(f"run folder {str(path)!r} cannot be made: {str(existing)!r} is a file")
    if not os.access(existing, os.W_OK):
        raise UserError(f"run folder {str(path)!r} cannot be made: {existing} is not writable")


def read_config(path: Path) -> tuple[str, Config]:
    """Task and options of a run.

    Raises:
        ValueError: the folder holds no run, or its config is damaged.
    """
    file = path / CONFIG
    if not file.is_file():
        near = [p.name for p in sorted(path.parent.glob("*")) if (p / CONFIG).is_file()]
        have = f"; runs in {str(path.parent)!r}: {', '.join(near[-5:])}" if near else ""
        raise UserError(f"{str(path)!r} is not a run folder (it has no {CONFIG}){have}")
    options = parse_toml(file.read_text(encoding="utf-8"), where=str(file))
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
        "versions": {name: _version(name) for name in _LIBRARIES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": usable_cores(),
        "devices": [str(device) for device in jax.devices()],
        "git": _git(),
    }


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON as `write_text` does; numbers must be finite."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader, or a power cut, finds the old one or the new one, never half."""
    staging = path.with_name(path.name + ".tmp")
    with staging.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(path)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        if found:
            return found.group(1)
    return platform.processor()


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
