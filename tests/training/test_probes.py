"""Each probe pins the critic's value and the best action; a failing one names the broken part."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from surefoot.config import Config
from surefoot.envs import make_environment
from surefoot.envs.probes import PROBES
from surefoot.training import evaluate, train

GAMMA = 0.9
CONFIG = Config(
    total_steps=12_000,
    num_envs=16,
    num_steps=32,
    num_minibatches=8,
    num_epochs=4,
    learning_rate=5e-3,
    initial_std=0.5,
    gamma=GAMMA,
    scale_rewards=False,
    normalize_observations=False,
)
POLICIES = [
    ("discrete", "gaussian"),
    ("continuous", "gaussian"),
    ("continuous", "squashed_gaussian"),
    ("continuous", "beta"),
]
ONE = np.ones((1, 1), np.float32)
CUES = np.array([[-1.0], [1.0]], np.float32)


def times(length: int) -> np.ndarray:
    return (np.arange(length, dtype=np.float32) / length)[:, None]


def discounted(rewards: list[float]) -> list[float]:
    return [sum(GAMMA**k * r for k, r in enumerate(rewards[t:])) for t in range(len(rewards))]


# probe: (observations, their true values, best episode return over 16 episodes or None)
EXPECTED = {
    "constant": (ONE, [1.0], 1.0),
    "observation": (CUES, [-1.0, 1.0], None),
    "delayed": (times(2), discounted([0, 1]), 1.0),
    "action": (ONE, [1.0], 1.0),
    "both": (CUES, [1.0, 1.0], 1.0),
    "truncated": (ONE, [1 / (1 - GAMMA)], 5.0),
    "both-flags": (times(5), discounted([1.0] * 5), 5.0),
    "late-reward": (times(5), discounted([0, 0, 0, 0, 100.0]), 100.0),
}


@pytest.mark.parametrize(("actions", "distribution"), POLICIES)
@pytest.mark.parametrize("probe", PROBES)
def test_probe_is_solved(probe: str, actions: str, distribution: str) -> None:
    task = f"probe:{probe}/{actions}"
    config = CONFIG.replace(distribution=distribution)
    state, policy = train(task, config)
    observations, values, best = EXPECTED[probe]
    learned = state.learners["critic"].params(observations)
    np.testing.assert_allclose(learned, values, atol=0.04 * max(1.0, np.max(np.abs(values))))
    if best is not None:
        env = make_environment(task, 8, seed=np.random.SeedSequence(0))
        result = evaluate(policy, env, 16, key=jax.random.key(0))
        assert result["episode_return_mean"] == best


def test_every_probe_has_an_expectation() -> None:
    assert set(EXPECTED) == set(PROBES)


@pytest.mark.parametrize(
    "options",
    [
        {"joint_loss": True},
        {"shared_trunk": True},
        {"recompute_advantages": True},
        {"surrogate": "ratio", "target_kl": 0.02},
        {"surrogate": "policy_gradient", "learning_rate": 2e-3},
        {"surrogate": "kl_penalty"},
        {"algorithm": "trpo"},
        {"advantage_estimator": "td"},
        {"advantage_estimator": "monte_carlo"},
        {"advantage_estimator": "reward_to_go"},
        {"advantage_estimator": "trajectory_return"},
        {"learning_rate_schedule": "kl_adaptive"},
        {"value_clip_epsilon": 0.5},
        {"normalize_observations": True, "scale_rewards": True},
    ],
    ids=lambda options: "-".join(f"{k}={v}" for k, v in options.items()),
)
def test_every_objective_and_estimator_learns_which_action_is_right(options: dict) -> None:
    task = "probe:both/discrete"
    _, policy = train(task, CONFIG.replace(**options))
    env = make_environment(task, 8, seed=np.random.SeedSequence(0))
    assert evaluate(policy, env, 16, key=jax.random.key(0))["episode_return_mean"] == 1.0
