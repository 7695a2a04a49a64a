"""Stable-Baselines3's and SBX's side of `time_to_target.py`; runs in .bench-venv.

Settings as published in rl-baselines3-zoo, hyperparams/ppo.yml, for the task's v3 (both libraries share
them; SBX has none of its own).
"""

from __future__ import annotations

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from target import Target, arguments

SETTINGS = {
    "HalfCheetah-v5": {
        "batch_size": 64,
        "n_steps": 512,
        "gamma": 0.98,
        "learning_rate": 2.0633e-05,
        "ent_coef": 0.000401762,
        "clip_range": 0.1,
        "n_epochs": 20,
        "gae_lambda": 0.92,
        "max_grad_norm": 0.8,
        "vf_coef": 0.58096,
    },
    "Hopper-v5": {
        "batch_size": 32,
        "n_steps": 512,
        "gamma": 0.999,
        "learning_rate": 9.80828e-05,
        "ent_coef": 0.00229519,
        "clip_range": 0.2,
        "n_epochs": 5,
        "gae_lambda": 0.99,
        "max_grad_norm": 0.7,
        "vf_coef": 0.835671,
    },
}


class Examined(BaseCallback):
    """Asks the target after each rollout."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target = target
        self.over = False

    def _on_rollout_start(self) -> None:
        self.over = self.target.over(self.num_timesteps, self._act)

    def _act(self, observations: np.ndarray) -> np.ndarray:
        normalized = self.training_env.normalize_obs(observations)
        return self.model.predict(normalized, deterministic=True)[0]

    def _on_step(self) -> bool:
        return not self.over


def main() -> None:
    options = arguments()
    network = {"net_arch": {"pi": [256, 256], "vf": [256, 256]}, "log_std_init": -2}
    if options.library == "sb3":
        import torch
        from stable_baselines3 import PPO

        torch.set_num_threads(1)
        own = {"device": "cpu"}
        network |= {"ortho_init": False, "activation_fn": torch.nn.ReLU}
    else:
        import flax.linen as nn
        from sbx import PPO

        own = {}
        network |= {"ortho_init": False, "activation_fn": nn.relu}
    target = Target(options)
    settings = SETTINGS[options.task]
    env = make_vec_env(options.task, n_envs=1, seed=options.seed)
    env = VecNormalize(env, gamma=settings["gamma"])
    model = PPO("MlpPolicy", env, policy_kwargs=network, seed=options.seed, **settings, **own)
    model.learn(2 * options.most_steps, callback=Examined(target))
    target.print()


if __name__ == "__main__":
    main()
