"""Laws of noise that goes on from step to step."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest

from surefoot.functional import colored_noise, init_colored_noise

LENGTH, COLUMNS = 1024, 400


@pytest.fixture(scope="module", params=[0.0, 0.5, 1.0, 1.5])
def drawn(request: pytest.FixtureRequest) -> tuple[float, np.ndarray]:
    """A colour, and [LENGTH, COLUMNS] of its noise."""
    color = request.param
    state = init_colored_noise(jax.random.key(0), (COLUMNS,))
    keys = jax.random.split(jax.random.key(1), LENGTH)
    _, noise = jax.jit(partial(jax.lax.scan, partial(colored_noise, color=color)))(state, keys)
    return color, np.asarray(noise, np.float64)


def test_every_number_is_standard_normal_from_the_first_step_on(drawn) -> None:
    _, noise = drawn
    for part in (noise[:1], noise[-1:], noise):
        ranks = np.sort(part.ravel())
        error = 5 / np.sqrt(COLUMNS)  # columns are independent, rows are not
        assert abs(part.mean()) < error
        assert abs(part.std() - 1) < error
        assert abs(np.mean(np.abs(ranks) < 1) - 0.6827) < error


def test_power_falls_with_frequency_as_the_color_says(drawn) -> None:
    color, noise = drawn
    power = (np.abs(np.fft.rfft(noise, axis=0)) ** 2).mean(axis=1)
    frequency = np.fft.rfftfreq(LENGTH)
    within = frequency > 1 / 512
    slope = np.polyfit(np.log(frequency[within]), np.log(power[within]), 1)[0]
    assert slope == pytest.approx(-color, abs=0.06)


def test_columns_are_independent_and_steps_are_not(drawn) -> None:
    color, noise = drawn
    across = np.corrcoef(noise[::100, :40].ravel(), noise[::100, 40:80].ravel())[0, 1]
    assert abs(across) < 0.25
    after = np.mean(noise[1:] * noise[:-1]) / np.mean(noise**2)
    expected = {0.0: 0.0, 0.5: 0.363, 1.0: 0.825, 1.5: 0.972}[color]  # of the exact spectrum
    assert after == pytest.approx(expected, abs=0.02)


def test_a_color_beyond_the_range_is_refused_with_the_number() -> None:
    with pytest.raises(ValueError, match=r"color must be in \[0, 2\], got 2.5"):
        colored_noise(np.zeros((10, 3), np.float32), jax.random.key(0), color=2.5)
