"""A robot's policy from what the robot measures to the targets of its joints: `surefoot export --from-state`.

What the task's functions ask of a state, such as `s.body("trunk").gravity` or `s.joints().qpos`, becomes an
input of that name. What the task, the controller and the policy remember goes in and comes out: the time,
the actions before, histories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from surefoot.agent import Policy
from surefoot.deploy import Port
from surefoot.errors import UserError
from surefoot.robots import RobotEnvironment, RobotTask, State
from surefoot.robots.environment import as_groups
from surefoot.robots.state import Episode
from surefoot.ship.graph import Graph, trace

Read = Callable[[str, tuple[int, ...]], jax.Array]
_FRAME = {"position": (3,), "rotation": (3, 3), "velocity": (3,), "angular_velocity": (3,)}
_FRAME |= {"local_velocity": (3,), "local_angular_velocity": (3,), "gravity": (3,)}
_RUNNING = "running"  # 0 in the first call of an episode: what is remembered is not yet


class Measured(State):
    """A state whose numbers are read by name.

    Args:
        env: the task's environment.
        episode: what lasts.
        read: gives numbers by name and shape.
        told: the controls before.
    """

    def __init__(
        self, env: RobotEnvironment, episode: Episode, read: Read, told: jax.Array
    ) -> None:
        super().__init__(env.robot, {}, episode, env.task.control_dt_s)
        self._read, self._told = read, told

    def __getattr__(self, name: str) -> jax.Array:
        """A field of `MjData`: only what was told is known of them."""
        if name == "ctrl":
            return self._told
        if name.startswith("_"):
            raise AttributeError(name)
        raise UserError(
            f"--from-state: {self.robot.name} reads the simulator's {name!r}, which no robot measures as "
            "such; ask for a body, site, sensor or joints instead"
        )

    def joints(self, patterns: str | Iterable[str] = "*") -> Any:
        """Hinges and slides, out of the vectors of all of them."""
        every = self.robot.scalar_joints()
        places = np.searchsorted(every, self.robot.scalar_joints(patterns))
        return _Joints(self, patterns, places, len(every))

    def joint(self, name: str) -> Any:
        """A hinge or slide."""
        index = self.robot.id("joint", name)
        every = self.robot.scalar_joints()
        if index not in every:
            raise UserError(
                f"--from-state: the joint {name!r} of {self.robot.name} is no hinge or slide"
            )
        return _Joints(self, name, int(np.searchsorted(every, index)), len(every))

    def body(self, name: str) -> Any:
        """A body's frame."""
        return _Frame(self, "body", name)

    def site(self, name: str) -> Any:
        """A site's frame."""
        return _Frame(self, "site", name)

    def geom(self, name: str) -> Any:
        """A geom's frame."""
        return _Frame(self, "geom", name)

    def sensor(self, name: str) -> jax.Array:
        """A sensor."""
        size = self.robot.model.sensor_dim[self.robot.id("sensor", name)]
        return self._read(name, (int(size),))

    def contact(self, name: str, kind: str = "") -> Any:
        """Whether and how hard something is touched."""
        return _Contact(self, name)


class _Joints:
    def __init__(self, state: Measured, patterns: Any, places: Any, count: int) -> None:
        own = (
            State.joints(state, patterns)
            if not isinstance(places, int)
            else State.joint(state, patterns)
        )
        self.home, self.lower, self.upper = own.home, own.lower, own.upper
        self._state, self._places, self._count = state, places, count

    @property
    def qpos(self) -> jax.Array:
        return self._state._read("joints.qpos", (self._count,))[self._places]

    @property
    def qvel(self) -> jax.Array:
        return self._state._read("joints.qvel", (self._count,))[self._places]

    @property
    def torque(self) -> jax.Array:
        return self._state._read("joints.torque", (self._count,))[self._places]


class _Frame:
    def __init__(self, state: Measured, kind: str, name: str) -> None:
        state.robot.id(kind, name)
        self._state, self._name = state, name

    def __getattr__(self, name: str) -> jax.Array:
        if name == "up":
            return -self.gravity[2]
        if name not in _FRAME:
            raise AttributeError(name)
        return self._state._read(f"{self._name}.{name}", _FRAME[name])


class _Contact:
    def __init__(self, state: Measured, name: str) -> None:
        self._state, self._name = state, name

    @property
    def found(self) -> jax.Array:
        return self._state._read(f"{self._name}.contact", ()) > 0

    @property
    def force(self) -> jax.Array:
        return self._state._read(f"{self._name}.force", (3,))


def value_of(state: State, name: str) -> jax.Array:
    """What an input of a graph is in a simulated state."""
    thing, _, what = name.rpartition(".")
    if thing == "joints":
        return getattr(state.joints(), what)
    if what == "contact":
        return state.contact(thing).found.astype(jnp.float32)
    if what == "force":
        return state.contact(thing).force
    for kind in ("body", "site", "geom"):
        if thing and thing in state.robot.names[kind]:
            return getattr(getattr(state, kind)(thing), what)
    return state.sensor(name)


def given_of(state: State, name: str) -> jax.Array:
    """What an input, measured or a command, is in a simulated state."""
    commands = {f"command{_suffix(path)}": x for path, x in _leaves(state.command)}
    return commands[name] if name in commands else value_of(state, name)


class RobotPolicy:
    """A policy and its task as one function, from what is measured to controls.

    Args:
        policy: the policy.
        task: its task.

    Attributes:
        env: the task's environment.
        inputs: what it reads: measured, the command, and what is carried.
        carried: names of the last.
    """

    def __init__(self, policy: Policy, task: RobotTask) -> None:
        self._policy, self._task = policy, task
        self.env = RobotEnvironment(task, 1)
        self._first = self.env._begin_one(jax.random.key(0), jnp.zeros(())).episodes
        self._measured: dict[str, Port] = {}
        commands = {f"command{_suffix(path)}": x for path, x in _leaves(self._first.command)}
        self._carry_of_policy = policy.initial_carry(1)
        before = {**self._remembered(self._first), "told": self.env.controls.rest}
        before |= {
            f"memory_{i}": x[0] for i, x in enumerate(jax.tree.leaves(self._carry_of_policy))
        }
        self._initial = {name: jnp.asarray(x) for name, x in before.items()}
        self.carried = [_RUNNING, *self._initial]
        own = [Port(name, np.shape(x), "float32") for name, x in commands.items()]
        own += [Port(_RUNNING, (), "float32", carried=True)]
        own += [Port(n, x.shape, str(x.dtype), carried=True) for n, x in self._initial.items()]

        def note(name: str, shape: tuple[int, ...]) -> jax.Array:
            self._measured[name] = Port(name, shape, "float32")
            return jnp.zeros(shape)

        given = {port.name: jax.ShapeDtypeStruct(port.shape, port.dtype) for port in own}
        jax.eval_shape(lambda given: self._step(given, note), given)
        self.inputs = [*self._measured.values(), *own]

    def __call__(self, given: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Controls, as `action`, and what is carried on."""
        return self._step(given, lambda name, shape: given[name])

    def graph(self) -> Graph:
        """The same as operations."""
        return trace(self, self.inputs, carried=self.carried)

    def _remembered(self, episode: Episode) -> dict[str, jax.Array]:
        """What goes from step to step, but for the policy's own memory."""
        kept = {"steps": episode.steps.astype(jnp.float32), "action_before": episode.action}
        kept["action_before_that"] = episode.last_action
        if episode.control.smooth is not None:
            kept["smooth_action"] = episode.control.smooth
        kept |= {f"carry{_suffix(path)}": x for path, x in _leaves(episode.carry)}
        for name, readings in episode.sensing.items():
            kept[f"history_{name}"] = readings.shown
        return kept

    def _step(self, given: Mapping[str, jax.Array], read: Read) -> dict[str, jax.Array]:
        task, env, first = self._task, self.env, given[_RUNNING] == 0
        before = {name: jnp.where(first, x, given[name]) for name, x in self._initial.items()}
        start = self._first
        command = _rebuilt(start.command, "command", given)
        carry = _rebuilt(start.carry, "carry", before)
        episode = start._replace(
            steps=before["steps"],
            command=command,
            carry=carry,
            action=before["action_before"],
            last_action=before["action_before_that"],
        )

        def state(episode: Episode) -> Measured:
            return Measured(env, episode, read, before["told"])

        if task.overrides("remember"):
            after = jax.tree.map(jnp.asarray, task.remember(state(episode)))
            kept = jax.tree.map(lambda old, new: jnp.where(first, old, new), carry, after)
            episode = episode._replace(carry=kept)
        s = state(episode)
        groups, history = as_groups(task.observe(s)), {}
        for name in task.sensing:  # noise, delay and losses are the robot's own
            now, shown = jnp.ravel(groups[name]), before[f"history_{name}"]
            shown = jnp.concatenate([shown[1:], now[None]])
            shown = jnp.where(first, now, shown)
            history[f"history_{name}"], groups[name] = shown, shown
        groups = {name: jnp.ravel(x).astype(jnp.float32) for name, x in groups.items()}
        reflected = task.reflect(s) if task.overrides("reflect") else None
        symmetry = env.symmetry
        if reflected is not None and symmetry:
            groups = {
                n: jnp.where(reflected, symmetry.observations[n](x), x) for n, x in groups.items()
            }
        leaves, structure = jax.tree.flatten(self._carry_of_policy)
        memory = jax.tree.unflatten(
            structure, [before[f"memory_{i}"][None] for i in range(len(leaves))]
        )
        seen = {name: groups[name][None] for name, _ in self._policy.normalizer.groups}
        choice, memory = self._policy.act(
            seen, memory, jnp.zeros(1, bool), jax.random.key(0), deterministic=True
        )
        action = choice.env_action[0]
        if reflected is not None and symmetry:
            action = jnp.where(reflected, symmetry.action(action), action)
        # as the robot hears it: a delay is the robot's own
        bound, share = task.actuation.bound, task.actuation.smoothing
        heard, smooth = jnp.clip(action, -bound, bound), {}
        if share:
            heard = share * before["smooth_action"] + (1 - share) * heard
            smooth = {"smooth_action": heard}
        episode = episode._replace(last_action=episode.action, action=action)
        told = env.controls.ctrl(task.control(state(episode), heard))
        onward = {
            "steps": before["steps"] + 1,
            "action_before": action,
            "action_before_that": before["action_before"],
            **smooth,
            "told": told,
            **{f"carry{_suffix(path)}": x for path, x in _leaves(episode.carry)},
            **history,
            **{f"memory_{i}": x[0] for i, x in enumerate(jax.tree.leaves(memory))},
        }
        onward = {
            name: x.astype(self._initial[name].dtype).reshape(self._initial[name].shape)
            for name, x in onward.items()
        }
        return {"action": told, _RUNNING: jnp.ones(()), **onward}


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(tree)


def _suffix(path: tuple[Any, ...]) -> str:
    """A leaf's place, as a name."""
    return "".join(f"_{getattr(p, 'name', getattr(p, 'key', getattr(p, 'idx', '')))}" for p in path)


def _rebuilt(tree: Any, name: str, values: Mapping[str, jax.Array]) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, x: values[f"{name}{_suffix(path)}"].astype(x.dtype), tree
    )
