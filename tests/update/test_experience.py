"""A rollout made ready for optimization, and what a critic makes of it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefoot import functional as F
from surefoot.agent import NormalizerSpec, make_normalizer
from surefoot.config import Config
from surefoot.envs import ObservationSpec
from surefoot.networks import MemorySpec, PolicyHead, TorsoSpec, make_actor, make_critic
from surefoot.rollout import Rollout
from surefoot.update import Experience, make_experience, make_reward_scaler
from surefoot.update.experience import catch_up, estimate_advantages

T, N = 5, 2
RANDOM = np.random.default_rng(0)
GROUPS = {"o": ObservationSpec((2,)), "legs": ObservationSpec((), choices=(3,), starts=(0,))}
TORSO = TorsoSpec(("legs", "o"), 5, (4,), "tanh")
HEAD = PolicyHead("gaussian", (1,))
# in the first environment an episode is cut off, in the second one it terminates; resets follow
TRUNCATED = np.array([[0, 0], [1, 0], [0, 0], [0, 0], [0, 0]], bool)
TERMINATED = np.array([[0, 0], [0, 0], [0, 1], [0, 0], [0, 0]], bool)
VALID = np.array([[1, 1], [1, 1], [0, 1], [1, 0], [1, 1]], bool)
FIRST = np.concatenate([np.ones((1, N), bool), ~VALID])
ROLLOUT = Rollout(
    observations={
        "o": RANDOM.normal(size=(T + 1, N, 2)).astype(np.float32),
        "legs": RANDOM.integers(0, 3, (T + 1, N)).astype(np.int32),
    },
    first=FIRST,
    carry=(),
    raw_actions=RANDOM.normal(size=(T, N, 1)).astype(np.float32),
    log_probs=RANDOM.normal(size=(T, N)).astype(np.float32),
    rewards=np.float32([[1, 2], [3, 4], [0, 5], [6, 0], [7, 8]]),
    terminated=TERMINATED,
    truncated=TRUNCATED,
    valid=VALID,
    info={},
    episode_returns=np.zeros((T, N), np.float32),
    episode_lengths=np.zeros((T, N), np.int32),
    masked=np.zeros(N, np.int32),
    faults={},
)


def experience(**changes: Any) -> Experience:
    normalizer = make_normalizer(GROUPS, NormalizerSpec(False, 10.0))
    return make_experience(ROLLOUT, jnp.asarray(ROLLOUT.rewards), normalizer)._replace(**changes)


def critic() -> Any:
    return make_critic(jax.random.key(1), TORSO, orthogonal=True)


def estimate(rows: Experience, network: Any = None, carry: Any = (), **options: Any) -> Any:
    network = critic() if network is None else network
    return estimate_advantages(network, carry, rows, Config(**options), exact=True)


def test_experience_is_the_rollout_as_networks_read_it() -> None:
    made = experience()
    np.testing.assert_array_equal(made.observations["o"], ROLLOUT.observations["o"])
    one_hot = np.eye(3, dtype=np.float32)[ROLLOUT.observations["legs"]]
    np.testing.assert_array_equal(made.observations["legs"], one_hot)
    np.testing.assert_array_equal(made.seen()["legs"], one_hot[:-1])
    np.testing.assert_array_equal(made.first, FIRST)
    assert made.carry == ()
    np.testing.assert_array_equal(made.raw_actions, ROLLOUT.raw_actions)
    np.testing.assert_array_equal(made.old_log_probs, ROLLOUT.log_probs)
    np.testing.assert_array_equal(made.terminated, TERMINATED)
    np.testing.assert_array_equal(made.truncated, TRUNCATED)
    np.testing.assert_array_equal(made.weights, VALID)
    assert made.weights.dtype == np.float32
    assert made.final_observations is None
    assert made.proximal_log_probs is None


def test_the_rewards_are_those_that_were_scaled() -> None:
    normalizer = make_normalizer(GROUPS, NormalizerSpec(False, 10.0))
    scaled = jnp.asarray(ROLLOUT.rewards / 2)
    np.testing.assert_array_equal(make_experience(ROLLOUT, scaled, normalizer).rewards, scaled)


def test_steps_are_the_rows_that_are_experience() -> None:
    assert int(experience().num_steps()) == VALID.sum() == 8


def test_catching_up_gives_the_log_probabilities_of_the_policy_that_is_asked() -> None:
    actor = make_actor(
        jax.random.key(0), TORSO, HEAD, orthogonal=True, output_scale=1.0, initial_std=0.5
    )
    rows = experience()
    caught_up = catch_up(actor, rows)
    distribution = actor.unroll(rows.seen(), (), FIRST[:-1])
    expected = distribution.log_prob(rows.raw_actions)
    np.testing.assert_allclose(caught_up.proximal_log_probs, expected, rtol=1e-6)
    np.testing.assert_array_equal(caught_up.old_log_probs, rows.old_log_probs)


def test_catching_up_replays_what_the_policy_remembers() -> None:
    torso = TorsoSpec(("legs", "o"), 5, (4,), "tanh", MemorySpec("gru", 3, 1))
    actor = make_actor(
        jax.random.key(0), torso, HEAD, orthogonal=True, output_scale=1.0, initial_std=0.5
    )
    carry = jax.tree.map(lambda x: x + 0.5, torso.initial_carry(N))
    rows = experience()._replace(carry=carry)
    seen, now, expected = rows.seen(), carry, []
    for t in range(T):
        row = jax.tree.map(lambda x, t=t: x[t], seen)
        distribution, now = actor.step(row, now, FIRST[t])
        expected.append(distribution.log_prob(rows.raw_actions[t]))
    found = catch_up(actor, rows).proximal_log_probs
    np.testing.assert_allclose(found, jnp.stack(expected), rtol=1e-5, atol=1e-6)


def test_estimates_are_of_the_critic_as_it_stands_on_all_observations() -> None:
    rows, network = experience(), critic()
    values, _ = network.unroll(rows.observations, (), FIRST)
    assert len(np.unique(values)) == values.size
    found, onward = estimate(rows, network, gae_lambda=0.0, gamma=0.9)
    np.testing.assert_array_equal(found.values, values[:-1])
    led_to = np.where(TERMINATED, 0.0, values[1:])
    expected = np.where(VALID, ROLLOUT.rewards + 0.9 * led_to - values[:-1], 0)
    np.testing.assert_allclose(found.advantages, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.targets, expected + values[:-1], rtol=1e-5, atol=1e-6)
    assert onward == ()


class Remembering:
    """A critic of memory: told apart are rows, what is carried behind each, and last observations."""

    def unroll(self, inputs: Any, carry: Any, first: Any) -> tuple[Any, Any]:
        assert carry == "before"
        np.testing.assert_array_equal(first, FIRST)
        rows = jnp.arange(2.0 * (T + 1)).reshape(T + 1, N)
        return rows, {"cell": 100 + rows[..., None]}

    def values_after(self, inputs: Any, carried: Any) -> Any:
        assert inputs["o"].shape == (T, N, 2)
        return carried["cell"][:T, :, 0]


def test_what_a_critic_remembers_behind_the_last_step_goes_on_into_the_next_rollout() -> None:
    found, onward = estimate(experience(), Remembering(), "before")
    # behind row T - 1: the last row is the next rollout's first, and is seen there again
    np.testing.assert_array_equal(onward["cell"], [[108], [109]])
    np.testing.assert_array_equal(found.values, np.arange(10).reshape(T, N))


def test_last_observations_are_valued_with_what_was_carried_behind_their_rows() -> None:
    rows = experience(final_observations=experience().seen())
    found, _ = estimate(rows, Remembering(), "before", gae_lambda=0.0, gamma=0.5)
    # the truncated row 1 of the first environment: reward 3, value 2, led to 102
    np.testing.assert_allclose(found.advantages[1, 0], 3 + 0.5 * 102 - 2)
    # a row whose episode goes on leads to the next observation, whatever its last one would be
    np.testing.assert_allclose(found.advantages[0, 0], 1 + 0.5 * 2 - 0)
    np.testing.assert_allclose(found.advantages[2, 1], 5 - 5)


@pytest.mark.parametrize("correction", ["vtrace", "decoupled", "behaviour"])
def test_v_trace_estimates_with_the_weights_of_the_lag(correction: str) -> None:
    rows = experience(proximal_log_probs=jnp.asarray(ROLLOUT.log_probs[::-1]))
    found, _ = estimate(rows, overlap="full", lag_correction=correction)
    plain, _ = estimate(experience())
    if correction == "vtrace":
        values, _ = critic().unroll(rows.observations, (), FIRST)
        expected = F.vtrace_advantages(
            *(rows.rewards, values[:-1], values[1:], TERMINATED, TRUNCATED),
            gamma=0.99,
            gae_lambda=0.95,
            log_probs=rows.proximal_log_probs,
            old_log_probs=rows.old_log_probs,
            weights=rows.weights,
        )
        np.testing.assert_allclose(found.advantages, expected, rtol=1e-6)
        assert not np.allclose(expected, plain.advantages)
    else:
        np.testing.assert_array_equal(found.advantages, plain.advantages)


@pytest.mark.parametrize("name", ["td", "monte_carlo", "reward_to_go", "trajectory_return"])
def test_v_trace_corrects_gae_alone(name: str) -> None:
    options = {"advantage_estimator": name, "lag_correction": "vtrace"}
    lagging = experience(proximal_log_probs=jnp.asarray(ROLLOUT.log_probs[::-1]))
    for ours, theirs in zip(
        estimate(lagging, **options)[0], estimate(experience(), **options)[0], strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_no_gradient_flows_through_what_a_critic_estimates() -> None:
    def total(network: Any) -> jax.Array:
        found, _ = estimate(experience(), network)
        return found.advantages.sum() + found.targets.sum() + found.values.sum()

    assert not any(np.any(x) for x in jax.tree.leaves(jax.grad(total)(critic())))


def test_rewards_are_divided_by_the_spread_of_the_discounted_return_by_hand() -> None:
    config = Config(num_envs=N, num_steps=T, gamma=0.5, reward_clip=2.0)
    scaler = make_reward_scaler(config)
    after, scaled = scaler(ROLLOUT)
    # episodes: 1, 3 + 0.5; then 6, 7 + 3; beside it 2, 4 + 1, 5 + 2.5; then 8
    returns = [1, 3.5, 6, 10, 2, 5, 7.5, 8]
    std = np.std(returns)
    np.testing.assert_allclose(scaled, np.clip(ROLLOUT.rewards / std, -2, 2), rtol=1e-5)
    assert float(F.count_of(after.moments)) == 8
    np.testing.assert_allclose(after.moments.variance, std**2, rtol=1e-5)
    np.testing.assert_allclose(after.accumulators, [10, 8])
    np.testing.assert_array_equal(after.begin_anew().accumulators, [0, 0])
    np.testing.assert_array_equal(after.begin_anew().moments.variance, after.moments.variance)
    # the running episodes go on into the next rollout
    again, _ = after(ROLLOUT)
    np.testing.assert_allclose(again.moments.mean, np.mean([*returns, 6, 6, 6, 10, 6, 7, 8.5, 8]))


def test_a_disabled_scaler_leaves_rewards_as_they_are_and_never_learns() -> None:
    scaler = make_reward_scaler(Config(num_envs=N, scale_rewards=False, reward_clip=0.1))
    after, rewards = scaler(ROLLOUT)
    np.testing.assert_array_equal(rewards, ROLLOUT.rewards)
    assert float(F.count_of(after.moments)) == 0
