"""`surefoot new-robot MODEL`: a commented task file from a robot's model, tried and trained for a minute."""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import importlib.util
import math
import re
import shlex
import sys
import time
import types
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from surefoot.cli.arguments import default, read
from surefoot.cli.signals import StopOnSignal
from surefoot.errors import UserError, near_matches
from surefoot.machine import user_path
from surefoot.terminal import say

if TYPE_CHECKING:
    from surefoot.robots import RobotEnvironment
    from surefoot.robots.findings import Findings

COPIES = 4  # that are tried
SECONDS = 1.0  # that they are tried for


@dataclass(frozen=True)
class Arguments:
    """Write a commented task file for a robot, try it, train it for a minute, say what to do next."""

    model: Annotated[str, tyro.conf.Positional, default("", metavar="MODEL")]
    """An MJCF or URDF file, or one of an installed package, such as unitree_go1/go1.xml."""
    out: Annotated[Path | None, default("NAME.py here", metavar="FILE.py")] = None
    """The file to write. Nothing is overwritten."""
    free_base: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The robot's base is free: it stands or walks. Needed where the model does not say."""
    fixed_base: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The robot's base is fixed, as that of an arm."""
    train: bool = True
    """Whether to train as a test."""
    train_seconds: float = 60.0
    """How long, once it is compiled."""


class Trial(NamedTuple):
    """What a second of simulation came to.

    Attributes:
        broke: the joint at which the simulation became unstable; empty: it did not.
        up: the cosine between the trunk's z axis and the world's at the end.
    """

    broke: str
    up: float


def main(argv: Sequence[str]) -> int:
    """Look, write, try, train; 1 if the robot cannot be simulated."""
    arguments = read(Arguments, "new-robot", argv)
    if arguments.free_base and arguments.fixed_base:
        raise UserError("--free-base and --fixed-base: the base is one or the other")
    if arguments.train_seconds <= 0:
        raise UserError(f"train_seconds = {arguments.train_seconds:g} must be more than 0")
    file, package = locate(arguments.model)
    check_free(arguments.out)
    from surefoot.robots.findings import look

    free = arguments.free_base if arguments.free_base or arguments.fixed_base else None
    found = look(file, free=free)
    out = arguments.out or Path(f"{file_name(found.name)}.py")
    check_free(out)
    text, physics_s, broke = draft(found, expression(file, package, out), out.name)
    with out.open("x", encoding="utf-8") as opened:
        opened.write(text)
    for line in report(found, physics_s):
        say(line)
    say(f"\nWrote {out}.")
    task = shlex.quote(f"{out}:{found.name}")
    if broke:
        say(
            f"The simulation becomes unstable at {broke}, even with steps of {physics_s:g} s. Are its motors "
            f"too strong for what they move? When it is mended: surefoot doctor {task}"
        )
        return 1
    fine, lines = tried(f"{out}:{found.name}", found)
    say("\n".join(lines))
    if not fine:
        say("A finer physics_dt_s in the file may help; then: surefoot doctor " + task)
        return 1
    if not arguments.train:
        following(found, out, run=None)
        return 0
    return smoke(found, out, arguments.train_seconds)


def locate(model: str) -> tuple[Path, str]:
    """The file of a model, and its name in an installed package, or an empty one.

    Raises:
        ValueError: there is none.
    """
    from surefoot.robots.model import installed

    path = user_path(model)
    if path.suffix == ".xacro":
        raise UserError(
            f"{model} is a template: make a URDF of it first, `xacro {model} > {path.stem}`, and give that"
        )
    if path.is_file():
        return path.resolve(), ""
    try:
        return installed(model), model
    except UserError as error:
        beside = path.parent if path.parent.is_dir() else Path()
        near = near_matches(path.name, [p.name for p in beside.iterdir() if p.is_file()])
        raise UserError(f"there is no file {model!r}{near}, and {error}") from None


def check_free(out: Path | None) -> None:
    """Raise ValueError unless a file of Python can be written there, with nothing overwritten."""
    if out is None:
        return
    if out.suffix != ".py" or not out.stem.isidentifier():
        raise UserError(
            f"--out {out}: it must be a file such as my_robot.py, which Python can import"
        )
    if out.exists():
        raise UserError(f"{out} exists, and nothing is overwritten: choose another name with --out")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")


def file_name(name: str) -> str:
    """A class's name as a file's that no module is hidden by which other programs here may import."""
    stem = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    found = importlib.util.find_spec(stem)
    installed = found is not None and "-packages" in str(found.origin)
    return f"{stem}_robot" if installed or stem in {"surefoot", *sys.stdlib_module_names} else stem


def expression(file: Path, package: str, out: Path) -> str:
    """The model in Python: of an installed package, or a path, relative where it lies beside the file."""
    from surefoot.robots.new_robot import quoted

    if package:
        return f"lambda: read_spec(installed({quoted(package)}))"
    folder = out.resolve().parent
    return quoted(file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file))


def draft(found: Findings, model: str, name: str) -> tuple[str, float, str]:
    """The file's text with the longest step that is stable under random actions, and that step.

    If none is stable, the joint at which it breaks down comes third.
    """
    from surefoot.envs.contract import closing
    from surefoot.robots import RobotEnvironment
    from surefoot.robots.new_robot import PHYSICS_S, text_of

    text, physics_s, broke = "", 0.0, ""
    for physics_s in PHYSICS_S:
        text = text_of(found, model, physics_s, name)
        task = task_of(text, found.name)().replace(model=str(found.file))
        env = RobotEnvironment(task, 1)
        with closing(env, say), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what MuJoCo says while it breaks down
            trials = (simulated(env, found, seed=seed).broke for seed in range(3))
            broke = next(filter(None, trials), "")
        if not broke:
            break
    return text, physics_s, broke


def task_of(text: str, name: str) -> Any:
    """The class in a text."""
    module = types.ModuleType("surefoot_draft")
    sys.modules[module.__name__] = module  # where dataclasses look up what a field's type is
    try:
        exec(compile(text, "draft", "exec"), module.__dict__)
        return getattr(module, name)
    finally:
        del sys.modules[module.__name__]


def simulated(
    env: RobotEnvironment, found: Findings, *, scale: float = 1.0, seed: int = 0
) -> Trial:
    """One copy on MuJoCo alone, with random actions of a scale, until it falls."""
    import jax
    import mujoco
    import numpy as np

    task, robot, model = env.task, env.robot, env.robot.model
    steps = round(SECONDS / task.control_dt_s)
    substeps = round(task.control_dt_s / model.opt.timestep)
    to_start, to_actions = jax.random.split(jax.random.key(seed))
    drawn = scale * jax.random.normal(to_actions, (steps, *env.spec.action.shape))
    actions = env.spec.action.to_env(drawn)
    data, trunk = mujoco.MjData(model), robot.id("body", found.trunk)
    data.qpos[:] = task.reset(robot, to_start, jax.numpy.zeros(())).qpos
    try:
        mujoco.mj_forward(model, data)
    except mujoco.FatalError as error:
        raise UserError(f"MuJoCo cannot simulate {found.file.name}: {error}") from error
    up = 1.0
    for ctrl in np.asarray(jax.vmap(env.controls.ctrl)(actions)):
        data.ctrl[:] = ctrl
        for _ in range(substeps):
            mujoco.mj_step(model, data)
            for kind in ("QPOS", "QVEL", "QACC"):
                warning = data.warning[int(getattr(mujoco.mjtWarning, f"mjWARN_BAD{kind}"))]
                if warning.number:
                    places = model.jnt_qposadr if kind == "QPOS" else model.jnt_dofadr
                    joint = int(np.searchsorted(places, warning.lastinfo, side="right")) - 1
                    return Trial(robot.names["joint"][joint] or "the base", up)
        up = float(data.xmat[trunk].reshape(3, 3)[2, 2])
        if found.free and up < 0.5:
            break
    return Trial("", up)


def tried(task: str, found: Findings) -> tuple[bool, list[str]]:
    """Whether the file's environment keeps all steps, under random actions and under none, and in words."""
    import jax
    import numpy as np

    from surefoot.envs.contract import closing
    from surefoot.envs.tasks import make_environment

    env: Any = make_environment(task, COPIES, seed=np.random.SeedSequence(0))
    lines: list[str] = []
    said: list[str] = []
    env.log_to(said.append)
    fine = True
    with closing(env, say):
        action, steps = env.spec.action, round(SECONDS / env.task.control_dt_s)
        for words, scale in (("random actions", 1.0), ("zero actions", 0.0)):
            state, step = env.reset(jax.random.key(0))
            odd, ends = 0, 0
            for key in jax.random.split(jax.random.key(1), steps):
                before = np.asarray(step.terminated | step.truncated)
                drawn = scale * jax.random.normal(key, (COPIES, *action.shape))
                state, step = env.step(state, action.to_env(drawn))
                odd += int((~np.asarray(step.valid) & ~before).sum())
                ends += int(np.asarray(step.terminated).sum())
            fine = fine and not odd
            kept = f"{odd} steps were lost" if odd else "every number is finite"
            falls = f", {ends} falls" if found.free else ""
            lines.append(f"Tried {COPIES} copies for {SECONDS:g} s with {words}: {kept}{falls}.")
        if found.free:
            up = min(simulated(env, found, scale=0.0, seed=seed).up for seed in range(3))
            leans = f"{np.degrees(np.arccos(np.clip(up, -1, 1))):.0f} degrees after {SECONDS:g} s"
            lines.append(
                "With zero actions it stands."
                if up > 0.9
                else f"With zero actions it does not stand: it leans by {leans}. Its motors are too soft "
                "(Actuation's stiffness and damping make them stiffer), or the home pose is none to stand in."
            )
    return fine, [*lines, *dict.fromkeys(said)]


def report(found: Findings, physics_s: float) -> Iterator[str]:
    """What the model has, and what was made up, in lines."""
    from surefoot.robots.findings import some

    robot, model = found.robot, found.robot.model
    joints = [robot.names["joint"][j] or "(no name)" for j in robot.scalar_joints()]
    kept = any(drive.startswith("position") for drive in found.drives.values())
    yield f"{found.name}: {found.file.name}, {model.body_mass.sum():.3g} kg"
    base = (
        f"free, {found.trunk}, {found.start_m:g} m high" if found.free else f"fixed, {found.trunk}"
    )
    yield f"  base       {base}"
    yield f"  joints     {len(joints)}: {some(joints)}"
    yield f"  actuators  {model.nu} in the model{', which hold positions, kept' if kept else ''}"
    if found.gains:
        yield f"  gains      made up for {len(found.gains)} joints: {some(list(found.gains))}"
    if found.free:
        yield f"  feet       {some(found.feet)} (guessed: what is lowest)"
    else:
        yield f"  effector   {found.effector[1]} (guessed: the last of the longest chain)"
    yield f"  home       {f'keyframe {found.key}' if found.home is None else 'computed, in the file'}"
    yield f"  sensors    {some(robot.names['sensor']) or 'none'}"
    yield f"  physics    {1000 * physics_s:g} ms a step, 20 ms between actions"
    for lack in found.lacks:
        yield f"  added      {lack}"
    for note in found.notes:
        yield f"  note       {note}"


def smoke(found: Findings, out: Path, seconds: float) -> int:
    """Train until the time is up, and say what comes next."""
    from surefoot.api import train
    from surefoot.training import Hook

    class Heard(Hook):
        def __init__(self) -> None:
            self.began, self.returns = math.inf, list[float]()

        def on_iteration(self, state: Any, metrics: Any) -> None:
            self.began = min(self.began, time.perf_counter())  # compiled by now
            value = metrics.get("rollout/episode_return")
            if value is not None and math.isfinite(value):
                self.returns.append(value)

    heard, stop = Heard(), StopOnSignal()

    def is_over() -> bool:
        return stop() or time.perf_counter() >= heard.began + seconds

    say(f"\nTraining for {seconds:g} s, to see that it learns...")
    with stop:
        result = train(f"{out}:{found.name}", hooks=[heard], should_stop=is_over)
    grown = ""
    if heard.returns:
        lately = heard.returns[-10:]  # of a few episodes each
        mean = sum(lately) / len(lately)
        grown = f", episode return {heard.returns[0]:.1f} at first, {mean:.1f} lately"
    say(f"\nTrained {result.step:,} steps{grown}; run folder: {result.run_dir}")
    following(found, out, run=result.run_dir)
    return stop.code


def following(found: Findings, out: Path, *, run: Path | None) -> None:
    """Say what to do next."""
    task = shlex.quote(f"{out}:{found.name}")
    say("Next:")
    if run is not None:
        say(f"  surefoot eval {shlex.quote(str(run))} --task {task}")
    parts = ["FEET", *(["HOME"] if found.home else []), *(["GAINS"] if found.gains else [])]
    parts = parts if found.free else ["EFFECTOR", "WORKSPACE", *parts[1:]]
    say(f"  look over what was guessed in {out}: {', '.join(parts)}")
    if found.free:
        say(f"  let it walk: the lines with `to walk` in {out}")
    say(f"  surefoot train {task} --total-steps 5000000")
