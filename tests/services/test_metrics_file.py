"""metrics.jsonl where the disk is full now and then, or lines are damaged: none is lost, each stays one."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.services.metrics_file import REPLACED, MetricsFile, read_metrics


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


def row(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "iteration": step // 10, "wall_time_s": step / 7, **more}


DAMAGED = [b"", b"{", b"[1]", b"null", b'{"step": 3}', b"\xff\x00", b'{"step": NaN}', b"9" * 5000]
DAMAGED += [
    json.dumps(row(7) | change).encode()
    for change in (
        *({"step": x} for x in ("7", 7.0, -1, True, None, [7])),
        *({"iteration": x} for x in (None, 0.5)),
        *({"wall_time_s": x} for x in (None, "1")),
        *({"policy/entropy": x} for x in ("0.1", True, [], {})),
    )
]
LINES = st.integers(0, 99).map(lambda step: json.dumps(row(step, a=None)).encode())


@given(
    lines=st.lists(LINES | st.sampled_from(DAMAGED), max_size=8),
    ends=st.booleans(),
    before=st.sampled_from([None, b"", b"{}\n", b"half a li"]),
    after=st.integers(0, 99),
)
def test_a_run_that_goes_on_keeps_every_line_and_each_stays_one(
    lines: list[bytes],
    ends: bool,
    before: bytes | None,
    after: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n" * (ends and bool(lines)))
    if before is not None:
        path.with_name(REPLACED).write_bytes(before)
    sound = [json.loads(line) for line in lines if line not in DAMAGED]
    found, faults = read_metrics(path)
    assert found == sound
    torn = not ends and lines and lines[-1] in DAMAGED and lines[-1]
    whole = lines[: -1 if torn or (not ends and lines and not lines[-1]) else None]
    wrong = [n for n, line in enumerate(lines, 1) if line in DAMAGED]
    if not ends and lines and not lines[-1]:
        wrong = wrong[:-1]  # nothing is behind the end of the last line
    assert [f"line {n} is damaged" in x for n, x in zip(wrong, faults, strict=True)] == [
        True
    ] * len(wrong)

    said: list[str] = []
    metrics = MetricsFile(path, after=after)
    metrics.on_start(SimpleNamespace(log=said.append))  # type: ignore[arg-type]
    metrics.on_iteration(None, row(100))  # type: ignore[arg-type]
    metrics.on_end(None, None, finished=True)  # type: ignore[arg-type]
    assert read_metrics(path) == ([x for x in sound if x["step"] <= after] + [row(100)], [])
    aside = path.with_name(REPLACED)
    beside = aside.read_bytes().split(b"\n") if aside.exists() else []
    expected = [x for x in whole if x in DAMAGED or json.loads(x)["step"] > after]
    assert beside == (
        [*([before.removesuffix(b"\n")] if before else []), *expected, b""]
        if expected
        else (before.split(b"\n") if before is not None else [])
    )
    assert len(said) == len([x for x in whole if x in DAMAGED])
    assert all(x.endswith("it is in metrics-replaced.jsonl now") for x in said)
