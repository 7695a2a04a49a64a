"""The environment contract: what a simulator owes to the code above it.

Many environments are stepped together (leading axis N). Resets happen on the *next* step: the step
that ends an episode returns its true last observation; the step after it ignores its action, returns
the first observation of a new episode with reward 0, and is marked `valid = False`. So the value of
the next observation is exact at every truncation, and the mask says which rows are not experience.
An environment that failed during a step marks it `truncated` and not `valid`: the episode is lost.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from surefoot.errors import UserError

Array = jax.Array | np.ndarray

# scalars of `Step.info` that are logged: terms of a robot's reward, and what tasks call success
REWARD_TERM = "reward_"
SUCCESS = ("success", "is_success", "reward_success")


class Step(NamedTuple):
    """What the environments answer to one action each.

    `observation` is an array [N, ...] or a mapping from group names to such arrays. `reward` [N] is
    float32; `terminated`, `truncated`, `valid` [N] are bool. `info` holds named scalars per
    environment [N] worth logging, such as the terms of a robot's reward.
    """

    observation: Any
    reward: Any
    terminated: Any
    truncated: Any
    valid: Any
    info: Mapping[str, Any]


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
        continuous = self.kind == "continuous"
        count = {"discrete": 1, "multi_discrete": len(self.sizes)}.get(self.kind, self.sizes[0])
        for name, bounds in (("low", self.low), ("high", self.high)):
            if continuous and len(bounds) != count:
                raise UserError(
                    f"action spec: {name} has {len(bounds)} bounds for {count} components"
                )
        if math.prod(self.shape) != count:
            raise UserError(f"action spec: shape {self.shape} does not hold {count} component(s)")

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
class Encoding:
    """How a raw observation becomes the flat numbers of its group.

    Attributes:
        kind: `numbers` (flattened) or `codes` (each integer one-hot).
        shape: of one raw observation.
        sizes: codes: how many values each has.
        starts: codes: the smallest value of each.
    """

    kind: Literal["numbers", "codes"]
    shape: tuple[int, ...]
    sizes: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Numbers in the flat observation."""
        return sum(self.sizes) if self.kind == "codes" else math.prod(self.shape)

    def flatten(self, batch: Any, xp: Any = np) -> Any:
        """A batch of raw observations [N, *shape] as float32 [N, size].

        Args:
            batch: the observations.
            xp: numpy, or jax.numpy inside a jitted program.
        """
        rows = xp.asarray(batch).reshape(len(batch), -1)
        if self.kind == "numbers":
            return rows.astype(np.float32)
        columns = [
            (rows[:, i : i + 1] - start == np.arange(size)).astype(np.float32)
            for i, (size, start) in enumerate(zip(self.sizes, self.starts, strict=True))
        ]
        return xp.concatenate(columns, axis=1)


@dataclass(frozen=True)
class EnvSpec:
    """What the agent must know of an environment.

    Attributes:
        name: the task's name, for messages.
        num_envs: environments stepped together.
        observations: sizes of the flat observation groups, by name.
        action: the action spec.
        in_graph: whether `step` may be traced into a jitted program.
        info: names of the scalars that every `Step.info` holds; NaN where a step has none.
        encodings: how raw observations become the flat groups, where the simulator has raw ones.
        needs_float64: whether `step` must be traced with 64-bit types enabled.
        threads: threads the simulator steps with, where it has its own.
        exact_truncation: whether the true last observation arrives at a truncation.
        saves_state: whether the state that `reset` and `step` return, arrays and random keys, is all
            there is, so that a checkpoint holds it.
    """

    name: str
    num_envs: int
    observations: Mapping[str, int]
    action: ActionSpec
    in_graph: bool
    info: tuple[str, ...] = ()
    encodings: Mapping[str, Encoding] = field(default_factory=dict)
    needs_float64: bool = False
    threads: int | None = None
    exact_truncation: bool = True
    saves_state: bool = False


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

    def listen(self, tell: Callable[[str], None]) -> None:
        """Where to say in words what goes wrong. Does nothing by default."""
        return


def as_groups(observation: Any) -> dict[str, Any]:
    """An observation as named groups: an array alone becomes the group `observation`."""
    if isinstance(observation, Mapping):
        return dict(observation)
    return {"observation": observation}
