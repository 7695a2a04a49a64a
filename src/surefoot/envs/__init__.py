"""Floor 2: the environment contract, one adapter for each family of simulators, and the probes."""

from surefoot.envs.contract import (
    ActionSpec,
    Environment,
    EnvSpec,
    ObservationSpec,
    Step,
    Symmetry,
    as_groups,
)
from surefoot.envs.hosting import Hosting
from surefoot.envs.jax_native import JaxEnvironment, SingleEnvironment, SingleStep
from surefoot.envs.tasks import make_environment

__all__ = [
    "ActionSpec",
    "EnvSpec",
    "Environment",
    "Hosting",
    "JaxEnvironment",
    "ObservationSpec",
    "SingleEnvironment",
    "SingleStep",
    "Step",
    "Symmetry",
    "as_groups",
    "make_environment",
]
