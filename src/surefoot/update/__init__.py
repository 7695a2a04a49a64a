"""Floor 5: one optimization step on a batch of experience."""

from surefoot.update.epochs import Learner
from surefoot.update.executors import Executors, make_executors, resolve
from surefoot.update.experience import (
    Estimates,
    Experience,
    RewardScaler,
    make_experience,
    make_reward_scaler,
)
from surefoot.update.learners import Learners
from surefoot.update.update import Estimated, Updater

__all__ = [
    "Estimated",
    "Estimates",
    "Executors",
    "Experience",
    "Learner",
    "Learners",
    "RewardScaler",
    "Updater",
    "make_executors",
    "make_experience",
    "make_reward_scaler",
    "resolve",
]
