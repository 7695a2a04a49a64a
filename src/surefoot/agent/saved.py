"""A trained policy on disk: `policy.safetensors` (numbers) and `policy.json` (what they mean)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np

from surefoot.agent.description import from_json, to_json
from surefoot.agent.policy import Policy, PolicySpec
from surefoot.envs import EnvSpec
from surefoot.errors import UserError
from surefoot.files import checksum, load_arrays, save_arrays, whole_files, write_json
from surefoot.reading import open_file, read_json

WEIGHTS, DESCRIPTION = "policy.safetensors", "policy.json"
_FORMAT = 2


@dataclass(frozen=True)
class _Facts:
    """What policy.json says beside the spec."""

    format: int
    task: str
    step: int
    finished: bool
    weights: str | None = None  # the SHA-256 of policy.safetensors; older versions wrote none


class LoadedPolicy:
    """A policy to use: NumPy observations in, NumPy actions out, ready for the environment.

    Attributes:
        policy: the policy itself.
        task: the task it was trained on.
        observations: the observation groups it reads.
        action: the environment's actions.
    """

    def __init__(self, policy: Policy, task: str) -> None:
        self.policy, self.task = policy, task
        self.observations = dict(policy.normalizer.groups)
        self.action = policy.action
        self._act = jax.jit(Policy.act, static_argnames="deterministic")
        self._carry: Any = None

    def reset(self) -> None:
        """Begin a new episode: a policy with memory forgets what it saw; others have nothing to forget."""
        self._carry = None

    def __call__(
        self,
        observation: np.ndarray | Mapping[str, np.ndarray],
        *,
        deterministic: bool = True,
        seed: int = 0,
        first: np.ndarray | None = None,
    ) -> np.ndarray:
        """Choose an action.

        A policy with memory remembers from call to call, until `reset`.

        Args:
            observation: as the environment returns it, one or a batch with a leading axis; a
                mapping where the task has groups (those the actor does not read may be left out).
            deterministic: the mode of the action distribution; otherwise a sample.
            seed: of the sample.
            first: [B] bool, of a batch: which observations are the first of their episode; behind a
                `reset` all are.

        Returns:
            The action in the environment's own bounds, shape and dtype; a batch for a batch.

        Raises:
            ValueError: a missing group or a wrong size, with both numbers; a number that is not finite, or
                an integer that is none of the choices: nothing could be made of it.
        """
        groups, single = self._read(observation)
        count = len(next(iter(groups.values())))
        if self._carry is None or not jax.tree.leaves(self._carry):
            self._carry, first = self.policy.initial_carry(count), np.ones(count, bool)
        elif (before := len(jax.tree.leaves(self._carry)[0])) != count:
            raise UserError(
                f"{count} observations, {before} before them: call reset() before a batch of another size"
            )
        first = np.zeros(count, bool) if first is None else np.asarray(first, bool)
        key = jax.random.key(seed)
        choice, self._carry = self._act(
            self.policy, groups, self._carry, first, key, deterministic=deterministic
        )
        action = self.action.widen(choice.env_action)
        return action[0] if single else action

    def check_fits(self, spec: EnvSpec) -> None:
        """Raise ValueError if environments do not offer what the policy reads and writes, with both."""
        offered = {name: group.size for name, group in spec.observations.items()}
        for name, group in self.observations.items():
            if spec.observations.get(name) != group:
                raise UserError(
                    f"the policy (trained on {self.task}) reads observation {name!r} of size "
                    f"{group.size}; {spec.name} offers {offered}"
                )
        if differences := self.action.differences(spec.action):
            raise UserError(
                f"the policy's actions (here; trained on {self.task}) are not those of {spec.name} (there): "
                f"{'; '.join(differences)}"
            )

    def _read(self, observation: Any) -> tuple[dict[str, np.ndarray], bool]:
        if not isinstance(observation, Mapping):
            if len(self.observations) != 1:
                raise UserError(f"this policy reads the groups {list(self.observations)}")
            observation = {next(iter(self.observations)): observation}
        groups, batches = {}, set()
        for name, spec in self.observations.items():
            if name not in observation:
                raise UserError(f"observation group {name!r} is missing; got {list(observation)}")
            array = np.asarray(observation[name])
            single = array.shape == spec.shape
            if not single and array.shape[1:] != spec.shape:
                batch = ", ".join(map(str, ("B", *spec.shape)))
                raise UserError(
                    f"observation {name!r} has shape {array.shape}, need {spec.shape} or ({batch})"
                )
            rows = array[None] if single else array
            spec.check(rows, name)
            groups[name] = spec.cast(rows)
            batches.add(() if single else array.shape[:1])
        if len(batches) > 1:
            raise UserError(f"observation groups come in different batches: {sorted(batches)}")
        return groups, batches == {()}


def save_policy(folder: Path, policy: Policy, *, task: str, step: int, finished: bool) -> None:
    """Write a policy; what is described is never other numbers than those that are there."""
    with whole_files(folder, key=DESCRIPTION) as staging:
        save_arrays(staging / WEIGHTS, policy)
        weights = checksum(staging / WEIGHTS)["sha256"]
        facts = to_json(_Facts(_FORMAT, task, step, finished, weights))
        write_json(staging / DESCRIPTION, facts | to_json(policy.spec()))


def load_policy(run: str | Path) -> LoadedPolicy:
    """The policy of a run folder.

    Raises:
        ValueError: there is none, or its files do not fit each other.
    """
    folder = Path(run)
    try:
        return _load(folder)
    except UserError as error:
        others = sorted(folder.glob(f"checkpoints/step-*/{DESCRIPTION}"))
        hint = f"; its newest checkpoint has one: {others[-1].parent}" if others else ""
        raise UserError(f"{error}{hint}") from None


def _load(folder: Path) -> LoadedPolicy:
    for name in (DESCRIPTION, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{str(folder)!r} holds no policy (there is no {name})")
    description = read_json(folder / DESCRIPTION)
    if (version := description.get("format")) != _FORMAT:
        raise UserError(
            f"{folder / DESCRIPTION}: format {version}, this version reads {_FORMAT}; play it with the "
            "version of Surefoot that meta.json names, or train it again (--config config.toml)"
        )
    names = {field.name for field in fields(_Facts)}
    try:
        facts = from_json(_Facts, {name: x for name, x in description.items() if name in names})
        rest = {name: x for name, x in description.items() if name not in names}
        spec = from_json(PolicySpec, rest)
        spec.check()
    except ValueError as error:
        raise UserError(f"{folder / DESCRIPTION} is damaged: {error}") from None
    if facts.weights is not None and checksum(folder / WEIGHTS)["sha256"] != facts.weights:
        raise UserError(
            f"{folder / WEIGHTS} is damaged: its checksum is not that of what was written, or "
            f"{DESCRIPTION} is of another policy"
        )
    return LoadedPolicy(_arrays(folder / WEIGHTS, spec), facts.task)


def _arrays(file: Path, spec: PolicySpec) -> Policy:
    """The numbers of a policy; nothing is allocated for a network that the file is too small for."""
    with open_file(file) as (_, size):
        most = size // 4
    if spec.num_weights > most:
        raise UserError(
            f"{file} is damaged: it holds {most:,} numbers at most, and {DESCRIPTION} "
            f"describes a network of {spec.num_weights:,} weights"
        )
    policy = load_arrays(file, spec.template())
    if not all(np.isfinite(array).all() for array in jax.tree.leaves(policy)):
        raise UserError(f"{file} is damaged: a number in it is not finite")
    return policy
