"""A trained policy on disk: `policy.safetensors` (numbers) and `policy.json` (what they mean)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from surefoot.envs import ActionSpec, Encoding, EnvSpec
from surefoot.errors import UserError
from surefoot.files import load_arrays, read_json, save_arrays, write_json
from surefoot.networks import PolicyHead, make_actor, make_normalizer
from surefoot.networks.mlp import ACTIVATIONS
from surefoot.rollout import Policy, act
from surefoot.training import Hook, Run, TrainState

WEIGHTS, DESCRIPTION = "policy.safetensors", "policy.json"
_FORMAT = 1


class LoadedPolicy:
    """A policy to use: NumPy observations in, NumPy actions out, ready for the environment.

    Attributes:
        task: the task it was trained on.
        observations: size of each observation group it reads.
        action: the environment's actions.
    """

    def __init__(
        self,
        policy: Policy,
        action: ActionSpec,
        task: str,
        encodings: Mapping[str, Encoding] | None = None,
    ) -> None:
        self.policy = policy
        self.task = task
        self.action = action
        self.observations = {
            name: policy.normalizer.moments[name].mean.shape[0] for name in policy.groups
        }
        flat = {name: Encoding("numbers", (size,)) for name, size in self.observations.items()}
        self._encodings = flat | {k: v for k, v in (encodings or {}).items() if k in flat}
        wanted = np.dtype(action.dtype)
        narrow = dataclasses.replace(action, dtype="float32" if wanted.kind == "f" else "int32")

        def choose(observation: Any, key: jax.Array, deterministic: bool) -> jax.Array:
            return act(policy, observation, key, narrow, deterministic=deterministic).env_action

        self._choose = jax.jit(choose, static_argnums=2)
        self._dtype = wanted

    def __call__(
        self,
        observation: np.ndarray | Mapping[str, np.ndarray],
        *,
        deterministic: bool = True,
        seed: int = 0,
    ) -> np.ndarray:
        """Choose an action.

        Args:
            observation: as the environment returns it, one or a batch with a leading axis; a
                mapping where the task has groups (those the actor does not read may be left out).
            deterministic: the mode of the action distribution; otherwise a sample.
            seed: of the sample.

        Returns:
            The action in the environment's own bounds, shape and dtype; a batch for a batch.

        Raises:
            ValueError: a missing group or a wrong size, with both numbers.
        """
        groups, single = self._read(observation)
        action = self._choose(groups, jax.random.key(seed), deterministic)
        result = np.asarray(action).astype(self._dtype)
        return result[0] if single else result

    def _read(self, observation: Any) -> tuple[dict[str, np.ndarray], bool]:
        if not isinstance(observation, Mapping):
            if len(self.observations) != 1:
                raise UserError(f"this policy reads the groups {list(self.observations)}")
            observation = {next(iter(self.observations)): observation}
        groups, batches = {}, set()
        for name, code in self._encodings.items():
            if name not in observation:
                raise UserError(f"observation group {name!r} is missing; got {list(observation)}")
            array = np.asarray(observation[name])
            single = array.shape == code.shape
            if not single and array.shape[1:] != code.shape:
                batch = ", ".join(map(str, ("B", *code.shape)))
                raise UserError(
                    f"observation {name!r} has shape {array.shape}, need {code.shape} or ({batch})"
                )
            groups[name] = code.flatten(array[None] if single else array)
            batches.add(() if single else array.shape[:1])
        if len(batches) > 1:
            raise UserError(f"observation groups come in different batches: {sorted(batches)}")
        return groups, batches == {()}


class PolicyFile(Hook):
    """Saves the policy into the run folder when training ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run: Run | None = None

    def on_start(self, run: Run) -> None:
        """Remember what the policy is for."""
        self._run = run

    def on_end(self, state: TrainState, policy: Policy, *, finished: bool) -> None:
        """Save."""
        run = self._run
        assert run is not None
        extra = {"step": state.step, "finished": finished}
        save_policy(self._folder, policy, run.env, task=run.task, extra=extra)


def save_policy(
    folder: Path, policy: Policy, env: EnvSpec, *, task: str, extra: Mapping[str, Any]
) -> None:
    """Write a policy; a reader sees the old files or the new ones."""
    used = {name: policy.normalizer.moments[name] for name in policy.groups}
    policy = eqx.tree_at(lambda p: p.normalizer.moments, policy, used)
    description = {
        "format": _FORMAT,
        "task": task,
        **extra,
        "observations": {name: int(m.mean.shape[0]) for name, m in used.items()},
        "encodings": {
            name: dataclasses.asdict(code) for name, code in env.encodings.items() if name in used
        },
        "groups": list(policy.groups),
        "normalizer": {"enabled": policy.normalizer.enabled, "clip": policy.normalizer.clip},
        "hidden": [int(layer.bias.shape[0]) for layer in policy.actor.body.layers],
        "activation": policy.actor.body.activation,
        "head": dataclasses.asdict(policy.actor.head),
        "action": dataclasses.asdict(env.action),
    }
    save_arrays(folder / WEIGHTS, policy)
    # JSON has no infinity: the text "inf" stands for it, as `float` reads it
    write_json(folder / DESCRIPTION, _spell(description))


def load_policy(run: str | Path) -> LoadedPolicy:
    """The policy of a run folder.

    Raises:
        ValueError: there is none, or its files do not fit each other.
    """
    folder = Path(run)
    for name in (DESCRIPTION, WEIGHTS):
        if not (folder / name).is_file():
            saved = sorted(folder.glob("checkpoints/step-*"))
            hint = f"; its newest checkpoint has one: {saved[-1]}" if saved else ""
            raise UserError(f"{str(folder)!r} holds no policy (there is no {name}){hint}")
    description = read_json(folder / DESCRIPTION)
    try:
        if description["format"] != _FORMAT:
            raise UserError(
                f"{folder / DESCRIPTION}: format {description['format']}, this version reads "
                f"{_FORMAT}"
            )
        template = _template(description, folder / WEIGHTS)
        action = ActionSpec(**_tuples(description["action"]))
        if np.dtype(action.dtype).kind not in "fiu":
            raise ValueError(f"actions of dtype {action.dtype!r}")
        encodings = {k: Encoding(**_tuples(v)) for k, v in description["encodings"].items()}
        task = str(description["task"])
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{folder / DESCRIPTION} is damaged: {error!r}") from None
    policy = load_arrays(folder / WEIGHTS, template)
    return LoadedPolicy(policy, action, task, encodings)


def _template(description: Mapping[str, Any], weights: Path) -> Policy:
    """A policy of the described shape, its numbers without meaning.

    Args:
        description: what policy.json says.
        weights: the file beside it; nothing larger is allocated on the description's word.
    """
    head = PolicyHead(**_tuples(description["head"]))
    sizes = description["observations"]
    widths = [sum(sizes[name] for name in description["groups"]), *description["hidden"]]
    if any(type(width) is not int or width < 1 for width in widths):
        raise ValueError(f"layers of widths {widths}")
    if description["activation"] not in ACTIVATIONS:
        raise ValueError(f"activation {description['activation']!r}")
    needed = sum(a * b for a, b in itertools.pairwise([*widths, sum(head.sizes)]))
    most = weights.stat().st_size // 4
    if needed > most:
        raise UserError(
            f"{weights} is damaged: it holds {most:,} numbers at most, and {DESCRIPTION} describes a "
            f"network of {needed:,} weights"
        )
    actor = make_actor(
        jax.random.key(0),
        widths[0],
        head,
        hidden=tuple(widths[1:]),
        activation=description["activation"],
        orthogonal=False,  # the numbers are replaced
        output_scale=1.0,
        initial_std=head.min_std + 1.0,
    )
    stored = {name: _unspell(value) for name, value in description["normalizer"].items()}
    normalizer = make_normalizer(sizes, **stored)
    return Policy(actor, normalizer, tuple(description["groups"]))


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(map(_unspell, v)) if isinstance(v, list) else v for k, v in fields.items()}


def _spell(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _spell(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_spell(item) for item in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _unspell(value: Any) -> Any:
    return float(value) if value in ("inf", "-inf") else value


__all__ = ["LoadedPolicy", "PolicyFile", "load_policy", "save_policy"]
