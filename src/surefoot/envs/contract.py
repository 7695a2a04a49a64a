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
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from surefoot.errors import UserError
from surefoot.functional import Reflection

Array = jax.Array | np.ndarray

# scalars of `Step.info` that are logged: terms of a robot's reward, other numbers, and what is called success
REWARD_TERM, MEASURE = "reward_", "measure_"
SUCCESS = ("success", "is_success", "reward_success")
# of actions, as NumPy writes them
_DTYPES = tuple(str(np.dtype(code)) for code in "bBhHiIqQefd")


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


@dataclass(frozen=True)
class ActionSpec:
    """The actions an environment takes.

    Attributes:
        kind: `continuous` (Box), `discrete`, `multi_discrete` or `multi_binary`.
        sizes: continuous: (number of components,); discrete: (choices,); multi_discrete: choices per
            component; multi_binary: (number of bits,).
        low: lower bounds of a continuous action, flattened; -inf where unbounded.
        high: upper bounds, likewise.
        shape: the shape the environment wants for one action.
        dtype: the dtype the environment wants.
        start: the smallest discrete action; of multi_discrete ones, that of each component.
    """

    kind: Literal["continuous", "discrete", "multi_discrete", "multi_binary"]
    sizes: tuple[int, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    start: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        several = self.kind == "multi_discrete"
        if min(self.sizes, default=0) < 1 or (len(self.sizes) > 1 and not several):
            raise UserError(f"action spec: sizes {self.sizes} of {self.kind} actions")
        count = {"discrete": 1, "multi_discrete": len(self.sizes)}.get(self.kind, sum(self.sizes))
        if min(self.shape, default=1) < 1 or math.prod(self.shape) != count:
            raise UserError(f"action spec: shape {self.shape} does not hold {count} component(s)")
        bounds = count if self.kind == "continuous" else 0
        for name, values in (("low", self.low), ("high", self.high)):
            if len(values) != bounds:
                raise UserError(
                    f"action spec: {name} has {len(values)} bounds for {bounds} components"
                )
        for low, high in zip(self.low, self.high, strict=True):
            if not -math.inf <= low <= high <= math.inf or low == math.inf or high == -math.inf:
                raise UserError(f"action spec: low {low} and high {high} are no bounds")
        if isinstance(self.start, tuple) and not (several and len(self.start) == count):
            raise UserError(f"action spec: start {self.start} for {count} component(s)")
        starts = self.start if isinstance(self.start, tuple) else (self.start,) * len(self.sizes)
        if any(not -(2**31) <= x <= 2**31 - n for x, n in zip(starts, self.sizes, strict=True)):
            raise UserError(
                f"action spec: start {self.start} of sizes {self.sizes} exceeds 32 bits"
            )
        if self.dtype not in _DTYPES:
            raise UserError(f"action spec: dtype {self.dtype!r} is none of {', '.join(_DTYPES)}")

    @property
    def narrow(self) -> ActionSpec:
        """The same in 32 bits, as jitted programs write it; `widen` brings it to the environment's dtype."""
        kind = np.dtype(self.dtype).kind
        return dataclasses.replace(self, dtype="float32" if kind == "f" else "int32")

    def widen(self, action: Any) -> np.ndarray:
        """An action of `narrow` on the host, in the environment's dtype."""
        return np.asarray(action).astype(self.dtype, copy=False)

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
    """

    shape: tuple[int, ...]
    choices: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        count = math.prod(self.shape)
        if min(self.shape, default=0) < 0 or min(self.choices, default=1) < 1:
            raise UserError(f"observation spec: shape {self.shape}, choices {self.choices}")
        if self.choices and not len(self.choices) == len(self.starts) == count:
            raise UserError(
                f"observation spec: {self.choices} and {self.starts} for {count} integers"
            )

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
        return rows.astype(self.dtype)

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
    """Observation groups, where how many numbers a group has may stand for its spec."""
    return {
        name: ObservationSpec((spec,)) if isinstance(spec, int) else spec
        for name, spec in observations.items()
    }


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

    def close(self) -> None:
        """Release what the simulator holds. Does nothing by default."""
        return

    def log_to(self, log: Callable[[str], None]) -> None:
        """Where to say in words what goes wrong. Does nothing by default."""
        return


class _Closable(Protocol):
    def close(self) -> None: ...


def release(env: _Closable, name: str, log: Callable[[str], None]) -> None:
    """Close environments; an error of their own is said and not raised: what was earned with them is kept."""
    try:
        env.close()
    except (Exception, SystemExit) as error:  # some leave their window with sys.exit
        log(
            f"{name} could not be closed ({type(error).__name__}: {error}); nothing is lost by that"
        )


class HostPhysics(Environment):
    """Environments whose physics is stepped on the host, between two halves that can be traced.

    The simulator's state is a pair: what the halves carry, and the physics' own, on the host and bit by bit.
    A collector traces `judge` together with the policy and `command`, so that a control step is one
    program and one call of the physics.
    """

    @abc.abstractmethod
    def command(self, carried: Any, action: Array) -> tuple[Any, Any]:
        """What the physics is told for an action [N, *shape]; traced.

        Returns:
            What is carried on, and arrays for `advance`.
        """

    @abc.abstractmethod
    def advance(self, physics: Any, told: Any) -> tuple[Any, Any]:
        """Step the physics on the host: its state, and arrays for `judge`."""

    @abc.abstractmethod
    def judge(self, carried: Any, sensed: Any) -> tuple[Any, Step]:
        """What came of it; traced."""

    def hand_over(self, physics: Any) -> Any:
        """The physics' state in arrays of its own, which later steps leave alone; as it is by default."""
        return physics

    def step(self, env_state: Any, action: Array) -> tuple[Any, Step]:
        """Step every environment, for those who do not trace the halves themselves."""
        carried, physics = env_state
        command, judge = self._halves
        with jax.enable_x64(self.spec.needs_float64):
            carried, told = command(carried, action)
            physics, sensed = self.advance(physics, told)
            carried, step = judge(carried, sensed)
        return (carried, self.hand_over(physics)), step

    @functools.cached_property
    def _halves(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        return jax.jit(self.command), jax.jit(self.judge)


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
