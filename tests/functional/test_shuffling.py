"""Random order: each number once, and no order more likely than another."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from scipy import stats
from tests.helpers import few

from surefoot.functional import random_permutation

LEVEL = 1e-4  # the streams are fixed, so a test that passes passes always


def orders(size: int, count: int, seed: int = 0) -> np.ndarray:
    """[count, size], each from a key of its own."""
    keys = jax.random.split(jax.random.key(seed), count)
    return np.asarray(jax.jit(jax.vmap(lambda key: random_permutation(key, size)))(keys))


@pytest.mark.parametrize("size", few(3, [1, 2, 31, 64, 65, 100, 257, 300]))
def test_every_number_appears_once(size: int) -> None:
    drawn = orders(size, 200, seed=size)
    assert drawn.dtype == np.int32
    np.testing.assert_array_equal(np.sort(drawn), np.tile(np.arange(size), (200, 1)))


@pytest.mark.parametrize("size", [3, 4, 5])
def test_every_order_of_a_few_is_as_likely(size: int) -> None:
    drawn = orders(size, 24_000)
    names = {order: i for i, order in enumerate(itertools.permutations(range(size)))}
    counts = np.bincount([names[tuple(row)] for row in drawn], minlength=len(names))
    assert stats.chisquare(counts).pvalue > LEVEL


@pytest.mark.parametrize("size", [24, 64, 100])
def test_every_number_is_as_likely_at_every_place(size: int) -> None:
    drawn = orders(size, 20_000)
    counts = np.stack([np.bincount(column, minlength=size) for column in drawn.T])
    # rows and columns of the table of counts sum to the same: (size - 1)^2 are free
    statistic = np.sum((counts - 20_000 / size) ** 2) / (20_000 / size)
    assert stats.chi2.sf(statistic, (size - 1) ** 2) > LEVEL
    assert stats.chi2.cdf(statistic, (size - 1) ** 2) > LEVEL


@pytest.mark.parametrize("size", [64, 100, 2048])
def test_neighbours_part_as_in_a_uniform_shuffle(size: int) -> None:
    drawn = orders(size, 4_000)
    place = np.argsort(drawn, axis=1)
    # how far apart, around the circle, two rows that were next to each other come to lie
    for one, other in ((0, 1), (size // 2 - 1, size // 2), (size - 2, size - 1), (0, size // 2)):
        apart = (place[:, one] - place[:, other]) % size
        groups = np.minimum((apart - 1) * 16 // (size - 1), 15)
        wanted = np.bincount(np.arange(size - 1) * 16 // (size - 1)) / (size - 1) * 4_000
        assert stats.chisquare(np.bincount(groups, minlength=16), wanted).pvalue > LEVEL


def test_minibatches_mix_as_the_hypergeometric_law_says() -> None:
    # 32 minibatches of 64 rows: how many rows of the first quarter are in the first minibatch
    first = (orders(2048, 4_000)[:, :64] < 512).sum(1)
    law = stats.hypergeom(2048, 512, 64)
    edges = [0, 10, 12, 14, 15, 16, 17, 18, 20, 22, 65]
    wanted = np.diff(law.cdf(np.array(edges) - 1))
    counts, _ = np.histogram(first, bins=edges)
    assert stats.chisquare(counts, wanted / wanted.sum() * 4_000).pvalue > LEVEL


def test_keys_of_a_split_give_orders_that_do_not_agree() -> None:
    drawn = orders(1024, 200)
    agreements = [(a == b).sum() for a, b in itertools.combinations(drawn, 2)]
    assert (
        stats.chisquare(  # places where two orders agree: Poisson with mean 1
            np.bincount(np.minimum(agreements, 5), minlength=6),
            len(agreements) * np.append(stats.poisson(1).pmf(range(5)), stats.poisson(1).sf(4)),
        ).pvalue
        > LEVEL
    )


@pytest.mark.parametrize("size", [0, -1, 2**31 + 1])
def test_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="size must be in"):
        random_permutation(jax.random.key(0), size)


@pytest.mark.extended
def test_every_small_size() -> None:
    for size in range(1, 20):
        assert sorted(np.asarray(random_permutation(jax.random.key(0), size))) == list(range(size))


def test_the_largest_size() -> None:
    """Traced only: its numbers would take gigabytes."""
    order = jax.eval_shape(lambda key: random_permutation(key, 2**31), jax.random.key(0))
    assert order.shape == (2**31,)
    for size in (0, 2**31 + 1):
        with pytest.raises(ValueError, match=str(size)):
            jax.eval_shape(lambda key, size=size: random_permutation(key, size), jax.random.key(0))
