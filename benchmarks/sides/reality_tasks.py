"""Tasks of `reality.py`: a Go1 in a world that is not quite the model's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from surefoot.robots import Actuation, Robot, Sensing, State
from surefoot.robots.tasks.quadrupeds import Go1Walk

# of linear velocity, angular velocity, gravity, command, positions, velocities, action, clock
SIZES = (3, 3, 3, 3, 12, 12, 12, 2)
NOISE = (0.1, 0.2, 0.05, 0.0, 0.02, 1.0, 0.0, 0.0)  # m/s, rad/s, 1, -, rad, rad/s


def noise(scale: float) -> tuple[float, ...]:
    """Of every number of the observation."""
    return tuple(scale * x for x, size in zip(NOISE, SIZES, strict=True) for _ in range(size))


def late(fewest: int, most: int) -> Actuation:
    """Go1's motors, late by some control steps."""
    own = Go1Walk.actuation
    return Actuation(own.kind, stiffness=35.0, damping=0.5, scale=0.5, delay_steps=(fewest, most))


@dataclass(frozen=True)
class Disturbed(Go1Walk):
    """A Go1 whose load, motors and peace are others than the model's.

    Attributes:
        load_kg: fewest and most mass added to the trunk.
        shift_m: by how far its centre of mass is moved at most, along each axis.
        strength: weakest and strongest gains, as a share of the model's.
        push_m_s: by how much a push changes the velocity at most, along each axis.
        push_s: mean seconds between pushes.
    """

    load_kg: tuple[float, float] = (0.0, 0.0)
    shift_m: float = 0.0
    strength: tuple[float, float] = (1.0, 1.0)
    push_m_s: float = 0.0
    push_s: float = 4.0

    def randomize(self, robot: Robot, key: jax.Array) -> Mapping[str, Any]:
        """Friction as the task has it, and load, centre of mass and strength."""
        to_floor, to_load, to_shift, to_strength = jax.random.split(key, 4)
        model, trunk = robot.model, robot.id("body", self.trunk)
        load = jax.random.uniform(to_load, (), minval=self.load_kg[0], maxval=self.load_kg[1])
        mass = jnp.asarray(model.body_mass)
        grown = (mass[trunk] + load) / mass[trunk]
        shift = self.shift_m * jax.random.uniform(to_shift, (3,), minval=-1.0)
        low, high = self.strength
        strength = jax.random.uniform(to_strength, (), minval=low, maxval=high)
        drawn = {
            "body_mass": mass.at[trunk].add(load),
            "body_inertia": jnp.asarray(model.body_inertia).at[trunk].multiply(grown),
            "body_ipos": jnp.asarray(model.body_ipos).at[trunk].add(shift),
            "actuator_gainprm": model.actuator_gainprm * strength,
            "actuator_biasprm": model.actuator_biasprm * strength,
        }
        unused = (
            *(("body_mass", "body_inertia") if self.load_kg == (0.0, 0.0) else ()),
            *(("body_ipos",) if not self.shift_m else ()),
            *(("actuator_gainprm", "actuator_biasprm") if low == high == 1.0 else ()),
        )
        return super().randomize(robot, to_floor) | {
            name: x for name, x in drawn.items() if name not in unused
        }

    def events(self, s: State, key: jax.Array) -> Mapping[str, Any]:
        """Pushes: sudden changes of the trunk's velocity over ground."""
        if not self.push_m_s:
            return {}
        to_whether, to_push = jax.random.split(key)
        pushed = jax.random.bernoulli(to_whether, self.control_dt_s / self.push_s)
        push = self.push_m_s * jax.random.uniform(to_push, (2,), minval=-1.0)
        return {"qvel": jnp.where(pushed, s.qvel.at[:2].add(push), s.qvel)}


@dataclass(frozen=True)
class Hardened(Disturbed):
    """What is trained on beside the plain task."""

    load_kg: tuple[float, float] = (-1.0, 2.0)
    shift_m: float = 0.03
    strength: tuple[float, float] = (0.85, 1.1)
    push_m_s: float = 0.5

    actuation: ClassVar[Actuation] = late(0, 1)
    sensing: ClassVar[Mapping[str, Sensing]] = {"observation": Sensing(noise=noise(1.0))}


# what neither saw in training: each lies outside what Hardened draws from


@dataclass(frozen=True)
class Slippery(Disturbed):
    """Ground like wet tiles."""

    friction: tuple[float, float] = (0.2, 0.35)


@dataclass(frozen=True)
class Loaded(Disturbed):
    """Three to five kilograms on a robot of twelve."""

    load_kg: tuple[float, float] = (3.0, 5.0)


@dataclass(frozen=True)
class Weak(Disturbed):
    """An empty battery."""

    strength: tuple[float, float] = (0.6, 0.75)


@dataclass(frozen=True)
class Pushed(Disturbed):
    """Pushes twice as hard."""

    push_m_s: float = 1.0


@dataclass(frozen=True)
class Late(Disturbed):
    """Commands that reach the motors 40 ms late."""

    actuation: ClassVar[Actuation] = late(2, 2)


@dataclass(frozen=True)
class Noisy(Disturbed):
    """Sensors twice as noisy."""

    sensing: ClassVar[Mapping[str, Sensing]] = {"observation": Sensing(noise=noise(2.0))}


PERTURBED = (Slippery, Loaded, Weak, Pushed, Late, Noisy)
