"""The page of a tuning: it opens without a network, and nothing that it is made of runs."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest
from tests.browser import PAYLOAD, canvases, hovered, opened, spoilt

from surefoot.cli.main import main
from surefoot.services.run_folder import describe
from surefoot.tune.report import tuning_page


def found(name: str = "learning_rate") -> dict[str, Any]:
    states = ["complete"] * 9 + ["pruned", "failed", "refused"]
    interval = {"estimate": 0.7, "low": 0.2, "high": 0.9}
    score = {"estimate": 410.0, "low": 400.5, "high": 420.0}
    tuned = {"mean": score, "difference": score, "verdict": "better", "sentence": "tuned: <b>+1%"}
    return {
        "task": "CartPole-v1",
        "total_steps": 1000,
        "seeds": 2,
        "space": {name: "0.0001 to 0.01, logarithmic"},
        "trials": [
            {
                "number": k,
                "state": state,
                "score": None if state == "refused" else 10.0 * (k % 5),
                "reason": "" if state == "complete" else "<b>it could not be</b>",
                "options": {name: f"0.00{k}"},
            }
            for k, state in enumerate(states)
        ],
        "ended": "<b>all 12 combinations</b> have been tried",
        "best": 4,
        "default": {name: "0.0003"},
        "importance": {name: interval},
        "judged": {"seeds": 5, "arms": {"default": {"mean": score}, "tuned": tuned}},
    }


def write(folder: Path, results: dict[str, Any], provenance: dict[str, Any] | None = None) -> Path:
    provenance = provenance or describe(["surefoot", "tune"], tuning="CartPole-v1")
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "provenance.json").write_text(json.dumps(provenance))
    file = folder / "report.html"
    file.write_text(tuning_page(folder), encoding="utf-8")
    return file


def test_the_page_is_one_file_and_text_is_no_markup(tmp_path: Path) -> None:
    text = write(tmp_path, found()).read_text()
    head, body = text.rsplit("<body>", 1)
    assert " src=" not in body
    assert "<b>it could not be</b>" not in text
    assert html.escape("<b>it could not be</b>") in text
    for rule in ("default-src 'none'", "script-src 'sha256-"):
        assert rule in html.unescape(head)
    for told in ("70% [20%, 90%]", "410.0 [400.5, 420.0]", "+410.0 [+400.5", "better", "Trial 4"):
        assert told in body


def test_hostile_names_are_text(tmp_path: Path) -> None:
    results = spoilt(found(PAYLOAD))
    for trial in results["trials"]:
        trial["state"] = "complete" if trial["number"] < 9 else PAYLOAD
    text = write(tmp_path, results).read_text()
    body = text.rsplit("</head>\n<body>", 1)[1]
    assert "<script>ran = 1" not in body
    assert "<img" not in body
    assert html.escape("<script>ran = 1</script>") in body


def test_before_the_judgment_it_says_that_nothing_is_known(tmp_path: Path) -> None:
    early = {**found(), "judged": None, "importance": {}}
    text = write(tmp_path, early).read_text()
    assert "Not known yet" in text
    assert "at least 8 trials" in text
    nothing = {**early, "best": None, "trials": []}
    assert "9 complete, 1 pruned, 1 failed, 1 refused." in write(tmp_path, early).read_text()
    assert "No trial has come to its end." in write(tmp_path, nothing).read_text()


def test_a_default_that_nothing_beats_is_said(tmp_path: Path) -> None:
    results = found()
    del results["judged"]["arms"]["tuned"]
    assert "No trial had a higher score than the default" in write(tmp_path, results).read_text()


def test_the_page_is_written_again_or_refused_in_one_line(tmp_path: Path, capsys) -> None:
    (tmp_path / "tuning.toml").write_text("")
    assert main(["report", str(tmp_path)]) == 2
    assert "has no results yet" in capsys.readouterr().err
    charts = '<script type="application/json"'  # whose numbers of their own are others each time
    before = write(tmp_path, found()).read_text().partition(charts)[0]
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_text().partition(charts)[0] == before
    for damaged in ("[]", '{"task": ""}', "{", json.dumps({**found(), "trials": [1]})):
        (tmp_path / "results.json").write_text(damaged)
        capsys.readouterr()
        assert main(["report", str(tmp_path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert main(["report", str(tmp_path), str(tmp_path.parent)]) == 2
    assert "one tuning at a time" in capsys.readouterr().err


@pytest.mark.parametrize("width", [390, 1440])
def test_its_chart_is_drawn_and_fits(browser, tmp_path: Path, width: int) -> None:
    tab, said = opened(browser, write(tmp_path, found()), width)
    charts = canvases(tab)
    assert len(charts) == 1
    assert charts[0]["painted"] > 2000
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []


@pytest.mark.parametrize("bypass_csp", [False, True])
def test_nothing_that_a_tuning_is_made_of_runs(browser, tmp_path: Path, bypass_csp: bool) -> None:
    results = spoilt(found(PAYLOAD))
    for trial in results["trials"]:
        trial["state"] = "complete" if trial["number"] < 9 else PAYLOAD
    provenance = spoilt(describe(["surefoot"], tuning=PAYLOAD))
    tab, said = opened(browser, write(tmp_path, results, provenance), bypass_csp=bypass_csp)
    hovered(tab, 0)
    assert PAYLOAD in tab.locator("body").inner_text()
    assert tab.locator("img").count() == 0
    assert tab.evaluate("typeof ran") == "undefined"
    assert said == []
