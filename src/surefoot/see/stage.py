"""A task stepped under a player, a control step at a time, with all that can be shown of it."""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import abc
import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from surefoot.envs import Environment, make_environment
from surefoot.envs.contract import MEASURE, REWARD_TERM, Camera, as_groups, release
from surefoot.envs.gymnasium import GymnasiumEnvironment
from surefoot.envs.tasks import is_import_path
from surefoot.errors import UserError
from surefoot.robots import RobotEnvironment
from surefoot.robots.environment import compiled
from surefoot.rollout.rollout import begins
from surefoot.see.players import Player, Seen
from surefoot.training import make_streams, to_key

INTEGRATION = mujoco.mjtState.mjSTATE_INTEGRATION
_DRAWS = 256  # commands, to know between which ends they lie


class CommandPart(NamedTuple):
    """One number of a task's command.

    Attributes:
        name: with its unit, where the task says so.
        low: the least that the task draws.
        high: the most.
    """

    name: str
    low: float
    high: float


class Moment(NamedTuple):
    """A control step of N environments. In rows that are not valid an episode begins instead.

    Attributes:
        observation: groups [N, *shape] that the player acted on.
        action: [N, *shape], or controls [N, nu].
        value: [N] what the critic expected of the observation, in rewards; None: there is no critic.
        command: [N, K] numbers, see `Stage.command_parts`, that the player acted on; None: there is none.
        reward: [N].
        terms: reward terms by name, [N].
        measures: other numbers that the task logs, `success` among them, [N]; NaN: it says nothing here.
        terminated: [N] bool.
        truncated: [N] bool.
        valid: [N] bool.
        episode: [N] number of the episode, from 1 on.
        step: [N] control steps of the episode so far, this one counted.
        episode_return: [N] sum of its rewards so far.
    """

    observation: Mapping[str, np.ndarray]
    action: np.ndarray
    value: np.ndarray | None
    command: np.ndarray | None
    reward: np.ndarray
    terms: Mapping[str, np.ndarray]
    measures: Mapping[str, np.ndarray]
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray
    episode: np.ndarray
    step: np.ndarray
    episode_return: np.ndarray


class View(abc.ABC):
    """Where the bodies of a task are, for who draws them.

    Attributes:
        model: MuJoCo's model, with all that is looked at.
    """

    model: mujoco.MjModel

    @abc.abstractmethod
    def state(self, index: int) -> np.ndarray:
        """An environment's mjSTATE_INTEGRATION for `model`."""

    def put(self, index: int, data: mujoco.MjData) -> None:
        """Make `data`, of `model`, what an environment is now, with what follows from it."""
        mujoco.mj_setState(self.model, data, self.state(index), INTEGRATION)
        mujoco.mj_forward(self.model, data)


class _RobotView(View):
    def __init__(self, stage: Stage, env: RobotEnvironment) -> None:
        self._stage = stage
        self.model = compiled(env.task, looks=True).model
        ours, theirs = (mujoco.mj_stateSize(m, INTEGRATION) for m in (self.model, env.robot.model))
        assert ours == theirs, (ours, theirs)

    def state(self, index: int) -> np.ndarray:
        """See `View.state`."""
        return self._stage.env_state[1].rows[index]


class _GymnasiumView(View):
    def __init__(self, env: GymnasiumEnvironment) -> None:
        self._env = env
        self.model, _ = _simulation(env, 0)
        self._row = np.empty(mujoco.mj_stateSize(self.model, INTEGRATION))

    def state(self, index: int) -> np.ndarray:
        """See `View.state`."""
        model, data = _simulation(self._env, index)
        mujoco.mj_getState(model, data, self._row, INTEGRATION)
        return self._row.copy()


def _simulation(env: GymnasiumEnvironment, index: int) -> tuple[Any, Any]:
    """MuJoCo's model and data of a Gymnasium environment, by the names that Gymnasium gives them; or None."""
    instance: Any = env.instance(index)
    inner = None if instance is None else instance.unwrapped
    found = getattr(inner, "model", None), getattr(inner, "data", None)
    is_mujoco = isinstance(found[0], mujoco.MjModel) and isinstance(found[1], mujoco.MjData)
    return found if is_mujoco else (None, None)


class Stage:
    """Environments of a task and who acts in them; iterate over it for one `Moment` after the other.

    Args:
        env: the environments; closed with the stage.
        player: who acts.
        key: random stream of the resets.
        log: hears what goes wrong.

    Attributes:
        env: the environments.
        player: who acts; may be replaced.
        env_state: the environments' state.
        command_parts: the numbers of the task's command; none where it has none.
        control_dt_s: seconds of a control step; None: not known.
    """

    def __init__(
        self,
        env: Environment,
        player: Player,
        *,
        key: jax.Array,
        log: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.env, self.player, self._key, self._resets = env, player, key, 0
        env.log_to(log)
        self._robot = _Robot(env) if isinstance(env, RobotEnvironment) else None
        self._program = jax.jit(env.step) if env.spec.in_graph else env.step
        self.control_dt_s = env.spec.control_dt_s
        self.command_parts = () if self._robot is None else self._robot.command_parts
        self.reset()

    def reset(self) -> None:
        """Begin new episodes everywhere; Gymnasium's and EnvPool's from the seeds that they began with."""
        key = jax.random.fold_in(self._key, self._resets)
        self._resets += 1
        with jax.enable_x64(self.env.spec.needs_float64):
            self.env_state, step = self.env.reset(key)
        self._observation = jax.tree.map(np.asarray, as_groups(step.observation))
        count = self.env.spec.num_envs
        self._first = np.ones(count, bool)
        self._episode = np.ones(count, int)
        self._steps, self._returns = np.zeros(count, int), np.zeros(count)

    def hold_command(self, numbers: Sequence[float] | None) -> None:
        """Give all environments this command from now on; None: whatever the task draws."""
        assert self._robot is not None
        self._robot.hold(numbers)

    @property
    def command(self) -> np.ndarray | None:
        """[N, K] what is asked of the robots now; None where the task has no command."""
        if self._robot is None or not self.command_parts:
            return None
        return self._robot.command_of(self.env_state)

    def view(self) -> View:
        """Where the bodies are.

        Raises:
            ValueError: the task has no MuJoCo model that can be reached from here.
        """
        if isinstance(self.env, RobotEnvironment):
            return _RobotView(self, self.env)
        if isinstance(self.env, GymnasiumEnvironment) and _simulation(self.env, 0)[0] is not None:
            return _GymnasiumView(self.env)
        raise UserError(
            f"{self.env.spec.name} has no MuJoCo model that the viewer could show: --video FILE.mp4 films "
            "every task that renders"
        )

    def __iter__(self) -> Stage:
        """Itself."""
        return self

    def __next__(self) -> Moment:
        """Act, and step every environment."""
        seen = Seen(self._observation, self._first, self.env_state)
        command, action = self.command, self.player.act(seen)
        value = self.player.values(seen)
        self.env_state, step = self._step(action)
        step = jax.tree.map(np.asarray, step)
        began = ~step.valid & ~(step.terminated | step.truncated)
        self._episode = self._episode + began
        self._steps = np.where(began, 0, self._steps + 1)
        self._returns = np.where(began, 0.0, self._returns + step.reward)
        moment = Moment(
            observation=self._observation,
            action=action,
            value=value,
            command=command,
            reward=step.reward,
            terms=_named(step.info, REWARD_TERM),
            measures={
                **_named(step.info, MEASURE),
                **{n: x for n, x in step.info.items() if not n.startswith((REWARD_TERM, MEASURE))},
            },
            terminated=step.terminated,
            truncated=step.truncated,
            valid=step.valid,
            episode=self._episode,
            step=self._steps,
            episode_return=self._returns,
        )
        self._first = np.asarray(begins(step, self.env.spec.autoreset))
        self._observation = as_groups(step.observation)
        if self.env.spec.autoreset == "same_step":
            self._episode = self._episode + self._first
            self._steps = np.where(self._first, 0, self._steps)
            self._returns = np.where(self._first, 0.0, self._returns)
        return moment

    @property
    def name(self) -> str:
        """What is shown."""
        return self.env.spec.name

    @property
    def by(self) -> str:
        """Who acts."""
        return self.player.name

    @property
    def policy_step(self) -> float | None:
        """Steps of training that the policy has, if there is one and it is known."""
        return self.player.step

    @property
    def outcome(self) -> str:
        """What is to be said of the state that it is in: nothing, but of a simulation shown again."""
        return ""

    def newer(self) -> Callable[[], str] | None:
        """See `Player.newer`."""
        return self.player.newer()

    def close(self) -> None:
        """Close the environments."""
        release(self.env, warnings.warn)

    def _step(self, action: np.ndarray) -> Any:
        if self._robot is not None:
            return self._robot.step(self.env_state, action, is_ctrl=self.player.gives_controls)
        with jax.enable_x64(self.env.spec.needs_float64):
            return self._program(self.env_state, np.asarray(action, self.env.spec.action.dtype))


class _Robot:
    """Steps robots, whose commands and controls may be given from outside."""

    def __init__(self, env: RobotEnvironment) -> None:
        self._env, task = env, env.task
        self._command, self._judge = env.halves
        # the same without new commands in the middle of an episode
        still = copy.copy(env)
        still.task = task.replace(command_s=None)
        self._judge_still = jax.jit(still.judge)
        self._held: np.ndarray | None = None
        size = env.spec.action.sizes[0]
        self._no_action = np.zeros((env.spec.num_envs, size), np.float32)
        keys = jax.random.split(jax.random.key(0), _DRAWS)
        drawn = jax.jit(jax.vmap(lambda key: task.command(key, jnp.zeros(()))))(keys)
        rows = _flat(drawn, _DRAWS)
        self.command_parts = _command_parts(rows, drawn, task.command_names)

    def hold(self, numbers: Sequence[float] | None) -> None:
        """See `Stage.hold_command`."""
        if numbers is not None and len(numbers) != len(self.command_parts):
            raise UserError(
                f"a command of {len(numbers)} numbers; {self._env.spec.name} has {len(self.command_parts)}"
            )
        self._held = None if numbers is None else np.asarray(numbers, np.float32)

    def command_of(self, env_state: Any) -> np.ndarray:
        """[N, K]."""
        return _flat(env_state[0].episodes.command, self._env.spec.num_envs)

    def step(self, env_state: Any, action: np.ndarray, *, is_ctrl: bool) -> Any:
        """A control step."""
        (carried, physics), env = env_state, self._env
        with jax.enable_x64(env.spec.needs_float64):
            carried = carried._replace(episodes=self._told(carried.episodes))
            carried, told = self._command(carried, self._no_action if is_ctrl else action)
            if is_ctrl:
                told = {**told, "ctrl": action}
            (carried, physics), sensed = env.advance((carried, physics), told)
            carried = carried._replace(episodes=self._told(carried.episodes))
            judge = self._judge if self._held is None else self._judge_still
            carried, step = judge(carried, sensed)
        return (carried, physics), step

    def _told(self, episodes: Any) -> Any:
        """Episodes with the command that is held."""
        if self._held is None:
            return episodes
        leaves, structure = jax.tree.flatten(episodes.command)
        numbers, told = list(self._held), []
        for leaf in leaves:
            own = [numbers.pop(0) for _ in range(leaf[0].size)]
            rows = jnp.asarray(np.reshape(own, leaf.shape[1:]), leaf.dtype)
            told.append(jnp.broadcast_to(rows, leaf.shape))
        return episodes._replace(command=jax.tree.unflatten(structure, told))


def _flat(command: Any, count: int) -> np.ndarray:
    """Commands of `count` environments as [count, K] numbers."""
    leaves = [np.asarray(leaf, np.float64).reshape(count, -1) for leaf in jax.tree.leaves(command)]
    return np.concatenate(leaves, axis=1) if leaves else np.zeros((count, 0))


def _command_parts(rows: np.ndarray, command: Any, names: Sequence[str]) -> tuple[CommandPart, ...]:
    if len(names) != rows.shape[1]:
        found = jax.tree_util.tree_leaves_with_path(command)
        names = [
            f"command{jax.tree_util.keystr(path)}[{i}]"
            for path, leaf in found
            for i in range(leaf[0].size)
        ]
    ends = zip(names, rows.min(axis=0), rows.max(axis=0), strict=True) if rows.size else ()
    return tuple(CommandPart(name, *map(_rounded, (low, high))) for name, low, high in ends)


def _rounded(x: float) -> float:
    """To two digits: ends of what is drawn are never quite the ends of what could be."""
    return float(f"{x:.2g}")


def _named(info: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {n.removeprefix(prefix): x for n, x in info.items() if n.startswith(prefix)}


def in_gymnasium(task: Any) -> Any:
    """A task whose model can be reached: Gymnasium's own in place of EnvPool's of the same id."""
    if not isinstance(task, str) or is_import_path(task):
        return task
    name = task.removeprefix("envpool:")
    spec = gymnasium.registry.get(name)
    inside = spec is not None and str(spec.entry_point).startswith("gymnasium.envs.mujoco.")
    return f"gymnasium:{name}" if inside else task


def stage_environment(
    task: Any,
    *,
    num_envs: int = 1,
    seed: int = 0,
    env_options: Mapping[str, Any] | None = None,
    camera: Camera | None = None,
) -> Environment:
    """Environments to look at, from streams that no training with this seed uses.

    Args:
        task: what `make_environment` takes.
        num_envs: how many.
        seed: of the episodes.
        env_options: settings of the task.
        camera: how pictures are taken; none: there are none.
    """
    seeds = make_streams(seed).evaluation
    return make_environment(task, num_envs, seed=seeds, options=env_options, camera=camera)


def reset_key(seed: int) -> jax.Array:
    """The random stream of resets that goes with `stage_environment`."""
    return to_key(make_streams(seed).evaluation.spawn(1)[0])
