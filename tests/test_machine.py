"""What the process may use of the machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from surefoot import machine


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_usable_cores_are_the_process_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5})
    monkeypatch.setattr(machine, "_CPU_QUOTA", Path("/does/not/exist"))
    assert machine.usable_cores() == 3


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 8), ("250000 100000", 3), ("5000 100000", 1)]
)
def test_a_container_s_quota_bounds_them(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(quota + "\n")
    monkeypatch.setattr(machine, "_CPU_QUOTA", file)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    if sys.platform == "linux":
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert machine.usable_cores() == cores
