"""Surefoot's side of the benchmarks; prints one JSON line. The first iterations are left out."""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import time

import jax
import numpy as np

from surefoot.config import Config
from surefoot.training import Hook, train, train_seeds
from surefoot.training.fused import REPORTS

SKIPPED = 2  # iterations of compilation and warm-up
SKIPPED_SCANS = 2  # the same where several iterations are one program


class Laps(Hook):
    """Wall time and steps at the end of each iteration, and all metrics but times.

    Args:
        turn: seconds after which the steps and the time are printed, and a line on standard input is waited
            for; none: no turns.
    """

    def __init__(self, turn: float | None = None) -> None:
        self.laps: list[tuple[float, int]] = []
        self.metrics = hashlib.sha256()
        self._turn, self._began = turn, (0.0, 0)

    def on_iteration(self, state, metrics) -> None:
        """Note the time."""
        self.laps.append((time.perf_counter(), state.step))
        if self._turn is not None and len(self.laps) >= SKIPPED:
            self._take_turns(*self.laps[-1])
        timeless = {k: v for k, v in metrics.items() if not k.startswith(("time/", "wall_time"))}
        self.metrics.update(json.dumps(timeless).encode())

    def _take_turns(self, now: float, step: int) -> None:
        began, first = self._began
        if len(self.laps) > SKIPPED and now - began < self._turn:
            return
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rate = (step - first) / (now - began)
        print(json.dumps({"rate": rate, "peak_mib": peak}), flush=True)
        sys.stdin.readline()
        self._began = (time.perf_counter(), step)


def fingerprint(tree) -> str:
    """Of all numbers in a tree."""
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
    return hashlib.sha256(b"".join(leaves)).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", default="HalfCheetah-v5")
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--num-steps", type=int, default=256)
    parser.add_argument("--minibatch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--value-clip", type=float, default=None)
    parser.add_argument("--entropy", type=float, default=0.0)
    parser.add_argument("--raw", action="store_true", help="normalize and scale nothing")
    parser.add_argument("--overlap", default="exact")
    parser.add_argument("--memory", default="off")
    parser.add_argument("--turn", type=float, help="seconds of a turn (see Laps)")
    parser.add_argument("--fused", action="store_true", help="the whole training in the graph")
    parser.add_argument("--env-options", nargs="*", default=[])
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    batch = options.num_envs * options.num_steps
    minibatches = batch // options.minibatch
    memory = {}  # benchmarks/against.py runs this on commits that know of none
    if options.memory != "off":
        memory = {"memory": options.memory, "memory_minibatches": minibatches}
    config = Config(
        total_steps=batch * (options.iterations + SKIPPED),
        num_envs=options.num_envs,
        num_steps=options.num_steps,
        num_minibatches=minibatches,
        num_epochs=options.epochs,
        actor_hidden=tuple(options.hidden),
        critic_hidden=tuple(options.hidden),
        value_clip_epsilon=options.value_clip,
        entropy_coef=options.entropy,
        normalize_observations=not options.raw,
        scale_rewards=not options.raw,
        env_options=tuple(options.env_options),
        learning_rate_schedule="constant",
        overlap=options.overlap,
        seed=options.seed,
        **memory,
    )
    laps = Laps(options.turn)
    if options.fused:
        [(_, policy)] = train_seeds(options.task, config, hooks=[[laps]])
        skipped = SKIPPED_SCANS * -(-len(laps.laps) // REPORTS)
    else:
        _, policy = train(options.task, config, hooks=[laps])
        skipped = SKIPPED
    (began, first), (ended, last) = laps.laps[skipped - 1], laps.laps[-1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "steps": last - first,
                "seconds": ended - began,
                "peak_mib": peak,
                "metrics": laps.metrics.hexdigest(),
                "policy": fingerprint(policy),
            }
        )
    )


if __name__ == "__main__":
    main()
