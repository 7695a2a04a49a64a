"""What training with a world that is not quite the model's is worth: a Go1 under perturbations it never saw.

    python benchmarks/reality.py [--seeds 5] [--episodes 100] [--total-steps N]

Two policies for each seed: one of the plain robot:Go1Walk, one trained with noise, delay, pushes and random
load, centre of mass and motors (sides/reality_tasks.py). Both are played, deterministically, on the plain
task and on each perturbation, all of which lie outside what the second one was trained with. Writes
benchmarks/results/reality.json; runs that are there already are not repeated.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from common import Results
from sides.reality_tasks import PERTURBED, Hardened

from surefoot.api import train
from surefoot.envs import make_environment
from surefoot.robots.task import RobotTask
from surefoot.robots.tasks.quadrupeds import Go1Walk
from surefoot.training import evaluate, to_key

ARMS: dict[str, type[RobotTask]] = {"plain": Go1Walk, "hardened": Hardened}


def one_run(arm: str, seed: int, episodes: int, total_steps: int | None) -> dict[str, dict]:
    """Return, falls and errors of a policy, on the plain task and under each perturbation."""
    options = {} if total_steps is None else {"total_steps": total_steps}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        result = train(ARMS[arm](), run_dir=folder, progress=False, seed=seed, **options)
    found = {}
    for task in (Go1Walk, *PERTURBED):
        env = make_environment(task(), 20, seed=np.random.SeedSequence(7))
        key = to_key(np.random.SeedSequence(8))
        played = evaluate(result.policy.policy, env, episodes, key=key)
        env.close()
        found[task.__name__] = {
            "return": played["episode_return_mean"],
            "falls": 1 - played["truncated_share"],
            "linear": played["measure/linear_error"],
            "turning": played["measure/turning_error"],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--total-steps", type=int)
    options = parser.parse_args()
    results = Results("reality")
    for seed in range(options.seeds):
        for arm in ARMS:
            runs = results.cases.get(arm, {})
            if str(seed) not in runs:
                runs[str(seed)] = one_run(arm, seed, options.episodes, options.total_steps)
                results.save(arm, runs)
            kept = {
                name: found["return"] / runs[str(seed)]["Go1Walk"]["return"]
                for name, found in runs[str(seed)].items()
            }
            print(
                f"{arm}, seed {seed}: " + ", ".join(f"{n} {x:.0%}" for n, x in kept.items()),
                flush=True,
            )
    table(results.cases)


def table(cases: dict[str, dict]) -> None:
    """Share of the own return on the plain task that is kept, and falls: mean over seeds."""
    names = ["Go1Walk", *(task.__name__ for task in PERTURBED)]
    print(f"{'':<12}" + "".join(f"{arm:>24}" for arm in cases))
    kept: dict[str, list[float]] = {arm: [] for arm in cases}
    for name in names:
        row = f"{name:<12}"
        for arm, runs in cases.items():
            seeds = [run for key, run in runs.items() if key.isdigit()]
            share = float(
                np.mean([run[name]["return"] / run["Go1Walk"]["return"] for run in seeds])
            )
            falls = float(np.mean([run[name]["falls"] for run in seeds]))
            kept[arm] += [share] if name != "Go1Walk" else []
            row += f"{share:>13.0%}, {falls:>4.0%} fall"
        print(row)
    print(f"{'all':<12}" + "".join(f"{np.mean(kept[arm]):>24.0%}" for arm in cases))


if __name__ == "__main__":
    main()
