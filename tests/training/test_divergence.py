"""Rewards and observations made to break a run: it stays finite, says what it left out, or ends cleanly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import TINY
from tests.training.helpers import Chosen

import surefoot
from surefoot.envs import ActionSpec, SingleEnvironment, SingleStep
from surefoot.services.checkpoints import find_checkpoint
from surefoot.training import Hook, train

ENDLESS = TINY.replace(total_steps=2**40)


class Adversary(SingleEnvironment):
    """Rewards of a kind that has broken trainers; episodes of 20 steps."""

    observations = {"observation": 1}
    action = ActionSpec("continuous", (1,), low=(-1.0,), high=(1.0,), shape=(1,))

    def __init__(self, kind: str) -> None:
        self.name = self.kind = kind

    def reset(self, key: Any) -> Any:
        return jnp.int32(0), jax.random.normal(key, (1,))

    def step(self, state: Any, action: Any, key: Any) -> Any:
        chance, sign = jax.random.uniform(key), jnp.where(state % 2, 1.0, -1.0)
        reward = {
            "huge": 1e30,
            "alternating": 1e30 * sign,
            "rarely huge": jnp.where(chance < 0.01, 1e38, action[0]),
            "bursts of NaN": jnp.where((state > 5) & (state < 12), jnp.nan, action[0]),
            "infinite": jnp.where(chance < 0.1, jnp.inf * sign, action[0]),
            "tiny": 1e-38 * sign,
            "huge observations": action[0],
        }[self.kind]
        scale = 1e30 if self.kind == "huge observations" else 1.0
        seen = scale * jax.random.normal(key, (1,))
        no, late = jnp.bool_(False), state >= 19
        return state + 1, SingleStep(seen, jnp.float32(reward), no, late)


KINDS = ("huge", "alternating", "rarely huge", "bursts of NaN", "infinite", "tiny")
KINDS += ("huge observations",)


def adversary(kind: str) -> Chosen:
    """All are one program."""
    env = Chosen([Adversary(name) for name in KINDS], TINY.num_envs)
    env.index = KINDS.index(kind)
    return env


class Watch(Hook):
    """Every state's numbers are finite, and the policy's spread is positive."""

    def __init__(self) -> None:
        self.seen, self.refused, self.masked = 0, 0, 0

    def on_iteration(self, state: Any, metrics: Any) -> None:
        self.seen += 1
        self.refused = metrics["optim/refused_updates"]
        self.masked += metrics["rollout/masked_steps"]
        if self.seen % 50 == 1:
            numbers = (state.learners, state.normalizer, state.reward_scaler)
            for x in jax.tree.leaves(numbers):
                assert np.isfinite(x).all()
        assert metrics["policy/std"] > 0.0


def updates(kind: str, count: int, **options: Any) -> Watch:
    watch = Watch()
    train(
        adversary(kind),
        ENDLESS.replace(**options),
        hooks=[watch],
        should_stop=lambda: watch.seen >= count,
    )
    return watch


@pytest.mark.extended
@pytest.mark.parametrize("overlap", ["off", "exact"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_reward_breaks_a_run(overlap: str, kind: str) -> None:
    watch = updates(kind, 101, overlap=overlap)
    assert watch.refused == 0
    assert (watch.masked > 0) == (kind in ("bursts of NaN", "infinite"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_reward_breaks_a_run_of_ten_thousand_updates(kind: str) -> None:
    assert updates(kind, 10_000).refused == 0


@pytest.mark.extended
@pytest.mark.parametrize("kind", ["huge", "rarely huge"])
def test_without_scaling_it_ends_with_a_reason_or_goes_on_but_keeps_finite(kind: str) -> None:
    watch = Watch()
    config = ENDLESS.replace(scale_rewards=False, normalize_observations=False)
    with pytest.raises(ValueError, match=r"training diverged: the \w+'s update in iteration"):
        train(adversary(kind), config.replace(total_steps=100_000), hooks=[watch])
    assert watch.refused >= config.max_refused_updates


@pytest.mark.extended
def test_what_failed_leaves_a_report_and_a_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = {"scale_rewards": False, "normalize_observations": False}
    options |= {"total_steps": 100_000, "checkpoint_every": 100_000}
    task = adversary("rarely huge")
    with pytest.raises(ValueError, match="diverged"):
        surefoot.train(task, config=TINY, run_dir=run, progress=False, **options)
    report = json.loads((run / "crash" / "report.json").read_text())
    assert report["error"].startswith("training diverged: the ")
    assert max(report["refused_updates"].values()) == 5
    assert report["metrics"][-1]["iteration"] == report["iteration"]
    assert "learning rate is halved (5 of 5 times)" in report["notes"][-1]
    assert (run / "crash" / "state.safetensors").stat().st_size > 1000
    assert find_checkpoint(run)[0].step == report["step"]
    # it can be looked at, and gone on with
    with pytest.raises(ValueError, match="diverged"):
        surefoot.resume(run, task=task, progress=False)
    assert (run / "crash-2" / "report.json").exists()
