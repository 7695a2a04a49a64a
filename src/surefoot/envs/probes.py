"""Probe environments: tiny tasks whose values and best actions are known exactly.

A correct PPO solves each within seconds; the one that fails names the broken part. All are written in
JAX and have either two discrete actions or one continuous action in [-1, 1].
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from surefoot.envs.contract import ActionSpec
from surefoot.envs.jax_native import SingleEnvironment, SingleStep
from surefoot.errors import UserError, near_matches

_ACTIONS = {
    "discrete": ActionSpec("discrete", (2,), dtype="int32"),
    "continuous": ActionSpec("continuous", (1,), low=(-1.0,), high=(1.0,), shape=(1,)),
}


class _State(NamedTuple):
    time: jax.Array
    cue: jax.Array


@dataclass(frozen=True)
class Probe(SingleEnvironment):
    """One probe.

    Attributes:
        name: the name after `probe:`.
        length: steps in an episode.
        ends_by: which flags the last step sets.
        reward: which reward is paid (see `_reward`).
        cue: whether the observation is a random sign, drawn at each reset.
        cue_steps: first observations of an episode that show it, 0 behind them; None: all.
        observe_time: whether the observation is the time instead.
        actions: discrete or continuous.
        teaches: what a failure on this probe points to.
    """

    name: str = ""
    length: int = 1
    ends_by: Literal["terminated", "truncated", "both"] = "terminated"
    reward: Literal["one", "cue", "last", "action", "match", "match-last", "late"] = "one"
    cue: bool = False
    cue_steps: int | None = None
    observe_time: bool = False
    actions: Literal["discrete", "continuous"] = "discrete"
    teaches: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "observations", {"observation": 1})
        object.__setattr__(self, "action", _ACTIONS[self.actions])

    def reset(self, key: jax.Array) -> tuple[_State, jax.Array]:
        """Start an episode."""
        cue = jnp.where(jax.random.bernoulli(key), jnp.float32(1), jnp.float32(-1))
        state = _State(jnp.int32(0), cue)
        return state, self._observe(state)

    def step(self, state: _State, action: jax.Array, key: jax.Array) -> tuple[_State, SingleStep]:
        """One step of the probe."""
        del key
        after = _State(state.time + 1, state.cue)
        last = after.time >= self.length
        reward = self._reward(state, action, last)
        terminated = last & (self.ends_by in ("terminated", "both"))
        truncated = last & (self.ends_by in ("truncated", "both"))
        return after, SingleStep(self._observe(after), reward, terminated, truncated)

    def _observe(self, state: _State) -> jax.Array:
        if self.observe_time:
            return (state.time.astype(jnp.float32) / self.length)[None]
        if not self.cue:
            return jnp.ones(1, jnp.float32)
        shown = True if self.cue_steps is None else state.time < self.cue_steps
        return jnp.where(shown, state.cue, 0.0)[None]

    def _reward(self, state: _State, action: jax.Array, last: jax.Array) -> jax.Array:
        """one: 1 a step; cue: the cue; last: 1 on the last step; late: 100 on the last step;
        action: +1 for the upper half of the actions, -1 else; match: +1 if that sign is the cue's;
        match-last: the same on the last step alone.
        """
        upper = action == 1 if self.actions == "discrete" else action[0] > 0
        sign = jnp.where(upper, 1.0, -1.0)
        rewards: dict[str, Any] = {
            "one": jnp.float32(1),
            "cue": state.cue,
            "last": jnp.where(last, 1.0, 0.0),
            "late": jnp.where(last, 100.0, 0.0),
            "action": sign,
            "match": (matches := jnp.where(sign == state.cue, 1.0, -1.0)),
            "match-last": jnp.where(last, matches, 0.0),
        }
        return jnp.asarray(rewards[self.reward]).astype(jnp.float32)


PROBES: dict[str, Probe] = {
    probe.name: probe
    for probe in (
        Probe("constant", teaches="value loss and optimizer"),
        Probe("observation", reward="cue", cue=True, teaches="gradients through the critic"),
        Probe("delayed", length=2, reward="last", observe_time=True, teaches="discount, bootstrap"),
        Probe("action", reward="action", teaches="advantages and the policy loss"),
        Probe("both", reward="match", cue=True, teaches="batching of actions with observations"),
        Probe("truncated", length=5, ends_by="truncated", teaches="bootstrap at a time limit"),
        Probe(
            "both-flags",
            length=5,
            ends_by="both",
            observe_time=True,
            teaches="termination wins over truncation",
        ),
        Probe(
            "late-reward",
            length=5,
            reward="late",
            observe_time=True,
            teaches="the last reward is counted once",
        ),
        Probe(
            "t-maze",
            length=10,
            reward="match-last",
            cue=True,
            cue_steps=1,
            teaches="memory: without it nothing better than chance",
        ),
    )
}


def make_probe(name: str, *, actions: Literal["discrete", "continuous"] = "discrete") -> Probe:
    """A probe by name.

    Raises:
        ValueError: for an unknown name, with near matches.
    """
    if name not in PROBES:
        known = ", ".join(PROBES)
        raise UserError(f"unknown probe {name!r}{near_matches(name, PROBES)} (there are {known})")
    return dataclasses.replace(PROBES[name], actions=actions)
