"""A batch as loss terms read it, and how minibatches are drawn from it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefoot import functional as F
from surefoot.config import Config
from surefoot.networks import ActorCritic, PolicyHead, TorsoSpec, make_actor, make_critic
from surefoot.update.batch import (
    Batch,
    Carries,
    RowMinibatches,
    forward,
    make_batch,
    with_mirror_images,
)
from surefoot.update.experience import Estimates, Experience

T, N = 3, 2
NUMBERS = np.random.default_rng(0).normal(size=(8, T, N)).astype(np.float32)
SEEN = np.random.default_rng(1).normal(size=(T + 1, N, 2)).astype(np.float32)
TORSO = TorsoSpec(("o",), 2, (4,), "tanh")
ACTOR = make_actor(
    jax.random.key(0),
    TORSO,
    PolicyHead("gaussian", (1,)),
    orthogonal=True,
    output_scale=1.0,
    initial_std=1.0,
)
CRITIC = make_critic(jax.random.key(1), TORSO, orthogonal=True)
BOTH = ActorCritic(None, ACTOR, CRITIC)
NONE = ActorCritic(None, None, None)


def experience(**changes: Any) -> Experience:
    first = np.zeros((T + 1, N), bool)
    first[0] = True
    return Experience(
        observations={"o": jnp.asarray(SEEN)},
        first=jnp.asarray(first),
        carry=(),
        raw_actions=jnp.asarray(NUMBERS[0][..., None]),
        old_log_probs=jnp.asarray(NUMBERS[1]),
        rewards=jnp.asarray(NUMBERS[2]),
        terminated=jnp.zeros((T, N), bool),
        truncated=jnp.zeros((T, N), bool),
        weights=jnp.float32([[1, 1], [1, 0], [1, 1]]),
    )._replace(**changes)


ESTIMATES = Estimates(*map(jnp.asarray, NUMBERS[3:6]))
STALE = experience(proximal_log_probs=jnp.asarray(NUMBERS[6]))


def batch(networks: ActorCritic = BOTH, rows: Experience | None = None, **options: Any) -> Batch:
    rows = experience() if rows is None else rows
    return make_batch(networks, rows, ESTIMATES, (), Config(**options))


def test_a_batch_holds_what_was_acted_on_and_what_came_of_it() -> None:
    rows = experience()
    made = batch(rows=rows)
    np.testing.assert_array_equal(made.observations["o"], SEEN[:-1])
    np.testing.assert_array_equal(made.first, [[1, 1], [0, 0], [0, 0]])
    np.testing.assert_array_equal(made.raw_actions, rows.raw_actions)
    np.testing.assert_array_equal(made.old_log_probs, rows.old_log_probs)
    np.testing.assert_array_equal(made.advantages, ESTIMATES.advantages)
    np.testing.assert_array_equal(made.targets, ESTIMATES.targets)
    np.testing.assert_array_equal(made.old_values, ESTIMATES.values)
    np.testing.assert_array_equal(made.weights, rows.weights)
    assert made.importance is None
    assert made.old_distribution is None
    assert made.carry == Carries((), ())


def test_each_network_is_given_what_it_carried_into_the_first_row() -> None:
    made = make_batch(NONE, experience(carry="actor's"), ESTIMATES, "critic's", Config())
    assert made.carry == Carries("actor's", "critic's")


@pytest.mark.parametrize(
    ("correction", "against", "weighted"),
    [("behaviour", "old", False), ("vtrace", "proximal", False), ("decoupled", "proximal", True)],
)
def test_a_correction_says_what_the_ratio_is_taken_against(
    correction: str, against: str, weighted: bool
) -> None:
    made = batch(rows=STALE, overlap="full", lag_correction=correction)
    np.testing.assert_array_equal(made.old_log_probs, getattr(STALE, f"{against}_log_probs"))
    if weighted:
        np.testing.assert_allclose(made.importance, np.exp(NUMBERS[6] - NUMBERS[1]), rtol=1e-6)
    else:
        assert made.importance is None


@pytest.mark.parametrize("correction", ["behaviour", "vtrace", "decoupled"])
def test_a_batch_of_the_present_policy_needs_no_correction(correction: str) -> None:
    made = batch(overlap="full", lag_correction=correction)
    np.testing.assert_array_equal(made.old_log_probs, experience().old_log_probs)
    assert made.importance is None


def test_advantages_are_normalized_over_the_batch_where_that_is_asked_for() -> None:
    estimates = ESTIMATES._replace(advantages=jnp.float32([[1, 3], [5, np.nan], [7, 9]]))
    rows = experience()

    def advantages(scope: str, **options: Any) -> np.ndarray:
        config = Config(advantage_normalization=scope, **options)
        return np.asarray(make_batch(BOTH, rows, estimates, (), config).advantages)

    # 1, 3, 5, 7, 9: the mean is 5, the standard deviation the root of 8; the reset row is left out
    expected = np.float32([[-4, -2], [0, 0], [2, 4]]) / np.sqrt(np.float32(8))
    np.testing.assert_allclose(advantages("batch"), expected, rtol=1e-5)
    for scope in ("minibatch", "off"):
        np.testing.assert_array_equal(advantages(scope), estimates.advantages)
    # on a solved task they are noise: not scaled up to 1
    np.testing.assert_allclose(
        advantages("batch", min_advantage_std=8.0), expected / np.sqrt(8), rtol=1e-5
    )
    np.testing.assert_allclose(
        advantages("batch", min_advantage_std=8.0, scale_rewards=False), expected, rtol=1e-5
    )


def test_the_old_distribution_is_kept_for_the_kl_penalty_alone() -> None:
    made = batch(surrogate="kl_penalty")
    old = made.old_distribution
    np.testing.assert_array_equal(old.mean, ACTOR.unroll({"o": SEEN[:-1]}, (), None).mean)
    np.testing.assert_allclose(old.kl(old), np.zeros((T, N)), atol=1e-6)
    critics = batch(ActorCritic(None, None, CRITIC), surrogate="kl_penalty")
    assert critics.old_distribution is None


def test_networks_are_run_once_for_all_terms_and_only_where_a_learner_owns_them() -> None:
    made, beta = batch(), jnp.float32(0.5)
    both = forward(BOTH, made, beta)
    np.testing.assert_array_equal(
        both.distribution.mean, ACTOR.unroll(made.observations, (), None).mean
    )
    np.testing.assert_array_equal(
        both.value_outputs[..., 0], CRITIC.unroll(made.observations, (), None)[0]
    )
    assert both.networks is BOTH
    assert both.kl_coef is beta
    alone = forward(ActorCritic(None, ACTOR, None), made, beta)
    assert alone.value_outputs is None
    np.testing.assert_array_equal(alone.distribution.mean, both.distribution.mean)
    alone = forward(ActorCritic(None, None, CRITIC), made, beta)
    assert alone.distribution is None
    np.testing.assert_array_equal(alone.value_outputs, both.value_outputs)


ROWS = jnp.arange(16, dtype=jnp.float32)


def test_mirror_images_stand_beside_the_rows_that_gave_them_their_probabilities() -> None:
    turn = F.Reflection((1, 0), (1.0, 1.0))
    symmetry = F.PolicyReflection((("o", turn),), F.Reflection((0,), (-1.0,)))
    rows = batch()
    both = with_mirror_images(rows, symmetry)
    image = jax.tree.map(lambda x: x[:, N:], both)
    for whole, plain in zip(*map(jax.tree.leaves, (both, rows)), strict=True):
        np.testing.assert_array_equal(whole[:, :N], plain)
        assert whole.shape == (T, 2 * N, *plain.shape[2:])
    np.testing.assert_array_equal(image.observations["o"], SEEN[:T, :, ::-1])
    np.testing.assert_array_equal(image.raw_actions, -rows.raw_actions)
    for name in set(rows._fields) - {"observations", "raw_actions"}:
        assert jax.tree.all(jax.tree.map(np.array_equal, getattr(image, name), getattr(rows, name)))


def test_minibatches_hold_every_row_once() -> None:
    cut = RowMinibatches(4).draw((ROWS, ROWS[:, None]), jax.random.key(0))
    assert cut[0].shape == (4, 4)
    assert cut[1].shape == (4, 4, 1)
    assert sorted(np.ravel(cut[0])) == list(range(16))
    np.testing.assert_array_equal(cut[0], cut[1][..., 0])
    assert not (np.ravel(cut[0]) == ROWS).all()


def test_the_key_says_which_minibatches() -> None:
    draw = RowMinibatches(4).draw
    ours, again = (draw(ROWS, jax.random.key(0)) for _ in range(2))
    np.testing.assert_array_equal(ours, again)
    assert not (ours == draw(ROWS, jax.random.key(1))).all()


def test_rows_are_flattened_time_by_time_and_stay_together() -> None:
    made = batch(rows=STALE, overlap="full", lag_correction="decoupled", surrogate="kl_penalty")
    flat = RowMinibatches(2).flatten(made)
    for rows, sequences in zip(*map(jax.tree.leaves, (flat, made)), strict=True):
        assert rows.shape == (T * N, *sequences.shape[2:])
        np.testing.assert_array_equal(rows[1 * N + 1], sequences[1, 1])
        np.testing.assert_array_equal(rows.reshape(sequences.shape), sequences)
    drawn = RowMinibatches(2).draw(flat, jax.random.key(0))
    # every row is found by its old log-probability: all that it holds went along
    found = [int(np.argmin(np.abs(flat.old_log_probs - x))) for x in np.ravel(drawn.old_log_probs)]
    assert sorted(found) == list(range(T * N))
    for ours, rows in zip(*map(jax.tree.leaves, (drawn, flat)), strict=True):
        np.testing.assert_array_equal(ours.reshape(rows.shape), rows[np.array(found)])
