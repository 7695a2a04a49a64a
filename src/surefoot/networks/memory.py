"""Memory: layers of GRU or LSTM cells, one step at a time or unrolled over sequences."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from surefoot.networks.mlp import Linear, make_linear

_UNROLLED = 8  # steps of a sequence that the compiled loop takes at once


class Cell(eqx.Module):
    """One layer of H units.

    Attributes:
        inputs: the input's share of all gates, computed for a whole sequence at once.
        recurrent: the state's share, [H, gates * H].
    """

    inputs: Linear
    recurrent: Linear

    @abc.abstractmethod
    def step(self, carry: Any, gates: jax.Array) -> Any:
        """The carry after a step, from `inputs` of the step [N, gates * H]."""

    @staticmethod
    @abc.abstractmethod
    def output(carry: Any) -> jax.Array:
        """What others see of a carry, [..., H]."""


class GRUCell(Cell):
    """Gated recurrent unit.

        r, z = sigmoid(W x + U h);  n = tanh(W_n x + r * (U_n h + b));  h' = (1 - z) n + z h

    Source: Cho et al. 2014, arXiv 1406.1078, in the form of cuDNN and PyTorch. The carry is h.
    """

    def step(self, carry: jax.Array, gates: jax.Array) -> jax.Array:
        """See `Cell.step`."""
        reset, update, new = jnp.split(gates, 3, axis=-1)
        own_reset, own_update, own_new = jnp.split(self.recurrent(carry), 3, axis=-1)
        update = jax.nn.sigmoid(update + own_update)
        new = jnp.tanh(new + jax.nn.sigmoid(reset + own_reset) * own_new)
        return new + update * (carry - new)

    @staticmethod
    def output(carry: jax.Array) -> jax.Array:
        """The state."""
        return carry


class LSTMCarry(NamedTuple):
    """Cell and hidden state of an LSTM, [N, H] each."""

    cell: jax.Array
    hidden: jax.Array


class LSTMCell(Cell):
    """Long short-term memory.

        i, f, o = sigmoid(W x + U h);  g = tanh(W_g x + U_g h);  c' = f c + i g;  h' = o tanh(c')

    Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000, whose bias starts
    at 1. The carry is (c, h).
    """

    def step(self, carry: LSTMCarry, gates: jax.Array) -> LSTMCarry:
        """See `Cell.step`."""
        enter, forget, out, new = jnp.split(gates + self.recurrent(carry.hidden), 4, axis=-1)
        cell = jax.nn.sigmoid(forget) * carry.cell + jax.nn.sigmoid(enter) * jnp.tanh(new)
        return LSTMCarry(cell, jax.nn.sigmoid(out) * jnp.tanh(cell))

    @staticmethod
    def output(carry: LSTMCarry) -> jax.Array:
        """The hidden state."""
        return carry.hidden


class Memory(eqx.Module):
    """Layers of cells; the carry is a tuple with that of each layer."""

    cells: tuple[Cell, ...]
    spec: MemorySpec = eqx.field(static=True)

    def step(self, x: jax.Array, carry: Any, first: jax.Array) -> tuple[jax.Array, Any]:
        """One step of N environments.

        Args:
            x: [N, D].
            carry: what the step before left.
            first: [N] bool, whether an episode begins here, with nothing remembered.

        Returns:
            [N, H], and what to carry on.
        """
        onward = []
        for cell, own in zip(self.cells, carry, strict=True):
            own = cell.step(_unless(first, own), cell.inputs(x))
            x = cell.output(own)
            onward.append(own)
        return x, tuple(onward)

    def unroll(self, x: jax.Array, carry: Any, first: jax.Array) -> tuple[jax.Array, Any]:
        """The same over sequences: `x` [T, N, D], `first` [T, N].

        Gradients flow back through at most `spec.bptt_steps` steps.

        Returns:
            [T, N, H], and what is carried behind each row, [T, N, ...].
        """
        count = len(x)
        length = self.spec.bptt_steps or count
        cut = jnp.arange(count) % length == 0
        carried = []
        for cell, own in zip(self.cells, carry, strict=True):

            def one_step(now: Any, row: Any, cell: Cell = cell) -> tuple[Any, Any]:
                gates, begins, cuts = row
                if length < count:
                    now = jax.tree.map(lambda c: jnp.where(cuts, jax.lax.stop_gradient(c), c), now)
                now = cell.step(_unless(begins, now), gates)
                return now, now

            rows = (cell.inputs(x), first, cut)
            _, every = jax.lax.scan(one_step, own, rows, unroll=min(_UNROLLED, count))
            x = cell.output(every)
            carried.append(every)
        return x, tuple(carried)


def _unless(first: jax.Array, carry: Any) -> Any:
    """The carry, zero where an episode begins."""
    return jax.tree.map(lambda c: jnp.where(first[..., None], 0.0, c), carry)


@dataclass(frozen=True)
class MemorySpec:
    """A memory's shape.

    Attributes:
        kind: of its cells.
        size: units of each layer.
        layers: how many.
        bptt_steps: steps that gradients flow back through at most; None: the whole sequence.
    """

    kind: Literal["gru", "lstm"]
    size: int
    layers: int
    bptt_steps: int | None = None

    def __post_init__(self) -> None:
        steps = 1 if self.bptt_steps is None else self.bptt_steps
        if min(self.size, self.layers, steps) < 1:
            raise ValueError(
                f"memory of {self.layers} layers of {self.size} units, {self.bptt_steps} bptt_steps"
            )

    @property
    def gates(self) -> int:
        """Gates of a cell."""
        return 3 if self.kind == "gru" else 4

    def num_weights(self, size_in: int) -> int:
        """How many weights it has, its biases aside."""
        inputs = size_in + (self.layers - 1) * self.size
        return self.gates * self.size * (inputs + self.layers * self.size)

    def initial_carry(self, num_envs: int) -> Any:
        """Nothing remembered."""

        def one_layer() -> Any:
            # an array of its own each, so that a program may reuse it
            zeros = [jnp.zeros((num_envs, self.size), jnp.float32) for _ in range(2)]
            return zeros[0] if self.kind == "gru" else LSTMCarry(*zeros)

        return tuple(one_layer() for _ in range(self.layers))

    def make(self, key: jax.Array, size_in: int, *, orthogonal: bool) -> Memory:
        """A fresh one: weights of gain 1, the recurrent ones gate by gate; zero biases."""
        cells, kind = [], GRUCell if self.kind == "gru" else LSTMCell
        for layer_key in jax.random.split(key, self.layers):
            input_key, *gate_keys = jax.random.split(layer_key, self.gates + 1)
            width = self.gates * self.size
            inputs = make_linear(input_key, size_in, width, gain=1.0, orthogonal=orthogonal)
            if self.kind == "lstm":
                forget = jnp.arange(width) // self.size == 1
                inputs = Linear(inputs.weight, inputs.bias + forget.astype(jnp.float32))
            blocks = [
                make_linear(k, self.size, self.size, gain=1.0, orthogonal=orthogonal).weight
                for k in gate_keys
            ]
            recurrent = Linear(jnp.concatenate(blocks, axis=1), jnp.zeros(width, jnp.float32))
            cells.append(kind(inputs, recurrent))
            size_in = self.size
        return Memory(tuple(cells), self)
