"""Memory cells against their equations, and sequences against single steps."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import extended, few

from surefoot.networks import Linear, MemorySpec
from surefoot.networks.memory import GRUCell, LSTMCarry, LSTMCell

KINDS = ["gru", "lstm"]
T, N, D, H = 7, 3, 2, 4


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def memory(kind: str, *, layers: int = 1, bptt_steps: int | None = None, size: int = H):
    spec = MemorySpec(kind, size, layers, bptt_steps)
    return spec, spec.make(jax.random.key(0), D, orthogonal=True)


def inputs(seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (T, N, D))


def firsts() -> jax.Array:
    """Episodes that begin at the border, inside, twice in a row, and not at all."""
    first = np.zeros((T, N), bool)
    first[0, 0] = first[3, 0] = first[4, 0] = first[T - 1, 1] = True
    return jnp.asarray(first)


def stepwise(own, x, carry, first):
    outputs, carried = [], []
    for row, begins in zip(x, first, strict=True):
        output, carry = own.step(row, carry, begins)
        outputs.append(output)
        carried.append(carry)
    return jnp.stack(outputs), jax.tree.map(lambda *rows: jnp.stack(rows), *carried)


def test_a_gru_of_one_unit_is_its_equation() -> None:
    w, u, b = np.array([[0.5, -1.0, 2.0]]), np.array([[1.0, 0.25, -0.5]]), np.array([0.1, 0.2, 0.3])
    cell = GRUCell(Linear(jnp.asarray(w), jnp.zeros(3)), Linear(jnp.asarray(u), jnp.asarray(b)))
    x, h = np.array([[0.7]]), np.array([[-0.4]])
    r, z = (sigmoid(w[0, i] * 0.7 + u[0, i] * -0.4 + b[i]) for i in range(2))
    n = np.tanh(2.0 * 0.7 + r * (-0.5 * -0.4 + 0.3))
    after = cell.step(jnp.asarray(h), cell.inputs(jnp.asarray(x)))
    np.testing.assert_allclose(after, [[(1 - z) * n + z * -0.4]], rtol=1e-6)
    np.testing.assert_array_equal(cell.output(after), after)


def test_an_lstm_of_one_unit_is_its_equation() -> None:
    w, u = np.array([[0.5, -1.0, 2.0, 0.3]]), np.array([[1.0, 0.25, -0.5, 0.8]])
    cell = LSTMCell(Linear(jnp.asarray(w), jnp.zeros(4)), Linear(jnp.asarray(u), jnp.zeros(4)))
    i, f, o, g = (w[0, k] * 0.7 + u[0, k] * -0.4 for k in range(4))
    c = sigmoid(f) * 1.5 + sigmoid(i) * np.tanh(g)
    carry = LSTMCarry(jnp.array([[1.5]]), jnp.array([[-0.4]]))
    after = cell.step(carry, cell.inputs(jnp.array([[0.7]])))
    np.testing.assert_allclose(after.cell, [[c]], rtol=1e-6)
    np.testing.assert_allclose(after.hidden, [[sigmoid(o) * np.tanh(c)]], rtol=1e-6)
    np.testing.assert_array_equal(cell.output(after), after.hidden)


@pytest.mark.parametrize(("kind", "layers"), few(2, itertools.product(KINDS, [1, 2])))
def test_a_sequence_is_its_steps(kind: str, layers: int) -> None:
    spec, own = memory(kind, layers=layers)
    carry = jax.tree.map(lambda c: c + 0.3, spec.initial_carry(N))
    whole, carried = own.unroll(inputs(), carry, firsts())
    steps, behind = stepwise(own, inputs(), carry, firsts())
    np.testing.assert_allclose(whole, steps, atol=1e-6)
    for a, b in zip(jax.tree.leaves(carried), jax.tree.leaves(behind), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_remembered_where_an_episode_begins(kind: str) -> None:
    spec, own = memory(kind)
    first = firsts().at[0].set(True)
    poisoned = jax.tree.map(lambda c: c + 1e9, spec.initial_carry(N))
    whole, _ = own.unroll(inputs(), spec.initial_carry(N), first)
    again, _ = own.unroll(inputs(), poisoned, first)
    np.testing.assert_array_equal(whole, again)
    nothing = jax.tree.map(jnp.zeros_like, spec.initial_carry(N))
    jax.tree.map(np.testing.assert_array_equal, spec.initial_carry(N), nothing)
    goes_on, _ = own.step(inputs()[0], nothing, jnp.zeros(N, bool))
    np.testing.assert_allclose(whole[0], goes_on, rtol=1e-6)
    # what came before a beginning inside the sequence changes nothing behind it
    other, _ = own.unroll(inputs().at[:3, 0].set(5.0), spec.initial_carry(N), first)
    np.testing.assert_array_equal(whole[3:, 0], other[3:, 0])
    assert not np.allclose(whole[:3, 0], other[:3, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_environments_do_not_mix(kind: str) -> None:
    spec, own = memory(kind)
    carry = spec.initial_carry(N)
    whole, _ = own.unroll(inputs(), carry, firsts())
    other, _ = own.unroll(inputs().at[:, 1].set(9.0), carry, firsts())
    np.testing.assert_array_equal(whole[:, [0, 2]], other[:, [0, 2]])


@pytest.mark.parametrize("kind", few(1, KINDS))
@pytest.mark.parametrize("steps", [None, extended(1), 3])
def test_gradients_flow_back_through_so_many_steps(kind: str, steps: int | None) -> None:
    spec, own = memory(kind, bptt_steps=steps)
    none = jnp.zeros((T, N), bool)

    def last(x):
        return own.unroll(x, spec.initial_carry(N), none)[0][-1].sum()

    reached = np.abs(jax.grad(last)(inputs())).sum(axis=(1, 2)) > 0
    # sequences are cut before rows 0, steps, 2 * steps, ...
    begins = 0 if steps is None else (T - 1) // steps * steps
    np.testing.assert_array_equal(reached, np.arange(T) >= begins)


@pytest.mark.parametrize("kind", KINDS)
def test_cutting_gradients_changes_no_value(kind: str) -> None:
    (spec, cut), (_, whole) = memory(kind, bptt_steps=2), memory(kind)
    one, _ = cut.unroll(inputs(), spec.initial_carry(N), firsts())
    two, _ = whole.unroll(inputs(), spec.initial_carry(N), firsts())
    np.testing.assert_array_equal(one, two)


def test_recurrent_weights_are_orthogonal_gate_by_gate_and_forget_gates_start_open() -> None:
    _, own = memory("lstm")
    of_inputs = own.cells[0].inputs.weight
    np.testing.assert_allclose(of_inputs @ of_inputs.T, np.eye(D), atol=1e-5)
    for gate in jnp.split(own.cells[0].recurrent.weight, 4, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(H), atol=1e-5)
    np.testing.assert_array_equal(own.cells[0].inputs.bias, np.repeat([0.0, 1.0, 0.0, 0.0], H))
    np.testing.assert_array_equal(own.cells[0].recurrent.bias, np.zeros(4 * H))
    _, own = memory("gru")
    np.testing.assert_array_equal(own.cells[0].inputs.bias, np.zeros(3 * H))
    np.testing.assert_array_equal(own.cells[0].recurrent.bias, np.zeros(3 * H))


@pytest.mark.parametrize(("kind", "layers"), list(itertools.product(KINDS, [1, 2])))
def test_its_weights_are_counted(kind: str, layers: int) -> None:
    spec, own = memory(kind, layers=layers)
    matrices = [x for x in jax.tree.leaves(own) if x.ndim == 2]
    assert spec.num_weights(D) == sum(x.size for x in matrices)


@pytest.mark.parametrize("shape", [(0, 1, None), (4, 0, None), (4, 1, 0)])
def test_a_memory_of_nothing_is_refused(shape) -> None:
    with pytest.raises(ValueError, match="memory of"):
        MemorySpec("gru", *shape)
