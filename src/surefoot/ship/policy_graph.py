"""A policy as a graph: from the raw observation to the environment's own action."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from surefoot.agent import Policy
from surefoot.deploy import Port
from surefoot.envs import ObservationSpec
from surefoot.errors import UserError
from surefoot.ship.graph import Graph, trace


def policy_graph(policy: Policy) -> Graph:
    """What a policy does, deterministically, for one observation; what it remembers goes in and comes out.

    Raises:
        ValueError: 32 bits do not tell its actions apart (`ActionSpec.is_wide`).
    """
    if policy.action.is_wide:
        raise UserError(
            "its actions are integers or narrow ranges too far from 0 for 32 bits, in which exports calculate"
        )
    groups = dict(policy.normalizer.groups)
    carry = policy.initial_carry(1)
    leaves, structure = jax.tree.flatten(carry)
    names = [f"memory_{i}" for i in range(len(leaves))]
    inputs = [port_of(name, spec) for name, spec in groups.items()]
    inputs += [
        Port(name, leaf.shape[1:], str(leaf.dtype), carried=True)
        for name, leaf in zip(names, leaves, strict=True)
    ]

    def act(given: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        # an origin is subtracted as the port is read, in float64, which is not for traced programs
        plain = {name: dataclasses.replace(spec, origin=None) for name, spec in groups.items()}
        seen = {name: spec.cast(given[name][None], jnp) for name, spec in plain.items()}
        before = jax.tree.unflatten(structure, [given[name][None] for name in names])
        first, key = jnp.zeros(1, bool), jax.random.key(0)
        choice, after = policy.act(seen, before, first, key, deterministic=True)
        onward = dict(zip(names, (leaf[0] for leaf in jax.tree.leaves(after)), strict=True))
        return {"action": choice.env_action[0], **onward}

    graph = trace(act, inputs, carried=names)
    action = policy.action
    outputs = tuple(
        port if port.carried else Port(port.name, action.shape, action.dtype)
        for port in graph.outputs
    )
    return graph._replace(outputs=outputs)


def port_of(name: str, spec: ObservationSpec) -> Port:
    """An observation group as it goes into an exported policy."""
    if spec.origin is None:
        return Port(name, spec.shape, spec.dtype)
    return Port(name, spec.shape, "float64", origin=spec.origin)
