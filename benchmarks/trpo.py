"""What TRPO learns in a million steps, here and in sb3-contrib, with sb3-contrib's published settings.

    python benchmarks/trpo.py --seeds 5

The settings are those of rl-baselines3-zoo, hyperparams/trpo.yml, for the task's v4 (the same for both
tasks). Each trained policy is played deterministically for 20 episodes in Gymnasium. Runs that are there
already are not repeated. Writes benchmarks/results/trpo.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from common import PEERS, Results, run_side, spread, surefoot
from scipy.stats import ttest_ind

TASKS = ["Hopper-v5", "Walker2d-v5"]
OURS = [
    *("--algorithm", "trpo", "--num-envs", "2", "--num-steps", "1024", "--num-minibatches", "16"),
    *("--num-epochs", "20", "--learning-rate", "1e-3", "--learning-rate-schedule", "constant"),
    *("--cg-steps", "25", "--max-kl", "0.01", "--initial-std", "1.0", "--max-grad-norm", "inf"),
    *("--policy-output-scale", "0.01", "--advantage-normalization", "batch"),
]


def ours(task: str, seed: int, options: argparse.Namespace) -> dict:
    """Train and evaluate, or read what an earlier call left."""
    folder = options.runs / f"{task}-{options.total_steps}-seed{seed}"
    answer = folder / "evaluation.json"
    if not answer.exists():
        budget = ["--total-steps", str(options.total_steps), "--seed", str(seed)]
        surefoot("train", task, *OURS, *budget, "--run-dir", str(folder))
        played = surefoot("eval", str(folder), "--task", f"gymnasium:{task}", "--json")
        answer.write_text(played)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds = rows[-1]["wall_time_s"] - rows[1]["wall_time_s"]
    rate = (rows[-1]["step"] - rows[1]["step"]) / seconds
    return {"final": json.loads(answer.read_text())["episode_return_mean"], "rate": rate}


def theirs(task: str, seed: int, options: argparse.Namespace) -> dict:
    """One run of sb3-contrib."""
    arguments = ["--task", task, "--seed", str(seed), "--total-steps", str(options.total_steps)]
    return run_side(PEERS, ["trpo_sb3.py"], arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--sides", nargs="+", choices=["surefoot", "sb3-contrib"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--total-steps", type=int, default=1_000_000)
    parser.add_argument("--runs", type=Path, default=Path("runs/trpo"))
    options = parser.parse_args()
    results = Results("trpo")
    sides = {"surefoot": ours, "sb3-contrib": theirs}
    for task in options.tasks:
        case = results.cases.get(task, {"total_steps": options.total_steps, "sides": {}})
        for seed in range(options.seeds):
            for side in options.sides or sides:
                runs = case["sides"].setdefault(side, {})
                if str(seed) not in runs:
                    runs[str(seed)] = sides[side](task, seed, options)
                    results.save(task, case)
        scores = []
        for side, runs in case["sides"].items():
            done = [run for run in runs.values() if "error" not in run]
            scores.append(finals := [run["final"] for run in done])
            deviation = statistics.stdev(finals) if len(finals) > 1 else float("nan")
            each = ", ".join(f"{x:.0f}" for x in finals)
            rates = spread((run["rate"] for run in done), ",.0f")
            print(
                f"{task} {side}: {statistics.mean(finals):.0f} +- {deviation:.0f} ({each}), {rates} steps/s"
            )
        if len(scores) == 2 and min(map(len, scores)) > 1:
            found = ttest_ind(*scores, equal_var=False).confidence_interval()
            print(
                f"{task}: the first less the second, 95% (Welch): [{found.low:.0f}, {found.high:.0f}]"
            )


if __name__ == "__main__":
    main()
