"""`surefoot doctor [RUN | TASK]`: what is wrong with a run, an environment, or this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from surefoot.cli.arguments import default, read
from surefoot.config import parse_options
from surefoot.errors import UserError
from surefoot.gl import load_gl
from surefoot.machine import user_path
from surefoot.reading import few, read_json
from surefoot.terminal import say

_SECONDS = 5.0  # of the training on this machine
_FINE, _ODD = "ok", "LOOK"
Line = tuple[str, str]


@dataclass(frozen=True)
class Arguments:
    """Say what is wrong with a run (its folder), an environment (a task's name), or, without either,
    this machine. The exit code is 1 if something is.
    """

    what: Annotated[str | None, tyro.conf.Positional, default("", metavar="[RUN|TASK]")] = None
    """A run folder or a task."""
    env_options: Annotated[tuple[str, ...], default("none")] = ()
    """Settings of the task as KEY=VALUE."""
    steps: int = 1000
    """Steps to try each of 4 environments for."""


def main(argv: Sequence[str]) -> int:
    """Look, and report; 1 if something is to be looked at."""
    arguments = read(Arguments, "doctor", argv)
    if arguments.steps < 1:
        raise UserError(f"steps = {arguments.steps} must be at least 1")
    if arguments.what is None:
        lines = of_machine()
    elif user_path(arguments.what).is_dir():
        lines = of_run(user_path(arguments.what))
    else:
        lines = of_task(arguments.what, arguments.env_options, arguments.steps)
    odd = 0
    for state, text in lines:
        odd += state == _ODD
        say(f"{state:<5}{text}")
    say("\nNothing wrong was found." if not odd else f"\n{odd} thing(s) to look at.")
    return 1 if odd else 0


def of_run(folder: Path) -> Iterator[Line]:
    """What a run's metrics say."""
    from surefoot.services.checkpoints import find_checkpoint
    from surefoot.services.health import RULES, examine
    from surefoot.services.run_folder import METRICS, read_config, read_metrics

    task, config = read_config(folder)
    rows, faults = read_metrics(folder / METRICS)
    for fault in few(faults):
        yield _ODD, f"{fault} (a kill leaves half a line at the end)"
    if not rows:
        yield _ODD, f"{METRICS} is empty: no iteration was finished"
        return
    steps = rows[-1]["step"]
    yield (
        _FINE,
        f"{task}: {len(rows):,} iterations, {steps:,} of {config.total_steps:,} steps",
    )
    found = examine(rows, config)
    for finding in found:
        yield _ODD, f"since iteration {finding.iteration}: {finding.text}"
    yield _FINE, f"{len(RULES) - len(found)} of {len(RULES)} rules of health hold"
    if config.checkpoint_every is not None:
        try:
            checkpoint, complaints = find_checkpoint(folder)
        except UserError as error:
            yield _ODD, str(error)
            return
        for complaint in complaints:
            yield _ODD, complaint
        if checkpoint is not None:
            kind = "exact" if checkpoint.exact else "statistically equal"
            yield _FINE, f"it can go on from step {checkpoint.step:,} ({kind})"
    for crash in sorted(folder.glob("crash*/report.json")):
        yield _ODD, _failure(crash)


def _failure(report: Path) -> str:
    try:
        return f"it failed: {read_json(report)['error']}"
    except KeyError:
        return f"it failed; {report} is damaged: it names no error"
    except UserError as error:
        return f"it failed; {error}"


def of_task(task: str, env_options: Sequence[str], steps: int) -> Iterator[Line]:
    """Whether an environment keeps the contract, and how it behaves under random actions."""
    from surefoot.envs.examine import examine_environment
    from surefoot.envs.tasks import robot_task
    from surefoot.host_process import failure

    options = parse_options(env_options)

    def findings() -> Iterator[tuple[bool, str]]:
        yield from examine_environment(task, options, steps=steps)
        if (robot := robot_task(task, options)) is not None:
            from surefoot.robots.examine import examine_robot

            yield from examine_robot(robot, steps=steps)

    try:
        for fine, text in findings():
            yield _FINE if fine else _ODD, text
    except UserError:
        raise
    except Exception as error:  # the environment's own, where nothing else has named it
        what, trace = failure(error)
        yield _ODD, f"{task}: {what}\n{trace}".rstrip()


def of_machine() -> Iterator[Line]:
    """What Surefoot needs of the machine."""
    import jax

    from surefoot.machine import platform_info

    facts = platform_info()
    versions: dict[str, Any] = facts["versions"]
    have = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    yield _FINE, have
    missing = [name for name in ("envpool", "mujoco") if versions.get(name) is None]
    if missing:
        yield _ODD, f"not installed: {', '.join(missing)} (EnvPool's robots need them)"
    if versions.get("mujoco") == "4.0.0":
        yield (
            _ODD,
            "MuJoCo 4.0.0 factorizes sparse inertia matrices wrongly, which shows from about 60 degrees of "
            "freedom: pip install 'mujoco>=3.17,!=4.0.0' in a fresh environment",
        )
    devices = ", ".join(str(device) for device in jax.devices())
    yield _FINE, f"Python {facts['python']}, {facts['platform']}"
    yield (
        _FINE,
        f"{facts['processor']}: {facts['cores']} of {os.cpu_count()} cores may be used; {devices}",
    )
    yield _graphics()
    yield from _disk()
    yield _pace()


def _graphics() -> Line:
    try:
        load_gl()
    except UserError as error:
        return _ODD, f"training works, videos of robots do not: {error}"
    return _FINE, "videos can be made without a screen (OpenGL is there)"


def _disk() -> Iterator[Line]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    text = f"{free:.1f} GiB free in {Path.cwd()}"
    yield (_FINE if free > 1 else _ODD), text
    block = os.urandom(2**20)
    try:
        with tempfile.TemporaryFile(dir=Path.cwd()) as file:
            began = time.perf_counter()
            for _ in range(32):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            rate = 32 / (time.perf_counter() - began)
    except OSError as error:
        yield _ODD, f"cannot write in {Path.cwd()}: {error.strerror}"
        return
    yield (_FINE if rate > 10 else _ODD), f"writes {rate:,.0f} MiB/s, to the disk"


def _pace() -> Line:
    from surefoot.config import Config
    from surefoot.training import Hook, train

    class Pace(Hook):
        def __init__(self) -> None:
            self.rates: list[float] = []
            self.until = float("inf")

        def on_iteration(self, state: Any, metrics: Any) -> None:
            if len(self.rates) == 2:  # compiled by now
                self.until = time.perf_counter() + _SECONDS
            self.rates.append(metrics["time/env_steps_per_second"])

    pace = Pace()
    train(
        "CartPole-v1",
        Config(total_steps=2**40),
        hooks=[pace],
        should_stop=lambda: time.perf_counter() > pace.until,
    )
    settled = sorted(pace.rates[2:])
    return _FINE, f"CartPole-v1 trains at {settled[len(settled) // 2]:,.0f} steps/s"
