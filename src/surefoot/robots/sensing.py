"""What lies between the truth and what an observation group shows: noise, bias, delay, loss, history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from surefoot.errors import UserError

PerNumber = float | tuple[float, ...]


class Readings(NamedTuple):
    """What a group's sensors remember.

    Attributes:
        truth: [K, D] the newest true readings, newest last.
        shown: [H, D] what was shown last, newest last.
        bias: [D] of this episode.
        delay: steps by which this episode's readings are late.
    """

    truth: jax.Array
    shown: jax.Array
    bias: jax.Array
    delay: jax.Array


def check_delay(steps: Any, where: str) -> None:
    """Raise ValueError unless it is the fewest and the most steps of a delay."""
    is_pair = isinstance(steps, (tuple, list)) and len(steps) == 2
    if not is_pair or not all(isinstance(n, (int, np.integer)) for n in steps):
        raise UserError(
            f"{where}: delay_steps = {steps!r}: it must be (fewest, most), such as (0, 2)"
        )
    if not 0 <= steps[0] <= steps[1]:
        raise UserError(f"{where}: delay_steps = {steps!r}: it must be (fewest, most), from 0 on")


@dataclass(frozen=True)
class Sensing:
    """How a group of observations is measured.

    Attributes:
        noise: uniform in +-noise, drawn at every step; one number, or one for each of the group.
        bias: uniform in +-bias, drawn for each episode; likewise.
        delay_steps: fewest and most control steps by which readings are late, drawn for each episode.
        drop: chance that a step's reading is lost, and the one before is shown again.
        history: how many of the newest readings are shown, oldest first.
    """

    noise: PerNumber = 0.0
    bias: PerNumber = 0.0
    delay_steps: tuple[int, int] = (0, 0)
    drop: float = 0.0
    history: int = 1

    def __post_init__(self) -> None:
        check_delay(self.delay_steps, "sensing")
        if not 0 <= self.drop < 1:
            raise UserError(f"sensing: drop = {self.drop}: a chance in [0, 1)")
        if self.history < 1:
            raise UserError(f"sensing: history = {self.history}: at least 1")

    def check_size(self, group: str, size: int) -> None:
        """Raise ValueError for numbers that a group of that size has no use for."""
        for name in ("noise", "bias"):
            given = np.shape(getattr(self, name))
            if given not in ((), (size,)):
                raise UserError(
                    f"sensing: {name} of the group {group!r} has shape {given}; it has {size} numbers, so "
                    f"it must be one number or {size}"
                )

    def init(self, size: int, key: jax.Array) -> Readings:
        """What is remembered where an episode begins, before its first reading."""
        to_bias, to_delay = jax.random.split(key)
        low, high = self.delay_steps
        return Readings(
            jnp.zeros((high + 1, size)),
            jnp.zeros((self.history, size)),
            jnp.asarray(self.bias) * jax.random.uniform(to_bias, (size,), minval=-1.0),
            jax.random.randint(to_delay, (), low, high + 1),
        )

    def __call__(
        self, readings: Readings, truth: jax.Array, key: jax.Array, *, first: jax.Array
    ) -> tuple[Readings, jax.Array]:
        """What is shown of a reading [D], as [history * D].

        Args:
            readings: what is remembered.
            truth: the true numbers.
            key: of this step.
            first: whether it is the first of an episode: then there is nothing older to show.
        """
        to_noise, to_drop = jax.random.split(key)
        every = jnp.concatenate([readings.truth[1:], truth[None]])
        every = jnp.where(first, truth, every)
        noise = jnp.asarray(self.noise) * jax.random.uniform(to_noise, truth.shape, minval=-1.0)
        shown = every[-1 - readings.delay] + readings.bias + noise
        lost = jax.random.bernoulli(to_drop, self.drop) & ~first
        shown = jnp.where(lost, readings.shown[-1], shown)
        history = jnp.concatenate([readings.shown[1:], shown[None]])
        history = jnp.where(first, shown, history)
        return readings._replace(truth=every, shown=history), history.reshape(-1)
