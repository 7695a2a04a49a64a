"""Bugs of networks that remember."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MEMORY, EXPERIENCE, BATCH = "networks/memory.py", "update/experience.py", "update/batch.py"
OF_CELLS = "tests/networks/test_memory.py"
OF_TRAINING = "tests/training/test_memory.py"
OF_BOUNDARIES = "tests/rollout/test_boundaries.py"
OF_SEQUENCES = "tests/update/test_sequences.py"
WHOLE = f"{OF_SEQUENCES}::test_minibatches_hold_whole_environments_each_once_with_what_they_carry"
REPLAYED = f"{OF_TRAINING}::test_acting_step_by_step_is_replaying_the_sequence"

MUTANTS = (
    Mutant(
        12,
        "an episode is taken to begin one step early, with its end",
        "rollout/rollout.py",
        'return ended if autoreset == "same_step" else ~step.valid & ~ended',
        "return ended",
        (f"{OF_BOUNDARIES}::test_first_marks_the_observation_of_each_reset_row_and_no_other",),
    ),
    Mutant(
        12,
        "sequences forget one step early",
        MEMORY,
        "rows = (cell.inputs(x), first, cut)",
        "rows = (cell.inputs(x), jnp.concatenate([first[1:], first[:1]]), cut)",
        (f"{OF_CELLS}::test_a_sequence_is_its_steps",),
    ),
    Mutant(
        13,
        "the bootstrap's row moves what the critic carries on",
        EXPERIENCE,
        "onward = jax.tree.map(lambda rows: rows[-2], carried)",
        "onward = jax.tree.map(lambda rows: rows[-1], carried)",
        (
            "tests/update/test_experience.py::"
            "test_what_a_critic_remembers_behind_the_last_step_goes_on_into_the_next_rollout",
        ),
    ),
    Mutant(
        14,
        "acting goes on remembering in a new episode",
        MEMORY,
        "own = cell.step(_unless(first, own), cell.inputs(x))",
        "own = cell.step(own, cell.inputs(x))",
        (f"{OF_CELLS}::test_a_sequence_is_its_steps",),
    ),
    Mutant(
        14,
        "sequences go on remembering in a new episode",
        MEMORY,
        "now = cell.step(_unless(begins, now), gates)",
        "now = cell.step(now, gates)",
        (f"{OF_CELLS}::test_nothing_is_remembered_where_an_episode_begins",),
    ),
    Mutant(
        14,
        "sequences forget one step late",
        MEMORY,
        "rows = (cell.inputs(x), first, cut)",
        "rows = (cell.inputs(x), jnp.concatenate([first[:1] & False, first[:-1]]), cut)",
        (f"{OF_CELLS}::test_a_sequence_is_its_steps",),
    ),
    Mutant(
        14,
        "the policy forgets at the end of each rollout",
        "rollout/collect.py",
        "rollout, after = assemble(rows, state, after, spec.autoreset)",
        "rollout, after = assemble(rows, state, after, spec.autoreset)\n"
        "        after = after._replace(carry=jax.tree.map(jnp.zeros_like, after.carry))",
        (
            f"{OF_BOUNDARIES}::"
            "test_what_a_policy_remembers_goes_from_step_to_step_and_from_rollout_to_rollout",
        ),
    ),
    Mutant(
        14,
        "the critic forgets at the end of each rollout",
        "training/loop.py",
        "return state._replace(critic_carry=onward), estimated",
        "return state, estimated",
        (f"{OF_TRAINING}::test_the_critic_carries_what_it_saw_of_a_rollout",),
    ),
    Mutant(
        14,
        "what the policy carried into a rollout is lost to the update",
        EXPERIENCE,
        "carry=rollout.carry,",
        "carry=jax.tree.map(jnp.zeros_like, rollout.carry),",
        (REPLAYED,),
    ),
    Mutant(
        49,
        "bptt_steps cuts no gradient",
        MEMORY,
        "now = jax.tree.map(lambda c: jnp.where(cuts, jax.lax.stop_gradient(c), c), now)",
        "now = jax.tree.map(lambda c: jnp.where(cuts, c, c), now)",
        (f"{OF_CELLS}::test_gradients_flow_back_through_so_many_steps",),
    ),
    Mutant(
        73,
        "environments are mixed in a minibatch of sequences",
        BATCH,
        "lambda x: jnp.moveaxis(x[:, order], 1, 0)",
        "lambda x: x[:, order.ravel()].reshape(count, len(x), size // count, *x.shape[2:])",
        (WHOLE,),
    ),
    Mutant(
        73,
        "sequences are shuffled apart from what was carried into them",
        BATCH,
        "carry=jax.tree.map(lambda x: x[order], batch.carry)",
        "carry=jax.tree.map(lambda x: x[jnp.arange(size).reshape(order.shape)], batch.carry)",
        (WHOLE,),
    ),
    Mutant(
        74,
        "the remainder of a minibatch of sequences is dropped",
        BATCH,
        "order = F.random_permutation(key, size).reshape(count, size // count)",
        "order = F.random_permutation(key, size).reshape(count, size // count)[:, :-1]",
        (WHOLE,),
    ),
    Mutant(
        79,
        "a loaded policy goes on remembering behind a reset",
        "agent/saved.py",
        'others have nothing to forget."""\n        self._carry = None\n',
        'others have nothing to forget."""\n',
        (f"{OF_TRAINING}::test_a_loaded_policy_remembers_until_it_is_reset",),
    ),
)
