"""EnvPool's C++ simulators behind the contract: inside the jitted rollout, or from the host.

EnvPool resets on the next step already, so its rows map one to one. Its seeds are fixed when the pool
is made; its XLA calls exist on Linux only, elsewhere the same pool is stepped from the host.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from surefoot.envs import spaces
from surefoot.envs.contract import (
    REWARD_TERM,
    SUCCESS,
    Camera,
    Environment,
    EnvSpec,
    Step,
    as_groups,
)
from surefoot.errors import UserError, near_matches
from surefoot.gl import gl_is_loaded, load_gl, no_gl
from surefoot.machine import usable_cores


class _PoolState(NamedTuple):
    handle: Any
    ended: Any


class EnvPoolEnvironment(Environment):
    """A pool of one EnvPool task.

    Args:
        task: an id from `envpool.list_all_envs()`.
        num_envs: environments in the pool.
        seeds: one seed for each environment.
        options: settings of the task, such as `noise_level`.
        in_graph: step inside jitted programs; None: wherever EnvPool can (Linux).
        camera: how pictures are taken; none: there are none.

    Raises:
        ValueError: unknown task or option, or spaces the agent cannot serve.
    """

    def __init__(
        self,
        task: str,
        num_envs: int,
        *,
        seeds: Sequence[int],
        options: Mapping[str, Any] | None = None,
        in_graph: bool | None = None,
        camera: Camera | None = None,
    ) -> None:
        looks = {} if camera is None else _looks(task, camera)
        self._pool = _make_pool(task, num_envs, seeds, dict(options or {}), looks)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Gymnasium warns of the float64 bounds it narrows
            observation_space = self._pool.observation_space
            action_space = self._pool.action_space
        groups = spaces.observation_groups(observation_space, task=task)
        in_graph = sys.platform == "linux" if in_graph is None else in_graph
        keys = self._pool.spec.state_array_spec
        info = [key.removeprefix("info:") for key in keys if key.startswith("info:")]
        # the simulator takes one dtype alone, and not always the one its space declares
        wanted = list(self._pool.spec.action_array_spec.values())[-1].dtype
        self.spec = EnvSpec(
            name=task,
            num_envs=num_envs,
            observations=spaces.observation_specs(groups),
            action=dataclasses.replace(
                spaces.action_spec(action_space, task=task), dtype=str(np.dtype(wanted))
            ),
            in_graph=in_graph,
            needs_float64=in_graph,
            threads=self._pool.config["num_threads"],
            info=tuple(sorted(name for name in info if _is_logged(name))),
            control_dt_s=_control_dt_s(task, self._pool.config) if camera else None,
            max_episode_steps=self._pool.config.get("max_episode_steps"),
        )
        if in_graph:
            # the calls are typed when they are made, and the simulators speak float64
            with jax.enable_x64(True):
                self._handle, _, _, self._xla_step = self._pool.xla()

    def reset(self, key: jax.Array) -> tuple[_PoolState, Step]:
        """Start every environment; the seeds were fixed when the pool was made, `key` is not used."""
        del key
        observation, info = self._pool.reset()
        no = np.zeros(self.spec.num_envs, bool)
        zero = np.zeros(self.spec.num_envs, np.float32)
        step = self._to_step(observation, zero, no, no, info, valid=no, xp=np)
        handle = np.array(self._handle) if self.spec.in_graph else None
        return _PoolState(handle, no), step

    def step(self, env_state: _PoolState, action: Any) -> tuple[_PoolState, Step]:
        """Step every environment, in the graph or on the host."""
        handle, ended = env_state
        if self.spec.in_graph:
            handle, answer = self._xla_step(handle, action)
        else:
            answer = self._pool.step(np.asarray(action))
        observation, reward, terminated, truncated, info = answer
        step = self._to_step(
            observation,
            reward,
            terminated,
            truncated,
            info,
            valid=~ended,
            xp=jnp if self.spec.in_graph else np,
        )
        return _PoolState(handle, step.terminated | step.truncated), step

    def step_rows(
        self, env_state: _PoolState, action: Any, rows: np.ndarray
    ) -> tuple[_PoolState, Step]:
        """See `Environment.step_rows`."""
        ids = np.flatnonzero(rows).astype(np.int32)
        *answer, info = self._pool.step(np.asarray(action)[ids], ids)
        order = info["env_id"]

        def spread(part: Any) -> np.ndarray:
            whole = np.zeros((self.spec.num_envs, *part.shape[1:]), part.dtype)
            whole[order] = part
            return whole

        told = {name: info[name] for name in self.spec.info}
        observation, reward, terminated, truncated, told = jax.tree.map(spread, (*answer, told))
        ended = np.asarray(env_state.ended)
        step = self._to_step(
            observation, reward, terminated, truncated, told, valid=rows & ~ended, xp=np
        )
        ended = np.where(rows, step.terminated | step.truncated, ended)
        return env_state._replace(ended=ended), step

    def render(self, env_state: _PoolState, rows: Sequence[int]) -> list[np.ndarray]:
        """The pool's own pictures; its shadows cannot be switched off."""
        del env_state
        try:
            return [*self._pool.render(env_ids=np.asarray(rows))]
        except IndexError as error:
            raise UserError(f"{self.spec.name}: {error}; its cameras have numbers from 0") from None
        except RuntimeError as error:
            if "EGL" in str(error):
                raise no_gl(str(error)) from None
            raise UserError(f"{self.spec.name} cannot be drawn: {error}") from None

    def close(self) -> None:
        """Stop the pool's threads."""
        self._pool.close()

    def _to_step(
        self,
        observation: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        info: Mapping[str, Any],
        *,
        valid: Any,
        xp: Any,
    ) -> Step:
        observation = as_groups(observation)
        return Step(
            observation={
                name: spec.cast(observation[name], xp)
                for name, spec in self.spec.observations.items()
            },
            reward=xp.where(valid, reward, 0).astype(np.float32),
            terminated=xp.asarray(terminated, bool) & valid,
            truncated=xp.asarray(truncated, bool) & valid,
            valid=valid,
            info={
                name: xp.where(valid, info[name], 0).astype(np.float32) for name in self.spec.info
            },
        )


def _looks(task: str, camera: Camera) -> dict[str, Any]:
    """What a pool is made with to have pictures taken."""
    try:
        load_gl()
    except UserError:  # some games are drawn without
        if family(task).startswith("mujoco"):
            raise
    if not _finds_gl() and family(task).startswith("mujoco"):
        raise UserError(
            "EnvPool was loaded before OpenGL, which it does not find later: pictures of its tasks "
            "need a new process (surefoot play)"
        )
    looks = {
        "render_mode": "rgb_array",
        "render_width": camera.width,
        "render_height": camera.height,
    }
    if camera.name is not None:
        if not camera.name.isdecimal():
            raise UserError(f"camera {camera.name!r}: EnvPool's have numbers from 0, and no names")
        looks["render_camera_id"] = int(camera.name)
    return looks


def _control_dt_s(task: str, config: Mapping[str, Any]) -> float | None:
    """Seconds of a step: the pool's own, or what Gymnasium says of its task of that name."""
    if "ctrl_dt" in config:
        return float(config["ctrl_dt"])
    if "policy_frequency" in config:
        return 1 / float(config["policy_frequency"])
    if "img_width" in config and "frame_skip" in config:  # Atari and Doom
        return int(config["frame_skip"]) / 60
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import gymnasium

        with contextlib.closing(gymnasium.make(task)) as env:
            return 1 / float(env.metadata["render_fps"])
    return None


def _is_logged(name: str) -> bool:
    return name.startswith(REWARD_TERM) or name in SUCCESS


def known_tasks() -> list[str]:
    """Ids of every EnvPool task, without the aliases that only put the family in front."""
    names = set(_import().list_all_envs())
    return sorted(name for name in names if "/" not in name or name.split("/")[-1] not in names)


def refusals() -> dict[str, str]:
    """Why some of the known tasks cannot be trained, by id; tasks of one class have the same spaces."""
    envpool = _import()
    from envpool.registration import registry

    found: dict[tuple[str, str], str] = {}
    for task in known_tasks():
        kind = registry.specs[task][:2]
        if kind not in found:
            found[kind] = _refusal(envpool, task)
    return {task: why for task in known_tasks() if (why := found[registry.specs[task][:2]])}


def _refusal(envpool: Any, task: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            spec = envpool.make_spec(task)
            spaces.observation_groups(spec.gymnasium_observation_space, task=task)
            spaces.action_spec(spec.gymnasium_action_space, task=task)
        except UserError as error:
            return str(error).partition(": ")[2]
        except (ImportError, RuntimeError) as error:
            return str(error)
    return ""


def family(task: str) -> str:
    """The part of EnvPool that a task belongs to, such as `mujoco.dmc`; empty if it has no such task."""
    _import()
    from envpool.registration import registry

    return registry.specs[task][0].removeprefix("envpool.") if task in registry.specs else ""


@functools.cache
def _finds_gl() -> bool:
    """Whether OpenGL was there when EnvPool was loaded: if not, drawing ends the process."""
    return "envpool" not in sys.modules and gl_is_loaded()


def _import() -> Any:
    _finds_gl()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import envpool
    return envpool


def _make_pool(
    task: str,
    num_envs: int,
    seeds: Sequence[int],
    options: dict[str, Any],
    looks: Mapping[str, Any],
) -> Any:
    envpool = _import()
    known = envpool.list_all_envs()
    if task not in known:
        near = near_matches(task, known_tasks())
        raise UserError(
            f"unknown task {task!r}{near} (`surefoot tasks` lists EnvPool's; others are "
            "gymnasium:ID, gymnax:ID, probe:NAME, or module:attribute)"
        )
    # pools take the place of these, so they are not the user's to set
    own = {"num_envs", "batch_size", "seed", "env_seed", "max_num_players"}
    defaults = envpool.make_spec(task).config._asdict()
    config = set(defaults) - own
    for name, value in options.items():
        if name not in config:
            raise UserError(
                f"{task} has no option {name!r}{near_matches(name, config)} "
                f"(it has {', '.join(sorted(config))})"
            )
        wanted = type(defaults[name])
        fits = type(value) is wanted or (wanted is float and type(value) is int)
        if wanted in (bool, int, float, str) and not fits:
            raise UserError(
                f"{task}: {name} = {value!r} must be {wanted.__name__}, like {defaults[name]!r}"
            )
    if options.get("num_threads", 1) < 1:
        raise UserError(f"{task}: num_threads = {options['num_threads']} must be at least 1")
    # EnvPool counts the machine's cores, of which a container may allow a few
    options = {"num_threads": min(num_envs, usable_cores())} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return envpool.make(
                task,
                env_type="gymnasium",
                num_envs=num_envs,
                seed=[int(seed) for seed in seeds],
                **options,
                **looks,
            )
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise UserError(f"{task} cannot be made with {options}: {error}") from error
