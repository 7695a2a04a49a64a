"""The demo's measurement, on the robot itself."""

from __future__ import annotations

from pathlib import Path

import pytest

import surefoot
from surefoot.cli.demo import TASK, expected_seconds, measure, table
from surefoot.envs.tasks import own_options


@pytest.mark.extended
def test_the_demo_measures_on_the_task_as_it_comes(tmp_path: Path) -> None:
    run = tmp_path / "r"
    surefoot.train(
        TASK,
        config=own_options(TASK),  # episodes of 10 s, of the training alone
        run_dir=run,
        progress=False,
        should_stop=lambda: True,  # before its first iteration: any policy will do
    )
    walking, standing = measure(run, episodes=2)
    assert standing["episode_length_mean"] == 1000
    assert standing["truncated_share"] == 1
    assert standing["episode_return_mean"] > 10
    for result in (walking, standing):
        assert 0 < result["measure/linear_error"] < 3
        assert 0 < result["measure/turning_error"] < 3
    lines = table(walking, standing).splitlines()
    assert lines[0].split() == ["2", "episodes", "each", "trained", "standing", "still"]
    assert lines[2].endswith("100%")


def test_twice_the_steps_are_expected_to_take_longer() -> None:
    once, twice = (expected_seconds(steps, 8) for steps in (1_000_000, 4_000_000))
    assert 0 < once < twice
