"""Options that are others when a run goes on: which may be, what is said of it, and what is on record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import jax
import pytest
from gymnasium import spaces
from tests.helpers import PROBE, TINY, Recorder, metrics_of
from tests.test_config import MAY_CHANGE
from tests.training.helpers import After, trainer_for

import surefoot
from surefoot import api
from surefoot.cli.main import main
from surefoot.cli.resume import read_changes
from surefoot.config import fixed_options
from surefoot.errors import UserError
from surefoot.going_on import with_changes
from surefoot.services.checkpoints import read_checkpoint
from surefoot.services.run_folder import read_config

pytestmark = pytest.mark.extended  # each of them trains

OPTIONS: dict[str, Any] = {
    "config": TINY.replace(keep_checkpoints=100),
    "checkpoint_every": 100,
    "progress": False,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return surefoot.train(PROBE, run_dir=tmp_path_factory.mktemp("r") / "whole", **OPTIONS).run_dir


def checkpoints(run: Path) -> list[Path]:
    return sorted(run.glob("checkpoints/*"))


def cut_off(whole: Path, to: Path) -> Path:
    """The run as a kill behind its first checkpoint would have left it."""
    run = shutil.copytree(whole, to)
    for path in checkpoints(run)[1:]:
        shutil.rmtree(path)
    for file in run.glob("policy.*"):
        file.unlink()
    return run


def test_a_changed_option_acts_from_there_on_and_is_on_record(whole: Path, tmp_path: Path) -> None:
    run = cut_off(whole, tmp_path / "run")
    first = read_checkpoint(checkpoints(run)[0])
    heard = Recorder()
    api.resume(run, learning_rate=0.01, progress=False, hooks=[heard], should_stop=After(1))
    rate = 0.01 * (1 - first.step / TINY.total_steps)  # on its way to 0 as before
    assert heard.rows[0]["optim/learning_rate"] == pytest.approx(rate)
    now = metrics_of(run)
    assert now[: first.iteration] == metrics_of(whole)[: first.iteration]
    (resumed,) = json.loads((run / "meta.json").read_text())["resumed"]
    assert resumed["from_step"] == first.step
    assert resumed["changed"] == {"learning_rate": ["0.0003", "0.01"]}
    said = resumed["words"][0]
    why = "learning_rate was 0.0003, is 0.01"
    assert said.endswith(f"step {first.step:,} of {run}: statistically equal, not exact ({why})")
    assert [read_config(x)[1].learning_rate for x in (run, first.path)] == [0.01, 0.0003]

    # killed before the next checkpoint, it goes on with what was set, and says so once more
    young = cut_off(run, tmp_path / "young")
    api.resume(young, progress=False)
    assert metrics_of(young)[first.iteration] == now[first.iteration]
    both = json.loads((young / "meta.json").read_text())["resumed"]
    assert [x["changed"] for x in both] == [resumed["changed"]] * 2


@pytest.mark.parametrize("name", fixed_options())
def test_an_option_that_stays_is_refused_with_the_reason(name: str, whole: Path) -> None:
    before = sorted(whole.rglob("*"))
    with pytest.raises(UserError) as error:
        api.resume(whole, total_steps=900, progress=False, **{name: 3})
    assert str(error.value).startswith(
        f"{name} stays as it is for a whole run: {fixed_options()[name]}"
    )
    assert f"surefoot train TASK --from {whole}" in str(error.value)
    assert sorted(whole.rglob("*")) == before


CHANGES: dict[str, Any] = {
    "total_steps": 900,
    "num_steps": 32,
    "env_options": ("a=1",),
    "env_workers": 1,
    "on_env_failure": "restart",
    "lag_correction": "behaviour",
    "min_std": 0.1,
    "memory_minibatches": 2,
    "bptt_steps": 4,
    "observation_clip": 5.0,
    "reward_clip": 5.0,
    "advantage_estimator": "td",
    "gamma": 0.9,
    "gae_lambda": 0.9,
    "advantage_normalization": "batch",
    "min_advantage_std": 0.1,
    "recompute_advantages": True,
    "surrogate": "ratio",
    "clip_epsilon": 0.1,
    "value_clip_epsilon": 0.2,
    "value_coef": 1.0,
    "entropy_coef": 0.01,
    "num_epochs": 3,
    "num_minibatches": 2,
    "shuffle_each_epoch": False,
    "learning_rate": 1e-4,
    "critic_learning_rate": 1e-4,
    "critic_epochs": 2,
    "gsde_steps": 7,
    "learning_rate_schedule": "kl_adaptive",
    "desired_kl": 0.02,
    "target_kl": 0.02,
    "max_grad_norm": float("inf"),
    "adam_epsilon": 1e-8,
    "restart_adam": True,
    "outer_step": 1.2,
    "max_refused_updates": 1,
    "max_kl": 0.02,
    "cg_steps": 5,
    "cg_damping": 0.2,
    "line_search_steps": 5,
    "checkpoint_every": 200,
    "keep_checkpoints": 2,
    "exact_resume": "on",
    "eval_every": 100,
    "eval_episodes": 3,
    "video_every": 200,
    "log": ("tensorboard",),
}
# they need eval_every, or workers, and nothing that a checkpoint holds depends on them
WITH_ANOTHER = {"best_by", "stop_at_return", "stop_at_success", "env_timeout"}


def test_every_option_that_may_change_fits_a_checkpoint(whole: Path) -> None:
    assert set(CHANGES) | WITH_ANOTHER == MAY_CHANGE
    checkpoint = read_checkpoint(checkpoints(whole)[0])
    _, config = read_config(whole)
    for name, value in CHANGES.items():
        after = with_changes(whole, config, {name: value})
        assert getattr(after, name) == value != getattr(config, name)
        state = checkpoint.restore(trainer_for(PROBE, after))
        assert state.step == checkpoint.step
        assert all(x.shape for x in jax.tree.leaves(state.learners["actor"].params))


def test_a_learning_rate_that_the_kl_decides_on_is_not_set(whole: Path) -> None:
    _, config = read_config(whole)
    adaptive = config.replace(learning_rate_schedule="kl_adaptive")
    with pytest.raises(UserError, match="the KL decides on it now; set desired_kl"):
        with_changes(whole, adaptive, {"learning_rate": 1e-3})
    back = {"learning_rate": 1e-3, "learning_rate_schedule": "constant"}
    assert with_changes(whole, adaptive, back).learning_rate == 1e-3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["learning_rate"], "--set learning_rate: write OPTION=VALUE, such as learning_rate=1e-4"),
        (["gamma=0.9", "gamma=0.8"], "--set gamma: given more than once"),
        (["total_steps=9"], "the end of a run has a flag of its own: --total-steps"),
        (["gama=0.9"], "unknown option 'gama'; did you mean 'gamma'"),
        (["gamma=1.5"], "gamma = 1.5 is out of range: it must be in [0, 1]"),
        (["gamma=high"], "gamma = 'high' must be float, not str"),
        (["env_options=[1,"], "--set: env_options=[1,"),
        (["num_envs=8"], "num_envs stays as it is for a whole run"),
        (["stop_at_return=9"], "stop_at_return = 9.0 needs eval_every"),
    ],
)
def test_what_cannot_be_set_is_refused_in_one_line(
    words: list[str], said: str, whole: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["resume", str(whole), "--total-steps", "900", "--set", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_values_are_toml_and_none_is_nothing() -> None:
    words = [
        "gamma=0.9",
        "target_kl=none",
        "env_options=['a=1', 'b=2']",
        "overlap=off",
        "num_epochs=1e1",
    ]
    assert read_changes(words) == {
        "gamma": 0.9,
        "target_kl": None,
        "env_options": ["a=1", "b=2"],
        "overlap": "off",
        "num_epochs": 10.0,
    }


def test_what_is_only_looked_at_leaves_what_is_learned_exact(whole: Path, tmp_path: Path) -> None:
    run = cut_off(whole, tmp_path / "run")
    api.resume(run, eval_every=1, eval_episodes=1, stop_at_return=1e9, progress=False)
    (resumed,) = json.loads((run / "meta.json").read_text())["resumed"]
    assert {*resumed["changed"]} == {"eval_every", "eval_episodes", "stop_at_return"}
    assert "exact, with the very numbers" in resumed["words"][0]
    weights = [(x / "policy.safetensors").read_bytes() for x in (run, whole)]
    assert weights[0] == weights[1]


def test_the_command_goes_on_with_what_is_set(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = cut_off(whole, tmp_path / "run")
    assert main(["resume", str(run), "--set", "learning_rate=1e-4", "adam_epsilon=1e-5"]) == 0
    assert "statistically equal, not exact" in capsys.readouterr().err
    assert read_config(run)[1].learning_rate == 1e-4


class Wheel(gymnasium.Env):
    """Two numbers, one torque, five steps; its spaces are to be edited."""

    def __init__(self, **edited: spaces.Space) -> None:
        offers = {
            "observation_space": spaces.Box(-1, 1, (2,)),
            "action_space": spaces.Box(-1, 1, (1,)),
        }
        vars(self).update(offers | edited)
        self.t = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self.observation_space.sample(), 0.0, False, self.t == 5, {}


@pytest.mark.parametrize(
    ("edited", "message"),
    [
        ({}, None),
        (
            {"action_space": spaces.Box(-10, 10, (1,))},
            r"0 from -1.0 to 1.0 here, -10.0 to 10.0 there",
        ),
        ({"action_space": spaces.Box(-1, 1, (1, 1))}, r"\(1,\) here, \(1, 1\) there"),
        ({"action_space": spaces.Discrete(2)}, "continuous here, discrete there"),
        (
            {"observation_space": spaces.Box(-1, 1, (3,))},
            r"of size 2; .* offers {'observation': 3}",
        ),
        ({"observation_space": spaces.MultiDiscrete([1, 1])}, r"reads observation 'observation'"),
    ],
)
def test_a_task_that_offers_something_else_is_refused_and_nothing_is_changed(
    edited: dict[str, spaces.Space], message: str | None, tmp_path: Path
) -> None:
    def contents() -> dict[Path, bytes]:
        files = [path for path in tmp_path.rglob("*") if path.is_file() and "lock" not in path.name]
        return {path: path.read_bytes() for path in files}

    run = surefoot.train(Wheel, run_dir=tmp_path / "run", **OPTIONS).run_dir
    before = contents()
    more = {"total_steps": 2 * TINY.total_steps, "progress": False}
    if message is None:
        assert api.resume(run, task=lambda: Wheel(**edited), **more).finished
        return
    with pytest.raises(UserError, match=message):
        api.resume(run, task=lambda: Wheel(**edited), **more)
    assert contents() == before
