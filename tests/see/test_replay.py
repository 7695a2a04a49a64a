"""A simulation that breaks down in training leaves a file, from which it breaks down again."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import mujoco
import numpy as np
import pytest
from tests.helpers import TINY, Recorder
from tests.see.helpers import Pole

import surefoot
from surefoot.config import Config
from surefoot.errors import UserError
from surefoot.robots import RobotEnvironment
from surefoot.see.browse import browse
from surefoot.see.choice import Choice
from surefoot.see.replay import Replay
from surefoot.see.video import Shot, film
from surefoot.services.breakdowns import Breakdowns, read_breakdown


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What is written of a robot that breaks down again and again."""
    folder, said = tmp_path_factory.mktemp("run"), []
    config = Config(env_options=("breaks_at_s=0.05",), seed=3)
    run: Any = SimpleNamespace(task="python:Pole", config=config, log=said.append)
    hook = Breakdowns(folder)
    hook.on_start(run)
    env = RobotEnvironment(Pole(breaks_at_s=0.05), 2)
    env.report_to(hook.on_breakdown)
    state, _ = env.reset(jax.random.key(0))
    for _ in range(80):
        state, _ = env.step(state, np.zeros((2, 1), np.float32))
    env.close()
    found = sorted((folder / "breakdowns").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    assert all(f"surefoot play {file}" in text for file, text in zip(found, said, strict=True))
    return found


def test_a_run_keeps_the_first_simulations_that_broke_down_before_they_did(
    files: list[Path],
) -> None:
    assert len(files) == 10
    recorded = read_breakdown(files[0])
    broken = recorded.breakdown
    assert recorded.env_options == ("breaks_at_s=0.05",)
    assert (broken.step, broken.substeps) == (
        4,
        4,
    )  # of 0.02 s, the first whose events are at 0.06 s
    assert "MuJoCo reset it" in broken.what
    assert set(broken.model) == {"body_mass"}
    assert np.isfinite(broken.state).all()
    assert broken.state[0] == pytest.approx(0.06)
    assert broken.state[2] == np.float32(1e12)  # time, position, velocity


def test_it_breaks_down_again_where_it_did(files: list[Path]) -> None:
    replay = Replay(files[0], Pole)
    assert replay.name.endswith("step 4")
    before = replay.state(0)
    moments = [next(replay) for _ in range(6)]
    assert "breaks down: the velocity of joint 'hip' of body 'arm' is bad" in replay.outcome
    assert replay.outcome.startswith("substep 1 of 4")
    assert moments[-1].measures["substep"][0] == 1
    assert np.isfinite(replay.state(0)).all()
    data = mujoco.MjData(replay.model)
    replay.put(0, data)
    assert data.time == pytest.approx(0.06)
    replay.reset()
    np.testing.assert_array_equal(replay.state(0), before)
    assert replay.outcome == ""
    mass = read_breakdown(files[0]).breakdown.model["body_mass"]
    np.testing.assert_array_equal(replay._robot.model.body_mass, mass)


def test_a_file_that_is_damaged_or_of_another_model_is_refused(
    files: list[Path], tmp_path: Path
) -> None:
    facts = json.loads(files[0].read_text())
    file = tmp_path / "state.json"

    def refusal(**changes: object) -> str:
        file.write_text(json.dumps(facts | changes))
        with pytest.raises(UserError) as refused:
            Replay(file, Pole)
        return str(refused.value)

    assert "holds no simulation that broke down" in refusal(kind="policy")
    assert "format 7, this version reads 1" in refusal(format=7)
    assert "are not counts" in refusal(step=-1)
    assert "damaged" in refusal(state=["two"])
    state = facts["state"]
    assert f"a state of 3 numbers; the model of python:Pole has {len(state)}" in refusal(
        state=[0.0] * 3
    )
    assert "no body_mass of shape (3,)" in refusal(model={"body_mass": [1.0] * 3})
    file.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="is your own code; name it again"):
        Replay(file)


def test_a_file_is_gone_through_in_the_browser_alone(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step by step in the browser, surefoot play .*\.json"):
        film(Choice(run=files[0], task=Pole), tmp_path / "film.mp4", Shot(), log=print)
    assert not list(tmp_path.iterdir())
    for others in (
        {"agent": "zero"},
        {"policy": tmp_path},
        {"stochastic": True},
        {"seed": 1},
        {"env_options": ("a=1",)},
    ):
        with pytest.raises(UserError, match="under the controls of then: leave out"):
            browse(Choice(run=files[0], task=Pole, **others), log=print)


@pytest.mark.extended
def test_a_run_that_trains_on_writes_them_and_says_so(tmp_path: Path) -> None:
    heard = Recorder()
    config = TINY.replace(total_steps=128, env_options=("breaks_at_s=0.05", "breaks_above=0.8"))
    surefoot.train(Pole, config=config, run_dir=tmp_path / "run", progress=False, hooks=[heard])
    written = list((tmp_path / "run" / "breakdowns").iterdir())
    assert written
    assert all(Replay(file, Pole).name for file in written)
    assert any(f"surefoot play {written[0]}" in note for note in heard.notes)
