"""Warm start: robot:Go1Rough from nothing, and from the policy of robot:Go1Walk, over several seeds.

    python benchmarks/warm_start.py [--seeds 3] [--steps 4000000] [--walk-steps 1500000] [--every 200000]
        [--sides "fresh networks" "the walker"]

Each seed trains Go1Walk once, then Go1Rough three times with the same options: with fresh networks,
`--from` the walker, and `--from` it with `--from-critic`. What is compared is the deterministic
policy, by `--eval-every`, on environments of its own. A side's steps are those of Go1Rough at the
first evaluation whose return is at least a share of the best that the fresh networks of the same
seed ever came to, for each of `--shares`; the walker's own steps are listed beside, as somebody had
to train it. Writes benchmarks/results/warm_start.json; runs that are there already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import OURS, Results

SOURCE, TARGET = "robot:Go1Walk", "robot:Go1Rough"
SIDES: dict[str, list[str]] = {
    "fresh networks": [],
    "the walker": ["--from", "SOURCE"],
    "the walker and its critic": ["--from", "SOURCE", "--from-critic"],
}
Curve = list[list[float]]  # steps, return


def train(task: str, folder: Path, seed: int, steps: int, *more: str) -> None:
    """A run of the command, in a process of its own."""
    command = [str(OURS), "-m", "surefoot", "train", task, "--run-dir", str(folder)]
    command += ["--seed", str(seed), "--total-steps", str(steps), *more]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def one_seed(
    seed: int, run: dict[str, Any], options: argparse.Namespace, save: Callable[[], None]
) -> None:
    """The evaluations of every side that `run` lacks, by what it begins with, and the walker's steps."""
    missing = [side for side in options.sides if side not in run["curves"]]
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "walk"
        for side in missing:
            if "--from" in SIDES[side] and not source.exists():
                train(SOURCE, source, seed, options.walk_steps, *options.more)
                run["walk_steps"] = json.loads((source / "policy.json").read_text())["step"]
            rough = Path(name) / f"rough-{len(run['curves'])}"
            own = [str(source) if word == "SOURCE" else word for word in SIDES[side]]
            own += ["--eval-every", str(options.every), "--eval-episodes", str(options.episodes)]
            train(TARGET, rough, seed, options.steps, *own, *options.more)
            run["curves"][side] = curve_of(rough)
            save()


def curve_of(run: Path) -> Curve:
    """Steps and returns of a run's evaluations."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [
        [row["step"], row["eval/episode_return"]] for row in rows if "eval/episode_return" in row
    ]
    if not found:
        raise SystemExit(f"{run}: not one evaluation; --every must be below --steps")
    return found


def steps_to(curve: Sequence[Sequence[float]], goal: float) -> float | None:
    """Steps at the first evaluation that came to a return; None if none did."""
    return next((step for step, value in curve if value >= goal), None)


def goal_of(run: Mapping[str, Any], share: float) -> float:
    """The share of the best return that fresh networks came to; of a loss, as much again beside it."""
    best = max(value for _, value in run["curves"]["fresh networks"])
    return best - (1 - share) * abs(best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--steps", type=int, default=4_000_000, help=f"of {TARGET}")
    parser.add_argument("--walk-steps", type=int, default=1_500_000, help=f"of {SOURCE}")
    parser.add_argument("--every", type=int, default=200_000, help="steps between evaluations")
    parser.add_argument("--episodes", type=int, default=40, help="of an evaluation")
    parser.add_argument(
        "--shares",
        type=float,
        nargs="+",
        default=[0.8, 0.9, 0.95, 1.0],
        help="of the best return of fresh networks",
    )
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="options of every run")
    parser.add_argument("--results", default="warm_start", help="name of the file of results")
    options = parser.parse_args()
    about = {
        name: value
        for name, value in vars(options).items()
        if name not in ("seeds", "sides", "shares", "results")
    }
    results = Results(options.results)
    found = results.cases.get("runs", {})
    if found and found["about"] != about:
        raise SystemExit(f"{results.file} is of {found['about']}; name another with --results")
    runs: dict[str, Any] = found.get("seeds", {})
    for seed in range(options.seeds):
        run = runs.setdefault(str(seed), {"seed": seed, "walk_steps": None, "curves": {}})
        if "fresh networks" not in (*run["curves"], *options.sides):
            raise SystemExit(f"seed {seed} has no fresh networks to compare with; add that side")
        one_seed(seed, run, options, lambda: results.save("runs", {"about": about, "seeds": runs}))
        print(f"seed {seed}; the walker's own steps: {run['walk_steps']}")
        for side, curve in run["curves"].items():
            steps = [steps_to(curve, goal_of(run, share)) for share in options.shares]
            each = ", ".join("never" if x is None else f"{x:,.0f}" for x in steps)
            best = max(value for _, value in curve)
            print(f"  {side:<25} {each}; first {curve[0][1]:.4g}, best {best:.4g}")
    for share in options.shares:
        print(f"{share:.0%} of the best of fresh networks:")
        print(summary(runs, share))


def summary(runs: Mapping[str, Any], share: float) -> str:
    """Median steps of each side, and in how many seeds it took fewer than fresh networks."""
    lines = []
    for side in SIDES:
        pairs = [
            (
                steps_to(run["curves"][side], goal_of(run, share)),
                steps_to(run["curves"]["fresh networks"], goal_of(run, share)),
            )
            for run in runs.values()
            if side in run["curves"]
        ]
        if not pairs:
            continue
        reached = [steps for steps, _ in pairs if steps is not None]
        fewer = sum(
            steps is not None and fresh is not None and steps < fresh for steps, fresh in pairs
        )
        middle = f"{statistics.median(reached):,.0f}" if len(reached) == len(pairs) else "none"
        lines.append(
            f"{side:<25} median steps {middle}; fewer than fresh in {fewer} of {len(pairs)} seeds"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
