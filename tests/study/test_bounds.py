"""Which returns a task can have, and that no interval of a study leaves them."""

from __future__ import annotations

import json
import math
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from tests.study.helpers import analysed, leaves

from surefoot.config import Config
from surefoot.study import bounds as module
from surefoot.study.bounds import around, return_bounds
from surefoot.study.plan import Study


def study(task: str, *options: str, **changes: Any) -> Study:
    arms = {"a": {}, "b": {"gamma": 0.9}}
    return Study("s", {task: Config(env_options=options)}, arms, "a", 2, **changes)


@pytest.mark.parametrize(
    ("task", "options", "expected"),
    [
        ("CartPole-v1", (), (0, 500)),
        ("envpool:CartPole-v0", (), (0, 200)),
        ("gymnasium:CartPole-v1", ("max_episode_steps=50",), (0, 50)),
        ("gymnax:CartPole-v1", ("max_steps_in_episode=50",), (0, 50)),
        ("gymnasium:CartPole-v1", ("sutton_barto_reward=true",), (-math.inf, math.inf)),
        ("CheetahRun-v1", (), (0, 1000)),
        ("LqrLqr21-v1", (), (-math.inf, math.inf)),
        ("Hopper-v5", (), (-math.inf, math.inf)),
        ("mine:CartPole-v1", (), (-math.inf, math.inf)),
        ("gymnasium:InvertedDoublePendulum-v5", (), (-math.inf, 10_000)),
    ],
)
def test_the_returns_of_known_tasks(
    task: str, options: tuple[str, ...], expected: tuple[float, float]
) -> None:
    assert return_bounds(study(task, *options), task) == expected


def test_settings_that_are_not_played_with_do_not_count() -> None:
    task = "CartPole-v1"
    assert return_bounds(study(task, "max_episode_steps=50", as_it_comes=True), task) == (0, 500)


def test_what_a_study_says_itself_comes_first() -> None:
    task = "mine.py:Env"
    assert return_bounds(study(task, "a=1", bounds={task: (-1.0, 1.0)}), task) == (-1.0, 1.0)


@pytest.mark.parametrize(
    "task", [task for task in module._KNOWN if not task.endswith(("-v2", "CartPole-v0"))]
)
@pytest.mark.filterwarnings("ignore")  # some versions are old
def test_episodes_are_within_their_bounds_and_as_long(task: str) -> None:
    env = gymnasium.make(task)
    low, high = return_bounds(study(f"gymnasium:{task}"), f"gymnasium:{task}")
    assert env.spec is not None
    assert env.spec.max_episode_steps == module._KNOWN[task][0]
    env.action_space.seed(0)
    env.reset(seed=0)
    total, ended = 0.0, False
    while not ended:
        _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        total, ended = total + float(reward), terminated or truncated
    assert low <= total <= high


def intervals(found: Any) -> list[dict[str, float]]:
    if isinstance(found, dict):
        if found.keys() >= {"estimate", "low", "high"}:
            return [found]
        return [x for value in found.values() for x in intervals(value)]
    return [x for value in found for x in intervals(value)] if isinstance(found, list) else []


score = some.one_of(some.sampled_from([0.0, 500.0]), some.integers(0, 5000).map(lambda x: x / 10))


@settings(max_examples=25)
@given(some.lists(some.lists(score, min_size=3, max_size=3), min_size=2, max_size=2))
def test_no_interval_leaves_the_bounds(scores: list[list[float]]) -> None:
    task = "CartPole-v1"
    tasks = {task: dict(zip("ab", scores, strict=True))}
    found = analysed(
        {t: {a: dict(enumerate(x)) for a, x in arms.items()} for t, arms in tasks.items()}
    )
    for arm in found["tasks"][task].values():
        assert all(0.0 <= x["low"] <= x["high"] <= 500.0 for x in (arm["mean"], arm["iqm"]))
        assert min(arm["curve"]["low"]) >= 0.0
        assert max(arm["curve"]["high"]) <= 500.0
        if "verdict" in arm and arm["difference"]["low"] is not None:
            assert -500.0 <= arm["difference"]["low"] <= arm["difference"]["high"] <= 500.0
    if found["across_tasks"]:
        most = 500.0 / np.mean(scores[0]) * (1 + 1e-9)
        for arm in found["across_tasks"]["arms"].values():
            for name in ("mean", "iqm"):
                assert -1e-9 <= arm[name]["low"] <= arm[name]["high"] <= most
            if arm.get("difference", {}).get("low") is not None:
                assert -most <= arm["difference"]["low"] <= arm["difference"]["high"] <= most


def test_an_interval_does_leave_them_where_they_are_not_known() -> None:
    scores = {"Hopper-v5": {arm: {0: 500.0, 1: 500.0, 2: 100.0} for arm in "ab"}}
    found = analysed(scores)["tasks"]["Hopper-v5"]["a"]
    assert found["mean"]["high"] > 500.0
    assert max(found["curve"]["high"]) > 500.0


def test_bounds_that_are_wrong_give_way_to_what_was_seen() -> None:
    assert around((0.0, 1.0), [0.5, 7.0, -2.0]) == (-2.0, 7.0)
    assert around((0.0, 1.0), []) == (0.0, 1.0)


def test_results_are_plain_json() -> None:
    found = analysed(leaves(np.random.default_rng(0), ["CartPole-v1", "Hopper-v5"], "abc", 4))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
