"""`surefoot bench TASK`: how near training comes to what this machine allows, and what would help."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from surefoot.cli.train import options_from
from surefoot.config import Config, UserError, validate


@dataclass(frozen=True)
class Arguments:
    """Measure what this machine allows on a task, what training reaches, and what would help."""

    task: Annotated[str | None, tyro.conf.Positional] = None
    """As for `surefoot train`."""
    seconds: float = 5.0
    """Seconds of each measurement."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object and nothing else."""
    preset: str | None = None
    """Options to start from instead of the defaults."""
    config: Path | None = None
    """A TOML file of options."""
    options: tyro.conf.OmitArgPrefixes[Config] = field(default_factory=Config)
    """As for `surefoot train`."""


def main(argv: Sequence[str]) -> int:
    """Measure, and print."""
    base, task = options_from(argv)
    arguments = tyro.cli(
        Arguments,
        prog="surefoot bench",
        args=list(argv),
        default=Arguments(task=task, options=base),
    )
    if arguments.task is None:
        raise UserError("no TASK given; for example `surefoot bench HalfCheetah-v5`")
    if not 0 < arguments.seconds <= 600:
        raise UserError(f"seconds = {arguments.seconds} must be in (0, 600]")
    config = validate(arguments.options)
    result = measure(arguments.task, config, arguments.seconds, quiet=arguments.json)
    print(json.dumps(result) if arguments.json else describe(result))
    return 0


def measure(task: str, config: Config, seconds: float, *, quiet: bool) -> dict[str, Any]:
    """The limit for the configuration, and the pace of others with the same batch."""
    from surefoot.training import environments
    from surefoot.training import limit as limits

    if not quiet:
        print(
            f"Measuring {task}: about {5 * seconds:.0f} s, and the compilation of each setting..."
        )
    with environments(task, config) as env:
        limit = limits.measure(env, config, seconds=seconds)
    others = [{"num_envs": config.num_envs, "steps_per_second": limit.training.rate}]
    for num_envs in alternatives(config):
        other = config.replace(num_envs=num_envs, num_steps=config.batch_size // num_envs)
        with environments(task, other) as env:
            pace = limits.training_pace(env, other, seconds=seconds / 2)
        others.append({"num_envs": num_envs, "steps_per_second": pace.rate})
    return {
        "task": task,
        "cores": limit.cores,
        "num_envs": config.num_envs,
        "num_steps": config.num_steps,
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
        "same_batch": sorted(others, key=lambda row: row["num_envs"]),
    }


def alternatives(config: Config) -> list[int]:
    """Other numbers of environments that make the same batch."""
    wanted = (config.num_envs // 4, config.num_envs // 2, config.num_envs * 2, config.num_envs * 4)
    return [
        n for n in wanted if n >= 1 and config.batch_size % n == 0 and config.batch_size // n >= 8
    ]


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
        "the same batch from other numbers of environments:",
    ]
    for row in result["same_batch"]:
        here = "   as measured above" if row["num_envs"] == result["num_envs"] else ""
        lines.append(
            f"  --num-envs {row['num_envs']:<5} --num-steps "
            f"{result['num_envs'] * result['num_steps'] // row['num_envs']:<6}"
            f"{row['steps_per_second']:>10,.0f} steps/s{here}"
        )
    return "\n".join([*lines, "", advice(result)])


def advice(result: dict[str, Any]) -> str:
    """What to try, in a sentence; differences below 10% are not worth one."""
    best = max(result["same_batch"], key=lambda row: row["steps_per_second"])
    tips = []
    if best["steps_per_second"] > 1.1 * result["steps_per_second"]:
        steps = result["num_envs"] * result["num_steps"] // best["num_envs"]
        gain = best["steps_per_second"] / result["steps_per_second"]
        tips.append(
            f"--num-envs {best['num_envs']} --num-steps {steps} ({gain:.2f} times the pace)"
        )
    if result["in_turn_steps_per_second"] > 1.1 * result["steps_per_second"]:
        gain = result["in_turn_steps_per_second"] / result["steps_per_second"]
        tips.append(f"--overlap off ({gain:.2f} times the pace)")
    if not tips:
        return "Nothing tried here is faster by 10% or more."
    return "Try: " + "; ".join(tips)
