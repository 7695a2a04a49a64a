"""Learning on real tasks: train with the default configuration, evaluate, write the table.

    python benchmarks/learning_curves.py                       # the table of docs/results.md
    python benchmarks/learning_curves.py --tasks Hopper-v5 gymnasium:Hopper-v5 --name paths

Every run is a process of its own (`surefoot train`, then `surefoot eval --json`); runs that are there
already are not repeated. Writes benchmarks/results/NAME.json and prints a Markdown table with means and
(sample) standard deviations over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from common import surefoot

TASKS = ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "InvertedPendulum-v5"]
HERE = Path(__file__).parent


def one_run(task: str, seed: int, options: argparse.Namespace) -> dict:
    """Train and evaluate, or read what an earlier call left."""
    folder = options.runs / f"{task.replace(':', '-')}-{options.total_steps}-seed{seed}"
    answer = folder / "evaluation.json"
    if answer.exists():
        return json.loads(answer.read_text())
    began = time.perf_counter()
    if folder.exists():
        raise SystemExit(f"{folder} has no evaluation: an earlier run broke off; remove it")
    budget = ["--total-steps", str(options.total_steps), "--seed", str(seed)]
    surefoot("train", task, *budget, "--run-dir", str(folder), *options.extra)
    seconds = time.perf_counter() - began
    result = json.loads(surefoot("eval", str(folder), "--episodes", "20", "--json"))
    result |= {"task": task, "seed": seed, "train_seconds": seconds}
    answer.write_text(json.dumps(result))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--total-steps", type=int, default=1_000_000)
    parser.add_argument("--runs", type=Path, default=Path("runs/learning_curves"))
    parser.add_argument("--name", default="learning_curves")
    parser.add_argument("extra", nargs="*", help="after --: options passed on to surefoot train")
    options = parser.parse_args()
    results: dict[str, list[dict]] = {task: [] for task in options.tasks}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for task in options.tasks:
            result = one_run(task, seed, options)
            results[task].append(result)
            print(
                f"{task} seed {seed}: {result['episode_return_mean']:.1f} "
                f"in {result['train_seconds']:.0f} s",
                flush=True,
            )
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{options.name}.json").write_text(json.dumps(results, indent=2) + "\n")
    print("| task | mean | std over seeds | each seed | train time, median |")
    print("|---|---|---|---|---|")
    for task, rows in results.items():
        scores = [row["episode_return_mean"] for row in rows]
        std = statistics.stdev(scores) if len(scores) > 1 else float("nan")
        each = ", ".join(f"{score:.0f}" for score in scores)
        seconds = statistics.median(row["train_seconds"] for row in rows)
        mean = statistics.mean(scores)
        print(f"| {task} | {mean:.0f} | {std:.0f} | {each} | {seconds:.0f} s |")


if __name__ == "__main__":
    main()
