"""Laws of noise that goes on from step to step."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest

from surefoot.functional import HeldNoise, colored_noise, init_colored_noise

LENGTH, COLUMNS = 1024, 400


@pytest.fixture(scope="module", params=[0.0, 0.5, 1.0, 1.5])
def drawn(request: pytest.FixtureRequest) -> tuple[float, np.ndarray]:
    """A colour, and [LENGTH, COLUMNS] of its noise."""
    color = request.param
    state = init_colored_noise(jax.random.key(0), (COLUMNS,))
    keys = jax.random.split(jax.random.key(1), LENGTH)
    _, noise = jax.jit(partial(jax.lax.scan, partial(colored_noise, color=color)))(state, keys)
    return color, np.asarray(noise, np.float64)


@pytest.mark.extended
def test_every_number_is_standard_normal_from_the_first_step_on(drawn) -> None:
    _, noise = drawn
    for part in (noise[:1], noise[-1:], noise):
        ranks = np.sort(part.ravel())
        error = 5 / np.sqrt(COLUMNS)  # columns are independent, rows are not
        assert abs(part.mean()) < error
        assert abs(part.std() - 1) < error
        assert abs(np.mean(np.abs(ranks) < 1) - 0.6827) < error


@pytest.mark.extended
def test_power_falls_with_frequency_as_the_color_says(drawn) -> None:
    color, noise = drawn
    power = (np.abs(np.fft.rfft(noise, axis=0)) ** 2).mean(axis=1)
    frequency = np.fft.rfftfreq(LENGTH)
    within = frequency > 1 / 512
    slope = np.polyfit(np.log(frequency[within]), np.log(power[within]), 1)[0]
    assert slope == pytest.approx(-color, abs=0.06)


@pytest.mark.extended
def test_columns_are_independent_and_steps_are_not(drawn) -> None:
    color, noise = drawn
    across = np.corrcoef(noise[::100, :40].ravel(), noise[::100, 40:80].ravel())[0, 1]
    assert abs(across) < 0.25
    after = np.mean(noise[1:] * noise[:-1]) / np.mean(noise**2)
    expected = {0.0: 0.0, 0.5: 0.363, 1.0: 0.825, 1.5: 0.972}[color]  # of the exact spectrum
    assert after == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("steps", [1, 3])
def test_held_noise_stays_for_its_steps_and_no_longer_than_the_episode(steps: int) -> None:
    process = HeldNoise(steps, (2, 3))
    first = np.zeros((40, 5), bool)
    first[0] = True
    first[[4, 10], [1, 1]] = True
    state = process.init(jax.random.key(0), 5)
    _, noise = jax.lax.scan(
        lambda state, x: process.draw(state, *x),
        state,
        (jax.random.split(jax.random.key(1), 40), first),
    )
    for env in range(5):
        age = 0
        for t in range(1, 40):
            age = 0 if first[t, env] else (age + 1) % steps
            same = np.asarray(noise[t, env] == noise[t - 1, env])
            assert same.all() if age else not same.any()
    assert noise.shape == (40, 5, 2, 3)
    # environments and numbers each draw their own
    assert len(np.unique(noise)) == 6 * sum(
        int(first[t, env] or (t - np.flatnonzero(first[: t + 1, env])[-1]) % steps == 0)
        for t in range(40)
        for env in range(5)
    )
    _, many = process.draw(process.init(jax.random.key(3), 4000), jax.random.key(4), first[1, :1])
    assert abs(np.mean(many)) < 0.04
    assert abs(np.std(many) - 1) < 0.03


def test_held_noise_of_the_beginning_stays_for_its_steps_too() -> None:
    process = HeldNoise(3, (2,))
    begun = state = process.init(jax.random.key(0), 4)
    for key in jax.random.split(jax.random.key(1), 3):
        state, noise = process.draw(state, key, np.zeros(4, bool))
        np.testing.assert_array_equal(noise, begun.noise)
    _, noise = process.draw(state, jax.random.key(2), np.zeros(4, bool))
    assert not (noise == begun.noise).any()


def test_a_color_beyond_the_range_is_refused_with_the_number() -> None:
    with pytest.raises(ValueError, match=r"color must be in \[0, 2\], got 2.5"):
        colored_noise(np.zeros((10, 3), np.float32), jax.random.key(0), color=2.5)
