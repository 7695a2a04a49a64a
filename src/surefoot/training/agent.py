"""From options and an environment's spec to the networks of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax

from surefoot.config import Config
from surefoot.envs import ActionSpec, EnvSpec
from surefoot.errors import UserError, check_names
from surefoot.networks import (
    Actor,
    Critic,
    Normalizer,
    PolicyHead,
    make_actor,
    make_critic,
    make_normalizer,
)


@dataclass(frozen=True)
class AgentSpec:
    """What the networks read and write.

    Attributes:
        observations: sizes of the observation groups that somebody reads.
        actor_groups: the actor's, in order.
        critic_groups: the critic's, in order.
        head: the action distribution.
        action: the environment's actions.
    """

    observations: Mapping[str, int]
    actor_groups: tuple[str, ...]
    critic_groups: tuple[str, ...]
    head: PolicyHead
    action: ActionSpec

    def width(self, groups: tuple[str, ...]) -> int:
        """Features in the named groups together."""
        return sum(self.observations[name] for name in groups)


def make_agent_spec(config: Config, env: EnvSpec) -> AgentSpec:
    """Resolve observation groups and the action distribution.

    Raises:
        ValueError: a group that the task does not have, or one that nobody reads.
    """
    known = list(env.observations)
    asked = (*config.actor_groups, *config.critic_groups, *config.ignore_groups)
    check_names(asked, known, what=f"observation group of {env.name} ({', '.join(known)}):")
    for name in config.ignore_groups:
        if name in (*config.actor_groups, *config.critic_groups):
            raise UserError(f"the observation group {name!r} is both read and in ignore_groups")
    used = [name for name in known if name not in config.ignore_groups]
    usual = ["state"] if "state" in used else [n for n in used if not n.startswith("privileged")]
    actor_groups = config.actor_groups or tuple(usual)
    # a task with a `state` names its groups by the robotics custom: anything else must be asked for
    by_custom = [n for n in used if n == "state" or n.startswith("privileged")]
    critic_groups = config.critic_groups or tuple(by_custom if "state" in used else used)
    for name in used:
        if name not in actor_groups and name not in critic_groups:
            raise UserError(
                f"{env.name}: nobody reads the observation group {name!r}; name it in actor_groups "
                "or critic_groups, or in ignore_groups to leave it out on purpose"
            )
    if not actor_groups:
        raise UserError(f"{env.name}: no observation group is left for the actor among {known}")
    if config.shared_trunk and actor_groups != critic_groups:
        raise UserError(
            f"shared_trunk: the actor reads {actor_groups} and the critic {critic_groups}; "
            "they must read the same groups in the same order, or have separate networks"
        )
    continuous = env.action.kind == "continuous"
    if not continuous and (config.distribution != "gaussian" or config.state_dependent_std):
        raise UserError(
            f"{env.name} has {env.action.kind} actions: distribution and state_dependent_std are "
            "for continuous ones; leave them out"
        )
    head = PolicyHead(
        kind=config.distribution if continuous else env.action.kind,
        sizes=env.action.sizes,
        state_dependent_std=config.state_dependent_std,
        min_std=config.min_std,
    )
    sizes = {name: env.observations[name] for name in used}
    return AgentSpec(sizes, actor_groups, critic_groups, head, env.action)


def make_networks(
    config: Config, spec: AgentSpec, key: jax.Array
) -> tuple[Actor, Critic, Normalizer]:
    """Fresh networks and a normaliser that has seen nothing."""
    actor_key, critic_key = jax.random.split(key)
    common = {"activation": config.activation, "orthogonal": config.orthogonal_init}
    actor = make_actor(
        actor_key,
        spec.width(spec.actor_groups),
        spec.head,
        hidden=config.actor_hidden,
        output_scale=config.policy_output_scale,
        initial_std=config.initial_std,
        **common,
    )
    critic_hidden = config.actor_hidden if config.shared_trunk else config.critic_hidden
    critic = make_critic(critic_key, spec.width(spec.critic_groups), hidden=critic_hidden, **common)
    normalizer = make_normalizer(
        spec.observations, enabled=config.normalize_observations, clip=config.observation_clip
    )
    return actor, critic, normalizer
