"""The policy: what acts, on what it reads, and what it says of itself."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import extended

from surefoot.agent import (
    Act,
    LoadedPolicy,
    Normalizer,
    NormalizerSpec,
    Policy,
    PolicySpec,
    from_json,
    make_normalizer,
    make_policy,
    to_json,
)
from surefoot.envs import ActionSpec, EnvSpec, ObservationSpec
from surefoot.functional import PolicyReflection, Reflection, count_of
from surefoot.networks import MemorySpec, PolicyHead, TorsoSpec, make_actor

NUM_ENVS = 3
GROUPS = {
    "seen": ObservationSpec((2,)),
    "place": ObservationSpec((2,)),
    "legs": ObservationSpec((2,), choices=(2, 3), starts=(0, 0)),
}
BOX = ActionSpec("continuous", (2,), low=(-2.0, 0.0), high=(2.0, 1.0), shape=(2,))
KEY, FIRST = jax.random.key(1), np.ones(NUM_ENVS, bool)
OBSERVATION = {
    "seen": np.float32([[1, 2], [3, 4], [5, 6]]),
    "place": np.float32([[0.5, -0.5], [1.5, 0], [0, 2]]),
    "legs": np.int32([[0, 2], [1, 1], [1, 0]]),
}

learn = eqx.filter_jit(Normalizer.update)


def policy(
    groups: tuple[str, ...] = ("place",),
    *,
    kind: str = "gaussian",
    action: ActionSpec = BOX,
    memory: MemorySpec | None = None,
) -> Policy:
    torso = TorsoSpec(groups, sum(GROUPS[name].size for name in groups), (4,), "tanh", memory)
    actor = make_actor(
        jax.random.key(0),
        torso,
        PolicyHead(kind, action.sizes),
        orthogonal=True,
        output_scale=1.0,
        initial_std=1.0,
    )
    normalizer = learn(
        make_normalizer(GROUPS, NormalizerSpec(True, 10.0)), OBSERVATION, np.ones(NUM_ENVS)
    )
    return make_policy(actor, normalizer, torso, action)


def act(ours: Policy, observation: Any = OBSERVATION, **options: Any) -> Act:
    return ours.act(observation, ours.initial_carry(NUM_ENVS), FIRST, KEY, **options)[0]


def test_the_actor_reads_only_its_groups() -> None:
    ours = policy(("place",))
    spoilt = OBSERVATION | {"seen": np.full((NUM_ENVS, 2), np.nan, np.float32)}
    choices = [act(ours, o) for o in (OBSERVATION, spoilt, {"place": OBSERVATION["place"]})]
    for other in choices[1:]:
        np.testing.assert_array_equal(choices[0].raw_action, other.raw_action)
    assert np.isfinite(choices[1].log_prob).all()
    moved = act(ours, OBSERVATION | {"place": 1 + OBSERVATION["place"]})
    assert not np.isclose(moved.raw_action, choices[0].raw_action).any()


def test_a_policy_holds_moments_of_its_own_groups_alone() -> None:
    ours = policy(("legs", "place"))
    assert list(ours.normalizer.moments) == ["place", "legs"]
    assert [name for name, _ in ours.normalizer.groups] == ["place", "legs"]
    assert count_of(ours.normalizer.moments["legs"]) == NUM_ENVS


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_read_as_zero(number: float) -> None:
    spoilt, zeroed = (OBSERVATION["place"].copy() for _ in range(2))
    spoilt[1, 0], zeroed[1, 0] = number, 0.0
    ours, theirs = (act(policy(), OBSERVATION | {"place": x}) for x in (spoilt, zeroed))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()


def test_an_act_is_a_sample_its_log_probability_and_what_the_environment_takes() -> None:
    ours = policy(("seen", "legs"))
    choice = act(ours)
    distribution = ours.actor.unroll(ours.normalizer(OBSERVATION), (), FIRST)
    np.testing.assert_allclose(choice.raw_action, distribution.sample(KEY), rtol=1e-6)
    np.testing.assert_allclose(choice.log_prob, distribution.log_prob(choice.raw_action), rtol=1e-5)
    # +-1 are the bounds [-2, 2] and [0, 1]
    expected = np.clip(np.asarray(choice.raw_action) * [2, 0.5] + [0, 0.5], [-2, 0], [2, 1])
    np.testing.assert_allclose(choice.env_action, expected, rtol=1e-5, atol=1e-6)
    mode = act(ours, deterministic=True)
    np.testing.assert_allclose(mode.raw_action, distribution.mode(), rtol=1e-6)
    assert not np.isclose(mode.raw_action, choice.raw_action).any()


@pytest.mark.parametrize(
    ("kind", "action", "dtype"),
    [
        ("gaussian", dataclasses.replace(BOX, dtype="float64"), np.float32),
        ("discrete", ActionSpec("discrete", (3,), dtype="int64", start=4), np.int32),
        ("multi_binary", ActionSpec("multi_binary", (3,), shape=(3,), dtype="int8"), np.int32),
    ],
)
def test_a_program_acts_in_32_bits_whatever_the_environment_takes(
    kind: str, action: ActionSpec, dtype: Any
) -> None:
    sent = act(policy(kind=kind, action=action)).env_action
    assert sent.dtype == dtype
    assert sent.shape == (NUM_ENVS, *action.shape)
    if kind == "discrete":
        assert ((sent >= 4) & (sent <= 6)).all()


def test_a_policy_with_memory_carries_it_on_and_forgets_where_an_episode_begins() -> None:
    ours, keep = policy(memory=MemorySpec("gru", 4, 1)), np.zeros(NUM_ENVS, bool)
    nothing = ours.initial_carry(NUM_ENVS)
    assert [x.shape for x in jax.tree.leaves(nothing)] == [(NUM_ENVS, 4)]
    begun, carry = ours.act(OBSERVATION, nothing, FIRST, KEY)
    assert all(np.any(x) for x in jax.tree.leaves(carry))
    later, _ = ours.act(OBSERVATION, carry, keep, KEY)
    assert not np.isclose(later.raw_action, begun.raw_action).any()
    again, _ = ours.act(OBSERVATION, carry, FIRST, KEY)
    np.testing.assert_array_equal(again.raw_action, begun.raw_action)


def test_a_policy_without_memory_carries_nothing() -> None:
    ours = policy()
    assert ours.initial_carry(NUM_ENVS) == ()
    assert ours.act(OBSERVATION, (), FIRST, KEY)[1] == ()


@pytest.mark.parametrize(
    ("kind", "action", "groups", "memory"),
    [
        extended("gaussian", BOX, ("seen", "place"), None),
        ("beta", BOX, ("legs", "seen"), MemorySpec("gru", 3, 2)),
        extended("discrete", ActionSpec("discrete", (3,), dtype="int64", start=4), ("legs",), None),
        (
            "multi_discrete",
            ActionSpec("multi_discrete", (2, 3), shape=(2,)),
            ("place",),
            MemorySpec("lstm", 3, 1, bptt_steps=8),
        ),
    ],
)
def test_a_policys_spec_makes_a_policy_that_its_numbers_fit(
    kind: str, action: ActionSpec, groups: tuple[str, ...], memory: MemorySpec | None
) -> None:
    ours = policy(groups, kind=kind, action=action, memory=memory)
    spec = from_json(PolicySpec, to_json(ours.spec()))
    spec.check()
    assert spec == ours.spec()
    template = spec.template()
    assert jax.tree.structure(template) == jax.tree.structure(ours)
    shapes = [(x.shape, x.dtype) for x in jax.tree.leaves(template)]
    assert shapes == [(x.shape, x.dtype) for x in jax.tree.leaves(ours)]
    weights = [x for x in jax.tree.leaves(ours.actor) if x.ndim == 2]
    assert spec.num_weights == sum(weight.size for weight in weights)
    filled = jax.tree.unflatten(jax.tree.structure(template), jax.tree.leaves(ours))
    for a, b in zip(act(filled), act(ours), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"observations": {}}, r"^groups \['place'\] of sizes \[\]"),
        (
            {"observations": {}, "torso": TorsoSpec((), 2, (4,), "tanh")},
            r"^groups \[\] of sizes \[\]",
        ),
        ({"observations": {"seen": ObservationSpec((2,))}}, r"^groups \['place'\]"),
        ({"observations": {"place": ObservationSpec((3,))}}, r"^size_in = 2 .* sizes \[3\]"),
        ({"observations": {"place": ObservationSpec((0,))}}, r"^groups .* sizes \[0\]"),
        ({"torso": TorsoSpec(("place", "map"), 2, (4,), "tanh")}, "^groups"),
        ({"torso": TorsoSpec(("place",), 2, (0,), "tanh")}, "widths"),
        ({"torso": TorsoSpec(("place",), 2, (4,), "sine")}, "activation 'sine'"),
    ],
)
def test_what_cannot_be_a_policy_is_refused(changes: dict[str, Any], words: str) -> None:
    spec = policy().spec()
    spec.check()
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(spec, **changes).check()


TURN = Reflection((1, 0), (1.0, -1.0))  # which mirrored twice is another
SWAP, SWAP3 = Reflection((1, 0), (1.0, 1.0)), Reflection((1, 0, 2), (1.0, 1.0, 1.0))


def mirrored(
    *groups: str, kind: str = "gaussian", action: Reflection = SWAP, **changes: Any
) -> PolicySpec:
    """The spec of a policy that reads `place`, with a mirror image of some groups."""
    symmetry = PolicyReflection(tuple((name, SWAP) for name in groups), action)
    spec = policy(kind=kind, **changes).spec()
    return dataclasses.replace(spec, symmetry=symmetry)


def test_a_mirror_image_is_of_the_groups_that_are_read_and_of_a_head_that_has_one() -> None:
    mirrored("place").check()
    with pytest.raises(ValueError, match=r"symmetry of groups \['seen'\]"):
        mirrored("seen").check()
    with pytest.raises(ValueError, match=r"symmetry of groups \['place', 'seen'\]"):
        mirrored("place", "seen").check()
    with pytest.raises(ValueError, match="symmetry of a gaussian head, memory MemorySpec"):
        mirrored("place", memory=MemorySpec("gru", 3, 1)).check()
    with pytest.raises(ValueError, match="symmetry of a beta head"):
        mirrored("place", kind="beta").check()
    with pytest.raises(ValueError, match="a mirror image of 3 numbers for 2"):
        mirrored("place", action=SWAP3).check()


@pytest.mark.parametrize(
    ("name", "reflection", "words"),
    [
        ("place", SWAP, ""),
        ("other", SWAP3, ""),  # a group that the critic alone reads
        ("place", SWAP3, "a mirror image of 3 numbers for 2"),
        ("other", TURN, "is no mirror image"),
    ],
)
def test_moments_of_mirror_images_are_of_mirror_images(
    name: str, reflection: Reflection, words: str
) -> None:
    spec = policy().spec()
    normalizer = dataclasses.replace(spec.normalizer, reflections=((name, reflection),))
    spec = dataclasses.replace(spec, normalizer=normalizer)
    with pytest.raises(ValueError, match=words) if words else contextlib.nullcontext():
        spec.check()


def test_a_group_may_have_one_number() -> None:
    spec = policy().spec()
    torso = dataclasses.replace(spec.torso, size_in=1)
    dataclasses.replace(spec, observations={"place": ObservationSpec((1,))}, torso=torso).check()


def test_acting_is_one_program_for_all_batches_of_a_size() -> None:
    traces = []

    @jax.jit
    def program(ours: Policy, observation: Any, key: jax.Array) -> Act:
        traces.append(1)
        return ours.act(observation, (), FIRST, key)[0]

    for seed in range(3):
        program(policy(), OBSERVATION, jax.random.key(seed))
        program(policy(), jax.tree.map(jnp.asarray, OBSERVATION), jax.random.key(seed))
    assert len(traces) == 1


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e300])
def test_a_loaded_policy_refuses_numbers_that_are_not_finite(odd: float) -> None:
    loaded = LoadedPolicy(policy(("place",)), "t")
    rows = np.zeros((3, 2))
    loaded(rows)
    rows[1, 1] = odd
    with np.errstate(over="ignore"):
        with pytest.raises(
            ValueError, match=r"'place': component \[1\] of row 1 is .*must be finite"
        ):
            loaded(rows)
        with pytest.raises(ValueError, match=r"'place': component \[1\] of row 0"):
            loaded(rows[1])


@pytest.mark.parametrize("odd", [-1, 3, 2**40])
def test_a_loaded_policy_refuses_integers_that_are_none_of_its_choices(odd: int) -> None:
    loaded = LoadedPolicy(policy(("legs",)), "t")
    loaded(np.array([1, 2]))
    with pytest.raises(ValueError, match="none of the choices it was trained on"):
        loaded(np.array([1, odd]))


def test_an_environment_with_other_actions_is_refused_with_both() -> None:
    spec = EnvSpec("other", 1, {"place": GROUPS["place"]}, BOX, in_graph=False)
    loaded = LoadedPolicy(policy(("place",)), "ours")
    loaded.check_fits(spec)
    wider = dataclasses.replace(spec, action=dataclasses.replace(BOX, high=(20.0, 1.0)))
    with pytest.raises(ValueError, match=r"component 0 from -2.0 to 2.0 here, -2.0 to 20.0 there"):
        loaded.check_fits(wider)
