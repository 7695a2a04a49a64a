"""Each probe pins the critic's value and the best action; a failing one names the broken part."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest
from tests.helpers import TINY, extended, few
from tests.training.helpers import Chosen, in_turn, trainer_for

from surefoot.agent import Policy
from surefoot.envs import make_environment
from surefoot.envs.probes import PROBES, make_probe
from surefoot.rollout import Collector, Rollout, make_collector
from surefoot.training import Trainer, TrainState, evaluate, train

GAMMA = 0.9
CONFIG = TINY.replace(
    total_steps=7_000,
    learning_rate=3e-2,
    initial_std=0.5,
    gamma=GAMMA,
    scale_rewards=False,
    normalize_observations=False,
)
KINDS = [("discrete", "gaussian"), ("continuous", "gaussian")]
# the same critic, and the same loop around another distribution: one update of theirs is looked at below
FURTHER = [extended("continuous", name) for name in ("squashed_gaussian", "beta")]
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


@functools.cache
def compiled(actions: Any, distribution: str) -> tuple[Trainer, Chosen, Collector]:
    """A trainer whose programs serve every probe, its environment, and what plays a policy."""
    config = CONFIG.replace(distribution=distribution)
    env = Chosen([make_probe(name, actions=actions) for name in EXPECTED], config.num_envs)
    playing = make_collector(env, num_steps=config.num_steps, deterministic=True)
    return Trainer(config, env, in_turn()), env, playing


def trained(trainer: Trainer) -> TrainState:
    """The loop, without anyone who listens."""
    state = trainer.start()
    while state.step < trainer.config.total_steps:
        state, rollout = trainer.collect(state, trainer.policy(state))
        state, gathered = trainer.make_experience(state, rollout)
        state, estimated = trainer.estimate_advantages(state, gathered.experience)
        state, _ = trainer.update(state, gathered.experience, estimated)
        state = state.advance(int(gathered.experience.num_steps()))
    return state


@pytest.mark.parametrize(("actions", "distribution"), [KINDS[0], extended(*KINDS[1]), *FURTHER])
@pytest.mark.parametrize("probe", few(4, EXPECTED))
def test_probe_is_solved(probe: str, actions: str, distribution: str) -> None:
    trainer, env, playing = compiled(actions, distribution)
    env.index = list(EXPECTED).index(probe)
    state = trained(trainer)
    observations, values, best = EXPECTED[probe]
    critic = state.learners["critic"].params.values()
    first = np.zeros(len(observations), bool)
    learned, _ = critic.unroll({"observation": observations}, (), first)
    np.testing.assert_allclose(learned, values, atol=0.04 * max(1.0, np.max(np.abs(values))))
    if best is not None:
        policy = trainer.policy(state)
        result = evaluate(policy, env, 16, key=jax.random.key(0), collect=playing)
        assert result["episode_return_mean"] == best


def test_every_probe_has_an_expectation() -> None:
    # the one for memory is in test_memory.py
    assert set(EXPECTED) == set(PROBES) - {"t-maze"}


# --- objectives and estimators

TASK = "probe:both/continuous"
QUICK = TINY.replace(total_steps=4_000, learning_rate=2e-2)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"joint_loss": True},
    {"shared_trunk": True},
    {"recompute_advantages": True},
    {"surrogate": "ratio", "target_kl": 0.02},
    {"surrogate": "policy_gradient", "learning_rate": 5e-3},
    {"surrogate": "kl_penalty"},
    {"surrogate": "spo"},
    {"restart_adam": True},
    {"outer_step": 1.5},
    {"algorithm": "trpo"},
    {"advantage_estimator": "td"},
    {"advantage_estimator": "monte_carlo"},
    {"advantage_estimator": "reward_to_go"},
    {"advantage_estimator": "trajectory_return"},
    {"learning_rate_schedule": "kl_adaptive"},
    {"surrogate": "kl_penalty", "learning_rate_schedule": "kl_adaptive"},
    {"value_clip_epsilon": 0.5},
    {"value_loss": "hl_gauss"},
    {"normalize_values": True},
    {"actor_layer_norm": True, "critic_layer_norm": True},
    {
        "actor_residual": True,
        "actor_hidden": (8, 8),
        "critic_residual": True,
        "critic_hidden": (8, 8),
    },
    {"normalize_observations": False, "scale_rewards": False},
    {"distribution": "squashed_gaussian"},
    {"distribution": "beta", "initial_std": 0.5},
    {"distribution": "binned", "action_bins": 9},
    {"gsde": True},
    {"critic_epochs": 4},
]
# what adapts from update to update
CORE = [{"surrogate": "kl_penalty", "learning_rate_schedule": "kl_adaptive"}]


def right_sides(policy: Policy) -> np.ndarray:
    """How far the mode of the action is on the side of each cue."""
    inputs = policy.normalizer({"observation": CUES})
    distribution, _ = policy.actor.step(inputs, (), np.zeros(2, bool))
    return np.asarray(distribution.to_action(distribution.mode()) * CUES)[:, 0]


@functools.cache
def one_rollout(distribution: str, initial_std: float) -> Rollout:
    """What the first policy, which is the same under all other options, brings home."""
    trainer = trainer_for(TASK, TINY.replace(distribution=distribution, initial_std=initial_std))
    state = trainer.start()
    return trainer.collect(state, trainer.policy(state))[1]


@pytest.mark.extended
# a beta's operations would be compiled for this alone; of binned actions the likeliest does not move at once
@pytest.mark.parametrize(
    "options", [x for x in OPTIONS if x.get("distribution") not in ("beta", "binned")], ids=str
)
def test_every_objective_and_estimator_moves_each_action_to_the_right_side(options: dict) -> None:
    """One update, nothing of it compiled but single operations."""
    config = QUICK.replace(num_minibatches=2, num_epochs=1, **options)
    trainer = trainer_for(TASK, config)
    rollout = one_rollout(config.distribution, config.initial_std)
    with jax.disable_jit():
        state = trainer.init()
        before = right_sides(trainer.policy(state))
        _, gathered = trainer.make_experience(state, rollout)
        _, estimated = trainer.estimate_advantages(state, gathered.experience)
        state, _ = trainer.update(state, gathered.experience, estimated)
        after = right_sides(trainer.policy(state))
    assert (after > before).all()


@pytest.mark.parametrize(
    "options",
    [x if x in CORE else extended(x) for x in OPTIONS],
    ids=str,
)
def test_every_objective_and_estimator_learns_which_action_is_right(options: dict) -> None:
    _, policy = train(TASK, QUICK.replace(**options))
    env = make_environment(TASK, 4, seed=np.random.SeedSequence(0))
    playing = make_collector(env, num_steps=16, deterministic=True)
    result = evaluate(policy, env, 16, key=jax.random.key(0), collect=playing)
    assert result["episode_return_mean"] == 1.0
