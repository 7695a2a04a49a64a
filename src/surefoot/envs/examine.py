"""Whether an environment keeps the contract, found out by playing it with random actions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from surefoot.envs.contract import (
    ActionSpec,
    Environment,
    ObservationSpec,
    Step,
    as_groups,
    release,
)
from surefoot.envs.guard import Guarded
from surefoot.envs.gymnasium import GymnasiumEnvironment
from surefoot.envs.tasks import make_environment

_NUM_ENVS = 4
_ALONE_STEPS = 250
Finding = tuple[bool, str]


class _Trace:
    """What an environment answered, as arrays [T, N, ...]; row 0 is the reset."""

    def __init__(self, steps: list[Step], seconds: float) -> None:
        self.seconds = seconds
        self.observations = {
            name: np.stack([np.asarray(as_groups(step.observation)[name]) for step in steps])
            for name in as_groups(steps[0].observation)
        }
        self.reward, self.terminated, self.truncated, self.valid = (
            np.stack([np.asarray(getattr(step, field)) for step in steps])
            for field in ("reward", "terminated", "truncated", "valid")
        )

    def differs(self, other: _Trace) -> int | None:
        """The first step at which the environments that both have differ, as far as both go."""
        for t in range(min(len(self.reward), len(other.reward))):
            pairs = [(self.reward, other.reward), (self.terminated, other.terminated)]
            pairs += [(x, other.observations[name]) for name, x in self.observations.items()]
            for ours, theirs in pairs:
                both = min(ours.shape[1], theirs.shape[1])
                if not np.array_equal(
                    ours[t, :both], theirs[t, :both], equal_nan=ours.dtype.kind == "f"
                ):
                    return t
        return None

    @property
    def ended(self) -> np.ndarray:
        return self.terminated | self.truncated

    def lengths(self) -> tuple[list[int], list[int]]:
        """Lengths of the episodes that terminated, and of those that were truncated."""
        by_end: tuple[list[int], list[int]] = ([], [])
        count = np.zeros(self.valid.shape[1], int)
        for t in range(1, len(self.valid)):
            count += self.valid[t]
            for i in np.flatnonzero(self.ended[t]):
                by_end[0 if self.terminated[t, i] else 1].append(int(count[i]))
                count[i] = 0
        return by_end


def examine_environment(
    task: Any, options: Mapping[str, Any], *, steps: int = 1000
) -> Iterator[Finding]:
    """Play four environments with random actions, a few times, and compare.

    Args:
        task: a task name, or what makes an environment.
        options: the task's settings.
        steps: steps of each environment.

    Yields:
        Whether something is as it should be, and what it is, in words.

    Raises:
        ValueError: the task is unknown, or breaks the contract so that it cannot be played.
    """
    env, trace, said = _play(task, options, seed=0, steps=steps)
    action = env.spec.action
    kind = f"{action.kind} actions {action.sizes}"
    sizes = {name: spec.size for name, spec in env.spec.observations.items()}
    yield True, f"{env.spec.name}: observations {sizes}, {kind}"
    yield from ((False, text) for text in said)
    yield from _origins_of(env.spec.observations)
    yield from _actions_of(action)
    yield from _numbers(trace)
    yield from _episodes(trace)
    _, again, _ = _play(task, options, seed=0, steps=steps)
    same = trace.differs(again) is None
    yield (
        same,
        (
            "the same seed and actions give the same numbers"
            if same
            else "the same seed and actions give other numbers: it is not deterministic, so runs cannot be "
            "repeated"
        ),
    )
    if same and isinstance(env, GymnasiumEnvironment):
        yield _beside_others(trace, task, options, min(steps, _ALONE_STEPS), env.spec.observations)
    reads = env.spec.observations
    _, other, _ = _play(task, options, seed=1, steps=min(steps, 10), reads=reads)
    starts = {
        name: np.concatenate([trace.observations[name][0], other.observations[name][0]])
        for name in trace.observations
    }
    distinct = max(len(np.unique(rows, axis=0)) for rows in starts.values())
    if distinct > 1 or not said:  # what float32 loses may be all that differs
        yield (
            distinct > 1,
            (
                f"{distinct} of {2 * _NUM_ENVS} first observations differ, over environments and two seeds"
                if distinct > 1
                else "every episode begins with the same observation, whatever the seed: seeds have no "
                "effect, or the start is fixed on purpose"
            ),
        )
    if distinct > 1 and (repeats := _repeated_starts(trace)):
        yield False, repeats
    rate = steps * _NUM_ENVS / again.seconds
    yield True, f"{rate:,.0f} steps/s with {_NUM_ENVS} environments, one call a step"


def _play(
    task: Any,
    options: Mapping[str, Any],
    *,
    seed: int,
    steps: int,
    num_envs: int = _NUM_ENVS,
    reads: Mapping[str, ObservationSpec] | None = None,
) -> tuple[Environment, _Trace, list[str]]:
    """Play the first environments of `_NUM_ENVS`, whose actions and seeds do not depend on how many play.

    Returns:
        The environments, closed unless `task` is them; what they answered; what they said in words.
    """
    env: Environment = make_environment(
        task, num_envs, seed=np.random.SeedSequence(seed), options=dict(options)
    )
    said: list[str] = []
    env.log_to(said.append)
    if reads is not None:
        env.read_as(reads)
    try:
        first, *actions = (rows[:num_envs] for rows in _actions(env.spec.action, steps))
        with jax.enable_x64(env.spec.needs_float64):
            guarded = Guarded(env)
            state, step = guarded.reset(jax.random.key(seed))
            made = [step]
            call = jax.jit(guarded.step) if env.spec.in_graph else guarded.step
            state, step = call(state, first)  # compiles
            made.append(step)
            began = time.perf_counter()
            for action in actions:
                state, step = call(state, action)
                made.append(step)
            trace = _Trace(jax.device_get(made), time.perf_counter() - began)
    finally:
        if env is not task:
            release(env, said.append)
    return env, trace, said


def _beside_others(
    trace: _Trace,
    task: Any,
    options: Mapping[str, Any],
    steps: int,
    reads: Mapping[str, ObservationSpec],
) -> Finding:
    """Whether environment 0 plays alone as it does beside others."""
    _, alone, _ = _play(task, options, seed=0, steps=steps, num_envs=1, reads=reads)
    step = trace.differs(alone)
    if step is None:
        return True, "environment 0 plays beside others as it does alone"
    return (
        False,
        f"environment 0 plays otherwise beside others than alone, from step {step}: the environments share "
        "state. Give each its own (no class attributes or globals that a step changes), or a process: "
        "--env-workers with the number of --num-envs",
    )


def _repeated_starts(trace: _Trace) -> str | None:
    """In words, if the first observations of later episodes are all the same, over all or within each."""
    seen = np.concatenate(
        [x.reshape(*x.shape[:2], -1) for x in trace.observations.values()], axis=-1
    )
    later = [seen[1:, i][~trace.valid[1:, i]] for i in range(seen.shape[1])]
    count = sum(map(len, later))
    if count < 4:
        return None
    kinds = len(np.unique(np.concatenate(later), axis=0))
    within = max(
        len(np.unique(np.concatenate([seen[:1, i], x] if len(x) < 2 else [x]), axis=0))
        for i, x in enumerate(later)
        if len(x)
    )
    if kinds > 1 and within > 1:
        return None
    which = "" if kinds == 1 else " of an environment"
    return (
        f"all {count} later episodes{which} begin with the same observation, though the first ones differ: "
        "reset() without a seed must go on with the random numbers of the last one (call "
        "super().reset(seed=seed), draw from self.np_random)"
    )


def _origins_of(observations: Mapping[str, ObservationSpec]) -> Iterator[Finding]:
    for name, spec in observations.items():
        if spec.origin is None:
            continue
        where = np.argwhere(np.reshape(spec.origin, spec.shape)).tolist()
        first = np.reshape(spec.origin, spec.shape)[tuple(where[0])]
        yield (
            True,
            f"observation {name!r}: {len(where)} component(s), the first {where[0]}, begin too far from 0 "
            f"for float32 and are read from there ({first:.10g} is subtracted in float64, by the policy too)",
        )


def _actions_of(spec: ActionSpec) -> Iterator[Finding]:
    """Components that have no bound: nothing keeps a policy from sending any number."""
    free = [
        i
        for i, ends in enumerate(zip(spec.low, spec.high, strict=True))
        if not np.isfinite(ends).all()
    ]
    if free:
        which = ", ".join(map(str, free[:8])) + (", ..." if len(free) > 8 else "")
        yield (
            True,
            f"action component(s) {which} are not bounded on both sides: what a policy says is sent "
            "as it is, about -1 to 1 at first",
        )


def _actions(spec: ActionSpec, steps: int) -> list[np.ndarray]:
    """Random actions in the environment's own bounds, shape and dtype, for each step."""
    canonical = spec.random(jax.random.key(0), (steps, _NUM_ENVS))
    return list(spec.widen(spec.narrow.to_env(canonical)))


def _numbers(trace: _Trace) -> Iterator[Finding]:
    for name, rows in trace.observations.items():
        bad = ~np.isfinite(rows)
        if bad.any():
            t, i, *component = np.argwhere(bad)[0].tolist()
            yield (
                False,
                (
                    f"observation {name!r} is {rows[t, i][tuple(component)]} in environment {i}, step {t}, "
                    f"component {component[0]}"
                ),
            )
            continue
        seen = rows.reshape(rows.shape[0] * rows.shape[1], -1)
        constant = np.flatnonzero(np.ptp(seen, axis=0) == 0.0)
        largest = float(np.abs(seen).max())
        yield True, f"observation {name!r} is finite; its largest number is {largest:.3g}"
        if len(constant):
            which = ", ".join(map(str, constant[:8].tolist()))
            more = ", ..." if len(constant) > 8 else ""
            yield True, f"observation {name!r}: component(s) {which}{more} never change here"
    rewards = trace.reward[trace.valid]
    if not np.isfinite(rewards).all():
        t, i = np.argwhere(~np.isfinite(trace.reward))[0].tolist()
        yield False, f"reward is {trace.reward[t, i]} in environment {i}, step {t}"
    elif np.all(rewards == 0.0):
        yield False, f"no reward in {len(rewards):,} random steps: it may be too rare to be met"
    else:
        yield True, f"reward: {rewards.min():.3g} to {rewards.max():.3g}, mean {rewards.mean():.3g}"


def _episodes(trace: _Trace) -> Iterator[Finding]:
    resets = ~trace.valid[1:]
    behind = trace.ended[:-1]
    kept = np.array_equal(resets, behind)
    yield (
        kept,
        (
            "episodes begin anew on the step behind their end"
            if kept
            else "rows that begin an episode are not those behind an episode's end: the contract is broken"
        ),
    )
    terminated, truncated = trace.lengths()
    if not terminated and not truncated:
        yield True, "no episode ended under random actions (play longer: --steps)"
        return
    yield (
        True,
        (
            f"{len(terminated)} episodes terminated (lengths {_range(terminated)}), {len(truncated)} were "
            f"truncated by a time limit (lengths {_range(truncated)})"
        ),
    )
    longest = max(terminated, default=0)
    if len(terminated) > 3 and terminated.count(longest) == len(terminated) and not truncated:
        yield (
            False,
            (
                f"every episode terminates after exactly {longest} steps: a time limit that is reported as "
                "terminated? Then values are not bootstrapped there (it should be truncated)"
            ),
        )


def _range(lengths: list[int]) -> str:
    return f"{min(lengths)} to {max(lengths)}" if lengths else "none"
