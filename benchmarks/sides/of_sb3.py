"""Stable-Baselines3's, sb3-contrib's and SBX's side of `speed.py`; runs in .bench-venv, prints one JSON line.

Environments are stepped in one process (DummyVecEnv, the default of both). PyTorch runs with `--threads`
threads; SBX leaves its threads to JAX.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

SKIPPED = 1  # compilation, warm-up


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
    parser.add_argument("--library", choices=["sb3", "sbx", "sb3-contrib"], default="sb3")
    parser.add_argument("--task", default="HalfCheetah-v5")
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--num-steps", type=int, default=256)
    parser.add_argument("--minibatch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--value-clip", type=float, default=None)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--memory-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    env = VecNormalize(make_vec_env(options.task, n_envs=options.num_envs, seed=options.seed))
    network, own, networks = "MlpPolicy", {}, {}
    if options.library == "sbx":
        from sbx import PPO
    else:
        import torch
        from stable_baselines3 import PPO

        torch.set_num_threads(options.threads)
        own = {"device": "cpu"}
    if options.library == "sb3-contrib":
        import sb3_contrib

        PPO = sb3_contrib.RecurrentPPO  # noqa: N806
        network = "MlpLstmPolicy"
        networks = {"lstm_hidden_size": options.memory_size}
    model = PPO(
        network,
        env,
        n_steps=options.num_steps,
        batch_size=options.minibatch,
        n_epochs=options.epochs,
        clip_range_vf=options.value_clip,
        policy_kwargs={"net_arch": {"pi": options.hidden, "vf": options.hidden}} | networks,
        seed=options.seed,
        **own,
    )
    laps = Laps()
    batch = options.num_envs * options.num_steps
    model.learn(batch * (options.iterations + SKIPPED), callback=laps)
    laps.laps.append(time.perf_counter())
    elapsed = laps.laps[-1] - laps.laps[SKIPPED]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    steps = batch * options.iterations
    print(json.dumps({"steps": steps, "seconds": elapsed, "peak_mib": peak}))


if __name__ == "__main__":
    main()
