"""Anything written with jax.numpy gives the same numbers as NumPy, ONNX and C."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import few
from tests.ship.helpers import in_every_form, traced

from surefoot.deploy import OPERATIONS, REDUCTIONS
from surefoot.ship import c_file, onnx_file
from surefoot.ship.graph import trace

RANDOM = np.random.default_rng(0)
GIVEN = {
    "x": RANDOM.normal(size=(5, 6)).astype(np.float32),
    "y": RANDOM.normal(size=(5, 3)).astype(np.float32),
    "n": RANDOM.integers(0, 4, size=(5, 2)).astype(np.int32),
}


def matrix(x: jax.Array) -> jax.Array:
    return x.reshape(2, 3)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    # layers and what lies around them
    "mlp": lambda x, y, n: (
        jnp.tanh(x @ np.ones((6, 4), np.float32) + 0.5) @ np.eye(4, 2, dtype="f")
    ),
    "elu": lambda x, y, n: jax.nn.elu(x),
    "swish": lambda x, y, n: jax.nn.swish(x),
    "relu": lambda x, y, n: jax.nn.relu(x),
    "softplus": lambda x, y, n: jax.nn.softplus(10 * x),
    "softmax": lambda x, y, n: jax.nn.softmax(x),
    "layer norm": lambda x, y, n: (x - x.mean()) / jnp.sqrt(x.var() + 1e-5),
    "one-hot": lambda x, y, n: jax.nn.one_hot(n, 4).reshape(-1),
    "finite": lambda x, y, n: jnp.where(jnp.isfinite(x / jnp.maximum(x, 0.0)), x, 0.0),
    # vectors and matrices
    "two matrices": lambda x, y, n: matrix(x) @ matrix(x).T,
    "a matrix and a vector": lambda x, y, n: matrix(x) @ y,
    "a known matrix on the left": lambda x, y, n: np.arange(6, dtype="f").reshape(2, 3) @ y,
    "rows times a known matrix": lambda x, y, n: matrix(x) @ np.arange(12, dtype="f").reshape(3, 4),
    "batches of products": lambda x, y, n: jnp.einsum("bi,bj->bij", matrix(x), matrix(x)[:, :2]),
    "outer": lambda x, y, n: jnp.outer(x, y),
    "cross": lambda x, y, n: jnp.cross(y, y[::-1]),
    "norm": lambda x, y, n: jnp.linalg.norm(matrix(x), axis=1),
    "angles": lambda x, y, n: jnp.arctan2(x, x[::-1]),
    "inverse angles": lambda x, y, n: jnp.arcsin(jnp.clip(y, -1, 1)) + jnp.arccos(jnp.tanh(y)),
    "turning": lambda x, y, n: jnp.sin(x) * jnp.cos(x) + jnp.tan(x) + jnp.arctan(x),
    "hyperbolic": lambda x, y, n: jnp.sinh(x) + jnp.cosh(x),
    # moving numbers about
    "slices": lambda x, y, n: jnp.concatenate([x[1::2], y[::-1], x[jnp.array([5, 5, 0])]]),
    "many pieces": lambda x, y, n: jnp.concatenate([x, y, x])[np.arange(14, -1, -1)],
    "set": lambda x, y, n: x.at[2].set(5.0).at[jnp.array([0, 1])].set(y[:2]),
    "turned": lambda x, y, n: jnp.moveaxis(matrix(x), 0, 1)[None],
    "padded": lambda x, y, n: jnp.pad(y, (1, 2), constant_values=7.0),
    "rolled": lambda x, y, n: jnp.roll(x, 2),
    "stacked": lambda x, y, n: jnp.stack([y, y * 2], axis=1),
    "repeated": lambda x, y, n: jnp.repeat(y, 2) + jnp.tile(y, 2),
    "a number for all": lambda x, y, n: x * y[0],
    "a piece of what is known": lambda x, y, n: y + jnp.concatenate([y, jnp.ones(3)])[3:],
    "known altogether": lambda x, y, n: jnp.arange(4.0),
    # reductions
    "sums": lambda x, y, n: matrix(x).sum(0) + matrix(x).prod(0),
    "ends": lambda x, y, n: jnp.stack([x.max(), x.min()]),
    "where the ends are": lambda x, y, n: jnp.stack([jnp.argmax(x), jnp.argmin(x)]),
    "of a matrix": lambda x, y, n: jnp.argmax(matrix(x), axis=0),
    "all and any": lambda x, y, n: jnp.stack([jnp.all(x > -9), jnp.any(x > 9), jnp.all(x > 0)]),
    "running sum": lambda x, y, n: jnp.cumsum(matrix(x), axis=1),
    "running sum from behind": lambda x, y, n: jax.lax.cumsum(matrix(x), axis=0, reverse=True),
    # numbers
    "rounded": lambda x, y, n: jnp.stack([jnp.round(3 * y), jnp.floor(3 * y), jnp.ceil(3 * y)]),
    "half to even": lambda x, y, n: jnp.round(jnp.floor(y) + 0.5),
    "as integers": lambda x, y, n: (3 * y).astype(jnp.int32),
    "whole numbers": lambda x, y, n: n * 3 - n // 2 + jnp.abs(n - 2) + jnp.maximum(n, 1),
    "remainder": lambda x, y, n: jnp.mod(x, 0.3),
    "remainder with a sign": lambda x, y, n: jnp.fmod(x, 0.3),
    "powers": lambda x, y, n: x**2 + x**3 + jnp.abs(y).sum() ** 0.3 + jnp.sqrt(jnp.abs(x)),
    "roots": lambda x, y, n: jax.lax.rsqrt(1.0 + x**2),
    "logarithms": lambda x, y, n: jnp.log(jnp.abs(x)) + jnp.log1p(jnp.abs(x)) + jnp.expm1(x),
    "signs": lambda x, y, n: jnp.sign(x) * -x,
    "chosen": lambda x, y, n: jnp.where((x > 0) & (x < 1) | (x == 0), x, -1.0),
    "not": lambda x, y, n: ~(x > 0),
    "unlike": lambda x, y, n: (n != 2) & (n >= 1) & (n <= 3),
    "within": lambda x, y, n: jnp.clip(x, -0.5, 0.2),
    "sinc": lambda x, y, n: jnp.sinc(y),
}


@pytest.mark.parametrize("name", few(18, FUNCTIONS))
def test_a_function_gives_the_same_numbers_in_every_form(name: str, tmp_path: Path) -> None:
    function = FUNCTIONS[name]
    want = np.asarray(jax.vmap(lambda row: function(**row))(GIVEN))
    graph = traced(function, GIVEN)
    for form, got in in_every_form(graph, GIVEN, tmp_path).items():
        assert (got.shape, got.dtype) == (want.shape, want.dtype), form
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6, err_msg=form)


def test_every_operation_is_known_in_every_form() -> None:
    source = Path(onnx_file.__file__).read_text()
    written_out = set(re.findall(r'op == "(\w+)"', source))
    assert {*onnx_file.OPERATORS, *written_out} - {"take", "matmul", "reduce", "cast"} == {
        *OPERATIONS
    }
    assert {*c_file.EXPRESSIONS} == {*OPERATIONS}
    assert {*REDUCTIONS} == {"sum", "prod", "max", "min", "argmax", "argmin"}


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x, y, n: x[n[0]], "index that is calculated"),
        (lambda x, y, n: jax.lax.fori_loop(0, n[0], lambda i, a: a * 2, x), "'while'"),
        (lambda x, y, n: jnp.sort(x), "'sort'"),
        (lambda x, y, n: x + jax.random.normal(jax.random.key(n[0]), (6,)), "random"),
        (lambda x, y, n: x.at[n[0]].set(1.0), "index that is calculated"),
    ],
)
def test_what_cannot_be_exported_is_named(function: Callable[..., Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        traced(function, GIVEN)


def test_what_leaves_numbers_as_they_are_leaves_no_operation() -> None:
    def function(x: jax.Array, **_: Any) -> jax.Array:
        moved = jnp.stack([x[:3], x[3:]]).reshape(-1) * 1.0 + 0.0
        clipped = jnp.clip(moved, -jnp.inf, jnp.inf)
        return jnp.where(jnp.zeros(6, bool) & (x > 1), 7.0, clipped / 1.0 - 0.0)

    assert traced(function, GIVEN).nodes == ()


def test_what_is_not_needed_is_left_out() -> None:
    graph = traced(lambda x, y, n: (jnp.exp(x), x + 1)[1], GIVEN)
    assert [node.op for node in graph.nodes] == ["add"]


def test_what_is_carried_goes_in_and_comes_out(tmp_path: Path) -> None:
    from surefoot.deploy import Port, Program

    ports = [Port("x", (2,), "float32"), Port("sum", (2,), "float32", carried=True)]
    graph = trace(lambda v: {"action": v["x"], "sum": v["sum"] + v["x"]}, ports, ["sum"])
    x = np.ones((1, 2), np.float32)
    result = Program(graph.to_json(), list(graph.constants))({"x": x, "sum": 2 * x})
    assert result["sum"].tolist() == [[3, 3]]
    assert [port.carried for port in graph.outputs] == [False, True]
