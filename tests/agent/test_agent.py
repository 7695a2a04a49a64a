"""Observation groups find their readers, or an error names the one that does not."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from tests.helpers import extended

from surefoot.agent import Agent, NormalizerSpec, make_agent, value_head
from surefoot.config import Config
from surefoot.envs import ActionSpec, EnvSpec, ObservationSpec, Symmetry
from surefoot.functional import Reflection
from surefoot.networks import MemorySpec, PolicyHead, TorsoSpec, ValueHead

ACTION = ActionSpec("continuous", (2,), low=(-1.0, -1.0), high=(1.0, 1.0), shape=(2,))
DISCRETE = ActionSpec("discrete", (2,))


def spec(action: ActionSpec = ACTION, **observations: int) -> EnvSpec:
    groups = {name: ObservationSpec((size,)) for name, size in observations.items()}
    return EnvSpec("robot", 4, groups, action, in_graph=True)


def groups_of(agent: Agent) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return agent.actor.groups, agent.critic.groups


def test_state_feeds_the_actor_and_everything_the_critic() -> None:
    agent = make_agent(Config(), spec(state=3, privileged_state=5))
    assert groups_of(agent) == (("state",), ("state", "privileged_state"))
    assert agent.actor.size_in == 3
    assert agent.critic.size_in == 8


def test_without_a_state_group_the_actor_reads_all_that_is_not_privileged() -> None:
    agent = make_agent(Config(), spec(joints=3, camera=2, privileged_contact=5))
    assert agent.actor.groups == ("joints", "camera")


def test_named_groups_are_used_in_the_order_named() -> None:
    config = Config(actor_groups=("b", "a"), critic_groups=("a",))
    assert groups_of(make_agent(config, spec(a=1, b=2))) == (("b", "a"), ("a",))


def test_a_group_nobody_reads_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="nobody reads the observation group 'map'"):
        make_agent(Config(), spec(state=1, map=2))
    ignoring = Config(critic_groups=("state",), ignore_groups=("map",))
    assert list(make_agent(ignoring, spec(state=1, map=2)).observations) == ["state"]


def test_the_actor_needs_something_to_read() -> None:
    config = Config(critic_groups=("privileged_state",))
    with pytest.raises(ValueError, match="no observation group is left for the actor"):
        make_agent(config, spec(privileged_state=2))


def test_a_group_cannot_be_read_and_ignored() -> None:
    config = Config(actor_groups=("state",), ignore_groups=("state",))
    with pytest.raises(ValueError, match="'state' is both read and in ignore_groups"):
        make_agent(config, spec(state=1, privileged_state=2))


def test_an_unknown_group_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match="did you mean 'privileged_state'"):
        make_agent(Config(critic_groups=("priviledged_state",)), spec(state=1, privileged_state=2))


def test_a_shared_trunk_wants_equal_groups() -> None:
    with pytest.raises(ValueError, match="same groups"):
        make_agent(Config(shared_trunk=True), spec(state=1, privileged_state=2))


@pytest.mark.parametrize(
    "options",
    [
        {"distribution": "beta"},
        {"state_dependent_std": True},
        {"noise_color": 0.5},
        {"gsde": True},
    ],
)
def test_options_of_continuous_policies_are_refused_on_discrete_actions(options: dict) -> None:
    with pytest.raises(ValueError, match="discrete actions"):
        make_agent(Config(**options), spec(DISCRETE, o=1))


def test_torsos_and_head_are_those_of_the_options() -> None:
    config = Config(
        actor_hidden=(8, 4), critic_hidden=(6,), activation="elu", distribution="beta", min_std=0.25
    )
    agent = make_agent(config, spec(state=3, privileged_state=5))
    assert agent.actor == TorsoSpec(("state",), 3, (8, 4), "elu")
    assert agent.critic == TorsoSpec(("state", "privileged_state"), 8, (6,), "elu")
    assert agent.head == PolicyHead("beta", (2,), min_std=0.25)
    assert agent.action == ACTION
    assert make_agent(Config(), spec(DISCRETE, o=1)).head.kind == "discrete"
    dependent = make_agent(Config(state_dependent_std=True), spec(o=1))
    assert dependent.head == PolicyHead("gaussian", (2,), state_dependent_std=True)


def test_with_a_shared_trunk_the_critic_has_the_actors_layers() -> None:
    config = Config(
        actor_hidden=(8, 4),
        critic_hidden=(6,),
        shared_trunk=True,
        critic_layer_norm=True,
        critic_residual=True,
    )
    agent = make_agent(config, spec(o=3))
    assert agent.critic == agent.actor == TorsoSpec(("o",), 3, (8, 4), "tanh")


@pytest.mark.parametrize(("actor", "critic"), [(False, True), (True, False)])
@pytest.mark.parametrize("of", ["layer_norm", "residual"])
def test_a_form_is_of_whom_it_is_asked_for(actor: bool, critic: bool, of: str) -> None:
    config = Config().replace(**{f"actor_{of}": actor, f"critic_{of}": critic})
    agent = make_agent(config, spec(o=3))
    assert (getattr(agent.actor, of), getattr(agent.critic, of)) == (actor, critic)


@pytest.mark.parametrize("distribution", ["beta", "binned"])
def test_noise_that_goes_on_needs_a_gaussian(distribution: str) -> None:
    config = Config(noise_color=0.5, distribution=distribution)
    with pytest.raises(ValueError, match=rf"noise_color = 0.5 .* distribution = '{distribution}'"):
        make_agent(config, spec(o=3))


@pytest.mark.parametrize("distribution", ["beta", "binned", "tanh_gaussian"])
def test_exploration_that_follows_the_state_needs_a_gaussian(distribution: str) -> None:
    assert make_agent(Config(gsde=True), spec(o=3)).head.gsde
    with pytest.raises(ValueError, match=rf"gsde is for a Gaussian .* '{distribution}'"):
        make_agent(Config(gsde=True, distribution=distribution), spec(o=3))


def test_a_binned_head_has_an_output_for_each_value_and_begins_as_wide_as_asked() -> None:
    config = Config(distribution="binned", action_bins=41, initial_std=0.3)
    agent = make_agent(config, spec(o=3))
    assert agent.head == PolicyHead("binned", (2,), bins=41)
    assert agent.head.num_outputs == 82
    actor, _, _ = agent.init(config, jax.random.key(0))
    distribution, _ = actor.step({"o": np.zeros((1, 3), np.float32)}, (), np.ones(1, bool))
    draws = jax.vmap(distribution.sample)(jax.random.split(jax.random.key(1), 4000))
    actions = np.asarray(distribution.to_action(draws))
    assert actions.shape == (4000, 1, 2)
    np.testing.assert_allclose(actions.std(axis=0), 0.3, atol=0.02)


def test_a_histogram_critic_is_what_the_options_say_and_begins_at_zero() -> None:
    config = Config(value_loss="hl_gauss", value_bins=51, value_limit=7.0)
    assert value_head(config) == ValueHead(51, 7.0)
    assert value_head(Config(value_bins=51)) == ValueHead()
    _, critic, _ = make_agent(config, spec(o=3)).init(config, jax.random.key(0))
    inputs = {"o": np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)}
    values, _ = critic.unroll(inputs, (), np.zeros(20, bool))
    assert values.shape == (20,)
    assert np.abs(values).max() < 0.2
    follow = critic.values_after(inputs, ())
    np.testing.assert_allclose(follow, values, atol=1e-5)


@pytest.mark.parametrize(
    ("who", "actor", "critic"),
    [("both", True, True), ("actor", True, False), ("critic", False, True)],
)
def test_memory_is_of_those_who_are_to_remember(who: str, actor: bool, critic: bool) -> None:
    options = {"memory": "lstm", "memory_size": 8, "memory_layers": 2, "bptt_steps": 16}
    agent = make_agent(Config(**options, memory_for=who), spec(o=3))
    memory = MemorySpec("lstm", 8, 2, 16)
    assert agent.actor.memory == (memory if actor else None)
    assert agent.critic.memory == (memory if critic else None)
    forgetful = make_agent(Config(memory_for=who), spec(o=3))
    assert forgetful.actor.memory is forgetful.critic.memory is None


def test_integers_count_as_the_one_hot_numbers_that_networks_read() -> None:
    groups = {"o": ObservationSpec((2,), (4, 3), (0, 0)), "phase": ObservationSpec((), (5,), (0,))}
    env = EnvSpec("robot", 4, groups, ACTION, in_graph=True)
    agent = make_agent(Config(actor_hidden=(8,)), env)
    assert agent.actor.size_in == 12
    actor, critic, normalizer = agent.init(Config(actor_hidden=(8,)), jax.random.key(0))
    assert actor.torso.body.layers[0].weight.shape == (12, 8)
    seen = {"o": np.int32([[3, 2]]), "phase": np.int32([4])}
    first = np.zeros(1, bool)
    assert actor.unroll(normalizer(seen), (), first).mode().shape == (1, 2)
    assert critic.unroll(normalizer(seen), (), first)[0].shape == (1,)


SWAP = Reflection((1, 0, 2), (1.0, 1.0, -1.0))
SIDE = Reflection((1, 0), (1.0, 1.0))


def mirrored(**observations: int) -> EnvSpec:
    """An environment that says what its mirror image is."""
    plain = spec(**observations)
    groups = {name: SWAP if name == "state" else Reflection((0,), (-1.0,)) for name in observations}
    return dataclasses.replace(plain, symmetry=Symmetry(groups, SIDE))


@pytest.mark.parametrize("how", [extended("average"), "augment"])
def test_a_symmetry_is_that_of_the_groups_that_are_read(how: str) -> None:
    config = Config(symmetry=how, actor_hidden=(4,), critic_hidden=(4,))
    agent = make_agent(config, mirrored(state=3, privileged_state=1))
    assert agent.symmetry is not None
    assert [name for name, _ in agent.symmetry.inputs] == ["state", "privileged_state"]
    actor, _, normalizer = agent.init(config, jax.random.key(0))
    assert normalizer.spec.reflections == agent.symmetry.inputs
    policy = agent.policy(actor, normalizer)
    assert (actor.symmetry is not None) == (how == "average")
    if actor.symmetry is not None:
        assert actor.symmetry.inputs == (("state", SWAP),)
        assert actor.symmetry.action == SIDE
        described = policy.spec()
        described.check()
        with pytest.raises(ValueError, match=r"symmetry of a gaussian head, .*gsde True"):
            dataclasses.replace(
                described, head=dataclasses.replace(described.head, gsde=True)
            ).check()
    # moments are those of rows and their images together, of the groups that the actor reads
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    both = {"state": rows, "privileged_state": rows[:, :1]}
    seen = agent.policy(actor, normalizer.update(both, np.ones(4, bool))).normalizer
    image = np.asarray(SWAP(rows))
    np.testing.assert_allclose(
        seen({"state": image})["state"], SWAP(seen({"state": rows})["state"]), atol=1e-5
    )
    assert {name for name, _ in policy.normalizer.groups} == {"state"}


def test_without_the_option_a_symmetry_is_left_alone() -> None:
    agent = make_agent(Config(), mirrored(state=3))
    assert agent.symmetry is None
    actor, _, normalizer = agent.init(Config(), jax.random.key(0))
    assert actor.symmetry is None
    assert normalizer.spec.reflections is None


@pytest.mark.parametrize(
    ("env", "options", "words"),
    [
        (spec(state=3), {}, "does not say what its mirror image is"),
        (mirrored(state=3), {"distribution": "beta"}, "not for beta"),
    ],
)
def test_a_symmetry_that_cannot_be_used_is_refused(env: EnvSpec, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_agent(Config(symmetry="average", **options), env)


def test_fresh_networks_are_those_of_the_options_and_the_key() -> None:
    config = Config(actor_hidden=(8,), critic_hidden=(6,), initial_std=0.3, observation_clip=2.5)
    agent = make_agent(config, spec(state=3, privileged_state=5))
    actor, critic, normalizer = agent.init(config, jax.random.key(0))
    assert actor.torso.body.layers[0].weight.shape == (3, 8)
    assert critic.torso.body.layers[0].weight.shape == (8, 6)
    assert normalizer.spec == NormalizerSpec(True, 2.5)
    assert dict(normalizer.groups) == dict(agent.observations)
    seen = {"state": np.ones((1, 3), np.float32)}
    std = actor.unroll(seen, (), np.zeros(1, bool)).std
    np.testing.assert_allclose(std, 0.3, rtol=1e-5)
    # the policy's last layer is small, the critic's has the gain 1
    np.testing.assert_allclose(np.linalg.norm(actor.output.weight, 2), 0.01, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(critic.output.weight), 1.0, rtol=1e-4)

    def bytes_of(key: int) -> list[bytes]:
        made = agent.init(config, jax.random.key(key))
        return [np.asarray(x).tobytes() for x in jax.tree.leaves(made[:2])]

    assert bytes_of(0) == bytes_of(0)
    assert bytes_of(0) != bytes_of(1)


def test_a_group_without_a_number_is_refused_unless_it_is_left_out() -> None:
    action = ActionSpec("discrete", (2,), dtype="int32")
    groups = {"seen": ObservationSpec((2,)), "none": ObservationSpec((0,))}
    spec = EnvSpec("ours", 1, groups, action, in_graph=True)
    with pytest.raises(
        ValueError, match=r"ours: the observation group 'none' of shape .0,. is empty"
    ):
        make_agent(Config(), spec)
    assert make_agent(Config(ignore_groups=("none",)), spec).actor.groups == ("seen",)
