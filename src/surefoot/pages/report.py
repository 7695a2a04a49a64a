"""The report of runs: what they are, how they learn, what is wrong with them, as one page."""

from __future__ import annotations

import base64
import functools
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surefoot.errors import UserError
from surefoot.pages.charts import Charts, Series, color_of
from surefoot.pages.frame import as_written, macro, page, template, write_page
from surefoot.pages.runs import RunReader, RunView, changed_options
from surefoot.reading import read_bytes
from surefoot.services.run_folder import read_config
from surefoot.terminal import say

LARGE = "rollout/episode_return"
_EVALUATION = ("eval/episode_return", "eval/success_rate", "eval/episode_length")
_LEARNING = (
    "rollout/success_rate",
    "rollout/episode_length",
    "policy/approx_kl",
    "policy/clip_fraction",
    "policy/entropy",
    "policy/std",
    "value/explained_variance",
    "loss/value",
    "optim/grad_norm",
    "optim/learning_rate",
    "time/env_steps_per_second",
)
_POINTS = 200  # of a run's curve
# one run's may be a thousand times another's
LOGARITHMIC = ("optim/grad_norm", "policy/approx_kl", "policy/held_out_kl", "policy/ratio_max")
_LAST = 10  # iterations with episodes whose mean is a run's return now
_EMBEDDED = 12 * 2**20  # bytes of videos inside a page; the others are linked


@dataclass(frozen=True)
class Chart:
    """What is drawn in one place.

    Attributes:
        title: what it shows: a metric, or `reward terms`.
        series: its curves.
        large: as wide as the page.
        names: whether the curves are told apart by names of their own, and not by run.
    """

    title: str
    series: Sequence[Series]
    large: bool = False
    names: bool = False

    @property
    def group(self) -> str:
        """The part of the page that it belongs to."""
        if self.title == LARGE:
            return "return"
        if self.names or self.title.startswith("reward/"):
            return "rewards"
        if self.title in _EVALUATION:
            return "evaluation"
        return "measured" if self.title.startswith("measure/") else "learning"

    def draw(self, charts: Charts) -> str:
        """Its name among the charts."""
        height, log = (360 if self.large else 230), self.title in LOGARITHMIC
        return charts.curves(self.series, "environment steps", self.title, height=height, log=log)


@dataclass(frozen=True)
class Video:
    """A video of a run: its name, where it can be had, and whether the page shows it."""

    run: str
    name: str
    address: str
    shown: bool


def write_report(
    folders: Sequence[Path], output: Path | None = None, *, overwrite: bool = False
) -> Path:
    """Write the report of one or several runs; `report.html` in the first one's folder if nothing is said.

    Args:
        folders: run folders.
        output: the page's file.
        overwrite: replace a file that is no page of ours, too.

    Returns:
        The page's file.

    Raises:
        ValueError: a folder holds no run, or one without a single iteration, or the file may not be
            replaced; what was there is still there.
    """
    file = output or folders[0] / "report.html"
    write_page(file, runs_page(folders, beside=file.parent), overwrite=overwrite)
    return file


def runs_page(folders: Sequence[Path], *, beside: Path | None = None) -> str:
    """A report of runs as HTML; what of their files is damaged is said, and left out.

    Args:
        folders: run folders.
        beside: the folder that the page is for, from which videos too large for it are linked.

    Raises:
        ValueError: a folder holds no run, or a run without a single iteration.
    """
    views = []
    for folder in folders:
        read_config(folder)
        view = RunReader(folder, str(folder)).read(to_the_end=True)
        if not view.rows:
            why = f": {view.faults[0]}" if view.faults else ""
            raise UserError(f"{str(folder)!r} holds a run without a finished iteration{why}")
        for fault in view.faults:
            say(f"{fault}; it is left out", stderr=True)
        views.append(view)
    with as_written(*folders):
        charts = Charts()
        places = [(chart, chart.draw(charts)) for chart in charts_of(views)]
        parts = page_parts(views, places, videos_inside(views, beside))
        return page(template("runs.html.jinja"), title_of(views), charts, parts=parts)


def title_of(views: Sequence[RunView]) -> str:
    """What the page is of."""
    if len(views) == 1 and views[0].config:
        return f"{views[0].task}, seed {views[0].config.seed}"
    return f"{len(views)} runs"


def page_parts(
    views: Sequence[RunView], places: Sequence[tuple[Chart, str]], videos: Sequence[Video]
) -> dict[str, Any]:
    """The parts of the page, by name, as HTML."""
    make = functools.partial(macro, "parts.html.jinja")
    groups: dict[str, list[tuple[Chart, str]]] = {}
    for chart, place in places:
        groups.setdefault(chart.group, []).append((chart, place))
    names = [view.name for view in views]
    return {
        "status": make("status", [_status(view) for view in views]),
        "toggles": make("run_toggles", names) if len(views) > 1 else "",
        "faults": make("faults", {view.name: view.faults for view in views if view.faults}),
        "health": make("health", {view.name: view.health for view in views}),
        "return": make("large_charts", groups.get("return", [])),
        "videos": make("videos", videos),
        "evaluation": make("evaluation", names, _evaluations(views), groups.get("evaluation", [])),
        "rewards": make("rewards", groups.get("rewards", [])),
        "learning": make("small_charts", "How it learns", groups.get("learning", [])),
        "measured": make("small_charts", "What the task measures", groups.get("measured", [])),
        "options": make("options", names, changed_options(views)),
        "checkpoints": make("checkpoints", [(v.name, v.checkpoints, v.best) for v in views]),
        "facts": make("facts", {view.name: view.facts for view in views if view.facts}),
    }


def charts_of(views: Sequence[RunView]) -> list[Chart]:
    """What is drawn of runs: the return large, reward terms together if there is one run, the rest small."""
    known = {
        name for view in views for row in view.rows for name, x in row.items() if x is not None
    }

    def of_metric(metric: str, large: bool = False) -> Chart:
        series = [
            Series(view.name, color_of(k), *thinned(view.rows, metric))
            for k, view in enumerate(views)
        ]
        return Chart(metric, series, large=large)

    def begin(*prefixes: str) -> list[str]:
        return sorted(name for name in known if name.startswith(prefixes))

    charts = [of_metric(LARGE, large=True)] if LARGE in known else []
    rewards = begin("reward/")
    if len(views) == 1 and len(rewards) > 1:
        series = [
            Series(name.partition("/")[2], color_of(k), *thinned(views[0].rows, name))
            for k, name in enumerate(rewards)
        ]
        charts.append(Chart("reward terms", series, large=True, names=True))
    else:
        charts += map(of_metric, rewards)
    charts += [of_metric(metric) for metric in (*_EVALUATION, *_LEARNING) if metric in known]
    charts += map(of_metric, begin("measure/"))
    return charts


def videos_inside(views: Sequence[RunView], beside: Path | None) -> list[Video]:
    """The newest videos as part of the page, as many as it should hold; the others as links."""
    videos, left = [], _EMBEDDED
    for file, run in ((file, view.name) for view in views for file in view.videos):
        size = file.stat().st_size
        if shown := 0 < size <= left:
            left -= size
            data = base64.b64encode(read_bytes(file, most=_EMBEDDED)).decode("ascii")
            address = f"data:video/mp4;base64,{data}"
        else:
            address = urllib.parse.quote(os.path.relpath(file, beside or Path()), errors="replace")
        videos.append(Video(run, file.name, address, shown))
    return videos


def _status(view: RunView) -> dict[str, Any]:
    """A run's line in the table at the top."""
    last = view.rows[-1] if view.rows else {}
    step, total = last.get("step", 0), view.config.total_steps if view.config else None
    rate, took = last.get("time/env_steps_per_second"), last.get("wall_time_s")
    return {
        "name": view.name,
        "task": view.task or "\N{EN DASH}",
        "seed": view.config.seed if view.config else "\N{EN DASH}",
        "steps": f"{step:,} / {total:,}" if total else f"{step:,}",
        "share": min(1.0, step / total) if total else 0.0,
        "return": _mean(view, LARGE),
        "success": _mean(view, "rollout/success_rate", ".0%"),
        "pace": "\N{EN DASH}" if rate is None else f"{rate:,.0f} steps/s",
        "time": "\N{EN DASH}" if took is None else duration(took),
        "state": view.ended or ("training" if view.rows else "no iteration yet"),
        "failed": view.failed,
        "updated": 0.0 if view.ended else view.updated,
    }


def _mean(view: RunView, metric: str, form: str = ".4g") -> str:
    told = [x for row in view.rows if (x := row.get(metric)) is not None][-_LAST:]
    return format(sum(told) / len(told), form) if told else "\N{EN DASH}"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _evaluations(views: Sequence[RunView]) -> list[list[str]]:
    """The newest evaluation of each run: what was measured, and its numbers."""
    newest = [
        next((row for row in reversed(view.rows) if any(map(_is_evaluated, row.items()))), {})
        for view in views
    ]
    names = sorted({name for row in newest for name, x in row.items() if _is_evaluated((name, x))})
    if not names:
        return []
    at = ["after steps", *(f"{row['step']:,}" if row else "\N{EN DASH}" for row in newest)]
    return [
        at,
        *([name.partition("/")[2], *(_shown(row.get(name)) for row in newest)] for name in names),
    ]


def _is_evaluated(item: tuple[str, Any]) -> bool:
    return item[0].startswith("eval/") and item[1] is not None


def _shown(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:,.5g}"


def thinned(
    rows: Sequence[Mapping[str, Any]], metric: str
) -> tuple[list[float], list[float | None]]:
    """At most `_POINTS` points (steps, mean of the iterations since the point before)."""
    told = [(row["step"], row[metric]) for row in rows if row.get(metric) is not None]
    size = max(1, -(-len(told) // _POINTS))
    parts = [told[i : i + size] for i in range(0, len(told), size)]
    return [part[-1][0] for part in parts], [sum(y for _, y in part) / len(part) for part in parts]
