"""Several seeds in one program: each is the run its seed gives alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import surefoot
from surefoot.cli.main import main
from surefoot.config import Config
from surefoot.training import Hook, train
from surefoot.training.fused import train_seeds

TINY = Config(
    total_steps=900,
    num_envs=4,
    num_steps=8,
    num_minibatches=4,
    num_epochs=2,
    actor_hidden=(8,),
    critic_hidden=(8,),
    seed=5,
)
TASK = "probe:late-reward/continuous"


class Recorder(Hook):
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.finished: bool | None = None

    def on_start(self, run) -> None:
        self.seed = run.config.seed

    def on_iteration(self, state, metrics) -> None:
        self.rows.append(dict(metrics))

    def on_end(self, state, policy, *, finished) -> None:
        self.finished = finished


def solo(seed: int, task: str, **options: Any) -> tuple[Any, list[dict[str, Any]]]:
    recorder = Recorder()
    state, _ = train(task, TINY.replace(seed=seed, **options), hooks=[recorder])
    return state, recorder.rows


@pytest.mark.parametrize(
    ("task", "options"),
    [(TASK, {}), (TASK, {"joint_loss": True, "target_kl": 0.01}), ("probe:both/discrete", {})],
)
def test_each_seed_is_its_solo_run(task: str, options: dict) -> None:
    recorders = [Recorder(), Recorder(), Recorder()]
    together = train_seeds(task, TINY.replace(**options), hooks=[[r] for r in recorders])
    for k, (state, _) in enumerate(together):
        alone, rows = solo(5 + k, task, **options)
        assert recorders[k].seed == 5 + k
        assert recorders[k].finished
        assert (state.step, state.iteration) == (alone.step, alone.iteration)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5),
            state.learners,
            alone.learners,
        )
        for here, there in zip(recorders[k].rows, rows, strict=True):
            kept = [name for name in there if not name.startswith("time/share")]
            assert list(here) == kept
            assert [here["step"], here["iteration"]] == [there["step"], there["iteration"]]
            for name in ("rollout/episode_return", "loss/value", "policy/entropy"):
                np.testing.assert_allclose(here[name], there[name], rtol=1e-2, atol=1e-4)


def test_seeds_that_need_more_iterations_do_not_move_those_that_are_done() -> None:
    # scans of two iterations, and a budget that ends in the first of one
    config = TINY.replace(total_steps=1020)
    alone, rows = solo(5, TASK, total_steps=1020)
    assert alone.iteration % 2 == 1
    recorder = Recorder()
    (state, _), *_ = train_seeds(TASK, config, hooks=[[recorder], []])
    assert (state.iteration, state.step) == (alone.iteration, alone.step)
    assert len(recorder.rows) == len(rows)


def test_a_task_that_is_not_written_in_jax_is_refused() -> None:
    for task in ("CartPole-v1", "gymnasium:CartPole-v1"):
        with pytest.raises(ValueError, match=r"num_seeds = 2: .*CartPole-v1 is not written in JAX"):
            train_seeds(task, TINY, hooks=[[], []])
    with pytest.raises(ValueError, match="num_seeds = 0 must be at least 1"):
        surefoot.train_seeds(TASK, num_seeds=0)
    with pytest.raises(ValueError, match="total_steps = 2147483648 with num_seeds: at most"):
        surefoot.train_seeds(TASK, num_seeds=2, total_steps=2**31, progress=False)


def test_a_stop_keeps_what_was_learned() -> None:
    recorder = Recorder()
    answers = iter([False, True])
    (state, _), _ = train_seeds(
        TASK, TINY, hooks=[[recorder], []], should_stop=lambda: next(answers)
    )
    assert 0 < state.step < TINY.total_steps
    assert recorder.finished is False
    assert recorder.rows[-1]["step"] == state.step


def test_a_diverged_seed_keeps_the_state_from_before() -> None:
    class Keeps(Recorder):
        def on_end(self, state, policy, *, finished) -> None:
            self.policy = policy

    keeper = Keeps()
    wild = TINY.replace(learning_rate=1e30, max_grad_norm=float("inf"))
    with pytest.raises(ValueError, match="diverged"):
        train_seeds(TASK, wild, hooks=[[keeper]])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(keeper.policy.actor))


def test_the_command_leaves_a_run_folder_for_each_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "r"
    arguments = ["--total-steps", "600", "--num-envs", "4", "--num-steps", "8"]
    arguments += ["--num-minibatches", "4", "--num-epochs", "1", "--seed", "3"]
    assert main(["train", "probe:both", *arguments, "--num-seeds", "2", "--run-dir", str(run)]) == 0
    assert "2 seeds" in capsys.readouterr().out
    assert sorted(path.name for path in run.iterdir()) == ["seed-3", "seed-4"]
    for seed in (3, 4):
        folder = run / f"seed-{seed}"
        rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
        assert rows[-1]["step"] >= 600
        assert f"seed = {seed}\n" in (folder / "config.toml").read_text()
        assert surefoot.evaluate(folder, episodes=2)["episodes"] == 2
