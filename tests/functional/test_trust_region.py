"""Laws of the trust region, on problems small enough to build the Fisher matrix of."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot import functional as F

laws = settings(max_examples=20)
seeds = st.integers(0, 2**32 - 1)
FEATURES = jnp.asarray(np.random.default_rng(0).standard_normal((12, 3)), jnp.float32)


def policy(params):
    """A softmax of 4 actions over 3 features."""
    return F.Categorical(FEATURES @ params.reshape(3, 4))


def kl_from(params):
    old = policy(params)
    return lambda there: jnp.mean(old.kl(policy(there)))


def start(seed: int = 0, size: int = 12):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(size), jnp.float32)


@jax.jit
def dense_fisher(params):
    return jax.hessian(kl_from(params))(params)


@jax.jit
def damped_product(params, vector):
    return F.fisher_vector_product(kl_from(params), params, vector, damping=0.3)


@jax.jit
def damped_solution(params, gradient):
    return F.natural_gradient(kl_from(params), params, gradient, cg_steps=40, damping=0.1)


@laws
@given(seeds)
def test_a_fisher_vector_product_is_the_dense_product(seed: int) -> None:
    params, vector = start(seed), start(seed + 1)
    dense = dense_fisher(params)
    got = damped_product(params, vector)
    np.testing.assert_allclose(got, dense @ vector + 0.3 * vector, atol=2e-5)


def test_the_fisher_matrix_is_the_covariance_of_the_score() -> None:
    params = start(1)

    def log_probs(there):
        """[action, row]"""
        each = [policy(there).log_prob(jnp.full(len(FEATURES), a)) for a in range(4)]
        return jnp.stack(each)

    scores = jax.jacobian(log_probs)(params)
    probs = np.exp(log_probs(params))
    fisher = np.einsum("ab,abi,abj->ij", probs, scores, scores) / len(FEATURES)
    product = jax.jit(lambda vector: F.fisher_vector_product(kl_from(params), params, vector))
    for k in range(12):
        np.testing.assert_allclose(product(jnp.eye(12)[k]), fisher[:, k], atol=1e-5)


@laws
@given(seeds)
def test_the_natural_gradient_is_the_dense_solve(seed: int) -> None:
    params, gradient = start(seed), start(seed + 1)
    dense = np.asarray(dense_fisher(params)) + 0.1 * np.eye(12)
    natural = damped_solution(params, gradient)
    solution = np.linalg.solve(dense, gradient)
    np.testing.assert_allclose(natural.direction, solution, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(natural.curvature, solution @ dense @ solution, rtol=1e-3)


def test_few_steps_of_conjugate_gradient_are_not_the_solution() -> None:
    params, gradient = start(0), start(1)
    one = F.natural_gradient(kl_from(params), params, gradient, cg_steps=1)
    many = F.natural_gradient(kl_from(params), params, gradient, cg_steps=40)
    assert np.linalg.norm(one.direction - many.direction) > 0.1 * np.linalg.norm(many.direction)
    # one step goes along the gradient
    cosine = one.direction @ gradient / jnp.linalg.norm(one.direction) / jnp.linalg.norm(gradient)
    np.testing.assert_allclose(cosine, 1.0, rtol=1e-5)


def test_a_gradient_of_zero_goes_nowhere() -> None:
    params = start()
    natural = F.natural_gradient(kl_from(params), params, jnp.zeros(12))
    np.testing.assert_array_equal(natural.direction, np.zeros(12))
    assert float(F.trust_region_scale(natural.curvature, max_kl=0.01)) == 0.0


def test_the_longest_step_uses_up_the_quadratic_region() -> None:
    # KL = (1/2) c^2 x^T F x = 0.5 * 0.2^2 * 5 = 0.1
    np.testing.assert_allclose(F.trust_region_scale(5.0, max_kl=0.1), 0.2, rtol=1e-6)
    assert float(F.trust_region_scale(-1.0, max_kl=0.1)) == 0.0


def test_a_small_step_of_that_length_has_that_kl() -> None:
    params, delta = start(0), 1e-4
    # a softmax does not change along some directions: a gradient that has no part in them
    gradient = F.fisher_vector_product(kl_from(params), params, start(1))
    natural = F.natural_gradient(kl_from(params), params, gradient, cg_steps=40, damping=0.0)
    step = F.trust_region_scale(natural.curvature, max_kl=delta) * natural.direction
    np.testing.assert_allclose(kl_from(params)(params + step), delta, rtol=0.05)


def search(**changes):
    """On the parabola -(x - 1)^2 from 0, whose best step is 1 and whose KL is x^2."""
    arguments = {
        "objective": lambda x: -jnp.sum((x - 1.0) ** 2),
        "kl": lambda x: jnp.sum(x**2),
        "params": jnp.zeros(1),
        "step": jnp.array([1.0]),
        "max_kl": 4.0,
        "shrink": 0.5,
    } | changes
    return F.line_search(**arguments)


def test_a_full_step_that_is_safe_is_taken() -> None:
    found = search()
    assert [float(found.params[0]), float(found.fraction)] == [1.0, 1.0]
    assert [float(found.kl), float(found.improvement)] == [1.0, 1.0]


def test_a_step_is_shortened_until_it_improves() -> None:
    found = search(step=jnp.array([4.0]), max_kl=100.0)  # 4 -> -9, 2 -> -1 (no better), 1 -> 0
    assert [float(found.params[0]), float(found.fraction)] == [1.0, 0.25]


def test_a_step_is_shortened_until_it_lies_in_the_region() -> None:
    found = search(max_kl=0.1)
    assert [float(found.params[0]), float(found.fraction)] == [0.25, 0.25]
    assert float(found.kl) <= 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {"step": jnp.array([-1.0])},
        {"max_kl": 0.0},
        {"step": jnp.array([4.0]), "max_kl": 100.0, "tries": 2},
        {"objective": lambda x: jnp.sum(x) * jnp.nan},
        {"kl": lambda x: jnp.sum(x) * jnp.nan},
    ],
)
def test_without_a_safe_step_nothing_moves(changes: dict) -> None:
    found = search(**changes)
    assert [float(x) for x in (*found.params, *found[1:])] == [0.0, 0.0, 0.0, 0.0]


def test_hyper_parameters_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="max_kl"):
        search(max_kl=-1.0)
    with pytest.raises(ValueError, match="shrink"):
        search(shrink=1.5)
    with pytest.raises(ValueError, match="cg_steps"):
        F.natural_gradient(kl_from(start()), start(), start(), cg_steps=0)
    with pytest.raises(ValueError, match="damping"):
        F.natural_gradient(kl_from(start()), start(), start(), damping=-1.0)


def test_defaults_are_those_of_the_source() -> None:
    natural, search = (
        {name: p.default for name, p in inspect.signature(function).parameters.items()}
        for function in (F.natural_gradient, F.line_search)
    )
    assert (natural["cg_steps"], natural["damping"]) == (15, 0.1)
    assert (search["tries"], search["shrink"]) == (10, 0.8)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_every_shortened_step_is_looked_at_in_turn(count: int) -> None:
    """Only those at most 2^-count long are in the region."""
    found = F.line_search(
        lambda p: p[0],
        lambda p: p[0] ** 2,
        jnp.zeros(1),
        jnp.ones(1),
        max_kl=0.25**count,
        shrink=0.5,
        tries=count + 1,
    )
    assert found.fraction == 0.5**count
    assert found.kl == 0.25**count  # the bound itself is in the region
