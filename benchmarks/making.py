"""What it costs to make environments anew at a checkpoint, beside training up to the next one.

    python benchmarks/making.py

For each task: seconds to make and reset the default number of environments a second time in a process, the
seconds that training takes from one checkpoint to the next, and the share that the one is of the other.
Writes benchmarks/results/making.json.
"""

from __future__ import annotations

import argparse
import statistics
import time

from common import Results, spread

from surefoot.config import Config
from surefoot.training import Hook, Trainer, train
from surefoot.training.environments import EnvLifecycle
from surefoot.update import make_executors

TASKS = (
    "gymnasium:CartPole-v1",
    "gymnasium:Pendulum-v1",
    "gymnasium:Hopper-v5",
    "gymnasium:HalfCheetah-v5",
    "gymnasium:Ant-v5",
    "gymnasium:Humanoid-v5",
    "HalfCheetah-v5",
    "Go1JoystickFlatTerrain-v1",
)
ITERATIONS = 6  # the first two compile


class Pace(Hook):
    """Env steps per second of the later iterations."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_iteration(self, state, metrics) -> None:
        """Note it."""
        self.rates.append(metrics["time/env_steps_per_second"])


def made_anew(task: str, config: Config) -> float:
    """Seconds until the environments that a run has from a checkpoint on have given their first step."""
    with EnvLifecycle(task, config) as envs:
        executors = make_executors(config)
        trainer = Trainer(config, envs.env, executors)
        state = trainer.start()
        for step in (0, 1):  # the second time everything that can be kept is there
            state = state._replace(step=step)
            began = time.perf_counter()
            state = trainer.reset_envs(state, envs.at(step))
            state, _ = trainer.collect(state, trainer.policy(state))
            anew = time.perf_counter() - began
        began = time.perf_counter()
        trainer.collect(state, trainer.policy(state))
        collecting = time.perf_counter() - began
        executors.close()
    return max(anew - collecting, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    config = Config(checkpoint_every=None)
    config = config.replace(total_steps=config.batch_size * ITERATIONS)
    results = Results("making")
    for task in options.tasks:
        seconds = [made_anew(task, config) for _ in range(options.repeats)]
        pace = Pace()
        train(task, config, hooks=[pace])
        between = Config().checkpoint_every / statistics.median(pace.rates[2:])
        share = statistics.median(seconds) / between
        results.save(task, {"making_s": seconds, "between_s": between, "share": share})
        print(
            f"{task:<28} {spread(seconds, '.3f')} s, {between:6.1f} s between checkpoints: {share:.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
