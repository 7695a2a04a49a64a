"""Many copies of a robot on MuJoCo's own batch engine, behind the environment contract.

A control step is one jitted program and one call of the engine: judge the last step, act, step the physics on
a pool of threads. Reset states are drawn only when an episode ended, and applied to those rows alone.
"""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco.batch import MODEL_FIELDS, SimulationError

from surefoot.envs.contract import (
    MEASURE,
    SUCCESS,
    Breakdown,
    Camera,
    EnvSpec,
    HostPhysics,
    ObservationSpec,
    Step,
    Symmetry,
    as_groups,
)
from surefoot.envs.source import said, source_fingerprint
from surefoot.errors import UserError, check_names
from surefoot.machine import usable_cores
from surefoot.robots import checks
from surefoot.robots.actuation import Controls
from surefoot.robots.checks import refuse
from surefoot.robots.looks import dress, leave_out_looks
from surefoot.robots.model import Robot, compile_spec
from surefoot.robots.pictures import Pictures
from surefoot.robots.state import Added, Episode, Reads, State, stage_of
from surefoot.robots.symmetry import find_symmetry
from surefoot.robots.task import RobotTask, Start, edited_spec

_LOOKS = 256  # at randomized models, in which a field must differ once
_DRAWS = 8  # of a start that is not finite, before it is an error
_NOTHING = int(mujoco.mjtStage.mjSTAGE_NONE)
_BROKEN = tuple(
    int(getattr(mujoco.mjtWarning, f"mjWARN_BAD{what}"))
    for what in ("QPOS", "QVEL", "QACC", "CTRL")
)
_WRITABLE = (
    *("qpos", "qvel", "act", "ctrl", "qfrc_applied", "xfrc_applied", "mocap_pos", "mocap_quat"),
    *("eq_active", "userdata"),
)


class Carried(NamedTuple):
    """What the traced halves carry from step to step, all [N, ...].

    Attributes:
        episodes: of the environments.
        fields: what was read of the engine last; nothing while the engine steps.
        ended: whether the episode ended with the last step, so that the next begins another.
    """

    episodes: Episode
    fields: Mapping[str, Any]
    ended: jax.Array


class Physics(NamedTuple):
    """The engine's own state, on the host.

    Attributes:
        rows: [N, nstate] of mjSTATE_INTEGRATION, 64 bits wide.
        model: randomized fields of the model, [N, ...].
    """

    rows: np.ndarray
    model: Mapping[str, np.ndarray]


class Begun(NamedTuple):
    """Episodes drawn anew, [N, ...]: what lasts of them, and what the engine is told."""

    episodes: Episode
    state: Mapping[str, jax.Array]
    model: Mapping[str, jax.Array]


class Sensed(NamedTuple):
    """What the engine's step came to.

    Attributes:
        fields: what functions read, [N, ...].
        lost: [N] environments whose physics broke down.
    """

    fields: Mapping[str, Any]
    lost: Any


class RobotEnvironment(HostPhysics):
    """N copies of a robot's task.

    Args:
        task: the task.
        num_envs: how many copies.
        threads: of the engine; none: as many as there are usable cores, and no more than copies.
        random_ages: whether the first episodes begin at random ages, so that they do not all end together.
        camera: how pictures are taken; none: there are none.

    Raises:
        ValueError: a model, a name or a function of the task that cannot be used, named with its line.
    """

    def __init__(
        self,
        task: RobotTask,
        num_envs: int,
        *,
        threads: int | None = None,
        random_ages: bool = False,
        camera: Camera | None = None,
    ) -> None:
        checks.check_fields(task)
        checks.check_times(task)
        self.task, self._count, self._random_ages = task, num_envs, random_ages
        self._limit = max(1, round(task.episode_s / task.control_dt_s))
        self.symmetry: Symmetry | None = None
        self._look_at(compiled(task))
        digest = fingerprint(task, self.robot)
        if self._reads.sensors:
            self._look_at(compiled(task, self._reads.sensors))
        if task.mirror is not None:
            self.symmetry = find_symmetry(task, self.robot, self.controls, self._reads.fields)
        elif task.overrides("reflect"):
            raise UserError(f"{task.name}: reflect() needs a mirror = Mirror(...) to reflect in")
        self._substeps = substeps_of(task, self.robot.model)
        threads = threads or min(num_envs, usable_cores())
        try:
            self._batch = task.engine(self.robot.model, num_envs, threads)
        except ValueError as error:
            raise UserError(
                f"{task.name}: MuJoCo does not step many copies of it: {error}"
            ) from error
        self._live = Physics(self._batch.state, {})
        self._stage = _NOTHING if task.stale else stage_of(self.robot, self._reads.fields)
        self._bound = {name: self._batch.bind(name) for name in sorted(self._reads.fields)}
        self._written = {name: self._batch.bind(name) for name in self._writes}
        self._begin, self._renew = jax.jit(jax.vmap(self._begin_one)), jax.jit(_where)
        self._nobody = jnp.zeros(num_envs, bool)
        self._before = np.empty_like(self._batch.state)
        self._log: Callable[[str], None] = lambda text: None
        self._report: Callable[[Breakdown], None] = lambda breakdown: None
        self._pictures = None if camera is None else Pictures(task, camera, num_envs)
        self.spec = EnvSpec(
            name=task.name,
            num_envs=num_envs,
            observations=self._observations,
            action=self.controls.spec,
            in_graph=False,
            info=self._info,
            needs_float64=task.float64,
            threads=threads,
            saves_state=True,
            symmetry=self.symmetry,
            fingerprint=digest,
            control_dt_s=task.control_dt_s,
        )

    def _look_at(self, robot: Robot) -> None:
        """Take a model, and learn what the task's functions read and write of it."""
        self.robot, self.controls = robot, Controls(self.task.actuation, robot)
        try:
            with jax.enable_x64(self.task.float64):
                self._learn()
        except Exception as error:
            raise refuse(self.task.name, error) from error

    # the contract --------------------------------------------------------------------------------

    def reset(self, key: jax.Array) -> tuple[tuple[Carried, Physics], Step]:
        """Start every copy with its own stream split from `key`."""
        try:
            return self._reset(key)
        except jax.errors.UnexpectedTracerError as error:
            raise checks.kept(self.task, error) from error

    def _reset(self, key: jax.Array) -> tuple[tuple[Carried, Physics], Step]:
        count = self._count
        to_keys, to_ages = jax.random.split(key)
        with jax.enable_x64(self.task.float64):
            everywhere = np.ones(count, bool)
            begun = self._drawn(jax.random.split(to_keys, count), jnp.zeros(count), everywhere)
            self._batch.reset(stage=_NOTHING)
            self._start(begun, everywhere)
            episodes = begun.episodes
            if self._random_ages:
                ages = jax.random.randint(to_ages, (count,), 0, self._limit)
                episodes = episodes._replace(steps=episodes.steps + ages)
            carried = Carried(episodes, {}, jnp.asarray(everywhere))
            carried, step = self.halves.judge(carried, Sensed(self._read(), self._nobody))
        return (carried, self.hand_over(self._live)), step

    def command(self, carried: Carried, action: Any) -> tuple[Carried, Any]:
        """Controls and events before the next step of the physics."""
        episodes, writes = jax.vmap(self._command_one)(carried.episodes, carried.fields, action)
        return carried._replace(episodes=episodes, fields={}), writes

    def advance(
        self, env_state: tuple[Carried, Physics], told: Mapping[str, Any]
    ) -> tuple[tuple[Carried, Physics], Sensed]:
        """Step the copies whose episodes go on; begin those anew that ended."""
        carried, physics = env_state
        self._restore(physics)
        begun = np.asarray(carried.ended)
        for name, values in told.items():
            np.copyto(self._written[name], values, where=_along(~begun, self._written[name]))
        if begun.any():
            episodes = carried.episodes
            with jax.enable_x64(self.task.float64):
                fresh = self._drawn(episodes.key, episodes.level, begun)
                episodes = self._renew(begun, fresh.episodes, episodes)
            self._start(fresh, begun)
            carried = carried._replace(episodes=episodes)
        lost = self._step(np.flatnonzero(~begun) if begun.any() else None)
        return (carried, self._live), Sensed(self._read(), lost if lost.any() else self._nobody)

    def judge(self, carried: Carried, sensed: Sensed) -> tuple[Carried, Step]:
        """Rewards, ends and observations of what the physics came to."""
        fields = {name: jnp.asarray(x) for name, x in sensed.fields.items()}
        episodes, going = carried.episodes, ~carried.ended
        episodes = episodes._replace(steps=episodes.steps + going)
        episodes, observation, reward, terminated, info = jax.vmap(self._judge_one)(
            episodes, fields, carried.ended, sensed.lost
        )
        sound = jnp.isfinite(reward)
        for group in observation.values():
            sound &= jnp.isfinite(group).all(axis=tuple(range(1, group.ndim)))
        terminated &= going & ~sensed.lost
        truncated = going & ((episodes.steps >= self._limit) | ~sound | sensed.lost)
        info = {name: jnp.where(going, x, 0.0).astype(jnp.float32) for name, x in info.items()}
        reward = jnp.where(going, reward, 0.0).astype(jnp.float32)
        carried = Carried(episodes, fields, terminated | truncated)
        valid = going & ~sensed.lost
        return carried, Step(observation, reward, terminated, truncated, valid, info)

    def render(self, env_state: tuple[Carried, Physics], rows: Sequence[int]) -> list[np.ndarray]:
        """Pictures of the robots with their looks, which the simulation is spared."""
        if self._pictures is None:
            return [*super().render(env_state, rows)]
        physics = env_state[1]
        return [
            self._pictures.draw(i, physics.rows[i], {n: x[i] for n, x in physics.model.items()})
            for i in rows
        ]

    def close(self) -> None:
        """Let the engine's threads go."""
        if self._pictures is not None:
            self._pictures.close()
        self._bound, self._written = {}, {}
        self.__dict__.pop("_batch", None)

    def log_to(self, log: Callable[[str], None]) -> None:
        """Where simulations that broke down are named."""
        self._log = log

    def report_to(self, report: Callable[[Breakdown], None]) -> None:
        """See `Environment.report_to`."""
        self._report = report

    def state_of(self, carried: Carried) -> State:
        """What the task's functions see of one environment, `carried` being its own row."""
        fields = {name: jnp.asarray(x) for name, x in carried.fields.items()}
        return self._state(fields, carried.episodes)

    # one environment -----------------------------------------------------------------------------

    def _state(self, fields: Any, episode: Episode) -> State:
        return State(self.robot, fields, episode, self.task.control_dt_s)

    def _begin_one(self, key: jax.Array, level: jax.Array) -> Begun:
        task, robot = self.task, self.robot
        # behind every step's own key, which are fold_in(key, steps)
        key, *keys = jax.random.split(jax.random.fold_in(key, 2**31), 6)
        start: Start = checks.start(task, task.reset(robot, keys[0], level), Start)
        size = self.controls.spec.sizes[0]
        episode = Episode(
            key=key,
            steps=jnp.zeros((), jnp.int32),
            level=jnp.asarray(level, jnp.float32),
            command=checks.tree(task, "command", task.command(keys[1], level)),
            carry=checks.tree(task, "reset", start.carry),
            action=jnp.zeros(size, jnp.float32),
            last_action=jnp.zeros(size, jnp.float32),
            control=self.controls.init(keys[2]),
            sensing={
                name: sensing.init(self._sizes[name], jax.random.fold_in(keys[3], i))
                for i, (name, sensing) in enumerate(sorted(task.sensing.items()))
            },
        )
        ctrl = self.controls.rest if start.ctrl is None else start.ctrl
        state = {
            "qpos": robot.home if start.qpos is None else start.qpos,
            "qvel": np.zeros(robot.model.nv) if start.qvel is None else start.qvel,
            "ctrl": ctrl,
        }
        if robot.model.na:
            state["act"] = self.controls.settled(ctrl) if start.act is None else start.act
        drawn = task.randomize(robot, keys[4])
        model = checks.table(task, "randomize", drawn, "model fields")
        return Begun(episode, {name: jnp.asarray(x) for name, x in state.items()}, model)

    def _command_one(self, episode: Episode, fields: Any, action: jax.Array) -> tuple[Episode, Any]:
        task = self.task
        if task.overrides("reflect"):
            reflected = checks.flag(task, "reflect", task.reflect(self._state(fields, episode)))
            if self.symmetry:  # not yet, when the functions are looked at
                action = jnp.where(reflected, self.symmetry.action(action), action)
        episode = episode._replace(last_action=episode.action, action=action)
        control, heard = self.controls.hear(episode.control, action)
        episode = episode._replace(control=control)
        s = self._state(fields, episode)
        heard = checks.like(task, "control", task.control(s, heard), action)
        writes = {"ctrl": self.controls.ctrl(heard)}
        if task.overrides("events"):
            key = jax.random.fold_in(s.step_key, 1)
            writes |= checks.table(task, "events", task.events(s, key), "state fields")
        return episode, writes

    def _judge_one(self, episode: Episode, fields: Any, begun: Any, lost: Any) -> Any:
        task = self.task
        if task.overrides("remember"):
            carry = task.remember(self._state(fields, episode))
            carry = checks.carried(task, episode.carry, carry)
            episode = episode._replace(carry=_where_one(begun, episode.carry, carry))
        s = self._state(fields, episode)
        given = checks.numbers(task, "rewards", task.rewards(s), "terms")
        terms = {f"reward_{name}": x for name, x in given.items()}
        if odd := [*{*terms} & {*SUCCESS}]:
            raise UserError(
                f"{checks.method_of(task, 'rewards')}: no term may be called "
                f"{odd[0].removeprefix('reward_')!r}, which is whether an episode succeeded and comes from "
                "metrics(): call it 'bonus', say"
            )
        reward = sum(terms.values(), jnp.zeros(()))
        if task.reward_floor is not None:
            reward = jnp.maximum(reward, task.reward_floor)
        terminated = checks.flag(task, "terminated", task.terminated(s))
        given = checks.numbers(task, "metrics", task.metrics(s), "numbers")
        measures = {_measure(name): x for name, x in given.items()}
        if task.overrides("next_level"):
            ends = terminated | (episode.steps >= self._limit)
            level = checks.number(task, "next_level", task.next_level(s)).astype(jnp.float32)
            counts = ends & ~begun & ~lost & jnp.isfinite(level)
            level = jnp.where(counts, level, episode.level)
            episode = episode._replace(level=level.astype(jnp.float32))
        info = terms | measures
        if task.command_s is not None:
            to_whether, to_command = jax.random.split(jax.random.fold_in(s.step_key, 2))
            anew = jax.random.bernoulli(to_whether, min(1.0, task.control_dt_s / task.command_s))
            command = checks.tree(task, "command", task.command(to_command, episode.level))
            episode = episode._replace(command=_where_one(anew & ~begun, command, episode.command))
            s = self._state(fields, episode)
        groups, sensing = self._observe(s), dict(episode.sensing)
        for i, (name, how) in enumerate(sorted(task.sensing.items())):
            key = jax.random.fold_in(jax.random.fold_in(s.step_key, 3), i)
            truth = jnp.ravel(groups[name])
            sensing[name], groups[name] = how(sensing[name], truth, key, first=begun)
        groups = {name: jnp.ravel(x).astype(jnp.float32) for name, x in groups.items()}
        if task.overrides("reflect"):
            reflected = checks.flag(task, "reflect", task.reflect(s))
            if self.symmetry:
                there = self.symmetry.observations
                groups = {n: jnp.where(reflected, there[n](x), x) for n, x in groups.items()}
        return episode._replace(sensing=sensing), groups, reward, terminated, info

    def _observe(self, s: State) -> dict[str, Any]:
        return as_groups(checks.groups(self.task, "observe", self.task.observe(s)))

    # the engine ----------------------------------------------------------------------------------

    def _read(self) -> dict[str, np.ndarray]:
        """A copy of what functions read, as they calculate: the engine's own arrays live on."""
        width = np.float64 if self.task.float64 else np.float32
        return {
            name: x.astype(width if x.dtype.kind == "f" else x.dtype)
            for name, x in self._bound.items()
        }

    def _step(self, ids: np.ndarray | None) -> np.ndarray:
        """Step simulations; [N] those that broke down."""
        np.copyto(self._before, self._batch.state)  # one or two thousandths of the time
        self._batch.warning[...] = 0  # a reset by MuJoCo would begin to count anew
        lost = np.zeros(self._count, bool)
        try:
            self._batch.step(ids, nstep=self._substeps, stage=self._stage)
        except SimulationError as error:
            lost[error.ids] = True
            self._tell(int(error.ids[0]), str(error))
        broken = (self._batch.warning[:, list(_BROKEN), 1] > 0).any(axis=1)
        for index in np.flatnonzero(broken & ~lost)[:1]:
            what = "the simulation became unstable and MuJoCo reset it; the episode is lost"
            self._tell(int(index), what)
        return lost | broken

    def _tell(self, index: int, what: str) -> None:
        """Say that a simulation broke down, and hand it over as it was before."""
        self._log(f"{self.spec.name}, environment {index}: {what}")
        model = {name: np.array(values[index]) for name, values in self._live.model.items()}
        state = self._before[index].copy()  # its first number is the time
        step = round(state[0] / self.task.control_dt_s) + 1
        self._report(Breakdown(what, index, step, self._substeps, state, model))

    def _drawn(self, keys: jax.Array, levels: jax.Array, rows: np.ndarray) -> Begun:
        """Episodes drawn anew; those of `rows` until they are finite, which MuJoCo would replace silently."""
        begun = self._begin(keys, levels)
        for draw in range(1, _DRAWS + 1):
            odd = {
                name: ~np.isfinite(np.asarray(x)).reshape(len(rows), -1).all(axis=1) & rows
                for name, x in {**begun.state, **begun.model}.items()
            }
            odd = {name: bad for name, bad in odd.items() if bad.any()}
            if not odd:
                break
            name, bad = next(iter(odd.items()))
            method = checks.method_of(self.task, "randomize" if name in begun.model else "reset")
            text = f"environment {np.flatnonzero(bad)[0]}: {name} of {method} is not finite"
            if draw == _DRAWS:
                raise UserError(f"{self.task.name}, {text}, {draw} times one after the other")
            self._log(f"{self.task.name}, {text}; drawn again")
            other_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 2**31 + draw)
            others = self._begin(other_keys, levels)
            begun = _where(np.any([*odd.values()], axis=0), others, begun)
        return begun

    def _start(self, begun: Begun, rows: np.ndarray) -> None:
        """Write starts into the rows that begin anew, and make what follows from them current."""
        ids = np.flatnonzero(rows)
        self._batch.reset(ids, stage=_NOTHING)
        for name, values in begun.state.items():
            self._batch.bind(name)[ids] = np.asarray(values)[ids]
        if begun.model:
            model = {name: np.asarray(values) for name, values in begun.model.items()}
            self._set_model(model, ids)
            drawn = {name: np.array(self._batch.expand(name)) for name in model}
            self._live = Physics(self._live.rows, drawn)
        try:
            self._batch.forward(ids)
        except SimulationError as error:
            said = " ".join(str(error).split())
            raise UserError(f"{self.task.name}: an episode cannot begin: {said}") from error

    def _set_model(self, model: Mapping[str, np.ndarray], ids: np.ndarray) -> None:
        for name, values in model.items():
            self._batch.expand(name)[ids] = values[ids]
        if any(name in mujoco.MjModel._setconst_inputs for name in model):
            self._batch.set_const(ids)

    def _restore(self, physics: Physics) -> None:
        """Make the engine's state what is given, unless it is so already."""
        if physics.rows is not self._batch.state:
            self._batch.state[...] = physics.rows
        if physics.model is not self._live.model:
            self._set_model(physics.model, np.arange(self._count))
        self._live = Physics(self._batch.state, physics.model)

    def hand_over(self, physics: Physics) -> Physics:
        """See `HostPhysics.hand_over`."""
        return physics._replace(rows=physics.rows.copy())

    # what the functions are ----------------------------------------------------------------------

    def _learn(self) -> None:
        """Trace the task's functions once: what they read, what they return, what they write."""
        task = self.task
        self._reads = Reads(self.robot)
        self._sizes = dict.fromkeys(task.sensing, 1)
        key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
        level = jax.ShapeDtypeStruct((), jnp.float32)
        begun = jax.eval_shape(self._begin_one, key, level)
        seen = jax.eval_shape(
            lambda episode: self._observe(self._state(self._reads, episode)),
            begun.episodes,
        )
        check_names(task.sensing, seen, what=f"observation group in {task.name}.sensing:")
        self._sizes = {name: seen[name].size for name in task.sensing}
        for name, sensing in task.sensing.items():
            sensing.check_size(name, self._sizes[name])
        begun = jax.eval_shape(self._begin_one, key, level)
        self._check_written("reset", begun.state)
        self._check_randomized(begun.model)
        action = jax.ShapeDtypeStruct((self.controls.spec.sizes[0],), jnp.float32)
        _, writes = jax.eval_shape(
            lambda e, a: self._command_one(e, self._reads, a), begun.episodes, action
        )
        self._check_written("events", writes)
        _, groups, *_, info = jax.eval_shape(
            lambda e, b: self._judge_one(e, self._reads, b, b),
            begun.episodes,
            jax.ShapeDtypeStruct((), jnp.bool_),
        )
        self._info, self._writes = tuple(info), tuple(writes)
        self._observations = {name: ObservationSpec((x.size,)) for name, x in groups.items()}

    def programs(self) -> dict[str, str]:
        """What is traced of the task's functions, as text; the same each time if they are pure."""
        key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
        level, flag = (jax.ShapeDtypeStruct((), kind) for kind in (jnp.float32, jnp.bool_))
        action = jax.ShapeDtypeStruct((self.controls.spec.sizes[0],), jnp.float32)
        with jax.enable_x64(self.task.float64):
            episode = jax.eval_shape(self._begin_one, key, level).episodes
            made = {
                "where episodes begin": jax.make_jaxpr(self._begin_one)(key, level),
                "before a step": jax.make_jaxpr(lambda e, a: self._command_one(e, self._reads, a))(
                    episode, action
                ),
                "behind a step": jax.make_jaxpr(lambda e, b: self._judge_one(e, self._reads, b, b))(
                    episode, flag
                ),
            }
        return {
            what: f"{program}{[np.asarray(x).tobytes() for x in program.consts if not _is_key(x)]}"
            for what, program in made.items()
        }

    def _check_written(self, method: str, written: Mapping[str, Any]) -> None:
        for name, x in written.items():
            check_names([name], _WRITABLE, what=f"state field of {self.task.name}.{method}():")
            shape = self._reads.shape(name)
            if x.shape != shape:
                raise UserError(
                    f"{self.task.name}.{method}(): {name} has shape {x.shape}, the model needs {shape}"
                )

    def _check_randomized(self, model: Mapping[str, Any]) -> None:
        for name, x in model.items():
            what = f"model field of {self.task.name}.randomize():"
            check_names([name], MODEL_FIELDS, what=what)
            own = _model_field(self.robot.model, name)
            if x.shape != own.shape:
                raise UserError(
                    f"{self.task.name}.randomize(): {name} has shape {x.shape}, the model's is {own.shape}"
                )
        if not model:
            return
        own = {name: jnp.asarray(_model_field(self.robot.model, name)) for name in model}

        def differs(key: jax.Array) -> dict[str, jax.Array]:
            drawn = self._begin_one(key, jnp.zeros(())).model
            return {n: ~jnp.allclose(x, own[n], rtol=1e-6, atol=0) for n, x in drawn.items()}

        # one after the other: a field such as a terrain's is large
        look = jax.jit(lambda keys: jax.lax.map(differs, keys))
        found = look(jax.random.split(jax.random.key(0), _LOOKS))
        for name in model:
            if not found[name].any():
                raise UserError(
                    f"{self.task.name}.randomize(): {name} never differs from the model's own: leave it out"
                )


def fingerprint(task: RobotTask, robot: Robot | None = None) -> str:
    """Of a task's code, options and model: 12 hexadecimal digits.

    Args:
        task: the task.
        robot: its model, where it is compiled already, as the task edits it.
    """
    model = (robot or compiled(task)).model
    content = np.zeros(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, content)
    digest = hashlib.sha256(content.tobytes())
    for field in dataclasses.fields(task):
        if field.name != "model":  # it is compiled in
            digest.update(f"{field.name}={said(getattr(task, field.name))}".encode())
    for kind in type(task).__mro__[:-1]:
        if kind is not RobotTask:
            with contextlib.suppress(OSError, TypeError):  # made where there is no file
                digest.update(inspect.getsource(inspect.getmodule(kind) or kind).encode())
    digest.update(str(source_fingerprint(type(task))).encode())  # what it imports
    return digest.hexdigest()[:12]


def physics_pace(task: RobotTask, num_envs: int, seconds: float = 0.5) -> float:
    """Env steps per second of a task's physics alone, its robots standing at home."""
    robot = compiled(task)
    batch = task.engine(robot.model, num_envs, min(num_envs, usable_cores()))
    batch.bind("qpos")[:] = robot.home
    batch.bind("ctrl")[:] = Controls(task.actuation, robot).rest
    substeps, steps, began = substeps_of(task, robot.model), 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        batch.step(nstep=substeps)
        steps += num_envs
    return steps / passed


def compiled(
    task: RobotTask, add: Mapping[str, Added] = MappingProxyType({}), *, looks: bool = False
) -> Robot:
    """The task's model, as the task edits it.

    Args:
        task: the task.
        add: sensors that its functions need.
        looks: whether it is to be looked at, and not stepped.
    """
    spec = edited_spec(task)
    if looks:
        dress(spec)
    else:
        leave_out_looks(spec)
    for sensor in add.values():
        sensor.add_to(spec)
    return Robot(compile_spec(spec, task.name), task.name)


def substeps_of(task: RobotTask, model: mujoco.MjModel) -> int:
    """Substeps of the physics in a control step.

    Raises:
        ValueError: the one is no multiple of the other.
    """
    step = model.opt.timestep
    count = max(1, round(task.control_dt_s / step))
    if not math.isclose(count * step, task.control_dt_s, rel_tol=1e-6):
        raise UserError(
            f"{task.name}: control_dt_s = {task.control_dt_s:g} is no multiple of the physics' step of "
            f"{step:g} s; {count * step:g} would be one, or set physics_dt_s"
        )
    return count


def _model_field(model: mujoco.MjModel, name: str) -> np.ndarray:
    part, _, option = name.rpartition(".")
    return np.asarray(getattr(getattr(model, part) if part else model, option))


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _measure(name: str) -> str:
    return name if name in SUCCESS else MEASURE + name


def _along(mask: np.ndarray, like: np.ndarray) -> np.ndarray:
    return mask.reshape(-1, *(1,) * (like.ndim - 1))


def _where(mask: Any, new: Any, old: Any) -> Any:
    """Rows of one tree or the other, [N, ...]."""
    return jax.vmap(_where_one)(jnp.asarray(mask), new, old)


def _where_one(condition: Any, new: Any, old: Any) -> Any:
    def pick(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(condition, a, b).astype(b.dtype) if a is not b else b

    return jax.tree.map(pick, new, old)
