"""Multi-layer perceptrons and their initialization."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

_SMALL = 1e-5  # added to variances

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "elu": jax.nn.elu,
    "relu": jax.nn.relu,
    "swish": jax.nn.swish,
}


class Linear(eqx.Module):
    """An affine map of the last axis, `x @ weight + bias`."""

    weight: jax.Array
    bias: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D_in] -> [..., D_out]."""
        return x @ self.weight + self.bias


class MLP(eqx.Module):
    """Hidden layers with an activation after each; no output layer.

    An empty MLP is the identity. With `gains`, one for each layer, `x @ weight` is standardized over its
    last axis before gain and bias (layer norm: Ba et al. 2016, arXiv 1607.06450). Where it is `residual`,
    a layer behind the first that is as wide as what it reads is added to that (He et al. 2015, arXiv
    1512.03385).
    """

    layers: tuple[Linear, ...]
    activation: str = eqx.field(static=True)
    gains: tuple[jax.Array, ...] = ()
    residual: bool = eqx.field(static=True, default=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D_in] -> [..., width of the last layer]."""
        activate = ACTIVATIONS[self.activation]
        for i, (layer, gain) in enumerate(itertools.zip_longest(self.layers, self.gains)):
            if gain is None:
                y = activate(layer(x))
            else:
                y = activate(standardized(x @ layer.weight) * gain + layer.bias)
            x = x + y if self.residual and i and x.shape == y.shape else y
        return x


def standardized(x: jax.Array) -> jax.Array:
    """The last axis with mean 0 and variance 1, all but where it hardly varies."""
    deviations = x - x.mean(axis=-1, keepdims=True)
    return deviations * jax.lax.rsqrt(jnp.square(deviations).mean(axis=-1, keepdims=True) + _SMALL)


def make_linear(
    key: jax.Array, size_in: int, size_out: int, *, gain: float, orthogonal: bool
) -> Linear:
    """A linear layer with zero bias.

    Args:
        key: random stream.
        size_in: inputs.
        size_out: outputs.
        gain: scale of the weights.
        orthogonal: orthogonal weights (Saxe et al. 2014, arXiv 1312.6120) times `gain`; otherwise
            LeCun-uniform weights times `gain` / sqrt(2) (so that hidden layers, whose gain is
            sqrt(2), get the plain initialization).
    """
    # NumPy on the host: compiling a QR decomposition for every shape would cost seconds
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    if orthogonal:
        weight = gain * _orthogonal(random, size_in, size_out)
    else:
        bound = gain / 2**0.5 * (3.0 / size_in) ** 0.5
        weight = random.uniform(-bound, bound, (size_in, size_out))
    return Linear(jnp.asarray(weight, jnp.float32), jnp.asarray(np.zeros(size_out, np.float32)))


def _orthogonal(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """A matrix with orthonormal rows or columns, whichever are fewer, uniformly distributed."""
    normal = random.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(normal)
    q = q * np.sign(np.diag(r))  # makes the decomposition unique, hence the distribution uniform
    return q if rows >= columns else q.T


def make_mlp(
    key: jax.Array,
    size_in: int,
    widths: Sequence[int],
    *,
    activation: str,
    orthogonal: bool,
    layer_norm: bool = False,
    residual: bool = False,
) -> MLP:
    """Hidden layers of the given widths; gain sqrt(2), as is usual for PPO."""
    layers = []
    for width in widths:
        key, layer_key = jax.random.split(key)
        layers.append(make_linear(layer_key, size_in, width, gain=2**0.5, orthogonal=orthogonal))
        size_in = width
    gains = tuple(jnp.ones(width, jnp.float32) for width in widths) if layer_norm else ()
    return MLP(tuple(layers), activation, gains, residual)
