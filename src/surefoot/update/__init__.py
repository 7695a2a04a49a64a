"""Floor 4: one optimisation step on a batch of experience."""

from surefoot.update.algorithm import Algorithm, Learners, make_algorithm
from surefoot.update.epochs import KLControl, Learner, make_optimizer, run_epochs
from surefoot.update.experience import (
    Estimates,
    Experience,
    RewardScaler,
    estimate,
    make_reward_scaler,
)

__all__ = [
    "Algorithm",
    "Estimates",
    "Experience",
    "KLControl",
    "Learner",
    "Learners",
    "RewardScaler",
    "estimate",
    "make_algorithm",
    "make_optimizer",
    "make_reward_scaler",
    "run_epochs",
]
