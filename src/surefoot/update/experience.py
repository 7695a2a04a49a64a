"""A rollout made ready for optimization: what was seen, scaled rewards, and what the critic makes of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from surefoot import functional as F
from surefoot.agent import Normalizer
from surefoot.config import Config
from surefoot.functional.moments import Moments
from surefoot.networks import Actor, Critic, Inputs
from surefoot.rollout import Rollout
from surefoot.update.estimators import ESTIMATORS, Rows, next_values


class RewardScaler(eqx.Module):
    """Running standard deviation of the discounted return, by which rewards are divided.

    Attributes:
        moments: of the discounted returns seen so far, scalar.
        accumulators: [N] discounted return of each running episode.
    """

    moments: Moments
    accumulators: jax.Array
    enabled: bool = eqx.field(static=True)
    clip: float = eqx.field(static=True)
    gamma: float = eqx.field(static=True)

    def __call__(self, rollout: Rollout) -> tuple[RewardScaler, jax.Array]:
        """The scaler after this rollout, and the rollout's rewards [T, N] under it."""
        if not self.enabled:
            return self, rollout.rewards

        def one_step(accumulator: jax.Array, row: tuple[jax.Array, ...]) -> Any:
            rewards, ended, valid = row
            returns, carried = F.discounted_return_step(
                accumulator, rewards, ended, gamma=self.gamma, weights=valid
            )
            return carried, returns

        accumulators, returns = jax.lax.scan(
            one_step, self.accumulators, (rollout.rewards, rollout.ended, rollout.valid)
        )
        moments = F.update_moments(self.moments, returns, weights=rollout.valid)
        after = RewardScaler(moments, accumulators, self.enabled, self.clip, self.gamma)
        return after, F.scale_rewards(rollout.rewards, moments, clip=self.clip)

    def begin_anew(self) -> RewardScaler:
        """The scaler where all environments begin new episodes."""
        return eqx.tree_at(lambda s: s.accumulators, self, jnp.zeros_like(self.accumulators))


def make_reward_scaler(config: Config) -> RewardScaler:
    """A scaler that has seen nothing."""
    return RewardScaler(
        F.init_moments(()),
        jnp.zeros(config.num_envs, jnp.float32),
        config.scale_rewards,
        config.reward_clip,
        config.gamma,
    )


class Experience(NamedTuple):
    """What an update needs of a rollout.

    Attributes:
        observations: groups [T + 1, N, D_g], as the normalizer showed them to the policy that collected;
            the last row is the one behind the last step.
        first: [T + 1, N] bool, whether an observation is the first of its episode.
        carry: what the policy carried into row 0; `()` without memory.
        raw_actions: [T, N, ...].
        old_log_probs: [T, N], under the policy that collected.
        rewards: [T, N], scaled if that is on.
        terminated: [T, N] bool.
        truncated: [T, N] bool.
        weights: [T, N] float, 1 for experience and 0 for reset rows.
        final_observations: groups [T, N, D_g], of simulators that reset within the step (see `Rollout`).
        proximal_log_probs: [T, N], under the policy that the update begins with; None where that is
            the one that collected.
    """

    observations: Inputs
    first: jax.Array
    carry: Any
    raw_actions: jax.Array
    old_log_probs: jax.Array
    rewards: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    weights: jax.Array
    final_observations: Inputs | None = None
    proximal_log_probs: jax.Array | None = None

    def seen(self) -> Inputs:
        """The observations that were acted on, [T, N, D_g]."""
        return {name: rows[:-1] for name, rows in self.observations.items()}

    def num_steps(self) -> jax.Array:
        """Rows that are experience."""
        return jnp.count_nonzero(self.weights)


def make_experience(rollout: Rollout, rewards: jax.Array, normalizer: Normalizer) -> Experience:
    """A rollout with its scaled rewards, seen through the normalizer that collected it."""
    final = rollout.final_observations
    return Experience(
        observations=normalizer(rollout.observations),
        first=rollout.first,
        carry=rollout.carry,
        raw_actions=rollout.raw_actions,
        old_log_probs=rollout.log_probs,
        rewards=rewards,
        terminated=rollout.terminated,
        truncated=rollout.truncated,
        weights=rollout.valid.astype(np.float32),
        final_observations=None if final is None else normalizer(final),
    )


class Estimates(NamedTuple):
    """What a critic makes of a batch, before the update on it.

    Attributes:
        advantages: [T, N].
        targets: [T, N], what the critic is fitted to.
        values: [T, N].
    """

    advantages: jax.Array
    targets: jax.Array
    values: jax.Array


def catch_up(actor: Actor, experience: Experience) -> Experience:
    """A batch that an older policy collected, with the log-probabilities of the present one."""
    distribution = actor.unroll(experience.seen(), experience.carry, experience.first[:-1])
    log_probs = distribution.log_prob(experience.raw_actions)
    return experience._replace(proximal_log_probs=jax.lax.stop_gradient(log_probs))


def estimate_advantages(
    critic: Critic, carry: Any, experience: Experience, config: Config, *, exact: bool
) -> tuple[Estimates, Any]:
    """Advantages by the chosen estimator, and what the critic is fitted to.

    Args:
        critic: the critic as it stands.
        carry: what it carries into row 0; `()` without memory.
        experience: the batch.
        config: the options.
        exact: whether the simulators give the last observation of an episode that a time limit ends.

    Returns:
        The estimates, and what the critic carries into the next rollout.
    """
    values, carried = critic.unroll(experience.observations, carry, experience.first)
    values = jax.lax.stop_gradient(values)
    final_values = None
    if experience.final_observations is not None:
        final_values = jax.lax.stop_gradient(
            critic.values_after(experience.final_observations, carried)
        )
    ended = experience.terminated | experience.truncated
    corrects = config.lag_correction == "vtrace" and config.advantage_estimator == "gae"
    rows = Rows(
        experience.rewards,
        values[:-1],
        next_values(values, ended, final_values, exact=exact),
        experience.terminated,
        experience.truncated,
        experience.weights,
        experience.old_log_probs,
        experience.proximal_log_probs if corrects else None,
    )
    advantages, targets = ESTIMATORS[config.advantage_estimator](rows, config)
    # the last row is the next rollout's first
    onward = jax.tree.map(lambda rows: rows[-2], carried)
    return Estimates(advantages, targets, values[:-1]), onward
