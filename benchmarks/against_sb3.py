"""Env steps per second of training, Surefoot against Stable-Baselines3, taken in turn.

    python benchmarks/against_sb3.py --repeats 3

Same task, same networks, same batch, same epochs; both normalise observations and rewards. Each run is
a process of its own and leaves out its first iteration (compilation, warm-up). Writes
benchmarks/results/against_sb3.json and prints medians, ranges and the ratio pair by pair.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def rate(python: Path, script: str, arguments: list[str]) -> float:
    """Steps per second of one run in its own process."""
    command = [str(python), str(HERE / script), *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout.strip().splitlines()[-1])
    return result["steps"] / result["seconds"]


def spread(values: list[float], form: str) -> str:
    """Median and range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="HalfCheetah-v5")
    parser.add_argument("--num-envs", default="8")
    parser.add_argument("--num-steps", default="256")
    parser.add_argument("--minibatch", default="64")
    parser.add_argument("--epochs", default="10")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-python", type=Path, default=Path(".bench-venv/bin/python"))
    options = parser.parse_args()
    setting = [
        *("--task", options.task, "--num-envs", options.num_envs),
        *("--num-steps", options.num_steps, "--minibatch", options.minibatch),
        *("--epochs", options.epochs),
    ]
    ours, theirs = [], []
    for repeat in range(options.repeats):
        seed = ["--seed", str(repeat)]
        ours.append(rate(Path(sys.executable), "surefoot_speed.py", setting + seed))
        theirs.append(rate(options.peer_python, "sb3_halfcheetah.py", setting + seed))
        print(f"surefoot {ours[-1]:,.0f}  sb3 {theirs[-1]:,.0f} steps/s", flush=True)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(f"surefoot {spread(ours, ',.0f')} steps/s, median [range] of {options.repeats}")
    print(f"sb3      {spread(theirs, ',.0f')} steps/s")
    print(f"ratio    {spread(ratios, '.2f')}")
    result = {
        "setting": vars(options) | {"peer_python": None},
        "machine": platform.processor() or platform.machine(),
        "surefoot": ours,
        "sb3": theirs,
        "ratio": ratios,
    }
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    (folder / "against_sb3.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
