"""Exploration noise that goes on from step to step, each number of it still standard normal."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from surefoot.functional.masking import require_between

# memories of 1, 2, 4, ... 512 steps: from one step to half an episode
_SPANS = tuple(2.0**k for k in range(10))


class Noise(Protocol):
    """A process that explores; its state [N, ...] is kept from step to step."""

    def init(self, key: jax.Array, num_envs: int) -> Any:
        """The state before the first step."""
        ...

    def draw(self, state: Any, key: jax.Array, first: jax.Array) -> tuple[Any, jax.Array]:
        """The state behind a step, and its noise [N, ...]; `first` [N]: where an episode begins."""
        ...


@dataclass(frozen=True)
class ColoredNoise:
    """`colored_noise`, one process for each of `size` numbers; it goes on across episodes."""

    color: float
    size: int

    def init(self, key: jax.Array, num_envs: int) -> jax.Array:
        """See `Noise`."""
        return init_colored_noise(key, (num_envs, self.size))

    def draw(self, state: jax.Array, key: jax.Array, first: jax.Array) -> tuple[Any, jax.Array]:
        """See `Noise`."""
        del first
        return colored_noise(state, key, color=self.color)


class Held(NamedTuple):
    """Noise [N, ...] and for how many steps it has been there, [N]."""

    noise: jax.Array
    age: jax.Array


@dataclass(frozen=True)
class HeldNoise:
    """Standard normal noise of a shape, drawn anew for each episode and every `steps` steps of it.

    Source: Raffin et al. 2020, arXiv 2005.05719, section 4 (n of "sample_freq").
    """

    steps: int
    shape: tuple[int, ...]

    def init(self, key: jax.Array, num_envs: int) -> Held:
        """See `Noise`."""
        return Held(
            jax.random.normal(key, (num_envs, *self.shape), jnp.float32),
            jnp.zeros(num_envs, jnp.int32),
        )

    def draw(self, state: Held, key: jax.Array, first: jax.Array) -> tuple[Held, jax.Array]:
        """See `Noise`."""
        anew = first | (state.age >= self.steps)
        drawn = jax.random.normal(key, state.noise.shape, jnp.float32)
        noise = jnp.where(anew.reshape(-1, *(1,) * len(self.shape)), drawn, state.noise)
        return Held(noise, jnp.where(anew, 0, state.age) + 1), noise


def init_colored_noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """State of noise that has gone on for ever.

    Args:
        key: random stream.
        shape: of the noise.

    Returns:
        [10, *shape] float32.
    """
    return jax.random.normal(key, (len(_SPANS), *shape), jnp.float32)


def colored_noise(state: jax.Array, key: jax.Array, *, color: float) -> tuple[jax.Array, jax.Array]:
    """The next step of noise whose power falls with frequency f about as f^-color.

        x_k <- (1 - 1/d_k) x_k + sqrt(1 - (1 - 1/d_k)^2) z_k,    z_k ~ N(0, 1),    d_k = 2^k
        noise = sum_k w_k x_k,    sum_k w_k^2 = 1

    The shares w_k^2 are those whose sum of spectra is nearest to f^-color, from a period of 2 steps to one of
    512. A sum of first-order processes with memories of d_k steps: stationary, every number of it N(0, 1),
    so the log-probability of an action is that of independent noise. Steps that lie further apart than the
    longest memory, 512 steps, are independent.

    Source: Hollenstein et al. 2024, "Colored Noise in PPO", arXiv 2312.11091, for the idea, with noise made
    for whole rollouts; sums of such processes for 1/f noise: van der Ziel 1950, Physica 16.

    Args:
        state: [10, ...], as `init_colored_noise` or the step before left it.
        key: random stream.
        color: in [0, 2]; 0.5 is the source's, 1 is pink.

    Returns:
        The state behind the step, and the noise [...] float32.
    """
    require_between("color", color, 0.0, 2.0)
    spans = jnp.asarray(_SPANS, jnp.float32).reshape(-1, *(1,) * (state.ndim - 1))
    stays = 1.0 - 1.0 / spans
    drawn = jax.random.normal(key, state.shape, jnp.float32)
    state = stays * state + jnp.sqrt(1.0 - jnp.square(stays)) * drawn
    weights = jnp.asarray(_weights(float(color)), jnp.float32).reshape(spans.shape)
    return state, (weights * state).sum(axis=0)


@functools.cache
def _weights(color: float) -> np.ndarray:
    """[10] w_k, by least squares of the relative error on frequencies equally far apart in logarithm."""
    from scipy.optimize import nnls  # here, as it takes a while to load

    frequency = np.geomspace(1 / _SPANS[-1], 0.5, 200)
    stays = 1.0 - 1.0 / np.array(_SPANS)
    spectra = (1.0 - stays**2) / (
        1.0 + stays**2 - 2.0 * stays * np.cos(2 * np.pi * frequency)[:, None]
    )
    shares, _ = nnls(spectra * frequency[:, None] ** color, np.ones(len(frequency)))
    return np.sqrt(shares / shares.sum())
