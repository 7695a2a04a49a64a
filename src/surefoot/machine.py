"""What this process may use of the machine. Imports the standard library alone."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "QUOTA PERIOD" in microseconds, or "max PERIOD"


def usable_cores() -> int:
    """Cores that this process may run on: its affinity (`taskset`), within a container's quota."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return int(min(cores, _quota()))


def _quota() -> float:
    try:
        quota, period = _CPU_QUOTA.read_text().split()
        return max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no such file, or no limit
        return math.inf
