"""Floor 2: robots of one's own, on MuJoCo's batch engine."""

from surefoot.robots import terms
from surefoot.robots.actuation import Actuation
from surefoot.robots.environment import RobotEnvironment
from surefoot.robots.model import Robot, installed, lock, set_home
from surefoot.robots.sensing import Sensing
from surefoot.robots.state import State
from surefoot.robots.symmetry import Mirror
from surefoot.robots.task import RobotTask, Start
from surefoot.robots.terrain import Terrain

__all__ = [
    "Actuation",
    "Mirror",
    "Robot",
    "RobotEnvironment",
    "RobotTask",
    "Sensing",
    "Start",
    "State",
    "Terrain",
    "installed",
    "lock",
    "set_home",
    "terms",
]
