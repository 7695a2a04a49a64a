"""A run begins with what another has learned: the same actions on equal observations, all of it on record."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import PROBE, TINY, Recorder, metrics_of
from tests.training.helpers import After, bytes_of, trainer_for
from tests.training.test_options import CHANGES

import surefoot
from surefoot import api
from surefoot.agent import Agent, Normalizer, Policy, make_agent, save_policy
from surefoot.agent.inherit import inherit_actor
from surefoot.cli.main import main
from surefoot.config import Config, fixed_options
from surefoot.config_file import to_toml
from surefoot.envs import ActionSpec, EnvSpec, ObservationSpec, SingleEnvironment, SingleStep
from surefoot.envs.contract import Symmetry
from surefoot.errors import UserError
from surefoot.functional import Reflection
from surefoot.networks import Actor
from surefoot.services.checkpoints import read_checkpoint
from surefoot.services.run_folder import read_config
from surefoot.training import TrainState
from surefoot.warm_start import Source

pytestmark = pytest.mark.extended  # each of them trains

OPTIONS: dict[str, Any] = {"config": TINY, "checkpoint_every": 100, "progress": False}
SIZES = {"state": 3, "command": 2, "privileged_state": 4}


@dataclass(frozen=True)
class Task(SingleEnvironment):
    """Observation groups of some sizes in some order, all random; reward is the negative first action."""

    groups: tuple[tuple[str, int], ...] = tuple(SIZES.items())
    high: float = 1.0
    actions: int = 2
    name: str = "task"

    def __post_init__(self) -> None:
        object.__setattr__(self, "observations", dict(self.groups))
        bounds = {"low": (-1.0,) * self.actions, "high": (self.high,) * self.actions}
        shape = (self.actions,)
        object.__setattr__(self, "action", ActionSpec("continuous", shape, **bounds, shape=shape))

    def reset(self, key: jax.Array) -> tuple[Any, Any]:
        return jnp.int32(0), self._observe(key)

    def step(self, state: Any, action: jax.Array, key: jax.Array) -> tuple[Any, SingleStep]:
        ended = state >= 4
        return state + 1, SingleStep(self._observe(key), -action[0], ended, jnp.bool_(False))

    def _observe(self, key: jax.Array) -> dict[str, jax.Array]:
        return {
            name: 3.0 + jax.random.normal(jax.random.fold_in(key, i), (size,))
            for i, (name, size) in enumerate(sorted(self.groups))
        }


READS = {"actor_groups": ("state", "command"), "critic_groups": ("state", "privileged_state")}
GRU = {"memory": "gru", "memory_size": 4, "memory_minibatches": 2}


def trained(run: Path, task: Any = Task, **options: Any) -> Path:
    return surefoot.train(task, run_dir=run, **OPTIONS | READS | options).run_dir


def untrained(run: Path, task: Any, **options: Any) -> Path:
    """A run folder with a policy that has learned nothing but some moments."""
    config = TINY.replace(**READS | options)
    trainer = trainer_for(task, config)
    state = trainer.init()
    normalizer = state.normalizer.update(observations(dict(task.groups)), np.ones(5))
    run.mkdir()
    (run / "config.toml").write_text(to_toml(config, task="task"))
    policy = trainer.policy(state._replace(normalizer=normalizer))
    save_policy(run, policy, task="task", step=0, finished=False)
    return run


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("source") / "run")


def begun(source: Path, task: Any = Task, **options: Any) -> TrainState:
    """The state that a run begins with."""
    config = TINY.replace(**READS | {"from_run": str(source)} | options)
    return Source(config).begin().restore(trainer_for(task, config))


def policy_of(state: TrainState, task: Any = Task, **options: Any) -> Policy:
    return trainer_for(task, TINY.replace(**READS | options)).policy(state)


def observations(groups: dict[str, int] = SIZES, count: int = 5) -> dict[str, np.ndarray]:
    rows = np.random.default_rng(0)
    return {
        n: rows.normal(3.0, 1.0, (count, size)).astype(np.float32) for n, size in groups.items()
    }


def acts(policy: Policy, seen: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Actions, their log-probabilities, and those of a second step of what remembers."""
    carry, first, found = policy.initial_carry(5), np.ones(5, bool), []
    for _ in range(2):
        act, carry = policy.act(seen, carry, first, jax.random.key(0))
        found += [np.asarray(act.env_action), np.asarray(act.log_prob)]
        first = np.zeros(5, bool)
    return found


def assert_close(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


# --- the same policy


def test_a_run_begins_with_the_very_policy_of_another(source: Path, tmp_path: Path) -> None:
    policy = surefoot.load_policy(source).policy
    state = begun(source)
    assert bytes_of(policy_of(state)) == bytes_of(policy)
    assert acts(policy, observations())[0].tobytes() == (
        acts(policy_of(state), observations())[0].tobytes()
    )
    assert int(state.normalizer.moments["state"].count_low) > 0
    assert int(state.normalizer.moments["privileged_state"].count_low) == 0  # the critic's alone
    assert (state.step, state.iteration) == (0, 0)
    fresh = trainer_for(Task, TINY.replace(**READS)).init()
    assert bytes_of(state.learners["critic"]) == bytes_of(fresh.learners["critic"])
    assert bytes_of(state.learners["actor"].opt_state) == bytes_of(
        fresh.learners["actor"].opt_state
    )

    heard = Recorder()
    run = trained(tmp_path / "run", from_run=source, hooks=[heard], seed=1)
    assert heard.rows[0]["policy/first_ratio_error"] == 0.0
    said = json.loads((run / "meta.json").read_text())["from"]
    weights = hashlib.sha256((source / "policy.safetensors").read_bytes()).hexdigest()
    assert said == {
        "run": str(source),
        "task": surefoot.load_policy(source).task,
        "step": json.loads((source / "policy.json").read_text())["step"],
        "policy_sha256": weights,
        "critic": False,
    }
    assert f'from_run = "{source}"' in (run / "config.toml").read_text()


def test_groups_go_by_name_and_a_new_one_is_not_looked_at_yet(source: Path) -> None:
    sizes = {"terrain": 6, **dict(reversed(SIZES.items()))}
    task = Task(tuple(sizes.items()))
    reads = {"actor_groups": ("terrain", "command", "state")}
    state = begun(source, task, **reads)
    policy = policy_of(state, task, **reads)
    seen = observations(sizes)
    assert_close(acts(policy, seen), acts(surefoot.load_policy(source).policy, seen))
    first = policy.actor.torso.body.layers[0].weight
    assert np.all(np.asarray(first)[:6] == 0.0)
    assert int(policy.normalizer.moments["terrain"].count_low) == 0
    other = seen | {"terrain": seen["terrain"] + 1.0}
    assert acts(policy, other)[0].tobytes() == acts(policy, seen)[0].tobytes()


@pytest.mark.parametrize(
    "options",
    [
        GRU,
        {"shared_trunk": True, "critic_groups": READS["actor_groups"]},
        GRU | {"memory": "lstm", "memory_layers": 2},
        {"actor_hidden": ()},
        {"distribution": "beta"},
        {"state_dependent_std": True},
        {"gsde": True},
        {"actor_residual": True, "actor_hidden": (5, 5)},  # as wide as what it reads
    ],
    ids=str,
)
def test_whatever_the_form_of_a_policy_it_acts_as_it_did(options: dict, tmp_path: Path) -> None:
    groups = tuple(SIZES.items())
    if "shared_trunk" in options:  # nobody would read the third
        groups = groups[:2]
    task = Task(groups)
    run = untrained(tmp_path / "run", task, **options)
    turned = options | {"actor_groups": ("command", "state")}
    if "shared_trunk" in options:
        turned["critic_groups"] = turned["actor_groups"]
    policy = policy_of(begun(run, task, **turned), task, **turned)
    seen = observations(dict(groups))
    assert_close(acts(policy, seen), acts(surefoot.load_policy(run).policy, seen))


@pytest.mark.parametrize("from_critic", [False, True])
def test_observations_far_from_0_are_read_as_the_policy_knows_them(
    from_critic: bool, tmp_path: Path
) -> None:
    from tests.envs.test_origins import Far  # whose episodes begin elsewhere each time it is made

    options = OPTIONS | {"exact_resume": "on", "total_steps": 150}
    first = surefoot.train(Far, run_dir=tmp_path / "first", **options).run_dir
    after = surefoot.train(
        Far,
        run_dir=tmp_path / "second",
        **options | {"from_run": first, "from_critic": from_critic, "seed": 5},
    )
    known = surefoot.load_policy(first).observations
    assert known["observation"].origin is not None
    assert surefoot.load_policy(after.run_dir).observations == known


# --- the critic


def test_a_critic_comes_along_with_its_moments_and_its_units(source: Path) -> None:
    reads = {"critic_groups": ("privileged_state", "state")}
    state = begun(source, from_critic=True, **reads)
    last = sorted(source.glob("checkpoints/*"))[-1]
    trainer = trainer_for(Task, TINY.replace(**READS))
    before = read_checkpoint(last).restore(trainer)
    assert bytes_of(state.normalizer.moments) == bytes_of(before.normalizer.moments)
    assert bytes_of(state.reward_scaler.moments) == bytes_of(before.reward_scaler.moments)
    assert not np.any(state.reward_scaler.accumulators)
    seen = observations()
    first = np.zeros(5, bool)
    values = [
        x.learners["critic"].params.values().unroll(x.normalizer(seen), (), first)[0]
        for x in (before, state)
    ]
    assert_close([np.asarray(values[0])], [np.asarray(values[1])])
    assert bytes_of(state.learners["critic"].opt_state) != bytes_of(
        before.learners["critic"].opt_state
    )


@pytest.mark.parametrize(
    "options",
    [
        {"joint_loss": True},
        {
            "shared_trunk": True,
            "critic_groups": READS["actor_groups"],
            "ignore_groups": ("privileged_state",),
        },
        GRU,
    ],
    ids=str,
)
def test_a_critic_comes_along_whatever_its_form(options: dict, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", **options)
    state = begun(run, from_critic=True, **options)
    last = sorted(run.glob("checkpoints/*"))[-1]
    trainer = trainer_for(Task, TINY.replace(**READS | options))
    before = read_checkpoint(last).restore(trainer)
    assert [bytes_of(x.params) for x in state.learners.values()] == [
        bytes_of(x.params) for x in before.learners.values()
    ]


def test_a_critic_is_in_the_checkpoint_of_its_policy_or_is_not_had(
    source: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(source, tmp_path / "run")
    step = json.loads((run / "policy.json").read_text())["step"]
    shutil.rmtree(run / "checkpoints" / f"step-{step:012d}")
    with pytest.raises(UserError, match=f"has no checkpoint at step {step}, that of its policy"):
        begun(run, from_critic=True)
    other = sorted(run.glob("checkpoints/*"))[-1]
    state = begun(other, from_critic=True)
    assert bytes_of(policy_of(state)) == bytes_of(surefoot.load_policy(other).policy)
    manifest = json.loads((other / "manifest.json").read_text())
    agent = manifest["agent"]
    groups, critic = agent["observations"], agent["critic"]
    large = groups | {"privileged_state": groups["privileged_state"] | {"shape": [10**9]}}
    huge = {"observations": large, "critic": critic | {"size_in": 10**9 + 3}}
    (other / "manifest.json").write_text(json.dumps(manifest | {"agent": huge}))
    with pytest.raises(UserError, match="it describes a critic of 8,000,000,024 weights"):
        begun(other, from_critic=True)
    (other / "manifest.json").write_text(json.dumps(manifest | {"agent": {}}))
    with pytest.raises(UserError, match="does not describe its critic"):
        begun(other, from_critic=True)


# --- what cannot be


REFUSED: dict[str, tuple[Task, dict[str, Any], str]] = {
    "a group of another shape": (
        Task((*list(SIZES.items())[1:], ("state", 5))),
        {},
        r"the observation group 'state' has shape \(3,\) there and \(5,\) here",
    ),
    "a group that is gone": (
        Task((("state", 3), ("privileged_state", 4))),
        {"actor_groups": ("state",)},
        r"'command' of shape \(2,\), which the new one does not: it reads state \(3,\)",
    ),
    "the critic's group of another shape": (
        Task((("state", 3), ("command", 2), ("privileged_state", 7))),
        {"from_critic": True},
        r"from_critic: the observation group 'privileged_state' has shape \(4,\) there and \(7,\)",
    ),
    "other bounds": (Task(high=2.0), {}, "component 0 from -1.0 to 2.0 here, -1.0 to 1.0 there"),
    "another number of actions": (Task(actions=3), {}, r"sizes \(3,\) here, \(2,\) there"),
    "other widths": (
        Task(),
        {"actor_hidden": (4, 4), "activation": "elu"},
        r"actor_hidden = \(8,\) there, \(4, 4\) here; activation = 'tanh' there, 'elu' here. To begin "
        "with it: --actor-hidden 8 --activation tanh",
    ),
    "a memory": (Task(), GRU, "memory = 'off' there, 'gru' here.* To begin with it: --memory off$"),
    "another distribution": (
        Task(),
        {"distribution": "beta"},
        "distribution = 'gaussian' there, 'beta'",
    ),
    "another floor": (Task(), {"min_std": 0.1}, "min_std = 0.01 there, 0.1 here.*--min-std 0.01"),
    "no normalizer": (
        Task(),
        {"normalize_observations": False},
        "--normalize-observations$",
    ),
    "another critic": (
        Task(),
        {"critic_hidden": (4,), "from_critic": True},
        r"from_critic: .*critic_hidden = \(8,\) there, \(4,\) here.*--critic-hidden 8",
    ),
    "other units of rewards": (
        Task(),
        {"scale_rewards": False, "from_critic": True},
        "from_critic: .*--scale-rewards",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_both(case: str, source: Path, tmp_path: Path) -> None:
    task, options, words = REFUSED[case]
    with pytest.raises(UserError, match=words) as error:
        trained(tmp_path / "run", task, from_run=source, **options)
    assert str(error.value).startswith(f"from_run = {str(source)!r} (trained on python:")
    assert not (tmp_path / "run").exists()


FORM = [n for n, why in fixed_options().items() if "have learned in this form" in why]


@pytest.mark.parametrize(
    "option",
    # memory_for is said as another memory, and a trunk needs equal groups first
    sorted(set(FORM) & set(CHANGES) - {"memory_for", "shared_trunk"}),
)
def test_another_form_is_refused_with_both_values(
    option: str, source: Path, tmp_path: Path
) -> None:
    _, value, both = CHANGES[option]
    if both:
        source = trained(tmp_path / "source", **both)
    changed = both | {option: value, "from_critic": True}
    with pytest.raises(UserError, match=f"{option} = .* there, .* here"):
        begun(source, **changed)


def test_a_folder_that_is_no_run_and_seeds_side_by_side_are_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = [
        "train",
        PROBE,
        "--from",
        str(source.parent / "rum"),
        "--run-dir",
        str(tmp_path / "x"),
    ]
    assert main(arguments) == 2
    assert "is not a run folder (it does not exist); did you mean 'run'?" in capsys.readouterr().err
    with pytest.raises(
        UserError, match=r"from_run = .* with num_seeds = 2: seeds side by side begin"
    ):
        surefoot.train_seeds(
            PROBE, num_seeds=2, config=TINY, run_dir=tmp_path / "x", from_run=str(source)
        )
    assert not (tmp_path / "x").exists()


def test_joints_have_names(tmp_path: Path) -> None:
    options = OPTIONS | {"total_steps": 64}
    run = surefoot.train("robot:Go1Walk", run_dir=tmp_path / "run", **options).run_dir
    with pytest.raises(UserError, match=r"drives other joints: action 0 is .*FR_hip.* there and"):
        surefoot.train("robot:SpotWalk", run_dir=tmp_path / "x", from_run=run, **options)
    rough = surefoot.train("robot:Go1Rough", run_dir=tmp_path / "y", from_run=run, **options)
    assert rough.finished


# --- going on


def test_a_run_that_began_so_goes_on_exactly_without_its_source(
    source: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(source, tmp_path / "source")
    whole = trained(tmp_path / "whole", from_run=mine)
    half = shutil.copytree(whole, tmp_path / "half")
    for path in sorted(half.glob("checkpoints/*"))[1:]:
        shutil.rmtree(path)
    for file in half.glob("policy.*"):
        file.unlink()
    shutil.rmtree(mine)
    assert api.resume(half, task=Task, progress=False).finished
    assert metrics_of(half) == metrics_of(whole)
    assert (half / "policy.safetensors").read_bytes() == (whole / "policy.safetensors").read_bytes()
    assert json.loads((half / "meta.json").read_text())["from"]["run"] == str(mine)


def test_one_that_was_cut_off_before_its_first_checkpoint_begins_with_the_same_policy(
    source: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(source, tmp_path / "source")
    whole = trained(tmp_path / "whole", from_run=mine)
    young = shutil.copytree(whole, tmp_path / "young")
    shutil.rmtree(young / "checkpoints")
    for file in young.glob("policy.*"):
        file.unlink()
    other = shutil.copytree(young, tmp_path / "other")
    assert api.resume(young, task=Task, progress=False).finished
    assert metrics_of(young) == metrics_of(whole)
    api.resume(mine, task=Task, total_steps=400, progress=False)  # another policy is there now
    with pytest.raises(UserError, match=r"began with the policy of .* and another is there now"):
        api.resume(other, task=Task, progress=False)


def test_a_run_that_was_cut_off_gives_the_policy_of_its_newest_checkpoint(
    source: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(source, tmp_path / "run")
    for file in run.glob("policy.*"):
        file.unlink()
    newest = sorted(run.glob("checkpoints/*"))[-1]
    assert bytes_of(policy_of(begun(run))) == bytes_of(surefoot.load_policy(newest).policy)
    assert Source(Config(from_run=str(run))).facts["run"] == str(newest)


def test_the_file_of_options_repeats_a_run_that_began_so(source: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", from_run=source, should_stop=After(2))
    _, config = read_config(run)
    again = surefoot.train(
        Task, config=config, run_dir=tmp_path / "again", should_stop=After(2), progress=False
    )
    assert metrics_of(again.run_dir) == metrics_of(run)


# --- mirror images

MIRROR = {"state": Reflection((1, 0, 2), (1.0, 1.0, -1.0))}
OTHER = {"state": Reflection((0, 1, 2), (1.0, -1.0, -1.0))}


def mirrored(
    how: str, groups: dict[str, Reflection] = MIRROR, seed: int = 0
) -> tuple[Agent, Actor, Normalizer]:
    """An agent that knows its mirror image, and fresh networks of it."""
    action = ActionSpec("continuous", (2,), low=(-1.0,) * 2, high=(1.0,) * 2, shape=(2,))
    symmetry = Symmetry(groups, Reflection((1, 0), (1.0, 1.0)))
    seen = {"state": ObservationSpec((3,))}
    env = EnvSpec("robot", 4, seen, action, in_graph=True, symmetry=symmetry)
    config = Config(symmetry=how, actor_hidden=(4,), critic_hidden=(4,))
    agent = make_agent(config, env)
    actor, _, normalizer = agent.init(config, jax.random.key(seed))
    return agent, actor, normalizer


@pytest.mark.parametrize("how", ["off", "augment", "average"])
@pytest.mark.parametrize("before", ["off", "augment", "average"])
def test_a_policy_of_a_mirror_image_begins_one_of_the_same(before: str, how: str) -> None:
    agent, actor, normalizer = mirrored(before)
    policy = agent.policy(actor, normalizer)
    new, fresh, empty = mirrored(how, seed=1)
    if before != how:
        with pytest.raises(UserError, match=f"symmetry.*{before}.*{how}|symmetry.*{how}.*{before}"):
            inherit_actor(policy, new, fresh, empty)
        return
    kept, moments = inherit_actor(policy, new, fresh, empty)
    assert (kept.symmetry is not None) == (how == "average")
    seen = {"state": np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)}
    assert_close(acts(new.policy(kept, moments), seen), acts(policy, seen))


def test_the_mirror_image_of_another_task_is_refused() -> None:
    agent, actor, normalizer = mirrored("average")
    new, fresh, empty = mirrored("average", OTHER)
    with pytest.raises(UserError, match="the task's mirror image is another than that of"):
        inherit_actor(agent.policy(actor, normalizer), new, fresh, empty)
    # what is added to the data is the new task's own
    agent, actor, normalizer = mirrored("augment")
    new, fresh, empty = mirrored("augment", OTHER)
    inherit_actor(agent.policy(actor, normalizer), new, fresh, empty)
