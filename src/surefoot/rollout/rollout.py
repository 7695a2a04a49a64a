"""What one collection brings home."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from surefoot.envs.contract import Step


class Rollout(NamedTuple):
    """T steps of N environments; row t is the action taken at `observations[t]` and its result.

    Rows whose `valid` is False are resets: their action was ignored and they are no experience. The
    observation behind step t is always `observations[t + 1]`, at an episode's end its true last one.

    Attributes:
        observations: groups [T + 1, N, D], raw.
        raw_actions: [T, N, ...], in the space in which log-probabilities are exact.
        log_probs: [T, N], under the policy that collected.
        rewards: [T, N].
        terminated: [T, N] bool.
        truncated: [T, N] bool.
        valid: [T, N] bool.
        info: named scalars [T, N].
        episode_returns: [T, N], undiscounted return of the episode so far.
        episode_lengths: [T, N], steps of the episode so far.
    """

    observations: Mapping[str, jax.Array]
    raw_actions: jax.Array
    log_probs: jax.Array
    rewards: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    valid: jax.Array
    info: Mapping[str, jax.Array]
    episode_returns: jax.Array
    episode_lengths: jax.Array

    @property
    def ended(self) -> jax.Array:
        """[T, N]: the steps that end an episode."""
        return self.terminated | self.truncated


class Episodes(NamedTuple):
    """Return and length of each environment's running episode, [N]."""

    returns: jax.Array
    lengths: jax.Array


class Transition(NamedTuple):
    """One row of a rollout, before rows are stacked."""

    observation: Any
    raw_action: jax.Array
    log_prob: jax.Array
    step: Step


class CollectorState(NamedTuple):
    """Where collecting goes on: the simulators, their last observation, the running episodes."""

    env_state: Any
    observation: Any
    episodes: Episodes


def start_episodes(num_envs: int) -> Episodes:
    """Accumulators of episodes that have just begun."""
    return Episodes(jnp.zeros(num_envs, jnp.float32), jnp.zeros(num_envs, jnp.int32))


def count_step(episodes: Episodes, step: Step) -> tuple[Episodes, Episodes]:
    """Account for one step.

    Returns:
        The accumulators to carry on (zero where the episode ended), and those that include the step.
    """
    now = Episodes(
        jnp.where(step.valid, episodes.returns + step.reward, episodes.returns),
        episodes.lengths + step.valid.astype(jnp.int32),
    )
    ended = (step.terminated | step.truncated) & step.valid
    carried = Episodes(jnp.where(ended, 0.0, now.returns), jnp.where(ended, 0, now.lengths))
    return carried, now


def assemble(
    transitions: Transition, last_observation: Mapping[str, jax.Array], episodes: Episodes
) -> tuple[Rollout, Episodes]:
    """Stacked transitions [T, ...] as a rollout, and the episodes that go on."""
    step = transitions.step
    carried, so_far = jax.lax.scan(count_step, episodes, step)
    observations = jax.tree.map(
        lambda rows, last: jnp.concatenate([rows, last[None]]),
        dict(transitions.observation),
        dict(last_observation),
    )
    rollout = Rollout(
        observations=observations,
        raw_actions=transitions.raw_action,
        log_probs=transitions.log_prob,
        rewards=step.reward,
        terminated=step.terminated,
        truncated=step.truncated,
        valid=step.valid,
        info=step.info,
        episode_returns=so_far.returns,
        episode_lengths=so_far.lengths,
    )
    return rollout, carried
