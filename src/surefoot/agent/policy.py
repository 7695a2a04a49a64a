"""What acts: an actor, what it reads through, and how its actions reach the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax

from surefoot.agent.normalizer import Normalizer, NormalizerSpec, make_normalizer
from surefoot.envs import ActionSpec, ObservationSpec
from surefoot.functional import PolicyReflection, distributions, finite_or_zero
from surefoot.networks import Actor, PolicyHead, TorsoSpec, make_actor


@dataclass(frozen=True)
class PolicySpec:
    """All of a policy but its numbers; what policy.json holds.

    Attributes:
        observations: the groups that the actor reads.
        torso: the actor's torso.
        head: its action distribution.
        action: the environment's actions.
        normalizer: how observations are normalized.
        symmetry: the reflection under which it is equivariant, if it is.
    """

    observations: Mapping[str, ObservationSpec]
    torso: TorsoSpec
    head: PolicyHead
    action: ActionSpec
    normalizer: NormalizerSpec
    symmetry: PolicyReflection | None = None

    def check(self) -> None:
        """Raise ValueError for what cannot be a policy."""
        sizes = {name: spec.size for name, spec in self.observations.items()}
        widths = list(sizes.values())
        if sorted(self.torso.groups) != sorted(sizes) or min(widths, default=0) < 1:
            raise ValueError(f"groups {list(self.torso.groups)} of sizes {widths}")
        if sum(widths) != self.torso.size_in:
            raise ValueError(f"size_in = {self.torso.size_in} for groups of sizes {widths}")
        self.torso.check()
        head, action = self.head, self.action
        kind = "continuous" if head.is_continuous else head.kind
        if (kind, head.sizes) != (action.kind, action.sizes):
            raise ValueError(
                f"a {head.kind} head of sizes {head.sizes} for {action.kind} actions of sizes {action.sizes}"
            )
        for name, reflection in self.normalizer.reflections or ():
            reflection.check(sizes[name] if name in sizes else len(reflection.places))
        if self.symmetry is not None:
            if sorted(name for name, _ in self.symmetry.inputs) != sorted(sizes):
                raise ValueError(f"symmetry of groups {[name for name, _ in self.symmetry.inputs]}")
            for name, reflection in self.symmetry.inputs:
                reflection.check(sizes[name])
            if self.torso.memory is not None or not head.has_std or head.gsde:
                raise ValueError(
                    f"symmetry of a {head.kind} head, memory {self.torso.memory}, gsde {head.gsde}"
                )
            self.symmetry.action.check(sum(head.sizes))

    @property
    def num_weights(self) -> int:
        """How many weights it has, its biases and moments aside."""
        return self.torso.num_weights + self.torso.size_out * self.head.num_outputs

    def template(self) -> Policy:
        """A policy of this shape, its numbers without meaning."""
        actor = make_actor(
            jax.random.key(0),
            self.torso,
            self.head,
            orthogonal=False,
            output_scale=1.0,
            initial_std=(self.head.min_std + distributions.MAX_STD) / 2,
            symmetry=self.symmetry,
        )
        normalizer = make_normalizer(self.observations, self.normalizer)
        return Policy(actor, normalizer, self.torso, self.action)


class Act(NamedTuple):
    """One action for each environment: raw, its log-probability, and as the environment wants it
    (in 32 bits, see `ActionSpec.narrow`).
    """

    raw_action: jax.Array
    log_prob: jax.Array
    env_action: jax.Array


class Policy(eqx.Module):
    """An actor with the normalizer that it reads through."""

    actor: Actor
    normalizer: Normalizer
    torso: TorsoSpec = eqx.field(static=True)
    action: ActionSpec = eqx.field(static=True)

    def initial_carry(self, num_envs: int) -> Any:
        """What the policy carries into the first step of an episode."""
        return self.torso.initial_carry(num_envs)

    def act(
        self,
        observation: Mapping[str, jax.Array],
        carry: Any,
        first: jax.Array,
        key: jax.Array,
        *,
        deterministic: bool = False,
        noise: jax.Array | None = None,
    ) -> tuple[Act, Any]:
        """Choose actions for a batch of raw observations.

        Args:
            observation: groups [N, *shape], raw; those that the actor does not read are left alone.
            carry: what the policy carried here.
            first: [N] bool, whether an episode begins here.
            key: random stream of the sampling.
            deterministic: take the distribution's mode instead of a sample.
            noise: as the distribution's `at` takes it, each number standard normal, in place of the key's
                (Gaussians alone): [N, A], or [N, F, A] where it is linear in features.

        Returns:
            The actions, and what the policy carries on.
        """
        # a number that is not finite must not reach the simulator as an action; its row is masked
        seen = {name: finite_or_zero(observation[name]) for name, _ in self.normalizer.groups}
        distribution, carry = self.actor.step(self.normalizer(seen), carry, first)
        if deterministic:
            raw = distribution.mode()
        elif noise is None:
            raw = distribution.sample(key)
        else:
            assert isinstance(
                distribution, (distributions.DiagGaussian, distributions.TanhGaussian)
            )
            raw = distribution.at(noise)
        env_action = self.action.narrow.to_env(distribution.to_action(raw))
        return Act(raw, distribution.log_prob(raw), env_action), carry

    def spec(self) -> PolicySpec:
        """All of it but its numbers."""
        normalizer = self.normalizer
        return PolicySpec(
            observations=dict(normalizer.groups),
            torso=self.torso,
            head=self.actor.head,
            action=self.action,
            normalizer=normalizer.spec,
            symmetry=self.actor.symmetry,
        )


def make_policy(
    actor: Actor, normalizer: Normalizer, torso: TorsoSpec, action: ActionSpec
) -> Policy:
    """The policy of an actor, its normalizer without the groups that the actor does not read."""
    specs = tuple((name, spec) for name, spec in normalizer.groups if name in torso.groups)
    moments = {name: normalizer.moments[name] for name, _ in specs}
    own = Normalizer(moments, specs, normalizer.spec)
    return Policy(actor, own, torso, action)
