"""The page of runs, in a real browser: all parts there, readable on a phone, damaged files said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.browser import PAYLOAD, RUNS, canvases, hovered, logarithmic, opened, spoilt

from surefoot.cli.main import main
from surefoot.pages.report import runs_page

CHARTS = 11  # of these runs: a return, and small ones


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    tiny = ["--total-steps", "2000", "--num-envs", "4", "--num-steps", "16"]
    tiny += ["--num-minibatches", "4"]
    folders = [tmp_path_factory.mktemp("runs") / f"run{seed}" for seed in range(2)]
    for seed, folder in enumerate(folders):
        task = "probe:late-reward/continuous"
        assert main(["train", task, *tiny, "--seed", str(seed), "--run-dir", str(folder)]) == 0
    return folders


def test_runs_have_a_page_too(
    browser, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["report", *map(str, runs), "--output", str(tmp_path / "both.html")]) == 0
    assert "both.html" in capsys.readouterr().out
    tab, said = opened(browser, tmp_path / "both.html")
    assert len(canvases(tab)) == CHARTS
    assert {label for label, _ in logarithmic(tab)} == {"policy/approx_kl", "optim/grad_norm"}
    assert all(chart["painted"] > 2000 for chart in canvases(tab))
    differs = tab.locator("[data-part=options] tr", has_text="seed").locator("td")
    assert differs.all_text_contents() == ["seed", "0", "0", "1"]
    assert said == []


@pytest.mark.parametrize("bypass_csp", [False, True])
def test_nothing_that_a_run_is_made_of_runs(
    browser, runs: list[Path], tmp_path: Path, bypass_csp: bool
) -> None:
    folder = shutil.copytree(runs[0], tmp_path / RUNS)
    texts = {"task": json.dumps(PAYLOAD), "env_options": json.dumps([f"a={PAYLOAD}"])}
    lines = [line.split(" = ", 1) for line in (folder / "config.toml").read_text().splitlines()]
    config = "\n".join(f"{name} = {texts.get(name, value)}" for name, value in lines)
    (folder / "config.toml").write_text(config)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(spoilt(meta)))
    file = tmp_path / "report.html"
    file.write_text(runs_page([folder, runs[1]]), encoding="utf-8")
    tab, said = opened(browser, file, bypass_csp=bypass_csp)
    assert all(RUNS in (hovered(tab, chart) or "") for chart in range(CHARTS))
    assert PAYLOAD in tab.locator("body").inner_text()
    assert tab.evaluate("typeof ran") == "undefined"
    assert said == []


@pytest.mark.extended
def test_a_run_folder_s_name_need_not_be_text(runs: list[Path], tmp_path: Path) -> None:
    folder = shutil.copytree(runs[0], tmp_path / "run-\udcff")
    assert main(["report", str(folder), "--output", str(tmp_path / "page.html")]) == 0


@pytest.mark.extended
@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("metrics.jsonl", "{\n{}\n", "line 1 is damaged: Expecting"),
        (
            "metrics.jsonl",
            '{"step": "<b>", "wall_time_s": 1}\n',
            "line 1 is damaged: its step is '<b>'",
        ),
        (
            "metrics.jsonl",
            '{"step": 1, "iteration": 1, "wall_time_s": 1, "policy/entropy": "<b>"}\n',
            "line 1 is damaged: its policy/entropy is '<b>', no number",
        ),
    ],
)
def test_a_run_with_a_damaged_file_is_one_error(
    name: str, text: str, says: str, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = shutil.copytree(runs[0], tmp_path / "run")
    (folder / name).write_text(text)
    assert main(["report", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert says in said


@pytest.mark.extended
def test_only_a_page_of_ours_is_replaced_unless_that_is_asked_for(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file, words = tmp_path / "page.html", ["report", str(runs[0]), "--output"]
    file.write_text("mine")
    assert main([*words, str(file)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert main([*words, str(file), "--overwrite"]) == 0
    assert file.read_text().startswith("<!doctype html>")
    assert main([*words, str(file)]) == 0  # one of ours
    assert main([*words, str(tmp_path / "nowhere" / "page.html")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main([*words, str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]
