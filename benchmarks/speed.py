"""Env steps per second of training, Surefoot against its peers, taken in turn.

    python benchmarks/speed.py --repeats 3

Same task, layer widths, batch, minibatches and epochs. Observations are normalized on every side, rewards
by Surefoot, SB3 and SBX; rl_games normalizes values and shares one trunk, as its own configuration does;
rejax and Surefoot on gymnax normalize nothing. Each run is a process of its own and leaves out its first
iterations (compilation, warm-up). Writes benchmarks/results/speed.json and prints medians, ranges, the
ratio pair by pair, and peak memory.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from common import OURS, PEERS, Results, run_side, spread

SIDES = {
    "sb3": ["of_sb3.py", "--library", "sb3"],
    "sbx": ["of_sb3.py", "--library", "sbx"],
    "sb3-contrib": ["of_sb3.py", "--library", "sb3-contrib"],
    "rl_games": ["of_rl_games.py"],
    "rejax": ["of_rejax.py"],
    "surefoot in one program": ["of_surefoot.py", "--fused"],
    "surefoot lstm": ["of_surefoot.py", "--memory", "lstm"],
    "surefoot gru": ["of_surefoot.py", "--memory", "gru"],
}
_GYMNAX = (
    "--task gymnax:CartPole-v1 --num-steps 128 --epochs 4 --hidden 64 64 --value-clip 0.2 "
    "--entropy 0.01 --raw"
)
# name: setting, other sides
CASES = {
    "Hopper-v5 16x128, with memory of 64": (
        "--task Hopper-v5 --num-envs 16 --num-steps 128 --minibatch 512 --epochs 10 --hidden 64 64",
        ["surefoot gru", "surefoot lstm", "sb3-contrib"],
    ),
    "HalfCheetah-v5 8x256": (
        "--task HalfCheetah-v5 --num-envs 8 --num-steps 256 --minibatch 64 --epochs 10 --hidden 64 64",
        ["sb3", "sbx"],
    ),
    "HalfCheetah-v5 1x2048, CleanRL's settings": (
        "--task HalfCheetah-v5 --num-envs 1 --num-steps 2048 --minibatch 64 --epochs 10 "
        "--hidden 64 64 --value-clip 0.2",
        ["sb3"],
    ),
    "HalfCheetah-v5 64x256": (
        "--task HalfCheetah-v5 --num-envs 64 --num-steps 256 --minibatch 2048 --epochs 5 "
        "--hidden 128 64 32",
        ["rl_games"],
    ),
    "gymnax CartPole-v1 16x128": (
        f"{_GYMNAX} --num-envs 16 --minibatch 128 --iterations 200",
        ["rejax", "surefoot in one program"],
    ),
    "gymnax CartPole-v1 256x128": (
        f"{_GYMNAX} --num-envs 256 --minibatch 2048 --iterations 100",
        ["rejax", "surefoot in one program"],
    ),
}


def measure(setting: str, others: list[str], options: argparse.Namespace) -> dict:
    """All sides of one case in turn, `repeats` times."""
    sides = {"surefoot": (OURS, ["of_surefoot.py"])}
    for name in others:
        ours = name.startswith("surefoot")
        sides[name] = (OURS if ours else options.peer_python, SIDES[name])
    results: dict[str, list[dict]] = {name: [] for name in sides}
    for repeat in range(options.repeats):
        arguments = [*setting.split(), "--seed", str(repeat)]
        for name, (python, side) in sides.items():
            results[name].append(run_side(python, side, arguments))
            print(f"  {name}: {results[name][-1]}", flush=True)
    return {"setting": setting, "runs": results}


def report(case: str, measured: dict) -> None:
    """The table of one case."""
    runs = measured["runs"]
    print(f"{case}: {measured['setting']}")
    for name, results in runs.items():
        failed = [r["error"] for r in results if "error" in r]
        if failed:
            print(f"  {name:<24} failed {len(failed)} of {len(results)}: {failed[0]}")
            continue
        memory = statistics.median(r["peak_mib"] for r in results)
        rates = spread([r["rate"] for r in results], ",.0f")
        line = f"  {name:<24} {rates} steps/s, {memory:,.0f} MiB"
        ours = [r["rate"] for r in runs["surefoot"] if "rate" in r]
        if name != "surefoot" and len(ours) == len(results):
            ratios = [a / b["rate"] for a, b in zip(ours, results, strict=True)]
            line += f", ratio {spread(ratios, '.2f')}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-python", type=Path, default=PEERS)
    options = parser.parse_args()
    results = Results("speed")
    for case in options.cases:
        print(case, flush=True)
        results.save(case, measure(*CASES[case], options))
        report(case, results.cases[case])


if __name__ == "__main__":
    main()
