"""For any space: what is sent to it in training, by a loaded policy and by an exported one is the same."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.envs.test_spaces import OTHERS, boxes
from tests.helpers import TINY
from tests.services.test_policy_file import as_trained, some

from surefoot.agent import load_policy, save_policy
from surefoot.deploy import Program
from surefoot.envs.gymnasium import GymnasiumEnvironment
from surefoot.rollout import make_collector, start
from surefoot.ship.policy_graph import policy_graph

N, STEPS = 2, 3
SEEN = st.sampled_from(
    [
        spaces.Box(-9, 9, (3,)),
        spaces.Box(-9, 9, (2, 2), np.float64),
        spaces.Box(-100, 100, (2,), np.int16),
        spaces.Discrete(5, start=2),
        spaces.MultiDiscrete([3, 4]),
    ]
)


class Answers(gymnasium.Env):
    """Random observations of a space; keeps what it was sent behind each."""

    def __init__(self, seen: Any, action: Any) -> None:
        self.observation_space, self.action_space = seen, action
        self.sent: list[tuple[Any, Any]] = []

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.sent.clear()
        self.observation_space.seed(seed)
        self._now = self.observation_space.sample()
        return self._now, {}

    def step(self, action: Any) -> Any:
        self.sent.append((self._now, action))
        self._now = self.observation_space.sample()
        return self._now, 0.0, False, False, {}


@pytest.mark.extended
@given(seen=SEEN, action=boxes() | OTHERS)
@settings(max_examples=30, deadline=None)
def test_collecting_loading_and_exporting_send_the_same(seen: Any, action: Any) -> None:
    made: list[Answers] = []

    def make() -> Answers:
        made.append(Answers(seen, action))
        return made[-1]

    env = GymnasiumEnvironment(make, N, seeds=range(N), name="t")
    (name, spec), *_ = env.spec.observations.items()
    policy = as_trained(TINY, env, some(spec))
    collect = make_collector(env, num_steps=STEPS, deterministic=True)
    state = start(env, policy.initial_carry(N), jax.random.key(0))
    collect(policy, state, jax.random.key(1))
    with tempfile.TemporaryDirectory() as folder:
        save_policy(Path(folder), policy, task="t", step=0, finished=True)
        loaded = load_policy(folder)
    spec_of_action = policy.action
    graph = None if spec_of_action.is_wide else policy_graph(loaded.policy)
    for one in made[-N:]:
        assert len(one.sent) == STEPS
        for observation, sent in one.sent:
            assert action.contains(sent)
            again = loaded(observation)
            assert again.dtype == action.dtype
            np.testing.assert_allclose(again, sent, rtol=1e-5, atol=1e-5)
            if graph is not None:
                raw = {name: np.asarray(observation)[None].astype(spec.dtype)}
                out = Program(graph.to_json(), list(graph.constants))(raw)["action"][0]
                assert out.dtype == action.dtype
                tolerance = {"rtol": 1e-5, "atol": 1e-5}
                if action.dtype.kind in "iu":  # half a number may be rounded either way
                    tolerance = {"rtol": 1e-5, "atol": 1.0}
                np.testing.assert_allclose(out.astype(float), np.asarray(sent, float), **tolerance)
