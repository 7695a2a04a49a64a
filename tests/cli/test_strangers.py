"""What somebody else's files can do to whoever looks at them: nothing that is in them is obeyed or run."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from tests.helpers import PROBE, extended, few, flags

from surefoot.cli.main import main
from surefoot.config import Config
from surefoot.config_file import to_toml

# clears the screen, sets the title, writes backwards, hides text, is markup and an emoji of rich's
TRICKS = "\x1b[2J\x1b]0;x\x07\x9b31m\r\u202e\u200f\u061c\U000e0041[red]:ant:[/nothing]"
OBEYED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\U000e0000-\U000e007f]"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a checkpoint and a report of a crash."""
    folder = tmp_path_factory.mktemp("strangers") / "run"
    arguments = ["train", PROBE, *flags(), "--run-dir", str(folder)]
    assert main([*arguments, "--checkpoint-every", "128"]) == 0
    (folder / "crash").mkdir()
    report = {
        "error": "it failed",
        "kind": "ValueError",
        "traceback": ["here"],
        "notes": ["a note"],
    }
    (folder / "crash" / "report.json").write_text(json.dumps(report))
    return folder


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there are texts in a JSON value, and names (their place with None behind it)."""
    if isinstance(value, dict):
        for name, x in list(value.items())[:12]:  # more than that are arrays of a policy, all alike
            yield (*at, name, None)
            yield from places(x, (*at, name))
    elif isinstance(value, list):
        for k, x in enumerate(value[:1]):
            yield from places(x, (*at, k))
    elif isinstance(value, str):
        yield at


def spoilt(value: Any, place: tuple[Any, ...]) -> Any:
    """A copy with the tricks behind the text at a place."""
    if not place:
        return value + TRICKS
    step, *rest = place
    if isinstance(value, list):
        return [*value[:step], spoilt(value[step], tuple(rest)), *value[step + 1 :]]
    if rest == [None]:
        return {f"{name}{TRICKS}" if name == step else name: x for name, x in value.items()}
    return value | {step: spoilt(value[step], tuple(rest))}


def in_toml(text: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() else f"\\U{ord(c):08x}" for c in text)


def spoilt_files(run: Path, *, alone: bool) -> Iterator[tuple[Path, str]]:
    """Each file of a run with its texts spoilt: all of them that are no names, or each alone."""
    checkpoint = max((run / "checkpoints").glob("step-*"))
    folders = [run, run / "crash", run / "checkpoints", checkpoint]
    for file in (file for folder in folders for file in folder.glob("*.json")):
        value, everything = (json.loads(file.read_text()) for _ in range(2))
        for place in places(value):
            if alone:
                yield file, json.dumps(spoilt(value, place))
            elif place[-1] is not None:
                everything = spoilt(everything, place)
        yield file, json.dumps(everything)
    rows = (run / "metrics.jsonl").read_text()
    for name in list(json.loads(rows.splitlines()[-1]))[:: 1 if alone else 5]:
        yield run / "metrics.jsonl", rows.replace(f'"{name}"', json.dumps(name + TRICKS))
    toml = (run / "config.toml").read_text()
    for line in toml.splitlines()[:: 1 if alone else 10]:
        name, _, shown = line.partition(" = ")
        new = [f'"{name}{in_toml(TRICKS)}" = {shown}']
        if shown.startswith('"'):
            new.append(f"{name} = {shown[:-1]}{in_toml(TRICKS)}{shown[-1]}")
        for changed in new:
            yield run / "config.toml", toml.replace(line, changed)


@pytest.mark.parametrize(
    ("verb", "alone"),
    [
        ("doctor", False),
        *(
            extended(verb, alone)
            for verb, alone in (
                ("resume", False),
                ("report", False),
                ("eval", False),
                ("doctor", True),
            )
        ),
    ],
)
def test_no_text_of_a_run_is_obeyed(
    verb: str, alone: bool, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = shutil.copytree(run, tmp_path / f"run{TRICKS.replace('/', '')}")
    told = 0
    for file, text in spoilt_files(run, alone=alone):
        copy = folder / file.relative_to(run)
        before = copy.read_bytes()
        copy.write_text(text)
        capsys.readouterr()
        # none of its files is believed before it has been read whole, so that one step is enough to play
        main([verb, str(folder), *(["--episodes", "1"] if verb == "eval" else [])])
        said = "".join(capsys.readouterr())
        assert not (found := OBEYED.search(said)), (file.name, found, text[:200])
        told += "[red]:ant:[" in said
        copy.write_bytes(before)
    assert told > 10


@pytest.mark.parametrize("verb", ["train", "bench"])
def test_no_text_of_a_config_is_obeyed_in_the_help(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "a.toml").write_text(
        'task = "Hopper-v5\\u001b[2J"\nenv_options = ["a=\\u001b[2J"]\n'
    )
    with pytest.raises(SystemExit):
        main([verb, "--config", str(tmp_path / "a.toml"), "--help"])
    said = capsys.readouterr().out
    assert said.count("?[2J") == 2
    assert not OBEYED.search(said)


def test_a_fault_that_speaks_of_a_file_is_not_obeyed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError(TRICKS)

    monkeypatch.setattr("surefoot.cli.tasks.main", fails)
    assert main(["tasks"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert "RuntimeError: ?[2J" in said
    assert not OBEYED.search(said)


class Imports(CartPoleEnv):
    """An environment that does with its options as those do that wrap what another library made."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        for value in options.values():
            for module in re.findall(r"([\w-]+):", str(value)):
                importlib.import_module(module)


TASK = "gymnasium:Imports-v0"
SETTINGS = [
    "env_id=module_of_a_stranger:Env-v0",
    "env_id='module_of_a_stranger:Env'",
    "make={entry_point='module_of_a_stranger:Env'}",
    'ids=["module_of_a_stranger:A", "module_of_a_stranger:B"]',
    "a=b=module_of_a_stranger:Env",
    # TOML's ways to write a colon
    'env_id="module_of_a_stranger\\u003aEnv-v0"',
    'ids=[{a = ["module_of_a_stranger\\U0000003aA"]}]',
]


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module in it that nobody asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "module_of_a_stranger.py").write_text("")
    gymnasium.register("Imports-v0", entry_point=Imports, max_episode_steps=20)
    yield tmp_path
    gymnasium.registry.pop("Imports-v0")
    sys.modules.pop("module_of_a_stranger", None)


@pytest.mark.parametrize("setting", few(1, SETTINGS))
def test_a_setting_from_a_file_names_no_code(
    setting: str, stranger: Path, run: Path, capsys: pytest.CaptureFixture
) -> None:
    config = Config(env_options=(setting,))
    (stranger / "a.toml").write_text(to_toml(config, task=TASK))
    (stranger / "b.toml").write_text(f"env_options = [{json.dumps(setting)}]\n")
    shutil.copytree(run, stranger / "run")
    (stranger / "run" / "config.toml").write_text(to_toml(config, task=TASK))
    arms = "seeds = 2\n[arms.a]\n[arms.b]\ngamma = 0.9\n"
    options = f"env_options = [{json.dumps(setting)}]\n"
    (stranger / "c.toml").write_text(f"{arms}[tasks.{json.dumps(TASK)}]\n{options}")
    (stranger / "d.toml").write_text(f"{arms}[options]\n{options}")
    for arguments in (
        ["train", "--config", "a.toml", *flags()],
        ["train", TASK, "--config", "b.toml", *flags()],
        ["bench", "--config", "a.toml"],
        ["eval", "run"],
        ["eval", "run", "--task", TASK],
        ["resume", "run", "--total-steps", "100000"],
        ["resume", "run", "--task", TASK, "--total-steps", "100000"],
        ["study", "c.toml"],
        ["study", "c.toml", "--tasks", TASK],
        ["study", "d.toml", "--tasks", TASK],
    ):
        assert main(arguments) == 2, arguments
        said = capsys.readouterr().err
        assert "may name code, which is not taken from a file" in said
        assert said.count("\n") == 1
        assert "module_of_a_stranger" not in sys.modules


def test_the_same_setting_is_right_on_the_command_line_and_for_code_of_ones_own(
    stranger: Path,
) -> None:
    from surefoot.cli.train import parse
    from surefoot.envs.tasks import refuse_code

    (stranger / "a.toml").write_text(to_toml(Config(env_options=(SETTINGS[0],)), task=TASK))
    given = ["--config", "a.toml", "--env-options", SETTINGS[0]]
    assert parse(given)[3].env_options == (SETTINGS[0],)
    assert parse(["mine:make", "--config", "a.toml"])[3].env_options == (SETTINGS[0],)
    refuse_code(TASK, ["gravity=9.8", "name=a.b", "sutton_barto_reward=true"])
    refuse_code("mine.py:make", SETTINGS)
