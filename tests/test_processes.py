"""How long processes are waited for that have stepped back."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from surefoot import processes
from surefoot.processes import Patience, starved_s


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_process_waits_for_a_core_is_known() -> None:
    words = ["taskset", "-c", "0", sys.executable, "-c", "while True: pass"]
    both = [subprocess.Popen(words) for _ in range(2)]
    try:
        while starved_s(both[0].pid) < 0.2:
            time.sleep(0.05)
    finally:
        for process in both:
            process.kill()
            process.wait()
    assert starved_s(both[0].pid) == 0.0  # it is gone


@pytest.mark.parametrize(
    ("share", "over_after"),
    [
        (0.0, 30.0),  # it has a core all the time
        (0.5, 60.0),
        (0.99, 300.0),  # ten times as long, however little it gets
        (1.0, 300.0),
    ],
)
def test_time_without_a_core_does_not_count_for_long(
    share: float, over_after: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(processes.time, "monotonic", lambda: now)
    monkeypatch.setattr(processes, "starved_s", lambda _: 7.0 + share * (now - 1000.0))
    patience = Patience(1, 30.0)
    now = 1000.0 + over_after - 0.1
    assert not patience.is_over()
    now = 1000.0 + over_after + 0.1
    assert patience.is_over()
