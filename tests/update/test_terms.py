"""Every loss term alone, on distributions and values written by hand."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefoot import functional as F
from surefoot.config import Config
from surefoot.networks import (
    MLP,
    ActorCritic,
    Critic,
    Linear,
    PolicyHead,
    Torso,
    TorsoSpec,
    ValueHead,
    ValueScale,
    make_actor,
    make_critic,
)
from surefoot.update.batch import Batch, Carries, Forward, forward
from surefoot.update.measured import Measured
from surefoot.update.terms import (
    EntropyTerm,
    PolicyTerm,
    ValueTerm,
    measure_all,
    policy_terms,
    total_loss,
)

# two actions: the policy gives what was done 0.75, 0.25, 0.5, 0.5, the old one 0.5 each time
NEW = np.float32([[0.75, 0.25], [0.25, 0.75], [0.5, 0.5], [0.5, 0.5]])
RATIOS = np.float32([1.5, 0.5, 1.0, 1.0])
ADVANTAGES = np.float32([2.0, -1.0, 4.0, -3.0])
KL = [0.5 * np.log(4 / 3), 0.5 * np.log(4 / 3), 0.0, 0.0]  # of (1/2, 1/2) from (3/4, 1/4)
COMMON = {"clip_epsilon": 0.2, "normalize": False, "min_std": 0.0}


def batch(**changes: Any) -> Batch:
    return Batch(
        observations={},
        first=jnp.zeros(4, bool),
        raw_actions=jnp.zeros(4, jnp.int32),
        old_log_probs=jnp.log(jnp.full(4, 0.5)),
        advantages=jnp.asarray(ADVANTAGES),
        targets=jnp.float32([1.0, 2.0, 3.0, 4.0]),
        old_values=jnp.float32([0.0, 2.0, 3.5, 0.0]),
        weights=jnp.ones(4),
        importance=None,
        old_distribution=None,
        carry=Carries((), ()),
    )._replace(**changes)


def seen(
    values: Any = (2.0, 2.0, 2.5, 0.0), beta: float = 1.0, scale: ValueScale | None = None
) -> Forward:
    torso = Torso(MLP((), "tanh"), None, ("o",))
    critic = Critic(torso, Linear(jnp.zeros((3, 1)), jnp.zeros(1)), ValueHead(), scale)
    networks = ActorCritic(None, None, critic)
    outputs = jnp.float32(values).reshape(4, -1)
    return Forward(networks, F.Categorical(jnp.log(NEW)), outputs, jnp.float32(beta))


def loss_of(term: Any, rows: Batch, forward: Forward | None = None) -> float:
    return float(term.loss(seen() if forward is None else forward, rows)[0])


def policy(surrogate: str = "ratio", **changes: Any) -> PolicyTerm:
    return PolicyTerm(surrogate, **(COMMON | changes))


@pytest.mark.parametrize(
    ("surrogate", "options", "summands"),
    [
        ("ratio", {}, RATIOS * ADVANTAGES),
        # 1.5 is clipped to 1.2 for a good action, 0.5 to 0.8 for a bad one
        ("clipped", {}, [1.2 * 2.0, 0.8 * -1.0, 4.0, -3.0]),
        ("clipped", {"clip_epsilon": 0.4}, [1.4 * 2.0, 0.6 * -1.0, 4.0, -3.0]),
        ("clipped", {"clip_epsilon": np.inf}, RATIOS * ADVANTAGES),
        ("spo", {}, RATIOS * ADVANTAGES - np.abs(ADVANTAGES) / 0.4 * (RATIOS - 1) ** 2),
        ("policy_gradient", {}, np.log(NEW[:, 0]) * ADVANTAGES),
    ],
)
def test_the_policy_term_is_the_surrogate_negated(
    surrogate: str, options: dict[str, Any], summands: Any
) -> None:
    np.testing.assert_allclose(
        loss_of(policy(surrogate, **options), batch()), -np.mean(summands), rtol=1e-5
    )


@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
def test_the_kl_penalty_weighs_the_kl_from_the_old_policy_by_beta(beta: float) -> None:
    old = F.Categorical(jnp.log(jnp.full((4, 2), 0.5)))
    expected = -np.mean(RATIOS * ADVANTAGES) + beta * np.mean(KL)
    loss = loss_of(policy("kl_penalty"), batch(old_distribution=old), seen(beta=beta))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("surrogate", ["ratio", "clipped", "spo", "policy_gradient", "kl_penalty"])
def test_rows_of_weight_zero_have_no_part_in_any_surrogate(surrogate: str) -> None:
    old = F.Categorical(jnp.log(jnp.full((4, 2), 0.5)))
    rows = batch(weights=jnp.float32([1, 0, 1, 1]), old_distribution=old)
    spoilt = rows._replace(
        advantages=rows.advantages.at[1].set(np.nan),
        old_log_probs=rows.old_log_probs.at[1].set(-1e9),
    )
    assert loss_of(policy(surrogate), rows) == loss_of(policy(surrogate), spoilt)
    assert loss_of(policy(surrogate), rows) != loss_of(
        policy(surrogate), batch(old_distribution=old)
    )


def test_advantages_are_normalized_within_the_minibatch_where_that_is_asked_for() -> None:
    rows = batch(advantages=jnp.float32([1, 3, 5, np.nan]), weights=jnp.float32([1, 1, 1, 0]))
    # their mean is 3, their standard deviation the root of 8/3
    scaled = np.float32([-2, 0, 2]) / np.sqrt(8 / 3)
    expected = -np.mean(RATIOS[:3] * scaled)
    np.testing.assert_allclose(loss_of(policy(normalize=True), rows), expected, rtol=1e-5)
    plain = -np.mean(RATIOS[:3] * np.float32([1, 3, 5]))
    np.testing.assert_allclose(loss_of(policy(), rows), plain, rtol=1e-5)


def test_advantages_that_hardly_spread_are_divided_by_the_least_standard_deviation() -> None:
    rows = batch(advantages=jnp.float32([1, -1, 1, -1]))
    expected = -np.mean(RATIOS * np.float32([1, -1, 1, -1])) / 4.0
    np.testing.assert_allclose(
        loss_of(policy(normalize=True, min_std=4.0), rows), expected, rtol=1e-5
    )


@pytest.mark.parametrize("surrogate", ["ratio", "clipped", "policy_gradient"])
def test_the_importance_of_a_row_multiplies_its_advantage(surrogate: str) -> None:
    importance = np.float32([2.0, 0.5, 0.25, 3.0])
    weighted = loss_of(policy(surrogate), batch(importance=jnp.asarray(importance)))
    by_hand = loss_of(policy(surrogate), batch(advantages=jnp.asarray(ADVANTAGES * importance)))
    np.testing.assert_allclose(weighted, by_hand, rtol=1e-6)
    if surrogate == "ratio":  # 1.5 * 2 * 2, 0.5 * -1 * 0.5, 4 * 0.25, -3 * 3
        np.testing.assert_allclose(weighted, -np.mean([6.0, -0.25, 1.0, -9.0]), rtol=1e-5)


def test_importance_comes_behind_normalization() -> None:
    rows = batch(
        advantages=jnp.float32([1, -1, 1, -1]), importance=jnp.float32([2.0, 0.5, 0.25, 3.0])
    )
    # normalized they stay 1 and -1; times the ratios and the importance: 3, -0.25, 0.25, -3
    np.testing.assert_allclose(
        loss_of(policy(normalize=True), rows), -np.mean([3, -0.25, 0.25, -3]), atol=1e-6
    )


def test_the_policy_terms_gradient_is_that_of_the_ratio_times_the_advantage() -> None:
    def loss(logits: jax.Array) -> jax.Array:
        return policy("ratio").loss(seen()._replace(distribution=F.Categorical(logits)), batch())[0]

    # d ratio / d logits = ratio * (one-hot - probabilities)
    expected = -(RATIOS * ADVANTAGES)[:, None] * (np.float32([1, 0]) - NEW) / 4
    np.testing.assert_allclose(jax.grad(loss)(jnp.log(NEW)), expected, rtol=1e-5)


def test_what_the_policy_term_measures() -> None:
    term, rows = policy("clipped"), batch()
    loss, computed = term.loss(seen(), rows)
    measured = term.measure(computed, rows)
    log_ratio = np.log(RATIOS)
    assert {name: x.reduce for name, x in measured.items()} == {
        "loss/policy": "mean",
        "policy/approx_kl": "mean",
        "policy/clip_fraction": "mean",
        "policy/ratio_max": "max",
    }
    assert measured["loss/policy"].value == loss
    kl = np.mean(RATIOS - 1 - log_ratio)
    np.testing.assert_allclose(measured["policy/approx_kl"].value, kl, rtol=1e-5)
    np.testing.assert_allclose(term.kl(computed, rows), kl, rtol=1e-5)
    np.testing.assert_allclose(measured["policy/clip_fraction"].value, 0.5)
    np.testing.assert_allclose(measured["policy/ratio_max"].value, 1.5, rtol=1e-6)


def test_rows_of_weight_zero_are_in_no_measure_of_the_policy_term() -> None:
    term, rows = policy("clipped"), batch(weights=jnp.float32([0, 1, 1, 1]))
    spoilt = rows._replace(old_log_probs=rows.old_log_probs.at[0].set(-50.0))
    (_, ours), (_, theirs) = (term.loss(seen(), x) for x in (rows, spoilt))
    measured = term.measure(theirs, spoilt)
    kl = (0.5 - 1 - np.log(0.5)) / 3
    expected = {"policy/approx_kl": kl, "policy/clip_fraction": 1 / 3, "policy/ratio_max": 1.0}
    for name, x in expected.items():
        np.testing.assert_allclose(measured[name].value, x, rtol=1e-5)
    assert measured["loss/policy"].value == term.measure(ours, rows)["loss/policy"].value
    assert term.kl(theirs, spoilt) == measured["policy/approx_kl"].value


@pytest.mark.parametrize(("clip_epsilon", "share"), [(0.6, 0.0), (0.45, 0.5), (np.inf, 0.5)])
def test_the_share_of_clipped_rows_is_that_of_the_usual_clip_where_nothing_is_clipped(
    clip_epsilon: float, share: float
) -> None:
    term, rows = policy("clipped", clip_epsilon=clip_epsilon), batch()
    measured = term.measure(term.loss(seen(), rows)[1], rows)
    np.testing.assert_allclose(measured["policy/clip_fraction"].value, share)


def test_the_entropy_bonus_is_the_mean_entropy_negated_and_weighed() -> None:
    rows = batch(weights=jnp.float32([1, 0, 1, 1]))
    mean = (-0.75 * np.log(0.75) - 0.25 * np.log(0.25) + 2 * np.log(2)) / 3
    for coef in (0.1, -0.5):
        term = EntropyTerm(coef)
        loss, computed = term.loss(seen(), rows)
        np.testing.assert_allclose(loss, -coef * mean, rtol=1e-5)
        np.testing.assert_allclose(
            term.measure(computed, rows)["policy/entropy"].value, mean, rtol=1e-5
        )


def test_without_a_bonus_the_entropy_is_told_and_not_differentiated() -> None:
    def loss(x: jax.Array, coef: float) -> Any:
        unsteady: Any = SimpleNamespace(entropy=lambda: jnp.sqrt(x))  # its slope at 0 is infinite
        return EntropyTerm(coef).loss(seen()._replace(distribution=unsteady), batch())

    value, entropies = loss(jnp.float32([0, 1, 4, 9]), 0.0)
    assert value == 0.0
    np.testing.assert_array_equal(entropies, [0, 1, 2, 3])
    slopes = [jax.grad(lambda x, c=c: loss(x, c)[0])(jnp.zeros(4)) for c in (0.0, -1.0)]
    np.testing.assert_array_equal(slopes, [[0] * 4, [np.inf] * 4])


@pytest.mark.parametrize("coef", [1.0, 0.5, 0.0])
def test_the_value_term_is_half_the_mean_squared_error_times_its_weight(coef: float) -> None:
    # errors: 1, 0, -0.5, -4, of which the last does not count
    rows = batch(weights=jnp.float32([1, 1, 1, 0]))
    term = ValueTerm(None, coef)
    loss, computed = term.loss(seen(), rows)
    half = 0.5 * (1.0 + 0.0 + 0.25) / 3
    np.testing.assert_allclose(loss, coef * half, rtol=1e-6)
    measured = term.measure(computed, rows)
    assert list(measured) == ["loss/value"]
    np.testing.assert_allclose(measured["loss/value"].value, half, rtol=1e-6)


def test_a_clipped_value_term_is_pessimistic_about_values_far_from_the_old_ones() -> None:
    # values 2, 2, 2.5, 0 from 0, 2, 3.5, 0, at most 0.5 away: 0.5, 2, 3, 0; targets 1, 2, 3, 4
    worse = np.float32([max(1.0, 0.25), 0.0, max(0.25, 0.0), 16.0])
    np.testing.assert_allclose(loss_of(ValueTerm(0.5), batch()), 0.5 * worse.mean(), rtol=1e-6)
    near = batch(
        old_values=jnp.float32([-1.0, 2.0, 3.5, 0.0])
    )  # 2 from -1: -0.5, 1.5 off the target
    worse[0] = 2.25
    np.testing.assert_allclose(loss_of(ValueTerm(0.5), near), 0.5 * worse.mean(), rtol=1e-6)
    np.testing.assert_allclose(loss_of(ValueTerm(0.5, 0.25), near), 0.125 * worse.mean(), rtol=1e-6)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_values_that_are_normalized_are_fitted_in_units_of_their_targets(
    clip: float | None,
) -> None:
    scale = ValueScale(jnp.float32(3.0), jnp.float32(4.0), jnp.float32(1.0))
    values = np.float32([2.0, 2.0, 2.5, 0.0])
    plain = loss_of(ValueTerm(clip), batch(), seen(values))
    relative = seen((values - 3.0) / 4.0, scale=scale)
    np.testing.assert_allclose(loss_of(ValueTerm(clip), batch(), relative), plain / 16, rtol=1e-5)
    # the clip is in units of the targets' own: here it counts
    near = batch(old_values=jnp.float32([-1.0, 2.0, 3.5, 0.0]))
    plain = loss_of(ValueTerm(clip), near, seen(values))
    np.testing.assert_allclose(loss_of(ValueTerm(clip), near, relative), plain / 16, rtol=1e-5)
    assert (plain > loss_of(ValueTerm(None), near, seen(values))) == (clip is not None)


@pytest.mark.parametrize("bins", [2, 5])
def test_a_histograms_value_term_is_its_cross_entropy_times_its_weight(bins: int) -> None:
    logits = np.random.default_rng(0).normal(size=(4, bins))
    rows = batch(weights=jnp.float32([1, 1, 1, 0]))
    term = ValueTerm(None, 0.25, ValueHead(bins, 3.0))
    loss, computed = term.loss(seen(logits), rows)
    targets = F.histogram_targets(rows.targets, limit=3.0, bins=bins)
    crosses = -(targets * jax.nn.log_softmax(jnp.float32(logits))).sum(axis=-1)
    np.testing.assert_allclose(computed, crosses[:3].mean(), rtol=1e-5)
    np.testing.assert_allclose(loss, 0.25 * crosses[:3].mean(), rtol=1e-5)


def test_the_options_say_what_an_actor_minimizes() -> None:
    config = Config(surrogate="ratio", clip_epsilon=0.3, entropy_coef=0.01, min_advantage_std=0.5)
    terms = policy_terms(config)
    assert terms == (PolicyTerm("ratio", 0.3, True, 0.5), EntropyTerm(0.01))
    for scope in ("batch", "off"):
        assert not policy_terms(config.replace(advantage_normalization=scope))[0].normalize
    # without a scale of the rewards their spread says nothing
    assert policy_terms(config.replace(scale_rewards=False))[0].min_std == 0.0
    trpo = policy_terms(Config(algorithm="trpo"))
    assert trpo[0].surrogate == "ratio"
    assert policy_terms(Config())[0].surrogate == "clipped"


def test_a_loss_is_the_sum_of_its_terms_and_its_metrics_those_of_all() -> None:
    terms = (policy("clipped"), EntropyTerm(0.1), ValueTerm(None, 0.5))
    rows = batch()
    loss, computed = total_loss(terms, seen(), rows)
    np.testing.assert_allclose(loss, sum(loss_of(term, rows) for term in terms), rtol=1e-6)
    measured = measure_all(terms, computed, rows)
    one_by_one = [term.measure(term.loss(seen(), rows)[1], rows) for term in terms]
    assert sorted(measured) == sorted(name for own in one_by_one for name in own)
    for own in one_by_one:
        for name, x in own.items():
            assert isinstance(x, Measured)
            np.testing.assert_allclose(measured[name].value, x.value, rtol=1e-6)


TORSO = TorsoSpec(("o",), 3, (4,), "tanh")
SEEN = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


@functools.cache
def networks() -> ActorCritic:
    head = PolicyHead("discrete", (2,))
    actor = make_actor(
        jax.random.key(0), TORSO, head, orthogonal=True, output_scale=1.0, initial_std=1.0
    )
    return ActorCritic(None, actor, make_critic(jax.random.key(1), TORSO, orthogonal=True))


def gradient(*terms: Any) -> Any:
    rows = batch(observations={"o": jnp.asarray(SEEN)})

    def loss(params: ActorCritic) -> jax.Array:
        return total_loss(terms, forward(params, rows, jnp.float32(1)), rows)[0]

    return jax.grad(loss)(networks())


def test_policy_terms_move_the_actor_alone_and_the_value_term_the_critic_alone() -> None:
    of_policy = gradient(policy("clipped"), EntropyTerm(0.1))
    of_value = gradient(ValueTerm(None))
    for moved, still in ((of_policy.actor, of_policy.critic), (of_value.critic, of_value.actor)):
        assert all(np.any(x) for x in jax.tree.leaves(moved))
        assert not any(np.any(x) for x in jax.tree.leaves(still))


def test_the_weight_of_the_value_term_is_that_of_the_critics_gradient() -> None:
    terms = (policy("clipped"), EntropyTerm(0.1))
    one, half = gradient(*terms, ValueTerm(None)), gradient(*terms, ValueTerm(None, 0.5))
    for a, b in zip(*map(jax.tree.leaves, (one.critic, half.critic)), strict=True):
        np.testing.assert_allclose(a, 2 * b, rtol=1e-5, atol=1e-7)
    for a, b in zip(*map(jax.tree.leaves, (one.actor, half.actor)), strict=True):
        np.testing.assert_array_equal(a, b)
