"""Floor 1: networks as Equinox modules: state goes in and comes out."""

from surefoot.networks.actor_critic import (
    Actor,
    ActorCritic,
    Critic,
    PolicyHead,
    TorsoSpec,
    ValueHead,
    ValueScale,
    make_actor,
    make_critic,
    share_trunk,
)
from surefoot.networks.memory import Memory, MemorySpec
from surefoot.networks.mlp import ACTIVATIONS, MLP, Linear, make_linear, make_mlp
from surefoot.networks.torso import Inputs, Torso

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Actor",
    "ActorCritic",
    "Critic",
    "Inputs",
    "Linear",
    "Memory",
    "MemorySpec",
    "PolicyHead",
    "Torso",
    "TorsoSpec",
    "ValueHead",
    "ValueScale",
    "make_actor",
    "make_critic",
    "make_linear",
    "make_mlp",
    "share_trunk",
]
