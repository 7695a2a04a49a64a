"""The optimisation that actor, critic and joint loss share, on losses small enough to do by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefoot.config import Config
from surefoot.update.epochs import (
    KLControl,
    _minibatches,
    begin_update,
    make_learner,
    make_optimizer,
    run_epochs,
    summarise,
)

CONFIG = Config(num_envs=4, num_steps=4, num_minibatches=4, learning_rate=0.1)
ROWS = jnp.arange(16, dtype=jnp.float32)


def distance(params, rows, beta):
    """Half the squared distance to the rows; the KL that is reported is the parameter itself."""
    del beta
    loss = 0.5 * jnp.mean((params["x"] - rows) ** 2)
    return loss, {"loss": loss, "policy/approx_kl": params["x"], "x_max": params["x"]}


def learner(x: float = 0.0, config: Config = CONFIG):
    return make_learner({"x": jnp.float32(x)}, config, config.learning_rate)


def run(start, *, config=CONFIG, control=KLControl(), num_epochs=2, seed=0):  # noqa: B008
    key = jax.random.key(seed)
    return run_epochs(distance, start, ROWS, key, config, num_epochs=num_epochs, control=control)


def test_minibatches_hold_every_row_once() -> None:
    cut = _minibatches((ROWS, ROWS[:, None]), jax.random.key(0), 4)
    assert cut[0].shape == (4, 4)
    assert cut[1].shape == (4, 4, 1)
    assert sorted(np.ravel(cut[0])) == list(range(16))
    np.testing.assert_array_equal(cut[0], cut[1][..., 0])


def test_every_epoch_has_its_own_minibatches_unless_told_otherwise() -> None:
    def first_rows(shuffle: bool) -> np.ndarray:
        seen = []

        def watch(params, rows, beta):
            jax.debug.callback(lambda r: seen.append(np.array(r)), rows, ordered=True)
            return distance(params, rows, beta)

        config = CONFIG.replace(shuffle_each_epoch=shuffle)
        run_epochs(
            watch, learner(), ROWS, jax.random.key(0), config, num_epochs=3, control=KLControl()
        )
        jax.effects_barrier()
        return np.array(seen).reshape(3, 16)

    shuffled, kept = first_rows(True), first_rows(False)
    assert len({tuple(epoch) for epoch in shuffled}) == 3
    assert len({tuple(epoch) for epoch in kept}) == 1
    assert all(sorted(epoch) == list(range(16)) for epoch in shuffled)


def test_number_of_steps_is_epochs_times_minibatches() -> None:
    after, _ = run(learner(), num_epochs=3)
    assert int(after.opt_state[1].count) == 3 * 4


def test_first_adam_step_moves_by_the_learning_rate() -> None:
    config = CONFIG.replace(num_minibatches=1, max_grad_norm=np.inf)
    after, metrics = run(learner(config=config), config=config, num_epochs=1)
    np.testing.assert_allclose(after.params["x"], 0.1, rtol=1e-4)
    np.testing.assert_allclose(metrics["optim/grad_norm"], 7.5, rtol=1e-6)


def test_gradients_are_clipped_to_their_global_norm() -> None:
    optimizer = make_optimizer(CONFIG.replace(max_grad_norm=1.0))
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}
    _, state = optimizer.update(grads, optimizer.init(grads))
    # Adam's first moment after one step is a tenth of the (clipped) gradient
    np.testing.assert_allclose(state[1].mu["a"], [0.06, 0.0], rtol=1e-6)
    np.testing.assert_allclose(state[1].mu["b"], [0.08], rtol=1e-6)
    small, state = {"a": jnp.array([0.3, 0.0]), "b": jnp.array([0.4])}, optimizer.init(grads)
    _, state = optimizer.update(small, state)
    np.testing.assert_allclose(state[1].mu["b"], [0.04], rtol=1e-6)


def test_kl_stop_refuses_the_step_that_exceeds_it_and_all_later_ones() -> None:
    control = KLControl(stop_above=0.25)
    after, metrics = run(learner(), control=control, num_epochs=5)
    # steps of 0.1: KL 0, 0.1, 0.2 pass, 0.3 is refused
    np.testing.assert_allclose(after.params["x"], 0.3, atol=1e-3)
    assert int(after.opt_state[1].count) == 3
    assert bool(after.stopped)
    np.testing.assert_allclose(metrics["optim/step_fraction"], 3 / 20)
    np.testing.assert_allclose(metrics["x_max"], 0.2, atol=1e-3)


def test_a_stop_ends_with_the_batch() -> None:
    after, _ = run(learner(), control=KLControl(stop_above=0.25), num_epochs=5)
    fresh = begin_update(after, None)
    assert not bool(fresh.stopped)
    again, metrics = run(fresh._replace(params={"x": jnp.float32(0.0)}), num_epochs=1)
    np.testing.assert_allclose(metrics["optim/step_fraction"], 1.0)
    assert float(again.params["x"]) != 0.0


def test_begin_update_sets_the_scheduled_learning_rate_or_keeps_the_adapted_one() -> None:
    start = learner()._replace(learning_rate=jnp.float32(0.007))
    np.testing.assert_allclose(begin_update(start, None).learning_rate, 0.007)
    np.testing.assert_allclose(begin_update(start, 0.5).learning_rate, 0.5)


@pytest.mark.parametrize(("kl", "expected"), [(0.1, 0.001 / 1.5), (0.001, 0.0015), (0.01, 0.001)])
def test_learning_rate_follows_the_kl(kl: float, expected: float) -> None:
    config = CONFIG.replace(num_minibatches=1, learning_rate=0.001)
    after, _ = run(
        learner(kl, config),
        config=config,
        control=KLControl(adapt_towards=0.01),
        num_epochs=1,
    )
    np.testing.assert_allclose(after.learning_rate, expected, rtol=1e-5)


def test_summary_is_over_the_steps_taken() -> None:
    metrics = {
        "optim/step_fraction": jnp.array([1.0, 1.0, 0.0]),
        "a": jnp.array([1.0, 3.0, 100.0]),
        "b_max": jnp.array([1.0, 3.0, 100.0]),
    }
    summary = summarise(metrics)
    np.testing.assert_allclose(summary["a"], 2.0)
    np.testing.assert_allclose(summary["b_max"], 3.0)
    np.testing.assert_allclose(summary["optim/step_fraction"], 2 / 3)


def test_summary_of_no_step_is_the_first_one() -> None:
    metrics = {"optim/step_fraction": jnp.zeros(2), "a": jnp.array([1.0, 3.0])}
    np.testing.assert_allclose(summarise(metrics)["a"], 1.0)
    np.testing.assert_allclose(summarise(metrics)["optim/step_fraction"], 0.0)
