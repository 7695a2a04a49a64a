"""Networks with memory through the whole loop: ratios, boundaries, what is carried, what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import extended

import surefoot
from surefoot.agent import load_policy
from surefoot.config import Config, validate
from surefoot.envs import ActionSpec, SingleEnvironment, SingleStep, make_environment
from surefoot.training import Hook, Trainer, evaluate, train, train_seeds
from surefoot.update import make_executors

ACTIONS = {
    "discrete": ActionSpec("discrete", (3,), dtype="int32"),
    "multi_discrete": ActionSpec("multi_discrete", (2, 3), shape=(2,), dtype="int32"),
    "multi_binary": ActionSpec("multi_binary", (2,), shape=(2,), dtype="int32"),
    "gaussian": ActionSpec("continuous", (2,), low=(-1.0, -2.0), high=(1.0, 2.0), shape=(2,)),
}
ACTIONS |= dict.fromkeys(("squashed_gaussian", "beta"), ACTIONS["gaussian"])
SHAPE: dict[str, Any] = {
    "num_envs": 4,
    "num_steps": 8,
    "num_epochs": 2,
    "memory_size": 6,
    "memory_minibatches": 2,
    "num_minibatches": 2,
    "actor_hidden": (5,),
    "critic_hidden": (5,),
    "total_steps": 64,
    "overlap": "off",
    "checkpoint_every": None,
}


class Walk(SingleEnvironment):
    """A random walk whose episodes end after 3 to 5 steps, by a time limit or for good."""

    name = "walk"
    observations = {"observation": 2}

    def __init__(self, kind: str) -> None:
        self.action = ACTIONS[kind]

    def reset(self, key):
        state = (jnp.int32(0), jax.random.randint(key, (), 3, 6))
        return state, self._observe(state, key)

    def step(self, state, action, key):
        state = (state[0] + 1, state[1])
        ended, dies = state[0] >= state[1], state[1] == 4
        reward = jax.random.normal(key)
        return state, SingleStep(self._observe(state, key), reward, ended & dies, ended & ~dies)

    def _observe(self, state, key):
        return jnp.stack([state[0] / 5.0, jax.random.normal(key)])


def config(memory: str, **options: Any) -> Config:
    return validate(Config(**SHAPE | {"memory": memory} | options))


def trainer(kind: str, options: Config) -> Trainer:
    env = make_environment(Walk(kind), options.num_envs, seed=np.random.SeedSequence(0))
    if kind in ("squashed_gaussian", "beta"):
        options = options.replace(distribution=kind)
    return Trainer(options, env, make_executors(options))


@pytest.mark.parametrize(
    ("memory", "kind"),
    [
        ("gru", "gaussian"),
        *(
            extended(memory, kind)
            for memory in ("gru", "lstm")
            for kind in ACTIONS
            if (memory, kind) != ("gru", "gaussian")
        ),
    ],
)
def test_acting_step_by_step_is_replaying_the_sequence(memory: str, kind: str) -> None:
    own = trainer(kind, config(memory))
    state = own.start()
    for _ in range(3):  # episodes end inside the rollouts and go on between them
        policy = own.policy(state)
        state, rollout = own.collect(state, policy)
        state, gathered = own.make_experience(state, rollout)
        seen = gathered.experience
        again = policy.actor.unroll(seen.seen(), seen.carry, seen.first[:-1])
        log_probs = again.log_prob(seen.raw_actions)
        np.testing.assert_allclose(log_probs, seen.old_log_probs, atol=1e-6)
    assert np.asarray(seen.first[1:]).any()
    assert any(np.asarray(x).any() for x in jax.tree.leaves(seen.carry))


@pytest.mark.extended
def test_what_is_remembered_goes_on_from_rollout_to_rollout() -> None:
    own = trainer("gaussian", config("lstm"))
    state = own.start()
    state, rollout = own.collect(state, own.policy(state))
    _, gathered = own.make_experience(state, rollout)
    seen, critic = gathered.experience, state.learners["critic"].params.values()
    start = own.agent.critic.initial_carry(4)
    together, _ = critic.unroll(seen.observations, start, seen.first)
    # the same rows in two parts, what is carried behind the first handed to the second
    halves = [
        {k: x[rows] for k, x in seen.observations.items()} for rows in (slice(5), slice(4, 9))
    ]
    one, carried = critic.unroll(halves[0], start, seen.first[:5])
    onward = jax.tree.map(lambda x: x[-2], carried)
    two, _ = critic.unroll(halves[1], onward, seen.first[4:])
    np.testing.assert_allclose(np.concatenate([one[:4], two]), together, atol=1e-6)


def test_the_critic_carries_what_it_saw_of_a_rollout() -> None:
    own = trainer("gaussian", config("gru"))
    state = own.start()
    state, rollout = own.collect(state, own.policy(state))
    state, gathered = own.make_experience(state, rollout)
    after, _ = own.estimate_advantages(state, gathered.experience)
    critic = state.learners["critic"].params.values()
    seen = gathered.experience
    _, carried = critic.unroll(seen.observations, state.critic_carry, seen.first)
    np.testing.assert_allclose(after.critic_carry[0], carried[0][7], atol=1e-6)


def test_the_value_behind_a_row_remembers_the_row() -> None:
    own = trainer("gaussian", config("gru"))
    state = own.start()
    state, rollout = own.collect(state, own.policy(state))
    _, gathered = own.make_experience(state, rollout)
    critic, seen = state.learners["critic"].params.values(), gathered.experience
    values, carried = critic.unroll(seen.observations, state.critic_carry, seen.first)
    after = critic.values_after({k: x[1:] for k, x in seen.observations.items()}, carried)
    goes_on = ~np.asarray(seen.first[1:])
    np.testing.assert_allclose(
        np.asarray(after)[goes_on], np.asarray(values[1:])[goes_on], atol=1e-6
    )


@pytest.mark.extended
@pytest.mark.parametrize(
    "options",
    [
        {"memory": "lstm", "memory_layers": 2},
        {"shared_trunk": True},
        {"joint_loss": True, "memory_for": "actor"},
        {"memory_for": "critic"},
        {"recompute_advantages": True},
        {"algorithm": "trpo"},
        {"surrogate": "kl_penalty"},
        {"overlap": "exact"},
        {"overlap": "full", "max_lag": 2},
        {"bptt_steps": 3},
        {"target_kl": 1e-4},
        {"measure_held_out_kl": True},
    ],
    ids=str,
)
def test_it_works_together_with(options: dict) -> None:
    seen = []

    class Watch(Hook):
        def on_iteration(self, state, metrics):
            seen.append(metrics)

    train(Walk("gaussian"), config("gru").replace(**options), hooks=[Watch()])
    assert len(seen) >= 2
    assert all(row["policy/first_ratio_error"] < 1e-5 for row in seen)
    assert all(row["optim/refused_updates"] == 0 for row in seen)


@pytest.mark.extended
def test_several_seeds_side_by_side_remember_too() -> None:

    alone = train(Walk("discrete"), config("gru", seed=1))[0]
    together = train_seeds(Walk("discrete"), config("gru"), hooks=[[], []])[1][0]
    for a, b in zip(
        jax.tree.leaves(alone.learners), jax.tree.leaves(together.learners), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_what_cannot_work_together_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"memory_minibatches = 4 does not divide num_envs = 6.*3, 6"
    ):
        config("gru", num_envs=6, memory_minibatches=4)
    with pytest.raises(ValueError, match="memory_for = 'actor' with shared_trunk"):
        config("gru", shared_trunk=True, memory_for="actor")


@pytest.mark.extended
def test_an_interrupted_run_ends_with_the_bytes_of_one_left_alone(tmp_path: Path) -> None:
    options = SHAPE | {"memory": "lstm", "total_steps": 160, "checkpoint_every": 40}
    options |= {"overlap": "exact", "progress": False}
    whole = surefoot.train("probe:t-maze", run_dir=tmp_path / "whole", **options)
    asked = iter([False, False, True])
    surefoot.train(
        "probe:t-maze", run_dir=tmp_path / "part", should_stop=lambda: next(asked), **options
    )
    part = surefoot.resume(tmp_path / "part", progress=False)
    files = [r.run_dir / "policy.safetensors" for r in (whole, part)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.extended
def test_a_loaded_policy_remembers_until_it_is_reset(tmp_path: Path) -> None:
    options = SHAPE | {"memory": "gru", "progress": False}
    run = surefoot.train("probe:both/continuous", run_dir=tmp_path / "run", **options).run_dir
    policy = load_policy(run)
    x = np.array([1.0], np.float32)
    one, two = policy(x), policy(x)
    assert one != two
    policy.reset()
    np.testing.assert_array_equal(policy(x), one)
    policy.reset()
    batch = policy(np.stack([x, x]))
    np.testing.assert_allclose(batch[:, 0], [one[0], one[0]], atol=1e-6)
    again = policy(np.stack([x, x]), first=np.array([True, False]))
    np.testing.assert_allclose(again[:, 0], [one[0], two[0]], atol=1e-6)
    with pytest.raises(ValueError, match=r"1 observations, 2 before them: call reset\(\)"):
        policy(x)


T_MAZE: dict[str, Any] = {
    "num_envs": 32,
    "num_steps": 20,
    "memory_size": 16,
    "learning_rate": 5e-3,
    "actor_hidden": (16,),
    "critic_hidden": (16,),
    "num_epochs": 6,
    "memory_minibatches": 4,
    "num_minibatches": 4,
    "total_steps": 16_000,
    "checkpoint_every": None,
}


def return_in_a_t_maze(memory: str) -> float:
    """The cue is seen once and asked for ten steps later: worth 1, or 0 to who has forgotten."""
    env = make_environment("probe:t-maze", 20, seed=np.random.SeedSequence(1))
    _, policy = train("probe:t-maze", Config(memory=memory, **T_MAZE))
    return evaluate(policy, env, 200, key=jax.random.key(0))["episode_return_mean"]


@pytest.mark.extended
def test_a_t_maze_is_solved_with_memory() -> None:
    assert return_in_a_t_maze("gru") == 1.0


@pytest.mark.extended
def test_a_t_maze_is_solved_by_an_lstm_too_and_is_chance_without_memory() -> None:
    assert return_in_a_t_maze("lstm") == 1.0
    assert abs(return_in_a_t_maze("off")) < 0.3
