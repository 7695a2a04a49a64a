"""The side of rl_games on EnvPool of `speed.py`; runs in .bench-venv and prints one JSON line.

Networks, normalization and losses as in rl_games' own configuration for HalfCheetah on EnvPool; the
batch and its minibatches come from the command line.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from typing import Any

import torch
from rl_games.common.algo_observer import DefaultAlgoObserver
from rl_games.torch_runner import Runner

SKIPPED = 2  # warm-up


class Laps(DefaultAlgoObserver):
    """Wall time after each iteration."""

    laps: list[float]

    def after_print_stats(self, frame, epoch_num, total_time) -> None:
        super().after_print_stats(frame, epoch_num, total_time)
        self.laps.append(time.perf_counter())


def params(
    task: str,
    seed: int,
    folder: str,
    *,
    epochs: int,
    units: list[int],
    num_actors: int,
    horizon_length: int,
    minibatch_size: int,
    mini_epochs: int,
    critic_coef: float = 4,
    reward_scale: float = 1,
    initializer: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What rl_games' runner loads: its published settings for MuJoCo on EnvPool, with these."""
    network = {
        "name": "actor_critic",
        "separate": False,
        "space": {
            "continuous": {
                "mu_activation": "None",
                "sigma_activation": "None",
                "mu_init": {"name": "default"},
                "sigma_init": {"name": "const_initializer", "val": 0},
                "fixed_sigma": True,
            }
        },
        "mlp": {
            "units": units,
            "activation": "elu",
            "initializer": initializer or {"name": "variance_scaling_initializer", "scale": 2.0},
        },
    }
    config = {
        "name": "surefoot-bench",
        "train_dir": folder,
        "env_name": "envpool",
        "device": "cpu",
        "device_name": "cpu",
        "normalize_input": True,
        "normalize_value": True,
        "value_bootstrap": True,
        "reward_shaper": {"scale_value": reward_scale},
        "normalize_advantage": True,
        "use_smooth_clamp": True,
        "gamma": 0.99,
        "tau": 0.95,
        "learning_rate": 5e-4,
        "lr_schedule": "adaptive",
        "kl_threshold": 0.008,
        "grad_norm": 1.0,
        "entropy_coef": 0.0,
        "truncate_grads": True,
        "e_clip": 0.2,
        "clip_value": False,
        "num_actors": num_actors,
        "horizon_length": horizon_length,
        "minibatch_size": minibatch_size,
        "mini_epochs": mini_epochs,
        "critic_coef": critic_coef,
        "bounds_loss_coef": 0.0,
        "max_epochs": epochs,
        "env_config": {"env_name": task, "env_type": "gymnasium", "seed": seed},
    }
    return {
        "seed": seed,
        "algo": {"name": "a2c_continuous"},
        "model": {"name": "continuous_a2c_logstd"},
        "network": network,
        "config": config,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", default="HalfCheetah-v5")
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--num-steps", type=int, default=256)
    parser.add_argument("--minibatch", type=int, default=2048)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 64, 32])
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    laps = Laps()
    laps.laps = []
    runner = Runner(laps)
    with tempfile.TemporaryDirectory() as folder:
        settings = params(
            options.task,
            options.seed,
            folder,
            epochs=options.iterations + SKIPPED,
            units=options.hidden,
            num_actors=options.num_envs,
            horizon_length=options.num_steps,
            minibatch_size=options.minibatch,
            mini_epochs=options.epochs,
        )
        runner.load({"params": settings})
        runner.run({"train": True})
    steps = options.num_envs * options.num_steps * (len(laps.laps) - SKIPPED)
    elapsed = laps.laps[-1] - laps.laps[SKIPPED - 1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"steps": steps, "seconds": elapsed, "peak_mib": peak}))


if __name__ == "__main__":
    main()
