"""Pace of training on robots of one's own, against the same task in EnvPool, taken in turn.

    python benchmarks/robots.py --rounds 30

Env steps per second of training on HalfCheetah-v5: written as a robot's task and stepped by MuJoCo's batch
engine, against EnvPool's, and with six fields of the model drawn for every episode, against the same without.
Both sides train at the same time, but only one of them runs, a second and a half each, as in `against.py`.
Prints medians, the middle half, and the ratio round by round (above 1: the side named first is faster), and
writes benchmarks/results/robots.json.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Mapping

from against import TURN, answer, middle
from common import HERE, OURS, ROOT, Results, env_of

SETTING = "--num-steps 64 --minibatch 256 --epochs 4 --hidden 64 64"
ROBOT = "surefoot.robots.tasks.gymnasium:HalfCheetah"
# name: the side that is measured and what it is measured against, each with its task
CASES = {
    "engine": {"robot": ROBOT, "EnvPool": "HalfCheetah-v5"},
    "randomized": {"six fields drawn": "robot_tasks:Randomized", "none": ROBOT},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--num-envs", type=int, nargs="+", default=[64, 16])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    results = Results("robots")
    for case in options.cases:
        for num_envs in options.num_envs:
            setting = f"--num-envs {num_envs} {SETTING}"
            rates = take_turns(CASES[case], setting, options.rounds)
            name = f"{case} {num_envs}x64"
            results.save(name, {"setting": setting, "tasks": CASES[case], "rates": rates})
            report(name, rates)


def take_turns(tasks: Mapping[str, str], setting: str, rounds: int) -> dict[str, list[float]]:
    """Env steps per second of every side, round by round; one of the processes runs, the others wait."""
    script = [str(OURS), str(HERE / "sides/of_surefoot.py")]
    endless = ["--turn", str(TURN), "--iterations", "1000000"]
    sides = {
        name: subprocess.Popen(
            [*script, "--task", task, *setting.split(), *endless],
            env=env_of(ROOT),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for name, task in tasks.items()
    }
    try:
        for side in sides.values():
            answer(side)  # compiled, and waiting
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(rounds + 1):
            for name in sides if turn % 2 else reversed(sides):
                sides[name].stdin.write("\n")
                sides[name].stdin.flush()
                rates[name].append(answer(sides[name])["rate"])
        return {name: values[1:] for name, values in rates.items()}  # the first turn warms up
    finally:
        for side in sides.values():
            side.kill()
            side.wait()


def report(case: str, rates: Mapping[str, list[float]]) -> None:
    """A line: what each side had, and the ratio round by round."""
    first, second = rates.values()
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    each = ", ".join(f"{name} {middle(values, ',.0f')}" for name, values in rates.items())
    print(f"{case:<17} {each} steps/s: ratio {middle(ratios, '.3f')}", flush=True)


if __name__ == "__main__":
    main()
