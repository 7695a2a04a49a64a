"""Overlap of collecting and optimising: what it may change, and what it must not."""

from __future__ import annotations

import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from surefoot.update.lanes import Beside, InTurn
from surefoot.update.ppo import actor_batch

from surefoot import functional as F
from surefoot.config import Config
from surefoot.envs import make_environment
from surefoot.training import Hook, Trainer, train
from surefoot.update import Algorithm, Estimates, Experience, estimate, settle

TINY = Config(
    total_steps=600,
    num_envs=4,
    num_steps=16,
    num_minibatches=4,
    num_epochs=2,
    actor_hidden=(8,),
    critic_hidden=(8,),
    learning_rate=1e-2,
)
TASK = "probe:late-reward/continuous"


class Recorder(Hook):
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.states: list[Any] = []
        self.ended = False

    def on_iteration(self, state, metrics) -> None:
        self.rows.append({k: v for k, v in metrics.items() if not k.startswith(("time/", "wall"))})
        self.states.append(state)

    def on_end(self, state, policy, *, finished) -> None:
        self.ended = True


def trace(task: str = TASK, **options: Any) -> tuple[list[dict[str, Any]], list[bytes]]:
    recorder = Recorder()
    state, _ = train(task, TINY.replace(**options), hooks=[recorder])
    return recorder.rows, [np.asarray(x).tobytes() for x in jax.tree.leaves(state.learners)]


@pytest.mark.parametrize(
    ("task", "options"),
    [
        (TASK, {}),
        ("Hopper-v5", {}),
        ("gymnasium:Pendulum-v1", {}),
        (TASK, {"recompute_advantages": True}),
        (TASK, {"joint_loss": True}),
        (TASK, {"target_kl": 1e-6, "learning_rate_schedule": "kl_adaptive"}),
    ],
)
def test_exact_overlap_gives_the_bytes_of_off(task: str, options: dict) -> None:
    off = trace(task, overlap="off", **options)
    assert len(off[0]) > 5
    assert trace(task, overlap="exact", **options) == off


@pytest.mark.parametrize("task", [TASK, "Hopper-v5"])
def test_full_overlap_without_lag_gives_the_bytes_of_off(task: str) -> None:
    assert trace(task, overlap="full", max_lag=0) == trace(task, overlap="off")


@pytest.mark.parametrize("correction", ["behaviour", "vtrace", "decoupled"])
def test_full_overlap_gives_the_same_bytes_twice(correction: str) -> None:
    options = {"overlap": "full", "max_lag": 2, "lag_correction": correction}
    assert trace("Hopper-v5", **options) == trace("Hopper-v5", **options)


def test_lag_is_bounded_and_recorded_for_each_batch() -> None:
    rows, _ = trace(overlap="full", max_lag=2)
    assert [row["async/lag"] for row in rows[:5]] == [0, 1, 2, 2, 2]
    assert rows[0]["async/ratio_max"] == pytest.approx(1.0, abs=1e-5)
    assert rows[0]["async/effective_sample_share"] == pytest.approx(1.0, abs=1e-5)
    assert all(row["async/ratio_max"] > 1.001 for row in rows[2:5])
    assert all(0.0 < row["async/effective_sample_share"] < 0.9999 for row in rows[2:5])
    assert "async/lag" not in trace(overlap="exact")[0][0]


def test_the_collecting_policy_is_as_many_updates_behind_as_allowed() -> None:
    config = TINY.replace(overlap="full", max_lag=2)
    env = make_environment(TASK, config.num_envs, seed=np.random.SeedSequence(0))
    trainer = Trainer(config, env)
    state, actors, acting = trainer.start(), [], []

    def bytes_of(policy: Any) -> list[bytes]:
        return [np.asarray(x).tobytes() for x in jax.tree.leaves(policy.actor)]

    for _ in range(5):
        actors.append(bytes_of(trainer.policy(state)))
        policy = trainer.acting_policy(state)
        acting.append(bytes_of(policy))
        state, rollout = trainer.collect(state, policy)
        state, experience, _ = trainer.digest(state, rollout)
        state, _ = trainer.optimise(state, experience)
        state = state.after(int(experience.num_steps()))
    assert acting == [actors[0], actors[0], actors[0], actors[1], actors[2]]
    assert len({str(actor) for actor in actors}) == 5


def stale_batch() -> tuple[Experience, Estimates]:
    shape = (3, 2)
    numbers = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    experience = Experience(
        actor_features=jnp.ones((*shape, 1)),
        critic_features=jnp.ones((4, 2, 1)),
        raw_actions=jnp.ones((*shape, 1)),
        old_log_probs=jnp.asarray(numbers[0]),
        rewards=jnp.asarray(numbers[1]),
        terminated=jnp.zeros(shape, bool),
        truncated=jnp.zeros(shape, bool),
        weights=jnp.ones(shape),
        proximal_log_probs=jnp.asarray(numbers[2]),
    )
    return experience, Estimates(*map(jnp.asarray, numbers[2:5]))


@pytest.mark.parametrize(
    ("correction", "against", "weighted"),
    [("behaviour", "old", False), ("vtrace", "proximal", False), ("decoupled", "proximal", True)],
)
def test_a_correction_says_what_the_ratio_is_taken_against(
    correction: str, against: str, weighted: bool
) -> None:
    experience, estimates = stale_batch()
    config = TINY.replace(overlap="full", lag_correction=correction)
    batch = actor_batch(lambda x: None, experience, estimates, config)
    expected = getattr(experience, f"{against}_log_probs").reshape(-1)
    np.testing.assert_array_equal(batch.old_log_probs, expected)
    if weighted:
        lag = experience.proximal_log_probs - experience.old_log_probs
        np.testing.assert_allclose(batch.importance, jnp.exp(lag).reshape(-1), rtol=1e-6)
    else:
        assert batch.importance is None


def test_v_trace_estimates_with_the_weights_of_the_lag() -> None:
    experience, _ = stale_batch()

    def critic(features: jax.Array) -> jax.Array:
        return features[..., 0] * 0.5

    rows = (experience.rewards, jnp.full((3, 2), 0.5), jnp.full((3, 2), 0.5))
    rows += (experience.terminated, experience.truncated)
    expected = F.vtrace_advantages(
        *rows,
        gamma=0.99,
        gae_lambda=0.95,
        log_probs=experience.proximal_log_probs,
        old_log_probs=experience.old_log_probs,
    )
    plain = F.gae(*rows, gamma=0.99, gae_lambda=0.95)
    for correction, right in (("vtrace", expected), ("decoupled", plain), ("behaviour", plain)):
        config = TINY.replace(overlap="full", lag_correction=correction)
        got = estimate(critic, experience, config).advantages
        np.testing.assert_allclose(got, right, rtol=1e-6)
    assert not np.allclose(expected, plain)


def test_a_lane_goes_on_beside_its_caller_and_keeps_its_order() -> None:
    lane, gate, order = Beside("test"), threading.Event(), []

    def slow() -> dict[str, int]:
        assert gate.wait(60)
        order.append("first")
        return {"number": 20}

    first = lane.start(slow)
    second = lane.start(lambda x: order.append("second") or x + 1, first["number"])
    order.append("caller")  # in turn, `slow` would still be waiting for the line after this
    gate.set()
    assert settle({"a": (second, 3)}) == {"a": (21, 3)}
    assert order == ["caller", "first", "second"]
    lane.close()


def test_what_a_lane_raises_is_raised_where_the_result_is_used() -> None:
    def fails() -> None:
        raise RuntimeError("no memory")

    lane = Beside("test")
    failed = lane.start(fails)
    with pytest.raises(RuntimeError, match="no memory"):
        settle([failed["anything"]])
    with pytest.raises(RuntimeError, match="no memory"):
        InTurn().start(lambda x: x, failed)
    lane.close()


def test_a_failing_critic_ends_training_with_the_last_sound_state(monkeypatch) -> None:
    from surefoot.update import algorithm

    def program(self: Any, update: Any) -> Any:
        calls = iter(range(100))
        right = original(self, update)

        def failing(*args: Any) -> Any:
            if update is algorithm.ppo.update_critic and next(calls) == 3:
                raise RuntimeError("no memory")
            return right(*args)

        return failing

    original = algorithm.Algorithm._program
    monkeypatch.setattr(algorithm.Algorithm, "_program", program)
    recorder = Recorder()
    with pytest.raises(RuntimeError, match="no memory"):
        train(TASK, TINY, hooks=[recorder])
    assert [row["iteration"] for row in recorder.rows] == [1, 2, 3]
    assert recorder.ended


def test_hooks_hear_states_with_nothing_pending() -> None:
    recorder = Recorder()
    train("Hopper-v5", TINY.replace(overlap="full", max_lag=3), hooks=[recorder])
    for state in recorder.states:
        leaves = jax.tree.leaves((state.learners, state.behind))
        assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert [state.iteration for state in recorder.states] == list(range(1, 11))


def test_threads_end_with_training() -> None:
    before = threading.active_count()
    train(TASK, TINY.replace(overlap="full"))
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("options", "actor", "critic"),
    [
        ({"overlap": "off"}, "MainThread", "MainThread"),
        ({"overlap": "exact"}, "MainThread", "surefoot-critic_0"),
        ({"overlap": "full"}, "surefoot-actor_0", "surefoot-critic_0"),
    ],
)
def test_overlap_says_on_which_thread_each_update_runs(
    options: dict, actor: str, critic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[str]] = {"update_actor": set(), "update_critic": set()}
    original = Algorithm._program

    def program(self: Any, update: Any) -> Any:
        right = original(self, update)

        def noting(*args: Any) -> Any:
            threads[update.__name__].add(threading.current_thread().name)
            return right(*args)

        return noting

    monkeypatch.setattr(Algorithm, "_program", program)
    train(TASK, TINY.replace(**options))
    assert threads == {"update_actor": {actor}, "update_critic": {critic}}


def test_the_next_collection_does_not_wait_for_the_critic(monkeypatch: pytest.MonkeyPatch) -> None:
    collections, second = iter(range(1000)), threading.Event()
    waited: list[bool] = []
    program, collect = Algorithm._program, Trainer.collect

    def slow_critic(self: Any, update: Any) -> Any:
        right = program(self, update)

        def waiting(*args: Any) -> Any:
            if update.__name__ == "update_critic":
                waited.append(second.wait(20))
            return right(*args)

        return waiting

    def noted(self: Any, *args: Any) -> Any:
        if next(collections) == 1:
            second.set()
        return collect(self, *args)

    monkeypatch.setattr(Algorithm, "_program", slow_critic)
    monkeypatch.setattr(Trainer, "collect", noted)
    train(TASK, TINY)
    assert waited[0]  # the first critic's update was still going on when the second batch began


@pytest.mark.parametrize("options", [{"joint_loss": True}, {"recompute_advantages": True}])
def test_exact_is_off_where_actor_and_critic_are_tied(options: dict) -> None:
    assert TINY.replace(**options).in_making == 0
    assert TINY.in_making == 1
    assert TINY.replace(overlap="full", max_lag=3, **options).in_making == 3
