"""Minibatches of whole environments, for networks with memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from surefoot.update.batch import Batch, Carries, RowMinibatches, SequenceMinibatches

T, N = 5, 6


def batch() -> Batch:
    cells = jnp.arange(T * N, dtype=jnp.float32).reshape(T, N)
    envs = jnp.arange(N, dtype=jnp.float32)
    return Batch(
        observations={"observation": cells[..., None]},
        first=cells % 4 == 0,
        raw_actions=cells[..., None],
        old_log_probs=cells,
        advantages=cells,
        targets=cells,
        old_values=cells,
        weights=jnp.ones((T, N)),
        importance=None,
        old_distribution=None,
        carry=Carries((envs[:, None],), (envs[:, None], envs[:, None] + 100)),
    )


def test_minibatches_hold_whole_environments_each_once_with_what_they_carry() -> None:
    cut = SequenceMinibatches(3).draw(batch(), jax.random.key(0))
    assert cut.advantages.shape == (3, T, 2)
    envs = np.asarray(cut.advantages[:, 0])  # row 0 of environment i is i
    assert sorted(envs.ravel()) == list(range(N))
    np.testing.assert_array_equal(cut.advantages, np.arange(T)[:, None] * N + envs[:, None])
    np.testing.assert_array_equal(cut.observations["observation"][..., 0], cut.advantages)
    np.testing.assert_array_equal(cut.first, cut.advantages % 4 == 0)
    np.testing.assert_array_equal(cut.carry.actor[0][..., 0], envs)
    np.testing.assert_array_equal(cut.carry.critic[1][..., 0], envs + 100)


def test_every_key_gives_its_own_order() -> None:
    draw = SequenceMinibatches(3).draw
    drawn = {tuple(np.ravel(draw(batch(), jax.random.key(k)).targets[:, 0])) for k in range(8)}
    assert len(drawn) > 1


def test_rows_leave_the_carries_behind() -> None:
    flat = RowMinibatches(3).flatten(batch())
    assert flat.advantages.shape == (T * N,)
    assert not jax.tree.leaves(flat.carry)
