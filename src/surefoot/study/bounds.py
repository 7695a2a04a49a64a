"""The least and the most that an episode can return, where that is known: intervals of scores end there.

A study says it of tasks of one's own (`[bounds]` in its file).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from surefoot.config import parse_options
from surefoot.study.plan import Study

Bounds = tuple[float, float]
UNKNOWN: Bounds = (-math.inf, math.inf)

_PENDULUM = math.pi**2 + 0.1 * 8.0**2 + 0.001 * 2.0**2  # its largest angle, speed and torque
# a task's time limit, and the bounds by it, of what the simulator's source pays for a step
_KNOWN: dict[str, tuple[int, Callable[[int], Bounds]]] = {
    "Acrobot-v1": (500, lambda steps: (-steps, 0.0)),
    "CartPole-v0": (200, lambda steps: (0.0, steps)),
    "CartPole-v1": (500, lambda steps: (0.0, steps)),
    "MountainCar-v0": (200, lambda steps: (-steps, 0.0)),
    "MountainCarContinuous-v0": (999, lambda steps: (-0.1 * steps, 100.0)),
    "Pendulum-v1": (200, lambda steps: (-_PENDULUM * steps, 0.0)),
    **{f"InvertedPendulum-v{k}": (1000, lambda steps: (0.0, steps)) for k in (2, 4, 5)},
    **{f"InvertedDoublePendulum-v{k}": (1000, lambda n: (-math.inf, 10.0 * n)) for k in (2, 4, 5)},
}
# rewards in [0, 1] but for LQR's: arXiv 1801.00690
_CONTROL_SUITE = (1000, lambda steps: (0.0, steps))
_LIMITS = ("max_episode_steps", "max_steps_in_episode")


def return_bounds(study: Study, task: str) -> Bounds:
    """What an episode of a task can return; infinite where that is not known.

    Settings of the task may change its reward: with any but a time limit its bounds are not known.
    """
    if task in study.bounds:
        return study.bounds[task]
    steps, by_steps = _KNOWN.get(_id(task)) or _of_control_suite(task) or (0, lambda _: UNKNOWN)
    settings = {} if study.as_it_comes else parse_options(study.tasks[task].env_options)
    limit = settings.pop(next((name for name in _LIMITS if name in settings), ""), steps)
    return UNKNOWN if settings else by_steps(limit)


def around(bounds: Bounds, scores: Sequence[float]) -> Bounds:
    """The bounds, wide enough for what was seen: those that a user states may be wrong."""
    return float(np.min([bounds[0], *scores])), float(np.max([bounds[1], *scores]))


def _id(task: str) -> str:
    """The id, which EnvPool, Gymnasium and gymnax share, of a task."""
    prefix, _, name = task.rpartition(":")
    return name if prefix in ("", "envpool", "gymnasium", "gymnax") else ""


def _of_control_suite(task: str) -> tuple[int, Callable[[int], Bounds]] | None:
    from surefoot.envs.envpool import family

    name = task.removeprefix("envpool:")
    is_of_it = family(name) == "mujoco.dmc" and not name.startswith("Lqr")
    return _CONTROL_SUITE if is_of_it else None
