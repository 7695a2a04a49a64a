"""Epochs of minibatches: the optimisation that actor, critic and joint loss have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from surefoot import functional as F
from surefoot.config import Config

_ROUNDING = 1e-6

Loss = Callable[[Any, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


class Learner(NamedTuple):
    """Parameters and all that optimises them.

    Attributes:
        params: an Equinox module of float arrays.
        opt_state: the optimiser's state.
        learning_rate: scalar.
        kl_coef: scalar, beta of the KL penalty.
        stopped: whether the KL has ended the steps on the present batch.
    """

    params: Any
    opt_state: Any
    learning_rate: jax.Array
    kl_coef: jax.Array
    stopped: jax.Array


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
        make_optimizer(config).init(params),
        jnp.float32(learning_rate),
        jnp.float32(config.kl_coef),
        jnp.bool_(False),
    )


def begin_update(learner: Learner, learning_rate: Any) -> Learner:
    """The learner before the first step on a new batch; None keeps its learning rate."""
    learner = learner._replace(stopped=jnp.zeros((), bool))
    if learning_rate is None:
        return learner
    return learner._replace(learning_rate=jnp.asarray(learning_rate, jnp.float32))


def run_epochs(
    loss: Loss,
    learner: Learner,
    batch: Any,
    key: jax.Array,
    config: Config,
    *,
    num_epochs: int,
    control: KLControl,
) -> tuple[Learner, dict[str, jax.Array]]:
    """Take `num_epochs` passes over the batch, a gradient step on each minibatch.

    Args:
        loss: (params, minibatch, kl_coef) -> (scalar, metrics); metrics that are controlled on hold
            `policy/approx_kl`.
        learner: parameters and optimiser.
        batch: pytree of [B, ...]; `num_minibatches` divides B.
        key: random stream of the shuffling.
        config: the options.
        num_epochs: passes.
        control: what the KL does.

    Returns:
        The learner, and the metrics by `summarise`, with `optim/grad_norm` before clipping and
        `optim/step_fraction`, the share of the steps that the KL allowed.
    """
    optimizer = make_optimizer(config)

    def take_step(learner: Learner, minibatch: Any) -> tuple[Learner, dict[str, jax.Array]]:
        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(
            learner.params, minibatch, learner.kl_coef
        )
        metrics["optim/grad_norm"] = optax.tree.norm(grads)
        learning_rate, stopped = learner.learning_rate, learner.stopped
        if control.stop_above is not None:
            stopped = stopped | (metrics["policy/approx_kl"] > control.stop_above)
        if control.adapt_towards is not None:
            # before the first step of an update the KL is rounding, and says nothing
            kl = metrics["policy/approx_kl"]
            kl = jnp.where(kl > _ROUNDING, kl, jnp.nan)
            learning_rate = F.kl_adaptive_learning_rate(
                learning_rate, kl, target_kl=control.adapt_towards
            )
        updates, opt_state = optimizer.update(grads, learner.opt_state)
        params = jax.tree.map(lambda p, u: p - learning_rate * u, learner.params, updates)
        return Learner(params, opt_state, learning_rate, learner.kl_coef, stopped), metrics

    def visit(learner: Learner, minibatch: Any) -> tuple[Learner, dict[str, jax.Array]]:
        moved, metrics = take_step(learner, minibatch)
        metrics["optim/step_fraction"] = 1.0 - moved.stopped.astype(jnp.float32)
        if control.stop_above is None:
            return moved, metrics
        refused = learner._replace(stopped=moved.stopped)
        choose = partial(jnp.where, moved.stopped)
        return jax.tree.map(choose, refused, moved), metrics

    def one_epoch(learner: Learner, epoch_key: jax.Array) -> Any:
        return jax.lax.scan(visit, learner, _minibatches(batch, epoch_key, config.num_minibatches))

    keys = jax.random.split(key, num_epochs)
    if not config.shuffle_each_epoch:
        keys = jnp.broadcast_to(keys[:1], keys.shape)
    learner, metrics = jax.lax.scan(one_epoch, learner, keys)
    return learner, summarise(metrics)


def _minibatches(batch: Any, key: jax.Array, count: int) -> Any:
    """The batch in random order, cut into [count, B / count, ...]."""
    size = jax.tree.leaves(batch)[0].shape[0]
    order = jax.random.permutation(key, size)
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
