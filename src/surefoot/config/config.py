"""All options in one, and what may not go together."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Interval

from surefoot.config.options import (
    AdvantageOptions,
    CollectOptions,
    EvaluationOptions,
    Fixed,
    LossOptions,
    MemoryOptions,
    NetworkOptions,
    NormalizationOptions,
    OptimizerOptions,
    OverlapOptions,
    RecordOptions,
    RunOptions,
    StartOptions,
    TrustRegionOptions,
)
from surefoot.errors import UserError, check_names, near_matches
from surefoot.reading import toml_table


@dataclass(frozen=True)
class Config(  # a dataclass takes the fields of its last parent first
    EvaluationOptions,
    RecordOptions,
    TrustRegionOptions,
    OptimizerOptions,
    LossOptions,
    AdvantageOptions,
    NormalizationOptions,
    MemoryOptions,
    NetworkOptions,
    OverlapOptions,
    CollectOptions,
    StartOptions,
    RunOptions,
):
    """All options of a run; `config.toml` in a run folder is this, written out."""

    @property
    def batch_size(self) -> int:
        """Rows of one batch, num_envs * num_steps."""
        return self.num_envs * self.num_steps

    @property
    def advantage_floor(self) -> float:
        """The least standard deviation that advantages are divided by; 0 where rewards have no unit."""
        return self.min_advantage_std if self.scale_rewards else 0.0

    @property
    def is_joint(self) -> bool:
        """Whether actor and critic are optimized on one total loss."""
        return self.joint_loss or self.shared_trunk

    @property
    def lag(self) -> int:
        """Updates that the collecting policy is behind the one being optimized."""
        return self.max_lag if self.overlap == "full" else 0

    @property
    def in_flight(self) -> int:
        """Iterations whose update may still go on while the next one collects."""
        tied = self.is_joint or self.takes_turns  # one program, all of which acting needs
        if self.overlap == "off" or (self.overlap == "exact" and tied):
            return 0
        return max(1, self.lag)

    @property
    def takes_turns(self) -> bool:
        """Whether actor and critic take their epochs in turn, the batch estimated anew in between."""
        return self.recompute_advantages and self.algorithm == "ppo"

    def replace(self, **changes: Any) -> Config:
        """A copy with `changes`; unknown names are refused with a suggestion."""
        check_names(changes, option_names(), what="option")
        return dataclasses.replace(self, **changes)


def option_names() -> list[str]:
    """Names of all options, in their order."""
    return [field.name for field in fields(Config)]


def range_of(hint: Any) -> Interval | None:
    """The range that a field's type declares; None where there is none."""
    found = (m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Interval))
    return next(found, None) or next(filter(None, map(range_of, get_args(hint))), None)


def bare(hint: Any) -> Any:
    """An option's type without its range and its marks."""
    return bare(get_args(hint)[0]) if get_origin(hint) is Annotated else hint


def fixed_options() -> dict[str, str]:
    """The options that stay as they are for a whole run, and why."""
    marks = {
        name: [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Fixed)]
        for name, hint in get_type_hints(Config, include_extras=True).items()
    }
    return {name: marks[name][0].why for name in option_names() if marks[name]}


def in_words(interval: Interval) -> str:
    """A range as mathematics writes it: `[0, inf)`."""
    low, high = (
        (interval.ge, "[") if interval.gt is None else (interval.gt, "("),
        (interval.le, "]") if interval.lt is None else (interval.lt, ")"),
    )
    return f"{low[1]}{_short(low[0])}, {_short(high[0])}{high[1]}"


def _short(bound: Any) -> str:
    if isinstance(bound, int) and bound > 2**53:
        exponent = bound.bit_length() - (bound.bit_count() == 1)
        return f"2^{exponent}" if bound.bit_count() == 1 else f"2^{exponent} - 1"
    return str(bound)


def validate(config: Config) -> Config:
    """Check types, ranges and combinations; return the config with types made exact.

    Raises:
        ValueError: for the first option that cannot be right, with both numbers and what to do.
    """
    values = {
        name: _typed(name, getattr(config, name), hint)
        for name, hint in get_type_hints(Config, include_extras=True).items()
    }
    config = Config(**values)
    _check_combinations(config)
    return config


def _check_trpo(config: Config) -> None:
    """TRPO's one step on the ratio surrogate leaves no room for what steers PPO's many."""
    clashes = {
        "surrogate": config.surrogate not in ("clipped", "ratio"),
        "target_kl": config.target_kl is not None,
        "learning_rate_schedule": config.learning_rate_schedule == "kl_adaptive",
        "joint_loss": config.joint_loss,
        "shared_trunk": config.shared_trunk,
        "outer_step": config.outer_step != 1.0,
    }
    for name, clashing in clashes.items():
        if clashing:
            raise UserError(
                f"{name} = {getattr(config, name)!r} has no place in algorithm = 'trpo': its actor "
                "takes one step, on the ratio surrogate, apart from the critic, and max_kl bounds "
                "it; leave it out"
            )


def _check_memory(config: Config) -> None:
    """Minibatches of whole environments, and a trunk that both share."""
    if config.num_envs % config.memory_minibatches:
        near = _near_divisors(config.num_envs, config.memory_minibatches)
        raise UserError(
            f"memory_minibatches = {config.memory_minibatches} does not divide num_envs = "
            f"{config.num_envs}: with memory a minibatch holds whole environments; near divisors: {near}"
        )
    if config.shared_trunk and config.memory_for != "both":
        raise UserError(
            f"memory_for = {config.memory_for!r} with shared_trunk: the trunk that both share holds the "
            "memory; leave one of them out"
        )


def _check_evaluation(config: Config) -> None:
    """What is said of evaluations needs them: returns of training are those of a policy that explores."""
    if config.eval_every is not None:
        return
    for name in ("stop_at_return", "stop_at_success"):
        if (goal := getattr(config, name)) is not None:
            raise UserError(
                f"{name} = {goal} needs eval_every, such as eval_every = "
                f"{max(1, config.total_steps // 20)}: what training episodes come to is no measure of the "
                "policy, as it explores in them"
            )
    if config.best_by != "return":
        raise UserError(
            f"best_by = {config.best_by!r} needs eval_every, the steps between evaluations"
        )


def _check_combinations(config: Config) -> None:
    if config.env_workers > config.num_envs:
        raise UserError(
            f"env_workers = {config.env_workers} is more than num_envs = {config.num_envs}: there is "
            "nothing for the others to step"
        )
    if config.env_timeout is not None and not config.env_workers:
        raise UserError(
            f"env_timeout = {config.env_timeout} needs env_workers: a step in this process cannot be "
            "given up"
        )
    _check_evaluation(config)
    if config.from_critic and config.from_run is None:
        raise UserError("from_critic needs from_run, the run whose critic it is")
    if config.algorithm == "trpo":
        _check_trpo(config)
    if config.memory != "off":
        _check_memory(config)
    if config.symmetry != "off" and config.memory != "off":
        raise UserError(
            f"symmetry = {config.symmetry!r} with memory = {config.memory!r}: what a network would remember "
            "of the mirror image is not known; take symmetry = 'off' or memory = 'off'"
        )
    if config.lag and config.lag_correction == "vtrace" and config.advantage_estimator != "gae":
        raise UserError(
            f"lag_correction = 'vtrace' corrects gae, not {config.advantage_estimator!r}; choose "
            "'decoupled' or 'behaviour', or advantage_estimator = 'gae'"
        )
    if config.batch_size % config.num_minibatches:
        raise UserError(
            f"num_minibatches = {config.num_minibatches} does not divide the batch of "
            f"num_envs * num_steps = {config.num_envs} * {config.num_steps} = {config.batch_size}; "
            f"near divisors: {_near_divisors(config.batch_size, config.num_minibatches)}"
        )
    if (
        config.num_minibatches == config.batch_size
        and config.advantage_normalization == "minibatch"
    ):
        raise UserError(
            f"num_minibatches = {config.num_minibatches} leaves one row to each minibatch, whose "
            "normalized advantage is always 0; use fewer, or advantage_normalization batch or off"
        )
    if config.value_loss == "hl_gauss" and config.value_clip_epsilon is not None:
        raise UserError(
            f"value_clip_epsilon = {config.value_clip_epsilon} clips squared errors, and value_loss = "
            "'hl_gauss' has none; leave it out"
        )
    if config.value_loss == "hl_gauss" and config.normalize_values:
        raise UserError(
            "normalize_values is for squared errors; the histogram of value_loss = 'hl_gauss' has limits of "
            "its own (value_limit); leave it out"
        )
    if config.gsde:
        _check_gsde(config)
    if config.initial_std <= config.min_std:
        raise UserError(
            f"initial_std = {config.initial_std} must lie above min_std = {config.min_std}"
        )
    for name in ("actor_hidden", "critic_hidden"):
        if any(width < 1 for width in getattr(config, name)):
            raise UserError(f"{name} = {getattr(config, name)}: every width must be at least 1")
    if config.shared_trunk and not config.actor_hidden:
        raise UserError("shared_trunk needs at least one layer in actor_hidden to share")
    for name in ("critic_learning_rate", "critic_epochs"):
        if config.is_joint and getattr(config, name) is not None:
            raise UserError(
                f"{name} has no effect with joint_loss or shared_trunk (one optimizer serves both); "
                "leave it out"
            )
    epochs = config.critic_epochs
    if config.takes_turns and epochs is not None and epochs % config.num_epochs:
        raise UserError(
            f"critic_epochs = {epochs} is no multiple of num_epochs = {config.num_epochs}: with "
            "recompute_advantages the critic takes as many epochs after each of the actor's"
        )
    parse_options(config.env_options)


def _check_gsde(config: Config) -> None:
    for name, off in (("noise_color", 0.0), ("state_dependent_std", False)):
        if getattr(config, name) != off:
            raise UserError(f"gsde and {name} both say what the noise is; leave one of them out")
    if config.symmetry == "average":
        raise UserError(
            "gsde draws noise by what the actor makes of a state, whose mirror image has no noise of its "
            "own; with it, symmetry may be augment or off"
        )
    if not config.actor_hidden:
        raise UserError("gsde needs at least one layer in actor_hidden, whose features it reads")


def parse_options(options: Sequence[str], *, what: str = "env_options") -> dict[str, Any]:
    """`KEY=VALUE` strings as a mapping; values are read as TOML, and as text where they are none.

    Args:
        options: the strings.
        what: they are, for messages.

    Raises:
        ValueError: an item without `=`, or a value that begins as TOML and does not end so.
    """
    for item in options:
        if "=" not in item:
            raise UserError(f"{what}: {item!r} is not of the form KEY=VALUE")
    pairs = (item.split("=", 1) for item in options)
    return {key: _literal(key, value, what) for key, value in pairs}


def _literal(key: str, text: str, what: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    try:
        (value,) = toml_table(f"value = {text}", where=f"{what}: {key}={text}").values()
    except ValueError as error:
        if text.startswith(("[", "{", '"', "'")):
            raise UserError(
                f"{error}; lists are written as [1, 2], tables as "
                '{a = 1}, texts in them as "x" (and all of it in the shell\'s own quotes)'
            ) from None
        if re.fullmatch(r"[\d.eE+-]+(\s*,\s*[\d.eE+-]+)+", text):
            raise UserError(f"{what}: {key}={text}: a list is written as {key}=[{text}]") from None
        return text
    return text if isinstance(value, (datetime.date, datetime.time)) else value


def _near_divisors(number: int, wanted: int) -> str:
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    divisors = sorted({*small, *(number // d for d in small)})
    nearest = sorted(divisors, key=lambda d: abs(math.log(d / wanted)))[:3]
    return ", ".join(str(d) for d in sorted(nearest))


def _typed(name: str, value: Any, hint: Any) -> Any:
    """`value` as the type its option has (TOML has no tuples, JSON no inf), or ValueError."""
    if get_origin(hint) is Annotated:
        value = _typed(name, value, get_args(hint)[0])
        interval: Any = range_of(hint)
        if interval is None or not isinstance(value, (int, float)):
            return value
        above = value >= interval.ge if interval.gt is None else value > interval.gt
        below = value <= interval.le if interval.lt is None else value < interval.lt
        if not (above and below):
            raise UserError(f"{name} = {value} is out of range: it must be in {in_words(interval)}")
        return value
    origin = get_origin(hint)
    if origin is Literal:
        if value not in get_args(hint):
            known = ", ".join(get_args(hint))
            near = near_matches(str(value), get_args(hint))
            raise UserError(f"{name} = {value!r} is not one of {known}{near}")
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise UserError(f"{name} = {value!r} must be a list")
        return tuple(_typed(name, item, get_args(hint)[0]) for item in value)
    optional = [arg for arg in get_args(hint) if arg is not type(None)]
    if optional:
        return None if value is None else _typed(name, value, optional[0])
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # 1e6
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise UserError(f"{name} = {value!r} must be {hint.__name__}, not {type(value).__name__}")
    if hint is float and math.isnan(value):
        raise UserError(f"{name} = nan is not a number")
    return value


def typed(name: str, value: Any) -> Any:
    """One option's value in the type it has, checked against its type and range alone.

    Raises:
        ValueError: it is of another type or out of range, with both.
    """
    return _typed(name, value, get_type_hints(Config, include_extras=True)[name])


def from_mapping(options: Mapping[str, Any], *, base: Config | None = None) -> Config:
    """A validated config from a mapping of options over `base` (default: the defaults)."""
    return validate((base or Config()).replace(**options))
