"""Surefoot's side of `speed.py`; prints one JSON line. The first iterations are left out."""

from __future__ import annotations

import argparse
import json
import resource
import time

from surefoot.config import Config
from surefoot.training import Hook, train

SKIPPED = 2  # compilation, warm-up


class Laps(Hook):
    """Wall time and steps at the end of each iteration."""

    def __init__(self) -> None:
        self.laps: list[tuple[float, int]] = []

    def on_iteration(self, state, metrics) -> None:
        """Note the time."""
        self.laps.append((time.perf_counter(), state.step))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", default="HalfCheetah-v5")
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--num-steps", type=int, default=256)
    parser.add_argument("--minibatch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--overlap", default="exact")
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    batch = options.num_envs * options.num_steps
    config = Config(
        total_steps=batch * (options.iterations + SKIPPED),
        num_envs=options.num_envs,
        num_steps=options.num_steps,
        num_minibatches=batch // options.minibatch,
        num_epochs=options.epochs,
        actor_hidden=tuple(options.hidden),
        critic_hidden=tuple(options.hidden),
        learning_rate_schedule="constant",
        overlap=options.overlap,
        seed=options.seed,
    )
    laps = Laps()
    train(options.task, config, hooks=[laps])
    (began, first), (ended, last) = laps.laps[SKIPPED - 1], laps.laps[-1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"steps": last - first, "seconds": ended - began, "peak_mib": peak}))


if __name__ == "__main__":
    main()
