"""Actor, critic, and the two on a shared trunk. Inputs are normalised, flat features."""

from __future__ import annotations

import math
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp

from surefoot.functional import distributions
from surefoot.networks.mlp import MLP, Linear, make_linear, make_mlp

_KINDS = ("gaussian", "squashed_gaussian", "beta", "discrete", "multi_discrete", "multi_binary")


@dataclass(frozen=True)
class PolicyHead:
    """Which distribution the actor's outputs are the parameters of.

    Attributes:
        kind: gaussian, squashed_gaussian, beta (continuous); discrete, multi_discrete, multi_binary.
        sizes: as in the action spec.
        state_dependent_std: the network puts out the log standard deviations too.
        min_std: smooth floor under the standard deviation.
    """

    kind: str
    sizes: tuple[int, ...]
    state_dependent_std: bool = False
    min_std: float = 0.01

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"unknown policy head {self.kind!r}; known: {', '.join(_KINDS)}")

    @property
    def has_std(self) -> bool:
        """Whether the distribution has a standard deviation of its own."""
        return self.kind in ("gaussian", "squashed_gaussian")

    @property
    def num_outputs(self) -> int:
        """Outputs the network must have."""
        doubled = self.kind == "beta" or (self.has_std and self.state_dependent_std)
        return sum(self.sizes) * (2 if doubled else 1)

    def __call__(self, outputs: jax.Array, log_std: jax.Array | None) -> distributions.Distribution:
        """The action distribution for network outputs [..., num_outputs]."""
        if self.kind == "discrete":
            return distributions.Categorical(outputs)
        if self.kind == "multi_discrete":
            return distributions.MultiCategorical(outputs, self.sizes)
        if self.kind == "multi_binary":
            return distributions.Bernoulli(outputs)
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
        std = jnp.broadcast_to(std, mean.shape)
        squashed = self.kind == "squashed_gaussian"
        return (distributions.TanhGaussian if squashed else distributions.DiagGaussian)(mean, std)


class Actor(eqx.Module):
    """A policy network: features -> action distribution.

    `log_std` [A] is a free parameter; with a state-dependent standard deviation the network's output
    is added to it, so that every state starts at the configured one.
    """

    body: MLP
    output: Linear
    log_std: jax.Array | None
    head: PolicyHead = eqx.field(static=True)

    def __call__(self, features: jax.Array) -> distributions.Distribution:
        """The distribution of actions for features [..., D]."""
        return self.head(self.output(self.body(features)), self.log_std)


class Critic(eqx.Module):
    """A state-value network: features [..., D] -> values [...]."""

    body: MLP
    output: Linear

    def __call__(self, features: jax.Array) -> jax.Array:
        """Values of the states."""
        return self.output(self.body(features))[..., 0]


class ActorCritic(eqx.Module):
    """Actor and critic as one set of parameters, for the joint loss.

    With a shared trunk the bodies of `actor` and `critic` are empty and both stand on `trunk`; without
    one `trunk` is empty.
    """

    trunk: MLP
    actor: Actor
    critic: Critic

    def split(self) -> tuple[Actor, Critic]:
        """Actor and critic that work alone, the trunk's layers in front of each."""
        actor, critic = self.actor, self.critic
        return (
            Actor(self._on_trunk(actor.body), actor.output, actor.log_std, actor.head),
            Critic(self._on_trunk(critic.body), critic.output),
        )

    def _on_trunk(self, body: MLP) -> MLP:
        return MLP(self.trunk.layers + body.layers, body.activation)


def join(actor: Actor, critic: Critic, *, shared_trunk: bool) -> ActorCritic:
    """One set of parameters; with a shared trunk the actor's body serves both."""
    if not shared_trunk:
        return ActorCritic(MLP((), actor.body.activation), actor, critic)
    empty = MLP((), actor.body.activation)
    return ActorCritic(
        actor.body,
        Actor(empty, actor.output, actor.log_std, actor.head),
        Critic(empty, critic.output),
    )


def make_actor(
    key: jax.Array,
    size_in: int,
    head: PolicyHead,
    *,
    hidden: tuple[int, ...],
    activation: str,
    orthogonal: bool,
    output_scale: float,
    initial_std: float,
) -> Actor:
    """An actor; its last layer is small, so that the first policy hardly depends on the state."""
    body_key, output_key = jax.random.split(key)
    body = make_mlp(body_key, size_in, hidden, activation=activation, orthogonal=orthogonal)
    width = hidden[-1] if hidden else size_in
    output = make_linear(
        output_key, width, head.num_outputs, gain=output_scale, orthogonal=orthogonal
    )
    log_std = None
    if head.has_std:
        start = float(distributions.unfloor_log_std(initial_std, min_std=head.min_std))
        log_std = jnp.full(sum(head.sizes), start, jnp.float32)
    if head.kind == "beta":
        output = eqx.tree_at(lambda o: o.bias, output, _beta_bias(head, initial_std))
    return Actor(body, output, log_std, head)


def _beta_bias(head: PolicyHead, initial_std: float) -> jax.Array:
    """Biases that give a symmetric Beta whose action 2x - 1 has the standard deviation wanted.

    Var(2x - 1) = 1 / (2 alpha + 1) for alpha = beta, so alpha = (1 / std^2 - 1) / 2; alpha must stay
    above 1 (uniform is the widest with one mode), which bounds the standard deviation by 0.577.
    """
    alpha = max((1.0 / initial_std**2 - 1.0) / 2.0, 1.01)
    inverse_softplus = alpha - 1.0 + math.log(-math.expm1(1.0 - alpha))
    return jnp.full(head.num_outputs, inverse_softplus, jnp.float32)


def make_critic(
    key: jax.Array,
    size_in: int,
    *,
    hidden: tuple[int, ...],
    activation: str,
    orthogonal: bool,
) -> Critic:
    """A critic; its output layer has gain 1."""
    body_key, output_key = jax.random.split(key)
    body = make_mlp(body_key, size_in, hidden, activation=activation, orthogonal=orthogonal)
    width = hidden[-1] if hidden else size_in
    return Critic(body, make_linear(output_key, width, 1, gain=1.0, orthogonal=orthogonal))
