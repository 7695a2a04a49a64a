"""Floor 3: the agent: what it reads, its normalizer and networks, how it acts, how it describes itself."""

from surefoot.agent.agent import Agent, make_agent, value_head
from surefoot.agent.description import from_json, to_json
from surefoot.agent.normalizer import Normalizer, NormalizerSpec, make_normalizer
from surefoot.agent.policy import Act, Policy, PolicySpec, make_policy
from surefoot.agent.saved import LoadedPolicy, load_policy, save_policy

__all__ = [
    "Act",
    "Agent",
    "LoadedPolicy",
    "Normalizer",
    "NormalizerSpec",
    "Policy",
    "PolicySpec",
    "from_json",
    "load_policy",
    "make_agent",
    "make_normalizer",
    "make_policy",
    "save_policy",
    "to_json",
    "value_head",
]
