"""Any Gymnasium environment behind the contract, stepped on the host.

The vector layer is our own: Gymnasium's loses the last observation or steps behind in some of its
modes. What an environment returns is checked at every step, and copied.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import gymnasium
import jax
import numpy as np
from gymnasium.envs.registration import load_env_creator

from surefoot.envs import spaces
from surefoot.envs.contract import REWARD_TERM, Environment, EnvSpec, Step
from surefoot.envs.hosting import Backend, Command, EnvError, Hosting, InProcess
from surefoot.errors import UserError, near_matches

_MOST_FAILURES = (
    5  # of one environment, made anew each time, without an episode finished in between
)
Groups = dict[str, np.ndarray]


class _Answer(NamedTuple):
    """One step of one environment, checked and copied."""

    observation: Groups
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


class _Record:
    """Where one environment is: its last observation, its episode, its failures."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.observation: Groups = {}
        self.steps = self.time = self.failures = self.made_anew = 0
        self.has_ended = self.is_gone = self.is_out = False

    def next_command(self, action: np.ndarray) -> Command | None:
        """What comes next: a step, or a new episode, or nothing any more."""
        if self.is_out:
            return None
        if self.is_gone:
            self.made_anew += 1
            own = np.random.SeedSequence([self.seed, self.made_anew])
            return Command("make", int(own.generate_state(1)[0] >> 1))
        if self.has_ended:
            return Command("reset")
        # a discrete action arrives as a 0-d array: environments want the scalar; a copy of the
        # others, because JAX's arrays are read-only and some environments scale in place
        return Command("step", action.copy() if action.ndim else action.item())

    def begin(self, observation: Groups) -> None:
        """A new episode."""
        self.observation, self.time = observation, 0
        self.has_ended = self.is_gone = False

    def go_on(self, answer: _Answer) -> None:
        """One step further."""
        self.observation = answer.observation
        self.time += 1
        self.steps += 1
        if answer.terminated or answer.truncated:
            self.has_ended, self.failures = True, 0


class GymnasiumEnvironment(Environment):
    """N instances of one Gymnasium environment.

    An instance that fails (raises, hangs, dies with its process, breaks the contract) ends the run, or is
    made anew, or is left out from then on, as `hosting` says. Its episode is lost: the row of the step
    that failed is `truncated` and not `valid`.

    Args:
        make: makes one instance.
        num_envs: how many.
        seeds: one seed for each, given to its first reset.
        name: the task's name, for messages.
        hosting: where they are stepped, and what becomes of those that fail.
        cheap_to_make: see `EnvSpec`.

    Raises:
        ValueError: unsupported spaces, or a first step that breaks the contract.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        num_envs: int,
        *,
        seeds: Sequence[int],
        name: str,
        hosting: Hosting | None = None,
        cheap_to_make: bool = False,
    ) -> None:
        hosting = hosting or Hosting()
        self._name = name
        self._on_failure = hosting.on_failure
        self._log: Callable[[str], None] = warnings.warn
        self._records = [_Record(int(seed)) for seed in seeds]
        self._backend = _make_backend(make, num_envs, hosting, name)
        try:
            self._groups = spaces.observation_groups(self._backend.observation_space, task=name)
            action = spaces.action_spec(self._backend.action_space, task=name)
            info = self._trial_step()
        except BaseException:
            self._backend.close()
            raise
        self.spec = EnvSpec(
            name=name,
            num_envs=num_envs,
            observations=spaces.observation_specs(self._groups),
            action=action,
            in_graph=False,
            info=info,
            cheap_to_make=cheap_to_make,
        )

    def reset(self, key: jax.Array) -> tuple[None, Step]:
        """Start every environment from the seed it was made with; `key` is not used."""
        del key
        self._begin("reset")
        count = len(self._records)
        no, zero = np.zeros(count, bool), np.zeros(count, np.float32)
        info = dict.fromkeys(self.spec.info, np.full_like(zero, np.nan))
        return None, Step(self._observation(), zero, no, no, no, info)

    def step(self, env_state: None, action: Any) -> tuple[None, Step]:
        """Step the running environments; those that ended begin a new episode instead."""
        count = len(self._records)
        reward = np.zeros(count, np.float32)
        terminated, truncated, valid = (np.zeros(count, bool) for _ in range(3))
        info = {name: np.full(count, np.nan, np.float32) for name in self.spec.info}
        rows = np.asarray(action)
        commands = [record.next_command(rows[i]) for i, record in enumerate(self._records)]
        for i, came in enumerate(self._backend.do(commands)):
            record, command = self._records[i], commands[i]
            if command is None:
                continue
            try:
                if command.kind != "step":
                    record.begin(self._read_reset(came)[0])
                    continue
                answer = self._read_step(came)
            except EnvError as failure:
                truncated[i] = command.kind == "step"  # and not valid: its episode is lost
                self._handle_failure(i, failure, command)
                continue
            record.go_on(answer)
            valid[i] = True
            reward[i], terminated[i], truncated[i] = answer[1:4]
            for name, value in self._logged(answer.info).items():
                info[name][i] = value
        return None, Step(self._observation(), reward, terminated, truncated, valid, info)

    def close(self) -> None:
        """Close every instance."""
        self._backend.close()

    def log_to(self, log: Callable[[str], None]) -> None:
        """Where to say which environment failed, and how."""
        self._log = log

    def _trial_step(self) -> tuple[str, ...]:
        """Make all, and step the first once before any training, to refuse what is broken; its info."""
        names = self._begin("make")
        space = self._backend.action_space
        space.seed(self._records[0].seed % 2**31)
        others: list[Command | None] = [None] * (len(self._records) - 1)
        came, *_ = self._backend.do([Command("step", space.sample()), *others])
        try:
            names |= self._read_step(came).info
        except EnvError as failure:
            raise self._error(0, failure, "the first step") from None
        terms = {k for k, v in names.items() if k.startswith(REWARD_TERM) and _is_number(v)}
        # success is often told at the end of an episode alone: room for it is kept in any case
        return (*sorted(terms), "success")

    def _begin(self, kind: Literal["make", "reset"]) -> dict[str, Any]:
        """The first episode of every environment, from its seed; what the first one tells."""
        commands = [Command(kind, record.seed) for record in self._records]
        told = []
        for i, came in enumerate(self._backend.do(commands)):
            try:
                observation, info = self._read_reset(came)
            except EnvError as failure:
                raise self._error(i, failure, "the first reset") from None
            self._records[i] = _Record(self._records[i].seed)
            self._records[i].begin(observation)
            told.append(info)
        return told[0]

    def _handle_failure(self, index: int, failure: EnvError, command: Command) -> None:
        """End the run, or say what happened and how it goes on."""
        record = self._records[index]
        record.failures += 1
        record.is_gone = True
        record.is_out = self._on_failure == "quarantine"
        left = sum(not other.is_out for other in self._records)
        if command.kind == "step":
            where = f"step {record.steps + 1} (step {record.time + 1} of its episode)"
        else:
            where = f"the reset behind step {record.steps}"
        error = self._error(index, failure, where)
        if self._on_failure == "fail":
            raise error from None
        if left == 0:
            raise UserError(f"{error}\nThat was the last of {len(self._records)}") from None
        if record.failures > _MOST_FAILURES:
            raise UserError(
                f"{error}\nIt failed {record.failures} times without finishing an episode: making it "
                "anew does not help"
            ) from None
        then = (
            f"so is the environment from here on; {left} are left"
            if record.is_out
            else "it is made anew"
        )
        self._log(f"{error}\nIts episode is left out; {then}")

    def _error(self, index: int, failure: EnvError, where: str) -> UserError:
        """The failure in words, with the environment's own traceback."""
        seed = self._records[index].seed
        text = f"{self._name}, environment {index} (seed {seed}), {where}: {failure.what}"
        return UserError(f"{text}\n{failure.trace.rstrip()}" if failure.trace else text)

    def _read_reset(self, came: Any) -> tuple[Groups, dict[str, Any]]:
        """What a reset returned; EnvError if it is not what Gymnasium's API says."""
        if isinstance(came, EnvError):
            raise came
        if not (isinstance(came, tuple) and len(came) == 2):
            raise EnvError(
                "reset() must return (observation, info) as in Gymnasium, not " + _shape_of(came)
            )
        return self._groups_of(came[0]), dict(came[1])

    def _read_step(self, came: Any) -> _Answer:
        """What a step returned; EnvError if it is not what Gymnasium's API says."""
        if isinstance(came, EnvError):
            raise came
        if not (isinstance(came, tuple) and len(came) == 5):
            raise EnvError(
                "step() must return (observation, reward, terminated, truncated, info) as in "
                f"Gymnasium, not {_shape_of(came)}"
            )
        observation, reward, terminated, truncated, info = came
        return _Answer(
            self._groups_of(observation),
            _reward_of(reward),
            _flag_of(terminated, field="terminated"),
            _flag_of(truncated, field="truncated"),
            dict(info),
        )

    def _logged(self, info: dict[str, Any]) -> dict[str, Any]:
        """Of what a step tells, the numbers that every step has room for."""
        info.setdefault("success", info.get("is_success", np.nan))
        return {name: info[name] for name in self.spec.info if _is_number(info.get(name))}

    def _groups_of(self, observation: Any) -> Groups:
        """One observation by groups, copied; EnvError if it is not what its space says."""
        if not isinstance(observation, Mapping):
            observation = {"observation": observation}
        if set(observation) != set(self._groups):
            raise EnvError(
                f"observation has the keys {sorted(observation)}, its space says "
                f"{sorted(self._groups)}"
            )
        return {
            name: _checked(observation[name], space, field=name)
            for name, space in self._groups.items()
        }

    def _observation(self) -> Groups:
        """The last observation of every environment."""
        return {
            name: spec.cast(np.stack([record.observation[name] for record in self._records]))
            for name, spec in self.spec.observations.items()
        }


def _checked(value: Any, space: Any, *, field: str) -> np.ndarray:
    where = f"observation {field!r}"
    array = np.array(value)  # a copy: environments may reuse their buffers
    if array.shape != tuple(space.shape or ()):
        raise EnvError(f"{where}: shape {array.shape}, its space says {tuple(space.shape or ())}")
    if array.dtype.kind not in "fiub":
        raise EnvError(f"{where}: dtype {array.dtype} is not numeric ({space.dtype} declared)")
    if array.dtype.kind == "f" and np.dtype(space.dtype).kind in "iu":
        raise EnvError(f"{where}: dtype {array.dtype}, its space says {space.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0].tolist()
        raise EnvError(f"{where}: component {bad} is {array[tuple(bad)]}; it must be finite")
    if not spaces.in_range(space, array):
        raise EnvError(f"{where}: {array} is outside its space {space}")
    return array


def _reward_of(reward: Any) -> float:
    if np.size(reward) != 1 or np.asarray(reward).dtype.kind not in "fiub":
        raise EnvError(f"reward: {reward!r} is not one number")
    number = float(np.asarray(reward).reshape(()))
    if not np.isfinite(number):
        raise EnvError(f"reward: {number}; it must be finite")
    return number


def _flag_of(flag: Any, *, field: str) -> bool:
    if np.size(flag) != 1 or np.asarray(flag).dtype.kind not in "biu":
        raise EnvError(f"{field}: {flag!r} is not one flag")
    return bool(np.asarray(flag).reshape(()))


def _is_number(value: Any) -> bool:
    return np.ndim(value) == 0 and np.asarray(value).dtype.kind in "fiub"


def _shape_of(answer: Any) -> str:
    return f"{len(answer)} values" if isinstance(answer, tuple) else f"a {type(answer).__name__}"


def _make_backend(
    make: Callable[[], gymnasium.Env], count: int, hosting: Hosting, name: str
) -> Backend:
    if not hosting.workers:
        return InProcess(make, count)
    from surefoot.envs.workers import Workers

    return Workers(make, count, workers=hosting.workers, timeout=hosting.timeout, name=name)


def comes_with_gymnasium(task: str) -> bool:
    """Whether a registered id is one of Gymnasium's own environments, all of which are cheap to make."""
    spec = gymnasium.registry.get(task)
    return spec is not None and str(spec.entry_point).startswith("gymnasium.envs.")


def entry_point(task: str) -> Any:
    """What makes a registered id, where it is not one of Gymnasium's own; else None."""
    spec = gymnasium.registry.get(task.rpartition(":")[2])
    if spec is None or spec.entry_point is None or comes_with_gymnasium(spec.id):
        return None
    maker = spec.entry_point
    if isinstance(maker, str):
        maker = load_env_creator(maker)
    return functools.partial(maker, **spec.kwargs)


def make_registered(task: str, options: Mapping[str, Any]) -> Callable[[], gymnasium.Env]:
    """A maker of a registered Gymnasium id.

    Raises:
        ValueError: unknown id (with near matches), or one that cannot be made here.
    """
    if task not in gymnasium.registry and ":" not in task:
        raise UserError(f"unknown Gymnasium task {task!r}{near_matches(task, gymnasium.registry)}")

    def make() -> gymnasium.Env:
        try:
            return gymnasium.make(task, **options)
        except (gymnasium.error.Error, ImportError, TypeError, AssertionError) as error:
            raise UserError(f"gymnasium:{task} cannot be made: {error}") from error

    return make


def refusal(task: str) -> str:
    """Why one of Gymnasium's own ids cannot be trained here; empty if it can be, or is another's."""
    entry = gymnasium.registry[task].entry_point
    module = f"{entry if isinstance(entry, str) else getattr(entry, '__module__', '')}."
    if task == "Pusher-v4":
        return "it needs mujoco<3"
    # others may take long to make, or open windows; to load a model may leave a log of MuJoCo's
    if not module.startswith("gymnasium.envs.") or module.startswith("gymnasium.envs.mujoco."):
        return ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            env = make_registered(task, {})()
            spaces.observation_groups(env.observation_space, task=task)
            spaces.action_spec(env.action_space, task=task)
        except UserError as error:
            return str(error).rpartition(f"{task} cannot be made: ")[2].removeprefix(f"{task}: ")
    env.close()
    return ""
