"""The report's page while runs train: served to a browser on this machine, which asks for what is new."""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from markupsafe import Markup

from surefoot.errors import UserError, near_matches
from surefoot.local_server import NOT_FOUND, Response
from surefoot.pages.charts import Charts, columns_of
from surefoot.pages.frame import macro, page, template
from surefoot.pages.report import Chart, Video, charts_of, page_parts, title_of
from surefoot.pages.runs import RunReader, RunView, changed, is_run
from surefoot.services.run_folder import CONFIG, METRICS

MOST_RUNS = 12  # that one page compares: as many as there are colours that are told apart
_ASKED_EVERY_S = 2.0
_SHARE = 0.05  # of one core that a page may take from the training that it shows, at most


class WatchPage:
    """Answers for a page of runs: the page, what is new, and the videos.

    Args:
        folders: run folders, or folders of them, in which new runs may begin.

    Raises:
        ValueError: a folder is not there.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        folders = list(dict.fromkeys(folders))
        for folder in folders:
            if not folder.is_dir():
                beside = [path.name for path in folder.parent.glob("*") if path.is_dir()]
                near = near_matches(folder.name, beside)
                raise UserError(f"{str(folder)!r} is not a folder of runs: it does not exist{near}")
        self._folders = folders
        self._readers: dict[Path, RunReader] = {}
        self._videos: dict[str, Path] = {}
        self._one_at_a_time = threading.Lock()

    def __call__(self, path: str, query: Mapping[str, str]) -> Response:
        """The answer to a request."""
        if path.startswith("/videos/"):
            video = self._videos.get(path)
            return Response(video, "video/mp4") if video else NOT_FOUND
        if path not in ("/", "/news.json"):
            return NOT_FOUND
        with self._one_at_a_time:
            began = time.thread_time()
            views, left_out = self.views()
            charts = charts_of(views)
            parts = self._parts(views, charts, left_out)
            state = _state(parts, charts)
            if path == "/":
                return Response(_whole(views, charts, parts, state), "text/html; charset=utf-8")
            if query.get("seen") == state["seen"]:
                return Response(status=HTTPStatus.NO_CONTENT)
            # but for drawing charts anew, which is rare and takes longest
            wait_s = max(_ASKED_EVERY_S, (time.thread_time() - began) / _SHARE)
            news = state | {"title": title_of(views), "html": parts, "wait_s": wait_s}
            news |= _drawn(charts, anew=query.get("charts") != state["charts"])
            return Response(json.dumps(news).encode(), "application/json")

    def views(self) -> tuple[list[RunView], int]:
        """The newest runs by name, and how many there are beside them."""
        found = {run: name for folder in self._folders for run, name in _runs_in(folder)}
        newest = sorted(found, key=_activity, reverse=True)[:MOST_RUNS]
        shown = sorted(newest, key=lambda run: found[run])
        self._readers = {run: self._readers.get(run) or RunReader(run, found[run]) for run in shown}
        return [self._readers[run].read() for run in shown], len(found) - len(shown)

    def _parts(
        self, views: Sequence[RunView], charts: Sequence[Chart], left_out: int
    ) -> dict[str, str]:
        places = [(chart, f"chart-{k}") for k, chart in enumerate(charts)]
        files = [(view.name, file) for view in views for file in view.videos]
        videos = []
        for run, file in files:
            address = f"/videos/{len(self._videos)}"
            address = next((at for at, known in self._videos.items() if known == file), address)
            self._videos[address] = file
            changed = int(file.stat().st_mtime) if file.exists() else 0
            videos.append(Video(run, file.name, f"{address}?{changed}", True))
        note = macro("parts.html.jinja", "left_out", len(views), left_out)
        parts = {"note": note, **page_parts(views, places, videos)}
        return {name: str(part) for name, part in parts.items()}


def _state(parts: Mapping[str, str], charts: Sequence[Chart]) -> dict[str, Any]:
    """By what a page knows whether it is up to date: all of it, its charts but for the numbers, its parts."""
    columns = [columns_of(chart.series) for chart in charts]
    kinds = [
        [chart.title, [[one.name, one.color] for one in chart.series], places]
        for chart, (_, places) in zip(charts, columns, strict=True)
    ]
    return {
        "seen": _digest([parts, kinds, [data for data, _ in columns]]),
        "charts": _digest(kinds),
        "parts": {name: _digest(part) for name, part in parts.items()},
        "wait_s": _ASKED_EVERY_S,
    }


def _whole(
    views: Sequence[RunView],
    charts: Sequence[Chart],
    parts: Mapping[str, str],
    state: Mapping[str, Any],
) -> bytes:
    drawn = Charts()
    for chart in charts:
        chart.draw(drawn)
    made = {name: Markup(part) for name, part in parts.items()}
    text = page(template("runs.html.jinja"), title_of(views), drawn, parts=made, live=state)
    return text.encode()


def _drawn(charts: Sequence[Chart], *, anew: bool) -> dict[str, Any]:
    """The charts, or only their numbers; null is a gap."""
    if not anew:
        data = [columns_of(chart.series)[0] for chart in charts]
        return {
            "columns": [
                {
                    name: [x if math.isfinite(x) else None for x in xs]
                    for name, xs in columns.items()
                }
                for columns in data
            ]
        }
    drawn = Charts()
    for chart in charts:
        chart.draw(drawn)
    return {"items": drawn.drawn}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=list).encode()).hexdigest()[:16]


def _runs_in(folder: Path) -> Iterator[tuple[Path, str]]:
    """The runs of a folder and how they are called: itself, those in it, and those of seeds in these."""
    if is_run(folder):
        yield folder, str(folder)
        return
    for inner in _folders_in(folder):
        if is_run(inner):
            yield inner, inner.name
            continue
        for run in filter(is_run, _folders_in(inner)):
            yield run, f"{inner.name}/{run.name}"


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:  # gone meanwhile, or not ours to read
        return []


def _activity(run: Path) -> float:
    """When something came to a run last."""
    return max((changed(run / name) for name in (METRICS, CONFIG)), default=0.0)
