"""Epochs of minibatches: the optimisation that actor, critic and joint loss have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from surefoot import functional as F
from surefoot.config import Config

_ROUNDING = 1e-6
_OVERFLOWS = 1e10  # a parameter beyond this makes float32 overflow within four layers

Metrics = dict[str, jax.Array]
Loss = Callable[[Any, Any, jax.Array], tuple[jax.Array, Any]]
Measure = Callable[[Any, Any], Metrics]


class Learner(NamedTuple):
    """Parameters and all that optimises them.

    Attributes:
        params: an Equinox module of float arrays.
        opt_state: the optimiser's state, on the parameters as one vector.
        learning_rate: scalar.
        kl_coef: scalar, beta of the KL penalty.
        stopped: whether the KL has ended the steps on the present batch.
        refused: updates that were not finite and so were not applied; each halved the step size.
    """

    params: Any
    opt_state: Any
    learning_rate: jax.Array
    kl_coef: jax.Array
    stopped: jax.Array
    refused: jax.Array


class KLControl(NamedTuple):
    """What the KL between old and new policy does to the epochs; None: nothing.

    Attributes:
        stop_above: no further step once a minibatch's KL exceeds this.
        adapt_towards: the learning rate follows the KL towards this (rsl_rl's rule).
    """

    stop_above: float | None = None
    adapt_towards: float | None = None


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Adam without its step size, behind clipping to the global gradient norm."""
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.scale_by_adam(eps=config.adam_epsilon),
    )


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


def begin_update(learner: Learner, learning_rate: Any) -> Learner:
    """The learner before the first step on a new batch; None keeps its learning rate."""
    learner = learner._replace(stopped=jnp.zeros((), bool))
    if learning_rate is None:
        return learner
    rate = jnp.asarray(learning_rate, jnp.float32) * 0.5 ** learner.refused.astype(jnp.float32)
    return learner._replace(learning_rate=rate)


def keep_if_finite(before: Learner, after: Learner, metrics: Metrics) -> Learner:
    """The learner after an update; the one before, with half the step size, if it diverged.

    Args:
        before: the learner that the update began with.
        after: what it made of it. It diverged if a number is not finite, or a parameter so large that
            a network of several layers overflows.
        metrics: of the update; losses and gradient norms that are not finite count too.
    """
    told = [x for name, x in metrics.items() if name.startswith("loss/") or "grad_norm" in name]
    numbers = [x for x in jax.tree.leaves(after) if jnp.issubdtype(x.dtype, jnp.inexact)]
    sound = jnp.stack(
        [
            *(jnp.isfinite(x).all() for x in (*told, *numbers)),
            *((jnp.abs(x) < _OVERFLOWS).all() for x in jax.tree.leaves(after.params)),
        ]
    ).all()
    refused = before._replace(
        learning_rate=before.learning_rate / 2, stopped=after.stopped, refused=before.refused + 1
    )
    return jax.tree.map(partial(jnp.where, sound), after, refused)


def run_epochs(
    loss: Loss,
    learner: Learner,
    batch: Any,
    key: jax.Array,
    config: Config,
    *,
    num_epochs: int,
    control: KLControl,
    measure: Measure = lambda seen, minibatch: seen,
) -> tuple[Learner, Metrics]:
    """Take `num_epochs` passes over the batch, a gradient step on each minibatch.

    Args:
        loss: (params, minibatch, kl_coef) -> (scalar, what to measure).
        learner: parameters and optimiser.
        batch: pytree of [B, ...]; `num_minibatches` divides B.
        key: random stream of the shuffling.
        config: the options.
        num_epochs: passes.
        control: what the KL does.
        measure: (what the loss returned, minibatch) -> metrics, computed for all minibatches of an
            epoch at once; metrics that are controlled on hold `policy/approx_kl`.

    Returns:
        The learner, and the metrics by `summarise`, with `optim/grad_norm` before clipping and
        `optim/step_fraction`, the share of the steps that the KL allowed.
    """
    optimizer = make_optimizer(config)
    _, unflatten = ravel_pytree(learner.params)

    def on_vector(vector: jax.Array, minibatch: Any, kl_coef: jax.Array) -> Any:
        return loss(unflatten(vector), minibatch, kl_coef)

    def take_step(learner: Learner, minibatch: Any) -> tuple[Learner, Any, jax.Array]:
        (_, seen), gradient = jax.value_and_grad(on_vector, has_aux=True)(
            learner.params, minibatch, learner.kl_coef
        )
        learning_rate, stopped = learner.learning_rate, learner.stopped
        if control.stop_above is not None:
            stopped = stopped | (measure(seen, minibatch)["policy/approx_kl"] > control.stop_above)
        if control.adapt_towards is not None:
            # before the first step of an update the KL is rounding, and says nothing
            kl = measure(seen, minibatch)["policy/approx_kl"]
            kl = jnp.where(kl > _ROUNDING, kl, jnp.nan)
            learning_rate = F.kl_adaptive_learning_rate(
                learning_rate, kl, target_kl=control.adapt_towards
            )
        update: Any  # a vector, as the gradient is
        update, opt_state = optimizer.update(gradient, learner.opt_state)
        params = learner.params - learning_rate * update
        moved = learner._replace(
            params=params, opt_state=opt_state, learning_rate=learning_rate, stopped=stopped
        )
        return moved, seen, jnp.linalg.norm(gradient)

    def visit(learner: Learner, minibatch: Any) -> tuple[Learner, Any]:
        moved, *seen = take_step(learner, minibatch)
        if control.stop_above is None:
            return moved, (*seen, moved.stopped)
        refused = learner._replace(stopped=moved.stopped)
        choose = partial(jnp.where, moved.stopped)
        return jax.tree.map(choose, refused, moved), (*seen, moved.stopped)

    def one_epoch(learner: Learner, epoch_key: jax.Array) -> tuple[Learner, Metrics]:
        minibatches = _minibatches(batch, epoch_key, config.num_minibatches)
        learner, (seen, norms, stopped) = jax.lax.scan(visit, learner, minibatches)
        metrics = dict(jax.vmap(measure)(seen, minibatches))
        metrics["optim/grad_norm"] = norms
        metrics["optim/step_fraction"] = 1.0 - stopped.astype(jnp.float32)
        return learner, metrics

    keys = jax.random.split(key, num_epochs)
    if not config.shuffle_each_epoch:
        keys = jnp.broadcast_to(keys[:1], keys.shape)
    # one vector of parameters: a handful of operations a step instead of a handful for each array
    vector, _ = ravel_pytree(learner.params)
    learner, metrics = jax.lax.scan(one_epoch, learner._replace(params=vector), keys)
    return learner._replace(params=unflatten(learner.params)), summarise(metrics)


def _minibatches(batch: Any, key: jax.Array, count: int) -> Any:
    """The batch in random order, cut into [count, B / count, ...]."""
    size = jax.tree.leaves(batch)[0].shape[0]
    order = F.random_permutation(key, size)
    return jax.tree.map(lambda x: x[order].reshape(count, size // count, *x.shape[1:]), batch)


def summarise(metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Metrics of many steps as one number each, over the steps that were taken.

    Names that end in `_max` give the maximum, the others the mean weighted by
    `optim/step_fraction`; if no step was taken, the first one speaks for all.
    """
    taken = metrics["optim/step_fraction"]
    weights = jnp.where(taken.sum() > 0, taken, jnp.zeros_like(taken).at[(0,) * taken.ndim].set(1))

    def over_steps(name: str, values: jax.Array) -> jax.Array:
        if name.endswith("_max"):
            return jnp.max(jnp.where(weights > 0, values, -jnp.inf))
        return F.masked_mean(values, weights)

    summary = {name: over_steps(name, values) for name, values in metrics.items()}
    summary["optim/step_fraction"] = jnp.mean(taken)
    return summary
