"""Initialisation, heads, the shared trunk, and the normaliser that lives in the agent."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefoot.functional import count_of
from surefoot.networks import (
    MLP,
    Actor,
    Critic,
    Normalizer,
    PolicyHead,
    join,
    make_actor,
    make_critic,
    make_linear,
    make_mlp,
    make_normalizer,
)

KEY = jax.random.key(7)
STATES = 10 * np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)


def actor(head: PolicyHead, **options: Any) -> Actor:
    usual: dict[str, Any] = {
        "hidden": (16, 8),
        "activation": "tanh",
        "orthogonal": True,
        "output_scale": 0.01,
        "initial_std": 0.4,
    }
    return make_actor(KEY, 5, head, **(usual | options))


def critic(**options: Any) -> Critic:
    usual: dict[str, Any] = {"hidden": (16, 8), "activation": "tanh", "orthogonal": True}
    return make_critic(jax.random.key(8), 5, **(usual | options))


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


def test_an_mlp_without_layers_is_the_identity_and_a_network_without_them_is_linear() -> None:
    np.testing.assert_array_equal(MLP((), "tanh")(STATES), STATES)
    linear = critic(hidden=())
    values = STATES @ np.asarray(linear.output.weight)[:, 0]
    np.testing.assert_allclose(linear(STATES), values, rtol=1e-4, atol=1e-4)
    assert actor(PolicyHead("gaussian", (3,)), hidden=())(STATES).mode().shape == (64, 3)


def test_the_critic_has_one_value_per_state_and_an_output_of_gain_one() -> None:
    network = critic()
    assert network(STATES).shape == (64,)
    assert network(STATES.reshape(8, 8, 5)).shape == (8, 8)
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
    distribution = policy(STATES)
    centre = np.asarray(distribution.to_action(distribution.mode()))
    assert centre.shape == (64, 3)
    assert np.abs(centre).max() < 0.05
    far = actor(head, output_scale=1.0)(STATES)
    assert np.abs(far.to_action(far.mode())).max() > 0.3


def test_the_first_discrete_policy_is_nearly_uniform() -> None:
    for head in (PolicyHead("discrete", (4,)), PolicyHead("multi_discrete", (4,))):
        np.testing.assert_allclose(actor(head)(STATES).entropy(), np.log(4), atol=1e-3)
    bits = actor(PolicyHead("multi_binary", (3,)))(STATES)
    np.testing.assert_allclose(bits.entropy(), 3 * np.log(2), atol=1e-3)


@pytest.mark.parametrize("kind", ["gaussian", "squashed_gaussian"])
@pytest.mark.parametrize("initial_std", [0.02, 0.4, 1.0, 5.0])
def test_the_initial_std_is_the_configured_one(kind: str, initial_std: float) -> None:
    policy = actor(PolicyHead(kind, (3,), min_std=0.01), initial_std=initial_std)
    std = policy(STATES).std
    assert std.shape == (64, 3)
    np.testing.assert_allclose(std, initial_std, rtol=1e-5)
    assert policy.log_std.shape == (3,)


@pytest.mark.parametrize("kind", ["gaussian", "squashed_gaussian"])
def test_a_state_dependent_std_starts_at_the_configured_one_and_then_depends(kind: str) -> None:
    head = PolicyHead(kind, (3,), state_dependent_std=True)
    still = actor(head, output_scale=1e-7)(STATES).std
    np.testing.assert_allclose(still, 0.4, rtol=1e-5)
    usual = actor(head)(STATES).std
    np.testing.assert_allclose(usual, 0.4, rtol=0.05)
    moving = actor(head, output_scale=1.0)(STATES)
    assert np.std(moving.std, axis=0).min() > 0.05
    assert moving.mean.shape == moving.std.shape == (64, 3)


@pytest.mark.parametrize("initial_std", [0.05, 0.3, 0.5])
def test_a_beta_policy_starts_with_the_configured_std_of_its_action(initial_std: float) -> None:
    beta = actor(PolicyHead("beta", (3,)), initial_std=initial_std, output_scale=1e-7)(STATES)
    total = beta.alpha + beta.beta
    variance = 4 * beta.alpha * beta.beta / (total**2 * (total + 1))  # of 2 x - 1
    np.testing.assert_allclose(np.sqrt(variance), initial_std, rtol=1e-4)
    np.testing.assert_allclose(beta.alpha, beta.beta, rtol=1e-4)


def test_a_beta_policy_wider_than_uniform_starts_near_uniform_and_keeps_one_mode() -> None:
    beta = actor(PolicyHead("beta", (3,)), initial_std=1.0)(STATES)
    assert np.min(beta.alpha) > 1.0
    np.testing.assert_allclose(beta.alpha, 1.01, atol=2e-3)


def test_the_std_never_falls_below_its_floor() -> None:
    head = PolicyHead("gaussian", (2,), min_std=0.2)
    std = head(jnp.zeros((4, 2)), jnp.full(2, -50.0)).std
    assert np.min(std) >= np.float32(0.2)


@pytest.mark.parametrize(
    ("head", "outputs"),
    [
        (PolicyHead("gaussian", (3,)), 3),
        (PolicyHead("gaussian", (3,), state_dependent_std=True), 6),
        (PolicyHead("squashed_gaussian", (3,), state_dependent_std=True), 6),
        (PolicyHead("beta", (3,)), 6),
        (PolicyHead("discrete", (4,)), 4),
        (PolicyHead("multi_discrete", (2, 3)), 5),
        (PolicyHead("multi_binary", (3,)), 3),
    ],
    ids=str,
)
def test_the_head_asks_for_the_outputs_it_reads(head: PolicyHead, outputs: int) -> None:
    policy = actor(head)
    assert head.num_outputs == policy.output.weight.shape[1] == policy.output.bias.shape[0]
    assert head.num_outputs == outputs
    raw = policy(STATES).sample(KEY)
    shapes = {"discrete": (), "multi_discrete": (len(head.sizes),)}
    assert raw.shape == (64, *shapes.get(head.kind, (sum(head.sizes),)))
    assert policy(STATES).log_prob(raw).shape == (64,)
    assert (policy.log_std is not None) == head.kind.endswith("gaussian")


@pytest.mark.parametrize("shared", [False, True])
def test_joined_networks_split_into_the_same_actor(shared: bool) -> None:
    head = PolicyHead("gaussian", (3,))
    first, values = actor(head), critic()
    joined = join(first, values, shared_trunk=shared)
    again, values_again = joined.split()
    np.testing.assert_array_equal(again(STATES).mean, first(STATES).mean)
    np.testing.assert_array_equal(again(STATES).std, first(STATES).std)
    body = first.body if shared else values.body
    expected = values.output(body(STATES))[..., 0]
    np.testing.assert_array_equal(values_again(STATES), expected)


def test_a_shared_trunk_is_stored_once_and_serves_both() -> None:
    joined = join(actor(PolicyHead("gaussian", (3,))), critic(), shared_trunk=True)
    assert len(joined.trunk.layers) == 2
    assert joined.actor.body.layers == joined.critic.body.layers == ()
    ours, theirs = joined.split()
    assert ours.body.layers == theirs.body.layers == joined.trunk.layers
    apart = join(actor(PolicyHead("gaussian", (3,))), critic(), shared_trunk=False)
    assert apart.trunk.layers == ()


def test_equal_keys_give_equal_networks_and_other_keys_others() -> None:
    head = PolicyHead("gaussian", (3,))
    bytes_of = [np.asarray(x).tobytes() for x in jax.tree.leaves(actor(head))]
    assert bytes_of == [np.asarray(x).tobytes() for x in jax.tree.leaves(actor(head))]
    other = make_linear(jax.random.key(9), 5, 16, gain=1.0, orthogonal=True)
    assert (
        np.abs(other.weight - make_linear(KEY, 5, 16, gain=1.0, orthogonal=True).weight).max() > 0.1
    )


learn = eqx.filter_jit(Normalizer.update)


def observations(rows: int = 200) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {
        "state": (5 + 2 * random.standard_normal((rows, 2))).astype(np.float32),
        "map": (-3 + 0.5 * random.standard_normal((rows, 3))).astype(np.float32),
    }


def normalizer(*, enabled: bool = True, clip: float = 10.0) -> Any:
    return make_normalizer({"state": 2, "map": 3}, enabled=enabled, clip=clip)


def test_features_are_the_named_groups_in_the_named_order() -> None:
    seen, ones = observations(), np.ones(200, np.float32)
    norm = learn(normalizer(), seen, ones)
    scaled = {n: (x - x.mean(0)) / x.std(0) for n, x in seen.items()}
    for groups in (("state",), ("map", "state"), ("state", "map")):
        expected = np.concatenate([scaled[name] for name in groups], axis=1)
        np.testing.assert_allclose(norm.features(seen, groups), expected, atol=1e-4)


def test_a_disabled_normaliser_only_selects_and_never_learns() -> None:
    seen = observations()
    off = normalizer(enabled=False, clip=0.1)
    after = off.update(seen, np.ones(200, np.float32))
    expected = np.concatenate([seen["map"], seen["state"]], axis=1)
    np.testing.assert_array_equal(after.features(seen, ("map", "state")), expected)
    assert count_of(after.moments["state"]) == 0


def test_a_normaliser_that_has_seen_nothing_passes_observations_through_clipped() -> None:
    seen = {"state": np.float32([[0.5, -0.5], [30, -30]])}
    np.testing.assert_array_equal(
        normalizer().features(seen, ("state",)), np.float32([[0.5, -0.5], [10, -10]])
    )


def test_features_are_clipped_in_standard_deviations() -> None:
    seen = observations()
    norm = learn(normalizer(clip=1.5), seen, np.ones(200, np.float32))
    features = np.asarray(norm.features(seen, ("state", "map")))
    assert np.abs(features).max() == 1.5


def test_identical_environments_get_identical_features() -> None:
    one = observations(10)
    stacked = {name: np.repeat(x[:, None], 4, axis=1) for name, x in one.items()}
    norm = learn(normalizer(), stacked, np.ones((10, 4), np.float32))
    features = np.asarray(norm.features(stacked, ("state", "map")))
    assert features.shape == (10, 4, 5)
    assert all(features[:, i].tobytes() == features[:, 0].tobytes() for i in range(4))


@pytest.mark.parametrize("held", [np.nan, 1e6])
def test_masked_rows_do_not_count_whatever_they_hold(held: float) -> None:
    seen = observations()
    weights = (np.arange(200) % 3 != 0).astype(np.float32)
    spoilt = {n: np.where(weights[:, None] > 0, x, np.float32(held)) for n, x in seen.items()}
    alone = {n: x[weights > 0] for n, x in seen.items()}
    ones = np.ones(len(alone["state"]), np.float32)
    masked = learn(normalizer(), spoilt, weights)
    valid = learn(normalizer(), alone, ones)
    for name in seen:
        assert count_of(masked.moments[name]) == ones.size
        np.testing.assert_allclose(masked.moments[name].mean, valid.moments[name].mean, rtol=1e-5)
        np.testing.assert_allclose(
            masked.moments[name].variance, valid.moments[name].variance, rtol=1e-4
        )


def test_a_row_of_nan_poisons_no_statistic_and_no_other_row() -> None:
    seen, ones = observations(), np.ones(200, np.float32)
    spoilt = {n: x.copy() for n, x in seen.items()}
    spoilt["state"][7, 0] = np.nan
    clean, poisoned = learn(normalizer(), seen, ones), learn(normalizer(), spoilt, ones)
    assert count_of(poisoned.moments["state"]) == 199
    features = np.asarray(poisoned.features(spoilt, ("state", "map")))
    others = np.arange(200) != 7
    assert np.isfinite(features[others]).all()
    expected = np.asarray(clean.features(seen, ("state", "map")))
    np.testing.assert_allclose(features[others], expected[others], atol=0.05)


def test_updates_add_up_to_the_statistics_of_everything_seen() -> None:
    seen, norm = observations(), normalizer()
    for part in np.split(np.arange(200), [30, 100]):
        norm = learn(norm, {n: x[part] for n, x in seen.items()}, np.ones(part.size, np.float32))
    for name, x in seen.items():
        assert count_of(norm.moments[name]) == 200
        np.testing.assert_allclose(norm.moments[name].mean, x.mean(0), rtol=1e-5)
        np.testing.assert_allclose(norm.moments[name].variance, x.var(0), rtol=1e-4)


def test_features_change_no_statistic() -> None:
    seen = observations()
    norm = learn(normalizer(), seen, np.ones(200, np.float32))
    before = [np.asarray(x).tobytes() for x in jax.tree.leaves(norm)]
    norm.features(seen, ("state", "map"))
    assert [np.asarray(x).tobytes() for x in jax.tree.leaves(norm)] == before
