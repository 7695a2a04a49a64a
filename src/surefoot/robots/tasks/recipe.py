"""What the trainings of shipped tasks have in common."""

from __future__ import annotations

from surefoot.config import Config

RECIPE = Config(
    num_steps=32,
    actor_hidden=(128, 128),
    critic_hidden=(128, 128),
    activation="elu",
    learning_rate=1e-3,
    num_epochs=5,
    num_minibatches=8,
)
