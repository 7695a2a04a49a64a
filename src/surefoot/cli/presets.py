"""Presets: functions that return a config. `--preset NAME` starts from one instead of the defaults."""

from __future__ import annotations

from collections.abc import Callable

from surefoot.config import Config
from surefoot.errors import check_names


def go1() -> Config:
    """Unitree Go1 joystick tasks: an actor on what the robot senses, a critic on the true state.

    The task's own reward pays for standing still before it pays for a first step: its tracking term
    is flat where a standing robot is, and its penalties are not. So training reshapes it: a wider and
    larger tracking term, more weight on an upright body, and more sideways commands, which are rare
    in the task and what the robot falls over. What the policy is worth is measured on the task as it
    comes (`surefoot eval RUN --env-options`). [measured: docs/results.md]
    """
    return Config(
        total_steps=4_000_000,
        num_envs=64,
        num_steps=64,
        env_options=(
            "tracking_sigma=0.5",
            "tracking_lin_vel_scale=4.0",
            "tracking_ang_vel_scale=2.0",
            "orientation_scale=-10.0",
            "ang_vel_xy_scale=-0.15",
            "pose_scale=1.0",
            "feet_clearance_scale=-3.0",
            "energy_scale=-0.0015",
            "command_b1=0.7",
        ),
        actor_hidden=(128, 128),
        critic_hidden=(128, 128),
        activation="swish",
        min_std=0.1,
        gamma=0.985,
        learning_rate=5e-4,
        num_epochs=5,
        num_minibatches=8,
    )


PRESETS: dict[str, Callable[[], Config]] = {"go1": go1}


def preset(name: str) -> Config:
    """A preset by name.

    Raises:
        ValueError: for an unknown name, with near matches.
    """
    check_names([name], PRESETS, what=f"preset ({', '.join(PRESETS)}):")
    return PRESETS[name]()
