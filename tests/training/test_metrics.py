"""What each metric of a rollout, a batch and an update says, on numbers that can be counted by hand."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefoot.networks import Actor, MemorySpec, PolicyHead, TorsoSpec, make_actor
from surefoot.rollout import Rollout
from surefoot.training.metrics import batch_metrics, rollout_metrics, update_metrics
from surefoot.update import Estimates, Experience

T, N = 3, 2
NO = np.zeros((T, N), bool)


def rows(*values: Any) -> np.ndarray:
    return np.array(values).reshape(T, N)


def rollout(**fields: Any) -> Rollout:
    """Three steps of two environments in which nothing happens, but for the fields given."""
    zeros = np.zeros((T, N), np.float32)
    nothing = {
        "observations": {"o": np.zeros((T + 1, N, 1), np.float32)},
        "first": np.zeros((T + 1, N), bool),
        "carry": (),
        "raw_actions": np.zeros((T, N, 1), np.float32),
        "log_probs": zeros,
        "rewards": zeros,
        "terminated": NO,
        "truncated": NO,
        "valid": ~NO,
        "info": {},
        "episode_returns": zeros,
        "episode_lengths": np.zeros((T, N), np.int32),
        "masked": np.zeros(N, np.int32),
        "faults": {},
    }
    return Rollout(**(nothing | fields))


def of_rollout(*, exact: bool = True, **fields: Any) -> dict[str, float]:
    return {name: float(x) for name, x in rollout_metrics(rollout(**fields), exact=exact).items()}


# ends: terminated and counted; truncated, as it was lost; both at once; truncated
TERMINATED = rows(True, False, False, True, False, False)
TRUNCATED = rows(False, True, False, True, False, True)
VALID = rows(True, False, True, True, True, True)
RETURNS = rows(10.0, 99.0, 1.0, 20.0, 2.0, 60.0).astype(np.float32)
LENGTHS = rows(4, 99, 1, 5, 2, 12)


def test_episode_metrics_are_means_over_the_sound_episodes_that_ended() -> None:
    said = of_rollout(
        terminated=TERMINATED,
        truncated=TRUNCATED,
        valid=VALID,
        episode_returns=RETURNS,
        episode_lengths=LENGTHS,
        masked=np.array([2, 5]),
    )
    assert said["rollout/episodes"] == 3
    assert said["rollout/episode_return"] == 30.0
    assert said["rollout/episode_length"] == 7.0
    # what terminates on its last step was not ended by the time limit
    assert said["rollout/truncated_share"] == pytest.approx(1 / 3)
    assert said["rollout/lost_episodes"] == 1
    assert said["rollout/masked_steps"] == 7
    assert "rollout/inexact_truncations" not in said


def test_episodes_that_a_time_limit_alone_ended_are_all_truncated() -> None:
    said = of_rollout(truncated=TRUNCATED & ~TERMINATED, valid=VALID)
    assert said["rollout/truncated_share"] == 1.0


def test_a_time_limit_whose_last_observation_is_lost_is_counted() -> None:
    said = of_rollout(exact=False, terminated=TERMINATED, truncated=TRUNCATED, valid=VALID)
    assert said["rollout/inexact_truncations"] == 1


def test_a_time_limit_at_which_the_episode_terminates_loses_nothing() -> None:
    ends = rows(True, False, True, True, False, False)
    said = of_rollout(exact=False, terminated=ends, truncated=ends | TRUNCATED)
    assert said["rollout/inexact_truncations"] == 2  # of the five


def test_where_no_episode_ended_its_means_are_nan() -> None:
    said = of_rollout(info={"success": np.ones((T, N), np.float32)})
    assert said["rollout/episodes"] == 0
    for name in ("episode_return", "episode_length", "truncated_share", "success_rate"):
        assert math.isnan(said[f"rollout/{name}"])


def test_one_episode_is_enough_for_a_mean() -> None:
    ends = rows(False, False, False, False, True, False)
    assert of_rollout(terminated=ends, episode_returns=RETURNS)["rollout/episode_return"] == 2.0


def test_the_largest_reward_is_without_sign_and_of_rows_that_are_experience() -> None:
    rewards = rows(1.0, 9.0, -3.0, 2.0, 0.0, 0.0).astype(np.float32)
    said = of_rollout(rewards=rewards, valid=VALID)
    assert said["batch/reward_max"] == 3.0


@pytest.mark.parametrize("name", ["success", "is_success", "reward_success"])
def test_success_is_counted_where_a_sound_episode_ends_and_says_so(name: str) -> None:
    # rows that end: 1, (lost), nan, 0; what the others say does not count
    info = {name: rows(1.0, 1.0, 1.0, np.nan, 1.0, 0.0).astype(np.float32)}
    said = of_rollout(terminated=TERMINATED, truncated=TRUNCATED, valid=VALID, info=info)
    assert said["rollout/success_rate"] == 0.5


def test_one_episode_that_says_so_is_enough_for_a_rate() -> None:
    info = {"success": rows(*[np.nan] * 5, 0.25).astype(np.float32)}
    assert of_rollout(truncated=TRUNCATED, info=info)["rollout/success_rate"] == 1.0


def test_what_no_step_says_anything_of_has_no_mean() -> None:
    info = {"measure_far": np.full((T, N), np.nan, np.float32)}
    assert math.isnan(of_rollout(info=info)["measure/far"])


def test_reward_terms_are_means_over_the_steps_that_say_something() -> None:
    info = {
        "reward_alive": rows(1.0, 50.0, np.nan, 3.0, 5.0, 7.0).astype(np.float32),
        "height": np.ones((T, N), np.float32),
    }
    said = of_rollout(valid=VALID, info=info)
    assert said["reward/alive"] == 4.0
    assert not any("height" in name for name in said)


def experience(**fields: Any) -> Experience:
    ones = jnp.ones((T, N))
    observations = jnp.asarray([[[0.5, -2.0], [2.0, 1.0]]] * T + [[[9.0, 9.0]] * 2])
    nothing = {
        "observations": {"a": observations, "b": 9.0 * observations},
        "first": jnp.zeros((T + 1, N), bool),
        "carry": (),
        "raw_actions": jnp.asarray([[[0.9], [-1.0]], [[1.0], [0.0]], [[-0.5], [2.0]]]),
        "old_log_probs": jnp.zeros((T, N)),
        "rewards": jnp.zeros((T, N)),
        "terminated": jnp.zeros((T, N), bool),
        "truncated": jnp.zeros((T, N), bool),
        "weights": ones.at[0, 0].set(0.0),
    }
    return Experience(**(nothing | fields))


def test_shares_at_the_clip_and_at_the_bounds_are_of_the_rows_that_are_experience() -> None:
    said = batch_metrics(experience(), ("a",), clip=2.0, head="gaussian")
    # rows that count: two of (0.5, -2), three of (2, 1), one component at the clip in each
    assert float(said["batch/observation_clip_share"]) == pytest.approx(0.5)
    assert float(said["batch/action_bound_share"]) == pytest.approx(3 / 5)
    # a group that the actor does not read does not count
    assert float(
        batch_metrics(experience(), ("b",), clip=2.0, head="gaussian")[
            "batch/observation_clip_share"
        ]
    ) == pytest.approx(1.0)


def test_the_share_at_the_clip_is_of_all_groups_that_the_actor_reads() -> None:
    said = batch_metrics(experience(), ("a", "b"), clip=2.0, head="beta")
    assert float(said["batch/observation_clip_share"]) == pytest.approx(0.75)  # 1/2 of a, all of b


def test_shares_that_mean_nothing_are_not_reported() -> None:
    assert not batch_metrics(experience(), ("a",), clip=math.inf, head="categorical")
    assert list(batch_metrics(experience(), ("a",), clip=3.0, head="beta")) == [
        "batch/observation_clip_share"
    ]


def actor(std: float = 1.0) -> Actor:
    torso = TorsoSpec(("a",), 2, (4,), "tanh")
    head = PolicyHead("gaussian", (1,))
    key = jnp.asarray([0, 1], jnp.uint32)
    return make_actor(key, torso, head, orthogonal=True, output_scale=0.01, initial_std=std)


def estimates() -> Estimates:
    advantages = jnp.asarray(rows(50.0, 1.0, 3.0, 1.0, 3.0, 2.0), jnp.float32)
    values = jnp.asarray(rows(9.0, 0.0, 0.0, 0.0, 0.0, 0.0), jnp.float32)
    targets = jnp.asarray(rows(0.0, 1.0, 2.0, 3.0, 4.0, 5.0), jnp.float32)
    return Estimates(advantages, targets, values)


def test_the_spread_of_the_advantages_is_that_of_the_rows_that_are_experience() -> None:
    said = update_metrics(actor(), actor(), experience(), estimates())
    assert float(said["batch/advantage_std"]) == pytest.approx(math.sqrt(0.8))
    assert float(said["value/explained_variance"]) == pytest.approx(0.0, abs=1e-6)
    assert not any(name.startswith("async/") for name in said)


def log_probs(of: Actor, batch: Experience) -> np.ndarray:
    seen = {"a": batch.observations["a"][:-1]}
    return np.array(of.unroll(seen, (), None).log_prob(batch.raw_actions))


def test_the_ratio_error_is_the_largest_of_the_last_row_before_the_first_step() -> None:
    old, new = actor(), actor(std=0.5)
    exact = log_probs(old, experience())
    collected = exact + np.array([[9.0, 9.0], [9.0, 9.0], [math.log(2.0), -math.log(1.25)]])
    batch = experience(old_log_probs=jnp.asarray(collected, jnp.float32))
    said = update_metrics(old, new, batch, estimates())
    assert float(said["policy/first_ratio_error"]) == pytest.approx(0.5, rel=1e-4)  # 1/2 - 1
    # a row that is no experience has no say
    batch = batch._replace(weights=batch.weights.at[-1, 0].set(0.0))
    said = update_metrics(old, new, batch, estimates())
    assert float(said["policy/first_ratio_error"]) == pytest.approx(0.25, rel=1e-4)
    # the policy after the update is the one whose spread is reported
    assert float(said["policy/std"]) == pytest.approx(0.5, rel=1e-5)


def test_an_older_policy_that_collected_is_measured_against_the_one_the_update_begins_with() -> (
    None
):
    old = actor()
    exact = log_probs(old, experience())
    ratios = rows(100.0, 1.0, 1.0, 1.0, 1.0, 3.0)
    batch = experience(
        old_log_probs=jnp.asarray(exact - np.log(ratios), jnp.float32),
        proximal_log_probs=jnp.asarray(exact, jnp.float32),
    )
    said = update_metrics(old, old, batch, estimates())
    assert float(said["policy/first_ratio_error"]) == pytest.approx(0.0, abs=1e-5)
    # of the five rows that count: (1 + 1 + 1 + 1 + 3)^2 / (1 + 1 + 1 + 1 + 9) / 5
    assert float(said["async/effective_sample_share"]) == pytest.approx(49 / 13 / 5, rel=1e-4)
    assert float(said["async/ratio_max"]) == pytest.approx(3.0, rel=1e-4)


def test_one_row_of_experience_is_a_whole_sample() -> None:
    weights = jnp.zeros((T, N)).at[-1, 0].set(1.0)
    batch = experience(weights=weights, proximal_log_probs=jnp.zeros((T, N)))
    said = update_metrics(actor(), actor(), batch, estimates())
    assert float(said["async/effective_sample_share"]) == pytest.approx(1.0)


@pytest.mark.parametrize("memory", [None, MemorySpec("gru", 3, 1)])
def test_the_last_row_is_looked_at_as_it_was_acted_on(memory: MemorySpec | None) -> None:
    random = np.random.default_rng(3)
    torso = TorsoSpec(("a",), 2, (4,), "tanh", memory)
    of = make_actor(
        jax.random.key(0),
        torso,
        PolicyHead("gaussian", (1,)),
        orthogonal=True,
        output_scale=3.0,
        initial_std=0.5,
    )
    carry = jax.tree.map(lambda x: x + 0.5, torso.initial_carry(N))
    first = jnp.zeros((T + 1, N), bool).at[1, 0].set(True).at[2, 1].set(True)
    batch = experience(
        observations={"a": jnp.asarray(random.normal(size=(T + 1, N, 2)), jnp.float32)},
        first=first,
        carry=carry,
        weights=jnp.ones((T, N)),
    )
    now, told = carry, []
    for t in range(T):
        row = {"a": batch.observations["a"][t]}
        distribution, now = of.step(row, now, first[t])
        told.append(distribution.log_prob(batch.raw_actions[t]))
    batch = batch._replace(old_log_probs=jnp.stack(told))
    said = update_metrics(of, of, batch, estimates())
    assert float(said["policy/first_ratio_error"]) < 1e-5


def test_a_batch_without_experience_divides_by_nothing() -> None:
    batch = experience(weights=jnp.zeros((T, N)), proximal_log_probs=jnp.zeros((T, N)))
    said = update_metrics(actor(), actor(), batch, estimates())
    assert float(said["async/effective_sample_share"]) == 0.0
    assert float(said["policy/first_ratio_error"]) == 0.0
