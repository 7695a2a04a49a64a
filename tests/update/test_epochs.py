"""The optimization that actor, critic and joint loss share, on losses small enough to do by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefoot.config import Config
from surefoot.update.batch import RowMinibatches
from surefoot.update.epochs import KLControl, make_optimizer, run_epochs
from surefoot.update.learners import begin_update, make_learner
from surefoot.update.measured import Measured

CONFIG = Config(num_envs=4, num_steps=4, num_minibatches=4, learning_rate=0.1)
ROWS = jnp.arange(16, dtype=jnp.float32)


def distance(params, rows, beta):
    """Half the squared distance to the rows; the parameter is what is seen."""
    del beta
    return 0.5 * jnp.mean((params["x"] - rows) ** 2), params["x"]


def measure(seen, rows):
    return {"x": Measured(seen), "x_max": Measured(seen, "max"), "rows": Measured(rows.mean())}


def learner(x: float = 0.0, config: Config = CONFIG):
    return make_learner({"x": jnp.float32(x)}, config, config.learning_rate)


def control(**options):
    """The KL that is controlled on is the parameter itself."""
    return KLControl(kl=lambda seen, rows: seen, **options)


def run(start, *, config=CONFIG, control=KLControl(), num_epochs=2, seed=0, loss=distance):  # noqa: B008
    return run_epochs(
        loss,
        start,
        ROWS,
        jax.random.key(seed),
        config,
        minibatches=RowMinibatches(config.num_minibatches),
        num_epochs=num_epochs,
        control=control,
        measure=measure,
    )


def test_every_epoch_has_its_own_minibatches_unless_told_otherwise() -> None:
    def first_rows(shuffle: bool) -> np.ndarray:
        seen = []

        def watch(params, rows, beta):
            jax.debug.callback(lambda r: seen.append(np.array(r)), rows, ordered=True)
            return distance(params, rows, beta)

        config = CONFIG.replace(shuffle_each_epoch=shuffle)
        run(learner(), config=config, loss=watch, num_epochs=3)
        jax.effects_barrier()
        return np.array(seen).reshape(3, 16)

    shuffled, kept = first_rows(True), first_rows(False)
    assert len({tuple(epoch) for epoch in shuffled}) == 3
    assert len({tuple(epoch) for epoch in kept}) == 1
    assert all(sorted(epoch) == list(range(16)) for epoch in shuffled)


def test_number_of_steps_is_epochs_times_minibatches() -> None:
    after, _, _ = run(learner(), num_epochs=3)
    assert int(after.opt_state[1].count) == 3 * 4


def test_first_adam_step_moves_by_the_learning_rate() -> None:
    config = CONFIG.replace(num_minibatches=1, max_grad_norm=np.inf)
    after, _, steps = run(learner(config=config), config=config, num_epochs=1)
    np.testing.assert_allclose(after.params["x"], 0.1, rtol=1e-4)
    np.testing.assert_allclose(steps.grad_norm, 7.5, rtol=1e-6)
    np.testing.assert_allclose(steps.loss, 1240 / 32, rtol=1e-6)  # 0 + 1 + 4 + ... + 225 is 1240
    assert float(steps.fraction) == 1.0


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


def test_the_gradients_norm_is_told_before_it_is_clipped() -> None:
    config = CONFIG.replace(num_minibatches=1, max_grad_norm=0.5)
    after, _, steps = run(learner(config=config), config=config, num_epochs=1)
    np.testing.assert_allclose(steps.grad_norm, 7.5, rtol=1e-6)
    np.testing.assert_allclose(after.opt_state[1].mu, [-0.05], rtol=1e-6)


def test_adams_epsilon_is_the_configured_one() -> None:
    # a gradient as large as epsilon makes half a step
    config = CONFIG.replace(num_minibatches=1, adam_epsilon=0.5, max_grad_norm=0.5)
    after, _, _ = run(learner(config=config), config=config, num_epochs=1)
    np.testing.assert_allclose(after.params["x"], 0.05, rtol=1e-5)


def test_a_minibatch_is_measured_before_the_step_on_it() -> None:
    config = CONFIG.replace(num_minibatches=1)
    _, metrics, steps = run(learner(5.0, config), config=config, num_epochs=1)
    assert float(metrics["x"].value) == 5.0
    np.testing.assert_allclose(metrics["rows"].value, 7.5)
    np.testing.assert_allclose(steps.loss, 0.5 * (21.25 + 2.5**2), rtol=1e-6)


def test_the_loss_is_given_the_learners_beta() -> None:
    def weighted(params, rows, beta):
        loss, seen = distance(params, rows, beta)
        return beta * loss, seen

    config = CONFIG.replace(num_minibatches=1)
    start = learner(config=config)._replace(kl_coef=jnp.float32(3.0))
    _, _, steps = run(start, config=config, num_epochs=1, loss=weighted)
    np.testing.assert_allclose(steps.loss, 3 * 1240 / 32, rtol=1e-6)


def test_kl_stop_refuses_the_step_that_exceeds_it_and_all_later_ones() -> None:
    after, metrics, steps = run(learner(), control=control(stop_above=0.25), num_epochs=5)
    # steps of 0.1: KL 0, 0.1, 0.2 pass, 0.3 is refused
    np.testing.assert_allclose(after.params["x"], 0.3, atol=1e-3)
    assert int(after.opt_state[1].count) == 3
    assert bool(after.stopped)
    np.testing.assert_allclose(steps.fraction, 3 / 20)
    np.testing.assert_allclose(metrics["x_max"].value, 0.2, atol=1e-3)
    np.testing.assert_allclose(metrics["x"].value, 0.1, atol=1e-3)


def test_after_one_kl_beyond_it_no_smaller_one_lets_steps_go_on() -> None:
    once = KLControl(stop_above=0.5, kl=lambda seen, rows: (rows == 0).any().astype(jnp.float32))
    after, _, steps = run(learner(), control=once, num_epochs=5)
    # one of the first four minibatches holds the row 0
    assert int(after.opt_state[1].count) <= 3
    np.testing.assert_allclose(steps.fraction, int(after.opt_state[1].count) / 20)


def test_the_first_step_may_be_refused_too() -> None:
    start = learner(0.3)
    after, metrics, steps = run(start, control=control(stop_above=0.25))
    np.testing.assert_array_equal(after.params["x"], start.params["x"])
    assert int(after.opt_state[1].count) == 0
    assert float(steps.fraction) == 0.0
    np.testing.assert_allclose(metrics["x"].value, 0.3, rtol=1e-6)


def test_a_stop_ends_with_the_batch() -> None:
    after, _, _ = run(learner(), control=control(stop_above=0.25), num_epochs=5)
    fresh = begin_update(after, None)
    assert not bool(fresh.stopped)
    again, _, steps = run(fresh._replace(params={"x": jnp.float32(0.0)}), num_epochs=1)
    np.testing.assert_allclose(steps.fraction, 1.0)
    assert float(again.params["x"]) != 0.0


@pytest.mark.parametrize(("kl", "expected"), [(0.1, 0.001 / 1.5), (0.001, 0.0015), (0.01, 0.001)])
def test_learning_rate_follows_the_kl(kl: float, expected: float) -> None:
    config = CONFIG.replace(num_minibatches=1, learning_rate=0.001)
    after, _, _ = run(
        learner(kl, config), config=config, control=control(adapt_towards=0.01), num_epochs=1
    )
    np.testing.assert_allclose(after.learning_rate, expected, rtol=1e-5)


def test_the_adapted_rate_is_that_of_the_step_and_of_the_minibatches_behind_it() -> None:
    config = CONFIG.replace(num_minibatches=1, learning_rate=0.001, max_grad_norm=np.inf)
    adapting = control(adapt_towards=0.01)
    once, _, _ = run(learner(0.1, config), config=config, control=adapting, num_epochs=1)
    np.testing.assert_allclose(once.params["x"] - 0.1, 0.001 / 1.5, rtol=1e-3)
    thrice, _, _ = run(learner(0.1, config), config=config, control=adapting, num_epochs=3)
    np.testing.assert_allclose(thrice.learning_rate, 0.001 / 1.5**3, rtol=1e-5)


def test_a_kl_that_is_rounding_says_nothing_to_the_rate() -> None:
    config = CONFIG.replace(num_minibatches=1, learning_rate=0.001)
    for kl in (0.0, 5e-7, -5e-7):
        after, _, _ = run(
            learner(kl, config), config=config, control=control(adapt_towards=0.01), num_epochs=1
        )
        np.testing.assert_allclose(after.learning_rate, 0.001, rtol=1e-6)
