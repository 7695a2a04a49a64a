"""Surefoot's side of `time_to_target.py`: its default options."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from target import Target, arguments

from surefoot.config import Config
from surefoot.training import Hook, train


class Examined(Hook):
    """Asks the target after each iteration."""

    over = False

    def __init__(self, target: Target) -> None:
        self.target = target

    def on_start(self, run) -> None:
        """Keep what a policy is made of."""
        self.run = run
        key = jax.random.key(0)

        def act(policy, x):
            first = jnp.zeros(len(x["observation"]), bool)
            return policy.act(x, (), first, key, deterministic=True)[0].env_action

        self.act = jax.jit(act)

    def on_iteration(self, state, metrics) -> None:
        """Examine."""
        policy = self.run.policy(state)

        def action(observations: np.ndarray) -> np.ndarray:
            groups = {"observation": observations.astype(np.float32)}
            return np.asarray(self.act(policy, groups))

        self.over = self.target.over(state.step, action)


def main() -> None:
    options = arguments()
    target = Target(options)
    hook = Examined(target)
    config = Config(total_steps=options.most_steps, seed=options.seed)
    train(options.task, config, hooks=[hook], should_stop=lambda: hook.over)
    target.print()


if __name__ == "__main__":
    main()
