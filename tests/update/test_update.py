"""Laws of one whole update, on experience collected by the library itself."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import PROBE, TINY, extended

from surefoot import functional as F
from surefoot.config import Config
from surefoot.envs import make_environment
from surefoot.training import Trainer
from surefoot.update import make_executors
from surefoot.update.experience import estimate_advantages

CONFIG = TINY.replace(learning_rate=1e-2, overlap="off")


@functools.cache
def trainer(task: str = PROBE, **options):
    """A trainer and its first state; what it compiled serves all tests that ask for the same."""
    config = CONFIG.replace(**options)
    env = make_environment(task, config.num_envs, seed=np.random.SeedSequence(0))
    made = Trainer(config, env, make_executors(config))
    return made, made.start()


def collect(made: Trainer, state, iterations: int = 1):
    """State and experience after a few whole iterations and one more collection."""
    for _ in range(iterations):
        state, experience = collect(made, state, 0)
        state, _ = optimize(made, state, experience)
    state, rollout = made.collect(state, made.policy(state))
    state, gathered = made.make_experience(state, rollout)
    return state, gathered.experience


def optimize(made: Trainer, state, experience):
    """State and metrics after the update."""
    state, estimated = made.estimate_advantages(state, experience)
    state, parts = made.update(state, experience, estimated)
    state = state.advance(int(experience.num_steps()))
    names = [name for part in parts for name in part]
    assert len(names) == len(set(names))
    return state, {name: value for part in parts for name, value in part.items()}


def critic_of(made: Trainer, state):
    return state.learners["critic"].params.values()


def estimate(critic, experience, config: Config):
    return estimate_advantages(critic, (), experience, config, exact=True)[0]


def leaves(tree) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize(
    ("task", "options"),
    [
        (PROBE, {"initial_std": 5.0}),
        extended("probe:both/discrete", {}),
        extended(PROBE, {"distribution": "beta", "initial_std": 0.4}),
        extended(PROBE, {"shared_trunk": True}),
        extended(PROBE, {"recompute_advantages": True}),
        extended(PROBE, {"distribution": "squashed_gaussian"}),
        extended(PROBE, {"state_dependent_std": True}),
        extended(PROBE, {"joint_loss": True}),
    ],
)
def test_ratio_is_one_before_the_first_gradient_step(task: str, options: dict) -> None:
    made, state = trainer(task, **options, num_epochs=1, num_minibatches=1)
    state, experience = collect(made, state, iterations=3)
    _, metrics = optimize(made, state, experience)
    np.testing.assert_allclose(metrics["policy/ratio_max"], 1.0, atol=2e-6)
    np.testing.assert_allclose(metrics["policy/approx_kl"], 0.0, atol=1e-6)
    assert float(metrics["policy/clip_fraction"]) == 0.0


def test_estimates_agree_with_the_mathematics_called_by_hand() -> None:
    made, state = trainer()
    _, experience = collect(made, state, iterations=0)
    critic = critic_of(made, state)
    values, _ = critic.unroll(experience.observations, (), experience.first)
    rows = (experience.rewards, values[:-1], values[1:])
    rows += (experience.terminated, experience.truncated)
    by_name = {
        "gae": F.gae(*rows, gamma=0.99, gae_lambda=0.95, weights=experience.weights),
        "td": F.td_residuals(*rows, gamma=0.99, weights=experience.weights),
        "monte_carlo": F.monte_carlo_advantages(*rows, gamma=0.99, weights=experience.weights),
        "reward_to_go": F.reward_to_go(*rows, gamma=0.99, weights=experience.weights),
        "trajectory_return": F.trajectory_returns(*rows, gamma=0.99, weights=experience.weights),
    }
    to_go = by_name["reward_to_go"]
    for name, advantages in by_name.items():
        got = estimate(critic, experience, CONFIG.replace(advantage_estimator=name))
        np.testing.assert_array_equal(got.advantages, advantages)
        plain = name in ("reward_to_go", "trajectory_return")
        valid = experience.weights > 0
        expected = to_go if plain else advantages + values[:-1]
        np.testing.assert_allclose(got.targets[valid], expected[valid], rtol=1e-6)


def test_the_value_of_the_true_last_observation_is_bootstrapped_at_a_time_limit() -> None:
    made, state = trainer("probe:truncated", gamma=0.9)
    _, experience = collect(made, state, iterations=0)
    # the probe always looks the same: make every observation one of its own
    observations = experience.observations["observation"]
    observations = {"observation": jax.random.normal(jax.random.key(0), observations.shape)}
    experience = experience._replace(observations=observations, rewards=experience.weights)
    critic = critic_of(made, state)
    values, _ = critic.unroll(observations, (), experience.first)
    assert len(np.unique(values)) == values.size
    got = estimate(critic, experience, made.config.replace(gae_lambda=0.0)).advantages
    last = experience.truncated & (experience.weights > 0)
    assert bool(last.any())
    expected = 1.0 + 0.9 * values[1:] - values[:-1]
    np.testing.assert_allclose(got[last], expected[last], rtol=1e-5)


@pytest.mark.parametrize("task", ["probe:late-reward", "probe:truncated"])
def test_rewards_are_scaled_by_the_std_of_the_discounted_return(task: str) -> None:
    made, state = trainer(task, gamma=0.9)
    total, returns = np.zeros(4), []
    for iteration in range(3):
        state, rollout = made.collect(state, made.policy(state))
        state, gathered = made.make_experience(state, rollout)
        state = state._replace(iteration=iteration + 1)
        for t in range(16):
            valid = np.asarray(rollout.valid[t])
            total = 0.9 * total + np.asarray(rollout.rewards[t])
            returns += total[valid].tolist()
            total = np.where(rollout.ended[t], 0.0, total)
        expected = np.asarray(rollout.rewards) / np.sqrt(np.var(returns) + 1e-8)
        np.testing.assert_allclose(
            gathered.experience.rewards, np.clip(expected, -10, 10), rtol=1e-4
        )


def test_a_reward_on_a_reset_row_reaches_no_running_return() -> None:
    made, state = trainer()
    state, rollout = made.collect(state, made.policy(state))
    assert not bool(rollout.valid.all())
    poisoned = rollout._replace(rewards=jnp.where(rollout.valid, rollout.rewards, jnp.nan))
    clean, _ = made.make_experience(state, rollout)
    dirty, _ = made.make_experience(state, poisoned)
    assert leaves(clean.reward_scaler) == leaves(dirty.reward_scaler)


def test_statistics_see_valid_rows_alone_and_only_after_the_update() -> None:
    made, state = trainer("probe:observation")
    state, rollout = made.collect(state, made.policy(state))
    after, gathered = made.make_experience(state, rollout)
    # the first rollout passes through an empty normalizer unchanged
    np.testing.assert_array_equal(
        gathered.experience.observations["observation"], rollout.observations["observation"]
    )
    moments = after.normalizer.moments["observation"]
    rows = np.asarray(rollout.observations["observation"][:-1])[np.asarray(rollout.valid)]
    assert float(F.count_of(moments)) == rows.shape[0] == int(rollout.valid.sum())
    np.testing.assert_allclose(moments.mean, rows.mean(0), atol=1e-6)
    np.testing.assert_allclose(moments.variance, rows.var(0), rtol=1e-5)


def test_the_critic_reads_the_last_observation_as_it_reads_the_others() -> None:
    made, state = trainer("CartPole-v1")
    state, _ = collect(made, state, iterations=0)  # so that the normalizer has something to do
    moments = state.normalizer.moments["observation"]
    _, rollout = made.collect(state, made.policy(state))
    experience = made.make_experience(state, rollout)[1].experience
    seen = rollout.observations["observation"]
    expected = (seen - moments.mean) / np.sqrt(moments.variance)
    read = experience.observations["observation"]
    assert read.shape[0] == made.config.num_steps + 1
    np.testing.assert_allclose(read, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(experience.seen()["observation"], read[:-1])


def test_the_normalizer_has_seen_what_the_policy_saw() -> None:
    made, state = trainer("CartPole-v1")
    state, rollout = made.collect(state, made.policy(state))
    state, _ = made.make_experience(state, rollout)
    acted_on = np.asarray(rollout.observations["observation"][:-1], np.float64)
    rows = acted_on[np.asarray(rollout.valid)]
    moments = state.normalizer.moments["observation"]
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(moments.variance, rows.var(axis=0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "options",
    [{}, extended({"joint_loss": True}), extended({"recompute_advantages": True})],
    ids=str,
)
def test_an_update_begins_by_rescaling_normalized_values_once(options: dict) -> None:
    made, state = trainer(normalize_values=True, **options)
    state, experience = collect(made, state, 0)
    last = made.updater.specs[-1].name
    _, estimated = made.estimate_advantages(state, experience)
    targets, weights = estimated.estimates.targets, experience.weights
    state, _ = optimize(made, state, experience)
    scale = state.learners[last].params.critic.scale
    mean = F.masked_mean(targets, weights)
    assert float(scale.batches) == 1.0
    np.testing.assert_allclose(scale.mean, mean, rtol=1e-5)
    variance = F.masked_mean(jnp.square(targets - mean), weights)
    np.testing.assert_allclose(scale.std, jnp.maximum(jnp.sqrt(variance), 1e-4), rtol=1e-4)


@pytest.mark.extended
@pytest.mark.parametrize("factor", [1e12, 1e25])
@pytest.mark.parametrize("options", [{}, {"recompute_advantages": True}], ids=str)
def test_normalized_values_may_be_large_and_a_refused_update_leaves_no_trace(
    factor: float, options: dict
) -> None:
    made, start = trainer(normalize_values=True, scale_rewards=False, **options)
    state, experience = collect(made, start, 0)
    spoilt = experience._replace(rewards=experience.rewards * factor)
    after, _ = optimize(made, state, spoilt)
    refused = int(after.learners["critic"].skipped)
    assert refused == (factor > 1e20)  # whose squares no float32 holds
    if refused:
        before = jax.tree.leaves(state.learners["critic"].params)
        for a, b in zip(before, jax.tree.leaves(after.learners["critic"].params), strict=True):
            np.testing.assert_array_equal(a, b)
    else:
        assert float(after.learners["critic"].params.critic.scale.std) > 1e9
    again, _ = optimize(made, after, experience)
    assert int(again.learners["critic"].skipped) == refused


def test_a_refused_update_keeps_what_values_were_relative_to() -> None:
    made, state = trainer(normalize_values=True, critic_learning_rate=1e15)
    state, experience = collect(made, state, 0)
    after, _ = optimize(made, state, experience)
    before, kept = (x.learners["critic"] for x in (state, after))
    assert int(kept.skipped) == 1
    for a, b in zip(jax.tree.leaves(before.params), jax.tree.leaves(kept.params), strict=True):
        np.testing.assert_array_equal(a, b)
