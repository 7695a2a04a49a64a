"""What a robot's task is like before anybody trains on it: rewards, ends, ranges, stability, prices."""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import mujoco
import numpy as np

from surefoot.envs.contract import closing
from surefoot.machine import usable_cores
from surefoot.robots.actuation import Controls
from surefoot.robots.environment import RobotEnvironment, compiled, substeps_of
from surefoot.robots.model import Robot
from surefoot.robots.task import RobotTask

COPIES = 16
LARGE = 1e3  # of an observation: a network reads it through a normalizer, float32 does not
MANY = 20  # geoms that can touch: a walking robot needs its feet
PRICE_S = 0.4  # how long a variant of the model is timed
Line = tuple[bool, str]


class Tried(NamedTuple):
    """What came of one kind of actions; steps behind an episode's end are left out.

    Attributes:
        terms: reward terms by name, [K].
        reward: [K].
        terminated: [K] episodes that ended for good.
        lost: how many simulations broke down.
        observations: by group, [K, D].
        qpos: [K, nq].
        qvel: [K, nv].
        said: what the environment said of it.
    """

    terms: dict[str, np.ndarray]
    reward: np.ndarray
    terminated: np.ndarray
    lost: int
    observations: dict[str, np.ndarray]
    qpos: np.ndarray
    qvel: np.ndarray
    said: list[str]


def examine_robot(task: RobotTask, *, steps: int = 1000) -> Iterator[Line]:
    """Whether each finding is fine, and what it is.

    Args:
        task: the task.
        steps: control steps to try for each kind of actions, of 16 copies together.
    """
    env = RobotEnvironment(task, COPIES)
    with closing(env, warnings.warn):
        yield from _of_model(env)
        yield from _of_functions(env)
        each = max(steps // COPIES, 20)
        tried = {name: _try(env, name, each) for name in ("zero", "random", "held")}
    yield from _of_rewards(tried)
    yield from _of_ends(task, tried)
    yield from _of_observations(tried)
    yield from _of_joints(env.robot, tried["random"])
    yield from _of_precision(env.robot, tried["random"], task.control_dt_s)
    yield from _of_stability(task, tried)
    yield from _of_price(task)


def _try(env: RobotEnvironment, kind: str, steps: int) -> Tried:
    """Step all copies: with zeros, with random actions, or with random ones held for half a second."""
    said: list[str] = []
    env.log_to(said.append)
    rng, robot = np.random.default_rng(0), env.robot
    rows: list[tuple[Any, Any, Any]] = []
    state, _ = env.reset(jax.random.key(0))
    hold = max(1, round(0.5 / env.task.control_dt_s))
    low, high = (np.array(x) for x in (env.spec.action.low, env.spec.action.high))
    low, high = np.where(np.isfinite(low), low, -1.0), np.where(np.isfinite(high), high, 1.0)
    action = np.tile(((low + high) / 2).astype(np.float32), (COPIES, 1))
    for i in range(steps):
        if kind == "random" or (kind == "held" and i % hold == 0):
            action = rng.uniform(low, high, action.shape).astype(np.float32)
        state, step = env.step(state, action)
        time_and_qpos = state[1].rows[:, 1 : 1 + robot.model.nq]
        qvel = state[1].rows[:, 1 + robot.model.nq : 1 + robot.model.nq + robot.model.nv]
        rows.append((jax.tree.map(np.asarray, step), time_and_qpos.copy(), qvel.copy()))
    valid = np.stack([step.valid for step, *_ in rows])
    lost = sum(int((step.truncated & ~step.valid).sum()) for step, *_ in rows)

    def of(values: list[Any]) -> np.ndarray:
        return np.stack(values)[valid]

    names = [name for name in env.spec.info if name.startswith("reward_")]
    return Tried(
        {name.removeprefix("reward_"): of([s.info[name] for s, *_ in rows]) for name in names},
        of([step.reward for step, *_ in rows]),
        of([step.terminated for step, *_ in rows]),
        lost,
        {name: of([s.observation[name] for s, *_ in rows]) for name in env.spec.observations},
        of([qpos for _, qpos, _ in rows]),
        of([qvel for *_, qvel in rows]),
        said,
    )


def _of_model(env: RobotEnvironment) -> Iterator[Line]:
    model, task = env.robot.model, env.task
    yield (
        True,
        f"{model.njnt} joints, {model.nu} actuators, {model.body_mass.sum():.3g} kg; "
        f"{env.spec.action.sizes[0]} actions at {1 / task.control_dt_s:.0f} Hz, physics at "
        f"{1 / model.opt.timestep:.0f} Hz, episodes of {task.episode_s:g} s",
    )
    groups = ", ".join(f"{name} {x.size}" for name, x in env.spec.observations.items())
    yield True, f"observations: {groups}"
    if env.symmetry is not None:
        yield (
            True,
            "its mirror image is known and checked: --symmetry average or augment can be used",
        )


def _of_functions(env: RobotEnvironment) -> Iterator[Line]:
    once, again = env.programs(), env.programs()
    for what in once:
        if once[what] != again[what]:
            yield (
                False,
                f"functions that are called {what} are others each time they are traced, and then the same "
                "in every step: draw from the key that they are given, not from np.random or the clock",
            )


def _of_rewards(tried: dict[str, Tried]) -> Iterator[Line]:
    """Each term's mean under each kind of actions."""
    head = "reward a step under " + ", ".join(f"{name} actions" for name in tried)
    totals = ", ".join(f"{x.reward.mean():.3g}" for x in tried.values())
    yield True, f"{head}: {totals}"
    sizes = {}
    for name in tried["zero"].terms:
        means = [float(x.terms[name].mean()) for x in tried.values()]
        sizes[name] = max(float(np.abs(x.terms[name]).mean()) for x in tried.values())
        yield True, f"  {name:<20}" + "".join(f"{mean:>12.4g}" for mean in means)
    for name, size in sizes.items():
        if size == 0.0:
            yield False, f"reward {name!r} was 0 in every step: it says nothing yet"
    largest = max(sizes, key=lambda name: sizes[name], default=None)
    rest = sum(size for name, size in sizes.items() if name != largest)
    if largest is not None and len(sizes) > 1 and sizes[largest] > 20 * rest:
        yield False, f"reward {largest!r} is more than 20 times all the others together"


def _of_ends(task: RobotTask, tried: dict[str, Tried]) -> Iterator[Line]:
    counts = {name: int(x.terminated.sum()) for name, x in tried.items()}
    if not task.overrides("terminated"):
        yield True, "episodes end at the time limit alone"
        return
    said = ", ".join(f"{count} under {name}" for name, count in counts.items())
    reachable = any(counts.values())
    hint = (
        "" if reachable else ": an end that no action reaches teaches nothing; is its bound right?"
    )
    yield reachable, f"episodes that terminated: {said} actions{hint}"
    steps = len(tried["zero"].reward)
    if counts["zero"] > steps * task.control_dt_s * 2:
        yield (
            False,
            "with zero actions an episode terminates within half a second: is the home pose right?",
        )


def _of_observations(tried: dict[str, Tried]) -> Iterator[Line]:
    for name in tried["random"].observations:
        every = np.concatenate([x.observations[name] for x in tried.values()])
        large = np.flatnonzero(np.abs(every).max(axis=0) > LARGE)
        still = np.flatnonzero(np.ptp(every, axis=0) == 0)
        yield True, f"observation {name}: {every.min():.3g} to {every.max():.3g}"
        if len(large):
            i = int(large[0])
            worst = float(np.abs(every[:, i]).max())
            yield False, f"observation {name}[{i}] reaches {worst:.3g}: scale it, or clip it"
        if len(still):
            yield (
                False,
                f"{len(still)} of {every.shape[1]} numbers of observation {name} never change, the first "
                f"is [{int(still[0])}] = {every[0, still[0]]:.3g}",
            )


def _of_joints(robot: Robot, tried: Tried) -> Iterator[Line]:
    model = robot.model
    for joint in robot.scalar_joints() if model.njnt else ():
        moved = np.ptp(tried.qpos[:, model.jnt_qposadr[joint]])
        low, high = model.jnt_range[joint]
        name = robot.names["joint"][joint]
        if model.jnt_limited[joint] and high - low < 1e-6:
            yield False, f"joint {name!r} cannot move: its range is {low:g} to {high:g}"
        elif moved < 1e-4:
            yield (
                False,
                f"joint {name!r} did not move under random actions: is it driven, is it stuck?",
            )


def _of_precision(robot: Robot, tried: Tried, control_dt_s: float) -> Iterator[Line]:
    """Functions calculate in float32: far from the origin a step's motion is lost."""
    places = np.abs(tried.qpos).max(axis=0)
    speeds = np.abs(tried.qvel).mean() * control_dt_s
    worst = float(np.spacing(np.float32(places.max())))
    fine = worst < 0.01 * max(speeds, 1e-9)
    text = f"positions up to {places.max():.3g}: float32 resolves {worst:.1g} there"
    if not fine:
        text += f", a step moves by {speeds:.1g}: take velocities from qvel, not from differences"
    yield fine, text


def _of_stability(task: RobotTask, tried: dict[str, Tried]) -> Iterator[Line]:
    lost = sum(x.lost for x in tried.values())
    if lost:
        said = next(text for x in tried.values() for text in x.said)
        yield False, f"{lost} simulations broke down; the first: {said}"
        return
    for text in dict.fromkeys(text for x in tried.values() for text in x.said[:1]):
        yield False, text
    twice = task.replace(control_dt_s=2 * task.control_dt_s) if task.physics_dt_s is None else None
    if task.physics_dt_s is not None:
        count = substeps_of(task, compiled(task).model)
        if count % 2 == 0:
            twice = task.replace(physics_dt_s=2 * task.physics_dt_s)
    if task.physics_dt_s is None or twice is None:
        yield True, "no simulation broke down"
        return
    env = RobotEnvironment(twice, COPIES)
    with closing(env, warnings.warn):
        lost = _try(env, "random", 50).lost
    step, double = task.physics_dt_s * 1e3, task.physics_dt_s * 2e3
    margin = "nor at" if not lost else f"but {lost} of {COPIES} did at"
    yield True, f"no simulation broke down at a time step of {step:g} ms, {margin} {double:g} ms"


def _of_price(task: RobotTask) -> Iterator[Line]:
    """Physics of one env step in microseconds, as it is and with what usually costs most changed."""
    robot = compiled(task)
    own = _price(task, robot.model)
    yield True, f"physics of an env step: {own:.0f} us on a core"
    option = robot.model.opt
    contacts = int((robot.model.geom_contype | robot.model.geom_conaffinity).astype(bool).sum())
    variants: list[tuple[str, Any]] = [
        (f"without contacts ({contacts} geoms can touch)", _no_contacts),
    ]
    if option.cone == mujoco.mjtCone.mjCONE_ELLIPTIC:
        variants.append(("with a pyramidal cone", _pyramidal))
    if option.iterations > 10:
        variants.append(
            (f"with 5 solver iterations at most, not {option.iterations}", _few_iterations)
        )
    for name, change in variants:
        model = compiled(task).model
        change(model)
        price = _price(task, model)
        avoidable = change is not _no_contacts or contacts > MANY
        yield price > 0.5 * own or not avoidable, f"  {name}: {price:.0f} us"


def _no_contacts(model: mujoco.MjModel) -> None:
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT


def _pyramidal(model: mujoco.MjModel) -> None:
    model.opt.cone = mujoco.mjtCone.mjCONE_PYRAMIDAL


def _few_iterations(model: mujoco.MjModel) -> None:
    model.opt.iterations = 5


def _price(task: RobotTask, model: mujoco.MjModel) -> float:
    """Microseconds of an env step of the physics on one core, the robot moving about."""
    threads = min(COPIES, usable_cores())
    batch = task.engine(model, COPIES, threads)
    rng, robot = np.random.default_rng(0), Robot(model, task.name)
    batch.bind("qpos")[:] = robot.home
    rest = np.asarray(Controls(task.actuation, robot).rest)
    ctrl, count, steps = batch.bind("ctrl"), substeps_of(task, model), 0
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < PRICE_S:
        ctrl[:] = rest + 0.2 * rng.normal(size=ctrl.shape)
        batch.step(nstep=count)
        steps += COPIES
    return passed / steps * threads * 1e6
