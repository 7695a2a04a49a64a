"""The report: one page that opens anywhere, with the charts and their library inside."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, TemplateError

from surefoot.config import option_names
from surefoot.config_file import toml_value
from surefoot.errors import UserError
from surefoot.reading import few, read_json
from surefoot.services.run_folder import META, METRICS, read_config, read_metrics
from surefoot.study.charts import Charts, Series, color_of
from surefoot.study.results import interval, score_form
from surefoot.terminal import say
from surefoot.training import METRICS as MEANINGS

Found = Mapping[str, Any]

_RUN_CHARTS = (
    "rollout/episode_return",
    "policy/approx_kl",
    "policy/clip_fraction",
    "policy/entropy",
    "value/explained_variance",
    "optim/grad_norm",
)
_POINTS = 200  # of a run's curve
# one arm's may be a thousand times another's
_LOGARITHMIC = ("optim/grad_norm", "policy/approx_kl", "policy/held_out_kl", "policy/ratio_max")


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
    with _as_written(folder):
        found, charts = read_json(file), Charts()
        tasks, steps = found["tasks"], found["total_steps"]
        return _page(
            f"{found['study']}: {found['question'] or 'study'}",
            charts,
            found=found,
            budgets=", ".join(f"{task} {steps[task]:,} steps" for task in steps),
            gaps=_gaps(found),
            comparisons=sum("verdict" in arm for arms in tasks.values() for arm in arms.values()),
            curves={task: _curves(arms, charts) for task, arms in tasks.items()},
            differences={task: _differences(arms, charts) for task, arms in tasks.items()},
            profile=_profile(found, charts),
            measures={task: _measures(arms) for task, arms in tasks.items()},
            diagnostics={
                task: _diagnostics(arms, steps[task], charts) for task, arms in tasks.items()
            },
            changes=_changes(found),
            failed=[[x[k] for k in ("task", "arm", "seed", "error")] for x in found["failed"]],
            facts=_facts(read_json(folder / "provenance.json")),
        )


def runs_page(folders: Sequence[Path]) -> str:
    """A report of plain runs as HTML, each a curve.

    Raises:
        ValueError: a folder holds no run, a run without a single iteration, or files that are not as it
            left them.
    """
    configs, rows, facts, told = {}, {}, {}, []
    for folder in folders:
        name = str(folder)
        task, configs[name] = read_config(folder)
        file = folder / METRICS
        with _as_written(folder):
            rows[name], faults = read_metrics(file) if file.is_file() else ([], [])
            if not rows[name]:
                why = f": {faults[0]}" if faults else ""
                raise UserError(f"{name!r} holds a run without a finished iteration{why}")
            for fault in few(faults):
                say(f"{fault}; it is left out", stderr=True)
            facts[name] = _facts(read_json(folder / META))
            told.append([name, task, configs[name].seed, *_outcome(rows[name])])
    charts, curves = Charts(), {}
    with _as_written(*folders):
        for metric in _RUN_CHARTS:
            series = [
                Series(name, color_of(k), *_thinned(of_run, metric))
                for k, (name, of_run) in enumerate(rows.items())
            ]
            log = metric in _LOGARITHMIC
            curves[metric] = charts.curves(series, "environment steps", metric, log=log)
    different = _different_options(configs)
    title = "Surefoot: runs"
    return _page(
        title, charts, found=None, runs=told, curves=curves, differences=different, facts=facts
    )


@contextlib.contextmanager
def _as_written(*folders: Path) -> Iterator[None]:
    """Refuse files that are not as Surefoot writes them: text for a number, a name that is missing."""
    try:
        yield
    except UserError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        TemplateError,
    ) as e:
        names = ", ".join(repr(str(folder)) for folder in folders)
        raise UserError(f"files in {names} are not as Surefoot writes them: {e!r}") from e


def _page(title: str, charts: Charts, **parts: Any) -> str:
    """The template with its parts, all of which are escaped but the charts, which are data."""
    environment = Environment(
        loader=PackageLoader("surefoot.study", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Bokeh reads a chart in the order it is written in
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    helpers = {"color_of": color_of, "fingerprint": _fingerprint, "meanings": MEANINGS}
    helpers |= {"number": _number, "score_form": score_form}
    page = environment.get_template("report.html.jinja").render(
        title=title, library=charts.library(), charts=charts.drawn, **helpers, **parts
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # a file's name need not be UTF-8


def _fingerprint(script: str) -> str:
    """A script as a Content-Security-Policy names it; what it does not name does not run."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


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
    told = {name: arm.get("measures", {}) for name, arm in arms.items()}
    names = sorted({measure for measures in told.values() for measure in measures})
    return [
        [name, *(_number(of_arm.get(name), ".3g") for of_arm in told.values())] for name in names
    ]


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
        log = metric in _LOGARITHMIC
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


def _facts(meta: Found) -> dict[str, str]:
    """Where a study or a run comes from."""
    versions = ", ".join(
        f"{name} {version}" for name, version in meta["versions"].items() if version
    )
    git = meta.get("git") or {}
    return {
        "command": " ".join(meta["command"]),
        "versions": versions,
        "python": meta["python"],
        "platform": meta["platform"],
        "processor": f"{meta['processor']}, {meta['cores']} cores",
        "finished" if "study" in meta else "started": meta["started"],
        "commit": f"{git['commit']}{'' if git['clean'] else ' with changes'}" if git else "none",
    }


def _outcome(rows: Sequence[Found]) -> list[str]:
    """Steps, return and time of a run."""
    returns = [x for row in rows if (x := row.get("rollout/episode_return")) is not None][-10:]
    shown = f"{sum(returns) / len(returns):.4g}" if returns else "\N{EN DASH}"
    return [f"{rows[-1]['step']:,}", shown, f"{rows[-1]['wall_time_s']:,.0f} s"]


def _different_options(configs: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for option in option_names():
        values = [toml_value(getattr(config, option)) for config in configs.values()]
        if len(set(values)) > 1:
            rows.append([option, *values])
    return rows


def _thinned(rows: Sequence[Found], metric: str) -> tuple[list[float], list[float | None]]:
    """At most `_POINTS` points (steps, mean of the iterations since the point before)."""
    told = [(row["step"], row[metric]) for row in rows if row.get(metric) is not None]
    size = max(1, -(-len(told) // _POINTS))
    parts = [told[i : i + size] for i in range(0, len(told), size)]
    return [part[-1][0] for part in parts], [sum(y for _, y in part) / len(part) for part in parts]
