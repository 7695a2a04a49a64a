"""Raw observation groups -> what networks read: the normalizer, part of the agent and saved with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import equinox as eqx
import jax

from surefoot.envs import ObservationSpec
from surefoot.functional import Reflection
from surefoot.functional.moments import Moments, init_moments, normalize, update_moments
from surefoot.networks import Inputs


@dataclass(frozen=True)
class NormalizerSpec:
    """How observations are normalized.

    Attributes:
        enabled: whether they are; else groups are only made flat.
        clip: where normalized observations are clipped, in standard deviations.
        reflections: of groups whose moments are taken together with those of their mirror images.
    """

    enabled: bool
    clip: float
    reflections: tuple[tuple[str, Reflection], ...] | None = None

    def __post_init__(self) -> None:
        if not self.clip > 0.0:
            raise ValueError(f"clip {self.clip} must be above 0")


class Normalizer(eqx.Module):
    """Running moments of each observation group.

    Frozen during a rollout and the update on it, so that the ratio is 1 before the first gradient
    step; `update` is called between them.
    """

    moments: Mapping[str, Moments]
    groups: tuple[tuple[str, ObservationSpec], ...] = eqx.field(static=True)
    spec: NormalizerSpec = eqx.field(static=True)

    def __call__(self, observation: Mapping[str, jax.Array]) -> Inputs:
        """The groups [..., *shape] as flat, normalized numbers [..., D_g], one-hot where discrete."""
        flat = self._flat(observation)
        if not self.spec.enabled:
            return flat
        moments = dict(self.moments)
        for name, reflection in self.spec.reflections or ():
            if name in moments:
                mean, variance = reflection.average(moments[name].mean, moments[name].variance)
                moments[name] = moments[name]._replace(mean=mean, variance=variance)
        return {name: normalize(x, moments[name], clip=self.spec.clip) for name, x in flat.items()}

    def update(self, observation: Mapping[str, jax.Array], weights: jax.Array) -> Normalizer:
        """The normalizer after seeing the observations whose weight is not zero."""
        if not self.spec.enabled:
            return self
        moments = {
            name: update_moments(self.moments[name], x, weights=weights)
            for name, x in self._flat(observation).items()
        }
        return Normalizer(moments, self.groups, self.spec)

    def _flat(self, observation: Mapping[str, jax.Array]) -> Inputs:
        return {name: spec.encode(observation[name]) for name, spec in self.groups}


def make_normalizer(
    observations: Mapping[str, ObservationSpec], spec: NormalizerSpec
) -> Normalizer:
    """A normalizer that has seen nothing; it passes observations through (clipped)."""
    moments = {name: init_moments((group.size,)) for name, group in observations.items()}
    return Normalizer(moments, tuple(observations.items()), spec)
