"""What one collection brings home."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from surefoot.envs.contract import Step
from surefoot.functional import finite_or_zero


class Rollout(NamedTuple):
    """T steps of N environments; row t is the action taken at `observations[t]` and its result.

    Rows whose `valid` is False are no experience: resets, whose action was ignored, and rows with a
    number that was not finite, in whose place there is 0. The observation behind step t is always
    `observations[t + 1]`, at an episode's end its true last one.

    Attributes:
        observations: groups [T + 1, N, *shape], raw.
        first: [T + 1, N] bool: whether an observation is the first of its episode.
        carry: what the policy carried into row 0; `()` without memory.
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
        final_observations: groups [T, N, *shape], of simulators that reset within the step: the last
            observation of the episodes that end in a row; None where `observations` holds it.
    """

    observations: Mapping[str, jax.Array]
    first: jax.Array
    carry: Any
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
    final_observations: Mapping[str, jax.Array] | None = None

    @property
    def ended(self) -> jax.Array:
        """[T, N]: the steps that end an episode."""
        return self.terminated | self.truncated


class Episodes(NamedTuple):
    """Return and length of each environment's running episode, [N]."""

    returns: jax.Array
    lengths: jax.Array


class Transition(NamedTuple):
    """One row of a rollout, before rows are stacked; `step` without its observation, which is the next
    row's.
    """

    observation: Any
    raw_action: jax.Array
    log_prob: jax.Array
    step: Step


class CollectorState(NamedTuple):
    """Where collecting goes on.

    Attributes:
        env_state: of the simulators, as they return it.
        observation: groups [N, *shape].
        first: [N] bool, whether `observation` is the first of an episode.
        carry: what the policy remembers; `()` without memory.
        episodes: the running `Episodes`.
        noise: state of exploration noise that goes on from step to step; `()` where none does.
    """

    env_state: Any
    observation: Any
    first: jax.Array
    carry: Any
    episodes: Any
    noise: Any = ()


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


def begins(step: Step, autoreset: str) -> Any:
    """[N] bool: whether the observation of a step is the first of an episode."""
    ended = step.terminated | step.truncated
    # a row that resets, on the step after an episode's end, is no experience and ends no episode
    return ended if autoreset == "same_step" else ~step.valid & ~ended


def assemble(
    transitions: Transition,
    before: CollectorState,
    after: CollectorState,
    autoreset: str,
    lost: Any = None,
) -> tuple[Rollout, CollectorState]:
    """Stacked transitions [T, ...] as a rollout, and where collecting goes on.

    Args:
        transitions: the rows.
        before: where the first of them began.
        after: what lies behind the last; its `first` and `episodes` are not read.
        autoreset: when the environments begin anew (`EnvSpec.autoreset`).
        lost: [T, N], rows of episodes that an environment lost (see `lost_rows`), if it may.
    """
    observations = jax.tree.map(
        lambda rows, last: jnp.concatenate([rows, last[None]]),
        dict(transitions.observation),
        dict(after.observation),
    )
    first = jnp.concatenate([before.first[None], begins(transitions.step, autoreset)])
    unmasked = transitions.step.valid
    if lost is not None:
        transitions = transitions._replace(step=transitions.step._replace(valid=unmasked & ~lost))
    transitions, observations, faults = _mask_faults(transitions, observations)
    step = transitions.step
    episodes, so_far = jax.lax.scan(count_step, before.episodes, step)
    rollout = Rollout(
        observations=observations,
        first=first,
        carry=before.carry,
        raw_actions=transitions.raw_action,
        log_probs=transitions.log_prob,
        rewards=step.reward,
        terminated=step.terminated,
        truncated=step.truncated,
        valid=step.valid,
        info=step.info,
        episode_returns=so_far.returns,
        episode_lengths=so_far.lengths,
        masked=(unmasked & ~step.valid).sum(axis=0, dtype=jnp.int32),
        faults=faults,
        final_observations=step.final_observation,
    )
    return rollout, after._replace(first=first[-1], episodes=episodes)


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
    ended = step.terminated | step.truncated
    bad = {}
    for name, rows in observations.items():
        spoilt = ~_is_finite(rows)
        bad[f"observation {name!r}"] = spoilt[:-1] | spoilt[1:]
        if step.final_observation is not None:
            at_end = ended & ~_is_finite(step.final_observation[name])
            bad[f"observation {name!r}"] |= at_end
    bad["reward"] = ~jnp.isfinite(step.reward)
    bad["action"] = ~_is_finite(transitions.raw_action) | ~jnp.isfinite(transitions.log_prob)
    faults = {name: (rows & step.valid).sum(axis=0, dtype=jnp.int32) for name, rows in bad.items()}
    sound = ~jnp.stack(list(bad.values())).any(axis=0)
    clean = transitions._replace(
        raw_action=finite_or_zero(transitions.raw_action),
        log_prob=finite_or_zero(transitions.log_prob),
        step=step._replace(
            reward=finite_or_zero(step.reward),
            valid=step.valid & sound,
            final_observation=jax.tree.map(finite_or_zero, step.final_observation),
        ),
    )
    return clean, jax.tree.map(finite_or_zero, dict(observations)), faults


def _is_finite(rows: jax.Array) -> jax.Array:
    """[T, N, ...] -> [T, N]: whether all numbers of a row are finite."""
    return jnp.isfinite(rows).all(axis=tuple(range(2, rows.ndim)))
