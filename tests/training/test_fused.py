"""Several seeds in one program: each is the run its seed gives alone."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import PROBE, TINY, Recorder, flags, metrics_of
from tests.training.helpers import After, recorded

import surefoot
from surefoot.cli.main import main
from surefoot.training import Trainer
from surefoot.training.fused import train_seeds

# scans of two iterations, and a budget that ends in the first of one
CONFIG = TINY.replace(total_steps=2_600, seed=5)
SEEDS = range(5, 9)


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four seeds are two teams that share one program, on whatever machine."""
    monkeypatch.setattr("surefoot.training.fused.usable_cores", lambda: 2)


@functools.cache
def together(task: str, **options: Any) -> tuple[list[Any], list[Recorder]]:
    """States and what hooks heard, of four seeds."""
    recorders = [Recorder() for _ in SEEDS]
    config = CONFIG.replace(**options)
    trained = train_seeds(task, config, hooks=[[recorder] for recorder in recorders])
    return [state for state, _ in trained], recorders


@pytest.mark.extended
@pytest.mark.parametrize(
    ("task", "options"),
    [
        (PROBE, {}),
        (PROBE, {"joint_loss": True, "target_kl": 0.01}),
        ("probe:both/discrete", {}),
    ],
)
def test_each_seed_is_its_solo_run(task: str, options: dict) -> None:
    states, recorders = together(task, **options)
    for k in (0, 3):  # one of each team
        alone = recorded(task, CONFIG, seed=5 + k, **options)
        state, recorder = states[k], recorders[k]
        assert recorder.run.config.seed == 5 + k
        assert recorder.finished
        assert (state.step, state.iteration) == (alone.state.step, alone.state.iteration)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5),
            state.learners,
            alone.state.learners,
        )
        for here, there in zip(recorder.rows, alone.rows, strict=True):
            kept = [name for name in there if not name.startswith("time/share")]
            assert list(here) == kept
            assert [here["step"], here["iteration"]] == [there["step"], there["iteration"]]
            for name in ("rollout/episode_return", "loss/value", "policy/entropy"):
                np.testing.assert_allclose(here[name], there[name], rtol=1e-2, atol=1e-4)


@pytest.mark.extended
def test_seeds_are_all_different() -> None:
    states, recorders = together(PROBE)
    assert [recorder.run.config.seed for recorder in recorders] == list(SEEDS)
    biases = [np.asarray(state.learners["actor"].params.policy().output.bias) for state in states]
    assert len({bias.tobytes() for bias in biases}) == len(SEEDS)


@pytest.mark.extended
def test_iterations_beyond_the_budget_move_nothing() -> None:
    (state, *_), (recorder, *_) = together(PROBE)
    assert state.iteration % 2 == 1  # the last scan had one more
    assert state.step >= CONFIG.total_steps > recorder.rows[-2]["step"]
    assert len(recorder.rows) == state.iteration
    assert recorder.rows[-1]["step"] == state.step


def test_a_task_that_is_not_written_in_jax_is_refused() -> None:
    for task in ("CartPole-v1", "gymnasium:CartPole-v1"):
        with pytest.raises(ValueError, match=r"num_seeds = 2: .*CartPole-v1 is not written in JAX"):
            train_seeds(task, TINY, hooks=[[], []])
    with pytest.raises(ValueError, match="num_seeds = 0 must be at least 1"):
        surefoot.train_seeds(PROBE, num_seeds=0)
    with pytest.raises(ValueError, match="total_steps = 2147483648 with num_seeds: at most"):
        surefoot.train_seeds(PROBE, num_seeds=2, total_steps=2**31, progress=False)


@pytest.mark.extended
def test_a_stop_keeps_what_was_learned() -> None:
    recorder = Recorder()
    hooks = [[recorder], [], [], []]
    (state, _), *_ = train_seeds(PROBE, CONFIG, hooks=hooks, should_stop=After(1))
    assert state.iteration == 2
    assert 0 < state.step < CONFIG.total_steps
    assert recorder.finished is False
    assert recorder.rows[-1]["step"] == state.step


@pytest.mark.extended
def test_a_diverged_seed_keeps_the_state_from_before(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Trainer.start

    def poisoned(self: Trainer, seed: int | None = None) -> Any:
        """Seed 6 begins with an optimizer that can only diverge."""
        state = start(self, seed)
        if seed != 6:
            return state
        actor = state.learners["actor"]
        spoilt = jax.tree.map(
            lambda x: x * jnp.nan if jnp.issubdtype(x.dtype, jnp.inexact) else x, actor.opt_state
        )
        learners = {**state.learners, "actor": actor._replace(opt_state=spoilt)}
        return state._replace(learners=learners)

    monkeypatch.setattr(Trainer, "start", poisoned)
    keepers = [Recorder() for _ in SEEDS]
    with pytest.raises(ValueError, match=r"diverged: the actor's update in iteration [56]"):
        train_seeds(PROBE, CONFIG, hooks=[[keeper] for keeper in keepers])
    for keeper in keepers:
        assert keeper.events[-2:] == ["failure", "end"]
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(keeper.policy.actor))
    # five updates are borne, in scans of two
    assert keepers[1].state.iteration == 4
    assert "halved (4 of 5 times)" in keepers[1].notes[-1]


@pytest.mark.extended
def test_the_command_leaves_a_run_folder_for_each_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "r"
    words = [*flags(CONFIG), "--num-seeds", "4", "--run-dir", str(run)]
    assert main(["train", PROBE, *words]) == 0
    assert "4 seeds" in capsys.readouterr().out
    assert sorted(path.name for path in run.iterdir()) == [f"seed-{seed}" for seed in SEEDS]
    for seed in SEEDS:
        folder = run / f"seed-{seed}"
        assert metrics_of(folder)[-1]["step"] >= 2_600
        assert f"seed = {seed}\n" in (folder / "config.toml").read_text()
    assert surefoot.evaluate(folder, episodes=2)["episodes"] == 2
