"""The machine is not as one would have it: no verb dies of a cache, home, name or reader that is gone."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import PROBE, few, flags

from surefoot.cli import main as command
from surefoot.cli.main import VERBS, keep_compiled_programs, main

pwd = pytest.importorskip("pwd")
pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="pipes, names and homes as POSIX has them"
)
NAMES = (
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_COMPILATION_CACHE_MAX_SIZE",
    "JAX_ENABLE_COMPILATION_CACHE",
)
NAMES += ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",)


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing said of JAX's cache, now and behind the test."""
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def a_file(home: Path) -> None:
    home.write_text("mine")


def a_loop(home: Path) -> None:
    home.symlink_to(home)


def a_file_further_in(home: Path) -> None:
    (home / "surefoot").mkdir(parents=True)
    (home / "surefoot" / "programs").write_text("mine")


@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize("kind", [a_file, a_loop, a_file_further_in])
def test_a_cache_folder_that_cannot_be_used_is_named_and_done_without(
    kind: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    kind(tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    keep_compiled_programs()
    said = capsys.readouterr().err
    folder = tmp_path / "cache" / "surefoot" / "programs"
    assert said.startswith(f"compiled programs are not kept ({folder}: ")
    assert said.count("\n") == 1
    assert os.environ["JAX_ENABLE_COMPILATION_CACHE"] == "false"


@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize("refused", ["mkdir", "iterdir", "open"])
def test_a_cache_folder_that_may_not_be_searched_or_written_is_too(
    refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Permissions say nothing to root, so that the system's answer is put into its place."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if refused == "open":
        monkeypatch.setattr(command.tempfile, "TemporaryFile", refuse)
    else:
        monkeypatch.setattr(Path, refused, refuse)
    keep_compiled_programs()
    assert ": Permission denied)" in capsys.readouterr().err


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user is a number that nobody has a name for."""

    def nobody(*_: Any) -> Any:
        raise KeyError("nobody")

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("getpwuid", "getpwnam"):
        monkeypatch.setattr(pwd, name, nobody)


@pytest.mark.usefixtures("no_cache", "no_home")
def test_without_a_home_nothing_is_written_into_a_folder_called_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    keep_compiled_programs()
    assert "(there is no home folder)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("home", ["~", "~nobody-is-called-so"])
@pytest.mark.parametrize(
    "words",
    [
        ["resume", "HOME/run"],
        ["eval", "HOME/run"],
        ["doctor", "HOME/run"],
        ["report", "HOME/run"],
        ["study", "HOME/mine.toml"],
        ["train", PROBE, "--config", "HOME/mine.toml"],
        ["train", "HOME/walk.py:Walk"],
        ["new-robot", "HOME/robot.xml"],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.usefixtures("no_home")
def test_a_tilde_that_stands_for_nobody_is_a_name_like_any_other(
    words: list[str], home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([word.replace("HOME", home) for word in words]) == 2
    assert home in capsys.readouterr().err


# --- who reads what is printed


@pytest.fixture(params=["a reader that has left", "a full disk"])
def gone(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A stream of text that cannot be written."""
    if request.param == "a full disk":
        if not Path("/dev/full").exists():
            pytest.skip("no /dev/full here")
        end = os.open("/dev/full", os.O_WRONLY)
    else:
        begin, end = os.pipe()
        os.close(begin)
    stream = io.TextIOWrapper(io.FileIO(end, "w"), write_through=False)
    yield stream
    stream.close()


VERBS_THAT_SPEAK = [
    ["--help"],
    ["--version"],
    ["tasks"],
    ["no-such-verb"],
    *([v, "--help"] for v in VERBS),
]


@pytest.mark.parametrize("words", few(4, VERBS_THAT_SPEAK), ids=" ".join)
def test_no_verb_dies_of_what_cannot_be_printed(
    words: list[str], gone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", gone)
    monkeypatch.setattr(sys, "stderr", gone)
    try:
        code = main(words)
    except SystemExit as left:
        code = left.code
    assert code in (0, 1, 2)
    gone.flush()  # what Python does as it exits


def test_a_pipe_that_breaks_elsewhere_is_no_good_end(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def breaks(*_: Any) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")  # as where a worker has died

    monkeypatch.setattr("surefoot.cli.tasks.main", breaks)
    assert main(["tasks"]) == 2
    assert "Broken pipe" in capsys.readouterr().err


@pytest.mark.extended
def test_training_goes_on_where_nobody_listens_and_in_a_folder_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    name = os.fsdecode(b"r\xff \n")
    try:
        (tmp_path / name).mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    monkeypatch.chdir(tmp_path)
    begin, end = os.pipe()
    os.close(begin)
    with monkeypatch.context() as patched, io.TextIOWrapper(io.FileIO(end, "w")) as gone:
        patched.setattr(sys, "stdout", gone)
        patched.setattr(sys, "stderr", gone)
        assert main(["train", PROBE, *flags(), "--run-dir", name]) == 0
    assert (tmp_path / name / "policy.json").is_file()
    for words, code in (
        (["eval", name, "--episodes", "1"], 0),
        (["doctor", name], None),
        (["report", name], 0),
        (["resume", name], 2),
        (["train", PROBE, "--config", f"{name}/config.toml", "--run-dir", name], 2),
    ):
        assert main(words) == code or code is None, words
        said = capsys.readouterr()
        assert "\udcff" not in said.out + said.err
    assert (tmp_path / name / "report.html").stat().st_size > 1000


def test_a_terminal_of_few_characters_gets_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    from surefoot.terminal import say

    say("Laufroboter \u2013 k\xf6nnen das")
    say("on")
    assert raw.getvalue() == b"Laufroboter ? k?nnen das\non\n"
