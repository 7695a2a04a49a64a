"""From what an iteration leaves to what the hooks hear: numbers on the host, checked, with times."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from surefoot.config import Config
from surefoot.errors import UserError
from surefoot.rollout import Policy
from surefoot.training.hooks import Hook
from surefoot.training.metrics import FAULT
from surefoot.training.state import TrainState
from surefoot.update import settle

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
        self._first: dict[str, float] = {}

    def time(self, share: str, step: Callable[..., Any], *args: Any) -> Any:
        """Call `step`, wait for what it computes itself, and book the time under `share`."""
        before = time.perf_counter()
        result = jax.block_until_ready(step(*args))
        took = time.perf_counter() - before
        self._first.setdefault(share, took)
        self._spent[share] = self._spent.get(share, 0.0) + took
        return result

    def first(self, share: str) -> float:
        """Seconds of the first step booked under `share`, compilation included."""
        return self._first[share]

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
        config: `in_making` says how many iterations may be in the making.
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
        self._numbers = Numbers(task, config, self.note)
        self.clock = Clock(wall_time_s)
        self._hooks = hooks
        self._total = config.total_steps
        self._in_making = config.in_making
        self._waiting: deque[tuple[TrainState, Sequence[Any], Metrics]] = deque()

    def add(self, state: TrainState, metrics: Sequence[Any]) -> None:
        """An iteration whose update has begun: its state and metrics may be pending.

        Raises:
            ValueError: an iteration before it, or this one, diverged.
        """
        last = self._waiting[-1][0] if self._waiting else self.state
        self._waiting.append((state, metrics, self.clock.lap(state.step - last.step)))
        self.deliver(all_but=self._in_making)

    def deliver(self, *, all_but: int = 0) -> None:
        """Wait for the iterations in the making, but for the last few, and tell the hooks."""
        while len(self._waiting) > all_but:
            state, metrics, times = self._waiting.popleft()
            try:
                state = settle_state(state)
                measured = jax.device_get(settle(metrics))
                numbers = self._numbers(measured, self.state, state)
            except BaseException:
                self._waiting.clear()  # what was built on it is worth nothing
                raise
            self.state = state
            for hook in self._hooks:
                hook.on_iteration(state, numbers | times)

    def note(self, text: str) -> None:
        """Tell the hooks something in words."""
        for hook in self._hooks:
            hook.on_note(text)

    def failed(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Tell the hooks of the error that training ended with, if it did."""
        if isinstance(error, Exception):
            for hook in self._hooks:
                hook.on_failure(self.state, error)

    def end(self, hook: Hook, policy: Callable[[TrainState], Policy]) -> None:
        """Tell a hook that training is over."""
        hook.on_end(self.state, policy(self.state), finished=self.state.step >= self._total)


def settle_state(state: TrainState) -> TrainState:
    """A state with nothing pending."""
    return state._replace(
        learners=settle(state.learners),
        behind=settle(state.behind),
        previous=settle(state.previous),
    )


class Numbers:
    """From the metrics of an iteration to plain numbers; says in words what went wrong in it.

    Args:
        task: the environments' name.
        config: `max_refused_updates` says how much is borne.
        tell: hears of faults.
    """

    def __init__(self, task: str, config: Config, tell: Callable[[str], None]) -> None:
        self._task, self._most, self._tell = task, config.max_refused_updates, tell
        self._named: set[tuple[str, int]] = set()

    def __call__(
        self, metrics: Sequence[Mapping[str, Any]], before: TrainState, state: TrainState
    ) -> Metrics:
        """The numbers, on the host; NaN is None.

        Args:
            metrics: arrays by name.
            before: the state that the iteration began with.
            state: the state behind it.

        Raises:
            ValueError: no environment gave a finite number, or one update too many diverged.
        """
        merged = {name: np.asarray(x) for part in metrics for name, x in part.items()}
        faults = {name: merged.pop(name) for name in list(merged) if name.startswith(FAULT)}
        numbers = {name: x.item() for name, x in merged.items()}
        numbers["optim/refused_updates"] = sum(int(x.refused) for x in state.learners.values())
        self._name_faults(faults, state)
        if numbers.get("rollout/masked_steps") and state.step == before.step:
            field, rows = max(faults.items(), key=lambda fault: fault[1].sum())
            why = (
                f"{field.removeprefix(FAULT)} is not finite"
                if rows.any()
                else "every episode was lost"
            )
            raise UserError(
                f"{self._task}: {why} in all of {rows.size} environments in iteration "
                f"{state.iteration}; there is nothing left to learn from"
            )
        self._name_refused(before, state, numbers)
        body = {
            name: None if isinstance(x, float) and not math.isfinite(x) else x
            for name, x in sorted(numbers.items())
        }
        return {"step": state.step, "iteration": state.iteration} | body

    def _name_faults(self, faults: Mapping[str, np.ndarray], state: TrainState) -> None:
        """Name each environment and field once, the first few of them."""
        for name, rows in faults.items():
            field = name.removeprefix(FAULT)
            for index in map(int, np.flatnonzero(rows)):
                if (field, index) in self._named or len(self._named) > _MOST_NAMED:
                    continue
                self._named.add((field, index))
                further = "; further ones are counted" if len(self._named) > _MOST_NAMED else ""
                self._tell(
                    f"{self._task}, environment {index}: {field} is not finite in {rows[index]} "
                    f"step(s) of iteration {state.iteration}, which are left out "
                    f"(rollout/masked_steps counts them{further})"
                )

    def _name_refused(self, before: TrainState, state: TrainState, numbers: Metrics) -> None:
        odd = {
            name: x
            for name, x in numbers.items()
            if name.startswith(("loss/", "optim/")) and not math.isfinite(x)
        }
        why = ", ".join(f"{name} is {x}" for name, x in odd.items()) or "a parameter is not finite"
        for name, learner in state.learners.items():
            count = int(learner.refused)
            if count == int(before.learners[name].refused):
                continue
            where = f"the {name}'s update in iteration {state.iteration}"
            if count > self._most:
                raise UserError(
                    f"training diverged: {where} is not finite ({why}), after {count - 1} others "
                    "that were not applied. The policy from before is kept; try a smaller "
                    "learning_rate, scale_rewards, or a target_kl"
                )
            self._tell(
                f"{where} is not finite ({why}): it is not applied, and from here on its learning "
                f"rate is halved ({count} of {self._most} times)"
            )
