"""What an agent takes over from a policy of another task: networks and moments, group by group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from surefoot.agent.agent import Agent
from surefoot.agent.normalizer import Normalizer
from surefoot.agent.policy import Policy, PolicySpec
from surefoot.envs import ObservationSpec
from surefoot.errors import UserError
from surefoot.networks import Actor, Critic, TorsoSpec

Groups = Mapping[str, ObservationSpec]
N = TypeVar("N", Actor, Critic)


def inherit_actor(
    policy: Policy, agent: Agent, actor: Actor, normalizer: Normalizer
) -> tuple[Actor, Normalizer]:
    """A policy's actor and moments, in an agent's order of observation groups.

    A group that the policy does not read begins with weights of 0, so that equal observations still give
    equal actions, and with the moments of `normalizer`.

    Args:
        policy: what was trained.
        agent: of the new run.
        actor: a fresh one of it.
        normalizer: a fresh one of it.

    Raises:
        ValueError: actions, networks or observation groups that do not fit, with both.
    """
    if differences := agent.action.differences(policy.action):
        raise UserError(f"its actions are others: {'; '.join(differences)}")
    old = policy.spec()
    check_same(options_of(old), options_of(agent.policy(actor, normalizer).spec()))
    if old.symmetry is not None and old.symmetry != actor.symmetry:
        raise UserError(
            "symmetry = 'average': the task's mirror image is another than that of the policy's task"
        )
    kept = inherit_torso(policy.actor, old.observations, old.torso, agent.observations, agent.actor)
    return replace(kept, symmetry=actor.symmetry), inherit_moments(policy.normalizer, normalizer)


def inherit_torso(network: N, groups: Groups, old: TorsoSpec, offered: Groups, new: TorsoSpec) -> N:
    """A network that reads observation groups in another order, or some more, whose weights are 0.

    Args:
        network: actor or critic.
        groups: what it reads.
        old: its torso's shape.
        offered: what there is to be read.
        new: the torso's shape that is wanted; the same but for the groups.

    Raises:
        ValueError: a group that is not there any more, or has another shape, with both.
    """
    for name in old.groups:
        if name not in new.groups:
            there = ", ".join(f"{x} {offered[x].shape}" for x in new.groups)
            raise UserError(
                f"it reads the observation group {name!r} of shape {groups[name].shape}, which the new one "
                f"does not: it reads {there}"
            )
        if groups[name] != offered[name]:
            raise UserError(
                f"the observation group {name!r} has shape {groups[name].shape} there and "
                f"{offered[name].shape} here"
                + (", read in another way" if groups[name].shape == offered[name].shape else "")
                + ": what its numbers are has no names, so they cannot be told apart"
            )
    before, rows, reads = 0, {}, _reader(network)
    weight = reads(network)
    for name in old.groups:
        rows[name] = weight[before : before + groups[name].size]
        before += groups[name].size
    fresh = {n: jnp.zeros((offered[n].size, weight.shape[1]), weight.dtype) for n in new.groups}
    mapped = jnp.concatenate([rows.get(name, fresh[name]) for name in new.groups])
    torso = replace(network.torso, groups=new.groups)
    network = eqx.tree_at(lambda n: n.torso, network, torso)
    return eqx.tree_at(reads, network, mapped)


def inherit_moments(old: Normalizer, new: Normalizer) -> Normalizer:
    """A normalizer with the moments of another, of the groups that are the same in both."""
    groups = dict(old.groups)
    moments = {
        name: old.moments[name] if groups.get(name) == spec else new.moments[name]
        for name, spec in new.groups
    }
    return Normalizer(moments, new.groups, new.spec)


def options_of(spec: PolicySpec) -> dict[str, Any]:
    """The options that a policy's form follows from, as it has them."""
    kind = "off"
    if spec.normalizer.reflections is not None:
        kind = "augment" if spec.symmetry is None else "average"
    return options_of_torso(spec.torso, "actor") | {
        "distribution": spec.head.kind,
        "state_dependent_std": spec.head.state_dependent_std,
        "action_bins": spec.head.bins,
        "gsde": spec.head.gsde,
        "min_std": spec.head.min_std,
        "symmetry": kind,
        "normalize_observations": spec.normalizer.enabled,
        "observation_clip": spec.normalizer.clip,
    }


def options_of_torso(spec: TorsoSpec, who: str) -> dict[str, Any]:
    """The options that the form of an actor's or a critic's torso follows from."""
    memory = spec.memory
    return {
        f"{who}_hidden": spec.hidden,
        f"{who}_layer_norm": spec.layer_norm,
        f"{who}_residual": spec.residual,
        "activation": spec.activation,
        "memory": "off" if memory is None else memory.kind,
        "memory_size": None if memory is None else memory.size,
        "memory_layers": None if memory is None else memory.layers,
    }


def check_same(there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise ValueError for options that are other than those that something was trained with."""
    odd = [name for name, value in there.items() if value != here[name]]
    if not odd:
        return
    differences = "; ".join(f"{name} = {there[name]!r} there, {here[name]!r} here" for name in odd)
    flags = " ".join(_flag(name, there[name]) for name in odd if there[name] is not None)
    raise UserError(f"it was trained in another form: {differences}. To begin with it: {flags}")


def _flag(option: str, value: Any) -> str:
    name = option.replace("_", "-")
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(map(str, (f"--{name}", *values)))


def _reader(network: Actor | Critic) -> Callable[[Any], jax.Array]:
    """What picks the weights [D_in, D] that read a network's observation groups."""
    if network.torso.memory is not None:
        return lambda n: n.torso.memory.cells[0].inputs.weight
    if network.torso.body.layers:
        return lambda n: n.torso.body.layers[0].weight
    return lambda n: n.output.weight
