"""The side of rl_games on EnvPool of `time_to_target.py`; runs in .bench-venv.

Settings as published in rl_games, configs/mujoco/{halfcheetah,hopper}_envpool.yaml (there for v4).
"""

from __future__ import annotations

import contextlib
import sys
import tempfile

import numpy as np
import torch
from of_rl_games import params
from rl_games.common.algo_observer import DefaultAlgoObserver
from rl_games.torch_runner import Runner
from target import Target, arguments

OWN = {
    "HalfCheetah-v5": {
        "units": [128, 64, 32],
        "initializer": {"name": "variance_scaling_initializer", "scale": 2.0},
        "num_actors": 64,
        "horizon_length": 256,
        "reward_scale": 1,
        "critic_coef": 4,
    },
    "Hopper-v5": {
        "units": [256, 128, 64],
        "initializer": {"name": "default"},
        "num_actors": 64,
        "horizon_length": 64,
        "reward_scale": 0.1,
        "critic_coef": 2,
    },
}


class Examined(DefaultAlgoObserver):
    """Asks the target after each epoch, and ends training by its own budget."""

    target: Target

    def after_print_stats(self, frame, epoch_num, total_time) -> None:
        super().after_print_stats(frame, epoch_num, total_time)
        if self.target.over(frame, self._act):
            self.algo.max_epochs = epoch_num

    def _act(self, observations: np.ndarray) -> np.ndarray:
        self.algo.set_eval()
        with torch.no_grad():
            answer = self.algo.model(
                {
                    "is_train": False,
                    "prev_actions": None,
                    "obs": torch.as_tensor(observations, dtype=torch.float32),
                    "rnn_states": None,
                }
            )
        return answer["mus"].numpy()


def main() -> None:
    options = arguments()
    torch.set_num_threads(2)
    observer = Examined()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        observer.target = Target(options)
        runner = Runner(observer)
        own = OWN[options.task] | {"minibatch_size": 2048, "mini_epochs": 5}
        runner.load({"params": params(options.task, options.seed, folder, epochs=10**6, **own)})
        runner.run({"train": True})
    observer.target.print()


if __name__ == "__main__":
    main()
