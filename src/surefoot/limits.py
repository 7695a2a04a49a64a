"""How near training comes to what the machine allows.

No training can be faster than the cores can do its work: what the simulator costs, and what the learner
costs. `measure` finds both on this machine, and what is reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from surefoot.config import Config
from surefoot.envs import Environment
from surefoot.machine import usable_cores
from surefoot.rollout import start
from surefoot.training import Hook, make_streams, train


@dataclass(frozen=True)
class Pace:
    """Steps of experience, and what they took.

    Attributes:
        steps: environment steps of experience.
        seconds: on the clock.
        core_seconds: of processor time, over all threads.
        shares: of the clock's time, by name.
    """

    steps: int
    seconds: float
    core_seconds: float
    shares: dict[str, float]

    @property
    def rate(self) -> float:
        """Steps per second."""
        return self.steps / self.seconds

    @property
    def cost(self) -> float:
        """Core-seconds per step."""
        return self.core_seconds / self.steps


@dataclass(frozen=True)
class Limit:
    """What the machine allows, and what is reached.

    Attributes:
        cores: usable by this process.
        simulator: stepped alone, with random actions.
        in_turn: trained with `overlap` off.
        training: trained as the options say.
    """

    cores: int
    simulator: Pace
    in_turn: Pace
    training: Pace

    @property
    def learner_cost(self) -> float:
        """Core-seconds per step of everything but the simulator."""
        return max(self.in_turn.cost - self.simulator.cost, 0.0)

    @property
    def rate(self) -> float:
        """Steps per second if every core worked all the time: cores / (simulator + learner)."""
        return self.cores / (self.simulator.cost + self.learner_cost)

    @property
    def share(self) -> float:
        """What training reaches of it."""
        return self.training.rate / self.rate


def measure(env: Environment, config: Config, *, seconds: float) -> Limit:
    """Measure an environment and a configuration; takes about three times `seconds`.

    Args:
        env: the environments; they are stepped.
        config: the options.
        seconds: of each measurement.
    """
    in_turn = config.replace(overlap="off")
    return Limit(
        usable_cores(),
        simulator_pace(env, config, seconds=seconds),
        training_pace(env, in_turn, seconds=seconds),
        training_pace(env, config, seconds=seconds),
    )


def simulator_pace(env: Environment, config: Config, *, seconds: float) -> Pace:
    """The simulator alone, under actions drawn before the clock starts."""
    streams = make_streams(config.seed)
    spec = env.spec.action
    canonical = spec.random(streams.training, (config.num_steps, env.spec.num_envs))
    actions = spec.widen(spec.narrow.to_env(canonical))
    advance = (_in_graph if env.spec.in_graph else _on_host)(env, actions)
    state = start(env, (), streams.reset).env_state
    state, _ = advance(state)  # compilation, warm-up
    clock, steps = _Stopwatch(), 0
    while clock.wall() < seconds:
        state, valid = advance(state)
        steps += int(np.count_nonzero(valid))
    return clock.pace(steps, {})


def _in_graph(env: Environment, actions: Any) -> Callable[[Any], tuple[Any, Any]]:
    def one_step(env_state: Any, action: Any) -> tuple[Any, Any]:
        env_state, step = env.step(env_state, action)
        return env_state, (step.valid, step.reward)

    scan = jax.jit(lambda state, actions: jax.lax.scan(one_step, state, actions))

    def advance(state: Any) -> tuple[Any, Any]:
        with jax.enable_x64(env.spec.needs_float64):
            state, (valid, _) = scan(state, actions)
        return state, np.asarray(valid)

    return advance


def _on_host(env: Environment, actions: Any) -> Callable[[Any], tuple[Any, Any]]:
    rows = list(np.asarray(actions))

    def advance(state: Any) -> tuple[Any, Any]:
        valid = []
        for action in rows:
            state, step = env.step(state, action)
            valid.append(step.valid)
        return state, np.stack(valid)

    return advance


def training_pace(env: Environment, config: Config, *, seconds: float) -> Pace:
    """Training as the options say, once everything is compiled."""
    timer = _Timer(seconds)
    endless = config.replace(total_steps=2**40, env_options=())  # `env` has its options
    train(env, endless, hooks=[timer], should_stop=timer.done)
    return timer.pace()


class _Stopwatch:
    """Wall and processor time from now on."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def wall(self) -> float:
        return time.perf_counter() - self._began[0]

    def pace(self, steps: int, shares: dict[str, float]) -> Pace:
        return Pace(steps, self.wall(), time.process_time() - self._began[1], shares)


class _Timer(Hook):
    """Times iterations from the third on, for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._clock: _Stopwatch | None = None
        self._first = 0
        self._shares: list[dict[str, float]] = []
        self._last: Pace | None = None

    def on_iteration(self, state: Any, metrics: Any) -> None:
        """Start after the warm-up, then note."""
        if state.iteration == 2:
            self._clock, self._first = _Stopwatch(), state.step
        if self._clock is None or state.iteration <= 2:
            return
        names = ("time/share_collect", "time/share_update")
        self._shares.append({name.removeprefix("time/share_"): metrics[name] for name in names})
        mean = {k: float(np.mean([row[k] for row in self._shares])) for k in self._shares[0]}
        self._last = self._clock.pace(state.step - self._first, mean)

    def done(self) -> bool:
        """Whether the time is used."""
        return self._last is not None and self._last.seconds >= self._seconds

    def pace(self) -> Pace:
        assert self._last is not None
        return self._last
