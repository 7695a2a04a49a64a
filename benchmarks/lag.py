"""What an older collecting policy costs and gains: learning curves of every kind of overlap.

    python benchmarks/lag.py

Trains each arm on each task and seed (runs that are there already are not repeated), evaluates the
deterministic policy, and thins the training returns to a curve against steps and wall-clock time.
Writes benchmarks/results/lag.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
from common import Results, surefoot

ARMS = {
    "off": "--overlap off",
    "exact": "--overlap exact",
    "full, behaviour": "--overlap full --lag-correction behaviour",
    "full, vtrace": "--overlap full --lag-correction vtrace",
    "full, decoupled": "--overlap full --lag-correction decoupled",
}
TASKS = ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"]
POINTS = 40


def one_run(task: str, arm: str, seed: int, options: argparse.Namespace) -> dict:
    """Train and evaluate, or read what an earlier call left."""
    name = f"{task}-{arm.replace(', ', '-')}-{options.total_steps}-seed{seed}"
    folder = options.runs / name
    answer = folder / "evaluation.json"
    if not answer.exists():
        budget = ["--total-steps", str(options.total_steps), "--seed", str(seed)]
        surefoot("train", task, *budget, "--run-dir", str(folder), *ARMS[arm].split())
        answer.write_text(surefoot("eval", str(folder), "--episodes", "20", "--json"))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "seed": seed,
        "final": json.loads(answer.read_text())["episode_return_mean"],
        "seconds": rows[-1]["wall_time_s"] - rows[1]["wall_time_s"],  # compilation left out
        "steps_timed": rows[-1]["step"] - rows[1]["step"],
        "lag_ratio_max": max(row.get("async/ratio_max", 1.0) for row in rows),
        "effective_sample_share": min(row.get("async/effective_sample_share", 1.0) for row in rows),
        "curve": curve(rows),
    }


def curve(rows: list[dict]) -> list[tuple[int, float, float]]:
    """(steps, seconds, mean return of the episodes that ended since the point before)."""
    points = []
    for part in np.array_split(np.arange(len(rows)), POINTS):
        some = [rows[i] for i in part if rows[i].get("rollout/episodes")]
        if not some:
            continue
        episodes = sum(row["rollout/episodes"] for row in some)
        total = sum(row["rollout/episode_return"] * row["rollout/episodes"] for row in some)
        points.append((some[-1]["step"], some[-1]["wall_time_s"], total / episodes))
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--total-steps", type=int, default=500_000)
    parser.add_argument("--runs", type=Path, default=Path("runs/lag"))
    options = parser.parse_args()
    results = Results("lag")
    for task in options.tasks:
        runs: dict[str, list[dict]] = {arm: [] for arm in options.arms}
        for seed in range(options.seeds):
            for arm in options.arms:
                runs[arm].append(one_run(task, arm, seed, options))
        results.save(task, {"total_steps": options.total_steps, "arms": runs})
        print(f"{task}, {options.total_steps:,} steps")
        for arm, rows in runs.items():
            finals = [row["final"] for row in rows]
            pace = statistics.median(row["steps_timed"] / row["seconds"] for row in rows)
            each = ", ".join(f"{x:.0f}" for x in finals)
            print(
                f"  {arm:<16} {statistics.mean(finals):7.0f} ({each}), {pace:,.0f} steps/s",
                flush=True,
            )


if __name__ == "__main__":
    main()
