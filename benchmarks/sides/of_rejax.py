"""rejax's side of `speed.py`; runs in .bench-venv and prints one JSON line.

Its training is one jitted program; it is compiled ahead, run once for the warm-up, and timed. Its own
evaluation during training is left out.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import jax
import rejax


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", default="gymnax:CartPole-v1")
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--num-steps", type=int, default=128)
    parser.add_argument("--minibatch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--value-clip", type=float, default=0.2)
    parser.add_argument("--entropy", type=float, default=0.01)
    parser.add_argument("--raw", action="store_true", required=True)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    batch = options.num_envs * options.num_steps
    steps = batch * options.iterations
    algorithm = rejax.get_algo("ppo").create(
        env=options.task.removeprefix("gymnax:"),
        num_envs=options.num_envs,
        num_steps=options.num_steps,
        num_epochs=options.epochs,
        num_minibatches=batch // options.minibatch,
        total_timesteps=steps,
        eval_freq=steps,
        skip_initial_evaluation=True,
        agent_kwargs={"hidden_layer_sizes": options.hidden, "activation": "tanh"},
        clip_eps=options.value_clip,  # rejax clips ratio and value to the same
        ent_coef=options.entropy,
        max_grad_norm=0.5,
    )
    algorithm = algorithm.replace(eval_callback=lambda *_: ())
    train = jax.jit(algorithm.train)
    key = jax.random.key(options.seed)
    jax.block_until_ready(train(key))
    began = time.perf_counter()
    jax.block_until_ready(train(key))
    elapsed = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"steps": steps, "seconds": elapsed, "peak_mib": peak}))


if __name__ == "__main__":
    main()
