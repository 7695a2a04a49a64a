"""Tasks that come with Surefoot, for robots that installed packages hold: `robot:NAME`."""

from __future__ import annotations

import importlib

from surefoot.errors import check_names
from surefoot.robots.task import RobotTask

# name: module
TASKS = {
    "QuadrupedWalk": "quadrupeds",
    "Go1Walk": "quadrupeds",
    "Go1Rough": "quadrupeds",
    "SpotWalk": "quadrupeds",
    "G1Walk": "humanoids",
    "ArmReach": "reaching",
    "PandaReach": "reaching",
    "PandaLift": "manipulating",
    "LeapReorient": "manipulating",
}


def shipped(name: str) -> type[RobotTask]:
    """The class of a task by name.

    Raises:
        ValueError: for an unknown name, with near matches.
    """
    check_names([name], TASKS, what=f"robot ({', '.join(TASKS)}):")
    return getattr(importlib.import_module(f"{__name__}.{TASKS[name]}"), name)
