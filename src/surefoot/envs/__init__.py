"""Floor 2: the environment contract, one adapter for each family of simulators, and the probes."""

from surefoot.envs.contract import ActionSpec, Encoding, Environment, EnvSpec, Step, as_groups
from surefoot.envs.hosting import Hosting
from surefoot.envs.jax_native import JaxEnvironment, SingleEnvironment, SingleStep
from surefoot.envs.tasks import make_environment

__all__ = [
    "ActionSpec",
    "Encoding",
    "EnvSpec",
    "Environment",
    "Hosting",
    "JaxEnvironment",
    "SingleEnvironment",
    "SingleStep",
    "Step",
    "as_groups",
    "make_environment",
]
