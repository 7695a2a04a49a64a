"""What one collection brings home."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from surefoot.envs.contract import Step


class Rollout(NamedTuple):
    """T steps of N environments; row t is the action taken at `observations[t]` and its result.

    Rows whose `valid` is False are no experience: resets, whose action was ignored, and rows with a
    number that was not finite, in whose place there is 0. The observation behind step t is always
    `observations[t + 1]`, at an episode's end its true last one.

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
        masked: [N] rows that are no experience because a number was not finite or the environment
            failed later in the episode.
        faults: [N] by what a number that is not finite was in.
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
    masked: jax.Array
    faults: Mapping[str, jax.Array]

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
    """Account for one step; one that is no experience counts nowhere, but may end an episode.

    Returns:
        The accumulators to carry on (zero where the episode ended), and those that include the step.
    """
    now = Episodes(
        jnp.where(step.valid, episodes.returns + step.reward, episodes.returns),
        episodes.lengths + step.valid.astype(jnp.int32),
    )
    ended = step.terminated | step.truncated  # also where that row is no experience
    carried = Episodes(jnp.where(ended, 0.0, now.returns), jnp.where(ended, 0, now.lengths))
    return carried, now


def assemble(
    transitions: Transition,
    last_observation: Mapping[str, jax.Array],
    episodes: Episodes,
    lost: Any = None,
) -> tuple[Rollout, Episodes]:
    """Stacked transitions [T, ...] as a rollout, and the episodes that go on.

    Args:
        transitions: the rows.
        last_observation: groups [N, D] behind the last row.
        episodes: the episodes that were running before.
        lost: [T, N], rows of episodes that an environment lost (see `lost_rows`), if it may.
    """
    observations = jax.tree.map(
        lambda rows, last: jnp.concatenate([rows, last[None]]),
        dict(transitions.observation),
        dict(last_observation),
    )
    before = transitions.step.valid
    if lost is not None:
        transitions = transitions._replace(step=transitions.step._replace(valid=before & ~lost))
    transitions, observations, faults = _mask_faults(transitions, observations)
    step = transitions.step
    carried, so_far = jax.lax.scan(count_step, episodes, step)
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
        masked=(before & ~step.valid).sum(axis=0, dtype=jnp.int32),
        faults=faults,
    )
    return rollout, carried


def lost_rows(step: Step) -> np.ndarray:
    """The rows of episodes that an environment lost, those of earlier rollouts aside.

    Args:
        step: stacked steps [T, N], on the host; an episode was lost where it is ended and not `valid`.

    Returns:
        [T, N] bool.
    """
    ended = step.terminated | step.truncated
    lost = ended & ~step.valid
    if lost.any():
        for t in range(len(lost) - 2, -1, -1):
            lost[t] |= lost[t + 1] & ~ended[t]
    return lost


def _mask_faults(
    transitions: Transition, observations: Mapping[str, jax.Array]
) -> tuple[Transition, Mapping[str, jax.Array], Mapping[str, jax.Array]]:
    """Rows with a number that is not finite as rows that are no experience.

    An observation spoils the row that acts on it and the one that leads to it. What the estimators do
    about an episode's end, they do about such a row: nothing on its two sides is mixed.

    Returns:
        Transitions and observations with 0 for every such number, and the faults.
    """
    step = transitions.step
    bad = {}
    for name, rows in observations.items():
        spoilt = ~_is_finite(rows)
        bad[f"observation {name!r}"] = spoilt[:-1] | spoilt[1:]
    bad["reward"] = ~jnp.isfinite(step.reward)
    bad["action"] = ~_is_finite(transitions.raw_action) | ~jnp.isfinite(transitions.log_prob)
    faults = {name: (rows & step.valid).sum(axis=0, dtype=jnp.int32) for name, rows in bad.items()}
    sound = ~jnp.stack(list(bad.values())).any(axis=0)
    clean = transitions._replace(
        raw_action=_zero_unless_finite(transitions.raw_action),
        log_prob=_zero_unless_finite(transitions.log_prob),
        step=step._replace(reward=_zero_unless_finite(step.reward), valid=step.valid & sound),
    )
    return clean, jax.tree.map(_zero_unless_finite, dict(observations)), faults


def _is_finite(rows: jax.Array) -> jax.Array:
    """[T, N, ...] -> [T, N]: whether all numbers of a row are finite."""
    return jnp.isfinite(rows).all(axis=tuple(range(2, rows.ndim)))


def _zero_unless_finite(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.isfinite(x), x, jnp.zeros((), x.dtype))
