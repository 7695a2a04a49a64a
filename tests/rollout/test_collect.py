"""Collecting: what a rollout holds, from inside the graph and from the host."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Any, NamedTuple

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from tests.helpers import extended, few

from surefoot.agent import (
    LoadedPolicy,
    Normalizer,
    NormalizerSpec,
    Policy,
    make_normalizer,
    make_policy,
)
from surefoot.envs import (
    ActionSpec,
    Environment,
    EnvSpec,
    JaxEnvironment,
    SingleEnvironment,
    SingleStep,
    Step,
    make_environment,
)
from surefoot.envs.envpool import EnvPoolEnvironment
from surefoot.envs.gymnasium import GymnasiumEnvironment
from surefoot.functional import ColoredNoise, HeldNoise, colored_noise
from surefoot.networks import PolicyHead, TorsoSpec, make_actor
from surefoot.rollout import CollectorState, Rollout, make_collector, start

NUM_ENVS, LENGTH = 3, 5
BOX = ActionSpec("continuous", (2,), low=(-2.0, 0.0), high=(2.0, 1.0), shape=(2,))
SPECS = {
    "gaussian": BOX,
    "squashed_gaussian": BOX,
    "beta": BOX,
    "binned": BOX,
    "discrete": ActionSpec("discrete", (3,), dtype="int32", start=4),
    "multi_discrete": ActionSpec("multi_discrete", (2, 3), shape=(2,), dtype="int32"),
    "multi_binary": ActionSpec("multi_binary", (3,), shape=(3,), dtype="int8"),
}
WIDTHS = {"discrete": 1, "multi_binary": 3}


class Mirrored(NamedTuple):
    seen: jax.Array
    place: jax.Array
    time: jax.Array


class Mirror(SingleEnvironment):
    """Shows the action it got, a random place and the time; pays the sum of its action."""

    name = "mirror"
    info = ("reward_sum",)

    def __init__(self, action: ActionSpec, width: int, *, terminates: bool = False) -> None:
        self.action, self.width, self.terminates = action, width, terminates
        self.observations = {"seen": width, "place": 2, "time": 1}

    def reset(self, key: jax.Array) -> tuple[Mirrored, Any]:
        place = 3.0 + jax.random.normal(key, (2,))
        state = Mirrored(jnp.zeros(self.width, jnp.float32), place, jnp.int32(0))
        return state, self.observe(state)

    def step(self, state: Mirrored, action: jax.Array, key: jax.Array) -> Any:
        seen = action.reshape(-1).astype(jnp.float32)
        place = state.place + 0.1 * jax.random.normal(key, (2,))
        state = Mirrored(seen, place, state.time + 1)
        last = state.time == LENGTH
        ends = (last & self.terminates, last & (not self.terminates))
        info = {"reward_sum": seen.sum()}
        return state, SingleStep(self.observe(state), seen.sum(), *ends, info)

    def observe(self, state: Mirrored) -> dict[str, jax.Array]:
        time = state.time.astype(jnp.float32)[None]
        return {"seen": state.seen, "place": state.place, "time": time}


class OnHost(Environment):
    """A JAX environment that pretends to be stepped from the host."""

    def __init__(self, inner: JaxEnvironment) -> None:
        self.inner = inner
        self.spec = dataclasses.replace(inner.spec, in_graph=False)
        self.compiled = jax.jit(inner.step)

    def reset(self, key: jax.Array) -> tuple[Any, Step]:
        return self.inner.reset(key)

    def step(self, env_state: Any, action: Any) -> tuple[Any, Step]:
        assert isinstance(action, np.ndarray)
        assert action.dtype == self.spec.action.dtype
        env_state, step = self.compiled(env_state, action)
        return env_state, jax.tree.map(np.asarray, step)


def mirror(kind: str, *, side: str = "graph", terminates: bool = False) -> Environment:
    single = Mirror(SPECS[kind], WIDTHS.get(kind, 2), terminates=terminates)
    env = JaxEnvironment(single, NUM_ENVS)
    return env if side == "graph" else OnHost(env)


learn = eqx.filter_jit(Normalizer.update)


def policy_for(env: EnvSpec, kind: str, *, std: float = 5.0, scale: float = 0.5) -> Policy:
    width = sum(group.size for group in env.observations.values())
    torso = TorsoSpec(tuple(env.observations), width, (8,), "tanh")
    actor = make_actor(
        jax.random.key(3),
        torso,
        PolicyHead(kind, env.action.sizes, bins=9 if kind == "binned" else None),
        orthogonal=True,
        output_scale=scale,
        initial_std=std,
    )
    random = np.random.default_rng(4)
    seen = {
        name: (1 + 2 * random.standard_normal((50, *group.shape))).astype(np.float32)
        for name, group in env.observations.items()
    }
    normalizer = make_normalizer(env.observations, NormalizerSpec(True, 10.0))
    normalizer = learn(normalizer, seen, np.ones(50, np.float32))
    return make_policy(actor, normalizer, torso, env.action)


def begin(env: Environment, policy: Policy) -> CollectorState:
    return start(env, policy.initial_carry(env.spec.num_envs), jax.random.key(1))


def collect(
    env: Environment, policy: Policy, num_steps: int, *, deterministic: bool = False
) -> tuple[CollectorState, Rollout]:
    collector = make_collector(env, num_steps=num_steps, deterministic=deterministic)
    return to_numpy(collector(policy, begin(env, policy), jax.random.key(2)))


def to_numpy(tree: Any) -> Any:
    def one(x: Any) -> Any:
        typed = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if typed else x)

    return jax.tree.map(one, tree)


@functools.cache
def rollout_of(kind: str, side: str) -> tuple[Policy, Rollout]:
    env = mirror(kind, side=side)
    policy = policy_for(env.spec, kind)
    return policy, collect(env, policy, 13)[1]


@eqx.filter_jit
def replayed(policy: Policy, rollout: Rollout) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Log-probabilities and canonical actions of the stored raw actions, and the policy's modes."""
    before = {name: x[:-1] for name, x in rollout.observations.items()}
    inputs = policy.normalizer(before)
    distribution = policy.actor.unroll(inputs, rollout.carry, rollout.first[:-1])
    raw = jnp.asarray(rollout.raw_actions)
    return distribution.log_prob(raw), distribution.to_action(raw), distribution.mode()


def log_probs_again(policy: Policy, rollout: Rollout) -> np.ndarray:
    return np.asarray(replayed(policy, rollout)[0])


core_kinds = pytest.mark.parametrize(
    "kind", [kind if kind in ("gaussian", "discrete") else extended(kind) for kind in SPECS]
)
each_side = pytest.mark.parametrize("side", ["graph", extended("host")])


def assert_same_rollout(graph: Rollout, host: Rollout) -> None:
    """The same bytes, but for log-probabilities, where two programs may round differently."""
    for name in Rollout._fields:
        ours, theirs = getattr(graph, name), getattr(host, name)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert a.dtype == b.dtype, name
            if name == "log_probs":
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-5)
            else:
                assert a.shape == b.shape, name
                assert a.tobytes() == b.tobytes(), name


@core_kinds
def test_graph_and_host_give_the_same_rollout(kind: str) -> None:
    assert_same_rollout(rollout_of(kind, "graph")[1], rollout_of(kind, "host")[1])


@each_side
def test_equal_keys_give_the_same_bytes_and_other_keys_other_actions(side: str) -> None:
    env = mirror("gaussian", side=side)
    policy = policy_for(env.spec, "gaussian")
    collector = make_collector(env, num_steps=13)
    state = begin(env, policy)
    first, again, other = (
        to_numpy(collector(policy, state, jax.random.key(k))[1]) for k in (2, 2, 3)
    )
    _, cached = rollout_of("gaussian", side)
    for a, b, c in zip(*map(jax.tree.leaves, (first, again, cached)), strict=True):
        assert a.tobytes() == b.tobytes() == c.tobytes()
    assert not np.isclose(first.raw_actions, other.raw_actions).any()


@each_side
def test_every_step_and_every_environment_draws_its_own_action(side: str) -> None:
    _, rollout = rollout_of("gaussian", side)
    assert len(np.unique(rollout.raw_actions)) == rollout.raw_actions.size


@pytest.mark.extended
@each_side
@pytest.mark.parametrize("kind", ["gaussian", "squashed_gaussian"])
def test_colored_noise_goes_on_from_rollout_to_rollout(kind: str, side: str) -> None:
    env = mirror(kind, side=side)
    policy = policy_for(env.spec, kind)
    noise = ColoredNoise(1.0, 2)
    state = start(env, (), jax.random.key(1), noise=noise)
    collector = make_collector(env, num_steps=13, noise=noise)
    between, one = collector(policy, state, jax.random.key(2))
    assert between.noise.shape == (10, NUM_ENVS, 2)
    after, other = collector(policy, between, jax.random.key(3))
    drawn = []
    for rollout in map(to_numpy, (one, other)):
        log_probs, _, modes = replayed(policy, rollout)
        np.testing.assert_allclose(log_probs, rollout.log_probs, atol=1e-4)  # of each step alone
        drawn.append((rollout.raw_actions - np.asarray(modes)) / 5.0)
    z = np.concatenate(drawn)
    now = state.noise
    for row, key in enumerate(
        [*jax.random.split(jax.random.key(2), 13), *jax.random.split(jax.random.key(3), 13)]
    ):
        now, expected = colored_noise(now, key, color=1.0)
        np.testing.assert_allclose(z[row], expected, atol=1e-4)
    np.testing.assert_allclose(after.noise, now, atol=1e-5)


@pytest.mark.extended
@each_side
def test_noise_of_features_is_held_across_rollouts(side: str) -> None:
    env = mirror("gaussian", side=side)
    plain = policy_for(env.spec, "gaussian")
    head = PolicyHead("gaussian", env.spec.action.sizes, gsde=True)
    log_std = jnp.zeros(head.std_shape(8))
    actor = dataclasses.replace(plain.actor, head=head, log_std=log_std)
    policy = make_policy(actor, plain.normalizer, plain.torso, plain.action)
    noise = HeldNoise(20, (9, 2))
    state = start(env, (), jax.random.key(1), noise=noise)
    collector = make_collector(env, num_steps=3, noise=noise)
    between, one = to_numpy(collector(policy, state, jax.random.key(2)))
    after, other = to_numpy(collector(policy, between, jax.random.key(3)))
    for rollout in (one, other):
        np.testing.assert_allclose(log_probs_again(policy, rollout), rollout.log_probs, atol=1e-4)
    went_on = between.noise.age + 3 == after.noise.age
    assert went_on.any()
    held = (between.noise.noise == after.noise.noise).all(axis=(1, 2))
    np.testing.assert_array_equal(held, went_on)


@each_side
@core_kinds
def test_the_stored_log_probs_are_those_of_the_stored_raw_actions(kind: str, side: str) -> None:
    policy, rollout = rollout_of(kind, side)
    ratio = np.exp(log_probs_again(policy, rollout) - rollout.log_probs)
    np.testing.assert_allclose(ratio, 1, atol=1e-5)
    assert np.ptp(rollout.log_probs) > 0.05


def test_the_log_probs_are_those_behind_the_normalizer() -> None:
    policy, rollout = rollout_of("gaussian", "graph")
    raw = make_normalizer(dict(policy.normalizer.groups), NormalizerSpec(False, 10.0))
    off = make_policy(policy.actor, raw, policy.torso, policy.action)
    ratio = np.exp(log_probs_again(off, rollout) - rollout.log_probs)
    assert np.abs(ratio - 1).max() > 0.01


@each_side
@core_kinds
def test_the_next_observation_is_what_the_stored_action_led_to(kind: str, side: str) -> None:
    policy, rollout = rollout_of(kind, side)
    action = replayed(policy, rollout)[1]
    sent = np.asarray(SPECS[kind].to_env(action), np.float32).reshape(13, NUM_ENVS, -1)
    seen, time = rollout.observations["seen"], rollout.observations["time"][..., 0]
    valid = rollout.valid
    np.testing.assert_allclose(seen[1:][valid], sent[valid], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(seen[1:][~valid], 0)
    np.testing.assert_array_equal(time[1:][valid], time[:-1][valid] + 1)
    np.testing.assert_array_equal(time[1:][~valid], 0)
    np.testing.assert_allclose(
        rollout.rewards, np.where(valid, sent.sum(-1), 0), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(rollout.info["reward_sum"], rollout.rewards)


@each_side
def test_the_stored_action_is_the_unclipped_one_and_the_environment_got_the_clipped_one(
    side: str,
) -> None:
    _, rollout = rollout_of("gaussian", side)
    seen = rollout.observations["seen"][1:][rollout.valid]
    raw = rollout.raw_actions[rollout.valid]
    assert (np.abs(raw) > 1).mean() > 0.5
    assert np.abs(raw).max() > 5
    np.testing.assert_array_equal(seen[raw > 1], np.broadcast_to([2, 1], raw.shape)[raw > 1])
    np.testing.assert_array_equal(seen[raw < -1], np.broadcast_to([-2, 0], raw.shape)[raw < -1])


@each_side
def test_rollouts_have_one_observation_more_than_steps_and_typed_fields(side: str) -> None:
    _, rollout = rollout_of("gaussian", side)
    assert {n: x.shape for n, x in rollout.observations.items()} == {
        "seen": (14, NUM_ENVS, 2),
        "place": (14, NUM_ENVS, 2),
        "time": (14, NUM_ENVS, 1),
    }
    for name, kind in {
        "log_probs": np.float32,
        "rewards": np.float32,
        "episode_returns": np.float32,
        "episode_lengths": np.int32,
        "terminated": bool,
        "truncated": bool,
        "valid": bool,
    }.items():
        field = getattr(rollout, name)
        assert field.shape == (13, NUM_ENVS), name
        assert field.dtype == kind, name
    np.testing.assert_array_equal(rollout.ended, rollout.terminated | rollout.truncated)


def test_observations_are_stored_raw() -> None:
    _, rollout = rollout_of("gaussian", "graph")
    assert set(np.unique(rollout.observations["time"])) == {0, 1, 2, 3, 4, 5}
    assert 2 < rollout.observations["place"].mean() < 4


@each_side
@pytest.mark.parametrize("terminates", [True, extended(False)])
def test_episode_returns_and_lengths_equal_a_hand_count_across_rollouts(
    side: str, terminates: bool
) -> None:
    env = mirror("gaussian", side=side, terminates=terminates)
    policy = policy_for(env.spec, "gaussian")
    collector = make_collector(env, num_steps=7)
    state = begin(env, policy)
    rollouts = []
    for key in jax.random.split(jax.random.key(2), 4):
        state, rollout = collector(policy, state, key)
        rollouts.append(to_numpy(rollout))
    total, length = np.zeros(NUM_ENVS), np.zeros(NUM_ENVS, int)
    finished = 0
    for rollout in rollouts:
        for t in range(7):
            total = total + rollout.rewards[t] * rollout.valid[t]
            length = length + rollout.valid[t]
            np.testing.assert_allclose(rollout.episode_returns[t], total, rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(rollout.episode_lengths[t], length)
            ended = rollout.terminated[t] | rollout.truncated[t]
            assert (rollout.episode_lengths[t][ended] == LENGTH).all()
            finished += ended.sum()
            total, length = np.where(ended, 0, total), np.where(ended, 0, length)
        assert rollout.episode_lengths.max() <= LENGTH
        assert rollout.ended.any()
        flags = rollout.terminated if terminates else rollout.truncated
        np.testing.assert_array_equal(flags, rollout.ended)
    assert finished == 4 * NUM_ENVS  # 28 rows, an episode and its reset take 6
    np.testing.assert_array_equal(np.asarray(state.episodes.lengths), length)


@each_side
def test_one_rollout_goes_on_where_the_last_one_stopped(side: str) -> None:
    env = mirror("gaussian", side=side)
    policy = policy_for(env.spec, "gaussian")
    collector = make_collector(env, num_steps=4)
    state = begin(env, policy)
    state, first = collector(policy, state, jax.random.key(2))
    _, second = collector(policy, state, jax.random.key(3))
    for name, x in first.observations.items():
        last = np.asarray(x[-1])
        assert last.tobytes() == np.asarray(state.observation[name]).tobytes()
        assert last.tobytes() == np.asarray(second.observations[name][0]).tobytes()


@each_side
def test_two_short_rollouts_equal_a_long_one_where_no_action_is_drawn(side: str) -> None:
    env = mirror("gaussian", side=side)
    policy = policy_for(env.spec, "gaussian")
    _, whole = collect(env, policy, 14, deterministic=True)
    collector = make_collector(env, num_steps=7, deterministic=True)
    state = begin(env, policy)
    halves = []
    for key in jax.random.split(jax.random.key(9)):
        state, half = collector(policy, state, key)
        halves.append(to_numpy(half))
    for name in ("raw_actions", "rewards", "valid", "truncated", "episode_returns"):
        joined = np.concatenate([getattr(half, name) for half in halves])
        np.testing.assert_allclose(getattr(whole, name), joined, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "side"),
    [("gaussian", "host"), ("discrete", "graph"), *(extended(kind, "graph") for kind in SPECS)],
)
def test_the_deterministic_policy_plays_the_mode(kind: str, side: str) -> None:
    env = mirror(kind, side=side)
    policy = policy_for(env.spec, kind)
    _, rollout = collect(env, policy, 3, deterministic=True)
    mode = replayed(policy, rollout)[2]
    np.testing.assert_allclose(rollout.raw_actions, mode, rtol=1e-5, atol=1e-5)


@each_side
def test_collecting_changes_neither_policy_nor_normalizer(side: str) -> None:
    env = mirror("gaussian", side=side)
    policy = policy_for(env.spec, "gaussian")
    before = [np.asarray(x).tobytes() for x in jax.tree.leaves(policy)]
    collect(env, policy, 7)
    assert [np.asarray(x).tobytes() for x in jax.tree.leaves(policy)] == before


@pytest.mark.extended
@pytest.mark.parametrize(("task", "kind"), [("CartPole-v1", "discrete"), ("Hopper-v5", "gaussian")])
def test_a_pool_gives_the_same_rollout_from_the_graph_and_from_the_host(
    task: str, kind: str
) -> None:
    rollouts = []
    for in_graph in (True, False):
        env = EnvPoolEnvironment(task, 2, seeds=[5, 6], in_graph=in_graph)
        policy = policy_for(env.spec, kind, std=0.5, scale=0.01)
        rollouts.append(collect(env, policy, 30)[1])
    graph, host = rollouts
    assert graph.ended.any()
    assert_same_rollout(graph, host)
    assert graph.log_probs.dtype == graph.rewards.dtype == np.float32
    ratio = np.exp(log_probs_again(policy, graph) - graph.log_probs)
    np.testing.assert_allclose(ratio, 1, atol=1e-5)


def test_a_gymnasium_task_is_collected_from_the_host() -> None:
    seed = np.random.SeedSequence(0)
    options = {"max_episode_steps": 6}
    env = make_environment("gymnasium:Pendulum-v1", 2, seed=seed, options=options)
    policy = policy_for(env.spec, "gaussian")
    _, rollout = collect(env, policy, 15)
    np.testing.assert_array_equal(np.flatnonzero(rollout.truncated[:, 0]), [5, 12])
    np.testing.assert_array_equal(np.flatnonzero(~rollout.valid[:, 0]), [6, 13])
    assert rollout.episode_lengths.max() == 6
    ratio = np.exp(log_probs_again(policy, rollout) - rollout.log_probs)
    np.testing.assert_allclose(ratio, 1, atol=1e-5)


SENT = {
    "continuous": [
        spaces.Box(-2, 3, (2,)),
        spaces.Box(-3.4028234663852886e38, 3.4028234663852886e38, (2,)),
        spaces.Box(0, 2**40, (2,), np.int64),
        spaces.Box(-128, 127, (2,), np.int8),
        spaces.Box(1e9, 1e9 + 1, (2,), np.float64),
    ],
    "discrete": [spaces.Discrete(3), spaces.Discrete(3, start=2**40)],
    "multi_discrete": [spaces.MultiDiscrete([2, 3], start=[2**40, -1])],
    "multi_binary": [spaces.MultiBinary(3)],
}


@pytest.mark.parametrize(
    ("kind", "space"),
    few(3, [(kind, space) for kind, spaces in SENT.items() for space in spaces]),
    ids=str,
)
def test_an_environment_gets_while_collecting_what_a_loaded_policy_gives(
    kind: str, space: Any
) -> None:
    class Keeps(gymnasium.Env):
        observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        action_space = space
        got: list[Any] = []

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return self.np_random.normal(size=1).astype(np.float32), {}

        def step(self, action: Any) -> Any:
            self.got.append(np.asarray(action))
            return self.np_random.normal(size=1).astype(np.float32), 0.0, False, False, {}

    env = GymnasiumEnvironment(Keeps, 1, seeds=[3], name="keeps")
    policy = policy_for(env.spec, "gaussian" if kind == "continuous" else kind)
    state = begin(env, policy)
    Keeps.got.clear()
    _, rollout = make_collector(env, num_steps=5, deterministic=True)(
        policy, state, jax.random.key(0)
    )
    loaded = LoadedPolicy(policy, "keeps")
    seen = np.asarray(rollout.observations["observation"])[:5]
    given = np.concatenate([loaded(row) for row in seen])
    # two programs: the networks may round otherwise
    fine = 1e-5 if kind == "continuous" else 0
    np.testing.assert_allclose(given, np.stack(Keeps.got).reshape(given.shape), rtol=fine)
    assert given.dtype == space.dtype
    assert all(space.contains(row if row.ndim else row.item()) for row in given)


def time_limits_met(task: str, stagger_steps: int, limit: int = 200) -> tuple[list[int], Rollout]:
    """The step at which each environment meets its first time limit."""
    seed = np.random.SeedSequence(3)
    with contextlib.closing(make_environment(task, 8, seed=seed)) as env:
        policy = policy_for(env.spec, "gaussian")
        state = start(env, policy.initial_carry(8), jax.random.key(1), stagger_steps=stagger_steps)
        collector = make_collector(env, num_steps=limit + 1)
        rollout = to_numpy(collector(policy, state, jax.random.key(2))[1])
    assert rollout.truncated.any(axis=0).all()
    return rollout.truncated.argmax(axis=0).tolist(), rollout


PENDULUMS = ["Pendulum-v1", "gymnasium:Pendulum-v1", "gymnax:Pendulum-v1"]


@pytest.mark.parametrize("task", PENDULUMS)
def test_episodes_that_are_staggered_do_not_end_together(task: str) -> None:
    """A number of steps below 150 lies behind each, the same on every simulator."""
    together, _ = time_limits_met(task, 0)
    assert set(together) == {199}
    staggered, rollout = time_limits_met(task, 150)
    ages = [199 - last for last in staggered]
    assert min(ages) >= 0
    assert max(ages) < 150
    assert len(set(ages)) > 4
    assert ages == [199 - last for last in time_limits_met(PENDULUMS[0], 150)[0]]
    # what is shown first is where the first action begins: the next observation follows from both
    cos, sin, speed = np.moveaxis(rollout.observations["observation"], -1, 0)
    turned = np.angle((cos[1] + 1j * sin[1]) / (cos[0] + 1j * sin[0]))
    np.testing.assert_allclose(turned, 0.05 * speed[1], atol=1e-4)


@pytest.mark.parametrize("task", [*PENDULUMS[:2], "mirror"])
def test_what_ends_while_it_is_staggered_begins_anew_before_experience_is_collected(
    task: str,
) -> None:
    """Some end with their last random action, of episodes that short: what follows is no experience."""
    seed, count = np.random.SeedSequence(3), 32
    options = {"max_episode_steps": LENGTH}
    if task == "mirror":
        env: Environment = JaxEnvironment(Mirror(BOX, 2), count)
    else:
        env = make_environment(task, count, seed=seed, options=options)
    policy = policy_for(env.spec, "gaussian")
    carry, key = policy.initial_carry(count), jax.random.key(1)
    with contextlib.closing(env):
        state = start(env, carry, key, stagger_steps=8 * LENGTH)
        collector = make_collector(env, num_steps=LENGTH)
        rollout = to_numpy(collector(policy, state, jax.random.key(2))[1])
    assert rollout.valid[0].all()
    assert set(rollout.truncated.argmax(axis=0)) == {*range(LENGTH)}
