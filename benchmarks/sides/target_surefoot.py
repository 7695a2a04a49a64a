"""Surefoot's side of `time_to_target.py`: its default options."""

from __future__ import annotations

import jax
import numpy as np
from target import Target, arguments

from surefoot.config import Config
from surefoot.rollout import Policy, act
from surefoot.training import Hook, train


class Examined(Hook):
    """Asks the target after each iteration."""

    over = False

    def __init__(self, target: Target) -> None:
        self.target = target

    def on_start(self, run) -> None:
        """Keep what a policy is made of."""
        self.run = run
        spec = run.env.action
        key = jax.random.key(0)
        self.act = jax.jit(lambda policy, x: act(policy, x, key, spec, deterministic=True))

    def on_iteration(self, state, metrics) -> None:
        """Examine."""
        actor = state.learners["actor"].params
        policy = Policy(actor, state.normalizer, self.run.agent.actor_groups)

        def action(observations: np.ndarray) -> np.ndarray:
            groups = {"observation": observations.astype(np.float32)}
            return np.asarray(self.act(policy, groups).env_action)

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
