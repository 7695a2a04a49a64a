"""Epochs of minibatches: the optimization that actor, critic and joint loss have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from surefoot import functional as F
from surefoot.config import OptimizerOptions
from surefoot.update.batch import Minibatches
from surefoot.update.measured import Metrics, Steps, summarize

_ROUNDING = 1e-6

Loss = Callable[[Any, Any, jax.Array], tuple[jax.Array, Any]]
Measure = Callable[[Any, Any], Metrics]


class Learner(NamedTuple):
    """Parameters and all that optimizes them.

    Attributes:
        params: an Equinox module of float arrays.
        opt_state: the optimizer's state, on the parameters as one vector.
        learning_rate: scalar.
        kl_coef: scalar, beta of the KL penalty.
        stopped: whether the KL has ended the steps on the present batch.
        skipped: updates that were not finite and so were not applied; each halved the step size.
    """

    params: Any
    opt_state: Any
    learning_rate: jax.Array
    kl_coef: jax.Array
    stopped: jax.Array
    skipped: jax.Array


class KLControl(NamedTuple):
    """What the KL between old and new policy does to the epochs; None: nothing.

    Attributes:
        stop_above: no further step once a minibatch's KL exceeds this.
        adapt_towards: the learning rate follows the KL towards this (rsl_rl's rule).
        kl: (what the loss computed, minibatch) -> the KL.
    """

    stop_above: float | None = None
    adapt_towards: float | None = None
    kl: Callable[[Any, Any], jax.Array] | None = None


def make_optimizer(options: OptimizerOptions) -> optax.GradientTransformation:
    """Adam without its step size, behind clipping to the global gradient norm."""
    return optax.chain(
        optax.clip_by_global_norm(options.max_grad_norm),
        optax.scale_by_adam(eps=options.adam_epsilon),
    )


def run_epochs(
    loss: Loss,
    learner: Learner,
    batch: Any,
    key: jax.Array,
    options: OptimizerOptions,
    *,
    minibatches: Minibatches,
    num_epochs: int,
    control: KLControl,
    measure: Measure,
) -> tuple[Learner, Metrics, Steps]:
    """Take `num_epochs` passes over the batch, a gradient step on each minibatch.

    Args:
        loss: (params, minibatch, kl_coef) -> (scalar, what to measure).
        learner: parameters and optimizer.
        batch: what `minibatches.flatten` made.
        key: random stream of the shuffling.
        options: of the optimizer.
        minibatches: how the batch is cut.
        num_epochs: passes.
        control: what the KL does.
        measure: (what the loss returned, minibatch) -> metrics, computed for all minibatches of an
            epoch at once.

    Returns:
        The learner, the metrics over the steps that were taken, and what the steps were.
    """
    optimizer = make_optimizer(options)
    _, unflatten = ravel_pytree(learner.params)

    def on_vector(vector: jax.Array, minibatch: Any, kl_coef: jax.Array) -> Any:
        return loss(unflatten(vector), minibatch, kl_coef)

    def take_step(learner: Learner, minibatch: Any) -> tuple[Learner, Any]:
        (value, seen), gradient = jax.value_and_grad(on_vector, has_aux=True)(
            learner.params, minibatch, learner.kl_coef
        )
        learning_rate, stopped = learner.learning_rate, learner.stopped
        if control.kl is not None:
            kl = control.kl(seen, minibatch)
            if control.stop_above is not None:
                stopped = stopped | (kl > control.stop_above)
            if control.adapt_towards is not None:
                # before the first step of an update the KL is rounding, and says nothing
                learning_rate = F.kl_adaptive_learning_rate(
                    learning_rate,
                    jnp.where(kl > _ROUNDING, kl, jnp.nan),
                    target_kl=control.adapt_towards,
                )
        update: Any  # a vector, as the gradient is
        update, opt_state = optimizer.update(gradient, learner.opt_state)
        params = learner.params - learning_rate * update
        moved = learner._replace(
            params=params, opt_state=opt_state, learning_rate=learning_rate, stopped=stopped
        )
        return moved, (seen, value, jnp.linalg.norm(gradient))

    def visit(learner: Learner, minibatch: Any) -> tuple[Learner, Any]:
        moved, seen = take_step(learner, minibatch)
        if control.stop_above is None:
            return moved, (*seen, moved.stopped)
        stays = learner._replace(stopped=moved.stopped)
        choose = partial(jnp.where, moved.stopped)
        return jax.tree.map(choose, stays, moved), (*seen, moved.stopped)

    def one_epoch(learner: Learner, epoch_key: jax.Array) -> tuple[Learner, Any]:
        drawn = minibatches.draw(batch, epoch_key)
        learner, (seen, losses, norms, stopped) = jax.lax.scan(visit, learner, drawn)
        steps = Steps(losses, norms, 1.0 - stopped.astype(jnp.float32))
        return learner, (jax.vmap(measure)(seen, drawn), steps)

    keys = jax.random.split(key, num_epochs)
    if not options.shuffle_each_epoch:
        keys = jnp.broadcast_to(keys[:1], keys.shape)
    # one vector of parameters: a handful of operations a step instead of a handful for each array
    vector, _ = ravel_pytree(learner.params)
    learner, every = jax.lax.scan(one_epoch, learner._replace(params=vector), keys)
    return learner._replace(params=unflatten(learner.params)), *summarize(*every)
