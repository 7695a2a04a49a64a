"""A saved policy is the trained one, and damaged files are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.helpers import TINY

import surefoot
from surefoot.config import Config
from surefoot.envs import Environment, make_environment
from surefoot.rollout import Policy, act
from surefoot.services.policy_file import load_policy, save_policy
from surefoot.training import Trainer


@pytest.fixture(scope="module")
def hopper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("h") / "run"
    return surefoot.train("Hopper-v5", config=TINY, run_dir=run, progress=False).run_dir


def copy(run: Path, to: Path) -> Path:
    for name in ("policy.json", "policy.safetensors", "config.toml"):
        (to / name).write_bytes((run / name).read_bytes())
    return to


def as_trained(config: Config, env: Environment, seen: np.ndarray) -> Policy:
    """A policy with no parameter at its start, whose normalizer has seen something."""
    trainer = Trainer(config, env)
    state = trainer.fresh()
    normalizer = state.normalizer.update({"observation": seen + 1.0}, np.ones(len(seen), bool))
    policy = trainer.policy(state._replace(normalizer=normalizer))
    random = np.random.default_rng(1)

    def moved(x: jax.Array) -> jax.Array:
        return x + random.normal(size=x.shape, scale=0.1).astype(np.float32)

    return Policy(jax.tree.map(moved, policy.actor), normalizer, policy.groups)


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("Hopper-v5", {}),
        ("Hopper-v5", {"distribution": "squashed_gaussian", "state_dependent_std": True}),
        ("Hopper-v5", {"distribution": "beta", "normalize_observations": False}),
        ("gymnasium:Pendulum-v1", {}),  # its bounds are not -1 and 1
        ("probe:both", {"shared_trunk": True}),
    ],
)
def test_loaded_policy_acts_as_the_trained_one(task: str, options: dict, tmp_path: Path) -> None:

    env = make_environment(task, 4, seed=np.random.SeedSequence(0))
    size = env.spec.observations["observation"]
    observations = np.random.default_rng(0).normal(size=(32, size)).astype(np.float32) * 3
    policy = as_trained(TINY.replace(actor_hidden=(8, 4), **options), env, observations)
    save_policy(tmp_path, policy, env.spec, task=task, extra={})
    loaded = load_policy(tmp_path)
    with jax.enable_x64(True):
        expected = act(
            policy,
            {"observation": observations},
            jax.random.key(0),
            env.spec.action,
            deterministic=True,
        ).env_action
    got = loaded(observations)
    assert got.dtype == np.asarray(expected).dtype
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(loaded(observations[3]), expected[3], atol=1e-6)


def test_unbounded_actions_and_an_infinite_clip_survive_as_plain_json(tmp_path: Path) -> None:
    from surefoot.envs import ActionSpec, EnvSpec
    from surefoot.networks import PolicyHead, make_actor, make_normalizer
    from surefoot.rollout import Policy

    actor = make_actor(
        jax.random.key(0),
        3,
        PolicyHead("gaussian", (2,)),
        hidden=(4,),
        activation="tanh",
        orthogonal=True,
        output_scale=1.0,
        initial_std=0.5,
    )
    normalizer = make_normalizer({"observation": 3}, enabled=True, clip=float("inf"))
    bounds = {"low": (-1.0, float("-inf")), "high": (float("inf"), float("inf"))}
    action = ActionSpec("continuous", (2,), **bounds, shape=(2,))
    env = EnvSpec("t", 1, {"observation": 3}, action, in_graph=True)
    save_policy(tmp_path, Policy(actor, normalizer, ("observation",)), env, task="t", extra={})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    json.loads((tmp_path / "policy.json").read_text(), parse_constant=refuse)
    loaded = load_policy(tmp_path)
    assert loaded.action == action
    assert loaded.policy.normalizer.clip == float("inf")


def test_moments_of_the_normalizer_are_saved_with_it(hopper: Path) -> None:
    stored = load_file(hopper / "policy.safetensors")
    moments = {name: value for name, value in stored.items() if "moments" in name}
    assert any(np.any(value != 0) for name, value in moments.items() if name.endswith("mean"))


def test_a_policy_is_used_in_gymnasium_as_it_is(hopper: Path) -> None:
    import gymnasium

    env = gymnasium.make("Hopper-v5")
    policy = surefoot.load_policy(hopper)
    observation, _ = env.reset(seed=0)
    action = policy(observation)
    assert action.shape == env.action_space.shape
    assert env.action_space.contains(action.astype(env.action_space.dtype))
    env.step(action)


@pytest.mark.parametrize("trained", [False, pytest.param(True, marks=pytest.mark.extended)])
@pytest.mark.parametrize("task", ["gymnasium:FrozenLake-v1", "gymnasium:CliffWalking-v1"])
def test_a_discrete_observation_is_taken_as_it_comes(
    task: str, trained: bool, tmp_path: Path
) -> None:
    import gymnasium

    run = tmp_path / "run"
    if trained:
        surefoot.train(task, config=TINY, run_dir=run, progress=False)
    else:
        run.mkdir()
        made = make_environment(task, 4, seed=np.random.SeedSequence(0))
        seen = np.eye(made.spec.observations["observation"], dtype=np.float32)
        policy = as_trained(TINY, made, seen)
        save_policy(run, policy, made.spec, task=task, extra={})
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


def test_files_that_do_not_fit_are_refused(hopper: Path, tmp_path: Path) -> None:
    run = copy(hopper, tmp_path)
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

    run = copy(hopper, tmp_path)
    file = run / "policy.safetensors"
    whole = file.read_bytes()
    file.write_bytes(
        {"truncated": whole[: len(whole) // 2], "pickle": pickle.dumps([1]), "empty": b""}[damage]
    )
    with pytest.raises(ValueError, match=r"policy\.safetensors is damaged"):
        load_policy(run)


ACTION = {"kind": "continuous", "sizes": [1], "low": [-1], "high": [1], "shape": [1], "start": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99"),
        ({"head": {"kind": "gaussian"}}, "damaged"),
        ({"hidden": "wide"}, "damaged"),
        ({"observations": {}}, "damaged"),
        ({"action": ACTION | {"dtype": float("nan")}}, "is damaged"),
        ({"action": ACTION | {"dtype": "object"}}, "actions of dtype 'object'"),
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
