"""Overlap of collecting and optimizing: what it may change, and what it must not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import PROBE, TINY, Recorder, extended
from tests.training.helpers import bytes_of, trainer_for
from tests.training.helpers import trace as trace_of

from surefoot import functional as F
from surefoot.config import Config
from surefoot.networks import ActorCritic
from surefoot.training import Hook, Trainer, train
from surefoot.update import Estimates, Executors, Experience, Updater, make_executors, resolve
from surefoot.update.batch import make_batch
from surefoot.update.executors import Serial, Thread
from surefoot.update.experience import estimate_advantages

CONFIG = TINY.replace(total_steps=600, learning_rate=1e-2)


def trace(task: str = PROBE, **options: Any) -> tuple[list[Any], list[bytes]]:
    return trace_of(task, CONFIG, **options)


@pytest.mark.parametrize(
    ("task", "options"),
    [
        (PROBE, {}),
        extended("gymnasium:CartPole-v1", {}),
        extended("CartPole-v1", {}),
        extended(PROBE, {"recompute_advantages": True}),
        extended(PROBE, {"joint_loss": True}),
        extended(PROBE, {"target_kl": 1e-6, "learning_rate_schedule": "kl_adaptive"}),
        extended("Hopper-v5", {}),
        extended("gymnasium:Pendulum-v1", {}),
    ],
)
def test_exact_overlap_gives_the_bytes_of_off(task: str, options: dict) -> None:
    off = trace(task, overlap="off", **options)
    assert len(off[0]) > 5
    assert trace(task, overlap="exact", **options) == off


@pytest.mark.parametrize("task", [PROBE, extended("CartPole-v1"), extended("Hopper-v5")])
def test_full_overlap_without_lag_gives_the_bytes_of_off(task: str) -> None:
    assert trace(task, overlap="full", max_lag=0) == trace(task, overlap="off")


@pytest.mark.extended
@pytest.mark.parametrize(
    ("task", "correction"),
    [
        (PROBE, "vtrace"),
        (PROBE, "behaviour"),
        (PROBE, "decoupled"),
        *[("Hopper-v5", name) for name in ("behaviour", "vtrace", "decoupled")],
    ],
)
def test_full_overlap_gives_the_same_bytes_twice(task: str, correction: str) -> None:
    options = {"overlap": "full", "max_lag": 2, "lag_correction": correction}
    assert trace(task, **options) == trace(task, **options)


def test_lag_is_bounded_and_recorded_for_each_batch() -> None:
    rows, _ = trace(overlap="full", max_lag=2)
    assert [row["async/lag"] for row in rows[:5]] == [0, 1, 2, 2, 2]
    assert rows[0]["async/ratio_max"] == pytest.approx(1.0, abs=1e-5)
    assert rows[0]["async/effective_sample_share"] == pytest.approx(1.0, abs=1e-5)
    assert all(row["async/ratio_max"] > 1.001 for row in rows[2:5])
    assert all(0.0 < row["async/effective_sample_share"] < 0.9999 for row in rows[2:5])
    assert "async/lag" not in trace(overlap="exact")[0][0]


@pytest.mark.parametrize(
    ("options", "behind"),
    [
        ({"overlap": "exact"}, [0, 0, 0, 0, 0]),
        extended({"overlap": "full", "max_lag": 0}, [0, 0, 0, 0, 0]),
        extended({"overlap": "full", "max_lag": 1}, [0, 1, 1, 1, 1]),
        ({"overlap": "full", "max_lag": 2}, [0, 1, 2, 2, 2]),
        extended({"overlap": "full", "max_lag": 3}, [0, 1, 2, 3, 3]),
    ],
)
def test_the_collecting_policy_is_as_many_updates_behind_as_allowed(
    options: dict, behind: list[int]
) -> None:
    trainer = trainer_for(config=CONFIG.replace(**options))
    state, actors, acting = trainer.start(), [], []
    for _ in behind:
        actors.append(bytes_of(trainer.policy(state).actor))
        policy = trainer.acting_policy(state)
        acting.append(bytes_of(policy.actor))
        state, rollout = trainer.collect(state, policy)
        state, gathered = trainer.make_experience(state, rollout)
        state, estimated = trainer.estimate_advantages(state, gathered.experience)
        state, _ = trainer.update(state, gathered.experience, estimated)
        state = state.advance(int(gathered.experience.num_steps()))
    assert acting == [actors[i - lag] for i, lag in enumerate(behind)]
    assert len({str(actor) for actor in actors}) == len(behind)


def stale_batch() -> tuple[Experience, Estimates]:
    shape = (3, 2)
    numbers = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    experience = Experience(
        observations={"observation": jnp.ones((4, 2, 1))},
        first=jnp.zeros((4, 2), bool),
        carry=(),
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
    config = CONFIG.replace(overlap="full", lag_correction=correction)
    batch = make_batch(ActorCritic(None, None, None), experience, estimates, (), config)
    expected = getattr(experience, f"{against}_log_probs")
    np.testing.assert_array_equal(batch.old_log_probs, expected)
    if weighted:
        lag = experience.proximal_log_probs - experience.old_log_probs
        np.testing.assert_allclose(batch.importance, jnp.exp(lag), rtol=1e-6)
    else:
        assert batch.importance is None


class HalfCritic:
    """Values everything at 0.5."""

    def unroll(self, observations: Any, carry: Any, first: Any) -> tuple[jax.Array, Any]:
        return observations["observation"][..., 0] * 0.5, carry


def test_v_trace_estimates_with_the_weights_of_the_lag() -> None:
    experience, _ = stale_batch()
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
    critic: Any = HalfCritic()
    for correction, right in (("vtrace", expected), ("decoupled", plain), ("behaviour", plain)):
        config = CONFIG.replace(overlap="full", lag_correction=correction)
        got, _ = estimate_advantages(critic, (), experience, config, exact=True)
        np.testing.assert_allclose(got.advantages, right, rtol=1e-6)
    assert not np.allclose(expected, plain)


def test_a_thread_goes_on_beside_its_caller_and_keeps_its_order() -> None:
    thread, gate, order = Thread("test"), threading.Event(), []

    def slow() -> tuple[int, str]:
        assert gate.wait(60)
        order.append("first")
        return 20, "unused"

    number, _ = thread.submit(slow, parts=2)
    second = thread.submit(lambda x: order.append("second") or x + 1, number)
    order.append("caller")  # in turn, `slow` would still be waiting for the line after this
    gate.set()
    assert resolve({"a": (second, 3)}) == {"a": (21, 3)}
    assert order == ["caller", "first", "second"]
    thread.close()


def test_what_a_thread_raises_is_raised_where_a_result_or_a_part_of_it_is_used() -> None:
    def fails() -> Any:
        raise RuntimeError("no memory")

    thread = Thread("test")
    for failed in (thread.submit(fails), *thread.submit(fails, parts=2)):
        with pytest.raises(RuntimeError, match="no memory"):
            resolve([failed])
        with pytest.raises(RuntimeError, match="no memory"):
            Serial().submit(lambda x: x, failed)
    thread.close()


def wrap_programs(
    monkeypatch: pytest.MonkeyPatch, wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Put something around the update of each learner in every run from here on."""
    original = Updater.__init__

    def init(self: Updater, config: Config, executors: Executors, **known: Any) -> None:
        original(self, config, executors, **known)
        self.programs = {name: wrap(name, program) for name, program in self.programs.items()}

    monkeypatch.setattr(Updater, "__init__", init)


def test_a_failing_critic_ends_training_with_the_last_sound_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = iter(range(100))

    def failing(name: str, program: Callable[..., Any]) -> Callable[..., Any]:
        def fails_once(*args: Any) -> Any:
            if name == "critic" and next(calls) == 3:
                raise RuntimeError("no memory")
            return program(*args)

        return fails_once

    wrap_programs(monkeypatch, failing)
    recorder = Recorder()
    with pytest.raises(RuntimeError, match="no memory"):
        train(PROBE, CONFIG, hooks=[recorder])
    assert [row["iteration"] for row in recorder.rows] == [1, 2, 3]
    assert recorder.events[-2:] == ["failure", "end"]
    assert recorder.state.iteration == 3


def test_hooks_hear_states_with_nothing_pending() -> None:
    states = []

    class Keeps(Hook):
        def on_iteration(self, state: Any, metrics: Any) -> None:
            states.append(state)

    train(PROBE, CONFIG.replace(overlap="full", max_lag=3), hooks=[Keeps()])
    for state in states:
        leaves = jax.tree.leaves((state.learners, state.stale_learners, state.critic_carry))
        assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert [len(state.stale_learners) for state in states[:4]] == [1, 2, 3, 3]
    assert [state.iteration for state in states] == list(range(1, 13))


def test_threads_end_with_training() -> None:
    before = threading.active_count()
    train(PROBE, CONFIG.replace(overlap="full"))
    assert threading.active_count() == before


@pytest.mark.extended
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
    threads: dict[str, set[str]] = {"actor": set(), "critic": set()}

    def noting(name: str, program: Callable[..., Any]) -> Callable[..., Any]:
        def notes(*args: Any) -> Any:
            threads[name].add(threading.current_thread().name)
            return program(*args)

        return notes

    wrap_programs(monkeypatch, noting)
    train(PROBE, CONFIG.replace(total_steps=100, **options))
    assert threads == {"actor": {actor}, "critic": {critic}}


def test_the_next_collection_does_not_wait_for_the_critic(monkeypatch: pytest.MonkeyPatch) -> None:
    collections, second = iter(range(1000)), threading.Event()
    waited: list[bool] = []
    collect = Trainer.collect

    def slow_critic(name: str, program: Callable[..., Any]) -> Callable[..., Any]:
        def waiting(*args: Any) -> Any:
            if name == "critic":
                waited.append(second.wait(20))
            return program(*args)

        return waiting

    def noted(self: Any, *args: Any) -> Any:
        if next(collections) == 1:
            second.set()
        return collect(self, *args)

    wrap_programs(monkeypatch, slow_critic)
    monkeypatch.setattr(Trainer, "collect", noted)
    train(PROBE, CONFIG.replace(total_steps=100))
    assert waited[0]  # the first critic's update was still going on when the second batch began


@pytest.mark.parametrize("options", [{"joint_loss": True}, {"recompute_advantages": True}])
def test_exact_is_off_where_actor_and_critic_are_tied(options: dict) -> None:
    assert CONFIG.replace(**options).in_flight == 0
    assert [type(x) for x in make_executors(CONFIG.replace(**options))] == [Serial, Serial]
    assert CONFIG.in_flight == 1
    assert CONFIG.replace(overlap="full", max_lag=3, **options).in_flight == 3
