"""Every number a run reports, by name, and how it is made from a rollout and an update."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from surefoot import functional as F
from surefoot.envs.contract import SUCCESS, logged_as
from surefoot.functional.distributions import DiagGaussian, Distribution, TanhGaussian
from surefoot.networks import Actor
from surefoot.rollout import Rollout
from surefoot.update import Estimates, Experience

METRICS: dict[str, str] = {
    "step": "environment steps of experience so far",
    "iteration": "iterations (collect, then update) so far",
    "wall_time_s": "seconds since training began",
    "rollout/episode_return": "mean undiscounted return of the episodes that ended in this rollout",
    "rollout/episode_length": "their mean length in steps",
    "rollout/episodes": "how many ended",
    "rollout/truncated_share": "share of them that a time limit ended",
    "rollout/success_rate": "share of them that ended in success, where the task reports it",
    "rollout/masked_steps": "steps left out: a number was not finite, or the environment failed",
    "rollout/lost_episodes": "episodes that such a fault cut off",
    "rollout/inexact_truncations": "time limits whose last observation the simulator lost",
    "reward/NAME": "mean per step of the task's reward term NAME",
    "measure/NAME": "mean per step of what a robot's task measures",
    "batch/reward_max": "largest reward of the batch, without sign, before scaling",
    "batch/advantage_std": "standard deviation of the advantages before normalization",
    "batch/observation_clip_share": "share of the actor's normalized observations at their clip",
    "batch/action_bound_share": "share of continuous action components at or beyond their bounds",
    "loss/policy": "surrogate loss, without the entropy bonus",
    "loss/value": "half the mean squared error of the critic, on scaled rewards (on normalized values where "
    "they are)",
    "policy/entropy": "entropy of the action distribution in nats",
    "policy/approx_kl": "KL from the old to the new policy (k3 estimate), mean over steps taken",
    "policy/held_out_kl": "KL of the update before, on this rollout, whose states it did not learn from",
    "policy/clip_fraction": "share of samples whose ratio left the clip range (0.2 if nothing is clipped)",
    "policy/first_ratio_error": "how far a ratio is from 1 before the first step, at most, in the last row",
    "policy/ratio_max": "largest probability ratio seen in the update",
    "policy/std": "mean standard deviation of a Gaussian policy, in canonical actions",
    "value/explained_variance": "share of the targets' variance that the old values explain",
    "optim/learning_rate": "the actor's step size",
    "optim/grad_norm": "global gradient norm of the actor (or joint) loss before clipping",
    "optim/critic_grad_norm": "the same of a separate critic",
    "optim/step_fraction": "share of the actor's gradient steps (trpo: of its step) that the KL allowed",
    "optim/refused_updates": "updates so far that were not applied because they were not finite",
    "optim/kl_coef": "beta of the KL penalty",
    "async/lag": "overlap full: updates that the policy which collected was behind",
    "async/effective_sample_share": "effective sample size of that lag's weights, share of the batch",
    "async/ratio_max": "largest ratio of the batch before the first step on it",
    "eval/episode_return": "mean undiscounted return of the deterministic policy, where it is evaluated",
    "eval/episode_return_std": "its population standard deviation over the episodes",
    "eval/episode_length": "mean length of the evaluation's episodes in steps",
    "eval/episodes": "how many they were",
    "eval/truncated_share": "share of them that a time limit ended",
    "eval/success_rate": "share of them that ended in success, where the task reports it",
    "eval/lost_episodes": "further ones that were lost, where there are any",
    "eval/reward/NAME": "mean per step of the evaluation of the task's reward term NAME",
    "eval/measure/NAME": "mean per step of the evaluation of what a robot's task measures",
    "time/evaluation_s": "seconds that the evaluation took, which count in wall_time_s",
    "time/env_steps_per_second": "environment steps of experience per second, this iteration",
    "time/share_collect": "share of the iteration's time spent collecting",
    "time/share_update": "share spent in the update",
}


def rollout_metrics(rollout: Rollout, *, exact: bool) -> dict[str, jax.Array]:
    """Metrics of one rollout; episode means are NaN where no episode ended.

    Args:
        rollout: the rollout.
        exact: whether the last observation at a time limit is known (`EnvSpec.exact_truncation`).
    """
    ended = rollout.ended & rollout.valid
    count = ended.sum()

    def over_episodes(values: jax.Array) -> jax.Array:
        mean = F.masked_mean(values.astype(jnp.float32), ended)
        return jnp.where(count > 0, mean, jnp.nan)

    metrics = {
        "rollout/episodes": count,
        "rollout/episode_return": over_episodes(rollout.episode_returns),
        "rollout/episode_length": over_episodes(rollout.episode_lengths),
        "rollout/truncated_share": over_episodes(rollout.truncated & ~rollout.terminated),
        "batch/reward_max": jnp.max(jnp.abs(rollout.rewards) * rollout.valid),
    }
    for name, values in rollout.info.items():
        finite = jnp.isfinite(values)  # NaN: this step says nothing of it
        if name in SUCCESS:
            finite = finite & ended
            succeeded = (values > 0).astype(jnp.float32)
            metrics["rollout/success_rate"] = _mean(succeeded, finite)
        if mean := logged_as(name):
            metrics[mean] = _mean(values, rollout.valid & finite)
    metrics["rollout/masked_steps"] = rollout.masked.sum()
    metrics["rollout/lost_episodes"] = (rollout.ended & ~rollout.valid).sum()
    if not exact:
        lost = rollout.truncated & ~rollout.terminated & rollout.valid
        metrics["rollout/inexact_truncations"] = lost.sum()
    return metrics


def _mean(values: jax.Array, counted: jax.Array) -> jax.Array:
    """A masked mean; NaN where nothing counts."""
    return jnp.where(counted.any(), F.masked_mean(values, counted), jnp.nan)


def batch_metrics(
    experience: Experience, actor_groups: tuple[str, ...], *, clip: float, head: str
) -> dict[str, jax.Array]:
    """Metrics of what an update is given.

    Args:
        experience: the batch.
        actor_groups: observation groups that the actor reads.
        clip: where normalized observations are clipped; inf for none.
        head: the action distribution; of a `gaussian` +-1 is where the actions' bounds lie.
    """
    seen, weights = experience.seen(), experience.weights
    features = jnp.concatenate([seen[name] for name in actor_groups], axis=-1)

    def share(rows: jax.Array) -> jax.Array:
        return F.masked_mean(jnp.mean(rows.astype(jnp.float32), axis=-1), weights)

    metrics = {}
    if math.isfinite(clip):
        metrics["batch/observation_clip_share"] = share(jnp.abs(features) >= clip)
    if head == "gaussian":
        metrics["batch/action_bound_share"] = share(jnp.abs(experience.raw_actions) >= 1.0)
    return metrics


def update_metrics(
    before: Actor, after: Actor, experience: Experience, estimates: Estimates
) -> dict[str, jax.Array]:
    """Metrics of an update as a whole: the actors before and after it, looked at in the last row."""
    weights = experience.weights
    variance = F.explained_variance(estimates.values, estimates.targets, weights=weights)
    collected = experience.old_log_probs
    began = collected if experience.proximal_log_probs is None else experience.proximal_log_probs
    old, new = (_in_last_row(actor, experience) for actor in (before, after))
    off = jnp.abs(jnp.exp(old.log_prob(experience.raw_actions[-1]) - began[-1]) - 1.0)
    deviations = F.masked_deviations(estimates.advantages, weights)
    metrics = {
        "value/explained_variance": variance,
        "batch/advantage_std": jnp.sqrt(F.masked_mean(deviations**2, weights)),
        "policy/first_ratio_error": jnp.max(jnp.where(weights[-1] > 0, off, 0.0)),
    }
    if experience.proximal_log_probs is not None:
        ratios = (experience.proximal_log_probs, experience.old_log_probs)
        size = F.effective_sample_size(*ratios, weights=weights)
        metrics["async/effective_sample_share"] = size / jnp.maximum(weights.sum(), 1.0)
        metrics["async/ratio_max"] = F.max_ratio(*ratios, weights=weights)
    if isinstance(new, (DiagGaussian, TanhGaussian)):
        metrics["policy/std"] = jnp.mean(new.std)
    return metrics


def _in_last_row(actor: Actor, experience: Experience) -> Distribution:
    """The actor's distributions [N, ...] in the last row that was acted on."""
    if jax.tree.leaves(experience.carry):  # memory has to see the rows before it
        every = actor.unroll(experience.seen(), experience.carry, experience.first[:-1])
        return jax.tree.map(lambda x: x[-1], every)
    row = {name: rows[-2] for name, rows in experience.observations.items()}
    return actor.unroll(row, (), experience.first[-2])
