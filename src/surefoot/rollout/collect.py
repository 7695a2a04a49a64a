"""Collecting: one acting step, driven by a scan inside the graph or by a loop on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from surefoot.envs.contract import ActionSpec, Environment, as_groups
from surefoot.networks import Actor, Normalizer
from surefoot.rollout.rollout import (
    CollectorState,
    Rollout,
    Transition,
    assemble,
    lost_rows,
    start_episodes,
)


class Policy(eqx.Module):
    """An actor with the normaliser and the observation groups it reads through."""

    actor: Actor
    normalizer: Normalizer
    groups: tuple[str, ...] = eqx.field(static=True)


class Act(NamedTuple):
    """One action for each environment: raw, its log-probability, and as the environment wants it."""

    raw_action: jax.Array
    log_prob: jax.Array
    env_action: jax.Array


Collector = Callable[[Policy, CollectorState, jax.Array], tuple[CollectorState, Rollout]]


def act(
    policy: Policy,
    observation: Any,
    key: jax.Array,
    action_spec: ActionSpec,
    *,
    deterministic: bool = False,
) -> Act:
    """Choose actions for a batch of raw observations.

    Args:
        policy: actor, normaliser, groups.
        observation: groups [N, D], raw.
        key: random stream of the sampling.
        action_spec: maps the canonical action onto the environment's own.
        deterministic: take the distribution's mode instead of a sample.
    """
    # a number that is not finite must not reach the simulator as an action; its row is masked
    seen = {name: jnp.where(jnp.isfinite(x := observation[name]), x, 0.0) for name in policy.groups}
    distribution = policy.actor(policy.normalizer.features(seen, policy.groups))
    raw = distribution.mode() if deterministic else distribution.sample(key)
    env_action = action_spec.to_env(distribution.to_action(raw))
    return Act(raw, distribution.log_prob(raw), env_action)


def start(env: Environment, key: jax.Array) -> CollectorState:
    """Reset the environments."""
    env_state, step = env.reset(key)
    observation = {name: jnp.asarray(x) for name, x in as_groups(step.observation).items()}
    env_state = jax.tree.map(jnp.asarray, env_state)
    return CollectorState(env_state, observation, start_episodes(env.spec.num_envs))


def make_collector(env: Environment, *, num_steps: int, deterministic: bool = False) -> Collector:
    """A function that steps all environments `num_steps` times.

    The simulator is inside the jitted program where it can be, else a host loop steps it around a
    jitted `act`; both give the same rollout for the same keys.
    """
    make = _graph_collector if env.spec.in_graph else _host_collector
    return make(env, num_steps, deterministic)


def _graph_collector(env: Environment, num_steps: int, deterministic: bool) -> Collector:
    def collect(
        policy: Policy, state: CollectorState, key: jax.Array
    ) -> tuple[CollectorState, Rollout]:
        def one_step(carry: tuple[Any, Any], step_key: jax.Array) -> tuple[Any, Transition]:
            env_state, observation = carry
            choice = act(
                policy, observation, step_key, env.spec.action, deterministic=deterministic
            )
            env_state, step = env.step(env_state, choice.env_action)
            # the observation goes on in the carry; keeping it in the row too would store it twice
            step = step._replace(observation=as_groups(step.observation))
            row = Transition(
                observation, choice.raw_action, choice.log_prob, step._replace(observation=None)
            )
            return (env_state, step.observation), row

        keys = jax.random.split(key, num_steps)
        (env_state, last), rows = jax.lax.scan(one_step, (state.env_state, state.observation), keys)
        rollout, episodes = assemble(rows, last, state.episodes)
        return CollectorState(env_state, last, episodes), rollout

    compiled = jax.jit(collect)

    def collect_typed(
        policy: Policy, state: CollectorState, key: jax.Array
    ) -> tuple[CollectorState, Rollout]:
        with jax.enable_x64(True):  # for the simulator's calls; everything of ours is float32
            return compiled(policy, state, key)

    return collect_typed if env.spec.needs_float64 else compiled


def _host_collector(env: Environment, num_steps: int, deterministic: bool) -> Collector:
    wanted = np.dtype(env.spec.action.dtype)
    narrow = "float32" if wanted.kind == "f" else "int32"
    spec = dataclasses.replace(env.spec.action, dtype=narrow)  # float64 is made on the host

    @jax.jit
    def act_now(policy: Policy, observation: Any, key: jax.Array) -> Act:
        return act(policy, observation, key, spec, deterministic=deterministic)

    finish = jax.jit(assemble)
    split = jax.jit(jax.random.split, static_argnums=1)

    def collect(
        policy: Policy, state: CollectorState, key: jax.Array
    ) -> tuple[CollectorState, Rollout]:
        keys = split(key, num_steps)
        env_state, observation = state.env_state, state.observation
        rows = []
        for step_key in keys:
            choice = act_now(policy, observation, step_key)
            env_state, step = env.step(env_state, np.asarray(choice.env_action, wanted))
            rows.append(
                Transition(
                    observation, choice.raw_action, choice.log_prob, step._replace(observation=None)
                )
            )
            observation = as_groups(step.observation)
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        lost = lost_rows(stacked.step)
        rollout, episodes = finish(stacked, observation, state.episodes, lost)
        observation = {name: jnp.asarray(x) for name, x in observation.items()}
        return CollectorState(env_state, observation, episodes), rollout

    return collect
