"""A rollout made ready for optimisation: features, scaled rewards, advantages, value targets."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from surefoot import functional as F
from surefoot.config import Config
from surefoot.functional.moments import Moments
from surefoot.networks import Actor, Critic
from surefoot.rollout import Rollout


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
        actor_features: [T, N, D].
        critic_features: [T + 1, N, D]; the last row is the observation behind the last step.
        raw_actions: [T, N, ...].
        old_log_probs: [T, N], under the policy that collected.
        rewards: [T, N], scaled if that is on.
        terminated: [T, N] bool.
        truncated: [T, N] bool.
        weights: [T, N] float, 1 for experience and 0 for reset rows.
        proximal_log_probs: [T, N], under the policy that the update begins with; None where that is
            the one that collected.
    """

    actor_features: jax.Array
    critic_features: jax.Array
    raw_actions: jax.Array
    old_log_probs: jax.Array
    rewards: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    weights: jax.Array
    proximal_log_probs: jax.Array | None = None

    def num_steps(self) -> jax.Array:
        """Rows that are experience."""
        return jnp.count_nonzero(self.weights)


class Estimates(NamedTuple):
    """Advantages, value targets, and the critic's values before the update, all [T, N]."""

    advantages: jax.Array
    targets: jax.Array
    values: jax.Array


def catch_up(actor: Actor, experience: Experience) -> Experience:
    """A batch that an older policy collected, with the log-probabilities of the present one."""
    log_probs = actor(experience.actor_features).log_prob(experience.raw_actions)
    return experience._replace(proximal_log_probs=jax.lax.stop_gradient(log_probs))


def estimate(critic: Critic, experience: Experience, config: Config) -> Estimates:
    """Advantages by the chosen estimator, and what the critic is fitted to.

    The target is A + V where A is an advantage, and the (bootstrapped) reward-to-go where the
    estimator is a plain return.
    """
    all_values = jax.lax.stop_gradient(critic(experience.critic_features))
    values, next_values = all_values[:-1], all_values[1:]
    rows = (experience.rewards, values, next_values, experience.terminated, experience.truncated)
    options = {"gamma": config.gamma, "weights": experience.weights}
    if config.advantage_estimator in ("reward_to_go", "trajectory_return"):
        returns = F.reward_to_go(*rows, **options)
        total = config.advantage_estimator == "trajectory_return"
        advantages = F.trajectory_returns(*rows, **options) if total else returns
        return Estimates(advantages, returns, values)
    if config.advantage_estimator == "td":
        advantages = F.td_residuals(*rows, **options)
    elif config.advantage_estimator == "monte_carlo":
        advantages = F.monte_carlo_advantages(*rows, **options)
    elif experience.proximal_log_probs is not None and config.lag_correction == "vtrace":
        advantages = F.vtrace_advantages(
            *rows,
            **options,
            gae_lambda=config.gae_lambda,
            log_probs=experience.proximal_log_probs,
            old_log_probs=experience.old_log_probs,
        )
    else:
        advantages = F.gae(*rows, **options, gae_lambda=config.gae_lambda)
    return Estimates(advantages, F.value_targets(advantages, values), values)
