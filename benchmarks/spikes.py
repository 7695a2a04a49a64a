"""Why clipping the gradient alone is worse than nothing in clipping's place: what Adam makes of its spikes.

    python benchmarks/spikes.py --seeds 3

Trains Hopper-v5 without clipping, with and without gradient clipping, and reads the actor's checkpoints:
the gradient's norm as Adam's second moment remembers it, the length of Adam's steps, how far the weights
have moved, and the policy's standard deviation. Runs that are there already are not repeated. Writes
benchmarks/results/spikes.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from common import Results, spread, surefoot
from safetensors.numpy import load_file

from surefoot.config import Config

ARMS = {"no clip": "inf", "no clip + gradient clipping": "0.5"}
ADAM = "learners.actor.opt_state.1"


def train(max_grad_norm: str, seed: int, options: argparse.Namespace) -> Path:
    """The folder of a run, trained if it is not there."""
    folder = options.runs / f"{max_grad_norm}-{seed}"
    if not folder.exists():
        arm = ["--clip-epsilon", "inf", "--max-grad-norm", max_grad_norm, "--seed", str(seed)]
        kept = ["--checkpoint-every", "50000", "--keep-checkpoints", "100"]
        budget = ["--total-steps", str(options.total_steps)]
        surefoot("train", "Hopper-v5", *arm, *kept, *budget, "--run-dir", str(folder))
    return folder


def examine(folder: Path) -> dict:
    """What the checkpoints of a run say of the actor's steps."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    states = [load_file(x) for x in sorted(folder.glob("checkpoints/*/trainer.safetensors"))]
    norms, steps, weights, stds = [], [], [], []
    for state in states:
        first, second = state[f"{ADAM}.mu"], state[f"{ADAM}.nu"]
        norms.append(float(np.sqrt(second.sum())))
        taken = first / (np.sqrt(second) + Config().adam_epsilon)
        steps.append(float(np.sqrt(np.mean(taken**2))))
        actor = {k: v for k, v in state.items() if k.startswith("learners.actor.params.")}
        stds.append(np.exp(actor.pop("learners.actor.params.log_std")) + Config().min_std)
        weights.append(np.concatenate([x.ravel() for _, x in sorted(actor.items())]))
    return {
        "gradient_norm_median": float(np.median([row["optim/grad_norm"] for row in rows])),
        "gradient_norm_in_second_moment": float(np.median(norms)),
        "step_over_learning_rate": float(np.median(steps)),
        "weights_moved": float(np.linalg.norm(weights[-1] - weights[0])),
        "std_of_first_checkpoint": float(stds[0].mean()),
        "std_of_last_checkpoint": float(stds[-1].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--total-steps", type=int, default=1_000_000)
    parser.add_argument("--runs", type=Path, default=Path("runs/spikes"))
    options = parser.parse_args()
    results = Results("spikes")
    for arm, max_grad_norm in ARMS.items():
        runs = [examine(train(max_grad_norm, seed, options)) for seed in range(options.seeds)]
        results.save(arm, {"total_steps": options.total_steps, "runs": runs})
        print(arm)
        for name in runs[0]:
            print(f"  {name}: {spread((run[name] for run in runs), '.3g')}")


if __name__ == "__main__":
    main()
