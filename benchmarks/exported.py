"""Returns of exported policies beside the interval of their run's evaluation.

    python benchmarks/exported.py RUN ... [--episodes 100]

Exports each run, plays the files (NumPy, and policy.onnx through onnxruntime) in the run's task on
environments that neither training nor `surefoot eval` saw, and prints mean returns with 95% intervals
(Student's) beside those of `surefoot eval`. Writes benchmarks/results/exported.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import jax
import numpy as np
from common import Results
from scipy import stats

import surefoot
from surefoot.envs import make_environment
from surefoot.envs.contract import as_groups
from surefoot.rollout.rollout import begins
from surefoot.see.players import Exported, Seen
from surefoot.services.run_folder import read_config

ENVS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--episodes", type=int, default=100)
    options = parser.parse_args()
    results = Results("exported")
    for run in options.runs:
        task, _ = read_config(run)
        with tempfile.TemporaryDirectory() as folder:
            files = Path(folder) / "export"
            surefoot.export(run, output=files)
            found = {"surefoot eval": evaluated(run, options.episodes)}
            for form, file in (("NumPy", files), ("ONNX", files / "policy.onnx")):
                found[form] = interval(returns(task, file, options.episodes))
        results.save(task, found)
        for name, (mean, low, high) in found.items():
            print(f"{task}: {name:13} {mean:8.1f} [{low:.1f}, {high:.1f}]", flush=True)


def evaluated(run: Path, episodes: int) -> tuple[float, float, float]:
    """What `surefoot eval` says."""
    found = surefoot.evaluate(run, episodes=episodes)
    mean, std = found["episode_return_mean"], found["episode_return_std"]
    half = stats.t.ppf(0.975, episodes - 1) * std / np.sqrt(episodes)
    return mean, mean - half, mean + half


def interval(returns: np.ndarray) -> tuple[float, float, float]:
    """Mean and its 95% interval."""
    mean, error = float(returns.mean()), stats.sem(returns)
    half = float(stats.t.ppf(0.975, len(returns) - 1) * error)
    return mean, mean - half, mean + half


def returns(task: str, file: Path, episodes: int) -> np.ndarray:
    """Of whole episodes, as many in each environment."""
    env = make_environment(task, ENVS, seed=np.random.SeedSequence(2026))
    player = Exported(file, env)
    with jax.enable_x64(env.spec.needs_float64):
        state, step = env.reset(jax.random.key(2026))
        go_on = jax.jit(env.step) if env.spec.in_graph else env.step
    first, running, done = np.ones(ENVS, bool), np.zeros(ENVS), [[] for _ in range(ENVS)]
    while min(map(len, done)) < episodes // ENVS:
        action = player.act(Seen(as_groups(step.observation), first, state))
        with jax.enable_x64(env.spec.needs_float64):
            state, step = go_on(state, action)
        valid, ended = np.asarray(step.valid), np.asarray(step.terminated | step.truncated)
        running += np.where(valid, np.asarray(step.reward), 0.0)
        for i in np.flatnonzero(ended):
            done[i].append(running[i])
            running[i] = 0.0
        first = np.asarray(begins(step, env.spec.autoreset))
    env.close()
    return np.array([one[: episodes // ENVS] for one in done]).ravel()


if __name__ == "__main__":
    main()
