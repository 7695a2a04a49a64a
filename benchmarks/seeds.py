"""What it costs to train 32 seeds of a task written in JAX in one program, in solo runs.

    python benchmarks/seeds.py --repeats 3

Whole commands are timed, compilation included, each with a compilation cache of its own that a run
before has filled. Writes benchmarks/results/seeds.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from common import Results, spread, surefoot

TRAIN = ["train", "gymnax:CartPole-v1"]


def timed(folder: Path, *arguments: str) -> float:
    """Seconds of one command."""
    began = time.perf_counter()
    surefoot(*TRAIN, "--run-dir", str(folder), *arguments)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-seeds", type=int, default=32)
    parser.add_argument("--total-steps", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    budget = ["--total-steps", str(options.total_steps)]
    together = [*budget, "--num-seeds", str(options.num_seeds)]
    solo, seeds = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "programs")
        timed(folder / "first", *budget)
        timed(folder / "first-seeds", *together)
        for k in range(options.repeats):
            solo.append(timed(folder / f"solo{k}", *budget))
            seeds.append(timed(folder / f"seeds{k}", *together))
    cost = [b / a for a, b in zip(solo, seeds, strict=True)]
    case = f"gymnax:CartPole-v1, {options.num_seeds} seeds x {options.total_steps} steps"
    Results("seeds").save(case, {"solo_seconds": solo, "together_seconds": seeds})
    print(case)
    print(f"  one solo run  {spread(solo, '.1f')} s")
    print(f"  all seeds     {spread(seeds, '.1f')} s, as {spread(cost, '.1f')} solo runs")


if __name__ == "__main__":
    main()
