"""Actor, critic, and the two on a shared trunk. Inputs are normalized observation groups."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from surefoot.functional import (
    PolicyReflection,
    distributions,
    histogram_values,
    joined,
    masked_mean,
)
from surefoot.networks.memory import MemorySpec
from surefoot.networks.mlp import ACTIVATIONS, MLP, Linear, make_linear, make_mlp
from surefoot.networks.torso import Inputs, Torso

_CONTINUOUS = ("gaussian", "squashed_gaussian", "beta", "binned")
_LEAST_RATE = 0.1  # at which a batch's targets count in the mean and deviation of them
_LEAST_STD = 1e-4  # as in PopArt
_KINDS = (*_CONTINUOUS, "discrete", "multi_discrete", "multi_binary")


@dataclass(frozen=True)
class PolicyHead:
    """Which distribution the actor's outputs are the parameters of.

    Attributes:
        kind: gaussian, squashed_gaussian, beta, binned (continuous); discrete, multi_discrete, multi_binary.
        sizes: as in the action spec.
        state_dependent_std: the network puts out the log standard deviations too.
        min_std: smooth floor under the standard deviation.
        bins: values of each action that is binned.
        gsde: a Gaussian's noise is linear in the features that the output layer reads.
    """

    kind: str
    sizes: tuple[int, ...]
    state_dependent_std: bool = False
    min_std: float = 0.01
    bins: int | None = None
    gsde: bool = False

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"unknown policy head {self.kind!r}; known: {', '.join(_KINDS)}")
        if min(self.sizes, default=0) < 1 or not 0.0 < self.min_std < distributions.MAX_STD:
            raise ValueError(f"policy head of sizes {self.sizes}, min_std {self.min_std}")
        if (self.kind == "binned") != (self.bins is not None) or (self.bins or 2) < 2:
            raise ValueError(f"policy head {self.kind!r} of {self.bins} bins")
        if self.gsde and (self.kind != "gaussian" or self.state_dependent_std):
            raise ValueError(f"gsde in a policy head {self.kind!r}")

    @property
    def has_std(self) -> bool:
        """Whether the distribution has a standard deviation of its own."""
        return self.kind in ("gaussian", "squashed_gaussian")

    @property
    def is_continuous(self) -> bool:
        """Whether it is for continuous actions."""
        return self.kind in _CONTINUOUS

    @property
    def num_outputs(self) -> int:
        """Outputs the network must have."""
        if self.bins is not None:
            return sum(self.sizes) * self.bins
        doubled = self.kind == "beta" or (self.has_std and self.state_dependent_std)
        return sum(self.sizes) * (2 if doubled else 1)

    def std_shape(self, num_features: int) -> tuple[int, ...]:
        """Of the free parameter `log_std`: [A], or [F + 1, A] where noise is linear in F features."""
        return (*((num_features + 1,) if self.gsde else ()), sum(self.sizes))

    def __call__(
        self,
        outputs: jax.Array,
        log_std: jax.Array | None,
        features: jax.Array,
        *,
        acts: bool = False,
    ) -> distributions.Distribution:
        """The action distribution.

        Args:
            outputs: [..., num_outputs], of the output layer.
            log_std: see `Actor`.
            features: [..., F], what the output layer read.
            acts: whether it is to act with, and not to learn from.
        """
        if self.kind == "discrete":
            return distributions.Categorical(outputs)
        if self.kind == "multi_discrete":
            return distributions.MultiCategorical(outputs, self.sizes)
        if self.kind == "multi_binary":
            return distributions.Bernoulli(outputs)
        if self.bins is not None:
            return distributions.Binned(outputs.reshape(*outputs.shape[:-1], -1, self.bins))
        if self.kind == "beta":
            # both above 1: one mode inside the interval (Chou et al. 2017)
            alpha, beta = jnp.split(1.0 + jax.nn.softplus(outputs), 2, axis=-1)
            return distributions.Beta(alpha, beta)
        assert log_std is not None
        mean = outputs
        if self.state_dependent_std:
            mean, offset = jnp.split(outputs, 2, axis=-1)
            log_std = log_std + offset
        std = distributions.floor_log_std(log_std, min_std=self.min_std)
        if self.gsde:
            by_state, v = distributions.feature_std(features, std)
            if acts:
                return distributions.FeatureGaussian(mean, by_state, v, std)
            std = by_state
        std = jnp.broadcast_to(std, mean.shape)
        squashed = self.kind == "squashed_gaussian"
        return (distributions.TanhGaussian if squashed else distributions.DiagGaussian)(mean, std)


class Actor(eqx.Module):
    """A policy network: observation groups -> action distribution.

    `log_std` [A] is a free parameter (of gSDE: [F + 1, A]); with a state-dependent standard deviation the
    network's output is added to it, so that every state starts at the configured one. Arguments and shapes of
    `step` and `unroll` are those of `Torso`. With a `symmetry` the distribution's parameters are averaged
    with those of the mirror image, reflected back, so that the policy is exactly equivariant; not for actors
    with memory.
    """

    torso: Torso
    output: Linear
    log_std: jax.Array | None
    head: PolicyHead = eqx.field(static=True)
    symmetry: PolicyReflection | None = eqx.field(static=True, default=None)

    def step(
        self, inputs: Inputs, carry: Any, first: jax.Array
    ) -> tuple[distributions.Distribution, Any]:
        """The distributions of one action each, and what to carry on."""
        features, carry = self.torso.step(self._both(inputs), carry, first)
        return self._distribution(features, acts=True), carry

    def unroll(self, inputs: Inputs, carry: Any, first: jax.Array) -> distributions.Distribution:
        """The distributions over whole sequences."""
        features, _ = self.torso.unroll(self._both(inputs), carry, first)
        return self._distribution(features)

    def _both(self, inputs: Inputs) -> Inputs:
        """The inputs [..., N, D_g], with their mirror images behind them [..., 2 N, D_g]."""
        if self.symmetry is None:
            return inputs
        image = self.symmetry(inputs)
        return {name: jnp.concatenate([inputs[name], x], axis=-2) for name, x in image.items()}

    def _distribution(
        self, features: jax.Array, *, acts: bool = False
    ) -> distributions.Distribution:
        outputs, log_std = self.output(features), self.log_std
        if self.symmetry is not None:
            action = self.symmetry.action
            parts = (action, action.unsigned) if self.head.state_dependent_std else (action,)
            plain, image = jnp.split(outputs, 2, axis=-2)
            outputs = (plain + joined(parts)(image)) / 2
            log_std = log_std if log_std is None else (log_std + action.unsigned(log_std)) / 2
        return self.head(outputs, log_std, features, acts=acts)


@dataclass(frozen=True)
class ValueHead:
    """What the critic's outputs say of a value.

    Attributes:
        bins: 1: the output is the value; more: logits of a histogram of that many bins.
        limit: the ends of the histogram, -limit and limit.
        normalized: whether the output is relative to a `ValueScale`.
    """

    bins: int = 1
    limit: float = math.inf
    normalized: bool = False

    def __call__(self, outputs: jax.Array) -> jax.Array:
        """Values [...] of network outputs [..., bins]."""
        if self.bins == 1:
            return outputs[..., 0]
        return histogram_values(outputs, limit=self.limit)


class ValueScale(eqx.Module):
    """Mean and standard deviation of what values are fitted to, which a critic's output is relative to.

    V = mean + std * output. No gradient flows into them, so that an optimizer leaves them as they are.

    Attributes:
        mean: [].
        std: [].
        batches: [], how many they are of.
    """

    mean: jax.Array
    std: jax.Array
    batches: jax.Array

    def values(self, outputs: jax.Array) -> jax.Array:
        """Values of outputs, of any shape."""
        return jax.lax.stop_gradient(self.mean) + jax.lax.stop_gradient(self.std) * outputs

    def outputs(self, values: jax.Array) -> jax.Array:
        """The outputs that would mean such values."""
        return (values - jax.lax.stop_gradient(self.mean)) / jax.lax.stop_gradient(self.std)

    def with_batch(self, targets: jax.Array, weights: jax.Array) -> ValueScale:
        """Mean and deviation with another batch [T, N]: all count alike at first, then a tenth each."""
        rate = jnp.maximum(1.0 / (self.batches + 1.0), _LEAST_RATE)
        mean = masked_mean(targets, weights)
        shift = mean - self.mean
        variance = masked_mean(jnp.square(targets - mean), weights)
        # the variance of a mixture of the two
        variance = (1.0 - rate) * (
            jnp.square(self.std) + rate * jnp.square(shift)
        ) + rate * variance
        std = jnp.maximum(jnp.sqrt(variance), _LEAST_STD)
        seen = ValueScale(self.mean + rate * shift, std, self.batches + 1.0)
        sound = (weights.sum() > 0.0) & jnp.isfinite(seen.mean) & jnp.isfinite(seen.std)
        return jax.tree.map(partial(jnp.where, sound), seen, self)


class Critic(eqx.Module):
    """A state-value network: observation groups -> values; with a `scale` its output is relative to that."""

    torso: Torso
    output: Linear
    head: ValueHead = eqx.field(static=True, default=ValueHead())
    scale: ValueScale | None = None

    def values_of(self, outputs: jax.Array) -> jax.Array:
        """Values [...] of what the network puts out, [..., bins]."""
        values = self.head(outputs)
        return values if self.scale is None else self.scale.values(values)

    def rescaled(self, targets: jax.Array, weights: jax.Array) -> Critic:
        """A critic of the very same values, relative to what it is to be fitted to next.

        w' = w * std / std',    b' = (std * b + mean - mean') / std'

        Source: van Hasselt et al. 2016, "Learning values across many orders of magnitude", arXiv 1602.07714,
        eq. 3 (PopArt). Without a `scale` it is this critic.
        """
        if self.scale is None:
            return self
        scale = self.scale.with_batch(targets, weights)
        output = Linear(
            self.output.weight * (self.scale.std / scale.std),
            scale.outputs(self.scale.values(self.output.bias)),
        )
        return replace(self, output=output, scale=scale)

    def unroll(self, inputs: Inputs, carry: Any, first: jax.Array) -> tuple[jax.Array, Any]:
        """Values [T, N] over whole sequences, and what is carried behind each row (see `Torso`)."""
        outputs, carried = self.outputs(inputs, carry, first)
        return self.values_of(outputs), carried

    def outputs(self, inputs: Inputs, carry: Any, first: jax.Array) -> tuple[jax.Array, Any]:
        """What `values_of` makes values of, [T, N, bins], and what is carried."""
        features, carried = self.torso.unroll(inputs, carry, first)
        return self.output(features), carried

    def values_after(self, inputs: Inputs, carried: Any) -> jax.Array:
        """Values [T, N] of an observation that follows each row of a sequence, and leads nowhere.

        Args:
            inputs: groups [T, N, D_g].
            carried: behind each row, as `unroll` returned it; more rows than `inputs` has do not matter.
        """
        return self.values_of(self.output(self.torso.follow(inputs, carried)))


class ActorCritic(eqx.Module):
    """The networks that a learner owns: actor, critic or both.

    With a shared trunk the torsos of `actor` and `critic` are empty and both stand on `trunk`.
    """

    trunk: Torso | None
    actor: Actor | None
    critic: Critic | None

    def policy(self) -> Actor:
        """The actor, working alone: the trunk's layers in front of it."""
        actor = self.actor
        assert actor is not None
        if self.trunk is None:
            return actor
        return replace(actor, torso=actor.torso.on_top_of(self.trunk))

    def values(self) -> Critic:
        """The critic, likewise."""
        critic = self.critic
        assert critic is not None
        if self.trunk is None:
            return critic
        return replace(critic, torso=critic.torso.on_top_of(self.trunk))


def share_trunk(actor: Actor, critic: Critic) -> ActorCritic:
    """Both on the actor's torso."""
    trunk = actor.torso
    empty = Torso(MLP((), trunk.body.activation), None, ())
    return ActorCritic(
        trunk,
        replace(actor, torso=empty),
        replace(critic, torso=empty),
    )


@dataclass(frozen=True)
class TorsoSpec:
    """A torso's shape.

    Attributes:
        groups: observation groups it reads, in this order.
        size_in: numbers in them together.
        hidden: widths of the hidden layers.
        activation: of the hidden layers.
        memory: its memory, in front of them.
        layer_norm: whether hidden layers are normalized.
        residual: whether a hidden layer behind the first is added to what it reads, where that is as wide.
    """

    groups: tuple[str, ...]
    size_in: int
    hidden: tuple[int, ...]
    activation: str
    memory: MemorySpec | None = None
    layer_norm: bool = False
    residual: bool = False

    def initial_carry(self, num_envs: int) -> Any:
        """What a torso of this shape carries into the first step of an episode."""
        return () if self.memory is None else self.memory.initial_carry(num_envs)

    def check(self) -> None:
        """Raise ValueError for what cannot be a torso."""
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r} is none of {', '.join(ACTIVATIONS)}")
        if any(width < 1 for width in (self.size_in, *self.hidden)):
            raise ValueError(f"layers of widths {(self.size_in, *self.hidden)}")

    @property
    def num_weights(self) -> int:
        """How many weights it has, its biases aside."""
        remembers = 0 if self.memory is None else self.memory.num_weights(self.size_in)
        return remembers + sum(a * b for a, b in itertools.pairwise((self._width, *self.hidden)))

    @property
    def _width(self) -> int:
        """What the hidden layers read."""
        return self.size_in if self.memory is None else self.memory.size

    @property
    def size_out(self) -> int:
        """Features it gives."""
        return self.hidden[-1] if self.hidden else self._width

    def make(self, key: jax.Array, *, orthogonal: bool) -> Torso:
        """A fresh one."""
        memory = None
        if self.memory is not None:
            key, memory_key = jax.random.split(key)
            memory = self.memory.make(memory_key, self.size_in, orthogonal=orthogonal)
        body = make_mlp(
            key,
            self._width,
            self.hidden,
            activation=self.activation,
            orthogonal=orthogonal,
            layer_norm=self.layer_norm,
            residual=self.residual,
        )
        return Torso(body, memory, self.groups)


def make_actor(
    key: jax.Array,
    torso: TorsoSpec,
    head: PolicyHead,
    *,
    orthogonal: bool,
    output_scale: float,
    initial_std: float,
    symmetry: PolicyReflection | None = None,
) -> Actor:
    """An actor; its last layer is small, so that the first policy hardly depends on the state."""
    body_key, output_key = jax.random.split(key)
    output = make_linear(
        output_key, torso.size_out, head.num_outputs, gain=output_scale, orthogonal=orthogonal
    )
    log_std = None
    if head.has_std:
        start = float(distributions.unfloor_log_std(initial_std, min_std=head.min_std))
        log_std = jnp.full(head.std_shape(torso.size_out), start, jnp.float32)
    if head.kind == "beta":
        output = eqx.tree_at(lambda o: o.bias, output, _beta_bias(head, initial_std))
    if head.bins is not None:
        places = np.linspace(-1.0, 1.0, head.bins)
        logits = np.tile(-0.5 * (places / initial_std) ** 2, sum(head.sizes))
        output = eqx.tree_at(lambda o: o.bias, output, jnp.asarray(logits, jnp.float32))
    return Actor(torso.make(body_key, orthogonal=orthogonal), output, log_std, head, symmetry)


def _beta_bias(head: PolicyHead, initial_std: float) -> jax.Array:
    """Biases that give a symmetric Beta whose action 2x - 1 has the standard deviation wanted.

    Var(2x - 1) = 1 / (2 alpha + 1) for alpha = beta, so alpha = (1 / std^2 - 1) / 2; alpha must stay
    above 1 (uniform is the widest with one mode), which bounds the standard deviation by 0.577.
    """
    alpha = max((1.0 / initial_std**2 - 1.0) / 2.0, 1.01)
    inverse_softplus = alpha - 1.0 + math.log(-math.expm1(1.0 - alpha))
    return jnp.full(head.num_outputs, inverse_softplus, jnp.float32)


def make_critic(
    key: jax.Array, torso: TorsoSpec, *, orthogonal: bool, head: ValueHead = ValueHead()
) -> Critic:
    """A critic; its output layer has gain 1, or hardly any where it begins as an even histogram."""
    body_key, output_key = jax.random.split(key)
    gain = 1.0 if head.bins == 1 else 0.01
    output = make_linear(output_key, torso.size_out, head.bins, gain=gain, orthogonal=orthogonal)
    scale = ValueScale(*(jnp.float32(x) for x in (0, 1, 0))) if head.normalized else None
    return Critic(torso.make(body_key, orthogonal=orthogonal), output, head, scale)
