"""Warm start: a run that begins with what another has learned (`from_run`, `from_critic`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from surefoot import functional as F
from surefoot.agent import Agent, LoadedPolicy, from_json, load_policy, make_normalizer
from surefoot.agent.inherit import (
    check_same,
    inherit_actor,
    inherit_moments,
    inherit_torso,
    options_of_torso,
)
from surefoot.agent.saved import DESCRIPTION, WEIGHTS
from surefoot.config import Config, parse_options
from surefoot.envs import ObservationSpec
from surefoot.envs.tasks import names_code, robot_task
from surefoot.errors import UserError
from surefoot.files import checksum, load_arrays
from surefoot.networks import Critic, TorsoSpec, make_critic, share_trunk
from surefoot.reading import read_json
from surefoot.services.checkpoints import (
    MANIFEST,
    TRAINER,
    Checkpoint,
    find_checkpoint,
    read_checkpoint,
)
from surefoot.services.run_folder import read_config
from surefoot.services.step_folders import CHECKPOINTS, step_name
from surefoot.training import Begun, ResumePoint, Trainer, TrainState


@dataclass(frozen=True)
class _Learned:
    """What a checkpoint holds beside the policy: the critic, what it reads and in which units it values."""

    critic: Critic
    spec: TorsoSpec
    observations: dict[str, ObservationSpec]
    normalizer: Any
    reward_moments: F.moments.Moments


class Source:
    """A run whose policy another begins with.

    Args:
        config: `from_run` is its folder, or one of a checkpoint or a best policy; `from_critic` says whether
            its critic comes along.

    Raises:
        ValueError: the folder holds no run or no policy, or its critic is asked for and not there.
    """

    def __init__(self, config: Config) -> None:
        assert config.from_run is not None
        self._config, self.path = config, Path(config.from_run)
        self.task, self.config = read_config(self.path)
        self._checkpoint: Checkpoint | None = None
        if not (self.path / DESCRIPTION).exists():  # a run that was cut off
            found, _ = find_checkpoint(self.path)
            self.path = found.path if found else self.path
        self.policy: LoadedPolicy = load_policy(self.path)
        self.step = read_json(self.path / DESCRIPTION)["step"]
        if config.from_critic:
            self._checkpoint = self._with_critic()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Where the run comes from, for meta.json."""
        return {
            "run": str(self.path),
            "task": self.task,
            "step": self.step,
            "policy_sha256": checksum(self.path / WEIGHTS)["sha256"],
            "critic": self._checkpoint is not None,
        }

    def begin(self) -> ResumePoint:
        """Where a run begins that takes over from it."""
        return ResumePoint(restore=self._restore)

    def check_joints(self, task: Any) -> None:
        """Raise ValueError if actions drive other joints than they were learned for, where both are known."""
        here = _joints(task, self._config)
        there = None if names_code(self.task) else _joints(self.task, self.config)
        if here and there and here != there:
            odd = next(i for i in range(len(here)) if here[i : i + 1] != there[i : i + 1])
            raise UserError(
                f"{self._where} drives other joints: action {odd} is {there[odd : odd + 1]} there and "
                f"{here[odd : odd + 1]} here"
            )

    @property
    def _where(self) -> str:
        return f"from_run = {str(self.path)!r} (trained on {self.task})"

    def _restore(self, trainer: Trainer) -> TrainState:
        try:
            return trainer.init(inherit=self._inherit)
        except UserError as error:
            raise UserError(f"{self._where}: {error}") from None

    def _inherit(self, agent: Agent, fresh: Begun) -> Begun:
        actor, normalizer = inherit_actor(self.policy.policy, agent, fresh.actor, fresh.normalizer)
        begun = fresh._replace(actor=actor, normalizer=normalizer)
        if self._checkpoint is None:
            return begun
        try:
            return self._inherit_critic(self._checkpoint, agent, begun)
        except UserError as error:
            raise UserError(f"from_critic: {error}") from None

    def _inherit_critic(self, checkpoint: Checkpoint, agent: Agent, begun: Begun) -> Begun:
        learned = self._learned(checkpoint)
        there = {
            "shared_trunk": self.config.shared_trunk,
            "scale_rewards": self.config.scale_rewards,
        }
        check_same(
            options_of_torso(learned.spec, "critic_hidden") | there,
            options_of_torso(agent.critic, "critic_hidden")
            | {name: getattr(self._config, name) for name in there},
        )
        critic = learned.critic
        if not self.config.shared_trunk:  # else it stands on the actor's torso
            critic = inherit_torso(
                critic, learned.observations, learned.spec, agent.observations, agent.critic
            )
        scaler = replace(begun.reward_scaler, moments=learned.reward_moments)
        normalizer = inherit_moments(learned.normalizer, begun.normalizer)
        return Begun(begun.actor, critic, normalizer, scaler)

    def _with_critic(self) -> Checkpoint:
        """The checkpoint that holds the critic of the policy's step."""
        for path in (self.path, self.path / CHECKPOINTS / step_name(self.step)):
            if (path / MANIFEST).exists():
                return read_checkpoint(path)
        raise UserError(
            f"from_critic: {str(self.path)!r} has no checkpoint at step {self.step:,}, that of its policy, and "
            f"a critic is in checkpoints alone; name one of them as from_run, or leave from_critic out"
        )

    def _learned(self, checkpoint: Checkpoint) -> _Learned:
        manifest = read_json(checkpoint.path / MANIFEST)
        try:
            agent = manifest["agent"]
            observations = {
                str(name): from_json(ObservationSpec, x)
                for name, x in agent["observations"].items()
            }
            spec = from_json(TorsoSpec, agent["critic"])
            spec.check()
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(
                f"{checkpoint.path / MANIFEST} does not describe its critic ({error!r}); "
                "checkpoints of earlier versions do not, and their policy begins without it"
            ) from None
        file = checkpoint.path / TRAINER
        critic = make_critic(jax.random.key(0), spec, orthogonal=False)
        if self.config.shared_trunk:
            shared = share_trunk(self.policy.policy.actor, critic)
            assert shared.critic is not None
            critic = shared.critic
        name = "joint" if self.config.is_joint else "critic"
        normalizer = make_normalizer(observations, self.policy.policy.normalizer.spec)
        template = {
            "learners": {name: {"params": {"critic": critic}}},
            "normalizer": normalizer,
            "reward_scaler": {"moments": F.init_moments(())},
        }
        found = load_arrays(file, template, most=file.stat().st_size)
        return _Learned(
            found["learners"][name]["params"]["critic"],
            spec,
            observations,
            found["normalizer"],
            found["reward_scaler"]["moments"],
        )


def _joints(task: Any, config: Config) -> list[str] | None:
    """Names of what a robot's actions drive, in their order; None where the task is no robot's."""
    robot = robot_task(task, parse_options(config.env_options))
    if robot is None:
        return None
    from surefoot.robots.hardware import contract_of

    return [x.get("joint") or x["actuator"] for x in contract_of(robot)["actions"]]
