"""Resident memory over thousands of updates.

    python benchmarks/memory.py --updates 2000

Fits a line through the resident memory of the last three quarters of the run. Linux (reads
/proc/self/statm). Writes benchmarks/results/memory.json.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from common import Results

from surefoot.config import Config
from surefoot.training import Hook, train

CASES = {
    "HalfCheetah-v5, exact": ("HalfCheetah-v5", "exact"),
    "HalfCheetah-v5, full": ("HalfCheetah-v5", "full"),
    "gymnasium:CartPole-v1, exact": ("gymnasium:CartPole-v1", "exact"),
}


class Watch(Hook):
    """Resident MiB every 20 updates."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float]] = []

    def on_iteration(self, state, metrics) -> None:
        """Note it."""
        if state.iteration % 20 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.rows.append((state.iteration, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--updates", type=int, default=2000)
    options = parser.parse_args()
    for case in options.cases:
        task, overlap = CASES[case]
        config = Config(num_envs=8, num_steps=32, num_minibatches=4, num_epochs=4, overlap=overlap)
        watch = Watch()
        train(task, config.replace(total_steps=256 * options.updates), hooks=[watch])
        settled = [row for row in watch.rows if row[0] > options.updates / 4]
        slope, _ = np.polyfit(*np.array(settled).T, 1)
        result = {"updates": options.updates, "mib_per_1000_updates": 1000 * slope}
        Results("memory").save(case, result | {"resident_mib": watch.rows})
        print(
            f"{case}: {watch.rows[0][1]:.0f} MiB at first, {watch.rows[-1][1]:.0f} MiB at last, "
            f"{1000 * slope:+.2f} MiB per 1,000 updates",
            flush=True,
        )


if __name__ == "__main__":
    main()
