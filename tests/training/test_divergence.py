"""Rewards and observations made to break a run: it stays finite, says what it left out, or ends cleanly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import surefoot
from surefoot.config import Config
from surefoot.envs import ActionSpec, SingleEnvironment, SingleStep
from surefoot.services.checkpoints import find_checkpoint
from surefoot.training import Hook, train

SMALL = Config(
    num_envs=4,
    num_steps=8,
    num_minibatches=2,
    num_epochs=2,
    actor_hidden=(8,),
    critic_hidden=(8,),
    total_steps=2**40,
)


class Adversary(SingleEnvironment):
    """Rewards of a kind that has broken trainers; episodes of 20 steps."""

    observations = {"seen": 2}
    action = ActionSpec("continuous", (1,), low=(-1.0,), high=(1.0,), shape=(1,))

    def __init__(self, kind: str) -> None:
        self.name = self.kind = kind

    def reset(self, key):
        return jnp.int32(0), {"seen": jax.random.normal(key, (2,))}

    def step(self, state, action, key):
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
        seen = scale * jax.random.normal(key, (2,))
        no, late = jnp.bool_(False), state >= 19
        return state + 1, SingleStep({"seen": seen}, jnp.float32(reward), no, late)


KINDS = ("huge", "alternating", "rarely huge", "bursts of NaN", "infinite", "tiny")
KINDS += ("huge observations",)


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
        Adversary(kind),
        SMALL.replace(**options),
        hooks=[watch],
        should_stop=lambda: watch.seen >= count,
    )
    return watch


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("overlap", ["off", "exact"])
def test_no_reward_breaks_a_run(kind: str, overlap: str) -> None:
    watch = updates(kind, 150, overlap=overlap)
    assert watch.refused == 0
    assert (watch.masked > 0) == (kind in ("bursts of NaN", "infinite"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_reward_breaks_a_run_of_ten_thousand_updates(kind: str) -> None:
    assert updates(kind, 10_000).refused == 0


@pytest.mark.parametrize("kind", ["huge", "rarely huge"])
def test_without_scaling_it_ends_with_a_reason_or_goes_on_but_keeps_finite(kind: str) -> None:
    watch = Watch()
    config = SMALL.replace(scale_rewards=False, normalize_observations=False, max_grad_norm=1e30)
    with pytest.raises(ValueError, match=r"training diverged: the \w+'s update in iteration"):
        train(Adversary(kind), config.replace(total_steps=100_000), hooks=[watch])
    assert watch.refused >= config.max_refused_updates


def test_what_failed_leaves_a_report_and_a_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = {"scale_rewards": False, "total_steps": 100_000, "checkpoint_every": 100_000}
    with pytest.raises(ValueError, match="diverged"):
        surefoot.train(
            Adversary("rarely huge"), config=SMALL.replace(**options), run_dir=run, progress=False
        )
    report = json.loads((run / "crash" / "report.json").read_text())
    assert report["error"].startswith("training diverged: the ")
    assert max(report["refused_updates"].values()) == 5
    assert report["metrics"][-1]["iteration"] == report["iteration"]
    assert "learning rate is halved (5 of 5 times)" in report["notes"][-1]
    assert (run / "crash" / "state.safetensors").stat().st_size > 1000
    assert find_checkpoint(run)[0].step == report["step"]
    # it can be looked at, and gone on with
    with pytest.raises(ValueError, match="diverged"):
        surefoot.resume(run, task=Adversary("rarely huge"), progress=False)
    assert (run / "crash-2" / "report.json").exists()
