"""Learners as data: who owns what, what each minimizes, how it moves and how far."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from surefoot.config import Config
from surefoot.networks import PolicyHead, TorsoSpec, make_actor, make_critic
from surefoot.update import Executors, Learner, Updater
from surefoot.update.batch import RowMinibatches, SequenceMinibatches
from surefoot.update.epochs import make_optimizer
from surefoot.update.executors import Serial
from surefoot.update.learners import (
    Epochs,
    LearnerSpec,
    NaturalGradient,
    begin_update,
    go_further,
    keep_if_finite,
    learner_specs,
    make_learner,
    owned,
)
from surefoot.update.measured import Steps
from surefoot.update.terms import EntropyTerm, PolicyTerm, ValueTerm

EXECUTORS = Executors(Serial(), Serial())
TORSO = TorsoSpec(("o",), 2, (4,), "tanh")


def table(**options: Any) -> tuple[LearnerSpec, ...]:
    return learner_specs(Config(**options), EXECUTORS)


@functools.cache
def networks() -> Any:
    head = PolicyHead("gaussian", (1,))
    actor = make_actor(
        jax.random.key(0), TORSO, head, orthogonal=True, output_scale=1.0, initial_std=0.5
    )
    return actor, make_critic(jax.random.key(1), TORSO, orthogonal=True)


def flat(tree: Any) -> np.ndarray:
    return np.asarray(ravel_pytree(tree)[0])


# --- the tables


def test_apart_actor_and_critic_are_two_learners() -> None:
    actor, critic = table(
        critic_learning_rate=0.02, learning_rate=0.01, value_clip_epsilon=0.3, entropy_coef=0.1
    )
    assert (actor.name, critic.name) == ("actor", "critic")
    assert (actor.learning_rate, critic.learning_rate) == (0.01, 0.02)
    assert actor.terms == (PolicyTerm("clipped", 0.2, True, 0.003), EntropyTerm(0.1))
    assert critic.terms == (ValueTerm(0.3),)
    assert (actor.grad_norm, critic.grad_norm) == ("optim/grad_norm", "optim/critic_grad_norm")
    assert (actor.executor, critic.executor) == (EXECUTORS.main, EXECUTORS.critic)
    assert isinstance(actor.step, Epochs)
    assert isinstance(critic.step, Epochs)
    assert actor.step.controls
    assert not critic.step.controls  # the KL stops the actor alone
    assert table(learning_rate=0.01)[1].learning_rate == 0.01
    assert [spec.num_epochs for spec in table(num_epochs=3)] == [3, 3]
    assert [spec.num_epochs for spec in table(num_epochs=3, critic_epochs=5)] == [3, 5]


@pytest.mark.parametrize("option", ["joint_loss", "shared_trunk"])
def test_together_they_are_one_learner_on_the_total_loss(option: str) -> None:
    (joint,) = table(value_coef=0.25, value_clip_epsilon=0.3, entropy_coef=0.1, **{option: True})
    assert joint.name == "joint"
    assert joint.terms == (
        PolicyTerm("clipped", 0.2, True, 0.003),
        EntropyTerm(0.1),
        ValueTerm(0.3, 0.25),
    )
    assert joint.grad_norm == "optim/grad_norm"
    assert joint.executor is EXECUTORS.main
    assert joint.step.controls
    assert joint.scheduled


def test_a_separate_critic_minimizes_the_value_loss_without_a_weight() -> None:
    assert table(value_coef=0.25)[1].terms == (ValueTerm(None, 1.0),)


def test_trpo_moves_the_actor_by_the_natural_gradient_and_the_critic_by_epochs() -> None:
    actor, critic = table(algorithm="trpo")
    assert isinstance(actor.step, NaturalGradient)
    assert isinstance(critic.step, Epochs)
    assert actor.terms[0].surrogate == "ratio"


@pytest.mark.parametrize(
    ("who", "actor", "critic"),
    [("both", True, True), ("actor", True, False), ("critic", False, True)],
)
def test_who_remembers_learns_from_whole_sequences(who: str, actor: bool, critic: bool) -> None:
    def rows_and_sequences(**options: Any) -> list[Any]:
        return [spec.step.minibatches for spec in table(num_minibatches=8, **options)]

    memory = {"memory": "gru", "memory_for": who, "memory_minibatches": 2}
    rows, sequences = RowMinibatches(8), SequenceMinibatches(2)
    expected = [sequences if remembers else rows for remembers in (actor, critic)]
    assert rows_and_sequences(**memory) == expected
    assert rows_and_sequences(**memory, algorithm="trpo") == expected
    assert rows_and_sequences(**memory, joint_loss=True) == [sequences]
    assert rows_and_sequences(memory_for=who) == [rows, rows]
    assert rows_and_sequences(memory_for=who, joint_loss=True) == [rows]


TABLES: tuple[dict[str, Any], ...] = (
    {},
    {"joint_loss": True},
    {"shared_trunk": True},
    {"algorithm": "trpo"},
)


@pytest.mark.parametrize("options", TABLES, ids=str)
def test_the_first_learner_owns_the_actor_the_last_one_the_critic_and_nobody_twice(
    options: dict,
) -> None:
    specs = table(**options)
    assert [spec.has_actor for spec in specs] == [True, False][: len(specs)]
    assert [spec.has_critic for spec in specs] == [False, True][-len(specs) :]
    config = Config(**options)
    for spec in specs:
        own = owned(spec, *networks(), config)
        assert (own.actor is not None) == spec.has_actor
        assert (own.critic is not None) == spec.has_critic
        assert (own.trunk is not None) == config.shared_trunk
        if spec.has_actor:
            np.testing.assert_array_equal(flat(own.policy()), flat(networks()[0]))
        if spec.has_critic and not config.shared_trunk:
            np.testing.assert_array_equal(flat(own.values()), flat(networks()[1]))
    updater = Updater(config, EXECUTORS, exact=True)
    assert updater.main == specs[0].name
    learners = updater.init(*networks())
    assert list(learners) == [spec.name for spec in specs]
    for spec in specs:
        assert float(learners[spec.name].learning_rate) == np.float32(spec.learning_rate)
    np.testing.assert_array_equal(flat(updater.actor(learners[updater.main])), flat(networks()[0]))


def test_a_shared_trunk_is_the_actors_and_counted_once() -> None:
    (joint,) = table(shared_trunk=True)
    own = owned(joint, *networks(), Config(shared_trunk=True))
    actor, critic = networks()
    assert flat(own).size == flat(actor).size + flat(critic.output).size
    np.testing.assert_array_equal(flat(own.trunk), flat(actor.torso))


@pytest.mark.parametrize(
    ("schedule", "later"),
    # after a quarter of the run; the cosine of 45 degrees is 0.7071
    [("constant", 1.0), ("linear", 0.75), ("cosine", 0.853553), ("kl_adaptive", 1.0)],
)
def test_rates_follow_the_schedule_or_the_kl(schedule: str, later: float) -> None:
    options = {"learning_rate": 0.01, "critic_learning_rate": 0.04}
    config = Config(learning_rate_schedule=schedule, **options)
    updater = Updater(config, EXECUTORS, exact=True)
    begun, quarter, ended = (updater.learning_rates(progress) for progress in (0.0, 0.25, 1.0))
    assert list(begun) == ["actor", "critic"]
    np.testing.assert_allclose(begun["critic"], 0.04, rtol=1e-6)
    np.testing.assert_allclose(quarter["critic"], 0.04 * later, rtol=1e-5)
    np.testing.assert_allclose(
        ended["critic"], 0.0 if schedule in ("linear", "cosine") else 0.04, atol=1e-9
    )
    if schedule == "kl_adaptive":  # the actor's is its own from then on
        assert begun["actor"] is quarter["actor"] is ended["actor"] is None
    else:
        np.testing.assert_allclose(quarter["actor"], 0.01 * later, rtol=1e-5)


def test_a_joint_learners_rate_follows_the_kl_too() -> None:
    config = Config(joint_loss=True, learning_rate_schedule="kl_adaptive")
    assert Updater(config, EXECUTORS, exact=True).learning_rates(0.5) == {"joint": None}


# --- learners


def test_a_learner_begins_with_the_options_and_no_step() -> None:
    made = make_learner({"x": jnp.float32(1)}, Config(kl_coef=2.5), 0.03)
    assert float(made.learning_rate) == np.float32(0.03)
    assert float(made.kl_coef) == 2.5
    assert not bool(made.stopped)
    assert int(made.skipped) == int(made.opt_state[1].count) == 0


def learner(x: float = 0.0, **changes: Any) -> Learner:
    return make_learner({"x": jnp.float32(x)}, Config(), 0.1)._replace(**changes)


def test_begin_update_sets_the_scheduled_learning_rate_or_keeps_the_adapted_one() -> None:
    start = learner(learning_rate=jnp.float32(0.007))
    np.testing.assert_allclose(begin_update(start, None).learning_rate, 0.007)
    np.testing.assert_allclose(begin_update(start, 0.5).learning_rate, 0.5)


def test_a_scheduled_rate_stays_halved_for_each_update_that_was_skipped() -> None:
    start = learner(skipped=jnp.int32(3))
    np.testing.assert_allclose(begin_update(start, 0.8).learning_rate, 0.1)
    np.testing.assert_allclose(begin_update(start, None).learning_rate, 0.1)
    assert int(begin_update(start, 0.8).skipped) == 3


def test_adam_goes_on_where_it_was_unless_it_is_to_begin_anew() -> None:
    start = learner()
    start = start._replace(opt_state=optax.tree.set(start.opt_state, count=jnp.int32(7)))
    for rate in (None, 0.5):
        assert int(optax.tree.get(begin_update(start, rate).opt_state, "count")) == 7


def test_a_stop_is_forgotten_with_the_next_batch() -> None:
    for rate in (None, 0.1):
        assert not bool(begin_update(learner(stopped=jnp.bool_(True)), rate).stopped)


def test_adam_begins_a_batch_at_its_first_step_if_asked_to_and_keeps_its_moments() -> None:
    start = learner()
    optimizer = make_optimizer(Config())
    for _ in range(3):
        _, moved = optimizer.update(jnp.float32([2.0]), start.opt_state)
        start = start._replace(opt_state=moved)
    for rate in (None, 0.1):
        goes_on, anew = (begin_update(start, rate, restart_adam=on) for on in (False, True))
        assert (int(goes_on.opt_state[1].count), int(anew.opt_state[1].count)) == (3, 0)
        for name in ("mu", "nu"):
            kept = [getattr(x.opt_state[1], name) for x in (start, goes_on, anew)]
            assert kept[0] == kept[1] == kept[2] != 0


def test_an_outer_step_goes_further_along_what_the_update_went() -> None:
    before, after = learner(1.0), learner(3.0, learning_rate=jnp.float32(0.2))
    assert go_further(before, after, 1.0) is after
    further, shorter = (go_further(before, after, sigma) for sigma in (1.5, 0.25))
    assert (float(further.params["x"]), float(shorter.params["x"])) == (4.0, 1.5)
    assert float(further.learning_rate) == np.float32(0.2)


SOUND = Steps(jnp.float32(1.0), jnp.float32(1.0), jnp.float32(1.0))


def test_a_sound_update_is_kept() -> None:
    after = learner(5.0, learning_rate=jnp.float32(0.2), stopped=jnp.bool_(True))
    kept = keep_if_finite(learner(), after, SOUND)
    for a, b in zip(*map(jax.tree.leaves, (kept, after)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("x", "changes", "steps"),
    [
        (np.nan, {}, SOUND),
        (np.inf, {}, SOUND),
        (1e11, {}, SOUND),
        (-1e11, {}, SOUND),
        (5.0, {"learning_rate": jnp.float32(np.nan)}, SOUND),
        (5.0, {"kl_coef": jnp.float32(np.inf)}, SOUND),
        (5.0, {}, SOUND._replace(loss=jnp.float32(np.nan))),
        (5.0, {}, SOUND._replace(loss=jnp.float32(-np.inf))),
        (5.0, {}, SOUND._replace(grad_norm=jnp.float32(np.inf))),
    ],
)
def test_an_update_that_diverged_is_taken_back_and_the_step_size_halved(
    x: float, changes: dict[str, Any], steps: Steps
) -> None:
    before = learner(1.0, skipped=jnp.int32(2), learning_rate=jnp.float32(0.1))
    after = learner(x, skipped=jnp.int32(2), stopped=jnp.bool_(True), **changes)
    kept = keep_if_finite(before, after, steps)
    assert float(kept.params["x"]) == 1.0
    np.testing.assert_allclose(kept.learning_rate, 0.05)
    assert int(kept.skipped) == 3
    assert float(kept.kl_coef) == 1.0
    assert bool(kept.stopped)  # for the report
    for a, b in zip(*map(jax.tree.leaves, (kept.opt_state, before.opt_state)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("odd", [np.nan, -np.inf, 1e11])
def test_one_number_that_diverged_is_enough(odd: float) -> None:
    before = learner()._replace(params={"x": jnp.zeros(3), "y": jnp.zeros(2)})
    after = before._replace(params={"x": jnp.float32([1.0, odd, 2.0]), "y": jnp.ones(2)})
    kept = keep_if_finite(before, after, SOUND)
    assert int(kept.skipped) == 1
    for part in kept.params.values():
        np.testing.assert_array_equal(part, 0.0)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_an_optimizer_that_is_not_finite_is_taken_back_too(odd: float) -> None:
    before = learner()._replace(opt_state={"moments": jnp.zeros(3)})
    spoilt = {"moments": jnp.float32([1.0, odd, 2.0])}
    kept = keep_if_finite(before, learner(5.0)._replace(opt_state=spoilt), SOUND)
    assert float(kept.params["x"]) == 0.0
    np.testing.assert_array_equal(kept.opt_state["moments"], 0.0)
    assert int(kept.skipped) == 1
