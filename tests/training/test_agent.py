"""Observation groups find their readers, or an error names the one that does not."""

from __future__ import annotations

import pytest

from surefoot.config import Config
from surefoot.envs import ActionSpec, EnvSpec
from surefoot.training import make_agent_spec

ACTION = ActionSpec("continuous", (2,), low=(-1.0, -1.0), high=(1.0, 1.0), shape=(2,))


def spec(**observations: int) -> EnvSpec:
    return EnvSpec("robot", 4, observations, ACTION, in_graph=True)


def test_state_feeds_the_actor_and_everything_the_critic() -> None:
    agent = make_agent_spec(Config(), spec(state=3, privileged_state=5))
    assert agent.actor_groups == ("state",)
    assert agent.critic_groups == ("state", "privileged_state")
    assert agent.width(agent.critic_groups) == 8


def test_without_a_state_group_the_actor_reads_all_that_is_not_privileged() -> None:
    agent = make_agent_spec(Config(), spec(joints=3, camera=2, privileged_contact=5))
    assert agent.actor_groups == ("joints", "camera")


def test_named_groups_are_used_in_the_order_named() -> None:
    config = Config(actor_groups=("b", "a"), critic_groups=("a",))
    agent = make_agent_spec(config, spec(a=1, b=2))
    assert agent.actor_groups == ("b", "a")
    assert agent.critic_groups == ("a",)


def test_a_group_nobody_reads_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="nobody reads the observation group 'map'"):
        make_agent_spec(Config(), spec(state=1, map=2))
    ignoring = Config(critic_groups=("state",), ignore_groups=("map",))
    assert list(make_agent_spec(ignoring, spec(state=1, map=2)).observations) == ["state"]


def test_the_actor_needs_something_to_read() -> None:
    config = Config(critic_groups=("privileged_state",))
    with pytest.raises(ValueError, match="no observation group is left for the actor"):
        make_agent_spec(config, spec(privileged_state=2))


def test_a_group_cannot_be_read_and_ignored() -> None:
    config = Config(actor_groups=("state",), ignore_groups=("state",))
    with pytest.raises(ValueError, match="'state' is both read and in ignore_groups"):
        make_agent_spec(config, spec(state=1, privileged_state=2))


def test_an_unknown_group_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match="did you mean 'privileged_state'"):
        make_agent_spec(
            Config(critic_groups=("priviledged_state",)), spec(state=1, privileged_state=2)
        )


def test_a_shared_trunk_wants_equal_groups() -> None:
    with pytest.raises(ValueError, match="same groups"):
        make_agent_spec(Config(shared_trunk=True), spec(state=1, privileged_state=2))


def test_options_of_continuous_policies_are_refused_on_discrete_actions() -> None:
    discrete = EnvSpec("task", 1, {"o": 1}, ActionSpec("discrete", (2,)), in_graph=True)
    with pytest.raises(ValueError, match="discrete actions"):
        make_agent_spec(Config(distribution="beta"), discrete)
