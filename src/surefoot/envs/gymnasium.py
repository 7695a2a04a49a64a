"""Any Gymnasium environment behind the contract, stepped on the host.

The vector layer is our own: Gymnasium's loses the last observation or steps behind in some of its
modes. What an environment returns is checked at every step, and copied.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import reprlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import gymnasium
import jax
import numpy as np
from gymnasium.envs.registration import load_env_creator

from surefoot.envs import spaces
from surefoot.envs.contract import (
    NOT_CLOSED,
    REWARD_TERM,
    Camera,
    Environment,
    EnvSpec,
    ObservationSpec,
    Step,
)
from surefoot.envs.hosting import Backend, Command, EnvError, Hosting, InProcess
from surefoot.errors import UserError, check_names, near_matches
from surefoot.gl import load_gl, no_gl, open_context
from surefoot.host_process import FAILURES, as_number, failure

_MOST_FAILURES = (
    5  # of one environment, made anew each time, without an episode finished in between
)
_LARGEST = float(np.finfo(np.float32).max)
_FINITE = "it must be finite, in float32"
_LOOKS = 200  # steps after which it is known what float32 loses of observations
_STEPS = 100  # of float32 that a component's changes should span, at least
_COUNTED = 2.0**24  # beyond it float32 has not even all integers
_OFFSET = 10.0  # below it lie angles, cosines and quaternions, which may well rest
Groups = dict[str, np.ndarray]
Info = dict[str, float]
T = TypeVar("T")


class _Answer(NamedTuple):
    """One step of one environment, checked and copied."""

    observation: Groups
    reward: float
    terminated: bool
    truncated: bool
    info: Info


class _Record:
    """Where one environment is: its last observation, its episode, its failures."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.observation: Groups = {}
        self.steps = self.time = self.failures = self.made_anew = 0
        self.has_ended = self.is_gone = self.is_out = False

    def next_command(self, action: np.ndarray, *, is_choice: bool) -> Command | None:
        """What comes next: a step, or a new episode, or nothing any more."""
        if self.is_out:
            return None
        if self.is_gone:
            self.made_anew += 1
            own = np.random.SeedSequence([self.seed, self.made_anew])
            return Command("make", int(own.generate_state(1)[0] >> 1))
        if self.has_ended:
            return Command("reset")
        # a discrete action arrives as a 0-d array: environments want the scalar; a copy of the
        # others, because JAX's arrays are read-only and some environments scale in place
        return Command("step", action.item() if is_choice else np.array(action))

    def begin(self, observation: Groups) -> None:
        """A new episode."""
        self.observation, self.time = observation, 0
        self.has_ended = self.is_gone = False

    def go_on(self, answer: _Answer) -> None:
        """One step further."""
        self.observation = answer.observation
        self.time += 1
        self.steps += 1
        if answer.terminated or answer.truncated:
            self.has_ended, self.failures = True, 0


def _coarse(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which components change by too few steps of float32, where they are: clocks, GPS, encoders.

    One that has not changed yet is one if float32 does not even count there.
    """
    change, largest = high - low, np.maximum(np.abs(low), np.abs(high))
    resolved = np.spacing(largest.astype(np.float32))
    return np.where(
        change > 0, (largest > _OFFSET) & (change < _STEPS * resolved), largest >= _COUNTED
    )


def _with_origin(spec: ObservationSpec, seen: np.ndarray) -> ObservationSpec:
    """A group with the origin that its first raw observations [K, *shape] ask for, if they do."""
    if spec.choices or seen.dtype.itemsize <= 4 or not seen.size:
        return spec
    rows = seen.astype(np.float64)
    coarse = _coarse(rows.min(axis=0), rows.max(axis=0))
    if not coarse.any():
        return spec
    return dataclasses.replace(spec, origin=tuple(np.where(coarse, rows[0], 0.0).ravel().tolist()))


class _Resolution:
    """Finds what float32 loses all the same: components that no first observation gave away.

    Args:
        spec: of the group.
    """

    def __init__(self, spec: ObservationSpec) -> None:
        self._origin = 0.0 if spec.origin is None else np.reshape(spec.origin, spec.shape)
        self._left = _LOOKS
        self._low, self._high = np.array(np.inf), np.array(-np.inf)

    def look(self, rows: np.ndarray) -> str | None:
        """Look at raw observations [N, ...], a few hundred times; what was found, once, in words."""
        if not self._left or rows.dtype.itemsize <= 4 or not rows.size:
            return None
        self._left -= 1
        rows = rows - self._origin
        self._low = np.minimum(self._low, rows.min(axis=0))
        self._high = np.maximum(self._high, rows.max(axis=0))
        if self._left:
            return None
        change = self._high - self._low
        coarse = np.argwhere(_coarse(self._low, self._high) & (change > 0))
        if not len(coarse):
            return None
        where = tuple(coarse[0].tolist())
        step = np.spacing(np.float32(np.abs(self._high[where])))
        return (
            f"component {list(where)}: it changes by {change[where]:.3g} around {self._high[where]:.10g}, "
            f"where float32, which networks read, has steps of {step:.3g}; subtract where it "
            "begins (a clock, GPS, an encoder) before it is returned"
        )


class GymnasiumEnvironment(Environment):
    """N instances of one Gymnasium environment.

    An instance that fails (raises, hangs, dies with its process, breaks the contract) ends the run, or is
    made anew, or is left out from then on, as `hosting` says. Its episode is lost: the row of the step
    that failed is `truncated` and not `valid`.

    Args:
        make: makes one instance.
        num_envs: how many.
        seeds: one seed for each, given to its first reset.
        name: the task's name, for messages.
        hosting: where they are stepped, and what becomes of those that fail.
        cheap_to_make: see `EnvSpec`.
        max_episode_steps: likewise.

    Raises:
        ValueError: unsupported spaces, or a first step that breaks the contract.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        num_envs: int,
        *,
        seeds: Sequence[int],
        name: str,
        hosting: Hosting | None = None,
        cheap_to_make: bool = False,
        max_episode_steps: int | None = None,
    ) -> None:
        hosting = hosting or Hosting()
        self._name = name
        self._on_failure = hosting.on_failure
        self._log: Callable[[str], None] = warnings.warn
        self._records = [_Record(int(seed)) for seed in seeds]
        self._backend = _make_backend(make, num_envs, hosting, name)
        try:
            observation_space, self._action_space = self._spaces()
            self._groups = spaces.observation_groups(observation_space, task=name)
            action = spaces.action_spec(self._action_space, task=name)
            info, seen = self._trial_step()
        except BaseException:
            self.close()
            raise
        observations = {
            name: _with_origin(spec, seen[name])
            for name, spec in spaces.observation_specs(self._groups).items()
        }
        self._watched = _watched(observations)
        self.spec = EnvSpec(
            name=name,
            num_envs=num_envs,
            observations=observations,
            action=action,
            in_graph=False,
            info=info,
            cheap_to_make=cheap_to_make,
            control_dt_s=self._control_dt_s(),
            max_episode_steps=max_episode_steps,
        )

    def read_as(self, observations: Mapping[str, ObservationSpec]) -> None:
        """See `Environment.read_as`."""
        own = {
            name: dataclasses.replace(spec, origin=observations[name].origin)
            if name in observations and observations[name].shape == spec.shape
            else spec
            for name, spec in self.spec.observations.items()
        }
        self.spec = dataclasses.replace(self.spec, observations=own)
        self._watched = _watched(own)

    def reset(self, key: jax.Array) -> tuple[None, Step]:
        """Start every environment from the seed it was made with; `key` is not used."""
        del key
        self._begin("reset")
        count = len(self._records)
        no, zero = np.zeros(count, bool), np.zeros(count, np.float32)
        info = dict.fromkeys(self.spec.info, np.full_like(zero, np.nan))
        return None, Step(self._observation(), zero, no, no, no, info)

    def step(self, env_state: None, action: Any) -> tuple[None, Step]:
        """Step the running environments; those that ended begin a new episode instead."""
        return self.step_rows(env_state, action, np.ones(len(self._records), bool))

    def step_rows(self, env_state: None, action: Any, rows: np.ndarray) -> tuple[None, Step]:
        """See `Environment.step_rows`."""
        count = len(self._records)
        reward = np.zeros(count, np.float32)
        terminated, truncated, valid = (np.zeros(count, bool) for _ in range(3))
        info = {name: np.full(count, np.nan, np.float32) for name in self.spec.info}
        action = np.asarray(action)
        is_choice = self.spec.action.kind == "discrete"
        commands = [
            record.next_command(action[i], is_choice=is_choice) if rows[i] else None
            for i, record in enumerate(self._records)
        ]
        for i, came in enumerate(self._backend.do(commands)):
            record, command = self._records[i], commands[i]
            if command is None:
                continue
            try:
                if command.kind != "step":
                    record.begin(self._read(came, self._reset_of)[0])
                    continue
                answer = self._read(came, self._step_of)
            except EnvError as lost:
                truncated[i] = command.kind == "step"  # and not valid: its episode is lost
                self._handle_failure(i, lost, command)
                continue
            record.go_on(answer)
            valid[i] = True
            reward[i], terminated[i], truncated[i] = answer[1:4]
            for name, value in self._logged(answer.info).items():
                info[name][i] = value
        return None, Step(self._observation(), reward, terminated, truncated, valid, info)

    def render(self, env_state: None, rows: Sequence[int]) -> list[np.ndarray]:
        """Their own pictures."""
        pictures = []
        for env in map(self.instance, rows):
            try:
                picture = None if env is None else env.render()
            except FAILURES as error:
                words, trace = failure(error)
                if "EGL" in words or "OpenGL" in words:
                    raise no_gl(words) from error
                known = isinstance(error, gymnasium.error.DependencyNotInstalled)
                where = "" if known else f"\n{trace}"
                raise UserError(f"{self._name} cannot be drawn: {words}{where}") from error
            if not (isinstance(picture, np.ndarray) and picture.shape[2:] == (3,)):
                return [*super().render(env_state, rows)]
            pictures.append(picture.astype(np.uint8, copy=False))
        return pictures

    def close(self) -> None:
        """Close every instance; the first that fails there is named, and has nothing left to lose."""
        answers = [*self._backend.do([Command("close")] * len(self._records))]
        self._backend.close()
        failed = [(i, came) for i, came in enumerate(answers) if isinstance(came, EnvError)]
        if failed:
            index, error = failed[0]
            what = f"{error.what}; {len(failed)} of {len(answers)} {NOT_CLOSED}"
            self._log(str(self._error(index, EnvError(what, error.trace), "close()")))

    def instance(self, index: int) -> gymnasium.Env | None:
        """One of the environments itself, to look at; None where it lives in another process."""
        return self._backend.instance(index)

    def log_to(self, log: Callable[[str], None]) -> None:
        """Where to say which environment failed, and how."""
        self._log = log

    def _spaces(self) -> tuple[Any, Any]:
        """What the first instance says of its observations and actions."""
        came, *_ = self._backend.do([Command("spaces"), *[None] * (len(self._records) - 1)])
        if isinstance(came, EnvError):
            raise UserError(f"{self._name} cannot be made: {came.what}\n{came.trace}".rstrip())
        return came

    def _control_dt_s(self) -> float | None:
        """Seconds of a step, where the environment says how many of its pictures make a second."""
        env = self.instance(0)
        metadata = None if env is None else env.metadata
        rate = as_number(metadata.get("render_fps")) if isinstance(metadata, Mapping) else None
        return 1 / rate if rate is not None and rate > 0 else None

    def _trial_step(self) -> tuple[tuple[str, ...], Groups]:
        """Make all, and step the first once before any training, to refuse what is broken.

        Returns:
            What it told in info, and all that was observed, raw: the first row is the first environment's.
        """
        names = self._begin("make")
        seen = [record.observation for record in self._records]
        action = spaces.random_action(self._action_space, seed=self._records[0].seed % 2**31)
        came, *_ = self._backend.do([Command("step", action), *[None] * (len(self._records) - 1)])
        try:
            answer = self._read(came, self._step_of)
        except EnvError as lost:
            raise self._error(0, lost, "the first step") from None
        names |= answer.info
        groups = {
            name: np.stack([*(x[name] for x in seen), answer.observation[name]])
            for name in self._groups
        }
        # success is often told at the end of an episode alone: room for it is kept in any case
        terms = sorted(name for name in names if name.startswith(REWARD_TERM))
        return (*terms, "success"), groups

    def _begin(self, kind: Literal["make", "reset"]) -> Info:
        """The first episode of every environment, from its seed; what the first one tells."""
        commands = [Command(kind, record.seed) for record in self._records]
        told = []
        for i, came in enumerate(self._backend.do(commands)):
            try:
                observation, info = self._read(came, self._reset_of)
            except EnvError as lost:
                raise self._error(i, lost, "the first reset") from None
            self._records[i] = _Record(self._records[i].seed)
            self._records[i].begin(observation)
            told.append(info)
        return told[0]

    def _handle_failure(self, index: int, failure: EnvError, command: Command) -> None:
        """End the run, or say what happened and how it goes on."""
        record = self._records[index]
        record.failures += 1
        record.is_gone = True
        record.is_out = self._on_failure == "quarantine"
        left = sum(not other.is_out for other in self._records)
        if command.kind == "step":
            where = f"step {record.steps + 1} (step {record.time + 1} of its episode)"
        else:
            where = f"the reset behind step {record.steps}"
        error = self._error(index, failure, where)
        if self._on_failure == "fail":
            raise error from None
        if left == 0:
            raise UserError(f"{error}\nThat was the last of {len(self._records)}") from None
        if record.failures > _MOST_FAILURES:
            raise UserError(
                f"{error}\nIt failed {record.failures} times without finishing an episode: making it "
                "anew does not help"
            ) from None
        then = (
            f"so is the environment from here on; {left} are left"
            if record.is_out
            else "it is made anew"
        )
        self._log(f"{error}\nIts episode is left out; {then}")

    def _error(self, index: int, failure: EnvError, where: str) -> UserError:
        """The failure in words, with the environment's own traceback."""
        seed = self._records[index].seed
        text = f"{self._name}, environment {index} (seed {seed}), {where}: {failure.what}"
        return UserError(f"{text}\n{failure.trace.rstrip()}" if failure.trace else text)

    def _read(self, came: Any, read: Callable[[Any], T]) -> T:
        """What an environment handed over, read; EnvError for whatever is wrong with it."""
        if isinstance(came, EnvError):
            raise came
        try:
            return read(came)
        except EnvError:
            raise
        except Exception as error:
            what, trace = failure(error)
            raise EnvError(f"what it returned cannot be read: {what}", trace) from error

    def _reset_of(self, came: Any) -> tuple[Groups, Info]:
        """What a reset returned."""
        if not (isinstance(came, tuple) and len(came) == 2):
            raise EnvError(
                "reset() must return (observation, info) as in Gymnasium, not " + _shape_of(came)
            )
        return self._groups_of(came[0]), _info_of(came[1])

    def _step_of(self, came: Any) -> _Answer:
        """What a step returned."""
        if not (isinstance(came, tuple) and len(came) == 5):
            raise EnvError(
                "step() must return (observation, reward, terminated, truncated, info) as in "
                f"Gymnasium, not {_shape_of(came)}"
            )
        observation, reward, terminated, truncated, info = came
        return _Answer(
            self._groups_of(observation),
            _reward_of(reward),
            _flag_of(terminated, field="terminated"),
            _flag_of(truncated, field="truncated"),
            _info_of(info),
        )

    def _logged(self, info: Info) -> Info:
        """Of what a step tells, the numbers that every step has room for."""
        info.setdefault("success", info.get("is_success", np.nan))
        return {name: info[name] for name in self.spec.info if name in info}

    def _groups_of(self, observation: Any) -> Groups:
        """One observation by groups, copied; EnvError if it is not what its space says."""
        if not isinstance(observation, Mapping):
            observation = {"observation": observation}
        if set(observation) != set(self._groups):
            raise EnvError(
                f"observation has the keys {sorted(observation, key=str)}, its space says "
                f"{sorted(self._groups)}"
            )
        return {
            name: _checked(observation[name], space, field=name)
            for name, space in self._groups.items()
        }

    def _observation(self) -> Groups:
        """The last observation of every environment."""
        stacked = {
            name: np.stack([record.observation[name] for record in self._records])
            for name in self.spec.observations
        }
        for name, rows in stacked.items():
            if name in self._watched and (lost := self._watched[name].look(rows)):
                self._log(f"{self._name}: observation {name!r}, {lost}")
        return {name: spec.cast(stacked[name]) for name, spec in self.spec.observations.items()}


def _watched(observations: Mapping[str, ObservationSpec]) -> dict[str, _Resolution]:
    return {name: _Resolution(spec) for name, spec in observations.items() if not spec.choices}


def _checked(value: Any, space: Any, *, field: str) -> np.ndarray:
    where, shape = f"observation {field!r}", tuple(space.shape or ())
    try:
        array = np.array(value)  # a copy: environments may reuse their buffers
    except Exception as error:
        raise EnvError(f"{where} is no array of numbers: {error}") from error
    if array.size == 1 and not shape:
        array = array.reshape(())
    if array.shape != shape:
        raise EnvError(f"{where}: shape {array.shape}, its space says {shape}")
    if array.dtype.kind not in "fiub":
        raise EnvError(f"{where}: dtype {array.dtype} is not numeric ({space.dtype} declared)")
    if array.dtype.kind == "f" and np.dtype(space.dtype).kind in "iu":
        raise EnvError(f"{where}: dtype {array.dtype}, its space says {space.dtype}")
    if array.dtype.kind == "f":
        # what float32 has no room for is infinite for the networks
        sound = np.isfinite(array) if array.itemsize <= 4 else np.abs(array) <= _LARGEST
        if not sound.all():
            bad = np.argwhere(~sound)[0].tolist()
            raise EnvError(f"{where}: component {bad} is {array[tuple(bad)]}; {_FINITE}")
    if not spaces.in_range(space, array):
        raise EnvError(f"{where}: {array} is outside its space {space}")
    return array


def _reward_of(reward: Any) -> float:
    number = as_number(reward)
    if number is None:
        raise EnvError(f"reward: {reprlib.repr(reward)} is not one number")
    if not abs(number) <= _LARGEST:
        raise EnvError(f"reward: {number}; {_FINITE}")
    return number


def _flag_of(flag: Any, *, field: str) -> bool:
    number = as_number(flag)
    if number is None or isinstance(flag, float) or np.asarray(flag).dtype.kind == "f":
        raise EnvError(f"{field}: {reprlib.repr(flag)} is not one flag")
    return bool(number)


def _info_of(info: Any) -> Info:
    """The numbers that it tells, those beyond float32 aside (its backend has left out all else)."""
    if not isinstance(info, Mapping):
        raise EnvError(
            f"info: {reprlib.repr(info)} is not a dict; return {{}} where there is nothing"
        )
    return {name: x for name, x in info.items() if not abs(x) > _LARGEST}


def _shape_of(answer: Any) -> str:
    return f"{len(answer)} values" if isinstance(answer, tuple) else f"a {type(answer).__name__}"


def _make_backend(
    make: Callable[[], gymnasium.Env], count: int, hosting: Hosting, name: str
) -> Backend:
    if not hosting.workers:
        return InProcess(make)
    from surefoot.envs.workers import Workers

    return Workers(make, count, workers=hosting.workers, timeout=hosting.timeout, name=name)


def comes_with_gymnasium(task: str) -> bool:
    """Whether a registered id is one of Gymnasium's own environments, all of which are cheap to make."""
    spec = gymnasium.registry.get(task)
    return spec is not None and str(spec.entry_point).startswith("gymnasium.envs.")


def time_limit(task: str, options: Mapping[str, Any]) -> int | None:
    """Steps of an episode at most, of Gymnasium's own; of others, whose steps may take long, none is told."""
    if not comes_with_gymnasium(task):
        return None
    return options.get("max_episode_steps", gymnasium.registry[task].max_episode_steps)


def entry_point(task: str) -> Any:
    """What makes a registered id, where it is not one of Gymnasium's own; else None."""
    spec = gymnasium.registry.get(task.rpartition(":")[2])
    if spec is None or spec.entry_point is None or comes_with_gymnasium(spec.id):
        return None
    maker = spec.entry_point
    if isinstance(maker, str):
        maker = load_env_creator(maker)
    return functools.partial(maker, **spec.kwargs)


def make_registered(
    task: str, options: Mapping[str, Any], camera: Camera | None = None
) -> Callable[[], gymnasium.Env]:
    """A maker of a registered Gymnasium id, to have pictures taken if there is a camera.

    Raises:
        ValueError: unknown id (with near matches), or one that cannot be made here.
    """
    if task not in gymnasium.registry and ":" not in task:
        raise UserError(f"unknown Gymnasium task {task!r}{near_matches(task, gymnasium.registry)}")
    if camera is not None:
        with contextlib.suppress(Exception):  # making it will say what is wrong
            maker = gymnasium.spec(task).entry_point
            maker = load_env_creator(maker) if isinstance(maker, str) else maker
            options = {**draws(maker), **options}

    def make() -> gymnasium.Env:
        try:
            return gymnasium.make(task, **options)
        except (gymnasium.error.Error, ImportError, TypeError, AssertionError) as error:
            raise UserError(str(error)) from error

    return make


def draws(maker: Any) -> dict[str, str]:
    """What a class or function of Gymnasium environments is told so that they draw; nothing: they do not."""
    modes = getattr(maker, "metadata", {}).get("render_modes", ())
    named = not isinstance(maker, type) and "render_mode" in inspect.signature(maker).parameters
    return {"render_mode": "rgb_array"} if named or "rgb_array" in modes else {}


def looked_at(make: Callable[[], gymnasium.Env], camera: Camera) -> Callable[[], gymnasium.Env]:
    """A maker of what `make` makes, where that is MuJoCo's with a camera's size, and quick to draw.

    Without shadows, reflections and smoothed edges: a software renderer takes a tenth of the time.
    """

    def made() -> gymnasium.Env:
        env = make()
        module = sys.modules.get("gymnasium.envs.mujoco.mujoco_env")
        robot: Any = env.unwrapped
        if module is not None and isinstance(robot, module.MujocoEnv):
            load_gl()
            open_context(8, 8).free()  # Gymnasium's own fails with noise
            model, renderer = robot.model, robot.mujoco_renderer
            quality, size = model.vis.quality, model.vis.global_
            quality.shadowsize = quality.offsamples = 0
            model.mat_reflectance[:] = 0
            size.offwidth, size.offheight = renderer.width, renderer.height = camera[:2]
            if camera.name is not None:
                names = [model.camera(i).name for i in range(model.ncam)]
                check_names([camera.name], names, what="camera")
                renderer.camera_id = names.index(camera.name)
        return env

    return made


def refusal(task: str) -> str:
    """Why one of Gymnasium's own ids cannot be trained here; empty if it can be, or is another's."""
    entry = gymnasium.registry[task].entry_point
    module = f"{entry if isinstance(entry, str) else getattr(entry, '__module__', '')}."
    if task == "Pusher-v4":
        return "it needs mujoco<3"
    # others may take long to make, or open windows; to load a model may leave a log of MuJoCo's
    if not module.startswith("gymnasium.envs.") or module.startswith("gymnasium.envs.mujoco."):
        return ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            env = make_registered(task, {})()
            spaces.observation_groups(env.observation_space, task=task)
            spaces.action_spec(env.action_space, task=task)
        except UserError as error:
            return str(error).removeprefix(f"{task}: ")
    env.close()
    return ""
