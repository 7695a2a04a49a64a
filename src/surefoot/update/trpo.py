"""TRPO: the actor takes one natural-gradient step on the whole batch, inside a trust region."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from surefoot import functional as F
from surefoot.config import Config
from surefoot.update.epochs import Learner
from surefoot.update.experience import Estimates, Experience
from surefoot.update.ppo import (
    Metrics,
    PolicySeen,
    actor_batch,
    policy_loss,
    policy_metrics,
)


def update_actor(
    learner: Learner,
    experience: Experience,
    estimates: Estimates,
    key: jax.Array,
    *,
    config: Config,
    num_epochs: int,
) -> tuple[Learner, Metrics]:
    """One step: natural gradient, the longest step the trust region allows, line search.

    Source: Schulman et al. 2015, arXiv 1502.05477. Takes the arguments of `ppo.update_actor`;
    `key` and `num_epochs` have no part in it.

    Returns:
        The learner, its `learning_rate` the length of the step along the natural gradient, and
        metrics of the policy after the step; `optim/step_fraction` is the accepted part of the
        longest step, 0 where none was safe.
    """
    del key, num_epochs
    config = dataclasses.replace(config, surrogate="ratio")
    batch = actor_batch(learner.params, experience, estimates, config)
    old = learner.params(batch.features)
    vector, unflatten = ravel_pytree(learner.params)

    def objective(vector: jax.Array) -> tuple[jax.Array, PolicySeen]:
        loss, seen = policy_loss(unflatten(vector), batch, learner.kl_coef, config)
        return -loss, seen

    def kl(vector: jax.Array) -> jax.Array:
        return F.masked_mean(old.kl(unflatten(vector)(batch.features)), batch.weights)

    gradient, _ = jax.grad(objective, has_aux=True)(vector)
    natural = F.natural_gradient(
        kl, vector, gradient, cg_steps=config.cg_steps, damping=config.cg_damping
    )
    longest = F.trust_region_scale(natural.curvature, max_kl=config.max_kl)
    found = F.line_search(
        lambda vector: objective(vector)[0],
        kl,
        vector,
        longest * natural.direction,
        max_kl=config.max_kl,
        tries=config.line_search_steps,
    )
    metrics = policy_metrics(objective(found.params)[1], batch, config)
    metrics["optim/grad_norm"] = jnp.linalg.norm(gradient)
    metrics["optim/step_fraction"] = found.fraction
    learner = learner._replace(
        params=unflatten(found.params), learning_rate=longest * found.fraction
    )
    return learner, metrics
