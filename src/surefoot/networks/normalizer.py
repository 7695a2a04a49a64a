"""Observation groups -> features: the normaliser that lives in the agent and is saved with it."""

from __future__ import annotations

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp

from surefoot.functional.moments import Moments, init_moments, normalize, update_moments


class Normalizer(eqx.Module):
    """Running moments of each observation group.

    Frozen during a rollout and the update on it, so that the ratio is 1 before the first gradient
    step; `update` is called between them. With `enabled` false it only selects and concatenates.
    """

    moments: Mapping[str, Moments]
    enabled: bool = eqx.field(static=True)
    clip: float = eqx.field(static=True)

    def features(self, observation: Mapping[str, jax.Array], groups: tuple[str, ...]) -> jax.Array:
        """The named groups, normalised, side by side.

        Args:
            observation: groups [..., D_g], raw.
            groups: which ones, in this order.

        Returns:
            [..., sum of D_g].
        """
        parts = [
            normalize(observation[name], self.moments[name], clip=self.clip)
            if self.enabled
            else observation[name]
            for name in groups
        ]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)

    def update(self, observation: Mapping[str, jax.Array], weights: jax.Array) -> Normalizer:
        """The normaliser after seeing the observations whose weight is not zero."""
        if not self.enabled:
            return self
        moments = {
            name: update_moments(self.moments[name], observation[name], weights=weights)
            for name in self.moments
        }
        return Normalizer(moments, self.enabled, self.clip)


def make_normalizer(sizes: Mapping[str, int], *, enabled: bool, clip: float) -> Normalizer:
    """A normaliser that has seen nothing; it passes observations through (clipped)."""
    return Normalizer({name: init_moments((size,)) for name, size in sizes.items()}, enabled, clip)
