"""What donating the learners' buffers to their update would gain: time of an update and its memory.

    python benchmarks/donation.py

Training keeps the learners from before an update until the update is known to be sound (it may diverge,
and then they are what is saved), so it does not donate them. This measures the price, with networks
much larger than the default. Writes benchmarks/results/donation.json.
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
import numpy as np
from common import Results, spread

from surefoot.config import Config
from surefoot.envs import make_environment
from surefoot.training import Trainer
from surefoot.update import make_executors

WIDTHS = [64, 256, 1024]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    results = Results("donation")
    for width in WIDTHS:
        hidden = (width, width)
        config = Config(
            num_envs=8, num_steps=128, num_epochs=1, actor_hidden=hidden, critic_hidden=hidden
        )
        env = make_environment("probe:late-reward/continuous", 8, seed=np.random.SeedSequence(0))
        config = config.replace(overlap="off")
        trainer = Trainer(config, env, make_executors(config))
        state = trainer.start()
        state, rollout = trainer.collect(state, trainer.policy(state))
        state, gathered = trainer.make_experience(state, rollout)
        state, batch = trainer.estimate_advantages(state, gathered.experience)
        learner, rate = state.learners["actor"], config.learning_rate
        update = trainer.updater.programs["actor"].__wrapped__

        programs, seconds = {}, {"kept": [], "donated": []}
        for name, donated in (("kept", ()), ("donated", (0,))):
            program = jax.jit(update, donate_argnums=donated)
            programs[name] = program.lower(learner, rate, batch, state.key).compile()
        for _ in range(options.repeats):
            for name, program in programs.items():
                own = jax.block_until_ready(jax.tree.map(lambda x: x.copy(), learner))
                began = time.perf_counter()
                jax.block_until_ready(program(own, rate, batch, state.key))
                seconds[name].append(time.perf_counter() - began)
        bytes_of = {
            name: program.memory_analysis().output_size_in_bytes
            + program.memory_analysis().temp_size_in_bytes
            - program.memory_analysis().alias_size_in_bytes
            for name, program in programs.items()
        }
        results.save(f"width {width}", {"seconds": seconds, "bytes": bytes_of})
        ratio = statistics.median(seconds["donated"]) / statistics.median(seconds["kept"])
        print(f"{width} x {width}: an epoch of the actor, milliseconds")
        for name in programs:
            times = spread((1e3 * x for x in seconds[name]), ".2f")
            print(f"  {name:<8} {times}, {bytes_of[name] / 2**20:.2f} MiB beside its inputs")
        print(f"  donated takes {ratio:.2f} of the time")


if __name__ == "__main__":
    main()
