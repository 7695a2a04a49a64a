"""Playing a policy, and what it is worth: whole episodes, none favoured for being short."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from surefoot.agent import Policy
from surefoot.envs import Environment
from surefoot.envs.contract import SUCCESS, logged_as
from surefoot.errors import UserError
from surefoot.rollout import Collector, Rollout, make_collector, start

CHUNK_STEPS = 250  # steps of each environment between looks at which episodes have ended
MOST_LOST = 20  # episodes of each environment, before it is given up


class PlayedChunk(NamedTuple):
    """A chunk of play: a rollout of NumPy arrays, and which rows belong to counted episodes."""

    rollout: Rollout
    counted: np.ndarray


def play(
    policy: Policy,
    env: Environment,
    episodes: int,
    *,
    key: jax.Array,
    deterministic: bool = True,
    collect: Collector | None = None,
    max_episode_steps: int = 100_000,
) -> Iterator[PlayedChunk]:
    """Play until `episodes` episodes have ended, in chunks of `CHUNK_STEPS` steps.

    Every environment contributes its first few episodes, the same number each (one more for the
    first ones if it does not divide): taking the first to end would favour short ones. Who plays
    often hands in a `collect` (by `make_collector` on this `env`), which is compiled once.

    Raises:
        ValueError: an episode is longer than `max_episode_steps`.
    """
    num_envs = env.spec.num_envs
    quota = np.full(num_envs, episodes // num_envs)
    quota[: episodes % num_envs] += 1
    done = np.zeros(num_envs, int)
    if collect is None:
        collect = make_collector(env, num_steps=CHUNK_STEPS, deterministic=deterministic)
    reset_key, key = jax.random.split(key)
    state = start(env, policy.initial_carry(num_envs), reset_key)
    chunk = lost = 0
    while np.any(done < quota):
        state, rollout = collect(policy, state, jax.random.fold_in(key, chunk))
        rollout = jax.device_get(rollout)
        if rollout.episode_lengths.max() > max_episode_steps:
            raise UserError(
                f"{env.spec.name}: an episode has gone on for {rollout.episode_lengths.max():,} "
                f"steps (limit {max_episode_steps:,}); give the task a time limit to evaluate it"
            )
        lost += int((rollout.ended & ~rollout.valid).sum())
        if lost > MOST_LOST * num_envs and not done.any():
            raise UserError(
                f"{env.spec.name}: {lost} episodes were lost and none came to its end: the simulation breaks "
                "down under this policy"
            )
        ended = rollout.ended & rollout.valid
        before = done + np.cumsum(ended, axis=0) - ended
        yield PlayedChunk(rollout, rollout.valid & (before < quota))
        done = done + ended.sum(axis=0)
        chunk += 1


class EpisodeStatistics:
    """Adds up what `play` yields."""

    def __init__(self) -> None:
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self._truncated: list[bool] = []
        self._lost = 0
        self._successes: list[bool] = []
        self._means: dict[str, tuple[float, int]] = {}

    def add(self, played: PlayedChunk) -> None:
        """Account for one chunk."""
        rollout, counted = played
        ended = rollout.ended & counted
        self._returns += rollout.episode_returns[ended].tolist()
        self._lengths += rollout.episode_lengths[ended].tolist()
        self._lost += int((rollout.ended & ~rollout.valid).sum())
        self._truncated += (~rollout.terminated)[ended].tolist()
        for name, values in rollout.info.items():
            finite = np.isfinite(values)  # NaN: this step says nothing of it
            if name in SUCCESS:
                self._successes += (values[ended & finite] > 0).tolist()
            if mean := logged_as(name):
                total, steps = self._means.get(mean, (0.0, 0))
                total += float(np.sum(values, where=counted & finite, dtype=np.float64))
                self._means[mean] = total, steps + int((counted & finite).sum())

    def summary(self) -> dict[str, Any]:
        """Episode statistics (population standard deviation), reward terms and measures per step."""
        result: dict[str, Any] = {
            "episodes": len(self._returns),
            "episode_return_mean": float(np.mean(self._returns)),
            "episode_return_std": float(np.std(self._returns)),
            "episode_length_mean": float(np.mean(self._lengths)),
            "truncated_share": float(np.mean(self._truncated)),
        }
        if self._lost:
            result["lost_episodes"] = self._lost
        if self._successes:
            result["success_rate"] = float(np.mean(self._successes))
        return result | {name: total / n for name, (total, n) in self._means.items() if n}


def evaluate(
    policy: Policy,
    env: Environment,
    episodes: int,
    *,
    key: jax.Array,
    deterministic: bool = True,
    collect: Collector | None = None,
) -> dict[str, Any]:
    """Return, length, success and reward terms of a policy over whole episodes.

    Args:
        policy: what to play.
        env: where; its number of environments sets how many episodes run together.
        episodes: how many to count.
        key: random stream of resets (where the simulator takes one) and of sampling.
        deterministic: play the mode of the action distribution.
        collect: of one who plays often; see `play`.
    """
    tally = EpisodeStatistics()
    for played in play(
        policy, env, episodes, key=key, deterministic=deterministic, collect=collect
    ):
        tally.add(played)
    return tally.summary()
