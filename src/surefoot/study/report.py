"""The report of a study: one page that opens anywhere, with the charts and their library inside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surefoot.errors import UserError
from surefoot.pages.charts import Charts, Series, color_of
from surefoot.pages.frame import as_written, page, template
from surefoot.pages.report import LOGARITHMIC
from surefoot.pages.runs import facts_of
from surefoot.reading import read_json
from surefoot.study.results import form_of, interval, score_form

Found = Mapping[str, Any]


def study_page(folder: Path) -> str:
    """The report of a study's folder as HTML.

    Raises:
        ValueError: the study has not come to its end, or its files are not as it left them.
    """
    file = folder / "results.json"
    if not file.is_file():
        raise UserError(
            f"{str(folder)!r} has no results yet: the study has not come to its end; "
            f"`surefoot study {folder}` continues it"
        )
    with as_written(folder):
        found, charts = read_json(file), Charts()
        tasks, steps = found["tasks"], found["total_steps"]
        return page(
            template("study.html.jinja", "surefoot.study"),
            f"{found['study']}: {found['question'] or 'study'}",
            charts,
            number=_number,
            score_form=score_form,
            found=found,
            budgets=", ".join(f"{task} {steps[task]:,} steps" for task in steps),
            gaps=_gaps(found),
            comparisons=sum("verdict" in arm for arms in tasks.values() for arm in arms.values()),
            curves={task: _curves(arms, charts) for task, arms in tasks.items()},
            differences={task: _differences(arms, charts) for task, arms in tasks.items()},
            profile=_profile(found, charts),
            measures={task: _measures(arms) for task, arms in tasks.items()},
            measured={task: _measured(arms, charts) for task, arms in tasks.items()},
            diagnostics={
                task: _diagnostics(arms, steps[task], charts) for task, arms in tasks.items()
            },
            changes=_changes(found),
            failed=[[x[k] for k in ("task", "arm", "seed", "error")] for x in found["failed"]],
            facts=facts_of(read_json(folder / "provenance.json")),
        )


def _number(found: Found | None, form: str) -> str:
    """`2513 [2391, 2632]`, or a dash."""
    return "\N{EN DASH}" if found is None else interval(found, form)


def _gaps(found: Found) -> list[list[str]]:
    return [
        [task, *(_number(gaps[gap], score_form(found["tasks"][task])) for gap in ("AAI", "ACLI"))]
        for task, gaps in found["gaps"].items()
    ]


def _curves(arms: Found, charts: Charts) -> str:
    series = [
        Series(name, color_of(k), c["steps"], c["mean"], c["low"], c["high"])
        for k, (name, arm) in enumerate(arms.items())
        if (c := arm.get("curve"))
    ]
    return charts.curves(series, "environment steps", "return")


def _differences(arms: Found, charts: Charts) -> str:
    rows = [
        (name, color_of(k), arm["relative"])
        for k, (name, arm) in enumerate(arms.items())
        if arm.get("relative")
    ]
    return charts.forest(rows) if rows else ""


def _measures(arms: Found) -> list[list[str]]:
    """What was measured beside the return, a row for each."""
    rows = []
    for name in _measure_names(arms):
        found = [arm.get("measures", {}).get(name) for arm in arms.values()]
        form = form_of(max(abs(x["estimate"]) for x in found if x), 3)
        rows.append([name, *(_number(x, form) for x in found)])
    return rows


def _measured(arms: Found, charts: Charts) -> dict[str, str]:
    """The same against steps, a chart for each."""
    drawn = {}
    for name in _measure_names(arms):
        series = [
            Series(arm, color_of(k), found["curve"]["steps"], found["measures"][name]["curve"])
            for k, (arm, found) in enumerate(arms.items())
            if name in found.get("measures", {})
        ]
        drawn[name] = charts.curves(series, "environment steps", name, height=220, hover=False)
    return drawn


def _measure_names(arms: Found) -> list[str]:
    return sorted({name for arm in arms.values() for name in arm.get("measures", {})})


def _profile(found: Found, charts: Charts) -> str:
    across, arms = found["across_tasks"], list(found["options"])
    if not across.get("arms"):
        return ""
    series = [
        Series(name, color_of(arms.index(name)), across["thresholds"], arm["profile"])
        for name, arm in across["arms"].items()
    ]
    return charts.curves(series, f"score / mean of {found['baseline']}", "share of runs")


def _diagnostics(arms: Found, total_steps: int, charts: Charts) -> dict[str, str]:
    drawn = {}
    for metric in sorted({name for arm in arms.values() for name in arm.get("diagnostics", {})}):
        series = []
        for k, (name, arm) in enumerate(arms.items()):
            values = arm.get("diagnostics", {}).get(metric)
            if values is not None:
                steps = [total_steps * (i + 0.5) / len(values) for i in range(len(values))]
                series.append(Series(name, color_of(k), steps, values))
        log = metric in LOGARITHMIC
        drawn[metric] = charts.curves(
            series, "environment steps", metric, height=220, hover=False, log=log
        )
    return drawn


def _changes(found: Found) -> list[list[str]]:
    """What each arm changes."""
    rows = []
    for arm, options in found["options"].items():
        changes = ", ".join(f"{name} = {value}" for name, value in options.items())
        rates = ", ".join(
            f"{task}: {arms[arm]['learning_rate']:.2g}"
            for task, arms in found["tasks"].items()
            if "learning_rate" in arms[arm]
        )
        tuned = f"learning rate chosen: {rates}" if rates else ""
        rows.append([arm, "; ".join(x for x in (changes, tuned) if x) or "nothing"])
    return rows
