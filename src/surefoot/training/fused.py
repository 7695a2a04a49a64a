"""Several seeds of a task written in JAX, trained side by side.

The loop of `training.loop`, with nothing of it on the host: an iteration is a function of the state, a
scan repeats it, `vmap` runs it for several seeds at once: a team for each core of the CPU, because the
batched products of one program leave the other cores half idle. The host hears of it between scans.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from surefoot.agent import Policy
from surefoot.config import Config, parse_options, validate
from surefoot.envs import EnvSpec
from surefoot.envs.tasks import fingerprinted, task_name
from surefoot.errors import UserError
from surefoot.machine import usable_cores
from surefoot.training.hooks import Hook, Listeners, Run
from surefoot.training.loop import Trainer, environments
from surefoot.training.reports import Numbers
from surefoot.training.state import TrainState
from surefoot.update import make_executors

REPORTS = 20  # scans of a run at least, each followed by its reports
_MOST_STEPS = 2**31 - 1  # steps are counted in 32 bits inside the program


def train_seeds(
    task: Any,
    config: Config | None = None,
    *,
    hooks: Sequence[Sequence[Hook]],
    should_stop: Callable[[], bool] = lambda: False,
    reports: int = REPORTS,
) -> list[tuple[TrainState, Policy]]:
    """Train one policy a seed, all at once: `config.seed`, `config.seed + 1`, ...

    Each is the policy that its seed gives alone, up to the rounding of batched matrix products.

    Args:
        task: a task written in JAX: `gymnax:ID`, `probe:NAME`, or the user's own.
        config: the options; `overlap` has no meaning here.
        hooks: listeners, a list for each seed; there are as many seeds as lists. They hear of every
            iteration's metrics, with the state at the end of the scan it was in.
        should_stop: asked between scans.
        reports: scans of the run, at least (if it has as many iterations).

    Returns:
        State and policy of each seed.

    Raises:
        ValueError: an option, task or environment that cannot be trained so, before any training.
    """
    config = validate(config or Config())
    with environments(task, config) as env:
        if not env.spec.in_graph or env.spec.needs_float64:
            raise UserError(
                f"num_seeds = {len(hooks)}: {env.spec.name} is not written in JAX, so its seeds cannot "
                "share one program; leave num_seeds out and train one seed after the other"
            )
        if config.total_steps > _MOST_STEPS:
            raise UserError(
                f"total_steps = {config.total_steps} with num_seeds: at most {_MOST_STEPS}"
            )
        spec = fingerprinted(env.spec, task, parse_options(config.env_options))
        serial = config.replace(overlap="off")
        trainer = Trainer(serial, env, make_executors(serial))
        teams = _make_teams(trainer, hooks, reports)
        runs = [run for team in teams for run in team.runs]
        with contextlib.ExitStack() as at_end:
            for run in runs:
                at_end.enter_context(run.to_hooks(task_name(task), config, spec))
            beside = at_end.enter_context(ThreadPoolExecutor(len(teams), "surefoot-seeds"))
            began = lap = time.perf_counter()
            while any(run.state.step < config.total_steps for run in runs) and not should_stop():
                done = list(beside.map(_Team.scan, teams))
                now = time.perf_counter()
                for team, (steps, metrics) in zip(teams, done, strict=True):
                    for run in team.runs:
                        run.report(team.states, steps, metrics, wall=now - began, elapsed=now - lap)
                lap = now
    return [(run.state, trainer.policy(run.state)) for run in runs]


class _Team:
    """Seeds that share one program; on a CPU each core has its team, and all scan at once."""

    def __init__(self, program: Any, states: TrainState, runs: Sequence[_Seed]) -> None:
        self.program, self.runs = program, runs
        self._states = states
        self.states = _on_host(states)

    def scan(self) -> tuple[Any, Any]:
        """Some iterations of every seed; returns their steps and metrics."""
        self._states, seen = self.program(self._states)
        seen = jax.device_get(seen)
        self.states = _on_host(self._states)
        return seen


def _make_teams(trainer: Trainer, hooks: Sequence[Sequence[Hook]], reports: int) -> list[_Team]:
    scan, programs, teams = _make_scan(trainer, reports), {}, []
    cores = usable_cores() if jax.default_backend() == "cpu" else 1
    for members in np.array_split(np.arange(len(hooks)), min(cores, len(hooks))):
        seeds = [trainer.config.seed + int(k) for k in members]
        states = jax.tree.map(lambda *rows: jnp.stack(rows), *map(trainer.start, seeds))
        if len(seeds) not in programs:  # compiled here, once, and not by every thread
            programs[len(seeds)] = scan.lower(states).compile()
        here = _on_host(states)
        runs = [_Seed(trainer, here, i, seed, hooks[members[i]]) for i, seed in enumerate(seeds)]
        teams.append(_Team(programs[len(seeds)], states, runs))
    return teams


def _on_host(states: TrainState) -> TrainState:
    """As NumPy arrays, of which a seed's part is a view and not a program of its own."""

    def on_host(x: Any) -> Any:
        return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)

    return jax.tree.map(on_host, states)


def _make_scan(trainer: Trainer, reports: int) -> Any:
    """The jitted program: some iterations of every seed; those beyond `total_steps` do nothing."""
    config = trainer.config
    length = max(1, config.total_steps // (config.batch_size * reports))

    def iteration(state: TrainState) -> tuple[TrainState, Any]:
        state, rollout = trainer.collect(state, trainer.policy(state))
        state, gathered = trainer.make_experience(state, rollout)
        state, estimated = trainer.estimate_advantages(state, gathered.experience)
        state, learned = trainer.update(state, gathered.experience, estimated)
        metrics = (gathered.metrics, *learned)
        return state.advance(gathered.experience.num_steps()), (metrics, gathered.faults)

    def unless_done(state: TrainState, _: None) -> tuple[TrainState, Any]:
        runs = state.step < config.total_steps
        after, metrics = iteration(state)
        state = jax.tree.map(lambda new, old: jnp.where(runs, new, old), after, state)
        return state, (jnp.where(runs, state.step, 0), metrics)

    def some(state: TrainState) -> tuple[TrainState, Any]:
        state = state._replace(step=jnp.asarray(state.step), iteration=jnp.asarray(state.iteration))
        return jax.lax.scan(unless_done, state, None, length=length)

    return jax.jit(jax.vmap(some))


class _Seed:
    """One of the seeds: its part of its team's stacked states, and who listens to it."""

    def __init__(
        self,
        trainer: Trainer,
        states: TrainState,
        index: int,
        seed: int,
        hooks: Sequence[Hook],
    ) -> None:
        self.trainer, self.index, self.seed = trainer, index, seed
        self.state = self._own(states)
        self._listeners = Listeners(hooks)
        log = self._listeners.log
        self._numbers = Numbers(trainer.env.spec.name, trainer.config, log)

    def to_hooks(
        self, task: str, config: Config, spec: EnvSpec
    ) -> contextlib.AbstractContextManager[None]:
        """Let the seed's hooks hear of the block."""
        trainer, config = self.trainer, config.replace(seed=self.seed)
        log = self._listeners.log
        run = Run(task, config, spec, trainer.agent, trainer.policy, log)
        return self._listeners.during(run, lambda: self.state)

    def report(
        self, states: TrainState, steps: Any, metrics: Any, *, wall: float, elapsed: float
    ) -> None:
        """Tell the hooks of the iterations of a scan; `steps` is 0 where one did not run.

        Raises:
            ValueError: too many updates diverged; the state from before the scan is kept.
        """
        after = self._own(states)
        counts = [int(count) for count in steps[self.index] if count]
        rows, before = [], self.state
        for i, count in enumerate(counts):
            here = jax.tree.map(lambda x, i=i: x[self.index, i], metrics)
            state = after._replace(step=count, iteration=self.state.iteration + i + 1)
            measured, faults = here
            row = self._numbers(measured, faults, before, state)
            # a scan is one piece of time: its iterations get equal shares
            row["wall_time_s"] = wall - elapsed * (len(counts) - 1 - i) / len(counts)
            row["time/env_steps_per_second"] = (after.step - self.state.step) / elapsed
            rows.append(row)
            before = state
        self.state = after
        for row in rows:
            self._listeners.on_iteration(after, row)

    def _own(self, states: TrainState) -> TrainState:
        state = jax.tree.map(lambda x: x[self.index], states)
        return state._replace(step=int(state.step), iteration=int(state.iteration))
