"""What memory is worth: GRU policies beside feed-forward ones, alone and with four stacked observations.

    python benchmarks/remember.py [--tasks NAME ...] [--seeds 5] [--workers 2]

Tasks of gymnax (MemoryChain), POPGym, and EnvPool's Hopper and Walker2d without velocities. Every run is a
process of its own on one core; results go to benchmarks/results/remember.json as they come, and runs that
are there already are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import HERE

RESULTS = HERE / "results" / "remember.json"
ARMS = ("gru", "feed-forward", "4 stacked")


class Task(NamedTuple):
    """What is trained on, for how many steps, and with which options."""

    name: str
    total_steps: int
    options: dict


QUICK = {"num_envs": 32, "num_steps": 64, "num_minibatches": 16, "learning_rate": 1e-3}
QUICK |= {"memory_minibatches": 4}
TASKS = {
    task.name: task
    for task in (
        *(Task(f"memory-chain-{n}", 400_000, {**QUICK, "num_steps": 128}) for n in (10, 30, 100)),
        *(
            Task(f"popgym-{name}-v0", 400_000, QUICK)
            for name in (
                "RepeatPreviousEasy",
                "RepeatPreviousMedium",
                "RepeatFirstEasy",
                "AutoencodeEasy",
                "PositionOnlyCartPoleEasy",
                "PositionOnlyPendulumEasy",
            )
        ),
        Task("Hopper-v5 without velocities", 1_000_000, {}),
        Task("Walker2d-v5 without velocities", 1_000_000, {}),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--run", nargs=3, metavar=("TASK", "ARM", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        task, arm, seed = options.run
        print(json.dumps(train_one(TASKS[task], arm, int(seed))))
        return
    cores = sorted(os.sched_getaffinity(0))
    jobs = [(t, a, s) for s in range(options.seeds) for t in options.tasks for a in ARMS]
    jobs = [job for job in jobs if str(job[2]) not in results().get(job[0], {}).get(job[1], {})]
    free = list(range(options.workers))

    def run(job: tuple[str, str, int]) -> None:
        worker = free.pop()
        command = ["taskset", "-c", str(cores[worker % len(cores)]), sys.executable, __file__]
        done = subprocess.run(
            [*command, "--run", *map(str, job)], capture_output=True, text=True, check=False
        )
        free.append(worker)
        if done.returncode:
            print(job, done.stderr.strip().splitlines()[-1:])
            return
        keep(*job, json.loads(done.stdout.splitlines()[-1]))

    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(run, jobs))
    table()


def results() -> dict:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def keep(task: str, arm: str, seed: int, result: dict) -> None:
    found = results()
    found.setdefault(task, {}).setdefault(arm, {})[str(seed)] = result
    staging = RESULTS.with_suffix(".tmp")
    staging.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    staging.replace(RESULTS)
    print(
        f"{task}, {arm}, seed {seed}: {result['final']:.3f} in {result['seconds']:.0f} s",
        flush=True,
    )


def table() -> None:
    """Mean and sample standard deviation of the final returns."""
    print(f"{'task':<34}" + "".join(f"{arm:>22}" for arm in ARMS))
    for task, arms in results().items():
        row = f"{task:<34}"
        for arm in ARMS:
            finals = [run["final"] for run in arms.get(arm, {}).values()]
            text = (
                f"{np.mean(finals):.3f} ({np.std(finals, ddof=1):.3f})" if len(finals) > 1 else "-"
            )
            row += f"{text:>22}"
        print(row)


def train_one(task: Task, arm: str, seed: int) -> dict:
    """One run, its policy's mean return over 50 episodes at the end."""
    import time

    import jax
    from sides.memory_tasks import environments

    from surefoot.config import Config
    from surefoot.training import evaluate, train

    config = Config(
        total_steps=task.total_steps,
        seed=seed,
        memory="gru" if arm == "gru" else "off",
        overlap="off",  # one core
        checkpoint_every=None,
        **task.options,
    )
    stack = 4 if arm == "4 stacked" else 1
    training, playing = np.random.SeedSequence(seed).spawn(2)
    env = environments(task.name, config.num_envs, training, stack)
    began = time.perf_counter()
    _, policy = train(env, config)
    seconds = time.perf_counter() - began
    env = environments(task.name, 10, playing, stack)
    played = evaluate(policy, env, 50, key=jax.random.key(seed))
    return {"final": played["episode_return_mean"], "seconds": round(seconds, 1)}


if __name__ == "__main__":
    assert Path(__file__).parent == HERE
    main()
