"""What is printed is shown as it is: no markup, no emoji, nothing that a terminal obeys."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from surefoot.terminal import PlainConsole, say

TRICKS = "[red]mine:Ant:[/] \x1b[2J\x1b]0;title\x07 \x9b31m a\rb \u202etxt.exe \udcff [/nothing]"
SHOWN = "[red]mine:Ant:[/] ?[2J?]0;title? ?31m a?b ?txt.exe ? [/nothing]"


def test_a_name_is_printed_as_it_is_and_never_obeyed(capsys: pytest.CaptureFixture) -> None:
    say(TRICKS)
    say(TRICKS, stderr=True)
    assert capsys.readouterr() == (SHOWN + "\n", SHOWN + "\n")


def test_a_cell_is_too() -> None:
    table = Table(TRICKS, title=TRICKS, caption=TRICKS)
    table.add_row(TRICKS)
    out = io.StringIO()
    PlainConsole(file=out, force_terminal=True, width=200, color_system=None).print(table)
    assert out.getvalue().count(SHOWN) == 4
    assert "\x1b" not in out.getvalue()


def test_lines_stay_whole_and_apart(capsys: pytest.CaptureFixture) -> None:
    text = "\n  runs/" + "long " * 200 + "\r\n\nnext  "
    say(text)
    assert capsys.readouterr().out == text.replace("\r", "") + "\n"


@given(st.text())
def test_no_text_writes_a_control_character(text: str) -> None:
    out = io.StringIO()
    PlainConsole(file=out, force_terminal=True, color_system="truecolor").print(text)
    assert all(c.isprintable() or ord(c) > 159 or c == "\n" for c in out.getvalue())


@pytest.mark.extended
@pytest.mark.skipif(sys.platform == "win32", reason="a pipe as POSIX has it")
def test_that_a_reader_has_left_is_no_failure() -> None:
    code = "from surefoot.cli.main import main\nraise SystemExit(main(['tasks']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) as process:
        process.stdout.close()
        assert "Error" not in process.stderr.read()
        assert process.wait() == 0
