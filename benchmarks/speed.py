"""Env steps per second of training, Surefoot against its peers, taken in turn.

    python benchmarks/speed.py --repeats 3

Same task, layer widths, batch, minibatches and epochs. Observations are normalised on every side, rewards
by Surefoot, SB3 and SBX; rl_games normalises values and shares one trunk, as its own configuration does. Each
run is a process of its own and leaves out its first iterations (compilation, warm-up). Writes
benchmarks/results/speed.json and prints medians, ranges, the ratio pair by pair, and peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SIDES = {
    "sb3": ["of_sb3.py", "--library", "sb3"],
    "sbx": ["of_sb3.py", "--library", "sbx"],
    "rl_games": ["of_rl_games.py"],
}
# name: setting, peers
CASES = {
    "HalfCheetah-v5 8x256": (
        "--task HalfCheetah-v5 --num-envs 8 --num-steps 256 --minibatch 64 --epochs 10 --hidden 64 64",
        ["sb3", "sbx"],
    ),
    "HalfCheetah-v5 1x2048": (
        "--task HalfCheetah-v5 --num-envs 1 --num-steps 2048 --minibatch 64 --epochs 10 --hidden 64 64",
        ["sb3"],
    ),
    "HalfCheetah-v5 64x256": (
        "--task HalfCheetah-v5 --num-envs 64 --num-steps 256 --minibatch 2048 --epochs 5 "
        "--hidden 128 64 32",
        ["rl_games"],
    ),
}


def run(python: Path, side: list[str], arguments: list[str]) -> dict:
    """One run in its own process: steps per second and peak memory."""
    command = [str(python), str(HERE / "sides" / side[0]), *side[1:], *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        return {"error": f"{python}: {error.strerror}; `make bench` installs the peers"}
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr else "no output"}
    result = json.loads(done.stdout.strip().splitlines()[-1])
    return {"rate": result["steps"] / result["seconds"], "peak_mib": result["peak_mib"]}


def spread(values: list[float], form: str) -> str:
    """Median and range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]"


def measure(setting: str, peers: list[str], options: argparse.Namespace) -> dict:
    """All sides of one case in turn, `repeats` times."""
    sides = {"surefoot": (Path(sys.executable), ["of_surefoot.py"])}
    sides |= {name: (options.peer_python, SIDES[name]) for name in peers}
    results: dict[str, list[dict]] = {name: [] for name in sides}
    for repeat in range(options.repeats):
        arguments = [*setting.split(), "--seed", str(repeat)]
        for name, (python, side) in sides.items():
            results[name].append(run(python, side, arguments))
            print(f"  {name}: {results[name][-1]}", flush=True)
    return {"setting": setting, "runs": results}


def report(case: str, measured: dict) -> None:
    """The table of one case."""
    runs = measured["runs"]
    print(f"{case}: {measured['setting']}")
    for name, results in runs.items():
        failed = [r["error"] for r in results if "error" in r]
        if failed:
            print(f"  {name:<10} failed {len(failed)} of {len(results)}: {failed[0]}")
            continue
        memory = statistics.median(r["peak_mib"] for r in results)
        line = f"  {name:<10} {spread([r['rate'] for r in results], ',.0f')} steps/s, {memory:,.0f} MiB"
        ours = [r["rate"] for r in runs["surefoot"] if "rate" in r]
        if name != "surefoot" and len(ours) == len(results):
            ratios = [a / b["rate"] for a, b in zip(ours, results, strict=True)]
            line += f", ratio {spread(ratios, '.2f')}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-python", type=Path, default=Path(".bench-venv/bin/python"))
    parser.add_argument("--name", default="speed")
    options = parser.parse_args()
    file = HERE / "results" / f"{options.name}.json"
    file.parent.mkdir(exist_ok=True)
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    results = json.loads(file.read_text()) if file.exists() else {}
    for case in options.cases:
        setting, peers = CASES[case]
        print(case, flush=True)
        results[case] = machine | measure(setting, peers, options)
        file.write_text(json.dumps(results, indent=2) + "\n")
        report(case, results[case])


if __name__ == "__main__":
    main()
