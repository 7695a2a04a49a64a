"""Training needs nothing of what is built on it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys

class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[:2] in (["surefoot", x] for x in ("services", "api", "study", "cli")):
            raise ImportError(f"{name} is above training")

sys.meta_path.insert(0, Refuses())
from surefoot.config import Config
from surefoot.training import train

config = Config(total_steps=128, num_envs=4, num_steps=16, num_minibatches=4, num_epochs=1)
state, policy = train("probe:both", config.replace(checkpoint_every=None))
print(state.step)
"""


@pytest.mark.extended
def test_training_runs_without_services() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 128
