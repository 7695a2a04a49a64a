"""Stable-Baselines3's side of `against_sb3.py`; runs in .bench-venv and prints one JSON line.

SB3 steps its environments in one process (DummyVecEnv, its default) and runs on the CPU, by default with one
thread, which is faster than two on the machine of docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize


class Laps(BaseCallback):
    """Wall time at each start of a rollout, to leave the first iteration out."""

    def __init__(self) -> None:
        super().__init__()
        self.laps: list[float] = []

    def _on_rollout_start(self) -> None:
        self.laps.append(time.perf_counter())

    def _on_step(self) -> bool:
        return True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", default="HalfCheetah-v5")
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--num-steps", type=int, default=256)
    parser.add_argument("--minibatch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    env = VecNormalize(make_vec_env(options.task, n_envs=options.num_envs, seed=options.seed))
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=options.num_steps,
        batch_size=options.minibatch,
        n_epochs=options.epochs,
        policy_kwargs={"net_arch": {"pi": [64, 64], "vf": [64, 64]}},
        device="cpu",
        seed=options.seed,
    )
    laps = Laps()
    batch = options.num_envs * options.num_steps
    model.learn(batch * (options.iterations + 1), callback=laps)
    laps.laps.append(time.perf_counter())
    elapsed = laps.laps[-1] - laps.laps[1]
    print(json.dumps({"steps": batch * options.iterations, "seconds": elapsed}))


if __name__ == "__main__":
    main()
