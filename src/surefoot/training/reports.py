"""From what an iteration leaves to what the hooks hear: numbers on the host, checked, with times."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from surefoot.config import Config
from surefoot.errors import UserError
from surefoot.training.environments import crosses
from surefoot.training.hooks import Hook, Listeners, Run
from surefoot.training.state import TrainState
from surefoot.update import resolve

Metrics = dict[str, Any]
_MOST_NAMED = 10  # faults named one by one


class Clock:
    """Where an iteration's time goes.

    Args:
        before: seconds that went by before an interruption.
    """

    def __init__(self, before: float = 0.0) -> None:
        self._lap = time.perf_counter()
        self._began = self._lap - before
        self._spent: dict[str, float] = {}

    def time(self, share: str, step: Callable[..., Any], *args: Any) -> Any:
        """Call `step`, wait for what it computes itself, and book the time under `share`."""
        before = time.perf_counter()
        result = jax.block_until_ready(step(*args))
        self._spent[share] = self._spent.get(share, 0.0) + time.perf_counter() - before
        return result

    def lap(self, steps: int) -> Metrics:
        """The iteration's time metrics; the next iteration starts here."""
        now = time.perf_counter()
        elapsed = now - self._lap
        shares = {f"time/share_{name}": spent / elapsed for name, spent in self._spent.items()}
        self._lap, self._spent = now, {}
        return {
            "wall_time_s": now - self._began,
            "time/env_steps_per_second": steps / elapsed,
            **shares,
        }


class Reports:
    """Iterations on their way to the hooks, in order, each once it is complete.

    Args:
        state: the state before the first iteration.
        hooks: who hears.
        config: `in_flight` says how many iterations may still be updating; none where one is evaluated,
            since that may be the end.
        task: the environments' name, for errors.
        wall_time_s: seconds that went by before an interruption.

    Attributes:
        state: the newest state that is complete and sound.
        clock: the iterations' times.
    """

    def __init__(
        self,
        state: TrainState,
        hooks: Sequence[Hook],
        config: Config,
        task: str,
        wall_time_s: float = 0.0,
    ) -> None:
        self.state = state
        self._listeners = Listeners(hooks)
        self.log, self.report = self._listeners.log, self._listeners.on_breakdown
        self._numbers = Numbers(task, config, self.log)
        self.clock = Clock(wall_time_s)
        self._config = config
        self._waiting: deque[tuple[TrainState, Any, Sequence[Any], Metrics]] = deque()

    @contextlib.contextmanager
    def to_hooks(self, run: Run) -> Iterator[None]:
        """Let the hooks hear of the block; at its end what is in flight is waited for first."""
        with self._listeners.during(run, lambda: self.state):
            try:
                yield
            finally:
                self.deliver()

    def add(self, state: TrainState, gathered: Any, learned: Sequence[Any]) -> None:
        """An iteration whose update has begun: its state and metrics may be futures.

        Raises:
            ValueError: an iteration before it, or this one, diverged.
        """
        last = self._waiting[-1][0] if self._waiting else self.state
        times = self.clock.lap(state.step - last.step)
        metrics = (gathered.metrics, *learned)
        self._waiting.append((state, gathered.faults, metrics, times))
        is_evaluated = crosses(self._config.eval_every, last.step, state.step)
        self.deliver(all_but=0 if is_evaluated else self._config.in_flight)

    def deliver(self, *, all_but: int = 0) -> None:
        """Wait for the iterations in flight, but for the last few, and tell the hooks."""
        while len(self._waiting) > all_but:
            state, faults, metrics, times = self._waiting.popleft()
            try:
                state = state.resolved()
                faults, measured = jax.device_get((faults, resolve(metrics)))
                numbers = self._numbers(measured, faults, self.state, state)
            except BaseException:
                self._waiting.clear()  # what was built on it is worth nothing
                raise
            self.state = state
            self._listeners.on_iteration(state, numbers | times)


class Numbers:
    """From the metrics of an iteration to plain numbers; says in words what went wrong in it.

    Args:
        task: the environments' name.
        config: `max_refused_updates` says how much is borne.
        log: hears of faults.
    """

    def __init__(self, task: str, config: Config, log: Callable[[str], None]) -> None:
        self._task, self._most, self._log = task, config.max_refused_updates, log
        self._named: set[tuple[str, int]] = set()

    def __call__(
        self,
        metrics: Sequence[Mapping[str, Any]],
        faults: Mapping[str, np.ndarray],
        before: TrainState,
        state: TrainState,
    ) -> Metrics:
        """The numbers, on the host; NaN is None.

        Args:
            metrics: arrays by name.
            faults: [N] by what a number that is not finite was in.
            before: the state that the iteration began with.
            state: the state behind it.

        Raises:
            ValueError: no environment gave a finite number, or one update too many diverged.
        """
        numbers = {name: np.asarray(x).item() for part in metrics for name, x in part.items()}
        numbers["optim/refused_updates"] = sum(int(x.skipped) for x in state.learners.values())
        self._name_faults(faults, state)
        if numbers.get("rollout/masked_steps") and state.step == before.step:
            field, rows = max(faults.items(), key=lambda fault: fault[1].sum())
            why = f"{field} is not finite" if rows.any() else "every episode was lost"
            raise UserError(
                f"{self._task}: {why} in all of {rows.size} environments in iteration "
                f"{state.iteration}; there is nothing left to learn from"
            )
        self._name_skipped(before, state, numbers)
        body = {
            name: None if isinstance(x, float) and not math.isfinite(x) else x
            for name, x in sorted(numbers.items())
        }
        return {"step": state.step, "iteration": state.iteration} | body

    def _name_faults(self, faults: Mapping[str, np.ndarray], state: TrainState) -> None:
        """Name each environment and field once, the first few of them."""
        for field, rows in faults.items():
            for index in map(int, np.flatnonzero(rows)):
                if (field, index) in self._named or len(self._named) > _MOST_NAMED:
                    continue
                self._named.add((field, index))
                further = "; further ones are counted" if len(self._named) > _MOST_NAMED else ""
                self._log(
                    f"{self._task}, environment {index}: {field} is not finite in {rows[index]} "
                    f"step(s) of iteration {state.iteration}, which are left out "
                    f"(rollout/masked_steps counts them{further})"
                )

    def _name_skipped(self, before: TrainState, state: TrainState, numbers: Metrics) -> None:
        odd = {
            name: x
            for name, x in numbers.items()
            if name.startswith(("loss/", "optim/")) and not math.isfinite(x)
        }
        why = ", ".join(f"{name} is {x}" for name, x in odd.items()) or "a parameter is not finite"
        for name, learner in state.learners.items():
            count = int(learner.skipped)
            if count == int(before.learners[name].skipped):
                continue
            where = f"the {name}'s update in iteration {state.iteration}"
            if count > self._most:
                raise UserError(
                    f"training diverged: {where} is not finite ({why}), after {count - 1} others "
                    "that were not applied. The policy from before is kept; try a smaller "
                    "learning_rate, scale_rewards, or a target_kl"
                )
            self._log(
                f"{where} is not finite ({why}): it is not applied, and from here on its learning "
                f"rate is halved ({count} of {self._most} times)"
            )
