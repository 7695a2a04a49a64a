"""Tasks of `robots.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from surefoot.robots import Robot
from surefoot.robots.tasks.gymnasium import HalfCheetah

FIELDS = (
    *("body_mass", "body_inertia", "geom_friction"),
    *("dof_damping", "dof_armature", "jnt_stiffness"),
)


@dataclass(frozen=True)
class Randomized(HalfCheetah):
    """HalfCheetah with another model in every episode.

    Attributes:
        share: by which numbers of the model are larger or smaller at most.
    """

    share: float = 0.2

    def randomize(self, robot: Robot, key: jax.Array) -> Mapping[str, Any]:
        """Every number of six fields, each for itself."""
        low, high = 1 - self.share, 1 + self.share
        drawn = {}
        for name, to_field in zip(FIELDS, jax.random.split(key, len(FIELDS)), strict=True):
            own = getattr(robot.model, name)
            drawn[name] = own * jax.random.uniform(to_field, own.shape, minval=low, maxval=high)
        return drawn
