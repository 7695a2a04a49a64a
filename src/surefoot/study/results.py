"""From what the runs left to what they show: results.json, as numbers and sentences.

Nothing in it depends on when, where or in how many pieces a study was run.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from surefoot.config_file import toml_value
from surefoot.study import statistics as st
from surefoot.study.bounds import Bounds, around, return_bounds
from surefoot.study.jobs import last_tenth
from surefoot.study.plan import Study
from surefoot.study.statistics import Interval

EFFECT = (
    0.1  # the difference, as a share of the baseline's score, that a study should be able to show
)
THRESHOLDS = np.linspace(0.0, 1.5, 61)
Scores = dict[str, dict[str, dict[int, float]]]  # task -> arm -> seed -> final score

_PAPER = ("PPO", "PPO-M", "TRPO", "TRPO+")


def analyse(
    study: Study, results: Sequence[Mapping[str, Any]], rates: Mapping[tuple[str, str], float]
) -> dict[str, Any]:
    """All that a study shows, as plain numbers, text and lists.

    Args:
        study: what was asked.
        results: what every job left (`jobs.RESULT`).
        rates: learning rates that were chosen by tuning, by task and arm.
    """
    scores: Scores = {task: {arm: {} for arm in study.arms} for task in study.tasks}
    runs: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    failed = []
    for result in results:
        task, arm = result["task"], result["arm"]
        for seed, error in result["errors"].items():
            failed.append({"task": task, "arm": arm, "seed": int(seed), "error": error})
        for seed, run in result["runs"].items():
            scores[task][arm][int(seed)] = run["final"]
            runs.setdefault((task, arm), {})[int(seed)] = run
    bounds = {task: _bounds(study, task, runs) for task in study.tasks}
    tasks = {}
    for task in study.tasks:
        tasks[task] = {
            arm: _of_arm(
                study, task, arm, scores[task], runs.get((task, arm), {}), rates, bounds[task]
            )
            for arm in study.arms
        }
    found = {
        "study": study.name,
        "question": study.question,
        "baseline": study.baseline,
        "seeds": study.seeds,
        "total_steps": {task: config.total_steps for task, config in study.tasks.items()},
        "level": st.LEVEL,
        "tasks": tasks,
        "across_tasks": _across(study, scores, bounds),
        "gaps": _gaps(study, scores),
        "options": _options(study),
        "failed": sorted(failed, key=lambda x: (x["task"], x["arm"], x["seed"])),
    }
    return _finite(found)


def _bounds(
    study: Study, task: str, runs: Mapping[tuple[str, str], Mapping[int, Mapping[str, Any]]]
) -> Bounds:
    of_task = [run for arm in study.arms for run in runs.get((task, arm), {}).values()]
    return around(
        return_bounds(study, task), [x for run in of_task for x in (run["final"], *run["returns"])]
    )


def _finite(value: Any) -> Any:
    """With None in place of what is no number, which JSON has no word for."""
    if isinstance(value, dict):
        return {name: _finite(x) for name, x in value.items()}
    if isinstance(value, list):
        return [_finite(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _of_arm(
    study: Study,
    task: str,
    arm: str,
    scores: Mapping[str, Mapping[int, float]],
    runs: Mapping[int, Mapping[str, Any]],
    rates: Mapping[tuple[str, str], float],
    bounds: Bounds,
) -> dict[str, Any]:
    own, base = scores[arm], scores[study.baseline]
    found: dict[str, Any] = {
        "scores": {str(seed): own[seed] for seed in sorted(own)},
        "failed": study.seeds - len(own),
    }
    if (task, arm) in rates:
        found["learning_rate"] = rates[task, arm]
    if not own:
        return {**found, "sentence": f"{arm}: no run on {task} ended well"}
    mine = np.array([own[seed] for seed in sorted(own)])
    found["mean"] = st.mean_interval([mine]).within(*bounds)._asdict()
    found["iqm"] = st.iqm_interval([mine]).within(*bounds)._asdict()
    found["curve"] = _curve(runs, bounds)
    found["diagnostics"] = _diagnostics(runs)
    found["measures"] = _measures(runs)
    if arm != study.baseline:
        found |= _compare(study, arm, task, own, base, bounds)
    return found


def _compare(
    study: Study,
    arm: str,
    task: str,
    own: Mapping[int, float],
    base: Mapping[int, float],
    bounds: Bounds,
) -> dict[str, Any]:
    seeds = sorted(own.keys() & base.keys())
    if len(seeds) < 2:
        return {"sentence": f"{arm}: {len(seeds)} pair(s) of runs on {task} ended well, too few"}
    mine, theirs = (np.array([x[seed] for seed in seeds]) for x in (own, base))
    differences, widest = st.differences(mine, theirs), bounds[1] - bounds[0]
    difference = st.paired_difference([differences]).within(-widest, widest)
    unit = abs(float(theirs.mean()))
    relative = difference.over(unit) if unit else None
    is_told = bool(unit) and np.ptp(differences) > 0.0  # seeds that are all alike tell of no spread
    needed = st.seeds_to_show(differences, EFFECT * unit) if is_told else None
    verdict = verdict_of(difference, more_failed=len(own) < len(base))
    told = sentence(arm, study.baseline, task, difference, relative, len(seeds), verdict)
    if missing := study.seeds - len(own):
        told += f" ({missing} of {study.seeds} runs failed)"
    if needed is not None:
        count = f"more than {st.MOST_SEEDS:,}" if needed >= st.MOST_SEEDS else f"{needed:,}"
        told += f". To show a difference of {EFFECT:.0%} takes {count} seeds"
    return {
        "pairs": len(seeds),
        "difference": difference._asdict(),
        "relative": None if relative is None else relative._asdict(),
        "probability_of_improvement": st.probability_of_improvement([mine], [theirs])._asdict(),
        "verdict": verdict,
        "seeds_to_show_10_percent": needed,
        "sentence": told,
    }


def verdict_of(difference: Interval, *, more_failed: bool = False) -> str:
    """`better` or `worse` where the interval leaves out zero, else `no difference shown`.

    An arm more of whose runs failed than the baseline's is not better for those that remain.
    """
    if difference.low > 0.0:
        return "better, but more runs failed" if more_failed else "better"
    return "worse" if difference.high < 0.0 else "no difference shown"


def score_form(arms: Mapping[str, Any]) -> str:
    """The format of a task's scores: the decimals that give the largest mean four digits."""
    largest = max(
        (abs(arm["mean"]["estimate"]) for arm in arms.values() if "mean" in arm), default=0
    )
    return form_of(largest, 4)


def form_of(largest: float, digits: int) -> str:
    """The format whose decimals give the largest of some numbers so many digits."""
    if not largest:
        return f".{digits}g"
    return f".{max(0, digits - 1 - math.floor(math.log10(largest)))}f"


def interval(found: Mapping[str, Any], form: str) -> str:
    """E.g. `2513 [2391, 2632]`."""
    if found["low"] is None:
        return f"{found['estimate']:{form}} (no interval)"
    return f"{found['estimate']:{form}} [{found['low']:{form}}, {found['high']:{form}}]"


def sentence(
    arm: str,
    baseline: str,
    where: str,
    difference: Interval,
    relative: Interval | None,
    seeds: int,
    verdict: str,
) -> str:
    """E.g. `no clip: -3% [-11%, +6%] against PPO on Hopper-v5, 10 seeds: no difference shown`."""
    form, found = (".4g", difference) if relative is None else (".0%", relative)
    bounds = f" [{found.low:+{form}}, {found.high:+{form}}]" if math.isfinite(found.low) else ""
    return f"{arm}: {found.estimate:+{form}}{bounds} against {baseline} on {where}, {seeds} seeds: {verdict}"


def _across(study: Study, scores: Scores, bounds: Mapping[str, Bounds]) -> dict[str, Any]:
    """Every arm over all tasks, in units of the baseline's mean on each; {} where that has no unit."""
    base = {task: np.array(list(scores[task][study.baseline].values())) for task in study.tasks}
    if any(len(x) == 0 or x.mean() == 0.0 for x in base.values()):
        return {}
    found: dict[str, Any] = {"thresholds": THRESHOLDS.tolist(), "arms": {}}
    units = {task: float(x.mean()) for task, x in base.items()}
    low, high = np.mean(
        [st.normalized(np.array(bounds[task]), units[task]) for task in study.tasks], axis=0
    )
    for arm in study.arms:
        mine, theirs, differences = [], [], []
        for task, unit in units.items():
            own, others = scores[task][arm], scores[task][study.baseline]
            seeds = sorted(own.keys() & others.keys())
            pair = [np.array([x[seed] for seed in seeds]) for x in (own, others)]
            mine.append(st.normalized(pair[0], unit))
            theirs.append(st.normalized(pair[1], unit))
            if seeds:
                differences.append(st.differences(*pair) / abs(unit))
        if min(len(x) for x in mine) < 2:
            continue
        of_arm: dict[str, Any] = {
            "mean": st.mean_interval(mine).within(low, high)._asdict(),
            "iqm": st.iqm_interval(mine).within(low, high)._asdict(),
            "profile": st.performance_profile(mine, THRESHOLDS).tolist(),
        }
        if arm != study.baseline:
            difference = st.paired_difference(differences).within(low - high, high - low)
            chance = st.probability_of_improvement(mine, theirs)
            where = f"{len(study.tasks)} tasks" if len(study.tasks) > 1 else next(iter(study.tasks))
            pairs, baseline = min(len(x) for x in mine), study.baseline
            counts = [[len(scores[t][a]) for t in study.tasks] for a in (arm, baseline)]
            verdict = verdict_of(difference, more_failed=sum(counts[0]) < sum(counts[1]))
            of_arm |= {
                "difference": difference._asdict(),
                "probability_of_improvement": chance._asdict(),
                "verdict": verdict,
                "sentence": sentence(arm, baseline, where, difference, difference, pairs, verdict),
            }
        found["arms"][arm] = of_arm
    return found


def _gaps(study: Study, scores: Scores) -> dict[str, Any]:
    """AAI and ACLI of arXiv 2005.12729 on each task, where the study has that paper's arms."""
    if not all(arm in study.arms for arm in _PAPER):
        return {}
    gaps = {}
    for task in study.tasks:
        seeds = sorted(set.intersection(*(set(scores[task][arm]) for arm in _PAPER)))
        if len(seeds) < 2:
            continue
        ppo, ppo_m, trpo, trpo_plus = (
            np.array([scores[task][arm][seed] for seed in seeds]) for arm in _PAPER
        )
        gaps[task] = {
            "AAI": st.largest_gap([(ppo, trpo_plus), (ppo_m, trpo)])._asdict(),
            "ACLI": st.largest_gap([(ppo, ppo_m), (trpo_plus, trpo)])._asdict(),
        }
    return gaps


def _curve(runs: Mapping[int, Mapping[str, Any]], bounds: Bounds) -> dict[str, Any]:
    """Returns against steps: mean over seeds at each evaluation, with its interval."""
    length = min(len(run["returns"]) for run in runs.values())
    returns = np.array([runs[seed]["returns"][:length] for seed in sorted(runs)])
    steps = np.mean([runs[seed]["steps"][:length] for seed in sorted(runs)], axis=0)
    points = [point.within(*bounds) for point in st.curve_intervals(returns)]
    mean, low, high = map(list, zip(*points, strict=True))
    return {"steps": steps.tolist(), "mean": mean, "low": low, "high": high}


def _diagnostics(runs: Mapping[int, Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Each diagnostic along the run, mean over the seeds that report it."""
    names = sorted({name for run in runs.values() for name in run["diagnostics"]})
    found: dict[str, list[float | None]] = {}
    for name in names:
        curves = [run["diagnostics"][name] for run in runs.values() if name in run["diagnostics"]]
        columns = zip(*curves, strict=False)
        found[name] = [_mean([x for x in column if x is not None]) for column in columns]
    return found


def _measures(runs: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """What was measured beside the return: at the end as scores are taken, and at each evaluation."""
    found: dict[str, Any] = {}
    told = [runs[seed].get("measures", {}) for seed in sorted(runs)]
    for name in sorted({name for measures in told for name in measures}):
        curves = [measures.get(name, ()) for measures in told]
        curves = [curve for curve in curves if curve and None not in curve]
        if len(curves) == len(runs):  # not where a run did not come to tell
            ends = np.array([np.mean(last_tenth(curve)) for curve in curves])
            columns = zip(*curves, strict=False)
            found[name] = st.mean_interval([ends])._asdict() | {"curve": [*map(_mean, columns)]}
    return found


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values and all(map(math.isfinite, values)) else None


def _options(study: Study) -> dict[str, dict[str, str]]:
    """What each arm changes, as TOML values by option."""
    return {
        arm: {name: toml_value(value) for name, value in options.items()}
        for arm, options in study.arms.items()
    }


def to_csv(results: Sequence[Mapping[str, Any]]) -> str:
    """One line for each evaluation of each run; a failed run has one line with its error.

    A text that a spreadsheet would calculate begins with an apostrophe, which makes it a text there.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = sorted(
        {n for r in results for run in r["runs"].values() for n in run.get("measures", ())}
    )
    head = ["task", "arm", "seed", "learning_rate", "step", "return", "final", "error"]
    writer.writerow([*head, *names])
    for result in results:
        head = [_as_text(result["task"]), _as_text(result["arm"])]
        for seed in result["seeds"]:
            run = result["runs"].get(str(seed))
            start = [*head, seed, result["learning_rate"]]
            if run is None:
                error = _as_text(result["errors"][str(seed)])
                writer.writerow([*start, "", "", "", error])
                continue
            told = [run.get("measures", {}).get(name) for name in names]
            for i, (step, value) in enumerate(zip(run["steps"], run["returns"], strict=True)):
                measured = [curve[i] if curve else None for curve in told]
                writer.writerow([*start, step, value, run["final"], "", *measured])
    return text.getvalue()


def _as_text(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text
