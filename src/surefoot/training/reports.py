"""From what an iteration leaves to what the hooks hear: numbers on the host, checked, with times."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from surefoot.config import Config, UserError
from surefoot.rollout import Policy
from surefoot.training.hooks import Hook
from surefoot.training.metrics import FAULT
from surefoot.training.state import TrainState
from surefoot.update import settle

Metrics = dict[str, Any]


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
        self._task = task
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
                numbers = to_numbers(measured, state, before=self.state.step, task=self._task)
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


def to_numbers(
    metrics: Sequence[Mapping[str, Any]], state: TrainState, *, before: int, task: str
) -> Metrics:
    """The metrics of an iteration, on the host, as plain numbers; NaN is None.

    Raises:
        ValueError: a simulator's number was not finite, or the update diverged; the state must not
            replace the one `before` (in steps).
    """
    merged = {name: np.asarray(x) for part in metrics for name, x in part.items()}
    faults = {name: merged.pop(name) for name in list(merged) if name.startswith(FAULT)}
    for name, bad in faults.items():
        if bad.any():
            raise UserError(
                f"{task}, environment {int(np.argmax(bad))}: {name.removeprefix(FAULT)} is not "
                f"finite ({int(bad.sum())} of {bad.size} environments); the policy from before is "
                "kept"
            )
    numbers = {name: x.item() for name, x in merged.items()}
    for name in ("loss/policy", "loss/value", "optim/grad_norm", "optim/critic_grad_norm"):
        if not math.isfinite(numbers.get(name, 0.0)):
            raise UserError(
                f"training diverged in iteration {state.iteration} (after {before:,} steps): "
                f"{name} is {numbers[name]}. The policy from before is kept; try a smaller "
                "learning_rate, scale_rewards, or a target_kl"
            )
    body = {
        name: None if isinstance(x, float) and not math.isfinite(x) else x
        for name, x in sorted(numbers.items())
    }
    return {"step": state.step, "iteration": state.iteration} | body
