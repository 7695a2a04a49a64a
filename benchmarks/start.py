"""From the command to the first finished update, with and without compiled programs at hand.

    python benchmarks/start.py --repeats 5

Seconds until the first line of metrics.jsonl is there. Writes benchmarks/results/start.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, Results, env_of, spread


def first_update(task: str, folder: Path, cache: Path, tree: Path = ROOT) -> float:
    """Seconds from the start of the process, of a checkout, to the first iteration's metrics."""
    env = env_of(tree) | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", "surefoot", "train", task, "--run-dir", str(folder)]
    began = time.perf_counter()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    metrics = folder / "metrics.jsonl"
    try:
        while not (metrics.exists() and metrics.read_text()):
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
            time.sleep(0.01)
        return time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def help_seconds() -> float:
    """Seconds that `surefoot --help` takes."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "surefoot", "--help"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["HalfCheetah-v5"])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    results = Results("start")
    for task in options.tasks:
        cold, warm = [], []
        with tempfile.TemporaryDirectory() as name:
            for k in range(options.repeats):
                cache = Path(name) / f"cache{k}"
                cold.append(first_update(task, Path(name) / f"cold{k}", cache))
                warm.append(first_update(task, Path(name) / f"warm{k}", cache))
        results.save(task, {"cold_seconds": cold, "warm_seconds": warm})
        print(f"{task}: cold {spread(cold, '.2f')} s, warm {spread(warm, '.2f')} s", flush=True)
    helps = [help_seconds() for _ in range(options.repeats)]
    results.save("--help", {"seconds": helps})
    print(f"surefoot --help: {spread(helps, '.3f')} s")


if __name__ == "__main__":
    main()
