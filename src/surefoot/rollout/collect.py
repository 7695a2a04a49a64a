"""Collecting: one acting step, driven by a scan inside the graph or by a loop on the host."""

from __future__ import annotations

import abc
import contextlib
import copy
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from surefoot import functional as F
from surefoot.agent import Act, Policy
from surefoot.envs.contract import Environment, HostPhysics, Step, as_groups
from surefoot.envs.guard import Guarded
from surefoot.rollout.packing import Packed, PolicyProgram
from surefoot.rollout.rollout import (
    CollectorState,
    Rollout,
    Transition,
    assemble,
    begins,
    lost_rows,
    start_episodes,
)


@dataclass(frozen=True)
class Exploration:
    """How actions are drawn from a policy.

    Attributes:
        deterministic: not at all: the distribution's mode.
        noise: what goes on from step to step, if anything does; none: each step's own.
    """

    deterministic: bool
    noise: F.Noise | None

    def act(
        self, policy: Policy, now: CollectorState, key: jax.Array
    ) -> tuple[Act, CollectorState]:
        """Actions, and the state with what policy and noise carry on."""
        drawn = {}
        if self.noise is not None:
            state, drawn["noise"] = self.noise.draw(now.noise, key, now.first)
            now = now._replace(noise=state)
        choice, carry = policy.act(
            now.observation, now.carry, now.first, key, deterministic=self.deterministic, **drawn
        )
        return choice, now._replace(carry=carry)


def start(
    env: Environment,
    carry: Any,
    key: jax.Array,
    *,
    noise: F.Noise | None = None,
    stagger_steps: int = 0,
) -> CollectorState:
    """Reset the environments.

    Args:
        env: the environments.
        carry: what the policy carries into an episode, `Policy.initial_carry`.
        key: random stream of the resets.
        noise: that goes on from step to step, if any is to; see `Exploration`.
        stagger_steps: random actions in each environment before, fewer than this.

    Returns:
        Where collecting begins. The simulators' state stays as it is, bit by bit: on the host where it
        is stepped there, with its own dtypes inside the graph.
    """
    with jax.enable_x64(env.spec.needs_float64):
        env_state, step = Guarded(env).reset(key)
        observation = as_groups(step.observation)
        if stagger_steps:
            to_stagger = jax.random.fold_in(key, 2)
            env_state, observation = _stagger(
                env, env_state, observation, to_stagger, stagger_steps
            )
        if env.spec.in_graph:
            env_state = jax.tree.map(jnp.asarray, env_state)
    observation = jax.tree.map(jnp.asarray, observation)
    count = env.spec.num_envs
    first, episodes = jnp.ones(count, bool), start_episodes(count)
    explores = () if noise is None else noise.init(jax.random.fold_in(key, 1), count)
    return CollectorState(env_state, observation, first, carry, episodes, explores)


def _stagger(
    env: Environment, env_state: Any, observation: Any, key: jax.Array, most: int
) -> tuple[Any, dict[str, np.ndarray]]:
    """State and observations after random actions, in each environment a random number of them below `most`.

    What ends on the way begins anew, at the end too.
    """
    spec, guarded = env.spec, Guarded(env)
    to_ages, to_actions = jax.random.split(key)
    ages = np.asarray(jax.random.randint(to_ages, (spec.num_envs,), 0, most, jnp.int32))
    seen = {name: np.array(group) for name, group in observation.items()}
    ended, age = np.zeros(spec.num_envs, bool), 0
    while (rows := (age < ages) | ended).any():
        with jax.enable_x64(False):  # the same actions, whatever the simulator needs
            canonical = spec.action.random(jax.random.fold_in(to_actions, age), (spec.num_envs,))
            action = spec.action.widen(spec.action.narrow.to_env(canonical))
        env_state, step = guarded.step_rows(env_state, action, rows)
        for name, group in as_groups(step.observation).items():
            seen[name][rows] = np.asarray(group)[rows]
        if spec.autoreset == "next_step":
            ended = np.where(rows, step.terminated | step.truncated, ended)
        age += 1
    return env_state, seen


class Collector(abc.ABC):
    """Steps all environments `num_steps` times; called with a policy, a state and a random stream."""

    @abc.abstractmethod
    def __call__(
        self, policy: Policy, state: CollectorState, key: jax.Array
    ) -> tuple[CollectorState, Rollout]:
        """Where collecting goes on, and what was collected."""

    @abc.abstractmethod
    def on(self, env: Environment) -> Collector:
        """The same on environments made anew; compiled again only where they are part of the program."""


def make_collector(
    env: Environment,
    *,
    num_steps: int,
    deterministic: bool = False,
    noise: F.Noise | None = None,
) -> Collector:
    """A collector for the environments.

    The simulator is inside the jitted program where it can be, else a host loop steps it around a
    jitted `act`, which takes in what of the environment can be traced; all give the same rollout for the
    same keys.
    """
    explore = Exploration(deterministic, noise)
    if isinstance(env, HostPhysics):
        return _PhysicsCollector(env, num_steps, explore)
    make = _GraphCollector if env.spec.in_graph else _HostCollector
    return make(env, num_steps, explore)


def _result(step: Step) -> Step:
    """A step as rows keep it: its observation goes on in the state, here it would be stored twice."""
    final = step.final_observation
    return step._replace(
        observation=None, final_observation=None if final is None else as_groups(final)
    )


def _row(before: CollectorState, choice: Act, step: Step) -> Transition:
    return Transition(before.observation, choice.raw_action, choice.log_prob, _result(step))


class _GraphCollector(Collector):
    def __init__(self, env: Environment, num_steps: int, explore: Exploration) -> None:
        self._env, self._num_steps, self._explore = env, num_steps, explore
        self._program = jax.jit(self._collect)

    def __call__(
        self, policy: Policy, state: CollectorState, key: jax.Array
    ) -> tuple[CollectorState, Rollout]:
        """One program; 64-bit types are for the simulator's calls, everything of ours is float32."""
        with jax.enable_x64(True) if self._env.spec.needs_float64 else contextlib.nullcontext():
            return self._program(policy, state, key)

    def on(self, env: Environment) -> Collector:
        """See `Collector.on`."""
        return _GraphCollector(env, self._num_steps, self._explore)

    def _collect(
        self, policy: Policy, state: CollectorState, key: jax.Array
    ) -> tuple[CollectorState, Rollout]:
        spec, env = self._env.spec, Guarded(self._env)

        def one_step(now: CollectorState, step_key: jax.Array) -> tuple[Any, Transition]:
            choice, acted = self._explore.act(policy, now, step_key)
            action = choice.env_action.astype(spec.action.dtype)
            env_state, step = env.step(now.env_state, action)
            observation, first = as_groups(step.observation), begins(step, spec.autoreset)
            after = acted._replace(env_state=env_state, observation=observation, first=first)
            return after, _row(now, choice, step)

        keys = jax.random.split(key, self._num_steps)
        after, rows = jax.lax.scan(one_step, state._replace(episodes=None), keys)
        rollout, after = assemble(rows, state, after, spec.autoreset)
        return after, rollout


class _HostCollector(Collector):
    def __init__(self, env: Environment, num_steps: int, explore: Exploration) -> None:
        self._env, self._num_steps = env, num_steps
        self._guarded = Guarded(env)

        def act(policy: Policy, now: CollectorState, key: jax.Array) -> tuple[Act, Any, Any]:
            choice, acted = explore.act(policy, now, key)
            return choice, acted.carry, acted.noise

        self._act = PolicyProgram(act)
        self._finish = jax.jit(assemble, static_argnums=3)
        self._split = jax.jit(jax.random.split, static_argnums=1)

    def __call__(
        self, policy: Policy, state: CollectorState, key: jax.Array
    ) -> tuple[CollectorState, Rollout]:
        """A loop on the host."""
        env, spec = self._guarded, self._env.spec
        before, env_state = state._replace(env_state=None), state.env_state
        now, rows, act = before._replace(episodes=None), [], self._act.bind(policy)
        for step_key in self._split(key, self._num_steps):
            choice, carry, noise = act(now, step_key)
            env_state, step = env.step(env_state, spec.action.widen(choice.env_action))
            rows.append(_row(now, choice, step))
            now = now._replace(
                observation=as_groups(step.observation),
                first=begins(step, spec.autoreset),
                carry=carry,
                noise=noise,
            )
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        rollout, after = self._finish(stacked, before, now, spec.autoreset, lost_rows(stacked.step))
        return after._replace(env_state=env_state), rollout

    def on(self, env: Environment) -> Collector:
        """See `Collector.on`."""
        other = copy.copy(self)
        other._env, other._guarded = env, Guarded(env)
        return other


class _PhysicsCollector(Collector):
    """A control step is one program, which judges the last step and acts, and one call of the physics."""

    def __init__(self, env: HostPhysics, num_steps: int, explore: Exploration) -> None:
        self._env, self._num_steps, self._explore = env, num_steps, explore

        def act(policy: Policy, now: CollectorState, key: jax.Array) -> tuple[Act, Any, Any]:
            choice, acted = explore.act(policy, now, key)
            carried, told = env.command(now.env_state, choice.env_action)
            acted = acted._replace(env_state=carried, first=None)  # the next step's is another
            return choice._replace(env_action=None), acted, told

        def go_on(policy: Policy, acted: CollectorState, sensed: Any, key: jax.Array) -> Any:
            carried, step = env.judge(acted.env_state, sensed)
            first, seen = begins(step, env.spec.autoreset), as_groups(step.observation)
            now = acted._replace(env_state=carried, observation=seen, first=first)
            return Packed.of(_result(step)), act(policy, now, key)

        self._act, self._go_on = PolicyProgram(act), PolicyProgram(go_on)
        self._pack, self._finish = jax.jit(Packed.of), jax.jit(assemble, static_argnums=3)
        self._split = jax.jit(jax.random.split, static_argnums=1)

    def __call__(
        self, policy: Policy, state: CollectorState, key: jax.Array
    ) -> tuple[CollectorState, Rollout]:
        """A loop on the host."""
        env, rows = self._env, []
        act, go_on = self._act.bind(policy), self._go_on.bind(policy)
        carried, physics = state.env_state
        before = state._replace(env_state=None)
        now = state._replace(env_state=carried, episodes=None)
        with jax.enable_x64(env.spec.needs_float64):
            first_key, *keys = self._split(key, self._num_steps)
            choice, acted, told = act(now, first_key)
            for next_key in keys:
                acted, physics, sensed = self._advance(acted, physics, told)
                result, following = go_on(acted, sensed, next_key)
                rows.append((acted.observation, choice, result))
                choice, acted, told = following
            acted, physics, sensed = self._advance(acted, physics, told)
            carried, step = env.halves.judge(acted.env_state, sensed)
            rows.append((acted.observation, choice, self._pack(_result(step))))
        seen, choices, results = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        stacked = Transition(seen, choices.raw_action, choices.log_prob, results.unpack())
        last = acted._replace(env_state=None, observation=as_groups(step.observation))
        rollout, after = self._finish(
            stacked, before, last, env.spec.autoreset, lost_rows(stacked.step)
        )
        return after._replace(env_state=(carried, env.hand_over(physics))), rollout

    def _advance(self, acted: CollectorState, physics: Any, told: Any) -> tuple[Any, Any, Any]:
        (carried, physics), sensed = self._env.advance((acted.env_state, physics), told)
        return acted._replace(env_state=carried), physics, sensed

    def on(self, env: Environment) -> Collector:
        """See `Collector.on`."""
        assert isinstance(env, HostPhysics)
        return _PhysicsCollector(env, self._num_steps, self._explore)
