"""Seconds of training until the deterministic policy is good, each library with its published settings.

    python benchmarks/time_to_target.py --seeds 5

The clock stops while the policy is examined (10 episodes in Gymnasium, every 25,000 steps) and includes
compilation. A run that does not get there within the budget is reported as such. Writes
benchmarks/results/time_to_target.json after every run; runs that are there already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess

from common import HERE, OURS, PEERS, Results

TARGETS = {"HalfCheetah-v5": 4000, "Hopper-v5": 2500}
SIDES = {
    "surefoot": (OURS, ["target_surefoot.py"]),
    "rl_games": (PEERS, ["target_rl_games.py"]),
    "sb3": (PEERS, ["target_sb3.py", "--library", "sb3"]),
    "sbx": (PEERS, ["target_sb3.py", "--library", "sbx"]),
}


def one_run(library: str, task: str, seed: int, options: argparse.Namespace) -> dict:
    """What a side prints last, or its error."""
    python, (script, *own) = SIDES[library]
    command = [str(python), str(HERE / "sides" / script), *own, "--task", task]
    command += ["--target", str(TARGETS[task]), "--seed", str(seed)]
    command += [
        "--most-seconds",
        str(options.most_seconds),
        "--most-steps",
        str(options.most_steps),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr else "no output"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def report(task: str, library: str, runs: dict[str, dict]) -> None:
    """One line."""
    reached = [run["seconds"] for run in runs.values() if run.get("reached")]
    times = f"median {statistics.median(reached):.0f} s of those" if reached else ""
    errors = [run["error"] for run in runs.values() if "error" in run]
    each = ", ".join(
        f"{run['seconds']:.0f}" if run.get("reached") else f"- ({run.get('return') or 0:.0f})"
        for run in runs.values()
    )
    print(f"{task} {library}: {len(reached)} of {len(runs)} reached it; {times} [{each}]", *errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--libraries", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--most-seconds", type=float, default=600)
    parser.add_argument("--most-steps", type=int, default=1_000_000)
    options = parser.parse_args()
    results = Results("time_to_target")
    for task in options.tasks:
        case = results.cases.get(task, {"target": TARGETS[task], "libraries": {}})
        for seed in range(options.seeds):
            for library in options.libraries:
                runs = case["libraries"].setdefault(library, {})
                if str(seed) not in runs:
                    runs[str(seed)] = one_run(library, task, seed, options)
                    results.save(task, case)
        for library in options.libraries:
            report(task, library, case["libraries"][library])


if __name__ == "__main__":
    main()
