"""The demo's measurement, on the robot itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.helpers import TINY

import surefoot
from surefoot.cli.demo import TASK, TrackingError, measure


def test_the_demo_measures_on_the_task_as_it_comes(tmp_path: Path) -> None:
    run = tmp_path / "r"
    surefoot.train(
        TASK,
        config=TINY.replace(policy_output_scale=1.0),
        run_dir=run,
        progress=False,
        should_stop=lambda: True,  # before its first iteration: any policy will do
        env_options=("max_episode_steps=5",),  # of the training alone
    )
    walking, standing = measure(run, episodes=2)
    assert standing["episode_length_mean"] == 1000
    assert walking["episode_length_mean"] > 5
    assert standing["episode_return_mean"] > 10
    for result in (walking, standing):
        assert 0 < result["linear_velocity_error"] < 3
        assert 0 < result["angular_velocity_error"] < 3


def test_tracking_error_is_the_mean_distance_over_the_counted_steps() -> None:
    state = np.zeros((3, 1, 48))
    state[:, 0, 45:48] = [1.0, -0.5, 0.8]
    true = np.zeros((3, 1, 123))
    true[1, 0, 57:59], true[1, 0, 50] = [0.6, -0.5], 0.5  # what step 0 led to
    true[2, 0, 57:59], true[2, 0, 50] = [9.0, 9.0], 9.0  # of a step that does not count
    error = TrackingError()
    error.add({"state": state, "privileged_state": true}, np.array([[True], [False]]))
    np.testing.assert_allclose(error.summary()["linear_velocity_error"], 0.2)
    np.testing.assert_allclose(error.summary()["angular_velocity_error"], 0.3)
