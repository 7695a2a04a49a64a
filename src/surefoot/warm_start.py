"""Warm start: a run that begins with what another has learned (`from_run`, `from_critic`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from surefoot import functional as F
from surefoot.agent import (
    Agent,
    LoadedPolicy,
    Normalizer,
    from_json,
    load_policy,
    make_normalizer,
    value_head,
)
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
from surefoot.functional.moments import Moments
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
from surefoot.training.environments import read_like


class _Saved(NamedTuple):
    """What a checkpoint says of its critic: what there is to be read, and the torso's form."""

    checkpoint: Checkpoint
    observations: Mapping[str, ObservationSpec]
    critic: TorsoSpec


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
        if not (self.path / DESCRIPTION).exists():  # a run that was cut off
            found, _ = find_checkpoint(self.path)
            self.path = found.path if found else self.path
        self.policy: LoadedPolicy = load_policy(self.path)
        self.step = read_json(self.path / DESCRIPTION)["step"]
        self._saved = _described(self._with_critic()) if config.from_critic else None

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Where the run comes from, for meta.json."""
        return {
            "run": str(self.path),
            "task": self.task,
            "step": self.step,
            "policy_sha256": checksum(self.path / WEIGHTS)["sha256"],
            "critic": self._saved is not None,
        }

    def begin(self) -> ResumePoint:
        """Where a run begins that takes over from it."""
        known = self.policy.observations | dict(self._saved.observations if self._saved else {})
        return ResumePoint(restore=self._restore, reads=partial(read_like, known=known))

    def check_joints(self, task: Any) -> None:
        """Raise ValueError if actions drive other joints than they were learned for, where both are known."""
        here = _joints(task, self._config)
        there = None if names_code(self.task) else _joints(self.task, self.config)
        if here and there and here != there:
            most = max(len(here), len(there))
            odd = next(i for i in range(most) if here[i : i + 1] != there[i : i + 1])
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
        if self._saved is None:
            return begun
        try:
            return self._inherit_critic(self._saved, agent, begun)
        except UserError as error:
            raise UserError(f"from_critic: {error}") from None

    def _inherit_critic(self, saved: _Saved, agent: Agent, begun: Begun) -> Begun:
        names = ["shared_trunk", "scale_rewards", "value_loss", "normalize_values"]
        names += ["value_bins", "value_limit"] if self.config.value_loss == "hl_gauss" else []
        there = {name: getattr(self.config, name) for name in names}
        check_same(
            options_of_torso(saved.critic, "critic") | there,
            options_of_torso(agent.critic, "critic")
            | {name: getattr(self._config, name) for name in there},
        )
        critic, moments, of_rewards = self._learned(saved)
        if not self.config.shared_trunk:  # else it stands on the actor's torso
            critic = inherit_torso(
                critic, saved.observations, saved.critic, agent.observations, agent.critic
            )
        scaler = replace(begun.reward_scaler, moments=of_rewards)
        return Begun(begun.actor, critic, inherit_moments(moments, begun.normalizer), scaler)

    def _with_critic(self) -> Checkpoint:
        """The checkpoint that holds the critic of the policy's step."""
        for path in (self.path, self.path / CHECKPOINTS / step_name(self.step)):
            if (path / MANIFEST).exists():
                return read_checkpoint(path)
        raise UserError(
            f"from_critic: {str(self.path)!r} has no checkpoint at step {self.step:,}, that of its policy, "
            f"and a critic is in checkpoints alone; name one of them as from_run, or leave from_critic out"
        )

    def _learned(self, saved: _Saved) -> tuple[Critic, Normalizer, Moments]:
        """The critic of a checkpoint, the moments of what is observed, and those of its rewards."""
        file = saved.checkpoint.path / TRAINER
        size = file.stat().st_size
        if 4 * saved.critic.num_weights > size:
            raise UserError(
                f"{saved.checkpoint.path / MANIFEST} is damaged: it describes a critic of "
                f"{saved.critic.num_weights:,} weights, and {TRAINER} has {size:,} bytes"
            )
        critic = make_critic(
            jax.random.key(0), saved.critic, orthogonal=False, head=value_head(self.config)
        )
        if self.config.shared_trunk:
            shared = share_trunk(self.policy.policy.actor, critic)
            assert shared.critic is not None
            critic = shared.critic
        name = "joint" if self.config.is_joint else "critic"
        template = {
            "learners": {name: {"params": {"critic": critic}}},
            "normalizer": make_normalizer(saved.observations, self.policy.policy.normalizer.spec),
            "reward_scaler": {"moments": F.init_moments(())},
        }
        found = load_arrays(file, template, most=size)
        critic = found["learners"][name]["params"]["critic"]
        return critic, found["normalizer"], found["reward_scaler"]["moments"]


def _described(checkpoint: Checkpoint) -> _Saved:
    """What the manifest of a checkpoint says of its critic."""
    manifest = read_json(checkpoint.path / MANIFEST)
    try:
        agent = manifest["agent"]
        groups = {str(n): from_json(ObservationSpec, x) for n, x in agent["observations"].items()}
        critic = from_json(TorsoSpec, agent["critic"])
        critic.check()
        if sum(groups[name].size for name in critic.groups) != critic.size_in:
            raise ValueError(f"size_in = {critic.size_in}")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"from_critic: {checkpoint.path / MANIFEST} does not describe its critic ({error!r}); those of "
            "earlier versions do not, and their policy begins without it"
        ) from None
    return _Saved(checkpoint, groups, critic)


def _joints(task: Any, config: Config) -> list[str] | None:
    """Names of what a robot's actions drive, in their order; None where the task is no robot's."""
    robot = robot_task(task, parse_options(config.env_options))
    if robot is None:
        return None
    from surefoot.robots.hardware import contract_of

    return [x.get("joint") or x["actuator"] for x in contract_of(robot)["actions"]]
