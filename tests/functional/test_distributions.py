"""Action distributions against scipy, distreqx, numeric integrals and enumeration."""

import dataclasses
import itertools
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from tests.helpers import few

from surefoot.functional import distributions as dist
from surefoot.functional.distributions import (
    Bernoulli,
    Beta,
    Binned,
    Categorical,
    DiagGaussian,
    FeatureGaussian,
    MultiCategorical,
    TanhGaussian,
    feature_std,
    floor_log_std,
    unfloor_log_std,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import distreqx.distributions as dx

F32 = partial(jnp.asarray, dtype=jnp.float32)
properties = settings(max_examples=30)


def real(low, high):
    """Floats that float32 represents exactly, so that an oracle in float64 sees the same number."""
    return st.floats(low, high, allow_subnormal=False).map(lambda x: float(np.float32(x)))


means = real(-2.0, 2.0)
stds = real(0.125, 2.0)
shapes = real(0.5, 8.0)
MULTI_LOGITS = F32([[0.5, -1.0, 0.2, 2.0, 0.0], [1.0, 1.0, -0.5, 0.3, -2.0]])


def gaussian(cls, mean=0.3, std=0.7):
    return cls(F32([mean]), F32([std]))


def examples():
    """A [4, 3] batch (or its discrete counterpart) of each type, and another of the same type."""
    keys = iter(jax.random.split(jax.random.key(7), 24))

    def normal(*shape):
        return jax.random.normal(next(keys), shape)

    def positive(*shape):
        return jnp.exp(0.5 * normal(*shape))

    return [
        (DiagGaussian(normal(4, 3), positive(4, 3)), DiagGaussian(normal(4, 3), positive(3))),
        (TanhGaussian(normal(4, 3), positive(4, 3)), TanhGaussian(normal(4, 3), positive(3))),
        (Beta(F32(1.5) + positive(4, 3), positive(4, 3)), Beta(positive(4, 3), positive(4, 3))),
        (Categorical(MULTI_LOGITS), Categorical(-MULTI_LOGITS)),
        (MultiCategorical(MULTI_LOGITS, (2, 3)), MultiCategorical(-MULTI_LOGITS, (2, 3))),
        (Bernoulli(MULTI_LOGITS), Bernoulli(-MULTI_LOGITS)),
        (Binned(normal(4, 3, 5)), Binned(normal(4, 3, 5))),
    ]


every_type = pytest.mark.parametrize(
    ("p", "q"), examples(), ids=lambda d: type(d).__name__ if d is not None else ""
)


some_types = pytest.mark.parametrize(
    ("p", "q"), few(3, examples()), ids=lambda d: type(d).__name__ if d is not None else ""
)


def sample(d, seed=0):
    return np.asarray(jax.jit(type(d).sample)(d, jax.random.key(seed)))


@jax.jit
def log_prob_of_action(d, action):
    return d.log_prob(d.from_action(action))


def density(d, action):
    """Densities of canonical actions [M] under a one-dimensional `d`, by way of the raw space."""
    return np.exp(np.asarray(log_prob_of_action(d, F32(action)[:, None])))


def wide_log_prob(d, action):
    """Of canonical actions [M] under a one-dimensional `d`, in float64; of a Beta by SciPy."""
    if isinstance(d, Beta):
        exact = stats.beta(*(np.asarray(x, np.float64) for x in (d.alpha, d.beta)))
        inside = np.clip((1.0 + action) / 2.0, 1e-300, 1.0 - 1e-16)
        return exact.logpdf(inside) - np.log(2.0)
    with jax.enable_x64(True):
        d = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), d)
        return np.asarray(log_prob_of_action(d, jnp.asarray(action)[:, None]))


def expect(d, function):
    """`E_d[function(action, log_prob)]` by integrating over the canonical action space, in float64."""
    theta = np.linspace(-1.0, 1.0, 40_001)[1:-1]
    action = np.sin(0.5 * np.pi * theta)  # dense near the boundary
    for _ in range(3):
        action = np.sin(0.5 * np.pi * action)
    log_p = wide_log_prob(d, action)
    return integrate.trapezoid(np.exp(log_p) * function(action, log_p), action)


# --- continuous: log-probabilities ---------------------------------------------------------------


@pytest.mark.parametrize("cls", [DiagGaussian, TanhGaussian])
def test_a_gaussian_at_a_number_of_standard_deviations(cls):
    d = cls(F32([0.3, -1.0]), F32([0.7, 2.0]))
    np.testing.assert_allclose(d.at(F32([1.0, -0.5])), [1.0, -2.0], rtol=1e-6)


def test_gaussian_log_prob_literal_and_sum():
    d = DiagGaussian(F32([[0.0, 1.0]]), F32([1.0, 2.0]))
    log_prob = d.log_prob(F32([[1.0, 1.0]]))
    assert log_prob.shape == (1,)
    np.testing.assert_allclose(log_prob, [-0.5 - np.log(2 * np.pi) - np.log(2.0)], rtol=1e-6)


@properties
@given(means, stds, real(-3.0, 3.0))
def test_gaussian_matches_scipy_and_distreqx(mean, std, x):
    d, oracle = gaussian(DiagGaussian, mean, std), stats.norm(mean, std)
    np.testing.assert_allclose(d.log_prob(F32([x])), oracle.logpdf(x), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(d.entropy(), oracle.entropy(), rtol=1e-5, atol=1e-5)
    reference = dx.Independent(dx.Normal(d.mean, d.std)).log_prob(F32([x]))
    np.testing.assert_allclose(d.log_prob(F32([x])), reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "d",
    [
        gaussian(TanhGaussian, 0.3, 0.4),
        gaussian(TanhGaussian, -0.8, 0.7),
        Beta(F32([2.0]), F32([5.0])),
        Beta(F32([1.5]), F32([3.0])),
    ],
)
def test_bounded_density_integrates_to_one(d):
    total, _ = integrate.quad_vec(lambda a: density(d, [a])[0], -1.0, 1.0, epsabs=1e-6)
    np.testing.assert_allclose(total, 1.0, atol=1e-4)


@properties
@given(means, stds, real(-0.95, 0.95))
def test_tanh_log_prob_is_the_change_of_variables(mean, std, action):
    expected = stats.norm(mean, std).logpdf(np.arctanh(action)) - np.log1p(-(action**2))
    d = gaussian(TanhGaussian, mean, std)
    got = d.log_prob(d.from_action(F32([action])))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_tanh_matches_distreqx_inside():
    d, action = gaussian(TanhGaussian), F32([0.6])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from distreqx.bijectors import Tanh

        oracle = dx.Transformed(dx.Normal(d.mean[0], d.std[0]), Tanh())
    np.testing.assert_allclose(d.log_prob(jnp.arctanh(action)), oracle.log_prob(action[0]), 1e-5)


@jax.jit
@partial(jax.value_and_grad, argnums=(0, 1, 2))
def saturated(mean, std, raw):
    return TanhGaussian(mean[None], std[None]).log_prob(raw[None])


@pytest.mark.parametrize("u", [-1e4, -30.0, -9.0, 0.0, 9.0, 30.0, 1e4])
def test_tanh_is_finite_and_exact_at_saturation(u):
    value, grads = saturated(F32(0.5), F32(0.7), F32(u))
    exact = stats.norm(0.5, 0.7).logpdf(u) + 2 * (np.logaddexp(u, -u) - np.log(2.0))
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    assert np.isfinite(grads).all()
    np.testing.assert_allclose(grads[2], -(u - 0.5) / 0.49 + 2 * np.tanh(u), rtol=1e-4)


@pytest.mark.parametrize("action", [-1.0, -1.0 + 1e-7, 1.0 - 1e-7, 1.0])
@pytest.mark.parametrize("d", [gaussian(TanhGaussian), Beta(F32([2.0]), F32([0.5]))])
def test_boundary_actions_have_finite_log_prob(d, action):
    raw = d.from_action(F32([action]))
    assert jnp.isfinite(d.log_prob(raw))
    assert jnp.isfinite(raw).all()
    np.testing.assert_allclose(d.to_action(raw), action, atol=3e-6)


@properties
@given(shapes, shapes, real(0.01, 0.99))
def test_beta_matches_scipy_and_distreqx(alpha, beta, x):
    d, oracle = Beta(F32([alpha]), F32([beta])), stats.beta(alpha, beta, loc=-1.0, scale=2.0)
    np.testing.assert_allclose(d.log_prob(F32([x])), oracle.logpdf(2 * x - 1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(d.entropy(), oracle.entropy(), rtol=1e-4, atol=1e-4)
    reference = dx.Beta(d.alpha[0], d.beta[0]).entropy() + np.log(2.0)
    np.testing.assert_allclose(d.entropy(), reference, rtol=1e-4, atol=1e-4)


def test_beta_mode():
    d = Beta(F32([3.0, 1.0, 0.5, 1.0]), F32([2.0, 1.0, 1.5, 3.0]))
    np.testing.assert_allclose(d.mode(), [2 / 3, 0.5, 0.25, 0.25], rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda a: Beta(a, d.beta).mode().sum()))(d.alpha)
    assert jnp.isfinite(gradient).all()


# --- continuous: entropy and KL ------------------------------------------------------------------


@pytest.mark.parametrize(
    "d",
    [gaussian(TanhGaussian, m, s) for m, s in [(0.0, 0.1), (0.5, 1.0), (2.0, 0.5), (-1.0, 2.0)]]
    + [Beta(F32([2.0]), F32([5.0]))],
)
def test_bounded_entropy_is_the_integral(d):
    np.testing.assert_allclose(d.entropy(), expect(d, lambda _, log_p: -log_p), atol=5e-5)


@pytest.mark.parametrize(("std", "atol"), [(0.01, 2e-6), (1.5, 2e-6), (3.0, 3e-4), (10.0, 0.06)])
def test_tanh_entropy_error_is_as_documented(std, atol):
    z = np.linspace(-12.0, 12.0, 100_001)
    weights = np.exp(-0.5 * z**2) / np.exp(-0.5 * z**2).sum()
    for mean in (-6.0, -0.3, 0.0, 2.0):
        u = mean + std * z
        jacobian = (weights * 2 * (np.log(2.0) - np.logaddexp(u, -u))).sum()
        exact = stats.norm(mean, std).entropy() + jacobian
        np.testing.assert_allclose(gaussian(TanhGaussian, mean, std).entropy(), exact, atol=atol)


def test_tanh_entropy_gradient_is_that_of_the_integral():
    def entropy(mean, std):
        return TanhGaussian(mean[None], std[None]).entropy()

    grads = jax.jit(jax.grad(entropy, (0, 1)))(F32(0.4), F32(0.8))
    for i, step in enumerate([(1e-2, 0.0), (0.0, 1e-2)]):
        high, low = (
            expect(gaussian(TanhGaussian, 0.4 + k * step[0], 0.8 + k * step[1]), lambda _, lp: -lp)
            for k in (1.0, -1.0)
        )
        np.testing.assert_allclose(grads[i], (high - low) / 2e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (gaussian(TanhGaussian, 0.3, 0.7), gaussian(TanhGaussian, -0.4, 1.1)),
        (Beta(F32([2.0]), F32([5.0])), Beta(F32([1.5]), F32([1.2]))),
    ],
)
def test_bounded_kl_is_the_integral(p, q):
    def log_ratio(action, log_p):
        return log_p - wide_log_prob(q, action)

    np.testing.assert_allclose(p.kl(q), expect(p, log_ratio), rtol=1e-4)


@properties
@given(means, stds, means, stds)
def test_gaussian_kl_formula(m1, s1, m2, s2):
    expected = np.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5
    p, q = gaussian(DiagGaussian, m1, s1), gaussian(DiagGaussian, m2, s2)
    np.testing.assert_allclose(p.kl(q), expected, rtol=1e-4, atol=1e-6)
    reference = dx.Normal(p.mean, p.std).kl_divergence(dx.Normal(q.mean, q.std)).sum()
    np.testing.assert_allclose(p.kl(q), reference, rtol=1e-4, atol=1e-6)


@properties
@given(shapes, shapes, shapes, shapes)
def test_beta_kl_is_nonnegative_and_matches_distreqx(a1, b1, a2, b2):
    p, q = Beta(F32([a1]), F32([b1])), Beta(F32([a2]), F32([b2]))
    oracle = dx.Beta(p.alpha[0], p.beta[0]).kl_divergence(dx.Beta(q.alpha[0], q.beta[0]))
    assert p.kl(q) > -1e-5
    np.testing.assert_allclose(p.kl(q), oracle, rtol=1e-3, atol=2e-5)


# --- every type ----------------------------------------------------------------------------------


@every_type
def test_kl_properties(p, q):
    @jax.jit
    def compute(p, q):
        return p.kl(q), p.kl(p), p.entropy(), jax.grad(lambda d: p.kl(d).sum())(p)

    kl, kl_self, entropy, gradient = compute(p, q)
    assert kl.shape == entropy.shape
    assert (kl > 1e-3).all()
    np.testing.assert_allclose(kl_self, 0.0, atol=1e-6)
    assert all(jnp.abs(g).max() < 1e-5 for g in jax.tree.leaves(gradient))


@pytest.mark.extended
@every_type
def test_entropy_and_kl_are_the_means_of_samples(p, q):
    num = 4_000

    @jax.jit
    def compute(p, q, key):
        draws = jax.vmap(p.sample)(jax.random.split(key, num))
        log_p, log_q = jax.vmap(lambda r: (p.log_prob(r), q.log_prob(r)))(draws)
        return [(x.mean(0), x.std(0)) for x in (-log_p, log_p - log_q)], (p.entropy(), p.kl(q))

    estimates, exact = compute(p, q, jax.random.key(0))
    for (mean, std), value in zip(estimates, exact, strict=True):
        np.testing.assert_array_less(jnp.abs(mean - value), 5.0 * std / np.sqrt(num))


def test_kl_of_different_types_is_an_error():
    for (p, _), (q, _) in itertools.permutations(examples(), 2):
        with pytest.raises(TypeError, match=f"{type(p).__name__} and {type(q).__name__}"):
            p.kl(q)


@some_types
def test_round_trip_shapes_and_determinism(p, q):
    del q

    @jax.jit
    def compute(p, raw):
        mode = p.mode()
        returned = p.from_action(p.to_action(raw))
        return mode, returned, p.log_prob(raw), p.log_prob(mode), p.entropy()

    raw = sample(p)
    mode, returned, log_prob, log_prob_mode, entropy = compute(p, raw)
    assert raw.dtype == mode.dtype == returned.dtype
    assert raw.shape == mode.shape
    assert log_prob.shape == log_prob_mode.shape == entropy.shape
    np.testing.assert_allclose(returned, raw, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(raw, sample(p))
    assert any((raw != sample(p, seed)).any() for seed in range(1, 5))


@some_types
def test_pytree_jit_vmap_and_grad(p, q):
    leaves, treedef = jax.tree.flatten(p)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert type(jax.tree.unflatten(treedef, leaves)) is type(p)
    raw = p.mode()

    def objective(d, r):
        return d.log_prob(r) + d.entropy() + d.kl(q) + q.kl(d)

    @jax.jit
    def compute(p):
        repeated = jax.tree.map(lambda x: jnp.stack([x, x]), p)
        by_vmap = jax.vmap(objective, (0, None))(repeated, raw)
        return by_vmap, objective(p, raw), jax.grad(lambda d: objective(d, raw).sum())(p)

    by_vmap, expected, gradient = compute(p)
    np.testing.assert_allclose(by_vmap[1], expected, rtol=1e-5, atol=1e-5)
    assert all(jnp.isfinite(g).all() and (g != 0).any() for g in jax.tree.leaves(gradient))


@every_type
@pytest.mark.parametrize("x64", [False, True])
def test_float32_stays_float32_under_strict_promotion(p, q, x64):
    def compute(p, q, key):
        raw = p.sample(key)
        action = p.to_action(raw)
        numbers = p.log_prob(raw), p.entropy(), p.kl(q)
        gradient = jax.grad(lambda d: (d.log_prob(raw) + d.entropy() + d.kl(q)).sum())(p)
        return (raw, p.mode(), p.from_action(action)), action, (numbers, gradient)

    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        raws, action, numbers = jax.eval_shape(compute, p, q, jax.random.key(0))
    continuous = isinstance(p, (DiagGaussian, TanhGaussian, Beta))
    dtype = jnp.float32 if continuous else jnp.int32
    assert {x.dtype for x in jax.tree.leaves(raws)} == {jnp.dtype(dtype)}
    assert action.dtype == (jnp.float32 if isinstance(p, Binned) else dtype)
    assert {x.dtype for x in jax.tree.leaves(numbers)} == {jnp.dtype(jnp.float32)}


@every_type
def test_samples_do_not_depend_on_x64(p, q):
    del q
    with jax.enable_x64(True):
        wide = sample(p)
    np.testing.assert_allclose(wide, sample(p), rtol=1e-5)


# --- sampling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [DiagGaussian, TanhGaussian])
def test_gaussian_sample_moments(cls):
    d = cls(jnp.full((50_000, 2), F32([0.5, -1.0])), F32([0.2, 2.0]))
    raw = sample(d)
    np.testing.assert_allclose(raw.mean(0), [0.5, -1.0], atol=0.03)
    np.testing.assert_allclose(raw.std(0), [0.2, 2.0], rtol=0.02)
    np.testing.assert_allclose(np.corrcoef(raw.T)[0, 1], 0.0, atol=0.02)
    np.testing.assert_array_equal(d.mode(), d.mean)
    assert d.entropy().shape == (50_000,)  # std of shape [A] broadcasts against the batch


def test_noise_that_is_linear_in_features_is_normal_with_the_std_of_the_state():
    random = np.random.default_rng(0)
    features, std = F32(random.normal(size=(3, 4))), np.exp(F32(random.normal(size=(5, 2))))
    mean = F32(random.normal(size=(3, 2)))
    by_state, seen = feature_std(jnp.asarray(features), jnp.asarray(std))
    d = FeatureGaussian(jnp.asarray(mean), by_state, seen, jnp.asarray(std))
    v = np.concatenate([features, np.ones((3, 1), np.float32)], axis=1)
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    np.testing.assert_allclose(d.std, np.sqrt(v**2 @ std**2), rtol=1e-5)
    # one set of weights for all states: equal states get equal noise, and each state's is normal
    z = jax.random.normal(jax.random.key(1), (20_000, 1, 5, 2))
    noise = np.asarray(jax.vmap(d.at)(jnp.broadcast_to(z, (20_000, 3, 5, 2)))) - mean
    np.testing.assert_allclose(noise[:7], np.einsum("sf,fa,nfa->nsa", v, std, z[:7, 0]), rtol=1e-4)
    np.testing.assert_allclose(noise.std(0), d.std, rtol=0.03)
    np.testing.assert_allclose(noise.mean(0), 0.0, atol=0.05)
    assert abs(np.corrcoef(noise[:, 0].T)[0, 1]) < 0.03
    raw = mean + 0.3
    np.testing.assert_allclose(d.log_prob(raw), DiagGaussian(d.mean, d.std).log_prob(raw))
    np.testing.assert_array_equal(d.mode(), mean)
    # whatever the features, one standard deviation is that of every state; and they are not learned by it
    even, _ = feature_std(100.0 * features, jnp.full((5, 2), 0.3))
    np.testing.assert_allclose(even, 0.3, rtol=1e-5)
    once = np.asarray(d.sample(jax.random.key(2)))
    assert not np.isclose(once, d.sample(jax.random.key(3))).any()
    by_features = jax.grad(lambda x: feature_std(x, jnp.asarray(std))[0].sum())
    np.testing.assert_array_equal(by_features(jnp.asarray(features)), 0.0)


def test_tanh_action_is_tanh():
    np.testing.assert_allclose(gaussian(TanhGaussian).to_action(F32([0.5])), [np.tanh(0.5)], 1e-6)


@pytest.mark.extended
def test_beta_sample_moments_and_clipping():
    d = Beta(jnp.full((8_000, 2), F32([2.0, 0.02])), F32([5.0, 0.02]))
    x = sample(d)
    np.testing.assert_allclose(x.mean(0), [2 / 7, 0.5], atol=0.02)
    np.testing.assert_allclose(x[:, 0].var(), stats.beta(2, 5).var(), rtol=0.05)
    np.testing.assert_allclose([x.min(), 1.0 - x.max()], 1e-6, rtol=0.1)
    assert jnp.isfinite(jax.jit(Beta.log_prob)(d, x)).all()
    np.testing.assert_allclose(d.to_action(F32([0.0, 0.25, 1.0])), [-1.0, -0.5, 1.0])


def test_categorical_frequencies_and_log_prob():
    logits = F32([0.0, 1.0, -jnp.inf, -1.0])
    d = Categorical(jnp.broadcast_to(logits, (50_000, 4)))
    raw = sample(d)
    p = np.exp(np.asarray(logits)) / np.exp(np.asarray(logits)).sum()
    np.testing.assert_allclose(np.bincount(raw, minlength=4) / 50_000, p, atol=0.01)
    assert not (raw == 2).any()
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    got = jax.jit(jax.vmap(Categorical(logits).log_prob))(jnp.arange(4))
    np.testing.assert_allclose(got, log_p, 1e-5)
    assert jnp.isnan(Categorical(logits).log_prob(jnp.int32(4)))
    assert Categorical(logits).mode() == 1


def test_multi_categorical_and_bernoulli_frequencies():
    logits = MULTI_LOGITS[0, :4]  # columns of equal size: a shared key would make them equal
    multi = MultiCategorical(jnp.broadcast_to(logits, (30_000, 4)), (2, 2))
    raw = sample(multi)
    joint = np.bincount(raw[:, 0] * 2 + raw[:, 1], minlength=4).reshape(2, 2) / 30_000
    expected = np.outer(jax.nn.softmax(logits[:2]), jax.nn.softmax(logits[2:]))
    np.testing.assert_allclose(joint, expected, atol=0.01)
    np.testing.assert_array_equal(jax.jit(MultiCategorical.mode)(multi)[0], [0, 1])
    switches = Bernoulli(jnp.broadcast_to(MULTI_LOGITS[0], (30_000, 5)))
    drawn = sample(switches)
    np.testing.assert_allclose(drawn.mean(0), jax.nn.sigmoid(MULTI_LOGITS[0]), atol=0.015)
    np.testing.assert_array_equal(jax.jit(Bernoulli.mode)(switches)[0], [1, 0, 1, 1, 0])


# --- discrete: enumeration, masking --------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "q", "actions"),
    [
        (Categorical(MULTI_LOGITS[0]), Categorical(MULTI_LOGITS[1]), np.arange(5)),
        (
            MultiCategorical(MULTI_LOGITS[0], (2, 3)),
            MultiCategorical(MULTI_LOGITS[1], (2, 3)),
            list(itertools.product(range(2), range(3))),
        ),
        (
            Bernoulli(MULTI_LOGITS[0]),
            Bernoulli(MULTI_LOGITS[1]),
            list(itertools.product(range(2), repeat=5)),
        ),
    ],
)
def test_discrete_by_enumeration(p, q, actions):
    actions = jnp.asarray(actions, jnp.int32)

    @jax.jit
    def compute(p, q):
        return jax.vmap(lambda a: (p.log_prob(a), q.log_prob(a)))(actions), p.entropy(), p.kl(q)

    (log_p, log_q), entropy, kl = jax.tree.map(np.asarray, compute(p, q))
    np.testing.assert_allclose(np.exp(log_p).sum(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(entropy, -(np.exp(log_p) * log_p).sum(), rtol=1e-5)
    np.testing.assert_allclose(kl, (np.exp(log_p) * (log_p - log_q)).sum(), rtol=1e-5)


@properties
@given(st.lists(real(-8.0, 8.0), min_size=2, max_size=2), st.integers(0, 1))
def test_bernoulli_and_categorical_match_oracles(logits, raw):
    logits = F32(logits)
    p, q = Categorical(logits), Categorical(-logits)
    reference = dx.Categorical(logits)
    np.testing.assert_allclose(p.log_prob(jnp.int32(raw)), reference.log_prob(raw), 1e-5, 1e-6)
    np.testing.assert_allclose(p.entropy(), reference.entropy(), 1e-4, 1e-6)
    np.testing.assert_allclose(
        p.kl(q), reference.kl_divergence(dx.Categorical(-logits)), 1e-4, 1e-6
    )
    oracle = stats.bernoulli(1.0 / (1.0 + np.exp(-np.asarray(logits, np.float64))))
    switches = jnp.full(2, raw, jnp.int32)
    expected = oracle.logpmf(raw).sum()
    np.testing.assert_allclose(Bernoulli(logits).log_prob(switches), expected, 1e-4, 1e-5)
    np.testing.assert_allclose(Bernoulli(logits).entropy(), oracle.entropy().sum(), 1e-3, 1e-5)


@jax.jit
def masked_results(p, q):
    functions = (
        lambda p, q: p.entropy(),
        lambda p, q: p.kl(q),
        lambda p, q: p.log_prob(jnp.int32(0)),
    )
    return [jax.value_and_grad(f, (0, 1))(p, q) for f in functions]


@pytest.mark.parametrize("masked", [-np.inf, -1e30, -200.0])
def test_masked_actions_are_harmless(masked):
    p = Categorical(F32([0.3, masked, -0.4, masked]))
    q = Categorical(F32([-0.3, masked, 0.4, masked]))
    plain_p, plain_q = Categorical(F32([0.3, -0.4])), Categorical(F32([-0.3, 0.4]))
    results, expected = masked_results(p, q), masked_results(plain_p, plain_q)
    for (value, grads), (plain_value, plain_grads) in zip(results, expected, strict=True):
        np.testing.assert_allclose(value, plain_value, rtol=1e-6)
        for g, plain in zip(grads, plain_grads, strict=True):
            np.testing.assert_allclose(np.asarray(g.logits)[[0, 2]], plain.logits, atol=1e-7)
            np.testing.assert_array_equal(np.asarray(g.logits)[[1, 3]], 0.0)
    assert p.log_prob(jnp.int32(1)) <= -199.0


def test_certain_switches_are_harmless():
    d = Bernoulli(F32([np.inf, -np.inf, 300.0, -300.0]))
    np.testing.assert_array_equal(d.mode(), [1, 0, 1, 0])
    for f in (lambda d: d.entropy(), lambda d: d.log_prob(d.mode()), lambda d: d.kl(d)):
        value, gradient = jax.jit(jax.value_and_grad(f))(d)
        np.testing.assert_allclose(value, 0.0, atol=1e-7)
        assert jnp.isfinite(gradient.logits).all()


@pytest.mark.parametrize("bins", [2, 3, 41])
def test_binned_actions_are_equally_far_apart_from_end_to_end(bins):
    d = Binned(F32(np.zeros((1, bins))))
    raw = jnp.arange(bins)[:, None]
    places = np.asarray(d.to_action(raw))[:, 0]
    np.testing.assert_allclose(places, np.linspace(-1, 1, bins), atol=1e-6)
    np.testing.assert_array_equal(d.from_action(F32(places)[:, None]), raw)
    np.testing.assert_array_equal(d.from_action(F32([[-7.0], [7.0]])), [[0], [bins - 1]])


def test_binned_is_independent_categoricals_by_hand():
    d = Binned(F32(np.log([[0.2, 0.8], [0.5, 0.5]])))
    np.testing.assert_allclose(d.log_prob(jnp.array([1, 0])), np.log(0.8 * 0.5), rtol=1e-5)
    entropy = -(0.2 * np.log(0.2) + 0.8 * np.log(0.8)) + np.log(2)
    np.testing.assert_allclose(d.entropy(), entropy, rtol=1e-5)
    np.testing.assert_array_equal(d.mode(), [1, 0])
    np.testing.assert_array_equal(d.to_action(d.mode()), [1.0, -1.0])
    draws = np.asarray(jax.vmap(d.sample)(jax.random.split(jax.random.key(0), 4000)))
    np.testing.assert_allclose(draws.mean(axis=0), [0.8, 0.5], atol=0.03)


def test_multi_categorical_rejects_wrong_sizes():
    with pytest.raises(ValueError, match=r"nvec=\(2, 2\) needs 4 logits, .*shape=\(2, 5\)"):
        MultiCategorical(MULTI_LOGITS, (2, 2)).entropy()
    p, q = MultiCategorical(MULTI_LOGITS, (2, 3)), MultiCategorical(MULTI_LOGITS, (3, 2))
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        p.kl(q)


# --- the floor of the standard deviation ---------------------------------------------------------


@properties
@given(st.floats(0.05, 5.0), st.floats(1e-4, 0.04))
def test_unfloor_is_the_inverse_of_floor(std, min_std):
    log_std = unfloor_log_std(std, min_std=min_std)
    np.testing.assert_allclose(floor_log_std(F32(log_std), min_std=min_std), std, rtol=1e-6)


def test_floor_is_the_softplus_of_the_docstring():
    log_std, log_min = np.linspace(-6.0, 4.0, 11), np.log(1e-2)
    expected = np.exp(log_min + np.logaddexp(0.0, log_std - log_min))
    np.testing.assert_allclose(floor_log_std(F32(log_std), min_std=1e-2), expected, rtol=1e-5)


def test_std_stays_in_bounds_with_a_gradient():
    f = partial(floor_log_std, min_std=np.float64(1e-3))
    extreme = F32([-1e30, -1e3, -20.0, 1e3, 1e30])
    np.testing.assert_allclose(f(extreme), [1e-3, 1e-3, 1e-3, np.exp(5.0), np.exp(5.0)], rtol=1e-5)
    assert (f(extreme) > 0.0).all()
    gradient = jax.jit(jax.vmap(jax.grad(f)))
    inside = F32(np.linspace(-20.0, 2.0, 45))
    np.testing.assert_allclose(gradient(inside), np.exp(inside), rtol=1e-5)
    np.testing.assert_allclose(gradient(F32([5.5, 1e3])), np.exp(5.0), rtol=1e-4)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        assert f(inside).dtype == jnp.float32


@pytest.mark.parametrize("min_std", [0.0, -1.0, np.nan, 150.0])
def test_floor_rejects_a_bad_minimum(min_std):
    with pytest.raises(ValueError, match=f"min_std={min_std}"):
        floor_log_std(F32(0.0), min_std=min_std)
    with pytest.raises(ValueError, match=f"min_std={min_std}"):
        unfloor_log_std(1.0, min_std=min_std)


@pytest.mark.parametrize("std", [0.1, 0.05, dist.MAX_STD * 1.01, np.nan])
def test_unfloor_rejects_an_unreachable_std(std):
    with pytest.raises(ValueError, match=rf"min_std=0\.1, std={std}"):
        unfloor_log_std(std, min_std=0.1)


FEATURES = FeatureGaussian(F32([0.0]), F32([1.0]), F32([1.0, 0.0]), F32([[1.0], [1.0]]))


@pytest.mark.parametrize(
    "pair",
    [*examples(), (FEATURES, dataclasses.replace(FEATURES))],
    ids=lambda pair: type(pair[0]).__name__,
)
def test_a_distribution_is_a_value_that_cannot_be_changed(pair):
    one = pair[0]
    name = next(iter(vars(one)))
    with pytest.raises(AttributeError):
        setattr(one, name, 0.0)
    assert hash(one) == hash(one)
    assert one != pair[1]


def test_no_gradient_flows_through_a_sample_of_a_beta():
    def total(alpha):
        return Beta(alpha, F32([2.0, 3.0])).sample(jax.random.key(0)).sum()

    assert not np.asarray(jax.grad(total)(F32([2.0, 1.5]))).any()


def test_the_mode_of_a_beta_stays_inside_where_the_density_is_finite():
    barely = float(np.nextafter(np.float32(1.0), np.float32(2.0)))
    modes = Beta(F32([barely, 50.0]), F32([50.0, barely])).mode()
    np.testing.assert_array_equal(modes, F32([dist.BETA_EPSILON, 1.0 - dist.BETA_EPSILON]))


def test_the_mode_of_a_beta_by_hand():
    alpha, beta = F32([1.5, 3.0, 2.0, 1.0]), F32([3.0, 1.5, 1.0, 2.0])
    np.testing.assert_allclose(Beta(alpha, beta).mode(), [0.2, 0.8, 2 / 3, 1 / 3], rtol=1e-6)


def test_the_ends_of_the_range_of_std():
    with pytest.raises(ValueError, match="strictly between"):
        floor_log_std(F32([0.0]), min_std=dist.MAX_STD)
    assert unfloor_log_std(dist.MAX_STD, min_std=0.01) == np.log(dist.MAX_STD - 0.01)
