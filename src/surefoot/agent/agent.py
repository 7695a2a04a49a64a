"""The agent of a run: what its networks read and write, and the networks as they begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax

from surefoot.agent.normalizer import Normalizer, NormalizerSpec, make_normalizer
from surefoot.agent.policy import Policy, make_policy
from surefoot.config import Config
from surefoot.envs import ActionSpec, EnvSpec, ObservationSpec
from surefoot.errors import UserError, check_names
from surefoot.functional import ColoredNoise, HeldNoise, Noise, PolicyReflection
from surefoot.networks import (
    Actor,
    Critic,
    MemorySpec,
    PolicyHead,
    TorsoSpec,
    ValueHead,
    make_actor,
    make_critic,
)

_GAUSSIANS = ("gaussian", "squashed_gaussian")


@dataclass(frozen=True)
class Agent:
    """What networks read and write; the networks themselves are owned by the learners.

    Attributes:
        observations: the observation groups that somebody reads.
        actor: the actor's torso.
        critic: the critic's torso.
        head: the action distribution.
        action: the environment's actions.
        symmetry: the mirror image of what networks read and do, if it is made use of.
    """

    observations: Mapping[str, ObservationSpec]
    actor: TorsoSpec
    critic: TorsoSpec
    head: PolicyHead
    action: ActionSpec
    symmetry: PolicyReflection | None = None

    def init(self, config: Config, key: jax.Array) -> tuple[Actor, Critic, Normalizer]:
        """Fresh networks and a normalizer that has seen nothing."""
        actor_key, critic_key = jax.random.split(key)
        actor = make_actor(
            actor_key,
            self.actor,
            self.head,
            orthogonal=config.orthogonal_init,
            output_scale=config.policy_output_scale,
            initial_std=config.initial_std,
            symmetry=self._of_actor() if config.symmetry == "average" else None,
        )
        critic = make_critic(
            critic_key, self.critic, orthogonal=config.orthogonal_init, head=value_head(config)
        )
        reflections = self.symmetry.inputs if self.symmetry else None
        spec = NormalizerSpec(config.normalize_observations, config.observation_clip, reflections)
        normalizer = make_normalizer(self.observations, spec)
        return actor, critic, normalizer

    def noise(self, config: Config) -> Noise | None:
        """What exploration carries on from step to step, if anything."""
        if config.gsde:
            return HeldNoise(config.gsde_steps, self.head.std_shape(self.actor.size_out))
        if config.noise_color:
            return ColoredNoise(config.noise_color, sum(self.head.sizes))
        return None

    def _of_actor(self) -> PolicyReflection | None:
        if self.symmetry is None:
            return None
        own = tuple((name, x) for name, x in self.symmetry.inputs if name in self.actor.groups)
        return PolicyReflection(own, self.symmetry.action)

    def policy(self, actor: Actor, normalizer: Normalizer) -> Policy:
        """What acts with an actor."""
        return make_policy(actor, normalizer, self.actor, self.action)


def make_agent(config: Config, env: EnvSpec) -> Agent:
    """Resolve observation groups and the action distribution.

    Raises:
        ValueError: a group that the task does not have, or one that nobody reads.
    """
    used, actor_groups, critic_groups = _groups(config, env)
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
    if config.noise_color and not (continuous and config.distribution in _GAUSSIANS):
        raise UserError(
            f"noise_color = {config.noise_color} is for Gaussian distributions, not for {env.action.kind} "
            f"actions with distribution = {config.distribution!r}; leave it out"
        )
    if config.gsde and not (continuous and config.distribution == "gaussian"):
        raise UserError(
            f"gsde is for a Gaussian distribution, not for {env.action.kind} actions with distribution = "
            f"{config.distribution!r}; leave it out"
        )
    head = PolicyHead(
        kind=config.distribution if continuous else env.action.kind,
        sizes=env.action.sizes,
        state_dependent_std=config.state_dependent_std,
        min_std=config.min_std,
        bins=config.action_bins if config.distribution == "binned" else None,
        gsde=config.gsde,
    )

    def torso(who: str, groups: tuple[str, ...], like: str) -> TorsoSpec:
        width = sum(env.observations[name].size for name in groups)
        memory = None
        if config.memory != "off" and config.memory_for in ("both", who):
            shape = (config.memory, config.memory_size, config.memory_layers)
            memory = MemorySpec(*shape, config.bptt_steps)
        form = {of: getattr(config, f"{like}_{of}") for of in ("hidden", "layer_norm", "residual")}
        return TorsoSpec(groups, width, activation=config.activation, memory=memory, **form)

    return Agent(
        {name: env.observations[name] for name in used},
        torso("actor", actor_groups, "actor"),
        torso("critic", critic_groups, "actor" if config.shared_trunk else "critic"),
        head,
        env.action,
        _symmetry(config, env, used),
    )


def value_head(config: Config) -> ValueHead:
    """What the critic's outputs say of a value."""
    if config.value_loss == "squared":
        return ValueHead(normalized=config.normalize_values)
    return ValueHead(config.value_bins, config.value_limit)


def _symmetry(config: Config, env: EnvSpec, used: list[str]) -> PolicyReflection | None:
    """The mirror image of what networks read and do, if the options make use of it."""
    if config.symmetry == "off":
        return None
    if env.symmetry is None:
        raise UserError(
            f"symmetry = {config.symmetry!r}: {env.name} does not say what its mirror image is (a robot's "
            "task does, with `mirror`); take symmetry = 'off'"
        )
    if config.distribution not in _GAUSSIANS:
        raise UserError(
            f"symmetry = {config.symmetry!r} is for Gaussian distributions, not for "
            f"{config.distribution}; take symmetry = 'off' or one of those"
        )
    return PolicyReflection(
        tuple((name, env.symmetry.observations[name]) for name in used), env.symmetry.action
    )


def _groups(config: Config, env: EnvSpec) -> tuple[list[str], tuple[str, ...], tuple[str, ...]]:
    """The observation groups that somebody reads, the actor's, and the critic's."""
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
        if env.observations[name].size < 1:
            raise UserError(
                f"{env.name}: the observation group {name!r} of shape {env.observations[name].shape} is "
                "empty; leave it out, with ignore_groups if there are others"
            )
        if name not in actor_groups and name not in critic_groups:
            raise UserError(
                f"{env.name}: nobody reads the observation group {name!r}; name it in actor_groups "
                "or critic_groups, or in ignore_groups to leave it out on purpose"
            )
    if not actor_groups:
        raise UserError(f"{env.name}: no observation group is left for the actor among {known}")
    return used, actor_groups, critic_groups
