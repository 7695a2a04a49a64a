"""What --video-every costs a run: its pace beside the same run without, and that no byte differs.

    python benchmarks/videos.py --repeats 3

Pairs of runs, each in a process of its own, in turn; a pair has the same seed. A video is always in
the making, which is the worst case. Writes benchmarks/results/videos.json.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from common import OURS, Results, spread

from surefoot.services.run_folder import METRICS, read_metrics

TASKS = {"robot:Go1Walk": 600_000, "HalfCheetah-v5": 300_000}
EVERY = 20_000  # steps; sooner than a video is ready


def main() -> None:
    """Run the pairs, print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    results = Results("videos")
    for task in options.tasks:
        pairs = [
            (train(task, seed, videos=False), train(task, seed, videos=True))
            for seed in range(options.repeats)
        ]
        same = all(a["policy"] == b["policy"] for a, b in pairs)
        results.save(task, {"steps": TASKS[task], "pairs": pairs, "same_bytes": same})
        print(task)
        for k, name in enumerate(("without", "with videos")):
            print(f"  {name:<12} {spread((pair[k]['rate'] for pair in pairs), ',.0f')} steps/s")
        print(f"  ratio        {spread((b['rate'] / a['rate'] for a, b in pairs), '.3f')}")
        print(f"  videos       {[b['videos'] for _, b in pairs]}")
        print(f"  {'the same bytes' if same else 'DIFFERENT BYTES'}", flush=True)


def train(task: str, seed: int, *, videos: bool) -> dict[str, Any]:
    """One run: steps per second of its second half, when it is compiled, and its policy's SHA-256."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [str(OURS), "-m", "surefoot", "train", task, "--seed", str(seed)]
        command += ["--total-steps", str(TASKS[task]), "--run-dir", str(run)]
        command += ["--checkpoint-every", "None"]
        began = time.perf_counter()
        subprocess.run(
            [*command, *(["--video-every", str(EVERY)] if videos else [])],
            check=True,
            capture_output=True,
        )
        rows, _ = read_metrics(run / METRICS)
        half = rows[len(rows) // 2 :]
        steps = half[-1]["step"] - half[0]["step"]
        return {
            "rate": steps / (half[-1]["wall_time_s"] - half[0]["wall_time_s"]),
            "seconds": time.perf_counter() - began,
            "videos": len([*run.glob("videos/*.mp4")]),
            "policy": hashlib.sha256((run / "policy.safetensors").read_bytes()).hexdigest(),
        }


if __name__ == "__main__":
    main()
