"""Who acts when a task is looked at: a run's policy, an exported one, or none at all."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from surefoot import deploy
from surefoot.agent import LoadedPolicy, Policy, load_policy
from surefoot.agent.description import from_json
from surefoot.agent.saved import WEIGHTS
from surefoot.config import Config
from surefoot.envs import ActionSpec, Environment, EnvSpec
from surefoot.errors import UserError
from surefoot.robots import RobotEnvironment
from surefoot.robots.state import State
from surefoot.services.checkpoints import Checkpoint, find_checkpoint
from surefoot.services.policy_file import policy_step
from surefoot.services.run_folder import read_config
from surefoot.services.step_folders import later_than
from surefoot.ship.robot_graph import given_of
from surefoot.training import Trainer
from surefoot.update import make_executors

AGENTS = ("zero", "random", "home")


class Seen(NamedTuple):
    """What a player acts on.

    Attributes:
        observation: groups [N, *shape], as the contract gives them.
        first: [N] bool, whether an episode begins here.
        env_state: of the environments.
    """

    observation: Mapping[str, Any]
    first: Any
    env_state: Any


class Player(abc.ABC):
    """Chooses actions for environments that are stepped together, and remembers from call to call.

    Attributes:
        name: for people.
        gives_controls: whether what it gives are controls [N, nu] of a robot's actuators, and not actions.
        step: of training that its policy is from; None: not known, or there is none.
    """

    name: str
    gives_controls: bool = False
    step: float | None = None

    @abc.abstractmethod
    def act(self, seen: Seen) -> np.ndarray:
        """Actions [N, *shape] as the environment takes them, or controls."""

    def values(self, seen: Seen) -> np.ndarray | None:
        """[N] what its critic expects of an observation; None: it has none. Once for each `act`."""
        del seen
        return None

    def newer(self) -> Callable[[], str] | None:
        """Look for a newer policy, on any thread; what takes it up at once, and says so in words."""
        return None


class Zero(Player):
    """Actions of zeros, or what is nearest to them within the bounds.

    Args:
        spec: of the environments.
    """

    name = "zero actions"

    def __init__(self, spec: EnvSpec) -> None:
        action = spec.action
        least: Any = action.start
        if action.kind == "continuous":
            least = np.clip(0.0, action.low, action.high)
        one = np.resize(least, action.shape).astype(action.dtype)
        self._action = np.stack([one] * spec.num_envs)

    def act(self, seen: Seen) -> np.ndarray:
        """See `Player.act`."""
        return self._action


class Random(Player):
    """Uniform actions within the bounds, within -1 and 1 where there are none.

    Args:
        spec: of the environments.
        key: the random stream.
    """

    name = "random actions"

    def __init__(self, spec: EnvSpec, key: jax.Array) -> None:
        action, count = spec.action, spec.num_envs
        self._key, self._calls, self._widen = key, 0, action.widen
        self._draw = jax.jit(lambda key: action.narrow.to_env(action.random(key, (count,))))

    def act(self, seen: Seen) -> np.ndarray:
        """See `Player.act`."""
        self._calls += 1
        return self._widen(self._draw(jax.random.fold_in(self._key, self._calls)))


class Home(Player):
    """A robot's controls where nothing is asked of it: position control holds the home pose.

    Args:
        env: the robot's.
    """

    name = "the home pose"
    gives_controls = True

    def __init__(self, env: RobotEnvironment) -> None:
        self._ctrl = np.tile(np.asarray(env.controls.rest), (env.spec.num_envs, 1))

    def act(self, seen: Seen) -> np.ndarray:
        """See `Player.act`."""
        return self._ctrl


class Trained(Player):
    """A policy in memory.

    Args:
        loaded: the policy.
        env: what it is to play.
        key: the random stream of its samples; None: the most likely action.

    Raises:
        ValueError: it does not fit the environment, with what both say.
    """

    def __init__(
        self, loaded: LoadedPolicy, env: Environment, key: jax.Array | None = None
    ) -> None:
        loaded.check_fits(env.spec)
        env.read_as(loaded.observations)
        self.name = f"the policy of {loaded.task}"
        self._spec, self._calls = env.spec, 0
        self._key, is_mode = jax.random.key(0) if key is None else key, key is None
        self.replace(loaded.policy)

        def act(policy: Policy, seen: Seen, carry: Any, key: jax.Array, calls: Any) -> Any:
            key = jax.random.fold_in(key, calls)
            return policy.act(seen.observation, carry, seen.first, key, deterministic=is_mode)

        self._act = jax.jit(act)

    def act(self, seen: Seen) -> np.ndarray:
        """See `Player.act`."""
        self._calls += 1
        seen = seen._replace(env_state=None)
        choice, self._carry = self._act(self._policy, seen, self._carry, self._key, self._calls)
        return self._spec.action.widen(choice.env_action)

    def replace(self, policy: Policy) -> None:
        """Go on with another policy of the same shape; what was remembered is forgotten."""
        self._policy, self._carry = policy, policy.initial_carry(self._spec.num_envs)


class OfRun(Trained):
    """The newest policy of a run, with its critic where a checkpoint holds it.

    Args:
        run: the run folder; it may be training.
        env: what it is to play.
        key: see `Trained`.

    Raises:
        ValueError: there is no policy yet, or it does not fit the environment.
    """

    def __init__(self, run: Path, env: Environment, key: jax.Array | None = None) -> None:
        self._run = run
        _, config = read_config(run)
        place, step = newest_policy(run, config)
        super().__init__(load_policy(place), env, key)
        self._critic = _Critic(config, env)
        self.step = step
        self._critic.parts = self._critic.load(run, step)

    def values(self, seen: Seen) -> np.ndarray | None:
        """See `Player.values`; in rewards of the task, as training discounts them."""
        return self._critic(seen)

    def newer(self) -> Callable[[], str] | None:
        """See `Player.newer`."""
        assert self.step is not None
        is_newest = not later_than(self._run, int(self.step))
        if is_newest and (policy_step(self._run) or 0) <= self.step:
            return None
        try:
            place, step = newest_policy(self._run)
            if step <= self.step:
                return None
            policy, critic = load_policy(place).policy, self._critic.load(self._run, step)
        except (UserError, OSError):  # written or cleared away just now: looked at again
            return None

        def take() -> str:
            self.replace(policy)
            self._critic.parts, self.step = critic, step
            return f"playing the policy of step {step:,} now"

        return take


def newest_policy(run: Path, config: Config | None = None) -> tuple[Path, float]:
    """Where a run's policy of most steps is, the run folder or a checkpoint, and its step.

    Raises:
        ValueError: there is none.
    """
    places: list[tuple[Path, float]] = []
    if (at_end := policy_step(run)) is not None:
        places.append((run, at_end))
    checkpoint, _ = find_checkpoint(run)
    if checkpoint is not None:
        places.append((checkpoint.path, checkpoint.step))
    if not places:
        every = config.checkpoint_every if config else None
        raise UserError(
            f"{str(run)!r} has no policy yet: training writes one with its first checkpoint "
            f"(checkpoint_every = {every}) and at its end"
        )
    return max(places, key=lambda place: place[1])


class _Critic:
    """What a run's critic expects, in rewards of the task, discounted.

    Attributes:
        parts: networks and scale, as `load` gives them; None: there are none, and no values.
    """

    def __init__(self, config: Config, env: Environment) -> None:
        self._config, self._env, self.parts = config, env, None
        self._trainer: Trainer | None = None
        self._carry: Any = None

        def values(parts: Any, observation: Any, first: Any, carry: Any) -> Any:
            critic, normalizer, scale = parts
            seen = {name: jnp.asarray(observation[name]) for name, _ in normalizer.groups}
            inputs = jax.tree.map(lambda x: x[None], normalizer(seen))
            expected, carried = critic.unroll(inputs, carry, jnp.asarray(first)[None])
            return expected[0] * scale, jax.tree.map(lambda x: x[-1], carried)

        self._values = jax.jit(values)

    def load(self, run: Path, step: float) -> Any:
        """The critic of a step, where there is a checkpoint of it; else None."""
        with contextlib.suppress(
            UserError, OSError
        ):  # a policy can be looked at without its critic
            checkpoint, _ = find_checkpoint(run)
            if checkpoint is not None and checkpoint.step == step:
                return self._load(checkpoint)
        return None

    def _load(self, checkpoint: Checkpoint) -> Any:
        if self._trainer is None:
            with contextlib.closing(make_executors(self._config)) as executors:
                self._trainer = Trainer(self._config, self._env, executors)
            self._carry = self._trainer.agent.critic.initial_carry(self._env.spec.num_envs)
        state = checkpoint.learned(self._trainer)
        scaler = state.reward_scaler
        scale = jnp.sqrt(scaler.moments.variance) if scaler.enabled else jnp.ones(())
        return self._trainer.critic(state), state.normalizer, scale

    def __call__(self, seen: Seen) -> np.ndarray | None:
        if self.parts is None:
            return None
        values, self._carry = self._values(self.parts, seen.observation, seen.first, self._carry)
        return np.asarray(values)


class Exported(Player):
    """What `surefoot export` wrote, run by `surefoot.deploy`: NumPy, or onnxruntime for a policy.onnx.

    Args:
        file: the folder, or a file in it.
        env: what it is to play.

    Raises:
        ValueError: it cannot be read, or does not fit the environment, with what both say.
    """

    def __init__(self, file: Path, env: Environment) -> None:
        about = exported_about(file)
        step = about.get("step")
        self.step = step if isinstance(step, int) else None
        self.name = f"{file} (of {about.get('task')})"
        self._spec = env.spec
        self.gives_controls = about["action"]["kind"] == "controls"
        self._read = None
        if self.gives_controls:
            self._read = _reader(file, about, env)
        else:
            _check_exported(file, about, env.spec)
        # memory is kept by each
        self._policies = [_load_exported(file) for _ in range(env.spec.num_envs)]

    def act(self, seen: Seen) -> np.ndarray:
        """See `Player.act`."""
        if self._read is not None:
            groups = self._read(seen.env_state[0])
        else:
            groups = {port.name: seen.observation[port.name] for port in self._policies[0].groups}
            groups = {name: self._raw(name, np.asarray(x)) for name, x in groups.items()}
        actions = []
        for i, policy in enumerate(self._policies):
            if seen.first[i]:
                policy.reset()
            actions.append(policy({name: np.asarray(x[i]) for name, x in groups.items()}))
        return np.stack(actions)

    def _raw(self, name: str, rows: np.ndarray) -> np.ndarray:
        return self._spec.observations[name].raw(rows)


def exported_about(file: Path) -> dict[str, Any]:
    """What an export says of itself.

    Raises:
        ValueError: it is none, or of another version.
    """
    if not file.exists():
        raise UserError(f"there is no {file}; `surefoot export RUN` writes a policy")
    if file.is_file() and file.suffix not in (".onnx", ".json", ".npz"):
        raise UserError(
            f"{file} is no exported policy: it must be policy.onnx, policy.json, policy.npz, or their folder"
        )
    folder = file if file.is_dir() else file.parent
    if (folder / WEIGHTS).is_file():
        raise UserError(
            f"{folder} holds a policy as training keeps it: `surefoot play {folder}` plays a run, `surefoot "
            "export` writes what --policy takes"
        )
    try:
        about = deploy.load_about(folder)
    except ValueError as error:
        raise UserError(str(error)) from None
    if not isinstance(about.get("action"), dict) or not isinstance(about.get("observations"), list):
        raise UserError(f"{file}: its {deploy.DESCRIPTION} says nothing of observations and action")
    return about


def _load_exported(file: Path) -> deploy.Policy:
    try:
        return deploy.load(file.parent if file.suffix == ".npz" else file)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(str(error)) from None


def _check_exported(file: Path, about: Mapping[str, Any], spec: EnvSpec) -> None:
    """Raise ValueError if an export reads or gives what the environment does not."""
    offered = {name: list(group.shape) for name, group in spec.observations.items()}
    for group in about["observations"]:
        name = group.get("name")
        own = spec.observations.get(name)
        choices = tuple(group.get("choices", ()))
        if own is None or (list(group.get("shape", ())), choices) != (list(own.shape), own.choices):
            raise UserError(
                f"{file} (of {about.get('task')}) reads observation {name!r} of shape "
                f"{group.get('shape')}; {spec.name} offers {offered}"
            )
    try:
        action = from_json(ActionSpec, about["action"])
    except ValueError as error:
        raise UserError(f"{file}: its action is damaged: {error}") from None
    if differences := action.differences(spec.action):
        raise UserError(
            f"the actions of {file} (here; of {about.get('task')}) are not those of {spec.name} (there): "
            f"{'; '.join(differences)}"
        )


def _reader(file: Path, about: Mapping[str, Any], env: Environment) -> Any:
    """What an export from a robot's state reads, of all environments of a robot."""
    if not isinstance(env, RobotEnvironment):
        raise UserError(
            f"{file} reads what a robot measures (--from-state) and {env.spec.name} is no robot's task"
        )
    names = env.robot.names
    ours, theirs = list(names["actuator"]), about["action"].get("order")
    if ours != theirs:
        raise UserError(
            f"{file} (of {about.get('task')}) drives the actuators {theirs}; {env.spec.name} has {ours}"
        )
    ports = [(str(group["name"]), tuple(group["shape"])) for group in about["observations"]]

    def read(carried: Any) -> dict[str, jax.Array]:
        state: State = env.state_of(carried)
        return {name: jnp.asarray(given_of(state, name), jnp.float32) for name, _ in ports}

    return jax.jit(jax.vmap(read))
