"""metrics.jsonl where the disk is full now and then: whole lines, in order, and none lost that fits."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from surefoot.services.metrics_file import MetricsFile


class SmallDisk:
    """A file that takes so many bytes and no more."""

    def __init__(self, file: Any) -> None:
        self.file, self.room = file, 0

    def write(self, content: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(content[: self.room])
        self.room -= written
        return written

    def close(self) -> None:
        self.file.close()


@pytest.mark.parametrize("more", [0, 1000])
def test_lines_wait_for_room_and_no_half_line_is_left(tmp_path: Path, more: int) -> None:
    said: list[str] = []
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.on_start(SimpleNamespace(log=said.append))  # type: ignore[arg-type]
    disk = metrics._file = SmallDisk(metrics._file)
    state: Any = None
    disk.room = 30  # two lines and a half
    for step in range(10, 15):
        metrics.on_iteration(state, {"step": step})
    disk.room = more
    metrics.on_end(state, None, finished=True)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == ([10, 11, 12, 13, 14] if more else [10, 11])
    assert said[0].endswith("(No space left on device); training goes on, its lines wait")
    assert len(said) == (1 if more else 2)
    if not more:
        assert "the last 3 line(s) of" in said[1]


def test_lines_are_put_on_the_disk_when_they_must_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics, synced = MetricsFile(tmp_path / "metrics.jsonl"), []

    def fsync(handle: int) -> None:
        synced.append((os.fstat(handle).st_ino, (tmp_path / "metrics.jsonl").read_bytes()))
        raise OSError(errno.EIO, "as some file systems do")

    metrics.on_start(SimpleNamespace(log=None))  # type: ignore[arg-type]
    metrics.on_iteration(None, {"step": 1})  # type: ignore[arg-type]
    monkeypatch.setattr(os, "fsync", fsync)
    metrics.sync()
    assert synced == [((tmp_path / "metrics.jsonl").stat().st_ino, b'{"step": 1}\n')]
    metrics.on_end(None, None, finished=True)  # type: ignore[arg-type]
