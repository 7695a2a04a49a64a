"""Floor 4: one optimisation step on a batch of experience."""

from surefoot.update.algorithm import Algorithm, Learners, Outcome, make_algorithm
from surefoot.update.epochs import KLControl, Learner, make_optimizer, run_epochs
from surefoot.update.experience import (
    Estimates,
    Experience,
    RewardScaler,
    estimate,
    make_reward_scaler,
)
from surefoot.update.lanes import Lanes, both_beside, critic_beside, in_turn, settle

__all__ = [
    "Algorithm",
    "Estimates",
    "Experience",
    "KLControl",
    "Lanes",
    "Learner",
    "Learners",
    "Outcome",
    "RewardScaler",
    "both_beside",
    "critic_beside",
    "estimate",
    "in_turn",
    "make_algorithm",
    "make_optimizer",
    "make_reward_scaler",
    "run_epochs",
    "settle",
]
