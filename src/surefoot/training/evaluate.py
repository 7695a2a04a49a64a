"""Playing a policy, and what it is worth: whole episodes, none favoured for being short."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from surefoot.agent import Policy
from surefoot.config import MAX_EPISODE_STEPS
from surefoot.envs import Environment
from surefoot.envs.contract import SUCCESS, logged_as
from surefoot.errors import UserError
from surefoot.rollout import Collector, Rollout, make_collector, start

CHUNK_STEPS = 250  # steps of each environment between looks at which episodes have ended
MOST_LOST = 20  # episodes of an environment, one after the other, before it is given up
SAY_EVERY_S = 10.0


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
    max_episode_steps: int = MAX_EPISODE_STEPS,
    log: Callable[[str], None] = lambda text: None,
    progress: Callable[[int], None] = lambda ended: None,
) -> Iterator[PlayedChunk]:
    """Play until `episodes` episodes have ended, in chunks of `CHUNK_STEPS` steps.

    Every environment contributes its first few episodes, the same number each (one more for the
    first ones if it does not divide): taking the first to end would favour short ones. Who plays
    often hands in a `collect` (by `make_collector` on this `env`), which is compiled once. `log` hears if
    no episode ends for a while, `progress` after each chunk how many have.

    Raises:
        ValueError: an episode is longer than `max_episode_steps`, or an environment gives no sound one.
    """
    num_envs = env.spec.num_envs
    quota = np.full(num_envs, episodes // num_envs)
    quota[: episodes % num_envs] += 1
    done = np.zeros(num_envs, int)
    if collect is None:
        collect = make_collector(env, num_steps=CHUNK_STEPS, deterministic=deterministic)
    reset_key, key = jax.random.split(key)
    state = start(env, policy.initial_carry(num_envs), reset_key)
    running, lost = np.zeros(num_envs, int), np.zeros(num_envs, int)
    chunk, ended_then, said = 0, 0, time.monotonic()
    while np.any(done < quota):
        state, rollout = collect(policy, state, jax.random.fold_in(key, chunk))
        rollout = jax.device_get(rollout)
        ended = rollout.ended & rollout.valid
        before = done + np.cumsum(ended, axis=0) - ended
        counted = rollout.valid & (before < quota)
        done, chunk = done + ended.sum(axis=0), chunk + 1
        lost = _since(ended, rollout.ended & ~rollout.valid, lost)
        running = _since(rollout.ended, np.ones_like(ended), running)
        for i in np.flatnonzero(done < quota):
            if lost[i] > MOST_LOST:
                raise UserError(
                    f"{env.spec.name}, environment {i}: {lost[i]} episodes were lost and none came to its "
                    "end among them: the simulation breaks down under this policy, or its numbers are not "
                    "finite in any case (surefoot doctor)"
                )
        longest = max(
            rollout.episode_lengths.max(where=counted, initial=0),
            running.max(where=done < quota, initial=0),
        )
        if longest > max_episode_steps:
            raise UserError(
                f"{env.spec.name}: an episode has gone on for {longest:,} steps (limit "
                f"{max_episode_steps:,}); {_ADVICE}"
            )
        ended_now = int(np.minimum(done, quota).sum())
        progress(ended_now)
        if np.any(done < quota) and time.monotonic() - said >= SAY_EVERY_S:
            if ended_now == ended_then:
                text = f"{ended_now} of {episodes} episodes have ended"
                endless = f" after {running.max():,} steps; {_ADVICE}" if not ended_now else ""
                log(f"{env.spec.name}: {text}{endless}")
            said, ended_then = time.monotonic(), ended_now
        yield PlayedChunk(rollout, counted)


_ADVICE = (
    "to evaluate it, the task needs a time limit, such as --env-options max_episode_steps=1000 where it has "
    "that option or gymnasium.wrappers.TimeLimit, or longer episodes allowed (--max-episode-steps)"
)


def _since(marks: np.ndarray, counted: np.ndarray, before: np.ndarray) -> np.ndarray:
    """How often something came since the last mark.

    Args:
        marks: [T, N] bool.
        counted: [T, N] bool, what came.
        before: [N], how often it had come since the last mark before these rows.
    """
    behind = np.cumsum(marks[::-1], axis=0)[::-1] == 0
    return (counted & behind).sum(axis=0) + np.where(marks.any(axis=0), 0, before)


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
    max_episode_steps: int = MAX_EPISODE_STEPS,
    log: Callable[[str], None] = lambda text: None,
    progress: Callable[[int], None] = lambda ended: None,
) -> dict[str, Any]:
    """Return, length, success and reward terms of a policy over whole episodes.

    Args:
        policy: what to play.
        env: where; its number of environments sets how many episodes run together.
        episodes: how many to count.
        key: random stream of resets (where the simulator takes one) and of sampling.
        deterministic: play the mode of the action distribution.
        collect: of one who plays often; see `play`.
        max_episode_steps: an episode that goes on for longer is an error.
        log: hears if no episode ends for a while.
        progress: hears now and then how many have ended.
    """
    tally = EpisodeStatistics()
    for played in play(
        policy,
        env,
        episodes,
        key=key,
        deterministic=deterministic,
        collect=collect,
        max_episode_steps=max_episode_steps,
        log=log,
        progress=progress,
    ):
        tally.add(played)
    return tally.summary()
