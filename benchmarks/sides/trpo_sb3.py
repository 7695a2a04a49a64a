"""sb3-contrib's side of `trpo.py`; runs in .bench-venv."""

from __future__ import annotations

import argparse
import json
import time

import torch
from sb3_contrib import TRPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--total-steps", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    env = VecNormalize(make_vec_env(options.task, n_envs=2, seed=options.seed), gamma=0.99)
    model = TRPO(
        "MlpPolicy",
        env,
        batch_size=128,
        n_steps=1024,
        gamma=0.99,
        gae_lambda=0.95,
        sub_sampling_factor=1,
        cg_max_steps=25,
        cg_damping=0.1,
        n_critic_updates=20,
        learning_rate=1e-3,
        seed=options.seed,
        device="cpu",
    )
    began = time.perf_counter()
    model.learn(options.total_steps)
    seconds = time.perf_counter() - began
    examined = make_vec_env(options.task, n_envs=1, seed=1_000_000 + options.seed)
    examined = VecNormalize(examined, training=False, norm_reward=False)
    examined.obs_rms = env.obs_rms
    final, _ = evaluate_policy(model, examined, n_eval_episodes=20, deterministic=True)
    print(json.dumps({"steps": options.total_steps, "seconds": seconds, "final": float(final)}))


if __name__ == "__main__":
    main()
