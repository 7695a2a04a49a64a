"""The clock and the examination that every side of `time_to_target.py` shares."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import gymnasium
import numpy as np

EPISODES = 10


def arguments() -> argparse.Namespace:
    """What every side is told."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", default="")
    parser.add_argument("--task", required=True)
    parser.add_argument("--target", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=25_000, help="steps between examinations")
    parser.add_argument("--most-steps", type=int, default=1_000_000)
    parser.add_argument("--most-seconds", type=float, default=600)
    return parser.parse_args()


class Target:
    """Stops the clock, plays the deterministic policy in Gymnasium, starts it again.

    The clock runs from here on: what was imported before is left out, compilation is not.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.reached = False
        self.curve: list[tuple[int, float, float]] = []
        self._envs = gymnasium.make_vec(options.task, EPISODES, vectorization_mode="sync")
        self._next = options.every
        self._spent, self._began = 0.0, time.perf_counter()

    def over(self, steps: int, act: Callable[[np.ndarray], np.ndarray]) -> bool:
        """Whether training may end: examined when it is time, `act` maps [N, D] to [N, A]."""
        if steps >= self._next:
            self._spent = self.seconds()
            score = self._score(act)
            self.curve.append((steps, self._spent, score))
            self.reached = score >= self.options.target
            self._next = steps + self.options.every
            self._began = time.perf_counter()
        out = steps >= self.options.most_steps or self.seconds() >= self.options.most_seconds
        return self.reached or out

    def seconds(self) -> float:
        """Of training so far."""
        return self._spent + time.perf_counter() - self._began

    def print(self) -> None:
        """One JSON line."""
        steps, seconds, score = self.curve[-1] if self.curve else (0, self.seconds(), None)
        print(
            json.dumps(
                {
                    "reached": self.reached,
                    "steps": steps,
                    "seconds": seconds,
                    "return": score,
                    "curve": self.curve,
                }
            )
        )

    def _score(self, act: Callable[[np.ndarray], np.ndarray]) -> float:
        observations, _ = self._envs.reset(seed=1_000_000 + self.options.seed)
        low, high = self._envs.single_action_space.low, self._envs.single_action_space.high
        totals, running = np.zeros(EPISODES), np.ones(EPISODES, bool)
        while running.any():
            actions = np.clip(act(observations), low, high)
            observations, rewards, terminated, truncated, _ = self._envs.step(actions)
            totals += rewards * running
            running &= ~(terminated | truncated)
        return float(totals.mean())
