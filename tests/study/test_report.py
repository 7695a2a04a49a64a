"""The page, in a real browser: charts drawn, hover and toggles work, readable on a phone."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.browser import PAYLOAD, canvases, hovered, logarithmic, opened, spoilt

from surefoot.cli.main import main
from surefoot.config import Config
from surefoot.errors import UserError
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
                    "measures": {"success_rate": [0.1 * level + 0.02 * k for k in range(20)]},
                }
                jobs.append({**head, "runs": {str(seed): run}, "errors": {}})
    return jobs


def write_page(folder: Path, name: str, diagnostics: tuple[str, ...]) -> Path:
    preset = study_preset(name)
    tasks = {task: Config() for task in TASKS}
    study = Study(name, tasks, preset.arms, preset.baseline, 6, question=preset.question)
    (folder / "study.toml").write_text(write_study(study))
    found = analyse(study, made_up(study, diagnostics), {})
    return write(folder, found, describe(["surefoot"], study=name))


def write(folder: Path, found: dict[str, Any], provenance: dict[str, Any]) -> Path:
    (folder / "results.json").write_text(json.dumps(found, allow_nan=False))
    (folder / "provenance.json").write_text(json.dumps(provenance))
    file = folder / "report.html"
    file.write_text(study_page(folder), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    few = ("policy/approx_kl", "policy/ratio_max")
    return write_page(tmp_path_factory.mktemp("report"), "implementation-matters", few)


@pytest.mark.extended
def test_the_page_of_the_largest_study_is_at_most_two_megabytes(tmp_path: Path) -> None:
    page = write_page(tmp_path, "code-level", DIAGNOSTICS)
    assert page.stat().st_size <= 2_000_000


def test_the_page_is_one_file(page: Path) -> None:
    text = page.read_text()
    assert " src=" not in text.rsplit("<body>", 1)[1]
    assert "<b>the worker died</b>" not in text  # what a run printed is text, not markup
    head = html.unescape(text.partition("<body>")[0])
    for rule in (
        "default-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "script-src 'sha256-",
    ):
        assert rule in head


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_are_drawn_and_fit(browser, page: Path, width: int, scheme: str) -> None:
    tab, said = opened(browser, page, width, color_scheme=scheme)
    charts = canvases(tab)
    # two tasks: curves, a measure, forest and two diagnostics each; one profile
    assert len(charts) == 2 * 5 + 1
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
    shown = hovered(tab, 0)
    assert "550,000" in shown
    assert "95%" in shown
    assert said == []


@pytest.fixture(scope="module")
def spoilt_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study all of whose names and texts would run if they were taken for anything but text."""
    arms = {f"{k}{PAYLOAD}": {"gamma": 0.9 + k / 100} for k in range(3)}
    tasks = {f"{k}{PAYLOAD}": Config() for k in range(2)}
    study = Study(PAYLOAD, tasks, arms, next(iter(arms)), 6, question=PAYLOAD)
    results = made_up(study, ("policy/approx_kl",))
    results[-1] |= {"errors": {"5": PAYLOAD}, "runs": {}}
    found = spoilt(analyse(study, results, {(task, arm): 1e-3 for task in tasks for arm in arms}))
    found["options"] = {arm: {PAYLOAD: PAYLOAD} for arm in arms}
    provenance = spoilt(describe(["surefoot"], study=PAYLOAD))
    provenance["versions"][PAYLOAD] = PAYLOAD
    return write(tmp_path_factory.mktemp("spoilt"), found, provenance)


# what the page forbids is one defence, that nothing of the kind is in it is another
@pytest.mark.parametrize("bypass_csp", [False, True])
def test_nothing_that_a_study_is_made_of_runs(browser, spoilt_page: Path, bypass_csp: bool) -> None:
    tab, said = opened(browser, spoilt_page, bypass_csp=bypass_csp)
    tab.on("dialog", lambda dialog: said.append(dialog.message))
    told = [hovered(tab, chart) for chart in range(len(canvases(tab)))]
    assert len(told) == 2 * 4 + 1
    # the small ones tell nothing
    assert sum(PAYLOAD in text for text in told if text) == 2 * 2 + 1
    formulas = tab.evaluate(
        """() => [...Bokeh.index.roots].filter(view => view.canvas_view)
          .flatMap(view => [...view.model.below, ...view.model.left])
          .filter(axis => axis.axis_label.type !== "PlainText").length"""
    )
    assert formulas == 0
    for button in tab.locator("#arms button").all():
        button.click()
    assert PAYLOAD in tab.locator("body").inner_text()
    assert tab.title() == f"{PAYLOAD}: {PAYLOAD}"
    assert tab.locator("img").count() == 0
    assert tab.evaluate("typeof ran") == "undefined"
    assert said == []


def test_no_script_runs_that_was_put_into_the_page_later(
    browser, page: Path, tmp_path: Path
) -> None:
    file = tmp_path / "changed.html"
    text = page.read_text()
    file.write_text(text.replace("</head>\n<body>", f"</head>\n<body>{PAYLOAD}"))
    tab, said = opened(browser, file)
    assert tab.evaluate("typeof ran") == "undefined"
    # the script, the picture, and what to do without it
    assert len([text for text in said if "Content Security Policy" in text]) == 3


def numbers(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there are numbers; of a list, that of the first."""
    if isinstance(value, dict | list):
        for name, x in value.items() if isinstance(value, dict) else enumerate(value[:1]):
            yield from numbers(x, (*at, name))
    elif isinstance(value, int | float):
        yield at


def spoilt_at(found: dict[str, Any], *ways: tuple[Any, ...]) -> dict[str, Any]:
    """A copy with the payload in some places."""
    copy = tree = json.loads(json.dumps(found))
    for *way, last in ways:
        for step in way:
            tree = tree[step]
        tree[last] = PAYLOAD
    return copy


def test_a_text_in_place_of_a_number_is_refused_or_shown_as_text(
    browser, page: Path, tmp_path: Path
) -> None:
    found = json.loads((page.parent / "results.json").read_text())
    provenance = json.loads((page.parent / "provenance.json").read_text())
    task, arms = TASKS[0], ("PPO", "TRPO+")  # fewer charts, for the sake of time
    found["tasks"] = {task: {arm: found["tasks"][task][arm] for arm in arms}}
    found["gaps"], found["total_steps"] = {task: found["gaps"][task]}, {task: 1_000_000}
    found["across_tasks"]["arms"] = {arm: found["across_tasks"]["arms"][arm] for arm in arms}
    found["options"] = {arm: {} for arm in arms}
    shown, refused, seen = spoilt_at(found), [], set()
    for way in numbers(found):
        if (
            kind := tuple(name for name in way if name not in arms and not str(name).isdigit())
        ) in seen:
            continue
        seen.add(kind)
        try:
            write(tmp_path, spoilt_at(found, way), provenance)
        except UserError as error:
            refused.append(str(error))
        else:
            shown = spoilt_at(shown, way)
    assert len(refused) > 20
    assert all("not as Surefoot writes them" in text and "\n" not in text for text in refused)
    tab, said = opened(browser, write(tmp_path, shown, provenance), bypass_csp=True)
    assert tab.locator("body").inner_text().count(PAYLOAD) == 3  # the seeds, and the failed runs
    for chart in range(len(canvases(tab))):
        hovered(tab, chart)
    assert tab.evaluate("typeof ran") == "undefined"
    assert said == []


NO_TASK = '{"study": "", "question": "", "tasks": {}, "total_steps": {}, "gaps": {}, "options": {}'
NO_TASK += ', "across_tasks": {}, "failed": []}'


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "9" * 5000,
        "\udcff",
        '{"study": "',
        NO_TASK,
        NO_TASK.replace('"tasks": {}', '"tasks": []'),
    ],
)
def test_damaged_results_are_one_error(text: str, page: Path, tmp_path: Path, capsys) -> None:
    for name in ("study.toml", "provenance.json"):
        shutil.copy(page.parent / name, tmp_path)
    (tmp_path / "results.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


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


def test_what_was_measured_is_told_in_decimals(page: Path, tmp_path: Path) -> None:
    found = json.loads((page.parent / "results.json").read_text())
    arm = found["tasks"]["Hopper-v5"]["PPO-NoClip"]
    curve = arm["measures"]["success_rate"]["curve"]
    lengths = {"estimate": 998.4, "low": 989.0, "high": 1007.6, "curve": curve}
    arm["measures"] = {"episode_length_mean": lengths, "error": lengths | {"estimate": 0.0}}
    (tmp_path / "results.json").write_text(json.dumps(found))
    (tmp_path / "provenance.json").write_text((page.parent / "provenance.json").read_text())
    assert "<td>998 [989, 1008]</td>" in study_page(tmp_path)


def test_one_run_has_no_interval() -> None:
    score = {"estimate": 3.1234, "low": None, "high": None}
    assert interval(score, ".2f") == "3.12 (no interval)"


def test_the_verdict_comes_first_and_all_parts_are_there(browser, page: Path) -> None:
    tab, _ = opened(browser, page)
    heads = tab.locator("h2").all_text_contents()
    assert heads == [
        "Verdict",
        "What else was measured",
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


def test_what_has_no_report_is_refused(capsys: pytest.CaptureFixture, tmp_path: Path, page) -> None:
    def error(*arguments: str) -> str:
        assert main(["report", *arguments]) == 2
        return capsys.readouterr().err

    assert "is not a run folder" in error(str(tmp_path))
    assert "one study at a time" in error(str(page.parent), str(tmp_path))
    (tmp_path / "study.toml").write_text((page.parent / "study.toml").read_text())
    assert "has no results yet" in error(str(tmp_path))
