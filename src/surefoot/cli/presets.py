"""Presets: functions that return a config. `--preset NAME` starts from one instead of the defaults."""

from __future__ import annotations

from collections.abc import Callable

from surefoot.config import Config, check_names


def go1() -> Config:
    """Unitree Go1 joystick tasks: an actor on what the robot senses, a critic on the true state.

    A small first standard deviation lets it stand up: with 1.0 it falls within 30 steps, and the task
    clips negative rewards to 0, so there is nothing to learn from. gamma as in MuJoCo Playground's
    published settings for this task.
    """
    return Config(
        total_steps=2_000_000,
        num_envs=64,
        num_steps=64,
        actor_hidden=(128, 128),
        critic_hidden=(256, 128),
        activation="swish",
        initial_std=0.37,
        gamma=0.97,
        learning_rate=5e-4,
        num_epochs=4,
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
