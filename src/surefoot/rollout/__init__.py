"""Floor 3: collecting experience."""

from surefoot.rollout.collect import Act, Collector, Policy, act, make_collector, start
from surefoot.rollout.rollout import CollectorState, Episodes, Rollout, Transition

__all__ = [
    "Act",
    "Collector",
    "CollectorState",
    "Episodes",
    "Policy",
    "Rollout",
    "Transition",
    "act",
    "make_collector",
    "start",
]
