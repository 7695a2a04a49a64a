"""Learning on real simulators: quick ones always, curves of minutes marked slow."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from tests.helpers import TINY

from surefoot.config import Config, parse_options
from surefoot.envs import make_environment
from surefoot.training import evaluate, train

PATHS = ["CartPole-v1", "gymnasium:CartPole-v1", "gymnax:CartPole-v1"]


def deterministic_return(task: str, config: Config, episodes: int = 20) -> float:
    _, policy = train(task, config)
    env = make_environment(task, episodes, seed=np.random.SeedSequence(1))
    return evaluate(policy, env, episodes, key=jax.random.key(1))["episode_return_mean"]


@pytest.mark.extended
@pytest.mark.parametrize("task", PATHS)
def test_cart_pole_is_balanced_on_every_path(task: str) -> None:
    config = Config(total_steps=60_000, learning_rate=1e-3, num_epochs=6)
    assert deterministic_return(task, config) >= 475


@pytest.mark.extended
@pytest.mark.parametrize("task", PATHS)
def test_every_path_learns_the_value_of_a_task_that_only_truncates(task: str) -> None:
    # no pole falls within 5 steps, so each is worth 1 and all end by the time limit:
    # V = 1 / (1 - gamma) everywhere, and 4.1 or less if a time limit were taken for a termination
    name = "max_steps_in_episode" if "gymnax" in task else "max_episode_steps"
    config = TINY.replace(
        total_steps=8_000,
        learning_rate=1e-2,
        gamma=0.9,
        scale_rewards=False,
        env_options=(f"{name}=5",),
    )
    state, policy = train(task, config)
    options = parse_options(config.env_options)
    env = make_environment(task, 16, seed=np.random.SeedSequence(1), options=options)
    _, step = env.reset(jax.random.key(0))
    critic = state.learners["critic"].params.values()
    values, _ = critic.unroll(policy.normalizer(step.observation), (), np.ones(16, bool))
    np.testing.assert_allclose(values, 10.0, atol=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "steps", "least"),
    [
        ("HalfCheetah-v5", 500_000, 2000),
        ("Hopper-v5", 500_000, 1000),
        ("gymnasium:Hopper-v5", 500_000, 1000),
        ("InvertedPendulum-v5", 300_000, 900),
    ],
)
def test_default_configuration_learns(task: str, steps: int, least: float) -> None:
    assert deterministic_return(task, Config(total_steps=steps)) >= least
