"""Floor 2: robots of one's own, on MuJoCo's batch engine."""

from surefoot.robots.actuation import Actuation
from surefoot.robots.environment import RobotEnvironment
from surefoot.robots.model import Robot, installed
from surefoot.robots.sensing import Sensing
from surefoot.robots.state import State
from surefoot.robots.task import RobotTask, Start

__all__ = [
    "Actuation",
    "Robot",
    "RobotEnvironment",
    "RobotTask",
    "Sensing",
    "Start",
    "State",
    "installed",
]
