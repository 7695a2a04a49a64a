"""Who acts: bounds of simple actions, the newest policy of a run with its critic, exported files."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from tests.helpers import PROBE, TINY, Recorder

import surefoot
from surefoot.api import best_folder
from surefoot.cli.main import main
from surefoot.envs import ActionSpec
from surefoot.errors import UserError
from surefoot.see.choice import Choice
from surefoot.see.players import Exported, OfRun, Seen, Zero
from surefoot.see.stage import stage_environment
from surefoot.services.checkpoints import read_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder]:
    folder, heard = tmp_path_factory.mktemp("runs") / "run", Recorder()
    config = TINY.replace(checkpoint_every=100)
    surefoot.train(PROBE, config=config, run_dir=folder, progress=False, hooks=[heard])
    return folder, heard


@pytest.mark.parametrize(
    ("action", "zero"),
    [
        (ActionSpec("continuous", (2,), (-1.0, 0.5), (1.0, 2.0), (2,)), [0.0, 0.5]),
        (ActionSpec("continuous", (1,), (-3.0,), (-2.0,), (1,), "float64"), [-2.0]),
        (ActionSpec("discrete", (3,), start=-1, dtype="int64"), -1),
        (ActionSpec("multi_discrete", (2, 3), shape=(2,), start=(4, 5), dtype="int64"), [4, 5]),
        (ActionSpec("multi_binary", (2,), shape=(2,), dtype="int8"), [0, 0]),
    ],
)
def test_zero_is_zero_or_what_is_nearest_to_it(action: ActionSpec, zero: Any) -> None:
    spec: Any = SimpleNamespace(action=action, num_envs=2)
    actions = Zero(spec).act(Seen({}, np.ones(2, bool), None))
    assert actions.dtype == action.dtype
    np.testing.assert_array_equal(actions, [zero, zero])


@pytest.mark.extended
def test_the_value_is_what_the_critic_of_the_run_expects_in_rewards(
    run: tuple[Path, Recorder],
) -> None:
    folder, heard = run
    player = OfRun(folder, stage_environment(PROBE, num_envs=3))
    observation = {"observation": np.array([[0.0], [0.4], [0.8]], np.float32)}
    values = player.values(Seen(observation, np.ones(3, bool), None))
    critic = heard.state.learners["critic"].params.values()
    inputs = jax.tree.map(lambda x: x[None], heard.state.normalizer(observation))
    expected, _ = critic.unroll(inputs, (), None)
    scale = np.sqrt(heard.state.reward_scaler.moments.variance)
    np.testing.assert_allclose(values, expected[0] * scale, rtol=1e-5)
    assert scale != 1.0
    assert player.step == heard.state.step


@pytest.mark.extended
def test_play_shows_the_best_policy_if_asked_to(
    run: tuple[Path, Recorder], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[Choice] = []
    monkeypatch.setattr("surefoot.see.browse.browse", lambda choice, **_: shown.append(choice))
    for flags in ([], ["--best"]):
        assert main(["play", str(run[0]), *flags]) == 0
    newest, best = shown
    assert (newest.run, best.run) == (run[0], best_folder(run[0]))
    env = stage_environment(PROBE, num_envs=1)
    assert OfRun(best.run, env).step == read_checkpoint(best.run).step
    for words in ([], [str(run[0]), "--agent", "zero"], [str(run[0]), "--policy", "x"]):
        assert main(["play", *words, "--best"]) == 2
        assert "--best is the best policy of a run" in capsys.readouterr().err


def test_a_newer_checkpoint_is_taken_up_when_it_is_there(
    run: tuple[Path, Recorder], tmp_path: Path
) -> None:
    checkpoints = sorted((run[0] / "checkpoints").iterdir())
    assert len(checkpoints) > 1
    growing = tmp_path / "growing"
    (growing / "checkpoints").mkdir(parents=True)
    shutil.copy(run[0] / "config.toml", growing)
    env = stage_environment(PROBE, num_envs=1)
    with pytest.raises(UserError, match=r"has no policy yet.*checkpoint_every = 100"):
        OfRun(growing, env)
    shutil.copytree(checkpoints[0], growing / "checkpoints" / checkpoints[0].name)
    player = OfRun(growing, env)
    seen = Seen({"observation": np.array([[0.3]], np.float32)}, np.ones(1, bool), None)
    before, value = player.act(seen), player.values(seen)
    assert player.newer() is None
    # one that is being written, or that a kill has cut off, is not there yet
    torn = growing / "checkpoints" / checkpoints[-1].name
    torn.mkdir()
    assert player.newer() is None
    torn.rmdir()
    shutil.copytree(checkpoints[-1], torn)
    take = player.newer()
    assert take is not None
    assert player.act(seen) == before  # not before it is taken up
    step = int(checkpoints[-1].name.removeprefix("step-"))
    assert take() == f"playing the policy of step {step:,} now"
    assert player.step == step
    assert player.act(seen) != before
    assert player.values(seen) != value
    assert player.newer() is None


@pytest.fixture
def exported(run: tuple[Path, Recorder], tmp_path: Path) -> Path:
    kept = run[0].parent / "exported"
    if not kept.exists():
        surefoot.export(run[0], output=kept, forms=("numpy",), episodes=0)
    return Path(shutil.copytree(kept, tmp_path / "exported"))


def test_an_exported_policy_acts_as_the_live_one(
    run: tuple[Path, Recorder], exported: Path
) -> None:
    env = stage_environment(PROBE, num_envs=2)
    seen = Seen({"observation": np.array([[0.1], [0.6]], np.float32)}, np.ones(2, bool), None)
    live = OfRun(run[0], env).act(seen)
    for file in (exported, exported / "policy.npz", exported / "policy.json"):
        np.testing.assert_allclose(Exported(file, env).act(seen), live, atol=1e-6)


def test_an_exported_policy_that_does_not_fit_is_refused_with_both(
    run: tuple[Path, Recorder], exported: Path
) -> None:
    description = exported / "policy.json"
    about = json.loads(description.read_text())

    def refusal(**changes: Any) -> str:
        description.write_text(json.dumps(about | changes))
        with pytest.raises(UserError) as refused:
            Choice(task=PROBE, policy=exported).open(log=warnings.warn)
        return str(refused.value)

    other = {**about["observations"][0], "shape": [48]}
    assert "of shape [48]; late-reward offers {'observation': [1]}" in refusal(observations=[other])
    low = {**about["action"], "low": [-7.0]}
    assert "component 0 from -7.0 to 1.0 here, -1.0 to 1.0 there" in refusal(action=low)
    controls = {"kind": "controls", "shape": [1], "order": ["motor"]}
    assert "reads what a robot measures" in refusal(action=controls)
    assert "version reads 1; export it again" in refusal(format=99)
    description.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Exported(description, stage_environment(PROBE, num_envs=1))
    with pytest.raises(UserError, match=r"holds a policy as training keeps it.*surefoot play"):
        Exported(run[0], stage_environment(PROBE, num_envs=1))


def test_the_task_of_an_exported_policy_is_taken_from_its_file_unless_it_is_code(
    run: tuple[Path, Recorder], exported: Path
) -> None:
    stage = Choice(policy=exported).open(log=warnings.warn)
    assert stage.name == "late-reward"
    description = exported / "policy.json"
    about = json.loads(description.read_text()) | {"task": "os:remove"}
    description.write_text(json.dumps(about))
    with pytest.raises(UserError, match="no import path is taken from a file"):
        Choice(policy=exported).open(log=warnings.warn)
