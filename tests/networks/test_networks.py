"""Initialization, heads, torsos, and the shared trunk."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import extended

from surefoot.functional import PolicyReflection, Reflection
from surefoot.functional.distributions import (
    MAX_STD,
    DiagGaussian,
    Distribution,
    FeatureGaussian,
    TanhGaussian,
    floor_log_std,
)
from surefoot.networks import (
    MLP,
    Actor,
    ActorCritic,
    Critic,
    MemorySpec,
    PolicyHead,
    Torso,
    TorsoSpec,
    ValueHead,
    make_actor,
    make_critic,
    make_linear,
    make_mlp,
    share_trunk,
)

KEY = jax.random.key(7)
STATES = 10 * np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)
FIRST = np.zeros(64, bool)


MEMORIES = (None, MemorySpec("gru", 6, 1), MemorySpec("lstm", 6, 2))
each_memory = pytest.mark.parametrize("memory", MEMORIES, ids=["none", "gru", "lstm"])


def torso(hidden: tuple[int, ...] = (16, 8), memory: MemorySpec | None = None) -> TorsoSpec:
    return TorsoSpec(("state",), 5, hidden, "tanh", memory)


def actor(head: PolicyHead, spec: TorsoSpec | None = None, **options: Any) -> Actor:
    usual: dict[str, Any] = {"orthogonal": True, "output_scale": 0.01, "initial_std": 0.4}
    return make_actor(KEY, spec or torso(), head, **(usual | options))


def critic(spec: TorsoSpec | None = None) -> Critic:
    return make_critic(jax.random.key(8), spec or torso(), orthogonal=True)


def act(network: Actor, states: np.ndarray = STATES) -> Distribution:
    return network.unroll({"state": states}, (), FIRST)


def values_of(network: Critic, states: np.ndarray = STATES) -> jax.Array:
    return network.unroll({"state": states}, (), FIRST)[0]


@pytest.mark.parametrize(("size_in", "size_out"), [(5, 5), (3, 8), (8, 3), (1, 4), (4, 1)])
@pytest.mark.parametrize("gain", [1.0, 2**0.5, 0.01])
def test_weights_are_orthogonal_with_their_gain_and_biases_are_zero(
    size_in: int, size_out: int, gain: float
) -> None:
    layer = make_linear(KEY, size_in, size_out, gain=gain, orthogonal=True)
    weight = np.asarray(layer.weight) / gain
    gram = weight @ weight.T if size_in <= size_out else weight.T @ weight
    np.testing.assert_allclose(gram, np.eye(min(size_in, size_out)), atol=1e-5)
    assert weight.shape == (size_in, size_out)
    assert layer.weight.dtype == layer.bias.dtype == jnp.float32
    np.testing.assert_array_equal(layer.bias, np.zeros(size_out))


def test_orthogonal_weights_have_no_preferred_sign() -> None:
    firsts = [
        float(make_linear(key, 2, 2, gain=1.0, orthogonal=True).weight[0, 0])
        for key in jax.random.split(KEY, 40)
    ]
    assert 8 < sum(first > 0 for first in firsts) < 32


def test_without_orthogonality_hidden_weights_are_lecun_uniform() -> None:
    layer = make_linear(KEY, 50, 400, gain=2**0.5, orthogonal=False)
    bound = (3 / 50) ** 0.5
    assert 0.99 * bound < np.abs(layer.weight).max() <= bound
    assert np.std(layer.weight) == pytest.approx(50**-0.5, rel=0.02)
    np.testing.assert_array_equal(layer.bias, 0)


def test_the_policys_gain_scales_uniform_weights_too() -> None:
    small = actor(PolicyHead("gaussian", (3,)), orthogonal=False, output_scale=0.01).output.weight
    large = actor(PolicyHead("gaussian", (3,)), orthogonal=False, output_scale=1.0).output.weight
    np.testing.assert_allclose(100 * small, large, rtol=1e-5)


def test_every_layer_has_its_own_weights_and_the_gain_of_hidden_layers() -> None:
    body = make_mlp(KEY, 6, (6, 6), activation="tanh", orthogonal=True)
    first, second = (np.asarray(layer.weight) for layer in body.layers)
    assert np.abs(first - second).max() > 0.1
    for weight in (first, second):
        np.testing.assert_allclose(weight @ weight.T, 2 * np.eye(6), atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("tanh", np.tanh),
        ("relu", lambda x: np.maximum(x, 0)),
        ("elu", lambda x: np.where(x > 0, x, np.expm1(x))),
        ("swish", lambda x: x / (1 + np.exp(-x))),
    ],
)
def test_an_activation_follows_every_hidden_layer(activation: str, function: Any) -> None:
    body = make_mlp(KEY, 5, (4, 3), activation=activation, orthogonal=True)
    x = STATES / 10
    for layer in body.layers:
        x = function(x @ np.asarray(layer.weight) + np.asarray(layer.bias))
    np.testing.assert_allclose(body(STATES / 10), x, rtol=1e-4, atol=1e-5)


def test_layer_norm_standardizes_what_a_layer_says_before_its_gain_and_bias() -> None:
    body = make_mlp(KEY, 5, (6, 3), activation="tanh", orthogonal=True, layer_norm=True)
    for gain, width in zip(body.gains, (6, 3), strict=True):
        np.testing.assert_array_equal(gain, np.ones(width))
    gains = tuple(gain * jnp.linspace(0.5, 2.0, gain.size) for gain in body.gains)
    shifted = eqx.tree_at(lambda b: b.layers[0].bias, body, jnp.linspace(-1.0, 1.0, 6))
    shifted = eqx.tree_at(lambda b: b.gains, shifted, gains)
    x = STATES.astype(np.float64)
    for layer, gain in zip(shifted.layers, gains, strict=True):
        y = x @ np.asarray(layer.weight, np.float64)
        y = (y - y.mean(axis=-1, keepdims=True)) / np.sqrt(y.var(axis=-1, keepdims=True) + 1e-5)
        x = np.tanh(y * np.asarray(gain) + np.asarray(layer.bias))
    np.testing.assert_allclose(shifted(STATES), x, rtol=1e-4, atol=1e-5)
    # whatever the scale of its inputs; and where nothing varies it is the bias alone
    np.testing.assert_allclose(body(100 * STATES), body(STATES), atol=1e-3)
    np.testing.assert_allclose(shifted(np.zeros((1, 5), np.float32))[0].shape, (3,))
    assert np.isfinite(jax.grad(lambda x: shifted(x).sum())(jnp.zeros(5))).all()


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_residual_layer_is_added_to_what_it_reads_where_that_is_as_wide(layer_norm: bool) -> None:
    shape = {"activation": "tanh", "orthogonal": True, "layer_norm": layer_norm}
    whole = make_mlp(KEY, 5, (5, 6, 6, 3), **shape, residual=True)
    x = STATES / 10
    # the first reads observations, whose places and number a warm start may change
    for i, wide in enumerate([False, False, True, False]):
        one = MLP(whole.layers[i : i + 1], "tanh", whole.gains[i : i + 1])
        x = np.asarray(one(x)) + (x if wide else 0.0)
    np.testing.assert_allclose(whole(STATES / 10), x, rtol=1e-4, atol=1e-5)


def test_layers_are_added_to_nothing_unless_that_is_asked() -> None:
    body = make_mlp(KEY, 5, (6, 6), activation="tanh", orthogonal=True)
    x = STATES / 10
    for layer in body.layers:
        x = np.tanh(x @ np.asarray(layer.weight))
    for plain in (
        body,
        MLP(body.layers, "tanh"),
        actor(PolicyHead("gaussian", (3,)), torso((6, 6))).torso.body,
    ):
        assert not plain.residual
    np.testing.assert_allclose(body(STATES / 10), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("residual", [False, True])
def test_a_trunk_keeps_its_form_below_what_stands_on_it(residual: bool) -> None:
    spec = dataclasses.replace(torso((6, 6)), residual=residual)
    whole, values = actor(PolicyHead("gaussian", (3,)), spec), critic(spec)
    shared = share_trunk(whole, values)
    np.testing.assert_array_equal(act(shared.policy()).mode(), act(whole).mode())


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_trunk_keeps_its_layer_norm_below_what_stands_on_it(layer_norm: bool) -> None:
    spec = dataclasses.replace(torso(), layer_norm=layer_norm)
    whole, values = actor(PolicyHead("gaussian", (3,)), spec), critic(spec)
    shared = share_trunk(whole, values)
    np.testing.assert_array_equal(act(shared.policy()).mode(), act(whole).mode())
    assert len(shared.values().torso.body.gains) == (2 if layer_norm else 0)


NORMALIZED = ValueHead(normalized=True)


def test_a_critic_is_rescaled_to_its_targets_without_any_value_changing() -> None:
    plain = critic()
    assert plain.rescaled(jnp.ones(3), jnp.ones(3)) is plain
    random = np.random.default_rng(0)
    now = make_critic(jax.random.key(8), torso(), orthogonal=True, head=NORMALIZED)
    np.testing.assert_array_equal(values_of(now), values_of(plain))  # relative to 0 and 1 at first
    seen = []
    for i in range(14):
        targets = np.float32(random.normal(50.0 - 20 * i, 1.0 + i, (5, 4)))
        weights = np.float32(random.random((5, 4)) < 0.7)
        before, now = now, now.rescaled(targets, weights)
        # the very same values, whatever the scale has become
        np.testing.assert_allclose(values_of(now), values_of(before), rtol=1e-4, atol=1e-3)
        seen.append(targets[weights > 0])
        if i < 10:  # all batches alike: mean and deviation of batches' means and variances
            means, variances = [x.mean() for x in seen], [x.var() for x in seen]
            np.testing.assert_allclose(now.scale.mean, np.mean(means), rtol=1e-4)
            variance = np.mean(variances) + np.var(means)
            np.testing.assert_allclose(now.scale.std, np.sqrt(variance), rtol=1e-3)
        else:
            mean = 0.9 * before.scale.mean + 0.1 * seen[-1].mean()
            np.testing.assert_allclose(now.scale.mean, mean, rtol=1e-4)
    # no target that counts changes nothing, and equal ones divide by no zero
    same = now.rescaled(np.full(3, np.nan, np.float32), np.zeros(3, np.float32))
    for old, new in zip(jax.tree.leaves(now), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(old, new, rtol=1e-6)
    one = still = make_critic(KEY, torso(), orthogonal=True, head=NORMALIZED)
    one = one.rescaled(jnp.float32([7.0, 99.0]), jnp.float32([1.0, 0.0]))
    assert float(one.scale.mean) == pytest.approx(7.0)  # of a single row
    for _ in range(3):
        still = still.rescaled(jnp.full(4, 2.0), jnp.ones(4))
    assert np.isfinite(values_of(still)).all()
    assert float(still.scale.std) == pytest.approx(1e-4)


def test_what_values_are_relative_to_is_not_learned() -> None:
    now = make_critic(KEY, torso(), orthogonal=True, head=NORMALIZED)
    now = now.rescaled(jnp.float32([3.0, 9.0]), jnp.ones(2))
    gradient = eqx.filter_grad(lambda critic: jnp.square(values_of(critic)).sum())(now)
    assert all(float(x) == 0.0 for x in jax.tree.leaves(gradient.scale))
    assert float(jnp.abs(gradient.output.weight).sum()) > 0.0
    backwards = eqx.filter_grad(lambda scale: scale.outputs(jnp.float32([1.0, 2.0])).sum())
    assert all(float(x) == 0.0 for x in jax.tree.leaves(backwards(now.scale)))


def test_an_mlp_without_layers_is_the_identity_and_a_network_without_them_is_linear() -> None:
    np.testing.assert_array_equal(MLP((), "tanh")(STATES), STATES)
    linear = critic(torso(()))
    values = STATES @ np.asarray(linear.output.weight)[:, 0]
    np.testing.assert_allclose(values_of(linear), values, rtol=1e-4, atol=1e-4)
    assert act(actor(PolicyHead("gaussian", (3,)), torso(()))).mode().shape == (64, 3)


def test_the_critic_has_one_value_per_state_and_an_output_of_gain_one() -> None:
    network = critic()
    assert values_of(network).shape == (64,)
    assert values_of(network, STATES.reshape(8, 8, 5)).shape == (8, 8)
    np.testing.assert_allclose(np.linalg.norm(network.output.weight), 1, rtol=1e-5)
    np.testing.assert_array_equal(network.output.bias, 0)


@pytest.mark.parametrize(
    "head",
    [
        PolicyHead("gaussian", (3,)),
        PolicyHead("squashed_gaussian", (3,)),
        PolicyHead("beta", (3,)),
    ],
    ids=lambda head: head.kind,
)
def test_the_first_policy_is_centred_and_hardly_depends_on_the_state(head: PolicyHead) -> None:
    policy = actor(head)
    distribution = act(policy)
    centre = np.asarray(distribution.to_action(distribution.mode()))
    assert centre.shape == (64, 3)
    assert np.abs(centre).max() < 0.05
    far = act(actor(head, output_scale=1.0))
    assert np.abs(far.to_action(far.mode())).max() > 0.3


def test_the_first_discrete_policy_is_nearly_uniform() -> None:
    for head in (PolicyHead("discrete", (4,)), PolicyHead("multi_discrete", (4,))):
        np.testing.assert_allclose(act(actor(head)).entropy(), np.log(4), atol=1e-3)
    bits = act(actor(PolicyHead("multi_binary", (3,))))
    np.testing.assert_allclose(bits.entropy(), 3 * np.log(2), atol=1e-3)


def test_noise_of_features_starts_at_the_configured_std_and_then_depends_on_the_state() -> None:
    policy = actor(PolicyHead("gaussian", (3,), gsde=True), torso((6,)), initial_std=0.4)
    assert policy.log_std.shape == (7, 3)
    np.testing.assert_allclose(act(policy).std, 0.4, rtol=1e-5)
    uneven = eqx.tree_at(lambda p: p.log_std, policy, policy.log_std.at[0].add(2.0))
    assert np.std(act(uneven).std, axis=0).min() > 0.01
    for kind, dependent in (("squashed_gaussian", False), ("gaussian", True), ("beta", False)):
        with pytest.raises(ValueError, match="gsde in a policy head"):
            PolicyHead(kind, (3,), state_dependent_std=dependent, gsde=True)


def test_noise_of_features_is_to_act_with_and_learning_sees_its_marginal() -> None:
    policy = actor(PolicyHead("gaussian", (3,), gsde=True), torso((6,)))
    acting, _ = policy.step({"state": STATES}, (), FIRST)
    assert isinstance(acting, FeatureGaussian)
    assert type(act(policy)) is DiagGaussian
    np.testing.assert_allclose(act(policy).std, acting.std, rtol=1e-5)
    outputs, features = jnp.zeros((4, 3)), jnp.ones((4, 6))
    assert type(policy.head(outputs, policy.log_std, features)) is DiagGaussian


@pytest.mark.parametrize(
    ("kind", "is_continuous"),
    [
        *((kind, True) for kind in ("gaussian", "squashed_gaussian", "beta", "binned")),
        *((kind, False) for kind in ("discrete", "multi_discrete", "multi_binary")),
    ],
)
def test_what_a_head_is_for(kind: str, is_continuous: bool) -> None:
    bins = 5 if kind == "binned" else None
    assert PolicyHead(kind, (2,), bins=bins).is_continuous is is_continuous


@pytest.mark.parametrize("initial_std", [0.2, 0.4])
def test_binned_actions_begin_as_a_normal_of_the_configured_std(initial_std: float) -> None:
    policy = actor(PolicyHead("binned", (3,), bins=41), initial_std=initial_std)
    places = np.linspace(-1.0, 1.0, 41)
    shares = np.exp(-0.5 * (places / initial_std) ** 2)
    found = jax.nn.softmax(policy.head(policy.output.bias, None, jnp.zeros(8)).logits)
    np.testing.assert_allclose(found, np.tile(shares / shares.sum(), (3, 1)), rtol=1e-4)
    outputs = jnp.arange(2 * 4 * 3 * 41, dtype=jnp.float32).reshape(2, 4, -1)
    rows = policy.head(outputs, None, jnp.zeros((2, 4, 8))).logits
    np.testing.assert_array_equal(rows, outputs.reshape(2, 4, 3, 41))


@pytest.mark.parametrize("kind", ["gaussian", "squashed_gaussian"])
@pytest.mark.parametrize("initial_std", [0.02, 0.4, 1.0, 5.0])
def test_the_initial_std_is_the_configured_one(kind: str, initial_std: float) -> None:
    policy = actor(PolicyHead(kind, (3,), min_std=0.01), initial_std=initial_std)
    std = act(policy).std
    assert std.shape == (64, 3)
    np.testing.assert_allclose(std, initial_std, rtol=1e-5)
    assert policy.log_std.shape == (3,)


@pytest.mark.parametrize("kind", ["gaussian", "squashed_gaussian"])
def test_a_state_dependent_std_starts_at_the_configured_one_and_then_depends(kind: str) -> None:
    head = PolicyHead(kind, (3,), state_dependent_std=True)
    still = act(actor(head, output_scale=1e-7)).std
    np.testing.assert_allclose(still, 0.4, rtol=1e-5)
    usual = act(actor(head)).std
    np.testing.assert_allclose(usual, 0.4, rtol=0.05)
    moving = act(actor(head, output_scale=1.0))
    assert np.std(moving.std, axis=0).min() > 0.05
    assert moving.mean.shape == moving.std.shape == (64, 3)
    assert type(moving) is (DiagGaussian if kind == "gaussian" else TanhGaussian)
    outputs, log_std = jnp.array([[0.5, -0.5, 0.25, 1.0]]), jnp.array([-1.0, -2.0])
    of_a_state = PolicyHead(kind, (2,), state_dependent_std=True)(outputs, log_std, outputs)
    np.testing.assert_allclose(of_a_state.mean, [[0.5, -0.5]])
    wanted = floor_log_std(jnp.array([[-0.75, -1.0]]), min_std=0.01)
    np.testing.assert_allclose(of_a_state.std, wanted, rtol=1e-6)


@pytest.mark.parametrize("state_dependent_std", [False, True])
def test_an_actor_with_a_symmetry_gives_the_average_of_both_sides(
    state_dependent_std: bool,
) -> None:
    swap = Reflection((1, 0, 2, 3, 4), (1.0, 1.0, -1.0, 1.0, 1.0))
    side = Reflection((1, 0), (-1.0, -1.0))
    symmetry = PolicyReflection((("state", swap),), side)
    head = PolicyHead("gaussian", (2,), state_dependent_std=state_dependent_std)
    averaged = actor(head, output_scale=1.0, symmetry=symmetry)
    log_std = None if averaged.log_std is None else averaged.log_std + jnp.array([0.3, -0.1])
    averaged = replace(averaged, log_std=log_std)
    plain = replace(averaged, symmetry=None)
    for network in (averaged, plain):
        one, _ = network.step({"state": STATES}, (), FIRST)
        all_of_them = act(network)
        np.testing.assert_allclose(one.mean, all_of_them.mean, rtol=1e-5, atol=1e-6)
    own, image = plain.output(plain.torso.unroll({"state": STATES}, (), FIRST)[0]), swap(STATES)
    other = plain.output(plain.torso.unroll({"state": image}, (), FIRST)[0])
    mean = (own[:, :2] + side(other[:, :2])) / 2
    np.testing.assert_allclose(act(averaged).mean, mean, rtol=1e-4, atol=1e-5)
    wanted = jnp.broadcast_to(jnp.mean(log_std), (64, 2))
    if state_dependent_std:
        wanted = wanted + (own[:, 2:] + other[:, 3:1:-1]) / 2
    std = floor_log_std(wanted, min_std=head.min_std)
    np.testing.assert_allclose(act(averaged).std, std, rtol=1e-4)
    np.testing.assert_allclose(
        act(averaged, np.asarray(image)).mean, side(mean), rtol=1e-4, atol=1e-5
    )


def test_an_actor_without_a_free_std_may_have_a_symmetry() -> None:
    swap = Reflection((1, 0, 2, 3, 4), (1.0,) * 5)
    choices = Reflection((1, 0), (1.0, 1.0))
    symmetry = PolicyReflection((("state", swap),), choices)
    p = act(actor(PolicyHead("discrete", (2,)), output_scale=1.0, symmetry=symmetry))
    q = act(actor(PolicyHead("discrete", (2,)), output_scale=1.0, symmetry=symmetry), swap(STATES))
    np.testing.assert_allclose(p.entropy(), q.entropy(), rtol=1e-4)


@pytest.mark.parametrize("initial_std", [0.05, 0.3, 0.5])
def test_a_beta_policy_starts_with_the_configured_std_of_its_action(initial_std: float) -> None:
    beta = act(actor(PolicyHead("beta", (3,)), initial_std=initial_std, output_scale=1e-7))
    total = beta.alpha + beta.beta
    variance = 4 * beta.alpha * beta.beta / (total**2 * (total + 1))  # of 2 x - 1
    np.testing.assert_allclose(np.sqrt(variance), initial_std, rtol=1e-4)
    np.testing.assert_allclose(beta.alpha, beta.beta, rtol=1e-4)


def test_a_beta_policy_wider_than_uniform_starts_near_uniform_and_keeps_one_mode() -> None:
    beta = act(actor(PolicyHead("beta", (3,)), initial_std=1.0))
    assert np.min(beta.alpha) > 1.0
    np.testing.assert_allclose(beta.alpha, 1.01, atol=2e-3)


def test_the_std_never_falls_below_its_floor() -> None:
    head = PolicyHead("gaussian", (2,), min_std=0.2)
    std = head(jnp.zeros((4, 2)), jnp.full(2, -50.0), jnp.zeros((4, 1))).std
    assert np.min(std) >= np.float32(0.2)


@pytest.mark.parametrize(
    ("head", "outputs"),
    [
        extended(PolicyHead("gaussian", (3,)), 3),
        (PolicyHead("gaussian", (3,), state_dependent_std=True), 6),
        extended(PolicyHead("squashed_gaussian", (3,), state_dependent_std=True), 6),
        extended(PolicyHead("beta", (3,)), 6),
        extended(PolicyHead("discrete", (4,)), 4),
        (PolicyHead("multi_discrete", (2, 3)), 5),
        (PolicyHead("multi_binary", (3,)), 3),
    ],
    ids=str,
)
def test_the_head_asks_for_the_outputs_it_reads(head: PolicyHead, outputs: int) -> None:
    policy = actor(head)
    assert head.num_outputs == policy.output.weight.shape[1] == policy.output.bias.shape[0]
    assert head.num_outputs == outputs
    raw = act(policy).sample(KEY)
    shapes = {"discrete": (), "multi_discrete": (len(head.sizes),)}
    assert raw.shape == (64, *shapes.get(head.kind, (sum(head.sizes),)))
    assert act(policy).log_prob(raw).shape == (64,)
    assert (policy.log_std is not None) == head.kind.endswith("gaussian")


SEQUENCE = {"state": STATES.reshape(8, 8, 5)}
BEGINS = np.arange(64).reshape(8, 8) % 11 == 0  # here and there, other rows for each environment


@each_memory
@pytest.mark.parametrize("shared", [extended(False), True])
def test_networks_that_a_learner_owns_together_are_the_actor_and_critic_that_they_were(
    shared: bool, memory: MemorySpec | None
) -> None:
    spec = torso(memory=memory)
    first, values = actor(PolicyHead("gaussian", (3,)), spec), critic(spec)
    both = share_trunk(first, values) if shared else ActorCritic(None, first, values)
    sequence = (SEQUENCE, spec.initial_carry(8), BEGINS)
    again, before = both.policy().unroll(*sequence), first.unroll(*sequence)
    np.testing.assert_array_equal(again.mean, before.mean)
    np.testing.assert_array_equal(again.std, before.std)
    body = first.torso if shared else values.torso
    features, _ = body.unroll(*sequence)
    found, _ = both.values().unroll(*sequence)
    np.testing.assert_array_equal(found, values.output(features)[..., 0])


def test_a_shared_trunk_is_stored_once_and_serves_both() -> None:
    first, values = actor(PolicyHead("gaussian", (3,))), critic()
    joined = share_trunk(first, values)
    assert len(joined.trunk.body.layers) == 2
    assert joined.actor.torso.body.layers == joined.critic.torso.body.layers == ()
    ours, theirs = joined.policy(), joined.values()
    assert ours.torso.body.layers == theirs.torso.body.layers == joined.trunk.body.layers
    # two layers and an output layer each, weights and biases, and the standard deviation
    assert len(jax.tree.leaves(joined)) == 2 * (2 + 1 + 1) + 1
    apart = ActorCritic(None, first, values)
    assert apart.policy() is first
    assert apart.values() is values


def test_a_torso_on_top_of_a_trunk_follows_its_layers_and_reads_what_it_reads() -> None:
    trunk = torso((4,)).make(KEY, orthogonal=True)
    top = Torso(make_mlp(KEY, 4, (3,), activation="tanh", orthogonal=True), None, ())
    whole, _ = top.on_top_of(trunk).unroll({"state": STATES}, (), FIRST)
    below, _ = trunk.unroll({"state": STATES}, (), FIRST)
    np.testing.assert_array_equal(whole, top.body(below))


@pytest.mark.parametrize("groups", [("state",), ("map", "state"), ("state", "map")])
def test_a_torso_reads_the_named_groups_in_the_named_order_and_no_other(
    groups: tuple[str, ...],
) -> None:
    inputs = {"state": STATES, "map": -STATES[:, :2], "unread": np.full((64, 1), np.nan)}
    features, carry = Torso(MLP((), "tanh"), None, groups).step(inputs, (), FIRST)
    np.testing.assert_array_equal(features, np.concatenate([inputs[g] for g in groups], axis=1))
    assert carry == ()


@each_memory
def test_steps_one_by_one_are_the_sequence(memory: MemorySpec | None) -> None:
    spec = torso(memory=memory)
    network = actor(PolicyHead("gaussian", (3,)), spec, output_scale=1.0)
    whole = network.unroll(SEQUENCE, spec.initial_carry(8), BEGINS)
    carry = spec.initial_carry(8)
    for t, row in enumerate(SEQUENCE["state"]):
        one, carry = network.step({"state": row}, carry, BEGINS[t])
        np.testing.assert_allclose(one.mean, whole.mean[t], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(one.std, whole.std[t])


@each_memory
def test_the_value_of_an_observation_behind_a_row_is_that_of_the_row_that_would_follow(
    memory: MemorySpec | None,
) -> None:
    spec = torso(memory=memory)
    network, goes_on = critic(spec), np.zeros((8, 8), bool)
    values, carried = network.unroll(SEQUENCE, spec.initial_carry(8), goes_on)
    assert values.shape == (8, 8)
    behind = network.values_after({"state": SEQUENCE["state"][1:]}, carried)
    np.testing.assert_allclose(behind, values[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "num_weights", "size_out"),
    [
        (torso(()), 0, 5),
        (torso((16,)), 80, 16),
        (torso((16, 8)), 208, 8),
        # three gates of six units, that read five numbers and themselves
        (torso((), MEMORIES[1]), 198, 6),
        (torso((16,), MEMORIES[1]), 198 + 96, 16),
    ],
    ids=str,
)
def test_a_torsos_shape_says_how_many_weights_and_features_it_has(
    spec: TorsoSpec, num_weights: int, size_out: int
) -> None:
    made = spec.make(KEY, orthogonal=True)
    assert spec.num_weights == num_weights
    assert spec.num_weights == sum(x.size for x in jax.tree.leaves(made) if x.ndim == 2)
    assert spec.size_out == size_out
    features, _ = made.step({"state": STATES}, spec.initial_carry(64), FIRST)
    assert features.shape == (64, size_out)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (TorsoSpec(("state",), 5, (4,), "sine"), "activation 'sine'"),
        (TorsoSpec(("state",), 5, (4, 0), "tanh"), r"widths \(5, 4, 0\)"),
        (TorsoSpec(("state",), 0, (), "tanh"), r"widths \(0,\)"),
    ],
)
def test_what_cannot_be_a_torso_is_refused(spec: TorsoSpec, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        spec.check()
    torso().check()
    TorsoSpec(("state",), 1, (1,), "tanh").check()


@pytest.mark.parametrize(
    ("kind", "bins"), [("binned", None), ("binned", 1), ("binned", -3), ("gaussian", 5)]
)
def test_bins_are_of_binned_heads_and_at_least_two(kind: str, bins: int | None) -> None:
    with pytest.raises(ValueError, match=rf"policy head '{kind}' of {bins} bins"):
        PolicyHead(kind, (2,), bins=bins)


@pytest.mark.parametrize(
    ("sizes", "min_std"), [((), 0.01), ((2, 0), 0.01), ((2,), 0.0), ((2,), MAX_STD)]
)
def test_a_head_of_nothing_or_without_a_room_for_its_std_is_refused(sizes, min_std) -> None:
    with pytest.raises(ValueError, match=r"policy head of sizes .* min_std"):
        PolicyHead("gaussian", sizes, min_std=min_std)


def test_the_least_heads_are_taken() -> None:
    assert PolicyHead("gaussian", (1,)).num_outputs == 1
    assert PolicyHead("binned", (1,), bins=2).num_outputs == 2


def test_a_critic_of_a_histogram_begins_with_an_even_one() -> None:
    head = ValueHead(bins=5, limit=10.0)
    one = make_critic(KEY, torso(), orthogonal=True, head=head)
    weight = np.asarray(one.output.weight)
    np.testing.assert_allclose(weight.T @ weight, 1e-4 * np.eye(5), atol=1e-9)
    np.testing.assert_allclose(values_of(one), 0.0, atol=0.2)


def test_an_unknown_policy_head_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown policy head 'gauss'; known: gaussian, squashed"):
        PolicyHead("gauss", (1,))


def test_equal_keys_give_equal_networks_and_other_keys_others() -> None:
    head = PolicyHead("gaussian", (3,))
    bytes_of = [np.asarray(x).tobytes() for x in jax.tree.leaves(actor(head))]
    assert bytes_of == [np.asarray(x).tobytes() for x in jax.tree.leaves(actor(head))]
    other = make_linear(jax.random.key(9), 5, 16, gain=1.0, orthogonal=True)
    assert (
        np.abs(other.weight - make_linear(KEY, 5, 16, gain=1.0, orthogonal=True).weight).max() > 0.1
    )
