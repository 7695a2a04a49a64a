"""What the user reads: plain lines without a terminal, a table on one."""

from __future__ import annotations

import io

import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from tests.helpers import PROBE, TINY

from surefoot.services.console import ConsoleProgress, curve
from surefoot.terminal import PlainConsole
from surefoot.training import train


def shown(*, terminal: bool, task: object = PROBE) -> str:
    out = io.StringIO()
    console = PlainConsole(file=out, force_terminal=terminal, width=100, color_system=None)
    train(task, TINY, hooks=[ConsoleProgress(console, every_s=0.0)])
    return out.getvalue()


def test_plain_lines_tell_progress_and_learning() -> None:
    lines = shown(terminal=False).splitlines()
    assert f"{PROBE}: 1 observation, continuous actions" in lines[0]
    last = lines[-1]
    for word in ("steps/s", "left 0:00", "episode return 100.00", "KL 0.", "explained variance"):
        assert word in last, last
    assert "(100%)" in last


def test_a_terminal_gets_a_table() -> None:
    text = shown(terminal=True)
    assert "progress" in text
    assert "━" in text
    assert "▁" in text  # the curve of the return
    for word in ("time left", "steps/s", "clip fraction", "entropy", "std", "learning rate"):
        assert word in text


@pytest.mark.parametrize("terminal", [False, True])
def test_a_name_is_shown_as_it_is(terminal: bool) -> None:
    ant = type("Ant: [red]\x1b[2J", (CartPoleEnv,), {})
    text = shown(terminal=terminal, task=ant)
    assert text.count("python:Ant: [red]?[2J") >= 1 + terminal  # its line, and its table
    assert "\x1b[2J" not in text


def test_success_is_shown_where_the_task_reports_it() -> None:
    progress = ConsoleProgress(PlainConsole(file=io.StringIO()))
    progress._seen = {
        "step": 1,
        "wall_time_s": 1.0,
        "time/env_steps_per_second": 1.0,
        "rollout/success_rate": 0.25,
    }
    progress._run = type("Run", (), {"config": TINY, "task": "t"})()
    assert "success 25%" in progress._line()


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_shown_before_a_mistake_does_not_stay(terminal: bool) -> None:
    out = io.StringIO()
    console = PlainConsole(file=out, force_terminal=terminal, width=100, color_system=None)
    with ConsoleProgress(console, "Making [red]4 environments..."):
        shown_so_far = out.getvalue()
    assert ("Making [red]4" in shown_so_far) == terminal
    # the line is erased, and the cursor shown again
    after = out.getvalue().removeprefix(shown_so_far)
    assert after.rstrip("\n").endswith("\x1b[2K") == terminal
    assert ("\x1b[?25h" in after) == terminal


def test_before_the_first_step_of_experience_nobody_knows_what_is_left() -> None:
    progress = ConsoleProgress(PlainConsole(file=io.StringIO()))
    progress._seen = {"step": 0, "wall_time_s": 1.0, "time/env_steps_per_second": 0.0}
    progress._run = type("Run", (), {"config": TINY, "task": "t"})()
    assert "steps 0 / 300 (0%)  0 steps/s  left ?" in progress._line()


def test_the_curve_is_as_wide_as_its_share_of_the_run_and_as_high_as_its_values() -> None:
    points = [(25, 0.0), (30, 0.0), (50, 7.0), (55, 7.0), (99, 3.0), (100, 3.0)]
    assert curve(points, 100, 4) == " ▁█▄ 0 to 7"
    assert curve(points[:2], 100, 8) == "  ▁ 0 to 0"


def test_a_terminal_of_few_characters_gets_no_curve_and_80_columns_are_enough() -> None:
    def lines(encoding: str) -> list[str]:
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        console = PlainConsole(file=out, force_terminal=True, width=80, color_system=None)
        progress = ConsoleProgress(console)
        progress._run = type("Run", (), {"config": TINY, "task": "t"})()
        progress._seen = {"step": 150, "wall_time_s": 1.0, "time/env_steps_per_second": 1.0}
        progress._returns = [(0, -123456.7), (150, -12345.6)]
        console.print(progress._table())
        out.seek(0)
        return out.read().splitlines()

    (shown,) = [line for line in lines("utf-8") if "-1.235e+05 to -1.235e+04" in line]
    assert len(shown) <= 80
    assert not any("to -1.235e+04" in line for line in lines("ascii"))
