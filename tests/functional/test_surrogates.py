"""Laws of the surrogate objectives (mathematics.md sec. 1)."""

from __future__ import annotations

import itertools
import math
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import extended

from surefoot.functional import (
    clipped_loss,
    kl_penalized_loss,
    policy_gradient_loss,
    ratio_loss,
    spo_loss,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # rlax imports deprecated names from jax
    import rlax

laws = settings(max_examples=30)
seeds = st.integers(0, 2**32 - 1)

RATIO_LOSSES = {
    "ratio": ratio_loss,
    "clipped": clipped_loss,
    "spo": spo_loss,
    "kl_penalized": partial(kl_penalized_loss, beta=0.7),
}
# All with the arguments of a ratio loss, so that one law can be told of each.
LOSSES = RATIO_LOSSES | {
    "policy_gradient": lambda new, old, advantages, **kw: policy_gradient_loss(
        new, advantages, **kw
    ),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
every_ratio_loss = pytest.mark.parametrize("loss", RATIO_LOSSES.values(), ids=RATIO_LOSSES.keys())


def random_batch(seed, shape=(6,)):
    rng = np.random.default_rng(seed)
    new, old, advantages = rng.normal(size=(3, *shape)).astype(np.float32)
    return new, old, advantages


# Literals -------------------------------------------------------------------------------------


def test_policy_gradient_loss_by_hand():
    assert policy_gradient_loss(np.array([-1.0, -2.0]), np.array([3.0, -0.5])) == 1.0


def test_ratio_loss_by_hand():
    new, old = np.log([0.5, 0.2]), np.log([0.25, 0.4])  # ratios 2 and 1/2
    np.testing.assert_allclose(ratio_loss(new, old, np.array([3.0, -4.0])), -2.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective"),
    [
        (1.5, 2.0, 2.4),  # A > 0: bounded from above
        (0.5, 2.0, 1.0),  # A > 0, r too small: not bounded
        (1.5, -2.0, -3.0),  # A < 0, r too large: not bounded
        (0.5, -2.0, -1.6),  # A < 0: bounded from below
        (1.1, 2.0, 2.2),
        (0.9, -2.0, -1.8),
    ],
)
def test_clipped_loss_by_hand(ratio, advantage, objective):
    loss = clipped_loss([math.log(ratio)], [0.0], [advantage], clip_epsilon=0.2)
    np.testing.assert_allclose(loss, -objective, rtol=1e-6)


def test_clip_epsilon_defaults_to_the_papers():
    assert clipped_loss([1.0], [0.0], [1.0]) == clipped_loss([1.0], [0.0], [1.0], clip_epsilon=0.2)


def test_kl_penalized_loss_by_hand():
    log_two = [math.log(2.0)]
    np.testing.assert_allclose(
        kl_penalized_loss(log_two, [0.0], [3.0], beta=0.5, kl=[4.0]), -(6.0 - 2.0), rtol=1e-6
    )
    k3 = 2.0 - 1.0 - math.log(2.0)
    np.testing.assert_allclose(
        kl_penalized_loss(log_two, [0.0], [3.0], beta=0.5), -(6.0 - 0.5 * k3), rtol=1e-6
    )


def test_spo_loss_by_hand():
    # r A = 3 and -2; |A| / (2 eps) = 5 and 10; (r - 1)^2 = 1/4 each
    loss = spo_loss(np.log([1.5, 0.5]), [0.0, 0.0], [2.0, -4.0], clip_epsilon=0.2)
    np.testing.assert_allclose(loss, -((3.0 - 1.25) + (-2.0 - 2.5)) / 2, rtol=1e-6)
    assert spo_loss([1.0], [0.0], [1.0]) == spo_loss([1.0], [0.0], [1.0], clip_epsilon=0.2)


# Gradient laws --------------------------------------------------------------------------------


@jax.jit
def surrogate_gradients(theta, old_logits, actions, advantages):
    def log_probs(logits):
        return jnp.take_along_axis(jax.nn.log_softmax(logits), actions[:, None], axis=1)[:, 0]

    old = log_probs(old_logits)
    losses = (
        lambda new: policy_gradient_loss(new, advantages),
        lambda new: ratio_loss(new, old, advantages),
        lambda new: clipped_loss(new, old, advantages),
        lambda new: spo_loss(new, old, advantages),
    )
    return [jax.grad(lambda t, loss=loss: loss(log_probs(t)))(theta) for loss in losses]


def gradients(seed, drift):
    """Gradients of the four surrogates for a softmax policy `drift` away from the old one."""
    rng = np.random.default_rng(seed)
    old_logits, direction = rng.normal(size=(2, 8, 4)).astype(np.float32)
    theta = old_logits + np.float32(drift) * direction
    actions, advantages = rng.integers(4, size=8, dtype=np.int32), rng.normal(size=8)
    return surrogate_gradients(theta, old_logits, actions, advantages.astype(np.float32))


@laws
@given(seed=seeds)
def test_surrogates_have_one_gradient_at_the_old_policy(seed):
    policy_gradient, *others = gradients(seed, drift=0.0)
    for other in others:
        np.testing.assert_allclose(other, policy_gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_surrogates_differ_away_from_the_old_policy(seed):
    for one, other in itertools.combinations(gradients(seed, drift=1.0), 2):
        assert not np.allclose(one, other, rtol=1e-3, atol=1e-6)


@laws
@given(
    log_ratio=st.floats(-3.0, 3.0, width=32).filter(lambda x: abs(x) > 1e-3),
    advantage=st.floats(0.1, 5.0),
    positive=st.booleans(),
    epsilon=st.sampled_from([0.05, 0.2, 0.5]),
)
def test_the_four_cases_of_clipping(log_ratio, advantage, positive, epsilon):
    ratio, advantage = math.exp(log_ratio), advantage if positive else -advantage
    gradient = jax.grad(lambda new: clipped_loss(new, 0.0, advantage, clip_epsilon=epsilon))(
        log_ratio
    )
    if (positive and ratio > 1 + epsilon) or (not positive and ratio < 1 - epsilon):
        assert gradient == 0.0
    else:  # survives, unclipped, and pulls back where out of range
        np.testing.assert_allclose(gradient, -ratio * advantage, rtol=1e-5)


@laws
@given(
    log_ratio=st.floats(-1.0, 1.0, width=32),
    advantage=st.floats(0.1, 5.0),
    positive=st.booleans(),
    epsilon=st.sampled_from([0.05, 0.2, 0.5]),
)
def test_spo_draws_the_ratio_to_the_edge_and_back(log_ratio, advantage, positive, epsilon):
    """d(objective)/d(log r) = r (A - |A| / eps (r - 1)): zero at r = 1 + eps sign(A) alone."""
    advantage = advantage if positive else -advantage
    ratio, edge = math.exp(log_ratio), 1 + epsilon * math.copysign(1, advantage)
    gradient = jax.grad(lambda new: -spo_loss(new, 0.0, advantage, clip_epsilon=epsilon))
    pull = ratio * abs(advantage) / epsilon * (edge - ratio)
    np.testing.assert_allclose(gradient(log_ratio), pull, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient(math.log(edge)), 0.0, atol=2e-5 * abs(advantage) / epsilon)


def test_a_clipped_sample_has_no_gradient_even_where_its_ratio_overflows():
    value, gradient = jax.value_and_grad(clipped_loss)(jnp.array([200.0]), [0.0], [1.0])
    np.testing.assert_allclose(value, -1.2, rtol=1e-6)
    assert gradient == 0.0


@every_ratio_loss
def test_gradient_flows_through_log_probs_only(loss):
    new, old, advantages = (jnp.asarray(x) for x in random_batch(0))
    by_new, by_old, by_advantage = jax.grad(loss, argnums=(0, 1, 2))(new, old, advantages)
    assert np.any(by_new != 0.0)
    assert not np.any(by_old)
    assert not np.any(by_advantage)
    by_weights = jax.grad(lambda w: loss(new, old, advantages, weights=w))(jnp.ones(6))
    assert not np.any(by_weights)


def test_no_gradient_through_the_advantages_of_the_policy_gradient_or_the_hyper_parameters():
    new, old, advantages = (jnp.asarray(x) for x in random_batch(0))
    assert not np.any(jax.grad(policy_gradient_loss, argnums=1)(new, advantages))
    assert jax.grad(lambda e: clipped_loss(new, old, advantages, clip_epsilon=e))(0.2) == 0.0
    assert jax.grad(lambda e: spo_loss(new, old, advantages, clip_epsilon=e))(0.2) == 0.0
    assert jax.grad(lambda b: kl_penalized_loss(new, old, advantages, beta=b))(0.2) == 0.0


def test_gradient_flows_through_a_kl_that_is_given():
    gradient = jax.grad(lambda kl: kl_penalized_loss([0.0, 0], [0.0, 0], [1.0, 1], beta=3.0, kl=kl))
    np.testing.assert_array_equal(gradient(jnp.array([1.0, 2.0])), [1.5, 1.5])


# Identities -----------------------------------------------------------------------------------


@laws
@given(seed=seeds, epsilon=st.sampled_from([0.0, 0.1, 0.2, 1.0, 2.0]))
def test_clipped_objective_is_a_lower_bound_sample_by_sample(seed, epsilon):
    for new, old, advantage in zip(*random_batch(seed, (4,)), strict=True):
        clipped = clipped_loss(new, old, advantage, clip_epsilon=epsilon)
        assert -clipped <= -ratio_loss(new, old, advantage)


@laws
@given(seed=seeds)
def test_clipping_at_infinity_is_the_ratio_loss(seed):
    new, old, advantages = random_batch(seed)
    expected, expected_gradient = jax.value_and_grad(ratio_loss)(jnp.asarray(new), old, advantages)
    for loss in (clipped_loss, spo_loss):
        bounded = jax.value_and_grad(partial(loss, clip_epsilon=math.inf))
        value, gradient = bounded(jnp.asarray(new), old, advantages)
        assert value == expected
        np.testing.assert_array_equal(gradient, expected_gradient)


@laws
@given(seed=seeds)
def test_at_ratio_one_every_ratio_loss_is_minus_the_mean_advantage(seed):
    log_probs, _, advantages = random_batch(seed)
    for loss in RATIO_LOSSES.values():
        np.testing.assert_allclose(
            loss(log_probs, log_probs, advantages), -advantages.mean(), rtol=1e-5, atol=1e-6
        )


@laws
@given(seed=seeds)
def test_importance_sampling_by_enumeration(seed):
    """E_{a ~ pi_theta}[A] = E_{a ~ pi_old}[r * A], weighting every action by pi_old."""
    rng = np.random.default_rng(seed)
    new, old = np.asarray(jax.nn.log_softmax(rng.normal(size=(2, 5)).astype(np.float32)))
    advantages = rng.normal(size=5)
    expected = np.sum(np.exp(new) * advantages)
    estimated = -ratio_loss(new, old, advantages, weights=np.exp(old))
    np.testing.assert_allclose(estimated, expected, rtol=1e-4, atol=1e-5)
    # and the k3 penalty is the KL in expectation over pi_old
    kl = np.sum(np.exp(old) * (old - new))
    penalized = kl_penalized_loss(new, old, advantages, beta=1.0, weights=np.exp(old))
    np.testing.assert_allclose(penalized, kl - expected, rtol=1e-4, atol=1e-5)


@laws
@given(seed=seeds)
def test_clipped_loss_agrees_with_rlax(seed):
    new, old, advantages = random_batch(seed)
    with jax.numpy_dtype_promotion("standard"):
        expected = rlax.clipped_surrogate_pg_loss(jnp.exp(new - old), jnp.asarray(advantages), 0.2)
    np.testing.assert_allclose(clipped_loss(new, old, advantages), expected, rtol=1e-5, atol=1e-6)


# The mask -------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e9])
def test_rows_of_weight_zero_influence_nothing(loss, poison):
    weights = np.array([True, False, True, True, False, True])

    def run(filler):
        new, old, advantages = (np.where(weights, x, filler) for x in random_batch(1))
        return jax.value_and_grad(loss)(
            jnp.asarray(new, jnp.float32), old, advantages, weights=weights
        )

    value, gradient = run(poison)
    expected, expected_gradient = run(0.0)
    assert value == expected
    np.testing.assert_array_equal(gradient, expected_gradient)
    assert not np.any(gradient[~weights])


def test_rows_of_weight_zero_of_a_given_kl_influence_nothing():
    def loss(kl):
        return kl_penalized_loss([0.0, 0], [0.0, 0], [1.0, 1], beta=2.0, kl=kl, weights=[1.0, 0])

    value, gradient = jax.value_and_grad(loss)(jnp.array([3.0, np.nan]))
    assert value == 5.0
    np.testing.assert_array_equal(gradient, [2.0, 0.0])


@every_loss
def test_appending_padding_does_not_change_the_loss(loss):
    batch = random_batch(2)
    padded = (np.concatenate([x, np.full(10, 7.0)]) for x in batch)
    weights = np.arange(16) < 6
    np.testing.assert_allclose(loss(*padded, weights=weights), loss(*batch), rtol=1e-6)


@every_loss
def test_weights_weigh(loss):
    new, old, advantages = random_batch(3, (2,))
    each = [loss(new[i], old[i], advantages[i]) for i in range(2)]
    both = loss(new, old, advantages, weights=np.array([3.0, 1.0]))
    np.testing.assert_allclose(both, (3.0 * each[0] + each[1]) / 4.0, rtol=1e-5)


@every_loss
def test_a_batch_without_valid_rows_has_loss_and_gradient_zero(loss):
    new, old, advantages = random_batch(4)
    value, gradient = jax.value_and_grad(loss)(
        jnp.asarray(new), old, advantages, weights=np.zeros(6)
    )
    assert value == 0.0
    assert not np.any(gradient)


# Contract -------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("x64", [extended(False), True])
def test_float32_scalar_under_any_setting_and_jit(loss, x64):
    batch = random_batch(5, (2, 3))
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        expected = loss(*batch)
        doubles = (x.astype(np.float64) for x in batch)
        jitted = jax.jit(loss)(*doubles, weights=np.ones((2, 3), dtype=bool))
        gradient = jax.grad(loss)(*(jnp.asarray(x) for x in batch))
    assert expected.dtype == jitted.dtype == gradient.dtype == np.float32
    assert expected.shape == jitted.shape == ()
    np.testing.assert_allclose(jitted, expected, rtol=1e-5)


@every_loss
def test_shape_mismatch_names_both_shapes(loss):
    with pytest.raises(ValueError, match=r"\(3, 1\).*\(3,\)"):
        loss(np.zeros(3), np.zeros(3), np.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"weights.*\(4,\).*\(3,\)"):
        loss(np.zeros(3), np.zeros(3), np.zeros(3), weights=np.ones(4))


def test_wrong_hyper_parameters_are_refused_with_the_number():
    with pytest.raises(ValueError, match=r"clip_epsilon must be positive, got 0"):
        spo_loss([0.0], [0.0], [1.0], clip_epsilon=0.0)
    with pytest.raises(ValueError, match=r"clip_epsilon.*-0\.1"):
        clipped_loss([0.0], [0.0], [1.0], clip_epsilon=-0.1)
    with pytest.raises(ValueError, match=r"beta.*-2"):
        kl_penalized_loss([0.0], [0.0], [1.0], beta=-2)
    with pytest.raises(ValueError, match=r"kl.*\(2,\).*\(1,\)"):
        kl_penalized_loss([0.0], [0.0], [1.0], beta=1, kl=[0.0, 0.0])
