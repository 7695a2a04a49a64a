"""Runs made to fail in one way each are named; healthy runs are not spoken of."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from tests.helpers import PROBE, TINY, Recorder, extended

from surefoot.config import Config
from surefoot.envs import ActionSpec, SingleEnvironment, SingleStep
from surefoot.services.health import RULES, Health, examine
from surefoot.training import train

SMALL = Config(
    num_envs=8,
    num_steps=32,
    num_minibatches=4,
    num_epochs=5,
    actor_hidden=(16,),
    critic_hidden=(16,),
    total_steps=256 * 60,
)
WILD = {"learning_rate": 0.01, "clip_epsilon": math.inf, "num_epochs": 20}
NAMES = [rule.name for rule in RULES]


class Reach(SingleEnvironment):
    """Push a point to where it should be; what goes wrong is a parameter."""

    name = "reach"
    observations = {"seen": 2}
    action = ActionSpec("continuous", (1,), low=(-1.0,), high=(1.0,), shape=(1,))

    def __init__(self, **wrong: Any) -> None:
        self.wrong = {"reward": lambda near, action: near, "jump": 0.0} | wrong

    def reset(self, key):
        place = jax.random.uniform(key, minval=-1.0)
        return (place, jnp.int32(0)), {"seen": jnp.stack([place, 0.0])}

    def step(self, state, action, key):
        place, count = state
        place = place + 0.2 * action[0]
        reward = self.wrong["reward"](-jnp.abs(place), action[0])
        # grows a thousandfold every few steps, so that no statistic keeps up
        jump = jnp.exp(self.wrong["jump"] * count.astype(jnp.float32))
        seen = {"seen": jnp.stack([place, jump])}
        end = count >= 30
        return (place, count + 1), SingleStep(seen, reward, jnp.bool_(False), end)


class Steady(Health):
    """On a machine that nobody else uses."""

    def on_iteration(self, state: Any, metrics: Any) -> None:
        super().on_iteration(state, metrics | PACE)


REACH = Reach()
PACE = {"time/env_steps_per_second": 1000.0}


@functools.cache
def trained(task: Any = REACH, config: Config = SMALL) -> Recorder:
    """What a run leaves, once for all tests that look at it."""
    recorder = Recorder()
    train(task, config, hooks=[Steady(), recorder])
    recorder.rows = [row | PACE for row in recorder.rows]
    return recorder


def found(recorder: Recorder, config: Config) -> set[str]:
    return {finding.rule.name for finding in examine(recorder.rows, config)}


@pytest.mark.extended
@pytest.mark.parametrize(
    ("name", "task", "options"),
    [
        ("kl", REACH, WILD),
        ("clip fraction", REACH, WILD),
        ("no step", REACH, {"learning_rate": 1e-9}),
        ("entropy explosion", REACH, {"entropy_coef": 5.0, "learning_rate": 0.02}),
        ("entropy collapse", REACH, {"entropy_coef": -5.0, "learning_rate": 0.02}),
        ("no reward", Reach(reward=lambda near, a: 0.0 * near), {}),
        ("time limit", Reach(reward=lambda near, a: 1.0 + 0.0 * near), {}),
        (
            "reward scale",
            Reach(reward=lambda near, a: 1e5 * near),
            {"scale_rewards": False},
        ),
        ("reward scale", Reach(reward=lambda near, a: 1e-5 * near), {"scale_rewards": False}),
        ("normalizer", Reach(jump=0.9), {"observation_clip": 1.0}),
        ("actions at their bounds", REACH, {"initial_std": 5.0}),
        (
            "explained variance",
            Reach(reward=lambda near, a: a),
            {"critic_learning_rate": 1e-12, "learning_rate": 1e-12, "gamma": 0.0},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_made_to_fail_is_named(name: str, task: Any, options: dict) -> None:
    config = SMALL.replace(**options)
    recorder = trained(task, config)
    assert name in found(recorder, config)
    rule = next(rule for rule in RULES if rule.name == name)
    said = [note for note in recorder.notes if rule.remedy in note]
    assert len(said) == 1
    assert f"Likely {rule.cause}. Try {rule.remedy}." in said[0]


@pytest.mark.extended
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ratio", {"policy/first_ratio_error": 0.3}),
        ("pace", {"time/env_steps_per_second": 10.0}),
        ("masked steps", {"rollout/masked_steps": 200}),
        ("constant advantages", {"batch/advantage_std": 1e-5}),
        ("clip fraction", {"policy/clip_fraction": 0.7}),
        (None, {"policy/clip_fraction": 0.6}),  # as a robot's policy of twelve joints that walks
    ],
)
def test_what_no_sound_run_shows_is_named_from_its_numbers(name: str | None, change: dict) -> None:
    rows = trained().rows
    rows = [row if i < 20 else row | change for i, row in enumerate(rows)]
    assert {f.rule.name for f in examine(rows, SMALL)} == ({name} if name else set())


@pytest.mark.extended
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, False),
        ({"target_kl": 0.004}, True),
        ({"target_kl": 0.006}, False),
        ({"surrogate": "kl_penalty", "desired_kl": 0.004}, True),
        ({"surrogate": "kl_penalty", "desired_kl": 0.006}, False),
        ({"learning_rate_schedule": "kl_adaptive", "desired_kl": 0.004}, True),
        ({"learning_rate_schedule": "kl_adaptive", "desired_kl": 0.006}, False),
        ({"desired_kl": 0.004}, False),  # which nothing reads
    ],
)
def test_a_kl_is_measured_by_what_the_options_aim_at(options: dict, named: bool) -> None:
    rows = [row | {"policy/approx_kl": 0.05} for row in trained().rows]
    assert ("kl" in {f.rule.name for f in examine(rows, SMALL.replace(**options))}) == named


def at_the_limit(**change: Any) -> list[dict[str, Any]]:
    """A run of 100 iterations in which every second one ends episodes, all at the limit with 500."""
    row = trained().rows[-1] | {"rollout/truncated_share": 1.0, "rollout/episode_return": 500.0}
    none = {"rollout/truncated_share": None, "rollout/episode_return": None}
    rows = [row | (change if i % 2 else none) for i in range(100)]
    return [row | {"step": 256 * (i + 1), "iteration": i + 1} for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("change", "iterations", "named"),
    [
        ({}, 100, True),
        ({}, 79, False),  # 20 with episodes, but half of the run is over
        ({"rollout/truncated_share": 0.99}, 100, False),
        ({"rollout/episode_return": 0.0}, 100, True),
    ],
)
def test_episodes_that_all_last_to_the_limit_alike(
    change: dict, iterations: int, named: bool
) -> None:
    config = SMALL.replace(total_steps=256 * iterations)
    names = {f.rule.name for f in examine(at_the_limit(**change), config)}
    assert ("time limit" in names) == named


def test_returns_that_still_grow_are_not_at_the_limit() -> None:
    rows = at_the_limit()
    for i, row in enumerate(rows):
        if row["rollout/episode_return"] is not None:
            row["rollout/episode_return"] += 0.3 * i
    config = SMALL.replace(total_steps=256 * 100)
    assert "time limit" not in {f.rule.name for f in examine(rows, config)}


def test_every_rule_is_tested() -> None:
    marks = [
        *test_a_run_made_to_fail_is_named.pytestmark,
        *test_what_no_sound_run_shows_is_named_from_its_numbers.pytestmark,
    ]
    tested = {case[0] for mark in marks if mark.args for case in mark.args[1]}
    assert tested - {None} == set(NAMES)


@pytest.mark.parametrize(
    ("task", "config"),
    [
        extended(REACH, SMALL),
        (PROBE, TINY.replace(learning_rate=1e-3)),
        extended("CartPole-v1", SMALL),
        extended("InvertedPendulum-v5", SMALL),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_healthy_runs_are_not_spoken_of(task: Any, config: Config) -> None:
    config = config.replace(total_steps=config.batch_size * 80)
    assert trained(task, config).notes == []


@pytest.mark.slow
@pytest.mark.parametrize("task", ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Humanoid-v5"])
def test_healthy_runs_of_robots_are_not_spoken_of(task: str) -> None:
    config = Config(total_steps=500_000, checkpoint_every=None)
    assert trained(task, config).notes == []
