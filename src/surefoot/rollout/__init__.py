"""Floor 4: collecting experience."""

from surefoot.rollout.collect import Collector, make_collector, start
from surefoot.rollout.rollout import CollectorState, Episodes, Rollout, Transition

__all__ = [
    "Collector",
    "CollectorState",
    "Episodes",
    "Rollout",
    "Transition",
    "make_collector",
    "start",
]
