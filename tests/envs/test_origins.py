"""Clocks, GPS and encoders: what float32 has no digits for is read from where it begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import TINY, metrics_of

from surefoot import deploy
from surefoot.agent import load_policy
from surefoot.api import evaluate, resume, train
from surefoot.envs.contract import ObservationSpec
from surefoot.envs.gymnasium import GymnasiumEnvironment
from surefoot.ship import export
from surefoot.ship.c_file import compiler
from surefoot.training import Hook

OFFSETS = np.array([1.7e9, 48.137154, 0.0])  # a clock in s, a latitude in degrees, an angle
STEPS = np.array([0.05, 1e-6, 0.1])


class Far(gymnasium.Env):
    """Moves by `steps` from `offsets`; where it begins differs from episode to episode."""

    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, offsets: Any = OFFSETS, steps: Any = STEPS, dtype: Any = np.float64) -> None:
        self.offsets, self.steps, self.dtype = np.asarray(offsets), np.asarray(steps), dtype
        shape = self.offsets.shape
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, shape, dtype)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = self.np_random.uniform(0, 3)
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.time += 1 + float(action[0]) / 8
        return self._seen(), float(action[0]), False, self.time > 20, {}

    def _seen(self) -> np.ndarray:
        return (self.offsets + self.time * self.steps).astype(self.dtype)


def made(num_envs: int = 2, **options: Any) -> GymnasiumEnvironment:
    return GymnasiumEnvironment(lambda: Far(**options), num_envs, seeds=range(num_envs), name="far")


def seen_in(env: GymnasiumEnvironment, steps: int = 10) -> np.ndarray:
    """Observations [T, N, D] of the contract."""
    _, step = env.reset(jax.random.key(0))
    rows = [step.observation["observation"]]
    for _ in range(steps):
        _, step = env.step(None, np.zeros((env.spec.num_envs, 1), np.float32))
        rows.append(step.observation["observation"])
    return np.stack(rows)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(20, 1e12) | st.floats(-1e12, -20) | st.floats(-5, 5),
            st.floats(1e-7, 10.0),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_what_a_component_does_is_seen_wherever_it_does_it(
    parts: list[tuple[float, float]],
) -> None:
    offsets, steps = map(np.array, zip(*parts, strict=True))
    seen = seen_in(made(offsets=offsets, steps=steps))
    env = Far(offsets, steps)
    env.reset(seed=0)
    times = [env.time + k for k in range(11)]
    moved = np.diff(np.stack([offsets + t * steps for t in times]), axis=0)
    resolved = 10 * np.spacing(np.abs(offsets))  # in float64, which is all that the environment has
    near = np.abs(offsets) < 20  # where float32 has its seven digits as it is
    resolved[near] = 100 * np.spacing(np.float32(20))
    for i in range(len(parts)):
        if moved[:, i].min() > resolved[i]:
            got = np.diff(seen[:, 0, i].astype(np.float64))
            np.testing.assert_allclose(got, moved[:, i], rtol=0.05)


@pytest.mark.parametrize(
    ("offsets", "dtype"),
    [([0.0, 1.0], np.float64), ([300.0], np.float64), ([1.7e9], np.float32), ([2**12], np.int64)],
)
def test_what_needs_no_origin_is_read_as_ever(offsets: Any, dtype: Any) -> None:
    env = made(offsets=offsets, steps=np.ones(len(offsets)), dtype=dtype)
    assert env.spec.observations["observation"].origin is None
    raw = Far(offsets, np.ones(len(offsets)), dtype)
    first, _ = raw.reset(seed=0)
    np.testing.assert_array_equal(seen_in(env)[0, 0], first.astype(np.float32))


@pytest.mark.parametrize(
    "task", ["Hopper-v5", "Humanoid-v5", "Ant-v5", "Pendulum-v1", "Reacher-v5"]
)
def test_no_task_of_gymnasiums_needs_one(task: str) -> None:
    env = GymnasiumEnvironment(lambda: gymnasium.make(task), 2, seeds=range(2), name=task)
    assert all(spec.origin is None for spec in env.spec.observations.values())
    env.close()


def test_an_origin_must_fit() -> None:
    assert ObservationSpec((2,), origin=(1.0, 0.0)).cast(np.array([[1.5, 2.0]])).tolist() == [
        [0.5, 2.0]
    ]
    for wrong in ({"origin": (1.0,)}, {"origin": (1.0, float("nan"))}):
        with pytest.raises(ValueError, match="origin"):
            ObservationSpec((2,), **wrong)


class Stops(Hook):
    def __init__(self, at: int) -> None:
        self.at, self.now = at, 0

    def on_iteration(self, state: Any, metrics: Any) -> None:
        self.now = state.step

    def __call__(self) -> bool:
        return self.now >= self.at


CONFIG = TINY.replace(checkpoint_every=64, exact_resume="on")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("far") / "run"
    train(Far, config=CONFIG, run_dir=folder, progress=False)
    return folder


@pytest.mark.extended
def test_a_run_keeps_its_origin_and_goes_on_exactly(run: Path, tmp_path: Path) -> None:
    stops = Stops(130)
    part = tmp_path / "run"
    train(Far, config=CONFIG, run_dir=part, progress=False, hooks=[stops], should_stop=stops)
    assert stops.now < CONFIG.total_steps
    resume(part, task=Far, progress=False)
    assert metrics_of(part) == metrics_of(run)
    for name in ("policy.safetensors", "policy.json"):
        assert (part / name).read_bytes() == (run / name).read_bytes()
    # environments that begin anew at a checkpoint begin elsewhere, and are read from the same place
    manifests = [json.loads(f.read_text()) for f in run.glob("checkpoints/*/manifest.json")]
    (origin,) = {tuple(manifest["origins"]["observation"]) for manifest in manifests}
    assert origin == load_policy(run).observations["observation"].origin
    np.testing.assert_allclose(origin, [1.7e9, 48.137154, 0.0], atol=1.0)


@pytest.mark.extended
def test_a_loaded_policy_and_an_evaluation_read_from_there(run: Path) -> None:
    policy = load_policy(run)
    actions = [policy(OFFSETS + k * STEPS).item() for k in range(8)]
    assert len(set(actions)) == 8
    assert evaluate(run, task=Far, episodes=2)["episodes"] == 2


@pytest.mark.extended
def test_every_export_reads_from_there(run: Path, tmp_path: Path) -> None:
    result = export(run, output=tmp_path / "export", episodes=2, task=Far)
    assert {*result.differences} == {"numpy", "onnx", "c"}
    loaded = load_policy(run)
    rows = OFFSETS + np.arange(8)[:, None] * STEPS
    for onnx in (False, True):
        policy = deploy.load(result.folder, onnx=onnx)
        np.testing.assert_allclose(policy(rows), loaded(rows), atol=1e-5)
    if compiler():
        assert "double" in (result.folder / "policy.h").read_text()
        assert result.differences["c"] is not None
