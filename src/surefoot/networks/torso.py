"""What lies between the observation groups that a network reads and its output layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from surefoot.networks.memory import Memory
from surefoot.networks.mlp import MLP

Inputs = Mapping[str, jax.Array]


class Torso(eqx.Module):
    """The named groups side by side, then memory if there is any, then hidden layers.

    A network carries what it remembers from step to step: `()` without memory.
    """

    body: MLP
    memory: Memory | None
    groups: tuple[str, ...] = eqx.field(static=True)

    def step(self, inputs: Inputs, carry: Any, first: jax.Array) -> tuple[jax.Array, Any]:
        """One step of N environments.

        Args:
            inputs: groups [N, D_g], as `Normalizer` makes them.
            carry: what the step before left.
            first: [N] bool, whether an episode begins here.

        Returns:
            Features [N, D], and what to carry on.
        """
        x = self._read(inputs)
        if self.memory is not None:
            x, carry = self.memory.step(x, carry, first)
        return self.body(x), carry

    def unroll(self, inputs: Inputs, carry: Any, first: jax.Array) -> tuple[jax.Array, Any]:
        """The same over whole sequences: groups [T, N, D_g], `first` [T, N]; features [T, N, D].

        Without memory the axes may be any: rows [B, D_g] are as good.

        Returns:
            Features, and what is carried behind each row, [T, N, ...].
        """
        x = self._read(inputs)
        if self.memory is not None:
            x, carry = self.memory.unroll(x, carry, first)
        return self.body(x), carry

    def follow(self, inputs: Inputs, carried: Any) -> jax.Array:
        """Features [T, N, D] of an observation that follows each row, see `Critic.values_after`."""
        x = self._read(inputs)
        if self.memory is not None:
            carried = jax.tree.map(lambda c: c[: len(x)], carried)
            goes_on = jnp.zeros(x.shape[1], bool)
            x, _ = jax.vmap(self.memory.step, in_axes=(0, 0, None))(x, carried, goes_on)
        return self.body(x)

    def on_top_of(self, trunk: Torso) -> Torso:
        """This torso behind a trunk that it shares with another."""
        layers, gains = trunk.body.layers + self.body.layers, trunk.body.gains + self.body.gains
        body = replace(trunk.body, layers=layers, gains=gains)
        return Torso(body, trunk.memory, trunk.groups)

    def _read(self, inputs: Inputs) -> jax.Array:
        parts = [inputs[name] for name in self.groups]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
