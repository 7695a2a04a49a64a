"""Tasks of same_bytes.py, with the public API of Gymnasium alone: one for each kind of space.

All are one game: a point on a line is pushed by noise and by the action, falls at either end, and has 25
steps, so that episodes end in both ways.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Balance(gymnasium.Env):
    """The game, pushed by the mean of two bounded components."""

    observation_space: spaces.Space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space: spaces.Space = spaces.Box(
        np.array([-2.0, -1.0], np.float32), np.array([1.0, 1.0], np.float32)
    )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = float(self.np_random.uniform(-1.0, 1.0))
        self.time = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        push = self.push(action)
        self.time += 1
        self.place = 0.95 * self.place + 0.4 * push + 0.3 * float(self.np_random.normal())
        info: dict[str, Any] = {
            "reward_near": 1.0 - abs(self.place),
            "reward_effort": -0.1 * push * push,
        }
        terminated, truncated = abs(self.place) > 2.0, self.time >= 25
        if terminated or truncated:
            info["success"] = abs(self.place) < 0.5
        reward = info["reward_near"] + info["reward_effort"]
        return self.observe(), reward, terminated, truncated, info

    def push(self, action: Any) -> float:
        """What the action comes to, about -1 to 1."""
        return float(np.mean(action))

    def observe(self) -> Any:
        """What the policy sees."""
        place, time = self.place, self.time / 25
        return np.array([place, place * place, time], np.float32)


class OpenBounds(Balance):
    """Actions with both bounds, with one, and with none."""

    action_space = spaces.Box(
        np.array([-1.0, -1.0, -np.inf], np.float32), np.array([1.0, np.inf, np.inf], np.float32)
    )


class WholeNumbers(Balance):
    """Actions that are whole numbers in bounds."""

    action_space = spaces.Box(-2, 2, (2,), np.int32)


class Choice(Balance):
    """One discrete action that does not begin at 0."""

    action_space = spaces.Discrete(3, start=-1)


class Choices(Balance):
    """Several discrete actions."""

    action_space = spaces.MultiDiscrete([3, 2, 4])

    def push(self, action: Any) -> float:
        return float(np.mean(np.asarray(action) / np.array([2, 1, 3]))) * 2.0 - 1.0


class Switches(Balance):
    """Several binary actions."""

    action_space = spaces.MultiBinary(3)

    def push(self, action: Any) -> float:
        return float(np.mean(action)) * 2.0 - 1.0


class OneHot(Choice):
    """Groups of observations: a discrete one, numbers, and one for the critic alone."""

    observation_space = spaces.Dict(
        {
            "cell": spaces.Discrete(6, start=1),
            "sensors": spaces.Box(-np.inf, np.inf, (2,), np.float32),
            "privileged_place": spaces.Box(-np.inf, np.inf, (1,), np.float32),
        }
    )

    def observe(self) -> Any:
        place = self.place
        return {
            "cell": np.int64(np.clip(np.floor(place) + 4, 1, 6)),
            "sensors": np.array([np.sin(3.0 * place), self.time / 25], np.float32),
            "privileged_place": np.array([place], np.float32),
        }


class Fails(Balance):
    """Raises now and then."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.time > 2 and self.np_random.uniform() < 0.0035:
            raise RuntimeError("the simulator is unstable")
        return super().step(action)
