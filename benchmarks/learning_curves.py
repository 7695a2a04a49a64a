"""What the default configuration learns, by the protocol of docs/results.md, beside what others publish.

    python benchmarks/learning_curves.py [--tasks NAME ...] [--seeds 10] [--total-steps 1000000]
    python benchmarks/learning_curves.py --tasks Hopper-v5 gymnasium:Hopper-v5 --name paths
    python benchmarks/learning_curves.py --tasks Hopper-v5 surefoot.robots.tasks.gymnasium:Hopper --name paths

A run is a process of its own on a core of its own (`surefoot train`, then `surefoot eval`: the deterministic
policy at the last step, 20 episodes on environments it never trained on). Every run is a line of
benchmarks/results/NAME.csv as soon as it is there, and is not repeated. Prints a Markdown table: mean and
interquartile mean over seeds with 95% intervals, sample standard deviation, each seed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from common import HERE, OURS

from surefoot.study.statistics import Interval, iqm_interval, mean_interval

COLUMNS = ["task", "total_steps", "options", "seed", "episodes", "episode_return_mean"]
COLUMNS += ["episode_return_std", "episode_length_mean", "train_seconds"]
# at 1,000,000 steps: best published PPO, and best published on-policy method of any kind: of Tianshou,
# XuanCe, sb3-contrib, rl-baselines3-zoo and arXiv 2005.12729, on v3 to v5 of the tasks
PUBLISHED: dict[str, tuple[float, float]] = {
    "HalfCheetah-v5": (5650, 6500),
    "Hopper-v5": (2483, 3372),
    "Walker2d-v5": (3871, 4502),
    "Ant-v5": (1327, 3554),
    "Humanoid-v5": (740, 1030),
    "Swimmer-v5": (120, 359),
    "Reacher-v5": (-4.5, -3.5),
    "Pusher-v5": (-36, -29),
    "InvertedPendulum-v5": (1000, 1000),
    "InvertedDoublePendulum-v5": (9231, 9231),
}
Row = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(PUBLISHED))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--total-steps", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--name", default="learning_curves", help="of the file of results")
    parser.add_argument("extra", nargs="*", help="after --: options passed on to surefoot train")
    options = parser.parse_args()
    file = HERE / "results" / f"{options.name}.csv"
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    wanted = [(task, seed) for seed in seeds for task in options.tasks]
    found = rows_of(file)
    wanted = [job for job in wanted if not any(_same(row, *job, options) for row in found)]
    cores = sorted(os.sched_getaffinity(0))
    free, writing = list(range(options.workers)), threading.Lock()
    failed: list[str] = []

    def run(job: tuple[str, int]) -> None:
        worker = free.pop()
        try:
            row = one_run(*job, options, core=cores[worker % len(cores)])
        except subprocess.CalledProcessError as error:
            failed.append(f"{job[0]} seed {job[1]}: {error.stderr.strip()[-300:]}")
            return
        finally:
            free.append(worker)
        with writing:
            add(file, row)
        print(
            f"{row['task']} seed {row['seed']}: {float(row['episode_return_mean']):.1f} "
            f"in {float(row['train_seconds']):.0f} s",
            flush=True,
        )

    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(run, wanted))
    print(table(rows_of(file), options))
    if failed:
        raise SystemExit("\n".join(failed))


def one_run(task: str, seed: int, options: argparse.Namespace, core: int) -> Row:
    """Train and evaluate on one core; `overlap` off is what it learns on any number of them."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        train = ["train", task, "--seed", str(seed), "--total-steps", str(options.total_steps)]
        train += ["--overlap", "off", "--run-dir", str(folder), *options.extra]
        on_core(core, train)
        seconds = time.perf_counter() - began
        played = ["eval", str(folder), "--task", task, "--episodes", "20", "--json"]
        found = json.loads(on_core(core, played))
    row = {"task": task, "seed": seed, "total_steps": options.total_steps}
    row |= {"options": " ".join(options.extra), "train_seconds": f"{seconds:.1f}"}
    return {name: str(x) for name, x in (row | found).items() if name in COLUMNS}


def on_core(core: int, words: Sequence[str]) -> str:
    """Standard output of a command of ours that has one core."""
    command = ["taskset", "-c", str(core), str(OURS), "-m", "surefoot", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def rows_of(file: Path) -> list[Row]:
    """The runs that are there."""
    if not file.exists():
        return []
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def add(file: Path, row: Row) -> None:
    """One more line."""
    begins = not file.exists()
    with file.open("a", newline="") as opened:
        writer = csv.DictWriter(opened, COLUMNS, lineterminator="\n")
        if begins:
            writer.writeheader()
        writer.writerow(row)


def _same(row: Row, task: str, seed: int, options: argparse.Namespace) -> bool:
    return row["task"] == task and int(row["seed"]) == seed and _alike(row, options)


def _alike(row: Row, options: argparse.Namespace) -> bool:
    asked = (str(options.total_steps), " ".join(options.extra))
    return (row["total_steps"], row["options"]) == asked


def table(rows: Sequence[Row], options: argparse.Namespace) -> str:
    """Every task's scores; what others publish beside them where that is at as many steps."""
    lines = ["| task | seeds | mean | IQM | std | floor, aim | each seed |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for task in options.tasks:
        own = sorted(
            (row for row in rows if row["task"] == task and _alike(row, options)),
            key=lambda row: int(row["seed"]),
        )
        scores = np.array([float(row["episode_return_mean"]) for row in own])
        if len(scores) < 2:
            continue
        means = [_in_words(f([scores])) for f in (mean_interval, iqm_interval)]
        beside = ""
        if options.total_steps == 1_000_000 and task in PUBLISHED:
            met = ["met" if scores.mean() >= goal else "not met" for goal in PUBLISHED[task]]
            beside = ", ".join(f"{x:g} {y}" for x, y in zip(PUBLISHED[task], met, strict=True))
        std, each = statistics.stdev(scores), ", ".join(f"{score:.4g}" for score in scores)
        cells = [task, str(len(scores)), *means, f"{std:.3g}", beside, each]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _in_words(interval: Interval) -> str:
    return f"{interval.estimate:.4g} [{interval.low:.4g}, {interval.high:.4g}]"


if __name__ == "__main__":
    main()
