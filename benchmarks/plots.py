"""Pictures for the documentation from the files under results/; runs in .bench-venv.

.bench-venv/bin/python benchmarks/plots.py
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
RESULTS, IMAGES = HERE / "results", HERE.parent / "docs/images"
COLORS = ["#1f6feb", "#d1762b", "#2a9d63", "#9b4dca", "#c0392b", "#7a6a00"]


def load(name: str) -> dict:
    """A result file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def save(figure, name: str) -> None:
    """Write a picture."""
    IMAGES.mkdir(exist_ok=True)
    figure.tight_layout()
    figure.savefig(IMAGES / f"{name}.png", dpi=110)
    print(IMAGES / f"{name}.png")


def speed() -> None:
    """Bars of steps per second, a panel for each case."""
    cases = load("speed")
    figure, panels = plt.subplots(len(cases), 1, figsize=(8, 1.0 + 1.05 * len(cases)))
    for axis, (case, result) in zip(np.atleast_1d(panels), cases.items(), strict=True):
        runs = {n: [r["rate"] for r in rows if "rate" in r] for n, rows in result["runs"].items()}
        runs = {name: rates for name, rates in runs.items() if rates}
        names = list(runs)[::-1]
        middles = [statistics.median(runs[name]) for name in names]
        ends = [[m - min(runs[n]), max(runs[n]) - m] for n, m in zip(names, middles, strict=True)]
        colors = [COLORS[0] if name.startswith("surefoot") else "#9aa4ad" for name in names]
        axis.barh(names, middles, xerr=np.array(ends).T, color=colors, ecolor="#444444", height=0.7)
        for y, middle in enumerate(middles):
            color = "white" if names[y].startswith("surefoot") else "black"
            axis.annotate(f" {middle:,.0f}", (0, y), va="center", fontsize=8, color=color)
        axis.set_title(case, loc="left", fontsize=9)
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    np.atleast_1d(panels)[-1].set_xlabel("env steps per second of training (median, range)")
    save(figure, "speed")


def growth() -> None:
    """Pace and memory along each axis."""
    axes = load("growth")
    figure, panels = plt.subplots(len(axes), 2, figsize=(9, 2.1 * len(axes)))
    for row, (name, result) in zip(panels, axes.items(), strict=True):
        points = [p for p in result["points"] if "rate" in p]
        values = [p["value"] for p in points]
        numbers = all(isinstance(v, int) for v in values)
        for axis, key, label in zip(
            row, ("rate", "peak_mib"), ("steps/s", "peak MiB"), strict=True
        ):
            heights = [p[key] for p in points]
            if numbers:
                axis.plot(values, heights, "o-", color=COLORS[0])
                axis.set_xscale("log", base=2)
                axis.set_xticks(values, [str(v) for v in values])
                axis.set_ylim(0, 1.1 * max(heights))
            else:
                axis.bar(values, heights, color=COLORS[0])
                axis.set_yscale("log" if key == "rate" else "linear")
            axis.set_title(f"{name}: {label}", loc="left", fontsize=9)
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=8)
            axis.grid(axis="y", alpha=0.3)
    save(figure, "growth")


def lag() -> None:
    """Learning curves of each kind of overlap, against steps and against time; means over seeds."""
    tasks = load("lag")
    figure, panels = plt.subplots(len(tasks), 2, figsize=(9, 3.0 * len(tasks)), sharey="row")
    for row, (task, result) in zip(np.atleast_2d(panels), tasks.items(), strict=True):
        for color, (arm, runs) in zip(COLORS, result["arms"].items(), strict=False):
            for axis, column in zip(row, (0, 1), strict=True):
                end = min(run["curve"][-1][column] for run in runs)
                grid = np.linspace(0, end, 40)[1:]
                curves = np.array(
                    [np.interp(grid, *np.array(run["curve"]).T[[column, 2]]) for run in runs]
                )
                style = "--" if arm == "exact" else "-"  # lies on top of off
                axis.plot(grid, curves.mean(0), style, color=color, label=arm, lw=1.6)
                axis.spines[["top", "right"]].set_visible(False)
                axis.tick_params(labelsize=8)
                axis.grid(alpha=0.3)
        row[0].set_title(task, loc="left", fontsize=9)
        row[0].set_ylabel("training return, mean of seeds", fontsize=8)
    row[0].set_xlabel("environment steps", fontsize=8)
    row[1].set_xlabel("seconds, start-up and compilation included", fontsize=8)
    np.atleast_2d(panels)[0][0].legend(fontsize=7, frameon=False)
    save(figure, "lag")


def study(name: str) -> None:
    """Learning curves of a study's arms with the intervals of their means, a panel for each task."""
    tasks = load(name)["tasks"]
    figure, panels = plt.subplots(1, len(tasks), figsize=(4.5 * len(tasks), 3.4))
    for axis, (task, arms) in zip(np.atleast_1d(panels), tasks.items(), strict=True):
        for color, (arm, result) in zip(COLORS, arms.items(), strict=False):
            curve = result["curve"]
            axis.plot(curve["steps"], curve["mean"], color=color, label=arm, lw=1.6)
            axis.fill_between(curve["steps"], curve["low"], curve["high"], color=color, alpha=0.12)
        axis.set_title(task, loc="left", fontsize=9)
        axis.set_xlabel("environment steps", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    np.atleast_1d(panels)[0].set_ylabel("return of the deterministic policy", fontsize=8)
    np.atleast_1d(panels)[0].legend(fontsize=7, frameon=False)
    save(figure, name)


def main() -> None:
    for draw in (speed, growth, lag):
        if (RESULTS / f"{draw.__name__}.json").exists():
            draw()
    for name in ("implementation-matters", "clipping"):
        if (RESULTS / f"{name}.json").exists():
            study(name)


if __name__ == "__main__":
    main()
