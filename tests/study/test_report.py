"""The page, in a real browser: charts drawn, hover and toggles work, readable on a phone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from surefoot.cli.main import main
from surefoot.config import Config
from surefoot.services.run_folder import describe
from surefoot.study.jobs import DIAGNOSTICS
from surefoot.study.plan import Study, write_study
from surefoot.study.presets import study_preset
from surefoot.study.report import study_page
from surefoot.study.results import analyse, interval, score_form

TASKS = ("Hopper-v5", "Walker2d-v5")


def made_up(study: Study, diagnostics: tuple[str, ...]) -> list[dict[str, Any]]:
    """What runs might leave: every arm climbs to a level of its own, one run fails."""
    jobs = []
    for level, arm in enumerate(study.arms):
        for task in study.tasks:
            for seed in range(study.seeds):
                head = {"task": task, "arm": arm, "learning_rate": 3e-4, "seeds": [seed]}
                if arm == "TRPO" and seed == 1:
                    error = {str(seed): "<b>the worker died</b>"}
                    jobs.append({**head, "runs": {}, "errors": error})
                    continue
                top = 2000.0 + 300.0 * level + 40.0 * ((seed * 7) % 5)
                returns = [top * (k + 1) / 20 for k in range(20)]
                curves = {
                    name: [0.123456 * k * (1 + level + seed) for k in range(19)] + [None]
                    for name in diagnostics
                }
                run = {
                    "final": returns[-1],
                    "steps": [50_000 * (k + 1) for k in range(20)],
                    "returns": returns,
                    "diagnostics": curves,
                }
                jobs.append({**head, "runs": {str(seed): run}, "errors": {}})
    return jobs


def write_page(folder: Path, name: str, diagnostics: tuple[str, ...]) -> Path:
    preset = study_preset(name)
    tasks = {task: Config() for task in TASKS}
    study = Study(name, tasks, preset.arms, preset.baseline, 6, question=preset.question)
    (folder / "study.toml").write_text(write_study(study))
    found = analyse(study, made_up(study, diagnostics), {})
    (folder / "results.json").write_text(json.dumps(found, allow_nan=False))
    (folder / "provenance.json").write_text(json.dumps(describe(["surefoot"], study=name)))
    file = folder / "report.html"
    file.write_text(study_page(folder), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    few = ("policy/approx_kl", "policy/ratio_max")
    return write_page(tmp_path_factory.mktemp("report"), "implementation-matters", few)


@pytest.fixture(scope="module")
def browser() -> Any:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    flags += ["--disable-component-update", "--no-first-run", "--disable-quic"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


def note(message: Any, said: list[str]) -> None:
    # the browser's advice on how this test reads pixels is none of the page's
    if message.type in ("error", "warning") and "getImageData" not in message.text:
        said.append(message.text)


def opened(browser: Any, file: Path, width: int = 1440, **options: Any) -> tuple[Any, list[str]]:
    """The page, without a network, once its charts are drawn; and what the console said."""
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
    tab, said = context.new_page(), []
    tab.on("console", lambda message: note(message, said))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: request.url.startswith("http") and said.append(request.url))
    tab.goto(file.as_uri())
    tab.wait_for_function("Bokeh.documents.length > 0 && Bokeh.documents.every(d => d.is_idle)")
    return tab, said


def canvases(tab: Any) -> list[dict[str, float]]:
    """Size of each chart, and how many pixels are painted on its canvas."""
    return tab.evaluate(
        """() => [...Bokeh.index.roots].filter(view => view.canvas_view).map(view => {
          const canvas = view.canvas_view.primary.canvas
          const box = view.el.getBoundingClientRect()
          const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
          let painted = 0
          for (let i = 3; i < data.length; i += 4) painted += data[i] > 0
          return {width: box.width, height: box.height, left: box.left, painted}
        })"""
    )


def logarithmic(tab: Any) -> list[tuple[str, float]]:
    """Name and beginning of each logarithmic axis."""
    return tab.evaluate(
        """() => [...Bokeh.index.roots]
          .filter(view => view.canvas_view && view.frame.y_scale.type === "LogScale")
          .map(view => [view.model.left[0].axis_label, view.model.y_range.start])"""
    )


def test_the_page_of_the_largest_study_is_at_most_two_megabytes(tmp_path: Path) -> None:
    page = write_page(tmp_path, "code-level", DIAGNOSTICS)
    assert page.stat().st_size <= 2_000_000


def test_the_page_is_one_file(page: Path) -> None:
    text = page.read_text()
    assert " src=" not in text.rsplit("<body>", 1)[1]
    assert "<b>the worker died</b>" not in text  # what a run printed is text, not markup


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_are_drawn_and_fit(browser, page: Path, width: int, scheme: str) -> None:
    tab, said = opened(browser, page, width, color_scheme=scheme)
    charts = canvases(tab)
    # two tasks: curves, forest and two diagnostics each; one profile
    assert len(charts) == 2 * 4 + 1
    for chart in charts:
        assert chart["painted"] > 2000
        assert chart["left"] >= 0
        assert 250 <= chart["width"] <= width
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("getComputedStyle(document.body).fontSize") == "16px"
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    assert said == []


def test_an_arm_can_be_hidden_and_shown(browser, page: Path) -> None:
    tab, said = opened(browser, page)
    before = [chart["painted"] for chart in canvases(tab)]
    button = tab.locator("#arms button", has_text="TRPO+")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    tab.wait_for_function("Bokeh.documents.every(d => d.is_idle)")
    tab.wait_for_timeout(300)
    hidden = [chart["painted"] for chart in canvases(tab)]
    assert all(now < then for now, then in zip(hidden, before, strict=True))
    button.click()
    tab.wait_for_timeout(300)
    assert [chart["painted"] for chart in canvases(tab)] == before
    assert said == []


def test_hovering_tells_the_numbers(browser, page: Path) -> None:
    tab, said = opened(browser, page)
    place = tab.evaluate(
        """() => {
          const view = [...Bokeh.index.roots].find(view => view.canvas_view)
          view.el.scrollIntoView({block: "center"})
          const renderer = view.model.renderers.find(r => r.glyph.type.includes("Scatter"))
          const {x0: x, y0: y} = renderer.data_source.data
          const box = view.canvas_view.el.getBoundingClientRect()
          return {x: box.left + view.frame.x_scale.compute(x[10]),
                  y: box.top + view.frame.y_scale.compute(y[10])}
        }"""
    )
    tab.mouse.move(place["x"], place["y"])
    tab.wait_for_timeout(500)
    shown = tab.evaluate(
        """() => {
          const texts = []
          const walk = node => {
            if (node.shadowRoot) walk(node.shadowRoot)
            for (const child of node.children ?? []) walk(child)
            if (node.classList?.contains("bk-Tooltip")) texts.push((node.shadowRoot ?? node).textContent)
          }
          walk(document.body)
          return texts.join(" ")
        }"""
    )
    assert "550,000" in shown
    assert "95%" in shown
    assert said == []


def test_an_axis_of_steps_is_told_in_thousands_and_millions(browser, page: Path) -> None:
    tab, said = opened(browser, page)
    told = tab.evaluate(
        """() => {
          const axis = [...Bokeh.index.roots].find(view => view.canvas_view).model.below[0]
          return axis.formatter.doFormat([0, 500, 200000, 1000000, 1500000, 1.1e7], {loc: 0})
        }"""
    )
    assert told == ["0", "500", "200k", "1M", "1.5M", "11M"]
    assert said == []


def test_what_may_differ_a_thousandfold_is_drawn_on_a_logarithmic_axis(browser, page: Path) -> None:
    tab, said = opened(browser, page)
    begins = logarithmic(tab)
    assert {label for label, _ in begins} == {"policy/approx_kl", "policy/ratio_max"}
    # the zeros there are gaps; the least of the rest is where the axis begins
    assert all(0.05 < start < 1.0 for _, start in begins)
    assert said == []


@pytest.mark.parametrize(
    ("largest", "shown"),
    [(5816.4, "3 [-10, 572]"), (16.31, "3.12 [-10.00, 571.60]"), (0.0, "3.123 [-10, 571.6]")],
)
def test_scores_of_a_task_have_the_same_decimals(largest: float, shown: str) -> None:
    arms = {
        "a": {"mean": {"estimate": largest}},
        "b": {"mean": {"estimate": -largest / 2}},
        "c": {},
    }
    score = {"estimate": 3.1234, "low": -10.0, "high": 571.6}
    assert interval(score, score_form(arms)) == shown


def test_small_scores_of_a_task_are_told_as_the_large_ones(page: Path, tmp_path: Path) -> None:
    found = json.loads((page.parent / "results.json").read_text())
    score = {"estimate": 87.654, "low": -1.234, "high": 176.542}
    arm = found["tasks"]["Hopper-v5"]["PPO-NoClip"]
    arm["mean"] = arm["iqm"] = found["gaps"]["Hopper-v5"]["AAI"] = score
    (tmp_path / "results.json").write_text(json.dumps(found))
    (tmp_path / "provenance.json").write_text((page.parent / "provenance.json").read_text())
    assert study_page(tmp_path).count("<td>88 [-1, 177]</td>") == 3


def test_one_run_has_no_interval() -> None:
    score = {"estimate": 3.1234, "low": None, "high": None}
    assert interval(score, ".2f") == "3.12 (no interval)"


def test_the_verdict_comes_first_and_all_parts_are_there(browser, page: Path) -> None:
    tab, _ = opened(browser, page)
    heads = tab.locator("h2").all_text_contents()
    assert heads == [
        "Verdict",
        "Learning curves",
        "Difference from PPO",
        "Performance profile",
        "What explains it",
        "What the arms change",
        "Failed runs",
        "Provenance",
    ]
    text = tab.locator("body").inner_text()
    assert "TRPO+: +" in text
    assert "better" in text
    assert "AAI" in text
    assert "<b>the worker died</b>" in text


def test_runs_have_a_page_too(browser, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tiny = [
        "--total-steps",
        "2000",
        "--num-envs",
        "4",
        "--num-steps",
        "16",
        "--num-minibatches",
        "4",
    ]
    folders = []
    for seed in ("0", "1"):
        folders.append(str(tmp_path / f"run{seed}"))
        task = "probe:late-reward/continuous"
        assert main(["train", task, *tiny, "--seed", seed, "--run-dir", folders[-1]]) == 0
    assert main(["report", *folders, "--output", str(tmp_path / "both.html")]) == 0
    assert "both.html" in capsys.readouterr().out
    tab, said = opened(browser, tmp_path / "both.html")
    assert len(canvases(tab)) == 6
    assert {label for label, _ in logarithmic(tab)} == {"policy/approx_kl", "optim/grad_norm"}
    assert all(chart["painted"] > 2000 for chart in canvases(tab))
    assert "Options that differ" in tab.locator("body").inner_text()
    assert tab.locator("td", has_text="seed").count() == 1
    assert said == []


def test_what_has_no_report_is_refused(capsys: pytest.CaptureFixture, tmp_path: Path, page) -> None:
    def error(*arguments: str) -> str:
        assert main(["report", *arguments]) == 2
        return capsys.readouterr().err

    assert "is not a run folder" in error(str(tmp_path))
    assert "one study at a time" in error(str(page.parent), str(tmp_path))
    (tmp_path / "study.toml").write_text((page.parent / "study.toml").read_text())
    assert "has no results yet" in error(str(tmp_path))
