"""Laws of the advantage estimators (mathematics.md sec. 2)."""

from __future__ import annotations

import math
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import extended, few

from surefoot.functional import (
    gae,
    monte_carlo_advantages,
    normalize_advantages,
    reward_to_go,
    td_residuals,
    trajectory_returns,
    vtrace_advantages,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # rlax imports deprecated names from jax
    import rlax

laws = settings(max_examples=30)
seeds = st.integers(0, 2**32 - 1)
lengths = st.sampled_from([1, 2, 3, 9])
GAMMA, LAMBDA = 0.9, 0.8
KEYS = ("rewards", "values", "next_values", "terminated", "truncated")


def vtrace(*args, gamma=GAMMA, weights=None, **options):
    """V-trace whose log-probabilities are functions of the rewards, to share the others' tests."""
    return vtrace_advantages(
        *args,
        gamma=gamma,
        gae_lambda=LAMBDA,
        log_probs=jnp.sin(args[0]),
        old_log_probs=jnp.cos(args[1]),
        weights=weights,
        **({"rho_bar": 1.3, "c_bar": 1.1} | options),
    )


ESTIMATORS = {
    "trajectory_returns": partial(trajectory_returns, gamma=GAMMA),
    "reward_to_go": partial(reward_to_go, gamma=GAMMA),
    "monte_carlo_advantages": partial(monte_carlo_advantages, gamma=GAMMA),
    "td_residuals": partial(td_residuals, gamma=GAMMA),
    "gae": partial(gae, gamma=GAMMA, gae_lambda=LAMBDA),
    "vtrace_advantages": vtrace,
}
every_estimator = pytest.mark.parametrize("name", ESTIMATORS)
some_estimators = pytest.mark.parametrize("name", few(2, ESTIMATORS))


def random_rollout(seed, num_steps=9, num_envs=3):
    """Random flags, both at once included; reset rows after most ends, other invalid rows too."""
    rng = np.random.default_rng(seed)
    shape = (num_steps, num_envs)
    rewards, values, next_values = rng.normal(size=(3, *shape)).astype(np.float32)
    terminated, truncated = rng.random((2, *shape)) < 0.25
    ended = terminated | truncated
    invalid = rng.random(shape) < 0.1
    invalid[1:] |= ended[:-1] & ~invalid[:-1] & (rng.random((num_steps - 1, num_envs)) < 0.8)
    return (rewards, values, next_values, terminated, truncated), ~invalid


def trajectories(terminated, truncated, valid):
    """Yield (rows, env) of each maximal run of valid rows inside one episode."""
    for env in range(valid.shape[1]):
        rows = []
        for t in range(len(valid)):
            if valid[t, env]:
                rows.append(t)
            if rows and (not valid[t, env] or terminated[t, env] or truncated[t, env]):
                yield rows, env
                rows = []
        if rows:
            yield rows, env


def slow(name, rewards, values, next_values, terminated, _truncated):
    """Estimates for one trajectory of K steps, by the explicit sums, in double precision."""
    num = len(rewards)
    bootstrap = [0.0 if terminated[t] else float(next_values[t]) for t in range(num)]
    deltas = [rewards[t] + GAMMA * bootstrap[t] - values[t] for t in range(num)]
    to_go = [
        sum(GAMMA ** (k - t) * rewards[k] for k in range(t, num))
        + GAMMA ** (num - t) * bootstrap[-1]
        for t in range(num)
    ]
    ratios = np.exp(np.sin(rewards) - np.cos(values))
    rho, c = np.minimum(1.3, ratios), LAMBDA * np.minimum(1.1, ratios)
    return {
        "trajectory_returns": [to_go[0]] * num,
        "reward_to_go": to_go,
        "monte_carlo_advantages": [g - v for g, v in zip(to_go, values, strict=True)],
        "td_residuals": deltas,
        "gae": [
            sum((GAMMA * LAMBDA) ** (k - t) * deltas[k] for k in range(t, num)) for t in range(num)
        ],
        "vtrace_advantages": [
            sum(GAMMA ** (k - t) * math.prod(c[t:k]) * rho[k] * deltas[k] for k in range(t, num))
            for t in range(num)
        ],
    }[name]


def column(*values):
    return np.array(values, dtype=np.float32)[:, None]


# Literals -------------------------------------------------------------------------------------

STEPS = column(1, 2, 3), column(0.5, 0.4, 0.3), column(0.4, 0.3, 0.2)
NEVER, LAST = column(0, 0, 0).astype(bool), column(0, 0, 1).astype(bool)


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        (LAST, NEVER, [3.60608, 3.814, 2.7]),
        (NEVER, LAST, [3.699392, 3.9436, 2.88]),
        (NEVER, NEVER, [3.699392, 3.9436, 2.88]),  # the end of the rollout
        (LAST, LAST, [3.60608, 3.814, 2.7]),  # both: terminated
    ],
)
def test_three_steps_of_gae_by_hand(terminated, truncated, expected):
    advantages = gae(*STEPS, terminated, truncated, gamma=0.9, gae_lambda=0.8)
    np.testing.assert_allclose(advantages[:, 0], expected, rtol=1e-6)


def test_gae_lambda_defaults_to_the_papers():
    expected = gae(*STEPS, NEVER, NEVER, gamma=0.9, gae_lambda=0.95)
    np.testing.assert_array_equal(gae(*STEPS, NEVER, NEVER, gamma=0.9), expected)


def test_returns_by_hand():
    steps = column(1, 2, 4), column(1, 1, 1), column(1, 1, 8)
    for terminated, expected in ((NEVER, [4, 6, 8]), (LAST, [3, 4, 4])):
        flags = terminated, NEVER
        to_go = reward_to_go(*steps, *flags, gamma=0.5)
        np.testing.assert_array_equal(to_go[:, 0], expected)
        np.testing.assert_array_equal(
            monte_carlo_advantages(*steps, *flags, gamma=0.5)[:, 0], np.subtract(expected, 1)
        )
        whole = trajectory_returns(*steps, *flags, gamma=0.5)
        np.testing.assert_array_equal(whole[:, 0], [expected[0]] * 3)


def test_vtrace_by_hand():
    """Ratios 2, 1/2, 1; the TD residuals are 0.86, 1.87, 2.7."""
    run = partial(
        vtrace_advantages,
        *STEPS,
        LAST,
        NEVER,
        gamma=0.9,
        log_probs=np.log(column(2, 0.5, 1)),
        old_log_probs=column(0, 0, 0),
    )
    np.testing.assert_allclose(run()[:, 0], [2.795, 2.15, 2.7], rtol=1e-6)
    np.testing.assert_allclose(run(rho_bar=1.5, c_bar=1.2)[:, 0], [3.612, 2.15, 2.7], rtol=1e-6)
    unbounded = run(rho_bar=math.inf, c_bar=math.inf)
    np.testing.assert_allclose(unbounded[:, 0], [1.72 + 1.8 * 2.15, 2.15, 2.7], rtol=1e-6)


def test_an_episode_boundary_with_its_reset_row_by_hand():
    """Truncated at row 1 with V(last observation) = 10; row 2 is the reset row."""
    args = (
        column(1, 2, np.nan, 4),
        column(0, 0, 1e9, 0),
        column(0, 10, np.inf, 100),
        column(0, 0, 1, 1).astype(bool),
        column(0, 1, 1, 0).astype(bool),
    )
    weights = column(1, 1, 0, 1)
    to_go = reward_to_go(*args, gamma=0.5, weights=weights)
    np.testing.assert_array_equal(to_go[:, 0], [4.5, 7, 0, 4])
    whole = trajectory_returns(*args, gamma=0.5, weights=weights)
    np.testing.assert_array_equal(whole[:, 0], [4.5, 4.5, 0, 4])
    residuals = td_residuals(*args, gamma=0.5, weights=weights)
    np.testing.assert_array_equal(residuals[:, 0], [1, 7, 0, 4])
    np.testing.assert_array_equal(
        gae(*args, gamma=0.5, gae_lambda=0.5, weights=weights)[:, 0], [2.75, 7, 0, 4]
    )


def test_a_large_last_reward_is_counted_once_and_bootstrapped_with_the_last_observation():
    rewards, values, next_values = column(0, 1000), column(1, 2), column(2, 500)
    flags = column(0, 0).astype(bool), column(0, 1).astype(bool)
    to_go = reward_to_go(rewards, values, next_values, *flags, gamma=0.5)
    np.testing.assert_array_equal(to_go[:, 0], [625, 1250])


# Oracles --------------------------------------------------------------------------------------


@some_estimators
@laws
@given(seed=seeds, num_steps=lengths)
def test_agrees_with_the_explicit_sums_trajectory_by_trajectory(name, seed, num_steps):
    args, valid = random_rollout(seed, num_steps)
    expected = np.zeros(valid.shape)
    for rows, env in trajectories(*args[3:], valid):
        expected[rows, env] = slow(name, *(x[rows, env].astype(float) for x in args))
    actual = ESTIMATORS[name](*args, weights=valid)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@some_estimators
def test_a_rollout_is_its_trajectories_put_one_after_the_other(name):
    for seed in range(3):
        args, valid = random_rollout(seed, num_steps=6)
        together = ESTIMATORS[name](*args, weights=valid)
        for rows, env in trajectories(*args[3:], valid):
            alone = ESTIMATORS[name](*(x[rows, env][:, None] for x in args))
            np.testing.assert_allclose(together[rows, env], alone[:, 0], rtol=1e-6, atol=1e-7)


@laws
@given(seed=seeds, num_steps=lengths, gae_lambda=st.sampled_from([0.0, 0.7, 1.0]))
def test_gae_agrees_with_rlax(seed, num_steps, gae_lambda):
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=num_steps).astype(np.float32)
    values = rng.normal(size=num_steps + 1).astype(np.float32)
    terminated = rng.random(num_steps) < 0.3
    steps = (x[:, None] for x in (rewards, values[:-1], values[1:], terminated, terminated & False))
    actual = gae(*steps, gamma=GAMMA, gae_lambda=gae_lambda)[:, 0]
    discounts = np.float32(GAMMA) * ~terminated
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.jit(rlax.truncated_generalized_advantage_estimation)(
            jnp.asarray(rewards), jnp.asarray(discounts), gae_lambda, jnp.asarray(values)
        )
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@laws
@given(seed=seeds, num_steps=lengths, rho_bar=st.sampled_from([0.8, 1.0, 2.0]))
def test_vtrace_agrees_with_rlax(seed, num_steps, rho_bar):
    args, _ = random_rollout(seed, num_steps, num_envs=1)
    actual = vtrace(*args, rho_bar=rho_bar, c_bar=1.0)[:, 0]
    rewards, values, next_values, terminated, truncated = (jnp.asarray(x[:, 0]) for x in args)
    discounts = jnp.where(terminated, 0.0, GAMMA)
    lambdas = jnp.where(truncated, 0.0, LAMBDA)  # a truncation stops the recursion only
    ratios = jnp.exp(jnp.sin(rewards) - jnp.cos(values))
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.jit(rlax.vtrace, static_argnums=7)(
            values, next_values, rewards, discounts, ratios, lambdas, rho_bar, False
        )
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


# Identities -----------------------------------------------------------------------------------


@laws
@given(seed=seeds, num_steps=lengths)
def test_the_two_ends_of_lambda(seed, num_steps):
    args, valid = random_rollout(seed, num_steps)
    run = partial(gae, *args, gamma=GAMMA, weights=valid)
    np.testing.assert_array_equal(
        run(gae_lambda=0.0), td_residuals(*args, gamma=GAMMA, weights=valid)
    )
    monte_carlo = monte_carlo_advantages(*args, gamma=GAMMA, weights=valid)
    np.testing.assert_array_equal(
        monte_carlo,
        np.where(valid, reward_to_go(*args, gamma=GAMMA, weights=valid) - args[1], 0.0),
    )
    # Equal only where the critic is: lambda = 1 telescopes V'_t against V(s_{t+1}).
    consistent = list(args)
    consistent[2] = np.concatenate([args[1][1:], args[2][-1:]])
    run = partial(gae, *consistent, gamma=GAMMA, weights=valid)
    monte_carlo = monte_carlo_advantages(*consistent, gamma=GAMMA, weights=valid)
    np.testing.assert_allclose(run(gae_lambda=1.0), monte_carlo, rtol=1e-4, atol=1e-5)


@laws
@given(seed=seeds)
def test_without_a_future_only_the_reward_counts(seed):
    args, valid = random_rollout(seed)
    rewards = np.where(valid, args[0], 0.0)
    np.testing.assert_array_equal(reward_to_go(*args, gamma=0.0, weights=valid), rewards)
    baselined = np.where(valid, args[0] - args[1], 0.0)
    np.testing.assert_array_equal(gae(*args, gamma=0.0, weights=valid), baselined)


@laws
@given(seed=seeds)
def test_vtrace_on_policy_is_gae(seed):
    args, valid = random_rollout(seed)
    log_probs = np.sin(args[0])
    actual = vtrace_advantages(
        *args,
        gamma=GAMMA,
        gae_lambda=LAMBDA,
        log_probs=log_probs,
        old_log_probs=log_probs,
        weights=valid,
    )
    expected = ESTIMATORS["gae"](*args, weights=valid)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_vtrace_with_equal_bounds_is_the_policy_gradient_advantage_of_the_paper():
    rng = np.random.default_rng(0)
    rewards, log_probs, old_log_probs = rng.normal(size=(3, 5, 2)).astype(np.float32)
    values = rng.normal(size=(6, 2)).astype(np.float32)
    steps = rewards, values[:-1], values[1:], rewards > 9, rewards > 9
    ratios = {"log_probs": log_probs, "old_log_probs": old_log_probs}
    actual = vtrace_advantages(*steps, gamma=GAMMA, **ratios)
    targets = np.concatenate([actual + values[:-1], values[-1:]])
    rho = np.minimum(1.0, np.exp(log_probs - old_log_probs))
    expected = rho * (rewards + GAMMA * targets[1:] - values[:-1])
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@every_estimator
@laws
@given(seed=seeds)
def test_permuting_the_environments_permutes_the_result(name, seed):
    args, valid = random_rollout(seed)
    order = np.random.default_rng(seed).permutation(3)
    permuted = ESTIMATORS[name](*(x[:, order] for x in args), weights=valid[:, order])
    np.testing.assert_array_equal(permuted, ESTIMATORS[name](*args, weights=valid)[:, order])


# The mask -------------------------------------------------------------------------------------


@every_estimator
@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e9])
def test_rows_of_weight_zero_influence_nothing(name, poison):
    for seed in range(5):
        args, valid = random_rollout(seed)
        run = partial(ESTIMATORS[name], weights=valid)
        poisoned = run(*(np.where(valid, x, poison) for x in args))
        clean = run(*(np.where(valid, x, 0.0) for x in args))
        np.testing.assert_array_equal(poisoned, clean)
        assert not np.any(poisoned[~valid])


@every_estimator
def test_a_nan_of_one_episode_stays_in_it(name):
    rewards = column(1, 2, np.nan, 3)
    flags = column(0, 1, 0, 0).astype(bool), column(0, 0, 0, 0).astype(bool)
    result = ESTIMATORS[name](rewards, rewards * 0 + 1, column(1, 1, 1, 1), *flags)
    assert np.all(np.isfinite(result[:2]))
    assert np.isnan(result[2, 0])


@every_estimator
def test_no_gradient_flows(name):
    args, valid = random_rollout(0)

    def total(*floats):
        return ESTIMATORS[name](*floats, *args[3:], weights=valid).sum()

    for gradient in jax.grad(total, argnums=(0, 1, 2))(*(jnp.asarray(x) for x in args[:3])):
        assert not np.any(gradient)


# Contract -------------------------------------------------------------------------------------


@every_estimator
@pytest.mark.parametrize("x64", [extended(False), True])
def test_float32_under_any_setting_and_jit(name, x64):
    args, valid = random_rollout(1)
    expected = ESTIMATORS[name](*args, weights=valid)
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        plain = ESTIMATORS[name](*args, weights=valid)
        doubles = (x.astype(np.float64) for x in args)
        jitted = jax.jit(ESTIMATORS[name])(*doubles, weights=valid)
    assert plain.dtype == jitted.dtype == np.float32
    assert plain.shape == jitted.shape == valid.shape
    np.testing.assert_allclose(plain, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(jitted, expected, rtol=1e-5, atol=1e-6)


@every_estimator
@pytest.mark.parametrize("position", range(1, 5))
def test_shape_mismatch_names_both_shapes(name, position):
    args = [np.zeros((4, 2)) for _ in KEYS]
    args[position] = np.zeros((4, 3))
    with pytest.raises(ValueError, match=rf"{KEYS[position]}.*\(4, 3\).*\(4, 2\)"):
        ESTIMATORS[name](*args)


@every_estimator
def test_wrong_arguments_are_refused(name):
    args = [np.zeros((4, 2)) for _ in KEYS]
    for gamma in (-0.1, 1.5, np.float64(1.5), math.nan):
        with pytest.raises(ValueError, match=f"gamma.*{gamma}"):
            ESTIMATORS[name](*args, gamma=gamma)
    with pytest.raises(ValueError, match=r"weights.*\(4,\).*\(4, 2\)"):
        ESTIMATORS[name](*args, weights=np.ones(4))
    with pytest.raises(ValueError, match=r"\[T, N\].*\(4,\)"):
        ESTIMATORS[name](*(np.zeros(4) for _ in KEYS))


def test_wrong_hyper_parameters_are_refused_with_the_number():
    args = [np.zeros((4, 2)) for _ in KEYS]
    with pytest.raises(ValueError, match=r"gae_lambda.*1\.1"):
        gae(*args, gamma=0.9, gae_lambda=1.1)
    off_policy = partial(vtrace_advantages, *args, gamma=0.9, old_log_probs=args[0])
    for option, value in (("gae_lambda", -0.5), ("rho_bar", -1.0), ("c_bar", -2.0)):
        with pytest.raises(ValueError, match=f"{option}.*{value}"):
            off_policy(log_probs=args[0], **{option: value})
    with pytest.raises(ValueError, match=r"log_probs.*\(4,\).*\(4, 2\)"):
        off_policy(log_probs=np.zeros(4))
    with pytest.raises(ValueError, match=r"epsilon.*0"):
        normalize_advantages([1.0, 2.0], epsilon=0.0)


# Normalization --------------------------------------------------------------------------------


def test_normalize_advantages_by_hand():
    actual = normalize_advantages(np.array([1.0, 7.0, np.nan, 4.0, 4.0]), weights=[1, 1, 0, 1, 1])
    expected = np.array([-3.0, 3.0, 0.0, 0.0, 0.0]) / math.sqrt(4.5)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    np.testing.assert_allclose(normalize_advantages([1.0, 3.0], epsilon=1.0), [-0.5, 0.5])
    # a spread of 1 is left below a least spread of 4, and met above one of 0.5
    np.testing.assert_allclose(normalize_advantages([1.0, 3.0], min_std=4.0), [-0.25, 0.25])
    np.testing.assert_allclose(normalize_advantages([1.0, 3.0], min_std=0.5), [-1.0, 1.0])


@laws
@given(value=st.floats(-1e6, 1e6, width=32), count=st.integers(1, 5), padding=st.integers(0, 2))
def test_equal_advantages_become_exactly_zero(value, count, padding):
    advantages = [np.nan] * padding + [value] * count
    weights = [0.0] * padding + [1.0] * count
    assert not np.any(normalize_advantages(np.array(advantages), weights=weights))


@laws
@given(seed=seeds)
def test_normalized_advantages_have_mean_zero_and_deviation_one(seed):
    args, valid = random_rollout(seed)
    valid[:2, 0] = True
    normalized = np.asarray(normalize_advantages(100.0 + args[0], weights=valid))[valid]
    np.testing.assert_allclose([normalized.mean(), normalized.std()], [0.0, 1.0], atol=1e-4)


def test_normalize_advantages_carries_no_gradient_and_survives_an_empty_mask():
    gradient = jax.grad(lambda a: jnp.sum(normalize_advantages(a) ** 2))(jnp.array([1.0, 2.0, 5.0]))
    assert not np.any(gradient)
    assert not np.any(normalize_advantages([1.0, 2.0], weights=[0.0, 0.0]))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        assert normalize_advantages(np.ones((2, 3))).dtype == np.float32


@pytest.mark.parametrize("name", ["gae_lambda", "rho_bar", "c_bar", "gamma"])
def test_bounds_of_v_trace(name):
    zeros = np.zeros((3, 2), np.float32)
    options = {"gamma": 1.0, "gae_lambda": 1.0, "rho_bar": 1.0, "c_bar": 1.0}
    call = partial(vtrace_advantages, *[zeros] * 5, log_probs=zeros, old_log_probs=zeros)
    for allowed in (0.0, 1.0):
        call(**options | {name: allowed})
    with pytest.raises(ValueError, match=name):
        call(**options | {name: -0.1})
    if name in ("gamma", "gae_lambda"):
        with pytest.raises(ValueError, match=name):
            call(**options | {name: 1.5})


def test_no_gradient_reaches_the_discounts():
    rng = np.random.default_rng(0)
    rewards, values, next_values = rng.normal(size=(3, 5, 2)).astype(np.float32)
    ends = np.zeros((5, 2), bool)

    def total(gamma, gae_lambda):
        estimates = gae(
            rewards, values, next_values, ends, ends, gamma=gamma, gae_lambda=gae_lambda
        )
        return jnp.sum(estimates)

    assert jax.grad(total, argnums=(0, 1))(0.9, 0.8) == (0.0, 0.0)
