"""The environment contract: what a simulator owes to the code above it.

Many environments are stepped together (leading axis N). Resets happen on the *next* step: the step
that ends an episode returns its true last observation; the step after it ignores its action, returns
the first observation of a new episode with reward 0, and is marked `valid = False`. So the value of
the next observation is exact at every truncation, and the mask says which rows are not experience.
An environment that failed during a step marks it `truncated` and not `valid`: the episode is lost.

A simulator that resets within the step (`autoreset = "same_step"`) returns the first observation of the
next episode already, and hands over the true last one as `final_observation`; then truncation is exact too.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from surefoot.errors import UserError
from surefoot.functional import Reflection
from surefoot.host_process import FAILURES, failure

Array = jax.Array | np.ndarray

# scalars of `Step.info` that are logged: terms of a robot's reward, other numbers, and what is called success
REWARD_TERM, MEASURE = "reward_", "measure_"
SUCCESS = ("success", "is_success", "reward_success")
NOT_CLOSED = "could not be closed, and nothing is lost by that"
# of actions, as NumPy writes them
_DTYPES = tuple(str(np.dtype(code)) for code in "bBhHiIqQefd")
# no actuator has such a bound: it is how simulators write "none", as the largest float32, 3.4e38, or float64
_NO_BOUND = 1e30
_COARSE = 1e-3  # share of a float64 range that float32 must resolve there
_MOST_CHOICES = 1_000_000  # of a categorical: networks read or write a number for each


class Step(NamedTuple):
    """What the environments answer to one action each.

    `observation` is an array [N, ...] or a mapping from group names to such arrays. `reward` [N] is
    float32; `terminated`, `truncated`, `valid` [N] are bool. `info` holds named scalars per
    environment [N] worth logging, such as the terms of a robot's reward. `final_observation` is for
    simulators that reset within the step: like `observation`, the last one of the episode that ended;
    rows whose episode goes on are not read.
    """

    observation: Any
    reward: Any
    terminated: Any
    truncated: Any
    valid: Any
    info: Mapping[str, Any]
    final_observation: Any = None


class Camera(NamedTuple):
    """How pictures are taken of environments.

    Attributes:
        width: of a picture, in pixels.
        height: likewise.
        name: of a camera of the model, its number where the simulator knows no names; none: one that follows
            the robot, or the simulator's own.
    """

    width: int = 640
    height: int = 480
    name: str | None = None


@dataclass(frozen=True)
class ActionSpec:
    """The actions an environment takes.

    Attributes:
        kind: `continuous` (Box), `discrete`, `multi_discrete` or `multi_binary`.
        sizes: continuous: (number of components,); discrete: (choices,); multi_discrete: choices per
            component; multi_binary: (number of bits,).
        low: lower bounds of a continuous action, flattened; -inf where unbounded, which a bound of the
            size of the largest float32 is too.
        high: upper bounds, likewise.
        shape: the shape the environment wants for one action.
        dtype: the dtype the environment wants.
        start: the smallest discrete action; of multi_discrete ones, that of each component.
    """

    kind: Literal["continuous", "discrete", "multi_discrete", "multi_binary"]
    sizes: tuple[int, ...]
    low: tuple[int | float, ...] = ()
    high: tuple[int | float, ...] = ()
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    start: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        several, continuous = self.kind == "multi_discrete", self.kind == "continuous"
        what = f"action spec: sizes {self.sizes} of {self.kind} actions"
        if min(self.sizes, default=0) < 1:
            raise UserError(f"{what}: there is nothing to choose")
        if len(self.sizes) > 1 and not several:
            raise UserError(f"{what}, which have one")
        if not continuous:
            _check_choices(self.sizes, "action spec")
        count = {"discrete": 1, "multi_discrete": len(self.sizes)}.get(self.kind, sum(self.sizes))
        if min(self.shape, default=1) < 1 or math.prod(self.shape) != count:
            raise UserError(f"action spec: shape {self.shape} does not hold {count} component(s)")
        wanted = count if continuous else 0
        for name in ("low", "high"):
            bounds = getattr(self, name)
            if len(bounds) != wanted:
                raise UserError(
                    f"action spec: {name} has {len(bounds)} bounds for {wanted} components"
                )
            real = tuple(math.copysign(math.inf, b) if abs(b) >= _NO_BOUND else b for b in bounds)
            object.__setattr__(self, name, real)
        for i, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if not low < high:
                raise UserError(
                    f"action component {i} has low {low} and high {high}; the lower bound must lie below "
                    "the upper one"
                )
        if isinstance(self.start, tuple) and not (several and len(self.start) == count):
            raise UserError(f"action spec: start {self.start} for {count} component(s)")
        starts = self.start if isinstance(self.start, tuple) else (self.start,) * len(self.sizes)
        if any(not -(2**63) <= x <= 2**63 - n for x, n in zip(starts, self.sizes, strict=True)):
            raise UserError(
                f"action spec: start {self.start} of sizes {self.sizes} exceeds 64 bits"
            )
        if self.dtype not in _DTYPES:
            raise UserError(f"action spec: dtype {self.dtype!r} is none of {', '.join(_DTYPES)}")

    @functools.cached_property
    def is_wide(self) -> bool:
        """Whether 32 bits do not tell its actions apart: it is then mapped on the host, in 64."""
        if self.kind != "continuous":
            starts = np.ravel(np.asarray(self.start, object)).tolist()
            return max(map(abs, starts)) + max(self.sizes) > np.iinfo(np.int32).max
        for low, high in zip(self.low, self.high, strict=True):
            largest = max((abs(b) for b in (low, high) if math.isfinite(b)), default=0)
            if np.dtype(self.dtype).kind in "iu":
                if largest > 2**24:  # the integers that float32 counts
                    return True
            elif self.dtype == "float64" and float(np.spacing(np.float32(largest))) > _COARSE * (
                high - low
            ):
                return True
        return False

    @property
    def narrow(self) -> ActionSpec:
        """The same in 32 bits, as jitted programs write it; `widen` brings it to the environment's own."""
        number = self.kind == "continuous" and (self.is_wide or np.dtype(self.dtype).kind == "f")
        dtype = "float32" if number else "int32"
        if not self.is_wide:
            return dataclasses.replace(self, dtype=dtype)
        ends = [
            1.0 if math.isfinite(low) and math.isfinite(high) else math.inf
            for low, high in zip(self.low, self.high, strict=True)
        ]
        low, high = tuple(-end for end in ends), tuple(ends)
        return dataclasses.replace(self, low=low, high=high, start=0, dtype=dtype)

    def widen(self, action: Any) -> np.ndarray:
        """An action [..., *shape] of `narrow` on the host, as the environment wants it."""
        rows, dtype = np.asarray(action), np.dtype(self.dtype)
        if self.is_wide:
            return self._map_exactly(rows)
        if self.kind == "continuous" and dtype != rows.dtype:
            # what is not bounded, or but on one side, still has to fit into the dtype
            if dtype.kind in "iu":
                limits = np.iinfo(dtype)
                rows = np.clip(
                    rows.astype(np.int64), max(limits.min, -(2**63)), min(limits.max, 2**63 - 1)
                )
            elif dtype.itemsize < rows.dtype.itemsize:
                rows = np.clip(rows, np.finfo(dtype).min, np.finfo(dtype).max)
        return rows.astype(dtype, copy=False)

    def _map_exactly(self, rows: np.ndarray) -> np.ndarray:
        """What `to_env` does, in 64 bits, for canonical actions [..., *shape]."""
        dtype = np.dtype(self.dtype)
        if self.kind != "continuous":
            start = np.broadcast_to(np.asarray(self.start, np.int64), len(self.sizes))
            return (rows + start.reshape(self.shape)).astype(dtype)
        low, high = (np.asarray(b, np.float64).reshape(self.shape) for b in (self.low, self.high))
        bounded = np.isfinite(low) & np.isfinite(high)
        bottom, top = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        mapped = bottom + (top - bottom) * ((rows.astype(np.float64) + 1.0) / 2.0)
        if dtype.kind == "f":
            return np.clip(mapped, low, high).astype(dtype)
        limits = np.iinfo(dtype)
        # the ends in integers: float64 does not have all of them
        ends = [
            np.asarray([b if math.isfinite(b) else none for b in bounds], dtype).reshape(self.shape)
            for bounds, none in ((self.low, limits.min), (self.high, limits.max))
        ]
        inside = np.nextafter(np.asarray([limits.min, limits.max], np.float64), 0.0)
        whole = np.clip(np.round(mapped), *inside).astype(dtype)
        whole = np.where(mapped <= low, ends[0], np.where(mapped >= high, ends[1], whole))
        return np.clip(whole, *ends).astype(dtype)

    def differences(self, other: ActionSpec) -> list[str]:
        """What makes an action of this one mean something else there, in words; none if nothing does.

        Simulators write the same numbers, and their bounds, in float32 and in float64: that is no difference
        where 32 bits tell the actions apart. Any other dtype is one.
        """
        plain = [
            spec.dtype in ("float32", "float64") and not spec.is_wide for spec in (self, other)
        ]
        dtypes = ("", "") if all(plain) else (self.dtype, other.dtype)
        found = [
            f"{name} {mine} here, {its} there"
            for name, mine, its in (
                ("kind", self.kind, other.kind),
                ("sizes", self.sizes, other.sizes),
                ("shape", self.shape, other.shape),
                ("start", self.start, other.start),
                ("dtype", *dtypes),
            )
            if mine != its
        ]
        ends = [list(zip(spec.low, spec.high, strict=True)) for spec in (self, other)]
        for i, (mine, its) in enumerate(zip(*ends, strict=False)):
            if mine != its and (np.asarray(mine, np.float32) != np.asarray(its, np.float32)).any():
                found.append(
                    f"component {i} from {mine[0]} to {mine[1]} here, {its[0]} to {its[1]} there"
                )
        return found[:3]

    def random(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Canonical actions [*shape, ...]: uniform within [-1, 1], or over the choices."""
        if self.kind == "continuous":
            return jax.random.uniform(key, (*shape, *self.sizes), minval=-1.0, maxval=1.0)
        if self.kind == "multi_binary":
            return jax.random.randint(key, (*shape, *self.sizes), 0, 2)
        chosen = jax.random.randint(key, (*shape, len(self.sizes)), 0, jnp.asarray(self.sizes))
        return chosen[..., 0] if self.kind == "discrete" else chosen

    def to_env(self, action: jax.Array) -> jax.Array:
        """The canonical action as this environment's own action.

        A bounded component is clipped to [-1, 1] and mapped linearly onto its bounds; an unbounded
        one is passed on as it is. Discrete actions count from 0 and are shifted to `start`.

        Args:
            action: [..., A] canonical continuous, or integers [...] or [..., A].

        Returns:
            [..., *shape] in the environment's dtype.
        """
        if self.kind == "continuous":
            low, high = _inside(self.low, np.inf), _inside(self.high, -np.inf)
            bounded = np.isfinite(low) & np.isfinite(high)
            bottom, top = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
            middle = ((top + bottom) / 2).astype(np.float32)
            half = ((top - bottom) / 2).astype(np.float32)
            # an unbounded component passes through; one with a single bound is clipped to it
            mapped = jnp.clip(middle + half * action, low, high)
            # rounding of the map may end just short of a bound
            mapped = jnp.where(bounded & (action >= 1), high, mapped)
            action = jnp.where(bounded & (action <= -1), low, mapped)
            if np.dtype(self.dtype).kind in "iu":
                action = jnp.round(action)
        elif np.any(self.start):
            action = action + np.asarray(self.start, action.dtype)
        batch_shape = action.shape[:-1] if self.shape or self.kind == "continuous" else action.shape
        return action.reshape(*batch_shape, *self.shape).astype(self.dtype)


def _check_choices(choices: tuple[int, ...], what: str) -> None:
    if not all(1 <= count <= _MOST_CHOICES for count in choices):
        raise UserError(
            f"{what}: {max(choices):,} choices; 1 to {_MOST_CHOICES:,} can be, as networks have a number "
            "for each. Make it a Box"
        )


def _inside(bounds: tuple[float, ...], inwards: float) -> np.ndarray:
    """Bounds as float32, rounded inwards where a float64 bound lies between two of them."""
    exact = np.asarray(bounds, np.float64)
    with np.errstate(over="ignore"):  # beyond float32 is as good as unbounded
        near = exact.astype(np.float32)
    outside = np.isfinite(near) & (near < exact if inwards > 0 else near > exact)
    return np.where(outside, np.nextafter(near, np.float32(inwards)), near)


@dataclass(frozen=True)
class ObservationSpec:
    """One group of observations, as the contract hands them over.

    Attributes:
        shape: of one observation.
        choices: of integers that networks read as one-hot: how many values each has; empty for numbers.
        starts: the smallest raw value of each; the contract's count from 0.
        origin: of numbers whose offset would take float32's digits (a clock, GPS, an encoder): what is
            subtracted from each in float64, before they become float32; None: nothing.
    """

    shape: tuple[int, ...]
    choices: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    origin: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        count = math.prod(self.shape)
        if min(self.shape, default=0) < 0 or min(self.choices, default=1) < 1:
            raise UserError(f"observation spec: shape {self.shape}, choices {self.choices}")
        if self.choices and not len(self.choices) == len(self.starts) == count:
            raise UserError(
                f"observation spec: {self.choices} and {self.starts} for {count} integers"
            )
        if self.choices:
            _check_choices(self.choices, "observation spec")
        if self.origin is not None and (
            self.choices or len(self.origin) != count or not np.isfinite(self.origin).all()
        ):
            raise UserError(f"observation spec: origin {self.origin} of shape {self.shape}")

    @property
    def dtype(self) -> str:
        """Integers for one-hot, float32 else."""
        return "int32" if self.choices else "float32"

    @property
    def size(self) -> int:
        """Numbers that a network reads."""
        return sum(self.choices) if self.choices else math.prod(self.shape)

    def cast(self, batch: Any, xp: Any = np) -> Any:
        """A simulator's batch of this group as [N, *shape] in the contract's dtype.

        Args:
            batch: the observations, [N, ...].
            xp: numpy, or jax.numpy inside a jitted program.
        """
        rows = xp.asarray(batch).reshape(len(batch), *self.shape)
        if self.choices:
            rows = rows - np.asarray(self.starts).reshape(self.shape)
        if self.origin is not None:
            rows = rows.astype(np.float64) - np.reshape(self.origin, self.shape)
        return rows.astype(self.dtype)

    def raw(self, batch: np.ndarray) -> np.ndarray:
        """A batch of the contract as the simulator gives it: the inverse of `cast`, but for rounding."""
        if self.choices:
            return batch + np.asarray(self.starts).reshape(self.shape)
        if self.origin is not None:
            return batch.astype(np.float64) + np.reshape(self.origin, self.shape)
        return batch

    def check(self, batch: np.ndarray, name: str) -> None:
        """Raise ValueError for what networks cannot read in a simulator's batch [N, *shape] of this group."""
        if self.choices:
            from_zero = batch - np.reshape(self.starts, self.shape)
            bad = (from_zero < 0) | (from_zero >= np.reshape(self.choices, self.shape))
            wrong = "is none of the choices it was trained on"
        else:
            bad = ~(np.abs(batch.astype(np.float64)) <= np.finfo(np.float32).max)
            wrong = "must be finite, in float32"
        if bad.any():
            row, *component = np.argwhere(bad)[0].tolist()
            raise UserError(
                f"observation {name!r}: component {component} of row {row} is "
                f"{batch[(row, *component)]}; it {wrong}"
            )

    def encode(self, batch: jax.Array) -> jax.Array:
        """The contract's observations [..., *shape] as flat float32 [..., size]."""
        rows = batch.reshape(*batch.shape[: batch.ndim - len(self.shape)], -1)
        if not self.choices:
            return rows
        columns = [
            (rows[..., i : i + 1] == np.arange(count)).astype(np.float32)
            for i, count in enumerate(self.choices)
        ]
        return jnp.concatenate(columns, axis=-1)


def as_specs(
    observations: Mapping[str, int | ObservationSpec],
) -> dict[str, ObservationSpec]:
    """Observation groups, where how many numbers a group has may stand for its spec.

    Raises:
        ValueError: they are none.
    """
    kinds = (int, ObservationSpec)
    if not isinstance(observations, Mapping) or not observations:
        raise UserError(
            f"`observations` is {observations!r}; it maps a group's name to how many numbers it has, or to "
            "an ObservationSpec, such as {'observation': 3}"
        )
    for name, spec in observations.items():
        if not isinstance(name, str) or not isinstance(spec, kinds) or isinstance(spec, bool):
            raise UserError(
                f"`observations` has {name!r}: {spec!r}; a group is a name and how many numbers it has, or "
                "an ObservationSpec"
            )
    return {
        name: ObservationSpec((spec,)) if isinstance(spec, int) else spec
        for name, spec in observations.items()
    }


class Breakdown(NamedTuple):
    """A simulation that broke down, as it was before the step that did it.

    Attributes:
        what: what happened, in words.
        environment: its index.
        step: control steps since it began, that one counted.
        substeps: of the physics in that step.
        state: of the simulation, mjSTATE_INTEGRATION of MuJoCo, its controls included.
        model: fields of the model that were its own, by name.
    """

    what: str
    environment: int
    step: int
    substeps: int
    state: np.ndarray
    model: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Symmetry:
    """What becomes of a task in its mirror image, in which it is the same task.

    Attributes:
        observations: reflection of each observation group.
        action: of the actions.
    """

    observations: Mapping[str, Reflection]
    action: Reflection


@dataclass(frozen=True)
class EnvSpec:
    """What the agent must know of an environment.

    Attributes:
        name: the task's name, for messages.
        num_envs: environments stepped together.
        observations: the observation groups, by name.
        action: the action spec.
        in_graph: whether `step` may be traced into a jitted program, or is called from the host.
        info: names of the scalars that every `Step.info` holds; NaN where a step has none.
        needs_float64: whether `step` must be traced with 64-bit types enabled.
        threads: threads the simulator steps with, where it has its own.
        autoreset: when an episode that ended begins anew: on the `next_step`, or in the `same_step`.
        final_observation: whether a simulator that resets in the same step hands over the last observation.
        saves_state: whether the state that `reset` and `step` return, arrays and random keys, is all
            there is, so that a checkpoint holds it, bit by bit.
        cheap_to_make: whether making the environments costs next to nothing beside the steps between two
            checkpoints, so that they begin anew there and a resumed run is exact (docs/checkpoints.md).
        symmetry: how the task is its own mirror image; none: not known.
        fingerprint: changes with the task's code and model; none: the library's version tells, or nothing.
        control_dt_s: seconds from one action to the next; none: not known, or no time passes.
        max_episode_steps: steps after which an episode is cut short; none: not known, or never.
    """

    name: str
    num_envs: int
    observations: Mapping[str, ObservationSpec]
    action: ActionSpec
    in_graph: bool
    info: tuple[str, ...] = ()
    needs_float64: bool = False
    threads: int | None = None
    autoreset: Literal["next_step", "same_step"] = "next_step"
    final_observation: bool = False
    saves_state: bool = False
    cheap_to_make: bool = False
    symmetry: Symmetry | None = None
    fingerprint: str | None = None
    control_dt_s: float | None = None
    max_episode_steps: int | None = None

    def __post_init__(self) -> None:
        if self.in_graph and self.action.is_wide:
            raise UserError(
                f"{self.name}: actions from {self.action.low or self.action.start} to "
                f"{self.action.high or self.action.sizes} need 64 bits, and it is stepped in a program of "
                "32: declare smaller bounds, and add the offset in the task"
            )

    @property
    def exact_truncation(self) -> bool:
        """Whether the true last observation arrives at a truncation."""
        return self.autoreset == "next_step" or self.final_observation


class Environment(abc.ABC):
    """N environments behind the contract of this module."""

    spec: EnvSpec

    @abc.abstractmethod
    def reset(self, key: jax.Array) -> tuple[Any, Step]:
        """Start every environment.

        Args:
            key: the random stream. Simulators that take their seed when they are made ignore it.

        Returns:
            The simulator's state and a step whose rows are all invalid (no action led there).
        """

    @abc.abstractmethod
    def step(self, env_state: Any, action: Array) -> tuple[Any, Step]:
        """Step every environment.

        Args:
            env_state: what the previous call returned.
            action: [N, *spec.action.shape], in the environment's own bounds and dtype.
        """

    def step_rows(self, env_state: Any, action: Array, rows: np.ndarray) -> tuple[Any, Step]:
        """Step some environments and leave the others where they are; called from the host.

        For `stagger_steps`, which is refused where this is not overridden.

        Args:
            env_state: what the previous call returned.
            action: see `step`; a row for each environment.
            rows: [N] bool: which.

        Returns:
            State and step, of which the rows that were stepped mean something.
        """
        raise NotImplementedError

    def read_as(self, observations: Mapping[str, ObservationSpec]) -> None:
        """Subtract the origins of these groups, those of a run or a policy, and none of its own.

        Does nothing by default: who has no origins reads as it did.
        """
        return

    def render(self, env_state: Any, rows: Sequence[int]) -> Sequence[np.ndarray]:
        """What can be seen of environments that were made with a `Camera`.

        Args:
            env_state: what the last call of `reset` or `step` returned; no older one.
            rows: of which environments.

        Returns:
            For each a picture [height, width, 3], uint8; simulators may choose another size.

        Raises:
            ValueError: there is nothing to see, or nothing to draw with.
        """
        raise UserError(
            f"{self.spec.name} cannot be drawn: pictures are of robots (robot:NAME, your own RobotTask), of "
            "EnvPool's tasks, and of Gymnasium's whose render_modes name rgb_array"
        )

    def close(self) -> None:
        """Release what the simulator holds. Does nothing by default."""
        return

    def log_to(self, log: Callable[[str], None]) -> None:
        """Where to say in words what goes wrong. Does nothing by default."""
        return

    def report_to(self, report: Callable[[Breakdown], None]) -> None:
        """Where to hand over simulations that broke down. Does nothing by default."""
        return


def release(env: Environment, log: Callable[[str], None]) -> None:
    """Close environments; an error of their own is said and not raised: what was earned with them is kept."""
    env.log_to(log)
    try:
        env.close()
    except FAILURES as error:
        log(f"{env.spec.name} {failure(error)[0]}; it {NOT_CLOSED}")


@contextlib.contextmanager
def closing(env: Environment, log: Callable[[str], None]) -> Iterator[None]:
    """Closes environments at its end, as `release` does."""
    try:
        yield
    finally:
        release(env, log)


class HostPhysics(Environment):
    """Environments whose physics is stepped on the host, between two halves that can be traced.

    The simulator's state is a pair: what the halves carry, and the physics' own, on the host and bit by bit.
    A collector traces `judge` together with the policy and `command`, so that a control step is one
    program and one call of the physics. Each array in or out of it costs time: what need not pass does not.
    """

    @abc.abstractmethod
    def command(self, carried: Any, action: Array) -> tuple[Any, Any]:
        """What the physics is told for an action [N, *shape]; traced.

        Returns:
            What is carried on, and arrays for `advance`.
        """

    @abc.abstractmethod
    def advance(self, env_state: Any, told: Any) -> tuple[Any, Any]:
        """Step the physics on the host: the pair, and arrays for `judge`."""

    @abc.abstractmethod
    def judge(self, carried: Any, sensed: Any) -> tuple[Any, Step]:
        """What came of it; traced."""

    def hand_over(self, physics: Any) -> Any:
        """The physics' state in arrays of its own, which later steps leave alone; as it is by default."""
        return physics

    def step(self, env_state: Any, action: Array) -> tuple[Any, Step]:
        """Step every environment, for those who do not trace the halves themselves."""
        carried, physics = env_state
        with jax.enable_x64(self.spec.needs_float64):
            carried, told = self.halves.command(carried, action)
            (carried, physics), sensed = self.advance((carried, physics), told)
            carried, step = self.halves.judge(carried, sensed)
        return (carried, self.hand_over(physics)), step

    @functools.cached_property
    def halves(self) -> Halves:
        """`command` and `judge` as programs."""
        return Halves(jax.jit(self.command), jax.jit(self.judge))


class Halves(NamedTuple):
    """What is traced of a control step, as programs of their own."""

    command: Callable[..., Any]
    judge: Callable[..., Any]


def logged_as(info: str) -> str | None:
    """The name under which a scalar of `Step.info` is logged as a mean over steps; none: it is not."""
    for prefix in (REWARD_TERM, MEASURE):
        if info.startswith(prefix):
            return prefix.replace("_", "/") + info.removeprefix(prefix)
    return None


def as_groups(observation: Any) -> dict[str, Any]:
    """An observation as named groups: an array alone becomes the group `observation`."""
    if isinstance(observation, Mapping):
        return dict(observation)
    return {"observation": observation}
