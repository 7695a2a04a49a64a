"""Trees in few arrays, and programs that take a policy apart once."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefoot.rollout.packing import Packed, PolicyProgram

TREES: dict[str, Any] = {
    "one": jnp.arange(3.0),
    "kinds": {
        "flag": jnp.array([True, False, True]),
        "count": jnp.arange(3),
        "picture": jnp.arange(24, dtype=jnp.uint8).reshape(3, 2, 4),
        "numbers": (jnp.arange(6.0).reshape(3, 2), -jnp.arange(3.0)),
        "nothing": None,
        "no numbers": jnp.zeros((3, 0)),
    },
    "empty": {},
}


@pytest.mark.parametrize("name", TREES)
def test_what_is_packed_is_the_same_when_it_is_unpacked(name: str) -> None:
    tree = TREES[name]
    packed = jax.jit(Packed.of)(tree)
    leaves = jax.tree.leaves(tree)
    assert len(packed.arrays) == len({x.dtype for x in leaves})
    stacked = jax.tree.map(lambda *x: np.stack(x), packed, packed)
    for back, expected in ((packed.unpack(), tree), (stacked.unpack(), _twice(tree))):
        assert jax.tree.structure(back) == jax.tree.structure(expected)
        for mine, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(expected), strict=True):
            assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
            np.testing.assert_array_equal(mine, theirs)


def _twice(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.stack([x, x]), tree)


class Scale(eqx.Module):
    by: jax.Array
    squared: bool = eqx.field(static=True)


def test_a_program_is_traced_again_for_a_policy_of_another_form_alone() -> None:
    traced = []

    def scaled(policy: Any, x: Any) -> Any:
        traced.append(policy.squared)
        return policy.by * (x**2 if policy.squared else x)

    program, x = PolicyProgram(scaled), jnp.float32(3)
    for by, squared, expected in ((2, False, 6), (5, False, 15), (2, True, 18), (7, False, 21)):
        assert float(program.bind(Scale(jnp.float32(by), squared))(x)) == expected
    assert traced == [False, True]
