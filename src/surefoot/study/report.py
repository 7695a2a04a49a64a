"""The report: one page that opens anywhere, with the charts and their library inside."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from surefoot.config import option_names
from surefoot.config_file import toml_value
from surefoot.errors import UserError
from surefoot.services.run_folder import META, METRICS, read_config
from surefoot.study.charts import Charts, Series, color_of
from surefoot.study.results import interval, score_form
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
        ValueError: the study has not come to its end.
    """
    file = folder / "results.json"
    if not file.is_file():
        raise UserError(
            f"{str(folder)!r} has no results yet: the study has not come to its end; "
            f"`surefoot study {folder}` continues it"
        )
    found = json.loads(file.read_text(encoding="utf-8"))
    provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    charts = Charts()
    arms = list(found["options"])
    parts = [
        *_head(found),
        *_verdicts(found),
        _toggles(arms),
        *_curves(found, charts),
        *_forests(found, charts),
        *_profiles(found, charts),
        *_diagnostics(found, charts),
        *_options(found),
        *_failures(found),
        *_provenance(provenance),
    ]
    return _page(f"{found['study']}: {found['question'] or 'study'}", parts, charts)


def runs_page(folders: Sequence[Path]) -> str:
    """A report of plain runs as HTML, each a curve.

    Raises:
        ValueError: a folder holds no run, or a run without a single iteration.
    """
    runs = {}
    for folder in folders:
        task, config = read_config(folder)
        file = folder / METRICS
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        if not lines:
            raise UserError(f"{str(folder)!r} holds a run without a finished iteration")
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        runs[str(folder)] = (task, config, _rows(lines), meta)
    charts, names = Charts(), list(runs)
    parts = [f"<h1>{len(runs)} run{'s' * (len(runs) > 1)}</h1>", *_run_table(runs), _toggles(names)]
    for metric in _RUN_CHARTS:
        series = [
            Series(name, color_of(k), *_thinned(rows, metric))
            for k, (name, (_, _, rows, _)) in enumerate(runs.items())
        ]
        parts += [f"<h2>{escape(metric)}</h2>", f"<p class=soft>{escape(MEANINGS[metric])}</p>"]
        log = metric in _LOGARITHMIC
        parts.append(charts.curves(series, "environment steps", metric, log=log))
    configs = {name: config for name, (_, config, _, _) in runs.items()}
    parts += _config_differences(configs)
    for name, (_, _, _, meta) in runs.items():
        parts += [f"<h3>{escape(name)}</h3>", *_provenance(meta)]
    return _page("Surefoot: runs", parts, charts)


def _rows(lines: Sequence[str]) -> list[dict[str, Any]]:
    """The iterations of a run; the last line of one that is at work may not be complete yet."""
    with contextlib.suppress(json.JSONDecodeError):
        return [json.loads(line) for line in lines]
    return [json.loads(line) for line in lines[:-1]]


def _page(title: str, parts: Sequence[str], charts: Charts) -> str:
    template = resources.files("surefoot.study").joinpath("page.html").read_text(encoding="utf-8")
    library, script = charts.embedded()
    return Template(template).substitute(
        title=escape(title), library=library, body="\n".join(parts), charts=script
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, text: Sequence[int] = ()) -> str:
    """HTML of a table; `rows` are HTML already, columns in `text` may wrap."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = [f"<tr>{cells}</tr>"]
    for row in rows:
        marked = ("<td class=text>" if k in text else "<td>" for k in range(len(row)))
        lines.append(
            "<tr>" + "".join(f"{td}{x}</td>" for td, x in zip(marked, row, strict=True)) + "</tr>"
        )
    return "<div class=wide><table>" + "\n".join(lines) + "</table></div>"


def _number(found: Found | None, form: str) -> str:
    """`2513 [2391, 2632]`, or a dash."""
    return "&ndash;" if found is None else interval(found, form)


def _head(found: Found) -> Iterator[str]:
    title = found["question"] or found["study"]
    budgets = ", ".join(f"{task} {steps:,} steps" for task, steps in found["total_steps"].items())
    yield f"<h1>{escape(title)}</h1>"
    yield (
        f"<p class=soft>Study {escape(found['study'])}: {found['seeds']} seeds of each arm, paired with "
        f"{escape(found['baseline'])}; {escape(budgets)}.</p>"
    )


def _verdicts(found: Found) -> Iterator[str]:
    yield "<h2>Verdict</h2>"
    baseline = found["baseline"]
    head = ["arm", "mean", "IQM", f"against {baseline}", "P(better run)", "verdict", "10% takes"]
    for task, arms in found["tasks"].items():
        yield f"<h3>{escape(task)}</h3>"
        yield _table(
            head,
            [
                _verdict_row(name, arm, name == baseline, score_form(arms))
                for name, arm in arms.items()
            ],
        )
        yield "<ul>"
        for arm in arms.values():
            if "sentence" in arm:
                yield f"<li>{escape(arm['sentence'])}</li>"
        yield "</ul>"
    across = found["across_tasks"].get("arms", {})
    if len(found["tasks"]) > 1 and across:
        yield "<h3>All tasks</h3><ul>"
        for arm in across.values():
            if "sentence" in arm:
                yield f"<li>{escape(arm['sentence'])}</li>"
        yield "</ul>"
    if found["gaps"]:
        yield "<h3>What the algorithm buys, and what the code-level options buy</h3>"
        rows = [
            [
                escape(t),
                *(_number(g[gap], score_form(found["tasks"][t])) for gap in ("AAI", "ACLI")),
            ]
            for t, g in found["gaps"].items()
        ]
        yield _table(["task", "AAI", "ACLI"], rows)
    count = sum("verdict" in arm for arms in found["tasks"].values() for arm in arms.values())
    yield (
        "<p class=soft>Scores are a run's mean return over the last tenth of its evaluations. In "
        "brackets: 95% intervals over seeds. The difference is between runs of the same seed, in "
        f"units of the mean of {escape(baseline)}. A verdict names a winner by chance in 1 of 20 "
        f"comparisons of equal arms; there are {count} here. The last column: seeds needed to show a "
        "difference of 10% four times out of five.</p>"
    )


def _verdict_row(name: str, arm: Found, is_baseline: bool, form: str) -> list[str]:
    failed = f" <span class=worse>({arm['failed']} failed)</span>" if arm["failed"] else ""
    row = [escape(name) + failed, _number(arm.get("mean"), form), _number(arm.get("iqm"), form)]
    if is_baseline or "verdict" not in arm:
        return [*row, "&ndash;", "&ndash;", "baseline" if is_baseline else "too few runs", ""]
    verdict = arm["verdict"]
    style = f" class={verdict.split(',')[0]}" if verdict != "no difference shown" else ""
    needed = arm["seeds_to_show_10_percent"]
    relative = arm["relative"]
    return [
        *row,
        _number(arm["difference"], form) if relative is None else _number(relative, "+.0%"),
        _number(arm["probability_of_improvement"], ".2f"),
        f"<span{style}>{verdict}</span>",
        "&ndash;" if needed is None else f"{needed:,} seeds",
    ]


def _toggles(arms: Sequence[str]) -> str:
    buttons = (
        f'<button aria-pressed="true" data-arm="{escape(arm)}">'
        f'<i style="background:{color_of(k)}"></i>{escape(arm)}</button>'
        for k, arm in enumerate(arms)
    )
    return f'<div id="arms" aria-label="show or hide">{"".join(buttons)}</div>'


def _curves(found: Found, charts: Charts) -> Iterator[str]:
    yield "<h2>Learning curves</h2>"
    yield "<p class=soft>Return of the deterministic policy, mean over seeds with 95% intervals.</p>"
    for task, arms in found["tasks"].items():
        series = [
            Series(name, color_of(k), c["steps"], c["mean"], c["low"], c["high"])
            for k, (name, arm) in enumerate(arms.items())
            if (c := arm.get("curve"))
        ]
        yield f"<h3>{escape(task)}</h3>"
        yield charts.curves(series, "environment steps", "return")


def _forests(found: Found, charts: Charts) -> Iterator[str]:
    yield f"<h2>Difference from {escape(found['baseline'])}</h2>"
    yield "<p class=soft>In percent of its mean, paired seeds, 95% intervals.</p>"
    for task, arms in found["tasks"].items():
        rows = [
            (name, color_of(k), arm["relative"])
            for k, (name, arm) in enumerate(arms.items())
            if arm.get("relative")
        ]
        if rows:
            yield f"<h3>{escape(task)}</h3>"
            yield charts.forest(rows)


def _profiles(found: Found, charts: Charts) -> Iterator[str]:
    across = found["across_tasks"]
    if not across.get("arms"):
        return
    yield "<h2>Performance profile</h2>"
    yield (
        "<p class=soft>Share of runs whose score exceeds a share of the baseline's mean, over all "
        "tasks. A curve above another is better throughout.</p>"
    )
    arms = list(found["options"])
    series = [
        Series(name, color_of(arms.index(name)), across["thresholds"], arm["profile"])
        for name, arm in across["arms"].items()
    ]
    yield charts.curves(series, f"score / mean of {found['baseline']}", "share of runs")


def _diagnostics(found: Found, charts: Charts) -> Iterator[str]:
    yield "<h2>What explains it</h2>"
    for task, arms in found["tasks"].items():
        yield f"<h3>{escape(task)}</h3><div class=small>"
        names = sorted({name for arm in arms.values() for name in arm.get("diagnostics", {})})
        for metric in names:
            series = []
            for k, (name, arm) in enumerate(arms.items()):
                values = arm.get("diagnostics", {}).get(metric)
                if values is not None:
                    whole = found["total_steps"][task]
                    steps = [whole * (i + 0.5) / len(values) for i in range(len(values))]
                    series.append(Series(name, color_of(k), steps, values))
            log = metric in _LOGARITHMIC
            yield "<figure>"
            yield charts.curves(
                series, "environment steps", metric, height=220, hover=False, log=log
            )
            yield f"<figcaption>{escape(metric)}: {escape(MEANINGS[metric])}</figcaption></figure>"
        yield "</div>"


def _options(found: Found) -> Iterator[str]:
    yield "<h2>What the arms change</h2>"
    rows = []
    for arm, options in found["options"].items():
        changes = ", ".join(f"{name} = {value}" for name, value in options.items())
        rates = ", ".join(
            f"{task}: {arms[arm]['learning_rate']:.2g}"
            for task, arms in found["tasks"].items()
            if "learning_rate" in arms[arm]
        )
        tuned = f"learning rate chosen: {rates}" if rates else ""
        rows.append([escape(arm), escape("; ".join(x for x in (changes, tuned) if x) or "nothing")])
    yield _table(["arm", "options"], rows, text=[1])


def _failures(found: Found) -> Iterator[str]:
    yield "<h2>Failed runs</h2>"
    if not found["failed"]:
        yield "<p>None.</p>"
        return
    rows = [
        [escape(x["task"]), escape(x["arm"]), str(x["seed"]), escape(x["error"])]
        for x in found["failed"]
    ]
    yield _table(["task", "arm", "seed", "error"], rows, text=[3])


def _provenance(meta: Found) -> Iterator[str]:
    yield "<h2>Provenance</h2>"
    versions = ", ".join(
        f"{name} {version}" for name, version in meta["versions"].items() if version
    )
    git = meta.get("git") or {}
    facts = {
        "command": " ".join(meta["command"]),
        "versions": versions,
        "python": meta["python"],
        "platform": meta["platform"],
        "processor": f"{meta['processor']}, {meta['cores']} cores",
        "finished" if "study" in meta else "started": meta["started"],
        "commit": f"{git['commit']}{'' if git['clean'] else ' with changes'}" if git else "none",
    }
    yield _table(["", ""], [[escape(k), escape(str(v))] for k, v in facts.items()], text=[1])


def _run_table(runs: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for name, (task, config, lines, _) in runs.items():
        last = [
            r["rollout/episode_return"]
            for r in lines
            if r.get("rollout/episode_return") is not None
        ]
        shown = f"{sum(last[-10:]) / len(last[-10:]):.4g}" if last else "&ndash;"
        seconds = f"{lines[-1]['wall_time_s']:,.0f} s"
        rows.append(
            [escape(name), escape(task), str(config.seed), f"{lines[-1]['step']:,}", shown, seconds]
        )
    head = ["run", "task", "seed", "steps", "return (last 10 iterations)", "time"]
    yield _table(head, rows, text=[0])


def _config_differences(configs: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Options that differ</h2>"
    rows = []
    for option in option_names():
        values = [toml_value(getattr(config, option)) for config in configs.values()]
        if len(set(values)) > 1:
            rows.append([escape(option), *map(escape, values)])
    if rows:
        yield _table(["option", *configs], rows)
    else:
        yield "<p>None.</p>"


def _thinned(rows: Sequence[Found], metric: str) -> tuple[list[float], list[float | None]]:
    """At most `_POINTS` points (steps, mean of the iterations since the point before)."""
    told = [(row["step"], row[metric]) for row in rows if row.get(metric) is not None]
    size = max(1, -(-len(told) // _POINTS))
    parts = [told[i : i + size] for i in range(0, len(told), size)]
    return [part[-1][0] for part in parts], [sum(y for _, y in part) / len(part) for part in parts]
