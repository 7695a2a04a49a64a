"""Programs that run at every step, and what they give, in few pieces: each costs microseconds."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from surefoot.agent import Policy


class PolicyProgram:
    """A jitted function of a policy and more, which takes the policy apart once and not at every call.

    Args:
        function: the function.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        def program(structure: Any) -> Callable[..., Any]:
            return jax.jit(
                lambda leaves, *more: function(jax.tree.unflatten(structure, leaves), *more)
            )

        self._program = functools.cache(program)

    def bind(self, policy: Policy) -> Callable[..., Any]:
        """The program for this policy, of what else the function takes."""
        leaves, structure = jax.tree.flatten(policy)
        return functools.partial(self._program(structure), leaves)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packed:
    """A tree of [N, ...] as one array for each dtype.

    Attributes:
        arrays: by dtype, [N, numbers].
        structure: of the tree.
        places: of each leaf: its dtype, where it begins there, and its shape without N.
    """

    arrays: dict[str, Any]
    structure: Any = field(metadata={"static": True})
    places: tuple[tuple[str, int, tuple[int, ...]], ...] = field(metadata={"static": True})

    @classmethod
    def of(cls, tree: Any) -> Packed:
        """Pack; traced."""
        leaves, structure = jax.tree.flatten(tree)
        parts: dict[str, list[Any]] = {}
        places = []
        for leaf in leaves:
            mine, size = parts.setdefault(str(leaf.dtype), []), math.prod(leaf.shape[1:])
            places.append((str(leaf.dtype), sum(x.shape[1] for x in mine), leaf.shape[1:]))
            mine.append(jnp.reshape(leaf, (len(leaf), size)))
        arrays = {name: jnp.concatenate(mine, axis=1) for name, mine in parts.items()}
        return cls(arrays, structure, tuple(places))

    def unpack(self) -> Any:
        """The tree [N, ...], or [T, N, ...] where several were stacked; on the host."""
        leaves = []
        for name, begin, shape in self.places:
            array = np.asarray(self.arrays[name])
            part = array[..., begin : begin + math.prod(shape)]
            leaves.append(part.reshape(*array.shape[:-1], *shape))
        return jax.tree.unflatten(self.structure, leaves)
