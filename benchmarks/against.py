"""Whether a change left the pace as it was: a commit and this checkout, taking turns.

    python benchmarks/against.py f1b20e3 --turns 30

Env steps per second of training: both sides train at the same time, but only one of them runs, a second
and a half each, so that a machine whose pace changes changes it for both. Then seconds from the command to
the first finished update with and without compiled programs at hand. Medians, the middle half, and the
ratio turn by turn (above 1: this checkout does better), with the peak of memory at the end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from common import HERE, OURS, ROOT, checkout, env_of
from start import first_update

TURN = 1.5  # seconds
# name: arguments of sides/of_surefoot.py
CASES = {
    "8x256": "--task HalfCheetah-v5 --num-envs 8 --num-steps 256 --minibatch 64 --epochs 10 --hidden 64 64",
    "64x256": "--task HalfCheetah-v5 --num-envs 64 --num-steps 256 --minibatch 2048 --epochs 5 "
    "--hidden 128 64 32",
    "go1": "--task Go1JoystickFlatTerrain-v1 --num-envs 32 --num-steps 32 --minibatch 256 --epochs 4 "
    "--hidden 128 128",
    "gymnax": "--task gymnax:CartPole-v1 --num-envs 16 --num-steps 128 --minibatch 128 --epochs 4 "
    "--hidden 64 64",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", metavar="BASE", help="commit to compare with")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--starts", type=int, default=5, help="how often to start, cold and warm")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, checkout(options.base, Path(name) / "base") as base:
        trees = (base, ROOT)
        for case in options.cases:
            turns = take_turns(trees, CASES[case], options.turns)
            report(case, [[x["rate"] for x in pair] for pair in turns], ",.0f", "steps/s")
            report(case, [[x["peak_mib"] for x in turns[-1]]], ",.0f", "MiB", less=True)
        for kind in ("cold", "warm"):
            pairs = [
                [
                    first_update(
                        "HalfCheetah-v5", Path(name) / f"{kind}{k}{i}", cache_of(name, k, i), tree
                    )
                    for i, tree in enumerate(trees)
                ]
                for k in range(options.starts)
            ]
            if pairs:
                report(f"{kind} start", pairs, ".2f", "s", less=True)


def cache_of(folder: str, repeat: int, side: int) -> Path:
    """Where a repeat's programs are kept."""
    return Path(folder) / f"cache{repeat}{side}"


def take_turns(trees: tuple[Path, Path], arguments: str, turns: int) -> list[list[dict]]:
    """What each side measured in each turn; one of the two processes always waits."""
    command = [
        str(OURS),
        str(HERE / "sides/of_surefoot.py"),
        *arguments.split(),
        "--turn",
        str(TURN),
    ]
    command += ["--iterations", "1000000"]
    sides = [
        subprocess.Popen(
            command, env=env_of(tree), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for tree in trees
    ]
    try:
        for side in sides:
            answer(side)  # compiled, and waiting
        measured = []
        for turn in range(turns + 1):
            pair = {}
            for i in (0, 1) if turn % 2 else (1, 0):
                sides[i].stdin.write("\n")
                sides[i].stdin.flush()
                pair[i] = answer(sides[i])
            measured.append([pair[0], pair[1]])
        return measured[1:]  # the first turn warms up
    finally:
        for side in sides:
            side.kill()
            side.wait()


def answer(side: subprocess.Popen[str]) -> dict:
    """What a side printed next."""
    line = side.stdout.readline()
    if not line:
        raise SystemExit(f"a side ended with {side.wait()}")
    return json.loads(line)


def report(
    case: str, pairs: list[list[float]], form: str, unit: str, *, less: bool = False
) -> None:
    """A line: what each side had, and how much better this checkout is, turn by turn."""
    base, ours = zip(*pairs, strict=True)
    ratios = [a / b if less else b / a for a, b in pairs]
    print(
        f"{case:<11} base {middle(base, form)}, this checkout {middle(ours, form)} {unit}: "
        f"ratio {middle(ratios, '.3f')}",
        flush=True,
    )


def middle(values: Iterable[float], form: str) -> str:
    """Median and the middle half."""
    values = sorted(values)
    if len(values) < 2:
        return f"{values[0]:{form}}"
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:{form}} [{low:{form}}, {high:{form}}]"


if __name__ == "__main__":
    main()
