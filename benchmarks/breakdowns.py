"""What keeping the state before every step costs beside it: `python benchmarks/breakdowns.py`."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from surefoot.envs.tasks import robot_task
from surefoot.robots import RobotEnvironment

ROBOTS = (("robot:Go1Walk", 128), ("robot:G1Walk", 64))
STEPS = 200


def seconds(run: Callable[[], object]) -> float:
    """Of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    """Print the medians of both, taken in turn so that no cache is warm, and their ratio."""
    for name, count in ROBOTS:
        env = RobotEnvironment(robot_task(name), count)
        env.reset(jax.random.key(0))
        kept = np.empty_like(env._batch.state)
        copy, step = partial(np.copyto, kept, env._batch.state), partial(env._step, None)
        pairs = [(seconds(copy), seconds(step)) for _ in range(STEPS)]
        copied, stepped = np.median(pairs, axis=0) * 1e6
        share = copied / stepped
        print(f"{name}, {count}: {copied:.0f} us beside {stepped:.0f} us, {share:.2%}")


if __name__ == "__main__":
    main()
