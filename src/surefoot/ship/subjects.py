"""What is exported: a policy by itself, or with its robot's task; and what it is compared on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from surefoot.agent import LoadedPolicy
from surefoot.agent.description import to_json
from surefoot.api import open_run
from surefoot.envs import ObservationSpec
from surefoot.envs.contract import closing
from surefoot.robots import RobotTask
from surefoot.ship.graph import Graph
from surefoot.ship.policy_graph import policy_graph, port_of
from surefoot.ship.robot_graph import RobotPolicy, given_of
from surefoot.training import EpisodeStatistics, play, to_key

RANDOM, EXTREME, RECORDED = 400, 300, 300  # rows to compare on
_EXTREME = np.array([0.0, -0.0, 1e-30, 1e4, -1e4, 1e30, -1e30], np.float32)
_NO_NUMBER = np.array([np.inf, -np.inf, np.nan], np.float32)  # a policy by itself refuses these

Row = dict[str, np.ndarray]


class Acts(Protocol):
    """A policy in some form, which remembers from call to call."""

    def reset(self) -> None:
        """Begin a new episode."""
        ...

    def __call__(self, observation: Mapping[str, np.ndarray], /) -> np.ndarray:
        """The action."""
        ...


class Subject(NamedTuple):
    """What is exported.

    Attributes:
        graph: what it does.
        act: the original.
        rows: what it is compared on; the last ones follow each other.
        reads: what goes in, as policy.json says it.
        action: what comes out, likewise.
        evaluation: what the policy is worth, if it was played.
    """

    graph: Graph
    act: Acts
    rows: Sequence[Row]
    reads: list[dict[str, Any]]
    action: dict[str, Any]
    evaluation: dict[str, Any]


def from_observations(run: Path, loaded: LoadedPolicy, episodes: int, task: Any) -> Subject:
    """A policy by itself: observations as the environment gives them, actions as it takes them."""
    evaluation, recorded = _played(run, episodes, task) if episodes else ({}, [])
    drawn = _drawn(loaded)
    return Subject(
        policy_graph(loaded.policy),
        loaded,
        [*drawn[:RANDOM], *_harmed(drawn[-EXTREME:], _EXTREME), *recorded],
        [
            {"name": n, **to_json(s), "dtype": port_of(n, s).dtype}
            for n, s in loaded.observations.items()
        ],
        to_json(loaded.action),
        evaluation,
    )


def from_state(
    run: Path, loaded: LoadedPolicy, episodes: int, task: Any, robot: RobotTask
) -> Subject:
    """A policy with its robot's task: what the robot measures, and the controls of its actuators."""
    evaluation, _ = _played(run, episodes, task) if episodes else ({}, [])
    whole = RobotPolicy(loaded.policy, robot)
    recorded = _measured(whole, loaded)
    spread = {name: np.std([row[name] for row in recorded], axis=0) for name in recorded[0]}
    random = np.random.default_rng(0)
    drawn = [
        {
            name: (x + 3.0 * spread[name] * random.standard_normal(x.shape)).astype(np.float32)
            for name, x in recorded[i % len(recorded)].items()
        }
        for i in range(RANDOM + EXTREME)
    ]
    names = whole.env.robot.names
    joints = [names["joint"][i] for i in whole.env.robot.scalar_joints()]
    reads = [
        {
            "name": port.name,
            "shape": list(port.shape),
            "dtype": port.dtype,
            "choices": [],
            **({"order": joints} if port.name.startswith("joints.") else {}),
        }
        for port in whole.inputs
        if not port.carried
    ]
    action = {
        "kind": "controls",
        "shape": [len(names["actuator"])],
        "dtype": "float32",
        "order": names["actuator"],
    }
    odd = np.concatenate([_EXTREME, _NO_NUMBER])
    rows = [*drawn[:RANDOM], *_harmed(drawn[RANDOM:], odd), *recorded]
    return Subject(whole.graph(), _Jitted(whole), rows, reads, action, evaluation)


class _Jitted:
    """A robot's policy that remembers."""

    def __init__(self, whole: RobotPolicy) -> None:
        self._run: Callable[..., Any] = jax.jit(whole)
        self._carried = [port for port in whole.inputs if port.carried]
        self.reset()

    def reset(self) -> None:
        """Begin a new episode."""
        self._carry = {port.name: np.zeros(port.shape, port.dtype) for port in self._carried}

    def __call__(self, observation: Mapping[str, np.ndarray], /) -> np.ndarray:
        """The controls."""
        result = self._run({**observation, **self._carry})
        self._carry = {port.name: result[port.name] for port in self._carried}
        return np.asarray(result["action"])


def _measured(whole: RobotPolicy, loaded: LoadedPolicy) -> list[Row]:
    """What a robot measures under its policy, step after step."""
    env, rows = whole.env, []
    state, step = env.reset(jax.random.key(0))
    loaded.reset()
    ports = [port for port in whole.inputs if not port.carried]

    def read(carried: Any) -> dict[str, jax.Array]:
        s = env.state_of(jax.tree.map(lambda x: x[0], carried))
        return {port.name: jnp.asarray(given_of(s, port.name), jnp.float32) for port in ports}

    read = jax.jit(read)
    while len(rows) < RECORDED:
        rows.append({name: np.asarray(x) for name, x in read(state[0]).items()})
        action = loaded(step.observation, first=np.asarray(state[0].ended))
        state, step = env.step(state, action)
    return rows


def _drawn(loaded: LoadedPolicy) -> list[Row]:
    """Observations around those that the policy was trained on."""
    random = np.random.default_rng(0)
    moments = loaded.policy.normalizer.moments

    def draw(name: str, spec: ObservationSpec) -> np.ndarray:
        if spec.choices:
            chosen = random.integers(0, spec.choices) + np.asarray(spec.starts)
            return chosen.reshape(spec.shape)
        mean, variance = (np.asarray(x) for x in (moments[name].mean, moments[name].variance))
        drawn = mean + 3.0 * np.sqrt(variance) * random.standard_normal(mean.shape)
        return spec.raw(drawn.astype(np.float32).reshape(spec.shape))

    return [
        {name: draw(name, spec) for name, spec in loaded.observations.items()}
        for _ in range(RANDOM + EXTREME)
    ]


def _harmed(rows: Sequence[Row], odd: np.ndarray) -> list[Row]:
    """The same with odd numbers here and there."""
    random = np.random.default_rng(1)

    def harm(x: np.ndarray) -> np.ndarray:
        if x.dtype.kind != "f":
            return x
        return np.where(random.random(x.shape) < random.random(), random.choice(odd), x)

    return [{name: harm(x) for name, x in row.items()} for row in rows]


def _played(run: Path, episodes: int, task: Any) -> tuple[dict[str, Any], list[Row]]:
    """What the policy is worth, and observations of one environment, one after the other."""
    env, loaded, streams = open_run(run, episodes=episodes, task=task)
    tally, rows = EpisodeStatistics(), []
    with closing(env, warnings.warn):
        for played in play(loaded.policy, env, episodes, key=to_key(streams.spawn(1)[0])):
            tally.add(played)
            seen = played.rollout.observations
            rows += [
                {
                    name: spec.raw(np.asarray(seen[name][step, 0]))
                    for name, spec in loaded.observations.items()
                }
                for step in range(min(RECORDED - len(rows), len(played.rollout.valid)))
            ]
    return tally.summary(), rows
