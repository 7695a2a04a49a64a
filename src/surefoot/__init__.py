"""Surefoot: PPO for robots, fast on the CPU you own.

Names are loaded when they are first used, so that `import surefoot` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surefoot import envs, functional
    from surefoot.agent import LoadedPolicy, load_policy
    from surefoot.api import evaluate, resume, train, train_seeds
    from surefoot.config import Config
    from surefoot.ship import export

__version__ = "0.1.0"

_HOMES = {
    "Config": "surefoot.config",
    "LoadedPolicy": "surefoot.agent",
    "load_policy": "surefoot.agent",
    "evaluate": "surefoot.api",
    "export": "surefoot.ship",
    "resume": "surefoot.api",
    "train": "surefoot.api",
    "train_seeds": "surefoot.api",
}
_MODULES = ("envs", "functional")

__all__ = [
    "Config",
    "LoadedPolicy",
    "envs",
    "evaluate",
    "export",
    "functional",
    "load_policy",
    "resume",
    "train",
    "train_seeds",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"surefoot.{name}")
    raise AttributeError(f"module 'surefoot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
