"""Mirror images: vectors whose numbers change places and signs, and what is averaged with its image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Reflection:
    """A vector's mirror image, number by number.

        image[i] = signs[i] * vector[places[i]]

    Attributes:
        places: where each number of the image comes from.
        signs: 1 or -1.
    """

    places: tuple[int, ...]
    signs: tuple[float, ...]

    def __call__(self, vector: Any) -> Any:
        """The mirror image of [..., D]."""
        return vector[..., np.array(self.places)] * np.array(self.signs, vector.dtype)

    def check(self, size: int) -> None:
        """Raise ValueError if this is no mirror image of vectors of that size."""
        if len(self.places) != size or len(self.signs) != size:
            raise ValueError(f"a mirror image of {len(self.places)} numbers for {size}")
        inside = all(0 <= place < size for place in self.places)
        if not inside or {*self.signs} - {1.0, -1.0} or not self.involution:
            raise ValueError(f"{self} is no mirror image")

    @property
    def unsigned(self) -> Reflection:
        """The same for numbers that do not change their signs, such as standard deviations."""
        return Reflection(self.places, (1.0,) * len(self.places))

    @property
    def involution(self) -> bool:
        """Whether the image of the image is the vector itself."""
        there = [self.places[i] for i in self.places]
        signs = [a * self.signs[i] for a, i in zip(self.signs, self.places, strict=True)]
        return there == list(range(len(there))) and all(sign == 1 for sign in signs)

    def average(self, mean: jax.Array, variance: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and variance of rows and their mirror images together.

            (m + m') / 2,    (v + v') / 2 + ((m - m') / 2)^2

        Args:
            mean: [D] of the rows: m; that of the images is m'.
            variance: [D] of the rows, v.
        """
        image = self(mean)
        between = jnp.square((mean - image) / 2)
        return (mean + image) / 2, (variance + self.unsigned(variance)) / 2 + between


@dataclass(frozen=True)
class PolicyReflection:
    """The mirror image of what a policy reads and does.

    Attributes:
        inputs: reflections of its observation groups, by name.
        action: of its actions.
    """

    inputs: tuple[tuple[str, Reflection], ...]
    action: Reflection

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The mirror image of groups [..., D_g]; those that are not named are left out."""
        return {name: reflection(inputs[name]) for name, reflection in self.inputs}


def joined(reflections: Iterable[Reflection]) -> Reflection:
    """That of vectors one behind the other."""
    places: list[int] = []
    signs: list[float] = []
    for reflection in reflections:
        places += [len(signs) + i for i in reflection.places]
        signs += reflection.signs
    return Reflection(tuple(places), tuple(signs))
