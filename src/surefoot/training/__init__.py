"""Floor 5: the training loop, its state, evaluation, and the hook interface."""

from surefoot.training.agent import AgentSpec, make_agent_spec, make_networks
from surefoot.training.evaluate import STRETCH, Played, Tally, evaluate, play
from surefoot.training.fused import REPORTS, train_seeds
from surefoot.training.hooks import Hook, Run
from surefoot.training.loop import Beginning, Trainer, environments, train
from surefoot.training.metrics import METRICS
from surefoot.training.stage import is_checkpoint
from surefoot.training.state import TrainState, make_streams, to_key

__all__ = [
    "METRICS",
    "REPORTS",
    "STRETCH",
    "AgentSpec",
    "Beginning",
    "Hook",
    "Played",
    "Run",
    "Tally",
    "TrainState",
    "Trainer",
    "environments",
    "evaluate",
    "is_checkpoint",
    "make_agent_spec",
    "make_networks",
    "make_streams",
    "play",
    "to_key",
    "train",
    "train_seeds",
]
