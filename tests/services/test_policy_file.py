"""A saved policy is the trained one, and damaged files are refused by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tests.helpers import PROBE, TINY, Recorder, extended
from tests.training.helpers import bytes_of, in_turn

import surefoot
from surefoot.agent import (
    NormalizerSpec,
    Policy,
    PolicySpec,
    from_json,
    load_policy,
    save_policy,
)
from surefoot.config import Config
from surefoot.envs import ActionSpec, Environment, EnvSpec, ObservationSpec, make_environment
from surefoot.errors import UserError
from surefoot.networks import ACTIVATIONS, MemorySpec, PolicyHead, TorsoSpec
from surefoot.training import Trainer


def as_trained(config: Config, env: Environment, seen: Any) -> Policy:
    """A policy with no parameter at its start, whose normalizer has seen something [B, ...], or groups."""
    trainer = Trainer(config, env, in_turn())
    state = trainer.init()
    groups = seen if isinstance(seen, dict) else {"observation": seen}
    count = len(next(iter(groups.values())))
    normalizer = state.normalizer.update(groups, np.ones(count, bool))
    random = np.random.default_rng(1)

    def moved(x: jax.Array) -> jax.Array:
        return x + random.normal(size=x.shape, scale=0.1).astype(np.float32)

    actor = jax.tree.map(moved, trainer.policy(state).actor)
    return trainer.agent.policy(actor, normalizer)


def some(spec: ObservationSpec, count: int = 32) -> np.ndarray:
    """Observations of a group."""
    random = np.random.default_rng(0)
    if spec.choices:
        return random.integers(spec.choices[0], size=(count, *spec.shape), dtype=np.int32)
    return (1 + 3 * random.normal(size=(count, *spec.shape))).astype(np.float32)


def saved(task: str, folder: Path, **options: Any) -> tuple[Environment, Policy]:
    """A task's environment and a policy for it, which is in the folder then."""
    env = make_environment(task, 4, seed=np.random.SeedSequence(0))
    policy = as_trained(TINY.replace(**options), env, some(env.spec.observations["observation"]))
    folder.mkdir(exist_ok=True)
    save_policy(folder, policy, task=task, step=7, finished=True)
    return env, policy


@pytest.fixture(scope="module")
def hopper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("h")
    saved("Hopper-v5", folder)
    return folder


def copy(run: Path, to: Path) -> Path:
    for name in ("policy.json", "policy.safetensors"):
        (to / name).write_bytes((run / name).read_bytes())
    return to


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("gymnasium:Pendulum-v1", {}),  # its bounds are not -1 and 1
        extended("Hopper-v5", {}),
        extended("Hopper-v5", {"distribution": "squashed_gaussian", "state_dependent_std": True}),
        extended("Hopper-v5", {"distribution": "beta", "normalize_observations": False}),
        extended("probe:both", {"shared_trunk": True}),
    ],
)
def test_loaded_policy_acts_as_the_trained_one(task: str, options: dict, tmp_path: Path) -> None:
    env, policy = saved(task, tmp_path, actor_hidden=(8, 4), **options)
    loaded = load_policy(tmp_path)
    assert loaded.task == task
    assert bytes_of(loaded.policy) == bytes_of(policy)
    assert loaded.policy.spec() == policy.spec()
    observations = some(env.spec.observations["observation"])
    carry, first = policy.initial_carry(32), np.ones(32, bool)
    seen = {"observation": observations}
    act, _ = policy.act(seen, carry, first, jax.random.key(0), deterministic=True)
    expected = env.spec.action.widen(act.env_action)
    got = loaded(observations)
    assert got.dtype == expected.dtype == env.spec.action.dtype
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(loaded(observations[3]), expected[3], atol=1e-6)


def two_groups(folder: Path, width: int = 64) -> Any:
    """A loaded policy that reads two groups; of its file most are weights."""
    spec = PolicySpec(
        observations={"near": ObservationSpec((2,)), "far": ObservationSpec((3,))},
        torso=TorsoSpec(("near", "far"), 5, (width, width), "tanh"),
        head=PolicyHead("gaussian", (1,)),
        action=ActionSpec("continuous", (1,), low=(-1.0,), high=(1.0,), shape=(1,)),
        normalizer=NormalizerSpec(True, 10.0),
    )
    save_policy(folder, spec.template(), task="t", step=0, finished=False)
    assert 4 * spec.num_weights > 0.85 * (folder / "policy.safetensors").stat().st_size
    return load_policy(folder)


def test_groups_come_in_batches_of_one_size(tmp_path: Path) -> None:
    loaded = two_groups(tmp_path)
    near, far = np.zeros((4, 2), np.float32), np.zeros((4, 3), np.float32)
    assert loaded({"near": near, "far": far}).shape == (4, 1)
    assert loaded({"near": near[0], "far": far[0]}).shape == (1,)
    for other in ({"near": near[:3], "far": far}, {"near": near[0], "far": far}):
        with pytest.raises(UserError, match="observation groups come in different batches"):
            loaded(other)


def test_a_sample_is_that_of_seed_0_unless_another_is_given(tmp_path: Path) -> None:
    loaded = two_groups(tmp_path)
    seen = {"near": np.zeros((4, 2), np.float32), "far": np.zeros((4, 3), np.float32)}
    drawn = [loaded(seen, deterministic=False, **more) for more in ({}, {"seed": 0}, {"seed": 1})]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


def test_environments_have_to_offer_what_the_policy_reads(tmp_path: Path) -> None:
    loaded = two_groups(tmp_path)
    offered = {"near": ObservationSpec((2,)), "far": ObservationSpec((3,))}
    env = EnvSpec("robot", 1, offered, loaded.action, in_graph=True)
    loaded.check_fits(env)
    loaded.check_fits(replace(env, observations=offered | {"more": ObservationSpec((1,))}))
    for odd in ({"far": ObservationSpec((3,))}, offered | {"near": ObservationSpec((4,))}):
        with pytest.raises(UserError, match=r"reads observation 'near' of size 2; robot offers"):
            loaded.check_fits(replace(env, observations=odd))


def test_training_leaves_the_policy_that_it_ends_with(tmp_path: Path) -> None:
    heard = Recorder()
    run = surefoot.train(
        PROBE, config=TINY, run_dir=tmp_path / "run", progress=False, hooks=[heard]
    ).run_dir
    assert bytes_of(load_policy(run).policy) == bytes_of(heard.policy)
    description = json.loads((run / "policy.json").read_text())
    facts = {name: description[name] for name in ("format", "task", "step", "finished")}
    assert facts == {"format": 2, "task": PROBE, "step": heard.state.step, "finished": True}


def test_unbounded_actions_and_an_infinite_clip_survive_as_plain_json(tmp_path: Path) -> None:
    bounds = {"low": (-1.0, float("-inf")), "high": (float("inf"), float("inf"))}
    spec = PolicySpec(
        observations={"observation": ObservationSpec((3,))},
        torso=TorsoSpec(("observation",), 3, (4,), "tanh"),
        head=PolicyHead("gaussian", (2,)),
        action=ActionSpec("continuous", (2,), **bounds, shape=(2,)),
        normalizer=NormalizerSpec(True, float("inf")),
    )
    save_policy(tmp_path, spec.template(), task="t", step=0, finished=False)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    json.loads((tmp_path / "policy.json").read_text(), parse_constant=refuse)
    loaded = load_policy(tmp_path)
    assert loaded.action == spec.action
    assert loaded.policy.normalizer.spec.clip == float("inf")
    assert loaded.policy.spec() == spec


def test_what_is_written_are_facts_and_the_spec_by_its_fields(hopper: Path) -> None:
    description = json.loads((hopper / "policy.json").read_text())
    facts = {name: description.pop(name) for name in FACTS}
    weights = hashlib.sha256((hopper / "policy.safetensors").read_bytes()).hexdigest()
    written = {"format": 2, "task": "Hopper-v5", "step": 7, "finished": True, "weights": weights}
    assert facts == written
    assert from_json(PolicySpec, description) == load_policy(hopper).policy.spec()


def test_moments_of_the_normalizer_are_saved_with_it(hopper: Path) -> None:
    stored = load_file(hopper / "policy.safetensors")
    moments = {name: value for name, value in stored.items() if "moments" in name}
    assert any(np.any(value != 0) for name, value in moments.items() if name.endswith("mean"))


def test_a_policy_is_used_in_gymnasium_as_it_is(hopper: Path) -> None:
    env = gymnasium.make("Hopper-v5")
    policy = surefoot.load_policy(hopper)
    observation, _ = env.reset(seed=0)
    action = policy(observation)
    assert action.shape == env.action_space.shape
    assert env.action_space.contains(action.astype(env.action_space.dtype))
    env.step(action)


@pytest.mark.parametrize("trained", [False, extended(True)])
@pytest.mark.parametrize("task", ["gymnasium:FrozenLake-v1", "gymnasium:CliffWalking-v1"])
def test_a_discrete_observation_is_taken_as_it_comes(
    task: str, trained: bool, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    if trained:
        surefoot.train(task, config=TINY, run_dir=run, progress=False)
    else:
        saved(task, run)
    policy = surefoot.load_policy(run)
    env = gymnasium.make(task.partition(":")[2])
    observation, _ = env.reset(seed=0)
    assert env.action_space.contains(int(policy(observation)))
    assert policy(np.array([0, 1, 2])).shape == (3,)
    with pytest.raises(ValueError, match=r"shape \(3, 2\), need \(\) or \(B\)"):
        policy(np.zeros((3, 2)))


def test_samples_differ_by_seed_and_the_mode_does_not(hopper: Path) -> None:
    policy = surefoot.load_policy(hopper)
    observation = np.zeros(11, np.float32)
    np.testing.assert_array_equal(policy(observation), policy(observation, seed=1))
    one, two = (policy(observation, deterministic=False, seed=s) for s in (0, 1))
    assert np.any(one != two)


def test_a_wrong_observation_is_refused_with_both_numbers(hopper: Path) -> None:
    policy = surefoot.load_policy(hopper)
    with pytest.raises(ValueError, match=r"shape \(12,\), need \(11,\)"):
        policy(np.zeros(12))
    with pytest.raises(ValueError, match="'observation' is missing"):
        policy({"state": np.zeros(11)})


def test_no_policy_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no policy"):
        load_policy(tmp_path)


def unsigned(hopper: Path, tmp_path: Path) -> Path:
    """A copy as older versions wrote it, without a checksum of its weights."""
    run = copy(hopper, tmp_path)
    description = json.loads((run / "policy.json").read_text())
    assert len(description.pop("weights")) == 64
    (run / "policy.json").write_text(json.dumps(description))
    return run


def test_any_bit_that_flips_in_the_weights_is_said(hopper: Path, tmp_path: Path) -> None:
    run = copy(hopper, tmp_path)
    file = run / "policy.safetensors"
    whole = file.read_bytes()
    for place in np.random.default_rng(0).integers(0, 8 * len(whole), 40):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << (place % 8)
        file.write_bytes(bytes(changed))
        with pytest.raises(UserError, match=r"policy\.safetensors is damaged: its checksum"):
            load_policy(run)
    file.write_bytes(whole)
    load_policy(run)


def test_a_policy_without_a_checksum_still_loads(hopper: Path, tmp_path: Path) -> None:
    observation = np.linspace(-1, 1, 11).astype(np.float32)
    old, new = load_policy(unsigned(hopper, tmp_path)), load_policy(hopper)
    np.testing.assert_array_equal(old(observation), new(observation))


def test_files_that_do_not_fit_are_refused(hopper: Path, tmp_path: Path) -> None:
    run = unsigned(hopper, tmp_path)
    arrays = load_file(run / "policy.safetensors")
    gone = dict(arrays)
    del gone["actor.output.bias"]
    save_file(gone, run / "policy.safetensors")
    with pytest.raises(ValueError, match=r"actor\.output\.bias"):
        load_policy(run)
    arrays["actor.output.bias"] = np.zeros(7, np.float32)
    save_file(arrays, run / "policy.safetensors")
    with pytest.raises(ValueError, match=r"\(7,\).*\(3,\)"):
        load_policy(run)


@pytest.mark.parametrize("damage", ["truncated", "pickle", "empty"])
def test_a_damaged_weights_file_is_refused(hopper: Path, tmp_path: Path, damage: str) -> None:
    import pickle

    run = unsigned(hopper, tmp_path)
    file = run / "policy.safetensors"
    whole = file.read_bytes()
    file.write_bytes(
        {"truncated": whole[: len(whole) // 2], "pickle": pickle.dumps([1]), "empty": b""}[damage]
    )
    with pytest.raises(ValueError, match=r"policy\.safetensors is damaged"):
        load_policy(run)


ACTION = {
    "kind": "continuous",
    "sizes": [3],
    "low": [-1.0, -1.0, -1.0],
    "high": [1.0, 1.0, 1.0],
    "shape": [3],
    "dtype": "float64",
    "start": 0,
}
TORSO = {
    "groups": ["observation"],
    "size_in": 11,
    "hidden": [8],
    "activation": "tanh",
    "memory": None,
    "layer_norm": False,
    "residual": False,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99"),
        ({"head": {"kind": "gaussian"}}, "damaged"),
        ({"torso": TORSO | {"hidden": "wide"}}, r"is damaged: PolicySpec\.torso\.hidden = 'wide'"),
        ({"torso": TORSO | {"size_in": 12}}, "is damaged: size_in = 12 for groups of sizes .11."),
        (
            {"torso": TORSO | {"hidden": [2**40]}},
            "policy.safetensors is damaged: it holds .* at most",
        ),
        ({"observations": {}}, "damaged"),
        ({"more": 1}, "is damaged: PolicySpec: 'more' is unknown"),
        ({"action": ACTION | {"dtype": float("nan")}}, "is damaged"),
        (
            {"action": ACTION | {"dtype": "object"}},
            "is damaged: action spec: dtype 'object' is none of int8, ",
        ),
    ],
)
def test_a_damaged_description_is_refused(
    hopper: Path, tmp_path: Path, change: dict, message: str
) -> None:
    run = copy(hopper, tmp_path)
    description = json.loads((run / "policy.json").read_text()) | change
    (run / "policy.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=message):
        load_policy(run)


def test_what_is_changed_above_is_what_was_written(hopper: Path) -> None:
    description = json.loads((hopper / "policy.json").read_text())
    assert description["action"] == ACTION
    assert description["torso"] == TORSO


# policy.json as the versions before format 2 wrote it
FIRST_FORMAT = {
    "format": 1,
    "task": "Hopper-v5",
    "step": 200,
    "finished": True,
    "observations": {"observation": 11},
    "encodings": {"observation": {"shape": [11], "choices": [], "starts": []}},
    "groups": ["observation"],
    "normalizer": {"enabled": True, "clip": 10.0},
    "hidden": [8],
    "activation": "tanh",
    "head": {"kind": "gaussian", "sizes": [3], "state_dependent_std": False, "min_std": 0.01},
    "action": ACTION,
}


def test_a_policy_of_format_1_is_refused_with_what_to_do(hopper: Path, tmp_path: Path) -> None:
    run = copy(hopper, tmp_path)
    file = run / "policy.json"
    file.write_text(json.dumps(FIRST_FORMAT))
    with pytest.raises(ValueError, match="format 1, this version reads 2") as error:
        load_policy(run)
    assert str(error.value) == (
        f"{file}: format 1, this version reads 2; play it with the version of Surefoot that meta.json "
        "names, or train it again (--config config.toml)"
    )


# --- whatever policy.json says


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a description: what it is in, and its name or number there."""
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


NUMBERS: list[Any] = [-1, 0, 1, 2, 3, 7, 11, 2**31, 2**40, 2**62, -(2**62), 0.5, -0.5, 1e300]
TEXTS = ["inf", "-inf", "nan", "x", "float64", "object", "gru", "discrete", "beta", "relu"]
LISTS: list[Any] = [[], [1], [-1, -3], [2**40, 3 - 2**40], [1] * 11, ["a"], {}]
LISTS.append([["observation", {"places": [9], "signs": [1.0]}]])
ODD = st.sampled_from([None, True, *NUMBERS, *TEXTS, *LISTS])


@given(
    changes=st.lists(st.tuples(st.integers(0, 999), ODD), min_size=1, max_size=3),
    drop=st.booleans(),
)
def test_whatever_a_description_says_it_is_one_error_or_a_policy_that_acts(
    hopper: Path, tmp_path_factory: pytest.TempPathFactory, changes: list, drop: bool
) -> None:
    run = copy(hopper, tmp_path_factory.mktemp("odd"))
    description = json.loads((run / "policy.json").read_text())
    for number, value in changes:
        every = list(places(description))
        inside, key = every[number % len(every)]
        if drop:
            del inside[key]
        else:
            inside[key] = value
    (run / "policy.json").write_text(json.dumps(description))
    try:
        loaded = load_policy(run)
    except UserError:
        return
    spec = loaded.policy.spec()
    assert spec == from_json(PolicySpec, {k: x for k, x in description.items() if k not in FACTS})
    narrow = np.zeros((2, *spec.action.shape), spec.action.narrow.dtype)
    assert loaded.action.widen(narrow).dtype == spec.action.dtype
    if spec.action.kind == "continuous":
        far = np.full((2, *spec.action.sizes), 5.0, np.float32)
        action = np.asarray(spec.action.narrow.to_env(far))
        assert np.isfinite(action).all()
        assert (action <= np.reshape(spec.action.high, spec.action.shape)).all()


FACTS = ("format", "task", "step", "finished", "weights")
NAN = float("nan")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("action.low", [NAN, -1.0, -1.0], "line 1: NaN is no finite number"),
        ("action.low", [2.0, -1.0, -1.0], "action component 0 has low 2.0 and high 1.0; the lower"),
        ("action.low", ["inf", -1.0, -1.0], "action component 0 has low inf and high 1.0"),
        ("action.low", ["a", -1.0, -1.0], "PolicySpec.action.low = 'a'"),
        ("action.high", [1.0, "-inf", 1.0], "low -1.0 and high -inf"),
        ("action.high", [1.0], "high has 1 bounds for 3 components"),
        ("action.sizes", [-3], "sizes .-3,. of continuous actions"),
        ("action.sizes", [], "sizes .. of continuous actions"),
        ("action.sizes", [1, 3], "sizes .1, 3. of continuous actions"),
        ("action.shape", [-1, -3], "shape .-1, -3. does not hold 3"),
        ("action.start", [1, 2, 3], "start .1, 2, 3. for 3"),
        ("action.start", 2**63 - 1, "exceeds 64 bits"),
        ("action.dtype", "U3", "dtype 'U3' is none of int8"),
        ("head.min_std", 0, "min_std 0"),
        ("head.min_std", "inf", "min_std inf"),
        ("head.sizes", [2**40], "a gaussian head of sizes .1099511627776,. for continuous actions"),
        ("head.kind", "discrete", "a discrete head of sizes .3,. for continuous actions"),
        ("normalizer.clip", NAN, "line 1: NaN is no finite number"),
        ("normalizer.clip", -1, "clip -1.0 must be above 0"),
        ("normalizer.clip", "-inf", "clip -inf must be above 0"),
        ("normalizer.clip", "wide", "PolicySpec.normalizer.clip = 'wide'"),
        ("observations.observation.shape", [-11], "observation spec: shape .-11,."),
        ("observations.observation.choices", [12, -1], "choices .12, -1."),
        ("torso.groups", ["observation", "observation"], "groups ..observation., .observation.."),
        (
            "torso.memory",
            {"kind": "gru", "size": 2**40, "layers": 2**40, "bptt_steps": None},
            "holds",
        ),
        ("torso.activation", "sin", "'sin' is none of tanh, elu, relu, swish"),
        ("task", 3, "_Facts.task = 3"),
        ("step", "7", "_Facts.step = '7'"),
    ],
    ids=str,
)
def test_what_cannot_be_a_policy_is_refused_before_anything_is_allocated(
    hopper: Path,
    tmp_path: Path,
    place: str,
    value: Any,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PolicySpec, "template", lambda _: pytest.fail("allocated"))
    run = copy(hopper, tmp_path)
    description = json.loads((run / "policy.json").read_text())
    inside, names = description, place.split(".")
    for name in names[:-1]:
        inside = inside[name]
    inside[names[-1]] = value
    (run / "policy.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=message):
        load_policy(run)


@pytest.mark.parametrize(
    "bounds",
    [*((b, b) for b in (np.nan, np.inf, -np.inf, 1e38, 0.5)), (np.nan, 1.0), (0.0, np.nan)],
)
def test_a_bound_that_leaves_no_action_is_refused(bounds: tuple[float, float]) -> None:
    low, high = bounds
    with pytest.raises(UserError, match="the lower bound must lie below"):
        ActionSpec("continuous", (1,), (low,), (high,), (1,))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(
    hopper: Path, tmp_path: Path, value: float
) -> None:
    run = unsigned(hopper, tmp_path)
    arrays = load_file(run / "policy.safetensors")
    arrays["actor.output.bias"][1] = value
    save_file(arrays, run / "policy.safetensors")
    with pytest.raises(
        UserError, match=r"policy\.safetensors is damaged: a number in it is not finite$"
    ):
        load_policy(run)


def test_where_a_checkpoint_has_a_policy_it_is_named(hopper: Path, tmp_path: Path) -> None:
    for step in (9, 10):
        (folder := tmp_path / "checkpoints" / f"step-{step:012d}").mkdir(parents=True)
        copy(hopper, folder)
    for content in (None, b"{", b"\xff"):
        if content is not None:
            copy(hopper, tmp_path)
            (tmp_path / "policy.json").write_bytes(content)
        with pytest.raises(UserError) as error:
            load_policy(tmp_path)
        assert str(error.value).endswith(f"; its newest checkpoint has one: {folder}")


@st.composite
def specs(draw: st.DrawFn) -> PolicySpec:
    """Any policy without symmetry."""
    kind = draw(st.sampled_from(["continuous", "discrete", "multi_discrete", "multi_binary"]))
    sizes = tuple(
        draw(st.lists(st.integers(2, 3), min_size=1, max_size=3 if kind == "multi_discrete" else 1))
    )
    shape = {"discrete": (), "multi_discrete": (len(sizes),)}.get(kind, sizes)
    low = high = ()
    dtype, start, head = "int64", 0, kind
    if kind == "continuous":
        bound = st.floats(-9, 9, width=32)
        pair = st.lists(bound, min_size=2, max_size=2, unique=True).map(sorted)
        bounds = [draw(pair, label="bounds") for _ in range(sizes[0])]
        low, high = zip(*bounds, strict=True)
        dtype = draw(st.sampled_from(["float32", "float64", "int32"]))
        head = draw(st.sampled_from(["gaussian", "squashed_gaussian", "beta"]))
    elif kind == "discrete":
        start = draw(st.integers(-(2**63), 2**63 - 4) | st.integers(-99, 99))
    elif kind == "multi_discrete":
        start = draw(st.tuples(*(st.integers(-99, 99) for _ in sizes)) | st.just(0))
    names = draw(
        st.lists(
            st.sampled_from(["observation", "state", "a.b", "é"]),
            min_size=1,
            max_size=2,
            unique=True,
        )
    )
    choices = st.lists(st.integers(2, 3), min_size=1, max_size=2)
    groups = {}
    for name in names:
        if draw(st.booleans()):
            counts = tuple(draw(choices))
            starts = tuple(draw(st.integers(-5, 5)) for _ in counts)
            groups[name] = ObservationSpec((len(counts),), counts, starts)
        else:
            groups[name] = ObservationSpec(tuple(draw(choices)))
    memory = draw(
        st.none()
        | st.builds(
            MemorySpec,
            st.sampled_from(["gru", "lstm"]),
            st.integers(2, 3),
            st.integers(1, 2),
            st.none() | st.integers(1, 9),
        )
    )
    return PolicySpec(
        groups,
        TorsoSpec(
            tuple(draw(st.permutations(names))),
            sum(group.size for group in groups.values()),
            tuple(draw(st.lists(st.integers(2, 3), max_size=2))),
            draw(st.sampled_from(list(ACTIVATIONS))),
            memory,
        ),
        PolicyHead(head, sizes, draw(st.booleans()), draw(st.floats(1e-3, 2.0))),
        ActionSpec(kind, sizes, tuple(low), tuple(high), shape, dtype, start),
        NormalizerSpec(draw(st.booleans()), draw(st.floats(0.1, 99) | st.just(float("inf")))),
    )


@settings(max_examples=8)
@given(spec=specs())
def test_what_is_loaded_is_what_was_saved(
    spec: PolicySpec, tmp_path_factory: pytest.TempPathFactory
) -> None:
    random = np.random.default_rng(0)
    policy = jax.tree.map(
        lambda x: jnp.asarray(random.uniform(0.1, 1.0, x.shape), x.dtype), spec.template()
    )
    folder = tmp_path_factory.mktemp("saved")
    save_policy(folder, policy, task="t", step=1, finished=False)
    loaded = load_policy(folder)
    assert loaded.policy.spec() == policy.spec() == spec
    assert loaded.action == spec.action
    assert loaded.policy.torso == spec.torso
    assert loaded.policy.actor.torso.body.activation == spec.torso.activation
    assert loaded.policy.actor.head.min_std == spec.head.min_std
    assert jax.tree.structure(loaded.policy) == jax.tree.structure(
        policy
    )  # all that is not a number
    assert bytes_of(loaded.policy) == bytes_of(policy)
