"""Whether a change left the pace as it was: a commit and this checkout, taken in turn.

    python benchmarks/against.py f1b20e3 --repeats 5

Env steps per second of training, seconds from the command to the first finished update with and without
compiled programs at hand, and peak memory; medians, ranges, and the ratio pair by pair (above 1: this
checkout does better). Each run is a process of its own and goes by its own tree's sides/of_surefoot.py.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from common import OURS, ROOT, checkout, run_side, spread
from start import first_update

# name: arguments of sides/of_surefoot.py
CASES = {
    "8x256": "--task HalfCheetah-v5 --num-envs 8 --num-steps 256 --minibatch 64 --epochs 10 --hidden 64 64",
    "64x256": "--task HalfCheetah-v5 --num-envs 64 --num-steps 256 --minibatch 2048 --epochs 5 "
    "--hidden 128 64 32",
    "go1": "--task Go1JoystickFlatTerrain-v1 --num-envs 32 --num-steps 32 --minibatch 256 --epochs 4 "
    "--hidden 128 128",
    "gymnax": "--task gymnax:CartPole-v1 --num-envs 16 --num-steps 128 --minibatch 128 --epochs 4 "
    "--hidden 64 64 --iterations 200",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", metavar="BASE", help="commit to compare with")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--starts", type=int, default=5, help="how often to start, cold and warm")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, checkout(options.base, Path(name) / "base") as base:
        trees = (base, ROOT)
        for case in options.cases:
            pairs = [
                [pace(tree, f"{CASES[case]} --seed {repeat}") for tree in trees]
                for repeat in range(options.repeats)
            ]
            report(case, [[x["rate"] for x in pair] for pair in pairs], ",.0f", "steps/s")
            report(
                case, [[x["peak_mib"] for x in pair] for pair in pairs], ",.0f", "MiB", less=True
            )
        starts: list[list[list[float]]] = [[], []]
        for k in range(options.starts):
            for i, kind in enumerate(starts):
                folders = [Path(name) / f"{tree.name}{k}" for tree in trees]
                kind.append(
                    [
                        first_update("HalfCheetah-v5", folder / str(i), folder / "cache", tree)
                        for tree, folder in zip(trees, folders, strict=True)
                    ]
                )
        for kind, pairs in zip(("cold start", "warm start"), starts, strict=True):
            if pairs:
                report(kind, pairs, ".2f", "s", less=True)


def pace(tree: Path, arguments: str) -> dict:
    """A run of a tree, with its own script."""
    result = run_side(OURS, ["of_surefoot.py"], arguments.split(), tree)
    if "error" in result:
        raise SystemExit(f"{tree}: {result['error']}")
    return result


def report(
    case: str, pairs: list[list[float]], form: str, unit: str, *, less: bool = False
) -> None:
    """A line: what each side had, and how much better this checkout is, pair by pair."""
    base, ours = zip(*pairs, strict=True)
    ratios = [a / b if less else b / a for a, b in pairs]
    print(
        f"{case:<11} base {spread(base, form)}, this checkout {spread(ours, form)} {unit}: "
        f"{statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]",
        flush=True,
    )


if __name__ == "__main__":
    main()
