"""What this process may use of the machine, and what it is. Imports the standard library alone."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_LIBRARIES = ("surefoot", "jax", "jaxlib", "equinox", "optax", "numpy", "envpool", "gymnasium")
_LIBRARIES += ("mujoco", "gymnax", "safetensors")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "QUOTA PERIOD" in microseconds, or "max PERIOD"


def usable_cores() -> int:
    """Cores that this process may run on: its affinity (`taskset`), within a container's quota."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return int(min(cores, _quota()))


def platform_info() -> dict[str, Any]:
    """Versions and hardware on which the last bits of a run depend."""
    return {
        "versions": {name: _version(name) for name in _LIBRARIES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": usable_cores(),
    }


def user_path(path: str | Path) -> Path:
    """A path of the user's, `~` being the home folder; as it is where there is no such home."""
    with contextlib.suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    with contextlib.suppress(OSError):  # no such file, or not to be read
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"model name\s*:\s*(.+)", text):
            return found.group(1)
    return platform.processor()


def _quota() -> float:
    try:
        quota, period = _CPU_QUOTA.read_text().split()
        return max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or no limit
        return math.inf
