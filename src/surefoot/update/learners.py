"""Learners as data: whose parameters, which loss terms, what kind of step, how large, where it runs."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from surefoot import functional as F
from surefoot.agent import value_head
from surefoot.config import Config
from surefoot.networks import Actor, ActorCritic, Critic, ValueScale, share_trunk
from surefoot.update.batch import (
    Batch,
    Minibatches,
    RowMinibatches,
    SequenceMinibatches,
    forward,
)
from surefoot.update.epochs import KLControl, Learner, make_optimizer, run_epochs
from surefoot.update.executors import Executor, Executors
from surefoot.update.measured import Metrics, Steps
from surefoot.update.terms import (
    PolicyTerm,
    Term,
    ValueTerm,
    measure_all,
    policy_terms,
    total_loss,
)

Learners = Mapping[str, Any]  # Learner, or a Future of one, by name

_OVERFLOWS = 1e10  # a parameter beyond this makes float32 overflow within four layers
_STOP_FACTOR = 1.5  # of target_kl, as in Spinning Up


class Step(abc.ABC):
    """How a learner moves on one batch."""

    @abc.abstractmethod
    def __call__(
        self,
        terms: tuple[Term, ...],
        learner: Learner,
        batch: Batch,
        key: jax.Array,
        *,
        num_epochs: int,
    ) -> tuple[Learner, Metrics, Steps]:
        """The learner after it, metrics, and what the steps were; `batch` in sequences [T, N, ...]."""

    def end(self, learner: Learner, batch: Batch) -> Learner:
        """The learner at the end of an update that began with `batch`; as it is by default."""
        del batch
        return learner


@dataclass(frozen=True)
class Epochs(Step):
    """Passes of minibatch steps; `controls` says whether the KL has a say in them."""

    config: Config
    minibatches: Minibatches
    controls: bool

    def __call__(
        self,
        terms: tuple[Term, ...],
        learner: Learner,
        batch: Batch,
        key: jax.Array,
        *,
        num_epochs: int,
    ) -> tuple[Learner, Metrics, Steps]:
        """See `Step`."""
        rows = self.minibatches.flatten(batch)
        learner, metrics, steps = run_epochs(
            lambda params, rows, beta: total_loss(terms, forward(params, rows, beta), rows),
            learner,
            rows,
            key,
            self.config,
            minibatches=self.minibatches,
            num_epochs=num_epochs,
            control=self._control() if self.controls else KLControl(),
            measure=partial(measure_all, terms),
        )
        return learner, metrics, steps

    def _control(self) -> KLControl:
        config = self.config
        adapts = config.learning_rate_schedule == "kl_adaptive"
        return KLControl(
            stop_above=None if config.target_kl is None else _STOP_FACTOR * config.target_kl,
            adapt_towards=config.desired_kl if adapts else None,
            kl=lambda computed, rows: PolicyTerm.kl(computed[0], rows),
        )

    def end(self, learner: Learner, batch: Batch) -> Learner:
        """Beta is halved or doubled around the KL wanted (only for the penalty)."""
        if batch.old_distribution is None:
            return learner
        rows = self.minibatches.flatten(batch)
        kl = F.masked_mean(rows.old_distribution.kl(_policy(learner.params, rows)), rows.weights)
        beta = F.adaptive_kl_coefficient(learner.kl_coef, kl, target_kl=self.config.desired_kl)
        return learner._replace(kl_coef=beta)


@dataclass(frozen=True)
class NaturalGradient(Step):
    """TRPO: one step on the whole batch, the longest that the trust region allows, by line search.

    Source: Schulman et al. 2015, arXiv 1502.05477. The learner's `learning_rate` becomes the length of the
    step along the natural gradient, `Steps.fraction` the accepted part of the longest step, 0 where none
    was safe. There are no epochs and no order of rows.
    """

    config: Config
    minibatches: Minibatches

    def __call__(
        self,
        terms: tuple[Term, ...],
        learner: Learner,
        batch: Batch,
        key: jax.Array,
        *,
        num_epochs: int,
    ) -> tuple[Learner, Metrics, Steps]:
        """See `Step`."""
        del key, num_epochs
        config, rows = self.config, self.minibatches.flatten(batch)
        old = _policy(learner.params, rows)
        vector, unflatten = ravel_pytree(learner.params)

        def objective(vector: jax.Array) -> tuple[jax.Array, Any]:
            seen = forward(unflatten(vector), rows, learner.kl_coef)
            loss, computed = total_loss(terms, seen, rows)
            return -loss, computed

        def kl(vector: jax.Array) -> jax.Array:
            return F.masked_mean(old.kl(_policy(unflatten(vector), rows)), rows.weights)

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
        value, computed = objective(found.params)
        steps = Steps(-value, jnp.linalg.norm(gradient), found.fraction)
        learner = learner._replace(
            params=unflatten(found.params), learning_rate=longest * found.fraction
        )
        return learner, measure_all(terms, computed, rows), steps


@dataclass(frozen=True)
class LearnerSpec:
    """One learner of a run.

    Attributes:
        name: of the learner.
        terms: what it minimizes.
        step: how it moves.
        learning_rate: its step size at the start; None: the KL decides on it from then on.
        scheduled: whether the schedule sets it.
        num_epochs: passes over a batch.
        grad_norm: the name that its gradient norm is reported under.
        has_actor: whether it owns the actor.
        has_critic: whether it owns the critic.
        executor: where it runs.
    """

    name: str
    terms: tuple[Term, ...]
    step: Step
    learning_rate: float
    scheduled: bool
    num_epochs: int
    grad_norm: str
    has_actor: bool
    has_critic: bool
    executor: Executor


def learner_specs(config: Config, executors: Executors) -> tuple[LearnerSpec, ...]:
    """The learners that the options ask for; the first one owns the actor, the last one the critic."""
    follows_kl = config.learning_rate_schedule == "kl_adaptive"
    policy, rate = policy_terms(config), config.learning_rate
    head = value_head(config)
    remembers = {"actor", "critic"} if config.memory_for == "both" else {config.memory_for}

    def minibatches(*owns: str) -> Minibatches:
        if config.memory == "off" or not remembers.intersection(owns):
            return RowMinibatches(config.num_minibatches)
        return SequenceMinibatches(config.memory_minibatches)

    main = partial(
        LearnerSpec,
        learning_rate=rate,
        scheduled=not follows_kl,
        num_epochs=config.num_epochs,
        grad_norm="optim/grad_norm",
        has_actor=True,
        executor=executors.main,
    )
    if config.is_joint:
        value = ValueTerm(config.value_clip_epsilon, config.value_coef, head)
        step = Epochs(config, minibatches("actor", "critic"), controls=True)
        return (main("joint", (*policy, value), step, has_critic=True),)
    if config.algorithm == "trpo":
        step = NaturalGradient(config, minibatches("actor"))
    else:
        step = Epochs(config, minibatches("actor"), controls=True)
    critic = LearnerSpec(
        "critic",
        (ValueTerm(config.value_clip_epsilon, head=head),),
        Epochs(config, minibatches("critic"), controls=False),
        learning_rate=config.critic_learning_rate or rate,
        scheduled=True,
        num_epochs=config.critic_epochs or config.num_epochs,
        grad_norm="optim/critic_grad_norm",
        has_actor=False,
        has_critic=True,
        executor=executors.critic,
    )
    return main("actor", policy, step, has_critic=False), critic


def owned(spec: LearnerSpec, actor: Actor, critic: Critic, config: Config) -> ActorCritic:
    """The networks that a learner owns."""
    if config.shared_trunk:
        return share_trunk(actor, critic)
    return ActorCritic(None, actor if spec.has_actor else None, critic if spec.has_critic else None)


def _policy(networks: ActorCritic, rows: Batch) -> F.Distribution:
    """The actor's distributions on a batch."""
    return networks.policy().unroll(rows.observations, rows.carry.actor, rows.first)


def make_learner(params: Any, config: Config, learning_rate: float) -> Learner:
    """A learner that has taken no step."""
    return Learner(
        params,
        make_optimizer(config).init(ravel_pytree(params)[0]),
        jnp.float32(learning_rate),
        jnp.float32(config.kl_coef),
        jnp.bool_(False),
        jnp.int32(0),
    )


def begin_update(learner: Learner, learning_rate: Any, *, restart_adam: bool = False) -> Learner:
    """The learner before the first step on a new batch; None keeps its learning rate.

    With `restart_adam` Adam corrects its moments as if they had begun here. Source: Ellis et al. 2024,
    "Adam on Local Time", arXiv 2412.17113 (Adam-Rel).
    """
    learner = learner._replace(stopped=jnp.zeros((), bool))
    if restart_adam:
        restarted = optax.tree.set(learner.opt_state, count=jnp.int32(0))
        learner = learner._replace(opt_state=restarted)
    if learning_rate is None:
        return learner
    rate = jnp.asarray(learning_rate, jnp.float32) * 0.5 ** learner.skipped.astype(jnp.float32)
    return learner._replace(learning_rate=rate)


def rescale_values(learner: Learner, targets: jax.Array, weights: jax.Array) -> Learner:
    """The learner with a critic of the same values, relative to the targets [T, N] that it is fitted to next.

    One without a critic, or whose critic's values are not normalized, is as it was.
    """
    networks = learner.params
    if networks.critic is None:
        return learner
    critic = networks.critic.rescaled(targets, weights)
    return learner._replace(params=replace(networks, critic=critic))


def go_further(before: Learner, after: Learner, outer_step: float) -> Learner:
    """The learner `outer_step` times as far from where the update began; its optimizer as it is.

    Source: Tan et al. 2024, "Beyond the Boundaries of Proximal Policy Optimization", arXiv 2411.00666
    (outer-PPO with an outer learning rate): theta = theta_old + sigma (theta_new - theta_old).
    """
    if outer_step == 1.0:
        return after
    params = jax.tree.map(lambda a, b: a + outer_step * (b - a), before.params, after.params)
    return after._replace(params=params)


def _weights(params: Any) -> list[jax.Array]:
    """The parameters but for what values are relative to, which may be as large as they are."""
    parts = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, ValueScale))
    return [x for x in parts if not isinstance(x, ValueScale)]


def keep_if_finite(before: Learner, after: Learner, steps: Steps) -> Learner:
    """The learner after an update; the one before, with half the step size, if it diverged.

    Args:
        before: the learner that the update began with.
        after: what it made of it. It diverged if a number is not finite, or a parameter so large that
            a network of several layers overflows.
        steps: of the update; a loss or gradient norm that is not finite counts too.
    """
    numbers = [x for x in jax.tree.leaves(after) if jnp.issubdtype(x.dtype, jnp.inexact)]
    sound = jnp.stack(
        [
            *(jnp.isfinite(x).all() for x in (steps.loss, steps.grad_norm, *numbers)),
            *((jnp.abs(x) < _OVERFLOWS).all() for x in _weights(after.params)),
        ]
    ).all()
    skipped = before._replace(
        learning_rate=before.learning_rate / 2, stopped=after.stopped, skipped=before.skipped + 1
    )
    return jax.tree.map(partial(jnp.where, sound), after, skipped)
