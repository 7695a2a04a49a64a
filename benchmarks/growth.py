"""How pace and memory grow with environments, minibatch, width and the task's cost.

    python benchmarks/growth.py

Each point is a process of its own. Writes benchmarks/results/growth.json.
"""

from __future__ import annotations

import argparse

from common import OURS, Results, run_side

STEPS = 32_768  # measured at each point, at least
BASE = {"task": "HalfCheetah-v5", "num-envs": 64, "num-steps": 128, "minibatch": 512, "epochs": 4}


def points() -> dict[str, list[tuple[object, dict]]]:
    """The axes: each a list of (value, what differs from BASE)."""

    def environments(task: str, most: int) -> list[tuple[object, dict]]:
        counts = [4**k for k in range(6) if 4**k <= most]
        return [(n, {"task": task, "num-envs": n, "num-steps": max(8192 // n, 16)}) for n in counts]

    return {
        "environments, HalfCheetah-v5": environments("HalfCheetah-v5", 1024),
        "environments, CartPole-v1": environments("CartPole-v1", 1024),
        "environments, gymnax:CartPole-v1": environments("gymnax:CartPole-v1", 1024),
        "minibatch": [(2**k, {"minibatch": 2**k}) for k in range(5, 14)],
        "width": [(w, {"hidden": f"{w} {w}"}) for w in (64, 128, 256, 512)],
        "width, minibatch 2048": [
            (w, {"hidden": f"{w} {w}", "minibatch": 2048}) for w in (64, 128, 256, 512)
        ],
        "task": [
            (task, {"task": task, "num-envs": 16})
            for task in (
                "CartPole-v1",
                "Hopper-v5",
                "HalfCheetah-v5",
                "Ant-v5",
                "Humanoid-v5",
            )
        ],
    }


def main() -> None:
    axes = points()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axes", nargs="+", choices=axes, default=list(axes))
    options = parser.parse_args()
    results = Results("growth")
    for axis in options.axes:
        print(axis)
        rows = []
        for value, changes in axes[axis]:
            setting = BASE | changes
            iterations = -(-STEPS // (setting["num-envs"] * setting["num-steps"]))
            arguments = [f"--iterations {max(iterations, 3)}"]
            arguments += [f"--{name} {x}" for name, x in setting.items()]
            run = run_side(OURS, ["of_surefoot.py"], " ".join(arguments).split())
            rows.append({"value": value, "setting": setting, **run})
            shown = run.get("error") or f"{run['rate']:,.0f} steps/s, {run['peak_mib']:,.0f} MiB"
            print(f"  {value}: {shown}", flush=True)
        results.save(axis, {"points": rows})


if __name__ == "__main__":
    main()
