"""Mirror images by hand, and what is none."""

import jax.numpy as jnp
import numpy as np
import pytest

from surefoot.functional.reflection import PolicyReflection, Reflection, joined

LEGS = Reflection((1, 0, 2), (1.0, 1.0, -1.0))  # two legs change sides, a turn its sign


def test_an_image_by_hand_and_the_image_of_the_image() -> None:
    rows = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
    image = LEGS(rows)
    np.testing.assert_array_equal(image, [[2, 1, -3], [5, 4, -6]])
    assert image.dtype == np.float32
    np.testing.assert_array_equal(LEGS(image), rows)
    np.testing.assert_array_equal(LEGS.unsigned(rows), [[2, 1, 3], [5, 4, 6]])


@pytest.mark.parametrize(
    ("places", "signs", "says"),
    [
        ((0, 1), (1.0, 1.0), "of 2 numbers for 3"),
        ((0, 1, 2), (1.0, 1.0), "for 3"),
        ((0, 1), (1.0, 1.0, 1.0), "for 3"),
        ((0, 1, 3), (1.0, 1.0, 1.0), "no mirror image"),  # beyond the end
        ((0, 1, -1), (1.0, 1.0, 1.0), "no mirror image"),  # which Python would read from the end
        ((0, 1, 2), (1.0, 1.0, 0.5), "no mirror image"),
        ((1, 2, 0), (1.0, 1.0, 1.0), "no mirror image"),  # three images to come back
        ((1, 0, 2), (1.0, -1.0, 1.0), "no mirror image"),  # back with another sign
    ],
)
def test_what_is_no_mirror_image_is_refused(places, signs, says) -> None:
    with pytest.raises(ValueError, match=says):
        Reflection(places, signs).check(3)


def test_mirror_images_are_taken() -> None:
    LEGS.check(3)
    Reflection((0, 1, 2), (1.0, 1.0, 1.0)).check(3)
    Reflection((1, 0, 2), (-1.0, -1.0, 1.0)).check(3)
    assert LEGS.involution
    assert not Reflection((1, 0), (1.0, -1.0)).involution


def test_mean_and_variance_of_rows_and_their_images_together() -> None:
    rows = np.random.default_rng(0).normal([1.0, -2.0, 0.5], [1.0, 2.0, 3.0], (1000, 3))
    both = np.concatenate([rows, LEGS(rows)])
    mean, variance = LEGS.average(jnp.asarray(rows.mean(0)), jnp.asarray(rows.var(0)))
    np.testing.assert_allclose(mean, both.mean(0), atol=1e-6)
    np.testing.assert_allclose(variance, both.var(0), rtol=1e-5)


def test_one_behind_the_other_each_is_mirrored_in_itself() -> None:
    flip = Reflection((0,), (-1.0,))
    whole = joined([flip, LEGS, LEGS])
    whole.check(7)
    np.testing.assert_array_equal(whole(np.arange(1.0, 8.0)), [-1, 3, 2, -4, 6, 5, -7])


def test_the_image_of_what_a_policy_reads_has_the_groups_that_are_named() -> None:
    policy = PolicyReflection((("legs", LEGS),), Reflection((0,), (-1.0,)))
    image = policy({"legs": np.array([1.0, 2.0, 3.0]), "clock": np.zeros(2)})
    assert [*image] == ["legs"]
    np.testing.assert_array_equal(image["legs"], [2, 1, -3])
    np.testing.assert_array_equal(policy.action(np.array([0.5])), [-0.5])
