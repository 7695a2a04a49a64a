"""Checkpoints: what a run needs to go on, `checkpoints/step-NNNNNNNNNNNN/`, each whole or not there.

A checkpoint is written beside its place, every file on the disk before the manifest, which holds sizes
and checksums, and moved there last. What is read is checked first; nothing in it can name code to run.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from surefoot.agent import Policy, load_policy, save_policy, to_json
from surefoot.config_file import to_toml
from surefoot.errors import UserError
from surefoot.files import (
    MisfitError,
    checksum,
    load_arrays,
    remove_folder,
    remove_staging,
    save_arrays,
    whole_folder,
    write_json,
    write_text,
)
from surefoot.machine import platform_info
from surefoot.reading import read_json
from surefoot.services.step_folders import CHECKPOINTS, by_step, step_name
from surefoot.training import Hook, ResumePoint, Run, Trainer, TrainState, is_checkpoint
from surefoot.training.environments import Origins, origins_of, with_origins

MANIFEST = "manifest.json"
TRAINER = "trainer.safetensors"
_RANDOM, _SIMULATORS = "rng.safetensors", "environments.safetensors"
_ALWAYS = {"config.toml", "policy.json", "policy.safetensors", TRAINER, _RANDOM}
_FORMAT = (
    2  # 1: before agents and learners were data; its runs go on with Surefoot at commit f1b20e3
)
_TASK = "the task's code or model"
_MILESTONES = 4  # checkpoints kept for good, spread over the run


class Best(NamedTuple):
    """The checkpoint before which training episodes had the highest mean return."""

    step: int
    episode_return: float


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose files are complete and undamaged.

    Attributes:
        path: its folder.
        step: environment steps of experience.
        iteration: iterations.
        wall_time_s: seconds of training.
        environments: `saved` (in the checkpoint), `anew` (they began anew here in the run itself), or
            `left` (they went on, and are lost).
        exact: whether a run that goes on from here is the same, byte for byte.
        best: the best checkpoint so far, if any episode has ended.
        milestones: steps of the checkpoints that are kept for good.
        machine: versions and hardware it was made with.
        origins: what observations are read from, by group (`ObservationSpec.origin`).
    """

    path: Path
    step: int
    iteration: int
    wall_time_s: float
    environments: str
    exact: bool
    best: Best | None
    milestones: tuple[int, ...]
    machine: Mapping[str, Any]
    origins: Origins

    @property
    def fingerprint(self) -> str | None:
        """Of the task that it was made on (`EnvSpec.fingerprint`)."""
        return self.machine.get(_TASK)

    def restore(self, trainer: Trainer) -> TrainState:
        """The state; simulators whose state is of another kind, as of a version before, begin new episodes.

        Raises:
            ValueError: it does not fit the run's environments or networks, or is damaged.
        """
        load_policy(self.path).check_fits(trainer.env.spec)
        template = trainer.state_template(self.iteration)
        state = self._load(template)
        random = load_arrays(self.path / _RANDOM, {"training": template.key})
        collector = None
        if self.environments == "saved":
            try:
                collector = load_arrays(self.path / _SIMULATORS, template.collector)
            except MisfitError as error:
                why = "the task or Surefoot has changed, and with it what is saved of the environments"
                then = "they begin new episodes, so that the run is not the exact one"
                warnings.warn(f"{why}: {then} ({error})", stacklevel=2)
        return state._replace(key=random["training"], collector=collector)

    def learned(self, trainer: Trainer) -> TrainState:
        """The same without environments and random stream, for who looks at networks alone."""
        return self._load(trainer.learned_template(self.iteration))

    def _load(self, template: TrainState) -> TrainState:
        state = load_arrays(self.path / TRAINER, template._replace(key=None, collector=None))
        if (state.step, state.iteration) != (self.step, self.iteration):
            raise UserError(f"{self.path}: {MANIFEST} and {TRAINER} are of different steps")
        return state

    def resume_point(self) -> ResumePoint:
        """Where the run goes on."""
        reads = partial(with_origins, origins=self.origins)
        return ResumePoint(self.step, self.wall_time_s, self.restore, reads)

    def differences(self, fingerprint: str | None = None) -> list[str]:
        """What is other than when it was made, of all that the last bits of a run depend on.

        Args:
            fingerprint: of the task now (`EnvSpec.fingerprint`).
        """
        return _differences(self.machine, _circumstances(fingerprint))


class Checkpoints(Hook):
    """Saves the run now and then, and at its end.

    Args:
        run_folder: the run folder.
        after: the checkpoint that the run goes on from; there is none of a later step.
        sync_metrics: puts the lines of metrics on the disk: no checkpoint is there without those before it.
        alone: False where other seeds share its program, whose rounding is not that of a run alone.
    """

    def __init__(
        self,
        run_folder: Path,
        *,
        after: Checkpoint | None = None,
        sync_metrics: Callable[[], None] = lambda: None,
        alone: bool = True,
    ) -> None:
        self._folder = run_folder / CHECKPOINTS
        self._sync_metrics, self._alone = sync_metrics, alone
        self._step = after.step if after else 0
        self._saved = self._step
        self._time = after.wall_time_s if after else 0.0
        self._best = after.best if after else None
        self._milestones = after.milestones if after else ()
        self._episodes, self._total_return = 0, 0.0
        self._exact_at = after.step if after and after.exact else None
        self._run: Run | None = None

    def on_start(self, run: Run) -> None:
        """Make the folder."""
        self._run = run
        self._folder.mkdir(exist_ok=True)
        remove_staging(self._folder)

    def on_iteration(self, state: TrainState, metrics: Mapping[str, Any]) -> None:
        """Save if it is time to."""
        assert self._run is not None
        self._time = metrics["wall_time_s"]
        if metrics.get("rollout/episode_return") is not None:
            self._episodes += metrics["rollout/episodes"]
            self._total_return += metrics["rollout/episodes"] * metrics["rollout/episode_return"]
        if metrics["step"] < state.step:
            return  # seeds side by side: further iterations led to this state, and are heard of next
        before, self._step = self._step, state.step
        if is_checkpoint(before, state.step, self._run.config):
            self._save(state)

    def on_end(self, state: TrainState, policy: Policy, *, finished: bool) -> None:
        """Save what came after the last checkpoint, if all that led to it was heard of."""
        if state.step == self._step > self._saved:
            self._save(state)

    def _save(self, state: TrainState) -> None:
        """Save a state; if that fails, say so and go on: the one before is still there."""
        run = self._run
        assert run is not None
        if not _is_finite(state):
            run.log(f"step {state.step:,}: a number is not finite, so no checkpoint is made of it")
            return
        target = self._folder / step_name(state.step)
        best, milestones = self._judged(state.step)
        self._sync_metrics()
        try:
            if target.exists():
                shutil.rmtree(target)
            with whole_folder(target) as folder:
                self._write(folder, state, best, milestones)
            made = read_checkpoint(target)
        except (OSError, UserError) as error:
            run.log(
                f"the checkpoint at step {state.step:,} could not be written ({error}); training "
                f"goes on, the one at step {self._saved:,} is kept"
            )
            return
        self._saved, self._best, self._milestones = state.step, best, milestones
        self._exact_at = state.step if made.exact else self._exact_at
        self._episodes, self._total_return = 0, 0.0
        self._forget()

    def _judged(self, step: int) -> tuple[Best | None, tuple[int, ...]]:
        """The best checkpoint and the milestones, this one included."""
        assert self._run is not None
        best = self._best
        if self._episodes:
            now = Best(step, self._total_return / self._episodes)
            best = now if best is None or now.episode_return > best.episode_return else best
        total = self._run.config.total_steps
        part = step * _MILESTONES // total
        is_milestone = part > self._saved * _MILESTONES // total
        return best, (*self._milestones, step) if is_milestone else self._milestones

    def _write(
        self, folder: Path, state: TrainState, best: Best | None, milestones: tuple[int, ...]
    ) -> None:
        run = self._run
        assert run is not None
        write_text(folder / "config.toml", to_toml(run.config, task=run.task))
        finished = state.step >= run.config.total_steps
        policy = run.policy(state)
        save_policy(folder, policy, task=run.task, step=state.step, finished=finished)
        arrays = {
            TRAINER: save_arrays(folder / TRAINER, state._replace(key=None, collector=None)),
            _RANDOM: save_arrays(folder / _RANDOM, {"training": state.key}),
        }
        environments = "anew" if state.needs_reset else "left"
        if run.env.saves_state:
            environments = "saved"
            arrays[_SIMULATORS] = save_arrays(folder / _SIMULATORS, state.collector)
        manifest = {
            "format": _FORMAT,
            "task": run.task,
            "seed": run.config.seed,
            "step": state.step,
            "iteration": state.iteration,
            "wall_time_s": self._time,
            "environments": environments,
            "exact": environments != "left" and self._alone,
            "best": best and best._asdict(),
            "milestones": list(milestones),
            "machine": _circumstances(run.env.fingerprint),
            "agent": {
                "observations": to_json(run.agent.observations),
                "critic": to_json(run.agent.critic),
            },
            "precision": "float32",
            "origins": {n: list(x) for n, x in origins_of(run.env.observations).items()},
            "arrays": arrays,
            "files": {file.name: checksum(file) for file in sorted(folder.iterdir())},
        }
        write_json(folder / MANIFEST, manifest)

    def _forget(self) -> None:
        """Remove the checkpoints that nothing asks for."""
        assert self._run is not None
        here = by_step(self._folder)
        kept = {step for step, _ in here[: self._run.config.keep_checkpoints]}
        kept |= {*self._milestones, self._exact_at, self._best and self._best.step}
        for step, path in here:
            if step not in kept:
                remove_folder(path)


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint, every file of it compared with the manifest.

    Raises:
        ValueError: it is damaged or of another format, with the file and what is wrong.
    """
    file = path / MANIFEST
    manifest = read_json(file)
    try:
        if manifest["format"] != _FORMAT:
            raise UserError(
                f"{file}: format {manifest['format']}, this version reads {_FORMAT}; go on with it in "
                "the version of Surefoot that meta.json names, or train it again (--config config.toml)"
            )
        best = manifest["best"]
        found = Checkpoint(
            path=path,
            step=_integer(manifest["step"]),
            iteration=_integer(manifest["iteration"]),
            wall_time_s=_number(manifest["wall_time_s"]),
            environments=str(manifest["environments"]),
            exact=manifest["exact"],
            best=best and Best(_integer(best["step"]), _number(best["episode_return"])),
            milestones=tuple(map(_integer, manifest["milestones"])),
            machine=dict(manifest["machine"]),
            # older ones have none
            origins={
                str(name): tuple(map(_number, numbers))
                for name, numbers in manifest.get("origins", {}).items()
            },
        )
        files = {str(name): dict(entry) for name, entry in manifest["files"].items()}
        if found.environments not in ("saved", "anew", "left"):
            raise ValueError(f"environments = {found.environments!r}")
        if type(found.exact) is not bool or not 0 <= found.wall_time_s < 2**53:
            raise ValueError(f"exact = {found.exact!r}, wall_time_s = {found.wall_time_s!r}")
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{file} is damaged: {error!r}") from None
    if path.name != step_name(found.step):
        raise UserError(f"{file} is of step {found.step:,}, and its folder of another")
    if set(files) != _ALWAYS | ({_SIMULATORS} if found.environments == "saved" else set()):
        raise UserError(f"{file} is damaged: it lists the files {sorted(files)}")
    for name, entry in files.items():
        _compare(path / name, entry)
    return found


def find_checkpoint(
    run_folder: Path, *, step: int | None = None, exact: bool = False
) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint of a run that is sound, and what was wrong with those after it.

    Args:
        run_folder: the run folder.
        step: the one at this step, and no other.
        exact: rather an older one from which the run goes on exactly, if there is any.

    Returns:
        The checkpoint, or None if the run has none yet.

    Raises:
        ValueError: there is none at `step`, or every one is damaged.
    """
    here = by_step(run_folder / CHECKPOINTS)
    if step is not None:
        found = [path for at, path in here if at == step]
        if not found:
            have = ", ".join(f"{at}" for at, _ in here) or "none"
            raise UserError(f"{str(run_folder)!r} has no checkpoint at step {step} (it has {have})")
        return read_checkpoint(found[0]), []
    complaints: list[str] = []
    newest: Checkpoint | None = None
    for _, path in here:
        try:
            checkpoint = read_checkpoint(path)
        except UserError as error:
            complaints.append(str(error))
            continue
        newest = newest or checkpoint
        if checkpoint.exact or not exact:
            return checkpoint, complaints
    if here and newest is None:
        raise UserError(f"every checkpoint of {str(run_folder)!r} is damaged: {complaints[0]}")
    return newest, complaints


def _integer(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"{value!r} is not a count")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _compare(file: Path, entry: Mapping[str, Any]) -> None:
    """Raise ValueError if a file is not the one that was written."""
    try:
        size = file.stat().st_size
        if size != entry.get("size"):
            raise UserError(f"{file} is damaged: {size:,} bytes, {entry.get('size')} were written")
        if checksum(file)["sha256"] != entry.get("sha256"):
            raise UserError(f"{file} is damaged: its checksum is not that of what was written")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None


def _is_finite(state: TrainState) -> bool:
    """Whether every number that training computes with is finite; simulators keep what they like."""
    leaves = jax.tree.leaves(state._replace(key=None, collector=None))
    return all(
        np.isfinite(np.asarray(leaf)).all()
        for leaf in leaves
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    )


def _circumstances(fingerprint: str | None) -> dict[str, Any]:
    known = {} if fingerprint is None else {_TASK: fingerprint}
    return {**platform_info(), **known}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new)
        elif old != new:
            found.append(f"{name} was {old}, is {new}")
    return found


__all__ = ["MANIFEST", "TRAINER", "Checkpoint", "Checkpoints", "find_checkpoint", "read_checkpoint"]
