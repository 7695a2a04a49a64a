"""Any Gymnasium environment behind the contract, stepped one after the other on the host.

The vector layer is our own: Gymnasium's loses the last observation or steps behind in some of its
modes. What an environment returns is checked at every step, and copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import jax
import numpy as np

from surefoot.config import UserError, near_matches
from surefoot.envs import spaces
from surefoot.envs.contract import REWARD_TERM, Environment, EnvSpec, Step


class GymnasiumEnvironment(Environment):
    """N instances of one Gymnasium environment.

    Args:
        make: makes one instance.
        num_envs: how many.
        seeds: one seed for each, given to its first reset.
        name: the task's name, for messages.

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
    ) -> None:
        self._envs = [make() for _ in range(num_envs)]
        self._seeds = [int(seed) for seed in seeds]
        self._name = name
        first = self._envs[0]
        self._groups = spaces.observation_groups(first.observation_space, task=name)
        self._encodings = spaces.encodings(self._groups)
        self._ended = np.zeros(num_envs, bool)
        action = spaces.action_spec(first.action_space, task=name)
        self.spec = EnvSpec(
            name=name,
            num_envs=num_envs,
            observations={name: code.size for name, code in self._encodings.items()},
            encodings=self._encodings,
            action=action,
            in_graph=False,
            info=self._trial_step(),
        )

    def _trial_step(self) -> tuple[str, ...]:
        """Step environment 0 once before any training, to refuse a broken one; its logged info."""
        env = self._envs[0]
        _, info = self._reset_one(0, seed=self._seeds[0])
        env.action_space.seed(self._seeds[0] % 2**31)
        *_, step_info = self._step_one(0, env.action_space.sample())
        names = {**info, **step_info}
        terms = {k for k, v in names.items() if k.startswith(REWARD_TERM) and _is_number(v)}
        # success is often told at the end of an episode alone: room for it is kept in any case
        return (*sorted(terms), "success")

    def reset(self, key: jax.Array) -> tuple[None, Step]:
        """Start every environment from the seed it was made with; `key` is not used."""
        del key
        rows = [self._reset_one(i, seed=seed)[0] for i, seed in enumerate(self._seeds)]
        no = np.zeros(len(self._envs), bool)
        zero = np.zeros(len(self._envs), np.float32)
        self._ended = no
        info = dict.fromkeys(self.spec.info, np.full_like(zero, np.nan))
        return None, Step(self._stack(rows), zero, no, no, no, info)

    def step(self, env_state: None, action: Any) -> tuple[None, Step]:
        """Step the running environments; those that ended begin a new episode instead."""
        action = np.asarray(action)
        count = len(self._envs)
        rows: list[dict[str, np.ndarray]] = []
        reward = np.zeros(count, np.float32)
        terminated, truncated = np.zeros(count, bool), np.zeros(count, bool)
        info = {name: np.full(count, np.nan, np.float32) for name in self.spec.info}
        for i in range(count):
            if self._ended[i]:
                rows.append(self._reset_one(i)[0])
                continue
            # a discrete action arrives as a 0-d array: environments want the scalar; a copy of the
            # others, because JAX's arrays are read-only and some environments scale in place
            own = action[i].copy() if action[i].ndim else action[i].item()
            row, reward[i], terminated[i], truncated[i], told = self._step_one(i, own)
            rows.append(row)
            told.setdefault("success", told.get("is_success", np.nan))
            for name in self.spec.info:
                if _is_number(told.get(name)):
                    info[name][i] = told[name]
        valid = ~self._ended
        self._ended = terminated | truncated
        return None, Step(self._stack(rows), reward, terminated, truncated, valid, info)

    def _reset_one(
        self, index: int, seed: int | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Reset one environment; ValueError if it does not answer as Gymnasium's API says."""
        answer = self._envs[index].reset(seed=seed)
        if not (isinstance(answer, tuple) and len(answer) == 2):
            raise UserError(
                f"{self._name}, environment {index}: reset() must return (observation, info) as in "
                f"Gymnasium, not {_shape_of(answer)}"
            )
        return self._groups_of(answer[0], index=index), dict(answer[1])

    def _step_one(
        self, index: int, action: Any
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Step one environment; ValueError if it does not answer as Gymnasium's API says."""
        answer = self._envs[index].step(action)
        if not (isinstance(answer, tuple) and len(answer) == 5):
            raise UserError(
                f"{self._name}, environment {index}: step() must return (observation, reward, "
                f"terminated, truncated, info) as in Gymnasium, not {_shape_of(answer)}"
            )
        observation, reward, terminated, truncated, info = answer
        return (
            self._groups_of(observation, index=index),
            self._reward_of(reward, index=index),
            self._flag_of(terminated, index=index, field="terminated"),
            self._flag_of(truncated, index=index, field="truncated"),
            dict(info),
        )

    def close(self) -> None:
        """Close every instance."""
        for env in self._envs:
            env.close()

    def _groups_of(self, observation: Any, *, index: int) -> dict[str, np.ndarray]:
        """One observation by groups, copied; ValueError if it is not what its space says."""
        if not isinstance(observation, Mapping):
            observation = {"observation": observation}
        if set(observation) != set(self._groups):
            raise UserError(
                f"{self._name}, environment {index}: observation has the keys "
                f"{sorted(observation)}, its space says {sorted(self._groups)}"
            )
        return {
            name: self._checked(observation[name], space, index=index, field=name)
            for name, space in self._groups.items()
        }

    def _checked(self, value: Any, space: Any, *, index: int, field: str) -> np.ndarray:
        where = f"{self._name}, environment {index}, observation {field!r}"
        array = np.array(value)  # a copy: environments may reuse their buffers
        if array.shape != tuple(space.shape or ()):
            raise UserError(
                f"{where}: shape {array.shape}, its space says {tuple(space.shape or ())}"
            )
        if array.dtype.kind not in "fiub":
            raise UserError(f"{where}: dtype {array.dtype} is not numeric ({space.dtype} declared)")
        if array.dtype.kind == "f" and np.dtype(space.dtype).kind in "iu":
            raise UserError(f"{where}: dtype {array.dtype}, its space says {space.dtype}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = np.argwhere(~np.isfinite(array))[0].tolist()
            raise UserError(f"{where}: component {bad} is {array[tuple(bad)]}; it must be finite")
        if not spaces.in_range(space, array):
            raise UserError(f"{where}: {array} is outside its space {space}")
        return array

    def _reward_of(self, reward: Any, *, index: int) -> float:
        where = f"{self._name}, environment {index}, reward"
        if np.size(reward) != 1 or np.asarray(reward).dtype.kind not in "fiub":
            raise UserError(f"{where}: {reward!r} is not one number")
        number = float(np.asarray(reward).reshape(()))
        if not np.isfinite(number):
            raise UserError(f"{where}: {number}; it must be finite")
        return number

    def _flag_of(self, flag: Any, *, index: int, field: str) -> bool:
        if np.size(flag) != 1 or np.asarray(flag).dtype.kind not in "biu":
            raise UserError(f"{self._name}, environment {index}, {field}: {flag!r} is not one flag")
        return bool(np.asarray(flag).reshape(()))

    def _stack(self, rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {
            name: code.flatten(np.stack([row[name] for row in rows]))
            for name, code in self._encodings.items()
        }


def _is_number(value: Any) -> bool:
    return np.ndim(value) == 0 and np.asarray(value).dtype.kind in "fiub"


def _shape_of(answer: Any) -> str:
    return f"{len(answer)} values" if isinstance(answer, tuple) else f"a {type(answer).__name__}"


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
