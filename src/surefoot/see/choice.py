"""What is to be looked at, as the user says it, and the stage that follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax

from surefoot.api import task_again
from surefoot.config import parse_options
from surefoot.envs import Environment
from surefoot.envs.contract import Camera, release
from surefoot.envs.tasks import names_code, refuse_code, task_name
from surefoot.errors import UserError, check_names
from surefoot.robots import RobotEnvironment
from surefoot.see.players import (
    AGENTS,
    Exported,
    Home,
    OfRun,
    Player,
    Random,
    Zero,
    exported_about,
)
from surefoot.see.stage import Stage, in_gymnasium, reset_key, stage_environment
from surefoot.services.run_folder import read_config

Agent = Literal["zero", "random", "home"]


@dataclass(frozen=True)
class Choice:
    """What is to be looked at.

    Attributes:
        run: a run folder, whose task and newest policy are meant where nothing else is said.
        task: a task.
        agent: who acts without a policy.
        policy: an exported policy that acts.
        seed: of the episodes; None: the run's, or 0.
        env_options: settings of the task as KEY=VALUE; None: the run's.
        stochastic: sample actions of a run's policy.
    """

    run: Path | None = None
    task: Any = None
    agent: str | None = None
    policy: Path | None = None
    seed: int | None = None
    env_options: tuple[str, ...] | None = None
    stochastic: bool = False

    @property
    def broken(self) -> Path | None:
        """The file of a simulation that broke down, if one is meant in place of a run.

        Raises:
            ValueError: somebody else is asked to act in it.
        """
        if self.run is None or not self.run.is_file():
            return None
        others = (self.agent, self.policy, self.seed, self.env_options)
        if self.stochastic or any(x is not None for x in others):
            raise UserError(
                f"{self.run} is gone through under the controls of then: leave out --agent, --policy, "
                "--stochastic, --seed and --env-options"
            )
        return self.run

    def open(
        self,
        num_envs: int = 1,
        *,
        has_model: bool = True,
        camera: Camera | None = None,
        log: Callable[[str], None],
    ) -> Stage:
        """The stage.

        Args:
            num_envs: environments side by side.
            has_model: rather where MuJoCo's model can be reached: Gymnasium's task in place of EnvPool's.
            camera: how pictures are taken; none: there are none.
            log: hears what goes wrong.

        Raises:
            ValueError: it does not say what to look at, or what it says does not fit together.
        """
        if self.broken is not None:
            raise UserError(
                f"{self.broken} is a file: a simulation that broke down is gone through step by step in the "
                f"browser, surefoot play {self.broken}; all else is a run's folder"
            )
        task, options, seed = self._task()
        if has_model and not options:
            task = in_gymnasium(task)
        env = stage_environment(
            task,
            num_envs=num_envs,
            seed=seed,
            env_options=parse_options(options),
            camera=camera,
        )
        try:
            return Stage(env, self._player(env, seed), key=reset_key(seed), log=log)
        except BaseException:
            release(env, log)
            raise

    def _task(self) -> tuple[Any, tuple[str, ...], int]:
        """The task, its settings, and the seed."""
        if self.agent is not None:
            check_names([self.agent], AGENTS, what="agent")
        if self.agent is not None and self.policy is not None:
            raise UserError(
                f"--agent {self.agent} and --policy {self.policy}: only one of them can act"
            )
        if self.run is not None:
            stored, config = read_config(self.run)
            task = task_again(stored, self.task)
            options = self.env_options
            if options is None:
                refuse_code(task, config.env_options)
                options = tuple(config.env_options)
            return task, options, config.seed if self.seed is None else self.seed
        task = self.task
        if task is None and self.policy is not None:
            task = exported_about(self.policy).get("task")
            if not isinstance(task, str) or names_code(task) or task.startswith("python:"):
                raise UserError(
                    f"{self.policy} is of {task!r}, which is somebody's own code; name it again: --task "
                    f"{task} (no import path is taken from a file)"
                )
        if task is None:
            raise UserError(
                "name what to look at: a run (surefoot play RUN), a task (--task robot:Go1Walk --agent "
                "zero), or an exported policy (--policy FILE)"
            )
        if self.agent is None and self.policy is None:
            raise UserError(
                f"nobody acts on {task_name(task)}: name a run, --agent {'|'.join(AGENTS)}, or --policy FILE"
            )
        return task, self.env_options or (), self.seed or 0

    def _player(self, env: Environment, seed: int) -> Player:
        key = jax.random.fold_in(reset_key(seed), 1)
        if self.policy is not None:
            return Exported(self.policy, env)
        if self.agent == "zero":
            return Zero(env.spec)
        if self.agent == "random":
            return Random(env.spec, key)
        if self.agent == "home":
            if not isinstance(env, RobotEnvironment):
                raise UserError(
                    f"--agent home holds a robot's home pose, and {env.spec.name} is no robot's task: "
                    "--agent zero gives zeros"
                )
            return Home(env)
        assert self.run is not None
        return OfRun(self.run, env, key if self.stochastic else None)
