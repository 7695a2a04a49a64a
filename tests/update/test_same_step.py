"""Simulators that reset within the step: what is bootstrapped at an episode's end, and what never is."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefoot.agent import Act, NormalizerSpec, make_normalizer
from surefoot.config import Config
from surefoot.envs import ActionSpec, Environment, EnvSpec, ObservationSpec, Step
from surefoot.networks import MLP, Critic, Linear, PolicyHead, Torso, TorsoSpec, make_actor
from surefoot.rollout import Rollout, make_collector, start
from surefoot.update import Estimates, Executors, Updater, make_experience
from surefoot.update.executors import Serial

NUM_ENVS, NUM_STEPS = 3, 16
GROUPS = {"observation": ObservationSpec((1,))}
BOX = ActionSpec("continuous", (1,), low=(-1.0,), high=(1.0,), shape=(1,))
CONFIG = Config(num_envs=NUM_ENVS, num_steps=NUM_STEPS, gamma=0.9, gae_lambda=0.8)
ENVS = np.arange(NUM_ENVS)
each_side = pytest.mark.parametrize("side", ["graph", "host"])


class Still(eqx.Module):
    """A policy that does nothing."""

    def act(self, observation: Any, carry: Any, first: Any, key: Any, **_: Any) -> tuple[Act, Any]:
        action = jnp.zeros((NUM_ENVS, 1), jnp.float32)
        return Act(action, action[:, 0], action), carry


class Place(NamedTuple):
    """Where an environment is: in which episode, at which step, and whether it waits for a reset."""

    episode: Any
    time: Any
    waits: Any


class Plan(Environment):
    """Plays the same episodes whatever is done, of two to four steps, every other one ended by a time limit.

    Args:
        side: where it is stepped.
        autoreset: as in the spec.
        final: whether it hands over last observations.
    """

    def __init__(self, side: str, autoreset: Any, *, final: bool = False) -> None:
        self.xp = jnp if side == "graph" else np
        self.spec = EnvSpec(
            "plan",
            NUM_ENVS,
            GROUPS,
            BOX,
            in_graph=side == "graph",
            info=("episode", "time"),
            autoreset=autoreset,
            final_observation=final,
        )

    def reset(self, key: jax.Array) -> tuple[Place, Step]:
        zero, no = self.xp.zeros(NUM_ENVS, "int32"), self.xp.zeros(NUM_ENVS, bool)
        place = Place(zero, zero, no)
        return place, Step(self.seen(zero, zero), zero.astype("float32"), no, no, no, {})

    def step(self, env_state: Place, action: Any) -> tuple[Place, Step]:
        xp, (episode, before, waits) = self.xp, env_state
        time = before + 1
        ended = (time == 2 + (episode + ENVS) % 3) & ~waits
        by_limit = (episode + ENVS) % 2 == 0
        reward = xp.where(waits, 0, 1 + before + ENVS).astype("float32")
        info = {"episode": episode.astype("float32"), "time": before.astype("float32")}
        flags = (ended & ~by_limit, ended & by_limit, ~waits)
        last = self.seen(episode, time)
        begins = ended if self.spec.autoreset == "same_step" else waits
        episode, time = episode + begins, xp.where(begins, 0, time)
        final = last if self.spec.final_observation else None
        step = Step(self.seen(episode, time), reward, *flags, info, final)
        waits = ended if self.spec.autoreset == "next_step" else waits
        return Place(episode, time, waits), step

    def seen(self, episode: Any, time: Any) -> Any:
        """Of every episode, time and environment another number."""
        return (16.0 * episode + 2.0 * time + 0.25 * ENVS).astype("float32")[:, None]


@functools.cache
def rollout_of(side: str, autoreset: str, final: bool = False) -> Rollout:
    env = Plan(side, autoreset, final=final)
    state = start(env, (), jax.random.key(0))
    return make_collector(env, num_steps=NUM_STEPS)(Still(), state, jax.random.key(1))[1]


@functools.cache
def updater(exact: bool) -> Updater:
    return Updater(CONFIG, Executors(Serial(), Serial()), exact=exact)


@functools.cache
def learners() -> Any:
    """Of a critic that values an observation x at 0.375 x + 0.25."""
    torso = Torso(MLP((), "tanh"), None, ("observation",))
    critic = Critic(torso, Linear(jnp.float32([[0.375]]), jnp.float32([0.25])))
    actor = make_actor(
        jax.random.key(0),
        TorsoSpec(("observation",), 1, (), "tanh"),
        PolicyHead("gaussian", (1,)),
        orthogonal=True,
        output_scale=1.0,
        initial_std=1.0,
    )
    return updater(True).init(actor, critic)


def value(x: Any) -> np.ndarray:
    return 0.375 * np.asarray(x) + 0.25


def estimates(rollout: Rollout, *, exact: bool) -> Estimates:
    normalizer = make_normalizer(GROUPS, NormalizerSpec(False, 10.0))
    experience = make_experience(rollout, rollout.rewards, normalizer)
    done, onward = updater(exact).estimate_advantages(learners(), (), experience)
    assert onward == ()
    return jax.tree.map(np.asarray, done.estimates)


def whole_episodes(rollout: Rollout, numbers: np.ndarray) -> dict[tuple[int, ...], bytes]:
    """The numbers of the episodes that the rollout holds to their end, by environment, episode, time."""
    found = {}
    info = {name: np.asarray(x).astype(int) for name, x in rollout.info.items()}
    for t, n in np.argwhere(rollout.valid):
        if np.asarray(rollout.ended)[t:, n].any():
            found[n, info["episode"][t, n], info["time"][t, n]] = numbers[t, n].tobytes()
    return found


def poisoned(rollout: Rollout) -> Rollout:
    """The rollout with the first observations of all episodes but the earliest spoilt."""
    first = rollout.first.at[0].set(False)[..., None]
    seen = {name: jnp.where(first, 1e9, x) for name, x in rollout.observations.items()}
    assert 6 < first.sum() < 24
    return rollout._replace(observations=seen)


@each_side
def test_with_its_last_observations_a_same_step_simulator_gives_the_advantages_of_a_next_step_one(
    side: str,
) -> None:
    ours, theirs = rollout_of(side, "same_step", final=True), rollout_of(side, "next_step")
    assert ours.valid.all()
    assert not theirs.valid.all()
    assert (ours.truncated.sum() > 3) & (ours.terminated.sum() > 3)
    found, expected = estimates(ours, exact=True), estimates(theirs, exact=True)
    for name in Estimates._fields:
        same = whole_episodes(ours, getattr(found, name))
        right = whole_episodes(theirs, getattr(expected, name))
        assert len(same) > len(right) > 30  # the next-step one has to spend rows on resets
        assert {place: same[place] for place in right} == right, name


@pytest.mark.parametrize("final", [True, False])
def test_the_next_episodes_first_observation_changes_nothing_of_the_one_before(
    final: bool,
) -> None:
    rollout = rollout_of("graph", "same_step", final)
    clean = estimates(rollout, exact=final)
    spoilt = estimates(poisoned(rollout), exact=final)
    own = np.asarray(rollout.first[:-1]).copy()  # its own value is of it
    own[0] = False
    for name in Estimates._fields:
        ours, theirs = getattr(clean, name), getattr(spoilt, name)
        np.testing.assert_array_equal(ours[~own], theirs[~own])
    assert (np.abs(spoilt.advantages[own]) > 1e8).all()


@pytest.mark.parametrize("final", [True, False])
def test_an_observation_behind_an_end_in_the_last_row_changes_nothing_at_all(final: bool) -> None:
    rollout = rollout_of("graph", "same_step", final)
    ends = np.asarray(rollout.ended[-1])
    assert ends.any()
    assert not ends.all()
    seen = rollout.observations["observation"]
    spoilt = rollout._replace(
        observations={"observation": seen.at[-1].set(jnp.where(ends[:, None], 1e9, seen[-1]))}
    )
    for ours, theirs in zip(
        estimates(rollout, exact=final), estimates(spoilt, exact=final), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def at_limits(rollout: Rollout, found: Estimates) -> np.ndarray:
    """What the last step of an episode that a time limit ends was taken to lead to, times gamma."""
    limits = np.asarray(rollout.truncated)
    led_to = found.advantages - np.asarray(rollout.rewards) + found.values
    return led_to[limits]


def test_at_a_time_limit_the_value_of_the_last_observation_is_bootstrapped() -> None:
    rollout = rollout_of("graph", "same_step", final=True)
    limits = np.asarray(rollout.truncated)
    info = {name: np.asarray(x) for name, x in rollout.info.items()}
    environments = np.broadcast_to(ENVS, limits.shape)
    last = 16 * info["episode"] + 2 * (info["time"] + 1) + 0.25 * environments
    expected = 0.9 * value(last[limits])
    np.testing.assert_allclose(
        at_limits(rollout, estimates(rollout, exact=True)), expected, rtol=1e-4
    )


def test_where_the_last_observation_is_lost_the_value_of_the_one_before_is_bootstrapped() -> None:
    rollout = rollout_of("graph", "same_step")
    limits = np.asarray(rollout.truncated)
    acted_on = np.asarray(rollout.observations["observation"])[:-1, :, 0]
    expected = 0.9 * value(acted_on[limits])
    found = estimates(rollout, exact=False)
    np.testing.assert_allclose(at_limits(rollout, found), expected, rtol=1e-4)
    # the rest of the batch is as with the last observations
    with_final = estimates(rollout_of("graph", "same_step", final=True), exact=True)
    np.testing.assert_array_equal(found.values, with_final.values)
    ended = np.asarray(rollout.ended)
    np.testing.assert_array_equal(
        found.advantages[ended & ~limits], with_final.advantages[ended & ~limits]
    )


@pytest.mark.parametrize("final", [True, False])
def test_nothing_is_bootstrapped_where_a_same_step_episode_terminates(final: bool) -> None:
    rollout = rollout_of("graph", "same_step", final)
    terminated = np.asarray(rollout.terminated)
    assert terminated.sum() > 3
    found = estimates(poisoned(rollout), exact=final)
    baseline = value(poisoned(rollout).observations["observation"][:-1, :, 0])
    expected = np.asarray(rollout.rewards) - baseline
    np.testing.assert_allclose(found.advantages[terminated], expected[terminated], rtol=1e-5)


def test_last_observations_are_seen_through_the_normalizer_of_all_others() -> None:
    rollout = rollout_of("graph", "same_step", final=True)
    spec = NormalizerSpec(True, 10.0)
    before = {"observation": rollout.observations["observation"][:-1]}
    normalizer = make_normalizer(GROUPS, spec).update(before, rollout.valid)
    experience = make_experience(rollout, rollout.rewards, normalizer)
    moments = normalizer.moments["observation"]
    for ours, raw in (
        (experience.final_observations, rollout.final_observations),
        (experience.observations, rollout.observations),
    ):
        expected = (raw["observation"] - moments.mean) / np.sqrt(moments.variance)
        np.testing.assert_allclose(ours["observation"], expected, rtol=1e-4, atol=1e-5)
    without = make_experience(rollout_of("graph", "same_step"), rollout.rewards, normalizer)
    assert without.final_observations is None
