"""How near training comes to what the machine allows: `surefoot bench` on several tasks.

    python benchmarks/limits.py --repeats 3

Writes benchmarks/results/limits.json and prints medians and ranges.
"""

from __future__ import annotations

import argparse
import json

from common import Results, spread, surefoot

CASES = {
    "HalfCheetah-v5": "HalfCheetah-v5",
    "HalfCheetah-v5, 64 environments": (
        "HalfCheetah-v5 --num-envs 64 --num-steps 128 --num-minibatches 128"
    ),
    "Hopper-v5": "Hopper-v5",
    "Go1, 64 environments": "Go1JoystickFlatTerrain-v1 --preset go1",
    "Go1, 128 environments": "Go1JoystickFlatTerrain-v1 --preset go1 --num-envs 128 --num-steps 32",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    results = Results("limits")
    for case in options.cases:
        command = [
            "bench",
            *CASES[case].split(),
            "--seconds",
            str(options.seconds),
            "--quick",
            "--json",
        ]
        runs = [json.loads(surefoot(*command)) for _ in range(options.repeats)]
        results.save(case, {"setting": CASES[case], "runs": runs})
        rows = {
            "simulator alone, steps/s": (
                [r["simulator"]["steps_per_second"] for r in runs],
                ",.0f",
            ),
            "training, steps/s": ([r["steps_per_second"] for r in runs], ",.0f"),
            "in turn, steps/s": ([r["in_turn_steps_per_second"] for r in runs], ",.0f"),
            "share of the limit": ([r["share_of_limit"] for r in runs], ".2f"),
            "share of the simulator's pace": (
                [r["steps_per_second"] / r["simulator"]["steps_per_second"] for r in runs],
                ".2f",
            ),
        }
        print(case)
        for name, (values, form) in rows.items():
            print(f"  {name:<30} {spread(values, form)}", flush=True)


if __name__ == "__main__":
    main()
