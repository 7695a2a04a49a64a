"""How numbers of many gradient steps become one."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from surefoot.update.measured import Measured, Steps, summarize


def steps(*fractions: float) -> Steps:
    taken = jnp.float32(fractions)
    return Steps(jnp.arange(1.0, taken.size + 1), 10 * jnp.arange(1.0, taken.size + 1), taken)


def test_summary_is_over_the_steps_taken() -> None:
    values = jnp.array([1.0, 3.0, 100.0])
    summary, over = summarize(
        {"a": Measured(values), "b": Measured(values, "max")}, steps(1.0, 1.0, 0.0)
    )
    np.testing.assert_allclose(summary["a"].value, 2.0)
    np.testing.assert_allclose(summary["b"].value, 3.0)
    np.testing.assert_allclose(over.fraction, 2 / 3)
    np.testing.assert_allclose(over.loss, 1.5)
    np.testing.assert_allclose(over.grad_norm, 15.0)


def test_summary_of_no_step_is_the_first_one() -> None:
    values = jnp.array([3.0, 1.0, 100.0])
    summary, over = summarize(
        {"a": Measured(values), "b": Measured(values, "max")}, steps(0.0, 0.0, 0.0)
    )
    np.testing.assert_allclose(summary["a"].value, 3.0)
    np.testing.assert_allclose(summary["b"].value, 3.0)
    np.testing.assert_allclose(over.fraction, 0.0)
    np.testing.assert_allclose(over.loss, 1.0)
    np.testing.assert_allclose(over.grad_norm, 10.0)


def test_steps_of_many_epochs_are_summarized_at_once() -> None:
    over = Steps(*(jnp.float32([[1, 2], [4, 8]]),) * 2, jnp.float32([[1, 1], [1, 0]]))
    values = jnp.float32([[-3, -2], [-7, 5]])
    summary, total = summarize({"a": Measured(values), "b": Measured(values, "max")}, over)
    np.testing.assert_allclose(summary["a"].value, -4.0)
    np.testing.assert_allclose(summary["b"].value, -2.0)
    np.testing.assert_allclose(total.fraction, 0.75)
    np.testing.assert_allclose(total.loss, 7 / 3, rtol=1e-6)
    none = over._replace(fraction=jnp.zeros((2, 2)))
    np.testing.assert_allclose(summarize({"a": Measured(values)}, none)[0]["a"].value, -3.0)


def test_epochs_weigh_as_many_as_steps_were_taken_in_them() -> None:
    # half of the first epoch's steps, a quarter of the second one's
    summary, over = summarize({"a": Measured(jnp.float32([1, 4]))}, steps(0.5, 0.25))
    np.testing.assert_allclose(summary["a"].value, 2.0)
    np.testing.assert_allclose(over.fraction, 0.375)


def test_summaries_of_epochs_are_the_summary_of_their_steps() -> None:
    values = jnp.float32([[1, 2, 3, 4], [5, 6, 7, 8]])
    taken = jnp.float32([[1, 1, 1, 1], [1, 0, 0, 0]])
    metrics = {"a": Measured(values), "b": Measured(-values, "max")}
    at_once, total = summarize(metrics, Steps(values, values, taken))
    epochs = [
        summarize({n: Measured(x.value[i], x.reduce) for n, x in metrics.items()}, Steps(*rows))
        for i, rows in enumerate(zip(values, values, taken, strict=True))
    ]
    stacked = {
        name: Measured(jnp.stack([e[0][name].value for e in epochs]), metrics[name].reduce)
        for name in metrics
    }
    over = Steps(*(jnp.stack(rows) for rows in zip(*(e[1] for e in epochs), strict=True)))
    nested, nested_total = summarize(stacked, over)
    for name in metrics:
        np.testing.assert_allclose(nested[name].value, at_once[name].value, rtol=1e-6)
        assert nested[name].reduce == metrics[name].reduce
    np.testing.assert_allclose(nested_total, total, rtol=1e-6)


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_a_step_that_was_not_taken_says_nothing_even_where_it_is_not_finite(reduce: str) -> None:
    measured = {"a": Measured(jnp.float32([2.0, np.nan, np.inf]), reduce)}
    taken = Steps(
        jnp.float32([1.0, np.nan, np.inf]), jnp.float32([1.0, 1.0, np.nan]), jnp.float32([1, 0, 0])
    )
    summary, over = summarize(measured, taken)
    assert float(summary["a"].value) == 2.0
    assert float(over.loss) == 1.0
    assert float(over.grad_norm) == 1.0


def test_a_step_that_was_taken_and_is_not_finite_is_told() -> None:
    _, over = summarize({}, steps(1.0, 1.0)._replace(loss=jnp.float32([1.0, np.nan])))
    assert np.isnan(over.loss)
