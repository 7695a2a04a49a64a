"""Runs on robots that were interrupted: the same bytes, and what is said where the task has changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from tests.helpers import TINY, metrics_of
from tests.robots.test_environment import Pole

import surefoot
from surefoot.robots import Start, State
from surefoot.robots.environment import fingerprint

CONFIG = TINY.replace(total_steps=TINY.batch_size * 6, checkpoint_every=TINY.batch_size * 2)


def files(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("policy.safetensors", "policy.json")]


def cut(folder: Path, task: Any, config: Any = CONFIG) -> None:
    """Train, and stop behind the first checkpoint."""
    steps = []

    def enough() -> bool:
        steps.append(1)
        return len(steps) > 3

    surefoot.train(task, config=config, run_dir=folder, progress=False, should_stop=enough)


@pytest.mark.extended
@pytest.mark.parametrize("memory", ["off", "gru"])
def test_a_run_that_was_cut_off_ends_with_the_bytes_of_one_left_alone(
    memory: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CONFIG.replace(memory=memory, memory_minibatches=2)
    surefoot.train(Pole(), config=config, run_dir=tmp_path / "whole", progress=False)
    cut(tmp_path / "cut", Pole(), config)
    surefoot.resume(tmp_path / "cut", task=Pole())
    assert "exact, with the very numbers" in capsys.readouterr().err
    assert files(tmp_path / "whole") == files(tmp_path / "cut")


@dataclass(frozen=True)
class Other(Pole):
    """Another reward."""

    def rewards(self, s: State) -> Any:
        return {"near": -s.qpos[0]}


@pytest.mark.extended
@pytest.mark.parametrize("task", [Pole(near=2.0), Other()], ids=["a field", "the code"])
def test_a_task_that_has_changed_is_not_called_exact(
    task: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(tmp_path / "cut", Pole())
    surefoot.resume(tmp_path / "cut", task=task)
    said = capsys.readouterr().err
    assert "statistically equal, not exact (" in said
    assert "the task's code or model was " in said


@dataclass(frozen=True)
class Remembers(Pole):
    """Something is carried from step to step that was not before."""

    def reset(self, robot: Any, key: Any, level: Any) -> Start:
        return super().reset(robot, key, level)._replace(carry={"steps": jnp.zeros(())})

    def remember(self, s: State) -> Any:
        return {"steps": s.carry["steps"] + 1}


@pytest.mark.extended
@pytest.mark.parametrize("before", [Pole(), Remembers()], ids=["more now", "less now"])
def test_simulators_whose_state_has_another_form_begin_new_episodes(
    before: Any, tmp_path: Path
) -> None:
    cut(tmp_path / "cut", before)
    after = Remembers() if type(before) is Pole else Pole()
    with pytest.warns(UserWarning, match="they begin new episodes, .*'env_state.0.episodes.carry"):
        surefoot.resume(tmp_path / "cut", task=after)
    assert metrics_of(tmp_path / "cut")[-1]["step"] >= CONFIG.total_steps


@pytest.mark.extended
def test_who_evaluates_a_task_that_has_changed_is_told(tmp_path: Path, capsys: Any) -> None:
    cut(tmp_path / "cut", Pole())

    def told(task: Any, **options: Any) -> bool:
        surefoot.evaluate(tmp_path / "cut", task=task, episodes=1, **options)
        return "has changed since the run trained on it" in capsys.readouterr().err

    assert not told(Pole())
    assert told(Pole(near=2.0))
    assert not told(Pole(near=2.0), env_options=[])  # other settings were asked for
    assert not told(Other())  # another task, by name
    for manifest in (tmp_path / "cut").glob("checkpoints/*/manifest.json"):
        manifest.write_text("{")
    assert not told(Pole(near=2.0))  # what it was trained on is not known, and it is played


def test_a_fingerprint_is_that_of_the_task_and_of_nothing_else() -> None:
    assert fingerprint(Pole()) == fingerprint(Pole())
    assert len({fingerprint(Pole()), fingerprint(Pole(near=2.0)), fingerprint(Other())}) == 3
    assert fingerprint(Pole()) != fingerprint(Pole(physics_dt_s=0.0025))
