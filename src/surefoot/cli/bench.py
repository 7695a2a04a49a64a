"""`surefoot bench TASK`: how near training comes to what this machine allows, and what would help."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from surefoot.cli.arguments import from_file
from surefoot.cli.options import read_with_options
from surefoot.config import Config
from surefoot.errors import UserError
from surefoot.machine import usable_cores
from surefoot.terminal import say


@dataclass(frozen=True)
class Arguments:
    """Measure what this machine allows on a task, what training reaches, and what would help."""

    task: Annotated[str | None, tyro.conf.Positional, from_file()] = None
    """As for `surefoot train`."""
    seconds: float = 5.0
    """Seconds of each measurement."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Measure the given settings alone, and try no others."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object and nothing else."""
    preset: str | None = None
    """Options to start from instead of the defaults."""
    config: Path | None = None
    """A TOML file of options."""


def main(argv: Sequence[str]) -> int:
    """Measure, and print."""
    arguments, config = read_with_options(Arguments, "bench", argv)
    if arguments.task is None:
        raise UserError("no TASK given; for example `surefoot bench HalfCheetah-v5`")
    if not 0 < arguments.seconds <= 600:
        raise UserError(f"seconds = {arguments.seconds} must be in (0, 600]")
    result = measure(arguments, config)
    say(json.dumps(result) if arguments.json else describe(result))
    return 0


def measure(arguments: Arguments, config: Config) -> dict[str, Any]:
    """The limit for the configuration, and the pace of others with the same batch."""
    from surefoot import limits
    from surefoot.training import environments

    task, seconds = arguments.task, arguments.seconds
    with environments(task, config) as env:
        if not arguments.json:
            say(
                f"Measuring {task}: about {(3 if arguments.quick else 5) * seconds:.0f} s, and the "
                "start and compilation of each setting..."
            )
        limit = limits.measure(env, config, seconds=seconds)
        threads = env.spec.threads
    others = [{"options": "", "steps_per_second": limit.training.rate}]
    tried = {} if arguments.quick else alternatives(config, threads)
    for options, other in tried.items():
        with environments(task, other) as env:
            pace = limits.training_pace(env, other, seconds=seconds / 2)
        others.append({"options": options, "steps_per_second": pace.rate})
    return {
        "task": task,
        "cores": limit.cores,
        "num_envs": config.num_envs,
        "num_steps": config.num_steps,
        "simulator_threads": threads,
        "overlap": config.overlap,
        "simulator": dataclasses.asdict(limit.simulator)
        | {"steps_per_second": limit.simulator.rate},
        "simulator_core_ms_per_step": 1e3 * limit.simulator.cost,
        "learner_core_ms_per_step": 1e3 * limit.learner_cost,
        "in_turn_steps_per_second": limit.in_turn.rate,
        "limit_steps_per_second": limit.rate,
        "steps_per_second": limit.training.rate,
        "share_of_limit": limit.share,
        "time": limit.training.shares,
        "same_batch": others,
    }


def alternatives(config: Config, threads: int | None) -> dict[str, Config]:
    """Other settings that make the same batch, by what to type for them.

    At most twice the environments: some simulators take 75 MB for each.

    Args:
        config: the options.
        threads: the simulator's; None where it has none of its own.
    """
    found = {}
    for num_envs in (config.num_envs // 4, config.num_envs // 2, config.num_envs * 2):
        num_steps = config.batch_size // max(num_envs, 1)
        if num_envs and config.batch_size % num_envs == 0 and num_steps >= 8:
            options = f"--num-envs {num_envs} --num-steps {num_steps}"
            found[options] = config.replace(num_envs=num_envs, num_steps=num_steps)
    counts = {1, min(usable_cores(), config.num_envs)} - {threads} if threads else ()
    for count in sorted(counts):
        given = (*config.env_options, f"num_threads={count}")
        found[f"--env-options {' '.join(given)}"] = config.replace(env_options=given)
    return found


def describe(result: dict[str, Any]) -> str:
    """The result in words."""
    time = ", ".join(f"{name} {share:.0%}" for name, share in result["time"].items())
    lines = [
        f"{result['task']}: {result['num_envs']} environments x {result['num_steps']} steps, "
        f"{result['cores']} cores, overlap {result['overlap']}",
        f"  simulator alone   {result['simulator']['steps_per_second']:>10,.0f} steps/s   "
        f"{result['simulator_core_ms_per_step']:.3f} core-ms a step",
        f"  learner           {'':>10}           {result['learner_core_ms_per_step']:.3f} core-ms a step",
        f"  limit             {result['limit_steps_per_second']:>10,.0f} steps/s   "
        "cores / (simulator + learner)",
        f"  training          {result['steps_per_second']:>10,.0f} steps/s   ({time})",
        f"  in turn           {result['in_turn_steps_per_second']:>10,.0f} steps/s   (--overlap off)",
        f"share of the limit: {result['share_of_limit']:.0%}",
        "",
    ]
    if len(result["same_batch"]) > 1:
        lines.append("the same batch with other settings:")
        lines += [
            f"  {row['options'] or 'as above':<40}{row['steps_per_second']:>10,.0f} steps/s"
            for row in result["same_batch"]
        ]
        lines.append("")
    return "\n".join([*lines, advice(result)])


def advice(result: dict[str, Any]) -> str:
    """What to try, in a sentence; differences below 10% are not worth one."""
    best = max(result["same_batch"], key=lambda row: row["steps_per_second"])
    tips = []
    if best["steps_per_second"] > 1.1 * result["steps_per_second"]:
        gain = best["steps_per_second"] / result["steps_per_second"]
        tips.append(f"{best['options']} ({gain:.2f} times the pace)")
    if result["in_turn_steps_per_second"] > 1.1 * result["steps_per_second"]:
        gain = result["in_turn_steps_per_second"] / result["steps_per_second"]
        tips.append(f"--overlap off ({gain:.2f} times the pace)")
    if not tips:
        return "Nothing tried here is faster by 10% or more."
    return "Try: " + "; ".join(tips)
