"""Floor 1: networks as Equinox modules, their initialisation, and the observation normaliser."""

from surefoot.networks.actor_critic import (
    Actor,
    ActorCritic,
    Critic,
    PolicyHead,
    join,
    make_actor,
    make_critic,
)
from surefoot.networks.mlp import MLP, Linear, make_linear, make_mlp
from surefoot.networks.normalizer import Normalizer, make_normalizer

__all__ = [
    "MLP",
    "Actor",
    "ActorCritic",
    "Critic",
    "Linear",
    "Normalizer",
    "PolicyHead",
    "join",
    "make_actor",
    "make_critic",
    "make_linear",
    "make_mlp",
    "make_normalizer",
]
