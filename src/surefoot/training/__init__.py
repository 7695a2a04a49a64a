"""Floor 6: the training loop, its state, evaluation, and the hook interface."""

from surefoot.training.environments import begins_anew, crosses, hosting_of, is_checkpoint
from surefoot.training.evaluate import (
    CHUNK_STEPS,
    MAX_EPISODE_STEPS,
    EpisodeStatistics,
    PlayedChunk,
    evaluate,
    play,
)
from surefoot.training.fused import REPORTS, train_seeds
from surefoot.training.hooks import Hook, Run
from surefoot.training.loop import Begun, ResumePoint, Trainer, environments, train
from surefoot.training.metrics import METRICS
from surefoot.training.state import TrainState, evaluation_stream, make_streams, to_key

__all__ = [
    "CHUNK_STEPS",
    "MAX_EPISODE_STEPS",
    "METRICS",
    "REPORTS",
    "Begun",
    "EpisodeStatistics",
    "Hook",
    "PlayedChunk",
    "ResumePoint",
    "Run",
    "TrainState",
    "Trainer",
    "begins_anew",
    "crosses",
    "environments",
    "evaluate",
    "evaluation_stream",
    "hosting_of",
    "is_checkpoint",
    "make_streams",
    "play",
    "to_key",
    "train",
    "train_seeds",
]
