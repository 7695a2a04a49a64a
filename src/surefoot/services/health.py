"""Health in words: what the numbers of a run say is wrong, the likely cause, and what to try.

Each rule is a condition on an iteration's metrics that must hold for some iterations in a row; a healthy
run meets none (docs/health.md says where the thresholds come from).
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from surefoot.config import Config
from surefoot.training import Hook, Run, TrainState

Metrics = Mapping[str, Any]


class Past:
    """What rules know of a run beside the present iteration.

    Attributes:
        config: the options.
        progress: share of `total_steps` that is done.
        iterations: iterations seen.
        most: largest value so far, by metric.
        pace: steps per second of the fastest ten iterations in a row, the first ones left out.
        at_limit: iterations in a row, of those in which episodes ended, in which a time limit ended all
            of them with the same return (within a thousandth).
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.progress, self.iterations = 0.0, 0
        self.most: dict[str, float] = {}
        self.pace = -math.inf
        self._paces: deque[float] = deque(maxlen=10)
        self.at_limit, self._level = 0, math.nan

    def add(self, metrics: Metrics) -> None:
        """One more iteration."""
        self.iterations += 1
        self.progress = metrics["step"] / self.config.total_steps
        for name, value in metrics.items():
            if isinstance(value, (int, float)):
                self.most[name] = max(value, self.most.get(name, -math.inf))
        pace = metrics.get("time/env_steps_per_second")
        if pace is not None and self.iterations > 5:
            self._paces.append(pace)
            if len(self._paces) == self._paces.maxlen:
                self.pace = max(self.pace, statistics.median(self._paces))
        if (value := metrics.get("rollout/episode_return")) is not None:
            if metrics.get("rollout/truncated_share") != 1.0:
                self.at_limit = 0
            elif abs(value - self._level) <= 1e-3 * abs(self._level):
                self.at_limit += 1
            else:
                self.at_limit, self._level = 1, value


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong.

    Attributes:
        name: for `surefoot doctor` and the tests.
        holds: whether an iteration shows it; a metric that is absent or null is NaN.
        patience: iterations in a row that must show it.
        says: what is wrong, with {metric} in place of the numbers.
        cause: what usually causes it.
        remedy: what to try.
    """

    name: str
    holds: Callable[[Callable[[str], float], Past], bool]
    patience: int
    says: str
    cause: str
    remedy: str


def _entropy_share(m: Callable[[str], float], past: Past) -> float:
    """Entropy of a discrete policy, as a share of the largest it had."""
    return m("policy/entropy") / max(past.most.get("policy/entropy", math.nan), 1e-9)


def _kl_aim(config: Config) -> float:
    """The KL of an update that the options ask for, or what is usual."""
    if config.target_kl is not None:
        return config.target_kl
    aims = config.surrogate == "kl_penalty" or config.learning_rate_schedule == "kl_adaptive"
    return config.desired_kl if aims else 0.02


RULES = (
    Rule(
        "kl",
        lambda m, past: m("policy/approx_kl") > 10.0 * _kl_aim(past.config),
        5,
        "the policy changes too much in an update: KL {policy/approx_kl:.2f}, 0.005 to 0.03 is usual",
        "a learning rate too large, too many epochs, or nothing that limits the step",
        "--learning-rate 1e-4, --num-epochs 5, or --target-kl 0.02",
    ),
    Rule(
        "ratio",
        lambda m, past: m("policy/first_ratio_error") > 0.01,
        1,
        "the ratio is off 1 by {policy/first_ratio_error:.3f} before the first step of an update",
        "the policy that acted is not the one that is optimized: a normalizer that moved, or actions that "
        "were changed after they were drawn",
        "the run again without changes of your own; if it stays, please report it with the run folder",
    ),
    Rule(
        "explained variance",
        lambda m, past: (
            past.most.get("value/explained_variance", math.inf) < 0.05 and past.iterations > 25
        ),
        10,
        "the critic predicts no better than a constant (explained variance "
        "{value/explained_variance:.2f})",
        "a critic that learns too slowly or sees too little, or rewards whose scale keeps changing",
        "--critic-learning-rate 1e-3, --scale-rewards, or more observation groups in critic_groups",
    ),
    Rule(
        "entropy collapse",
        lambda m, past: (
            past.progress < 0.5
            and (
                m("policy/std") < 0.1 * past.config.initial_std
                or (math.isnan(m("policy/std")) and _entropy_share(m, past) < 0.02)
            )
        ),
        5,
        "the policy has stopped exploring before half of the run (entropy {policy/entropy:.2f})",
        "updates too large at the start, or a reward that can be had by doing one thing",
        "--entropy-coef 0.005, --learning-rate 1e-4, or a larger --initial-std",
    ),
    Rule(
        "entropy explosion",
        lambda m, past: m("policy/std") > 2.5 and m("policy/std") > 3.0 * past.config.initial_std,
        5,
        "the policy becomes noise (standard deviation {policy/std:.1f} of half the action range)",
        "an entropy bonus larger than what can be earned, or actions that make no difference",
        "--entropy-coef 0, or check that actions reach the simulator (surefoot doctor TASK)",
    ),
    Rule(
        "no step",
        lambda m, past: (
            past.most.get("policy/approx_kl", math.inf) < 1e-5
            and past.most.get("policy/clip_fraction", math.inf) == 0.0
        ),
        10,
        "updates have hardly changed the policy since the start (KL {policy/approx_kl:.1e})",
        "a learning rate too small, or advantages that are zero",
        "a --learning-rate ten times larger, or look at the reward (surefoot doctor TASK)",
    ),
    Rule(
        "clip fraction",
        lambda m, past: m("policy/clip_fraction") > 0.65,
        5,
        "{policy/clip_fraction:.0%} of the samples are beyond the clip range",
        "a learning rate too large, too many epochs or too few samples in a batch",
        "--learning-rate 1e-4, --num-epochs 5, or more environments",
    ),
    Rule(
        "no reward",
        lambda m, past: past.most.get("batch/reward_max", math.inf) == 0.0,
        10,
        "no reward has been met since the start",
        "a reward too rare to be met by chance, or one that is never given",
        "a reward that grows on the way to the goal, an easier start, or surefoot doctor TASK",
    ),
    Rule(
        "constant advantages",
        lambda m, past: m("batch/advantage_std") < 1e-4 and past.config.scale_rewards,
        10,
        "there is nothing to learn from: advantages hardly differ (standard deviation "
        "{batch/advantage_std:.1e})",
        "a reward that is the same whatever the robot does, or a task that is solved",
        "look at the reward (surefoot doctor TASK), or stop here",
    ),
    Rule(
        "time limit",
        lambda m, past: past.at_limit >= 20 and past.progress < 0.5,
        1,
        "before half of the run every episode lasts to the time limit and has the same return "
        "({rollout/episode_return:.4g})",
        "a task that is solved, or a reward that pays for lasting and for nothing else",
        "a longer time limit or a reward that tells good from better, or stop here",
    ),
    Rule(
        "reward scale",
        lambda m, past: (
            not past.config.scale_rewards
            and (m("batch/reward_max") > 1e3 or 0.0 < m("batch/reward_max") < 1e-3)
        ),
        5,
        "rewards up to {batch/reward_max:.1e} are learned from as they are",
        "scale_rewards is off, and the critic's loss goes with the square of the reward",
        "--scale-rewards, or rewards around 1",
    ),
    Rule(
        "normalizer",
        lambda m, past: m("batch/observation_clip_share") > 0.05 and past.iterations > 10,
        10,
        "{batch/observation_clip_share:.0%} of the normalized observations are cut off at their limit",
        "observations that jump far from where they usually are, or whose range keeps growing",
        "a bounded or relative quantity in place of it, or a larger --observation-clip",
    ),
    Rule(
        "actions at their bounds",
        lambda m, past: m("batch/action_bound_share") > 0.6,
        10,
        "{batch/action_bound_share:.0%} of the actions lie at or beyond their bounds",
        "a standard deviation too large for the action range, or a reward that asks for full force",
        "--initial-std 0.3, --distribution squashed_gaussian, or a penalty on actions",
    ),
    Rule(
        "pace",
        lambda m, past: m("time/env_steps_per_second") < 0.3 * past.pace,
        20,
        "training has become slow: {time/env_steps_per_second:,.0f} steps/s, a third of what it was",
        "other programs on the machine, a throttled processor, or episodes that became dearer to simulate",
        "look at the machine (surefoot doctor), and at time/share_collect in metrics.jsonl",
    ),
    Rule(
        "masked steps",
        lambda m, past: m("rollout/masked_steps") > 0.1 * past.config.batch_size,
        5,
        "{rollout/masked_steps:.0f} steps of an iteration are left out because they were not finite",
        "a simulation that is unstable",
        "a smaller time step or smaller actions in the simulator",
    ),
)


@dataclass(frozen=True)
class Finding:
    """A rule that has held long enough, and the iteration at which it had."""

    rule: Rule
    iteration: int
    text: str


class Watch:
    """Applies the rules to one iteration after another.

    Args:
        config: the run's options.
    """

    def __init__(self, config: Config) -> None:
        self._past = Past(config)
        self._held = dict.fromkeys((rule.name for rule in RULES), 0)

    def __call__(self, metrics: Metrics) -> list[Finding]:
        """What is found in this iteration and was not in the one before."""
        self._past.add(metrics)

        def number(name: str) -> float:
            value = metrics.get(name)
            return math.nan if value is None else float(value)

        found = []
        for rule in RULES:
            held = self._held[rule.name] + 1 if rule.holds(number, self._past) else 0
            self._held[rule.name] = held
            if held == rule.patience:
                found.append(Finding(rule, metrics["iteration"], _text(rule, number)))
        return found


def examine(rows: Iterable[Metrics], config: Config) -> list[Finding]:
    """All that the rules find in a run, each once, where it was first found."""
    watch, seen = Watch(config), {}
    for row in rows:
        for finding in watch(row):
            seen.setdefault(finding.rule.name, finding)
    return list(seen.values())


class Health(Hook):
    """Says during training what looks wrong, each thing once."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._run: Run | None = None
        self._watch: Watch | None = None

    def on_start(self, run: Run) -> None:
        """Begin to watch."""
        self._run, self._watch = run, Watch(run.config)

    def on_iteration(self, state: TrainState, metrics: Metrics) -> None:
        """Look at the numbers."""
        assert self._run is not None
        assert self._watch is not None
        for finding in self._watch(metrics):
            if finding.rule.name not in self._said:
                self._said.add(finding.rule.name)
                self._run.log(f"iteration {finding.iteration}: {finding.text}")


def _text(rule: Rule, number: Callable[[str], float]) -> str:
    class Numbers(dict):
        def __missing__(self, name: str) -> float:
            return number(name)

    # names hold slashes, which format_map takes as they are
    said = rule.says.format_map(Numbers())
    return f"{said}. Likely {rule.cause}. Try {rule.remedy}."


__all__ = ["RULES", "Finding", "Health", "Rule", "Watch", "examine"]
