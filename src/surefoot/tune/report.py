"""The report of a tuning: one page that opens anywhere, with the charts and their library inside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surefoot.errors import UserError
from surefoot.pages.charts import Charts, Series, color_of
from surefoot.pages.frame import as_written, page, template
from surefoot.pages.runs import facts_of
from surefoot.reading import read_json
from surefoot.study.results import interval, score_form

Found = Mapping[str, Any]


def tuning_page(folder: Path) -> str:
    """The report of a tuning's folder as HTML.

    Raises:
        ValueError: nothing has been written yet, or its files are not as it left them.
    """
    file = folder / "results.json"
    if not file.is_file():
        raise UserError(f"{str(folder)!r} has no results yet: the tuning is still at work")
    with as_written(folder):
        found, charts = read_json(file), Charts()
        judged = found["judged"]
        form = score_form(judged["arms"]) if judged else ""
        return page(
            template("tune.html.jinja", "surefoot.tune"),
            f"{found['task']}: tuning",
            charts,
            found=found,
            steps=f"{int(found['total_steps']):,}",
            counts=_counts(found),
            judged=[_judged(name, arm, form) for name, arm in judged["arms"].items()]
            if judged
            else [],
            sentences=[arm["sentence"] for arm in judged["arms"].values() if "sentence" in arm]
            if judged
            else [],
            best=_best(found),
            importance=_importance(found),
            history=_history(found, charts),
            trials=[_trial(trial, list(found["space"])) for trial in found["trials"]],
            facts=facts_of(read_json(folder / "provenance.json") | {"study": ""}),
        )


def _counts(found: Found) -> str:
    """E.g. `18 complete, 2 pruned`."""
    states = Counter(str(trial["state"]) for trial in found["trials"])
    return ", ".join(f"{count} {state}" for state, count in states.items()) or "none yet"


def _judged(name: str, arm: Found, form: str) -> list[str]:
    """Name, mean, and difference from the default options."""
    mean = interval(arm["mean"], form) if "mean" in arm else "no run ended well"
    difference = interval(arm["difference"], f"+{form}") if "difference" in arm else ""
    return [name, mean, difference, str(arm.get("verdict", ""))]


def _best(found: Found) -> list[list[str]]:
    """Each option with its value in the default and in the best trial."""
    chosen = [trial for trial in found["trials"] if trial["number"] == found["best"]]
    return [
        [name, found["default"][name], value]
        for trial in chosen
        for name, value in trial["options"].items()
    ]


def _importance(found: Found) -> list[list[str]]:
    shares = sorted(found["importance"].items(), key=lambda item: -item[1]["estimate"])
    return [[name, interval(share, ".0%"), found["space"][name]] for name, share in shares]


def _history(found: Found, charts: Charts) -> str:
    """Each trial's score, and the best until then."""
    done = [trial for trial in found["trials"] if trial["state"] == "complete"]
    scores = [float(trial["score"]) for trial in done]
    if not done:
        return ""
    best = [max(scores[: k + 1]) for k in range(len(scores))]
    numbers = [int(trial["number"]) for trial in done]
    series = [
        Series("best so far", color_of(0), numbers, best),
        Series("the trial", color_of(1), numbers, scores),
    ]
    return charts.curves(series, "trial", "score")


def _trial(trial: Found, names: list[str]) -> list[str]:
    score = "" if trial["score"] is None else f"{trial['score']:.5g}"
    options = [str(trial["options"].get(name, "")) for name in names]
    return [f"{int(trial['number'])}", trial["state"], score, *options, trial["reason"]]
