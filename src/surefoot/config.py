"""Every option of a training run, in one frozen dataclass.

This module sits beside the floors: it imports nothing heavier than the standard library, so that the
command line can print its help at once, and every floor may read it. Each default names its source.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from surefoot.errors import UserError, check_names, near_matches

Algorithm = Literal["ppo", "trpo"]
Surrogate = Literal["clipped", "ratio", "policy_gradient", "kl_penalty"]
Estimator = Literal["gae", "td", "monte_carlo", "reward_to_go", "trajectory_return"]
Activation = Literal["tanh", "elu", "relu", "swish"]
Distribution = Literal["gaussian", "squashed_gaussian", "beta"]
Schedule = Literal["linear", "constant", "cosine", "kl_adaptive"]
Normalization = Literal["minibatch", "batch", "off"]
Overlap = Literal["off", "exact", "full"]
ExactResume = Literal["auto", "on", "off"]
OnEnvFailure = Literal["fail", "restart", "quarantine"]
LagCorrection = Literal["behaviour", "vtrace", "decoupled"]


@dataclass(frozen=True)
class Config:
    """All options of a run; `config.toml` in a run folder is this, written out.

    The docstring under a field is its `--help` text. Sources in brackets: [PPO] arXiv 1707.06347,
    [37] "The 37 implementation details of PPO" (ICLR blog track 2022), [MA] "What matters in
    on-policy RL?" arXiv 2006.05990, [IM] "Implementation matters" arXiv 2005.12729, [rsl_rl] its
    published defaults, [measured] docs/results.md.
    """

    total_steps: int = 1_000_000
    """Environment steps to train for (steps that are experience; reset rows do not count)."""
    seed: int = 0
    """Seed of everything random: environments, initialisation, actions, shuffling."""

    # --- collecting
    num_envs: int = 16
    """Environments stepped together. [measured]"""
    num_steps: int = 128
    """Steps of each environment per iteration; the batch is num_envs * num_steps. [measured]"""
    env_options: tuple[str, ...] = ()
    """Settings of the task as KEY=VALUE, e.g. noise_level=0.5 (what a task knows is in its docs)."""
    actor_groups: tuple[str, ...] = ()
    """Observation groups the actor sees. Empty: `state` if the task has it, else all but privileged_*."""
    critic_groups: tuple[str, ...] = ()
    """Observation groups the critic sees. Empty: `state` and privileged_*, or all without a `state`."""
    ignore_groups: tuple[str, ...] = ()
    """Observation groups nobody sees; any other group without a reader is an error."""
    env_workers: int = 0
    """Processes that step a Gymnasium task's environments; 0: this process steps them."""
    env_timeout: float | None = None
    """With env_workers: seconds a step or reset may take before its process is given up; none: 60."""
    on_env_failure: OnEnvFailure = "fail"
    """What becomes of a Gymnasium environment that raises, hangs, dies or breaks the contract: the run
    ends, it is made anew, or it is left out from then on. Its episode is left out in any case."""

    # --- collecting and optimising at the same time
    overlap: Overlap = "exact"
    """exact: a separate critic learns behind the actor and the next collection, with the very results
    of off; full: both learn behind the next collection, which then acts on an older policy."""
    max_lag: int = 1
    """full: updates that the collecting policy may be behind; 0 is off. [arXiv 2110.00641]"""
    lag_correction: LagCorrection = "vtrace"
    """full: what makes up for the lag: ratios to the policy that collected, V-trace, or both policies
    decoupled (docs/overlap.md). [measured; arXiv 1802.01561, 2110.00641]"""

    # --- networks
    actor_hidden: tuple[int, ...] = (64, 64)
    """Widths of the actor's hidden layers. [PPO]"""
    critic_hidden: tuple[int, ...] = (64, 64)
    """Widths of the critic's hidden layers. [PPO]"""
    activation: Activation = "tanh"
    """Activation of the hidden layers. [PPO, MA]"""
    shared_trunk: bool = False
    """One trunk (actor_hidden) for actor and critic; implies joint_loss. Separate is better. [MA]"""
    orthogonal_init: bool = True
    """Orthogonal weights with gain sqrt(2), zero biases; off: LeCun-uniform weights. [37, IM]"""
    policy_output_scale: float = 0.01
    """Gain of the last policy layer's weights at the start. [37, MA]"""
    distribution: Distribution = "gaussian"
    """Action distribution of continuous tasks (discrete ones are categorical or Bernoulli)."""
    state_dependent_std: bool = False
    """Let the network choose the standard deviation per state instead of one per action. [MA: off]"""
    initial_std: float = 0.6
    """Standard deviation of the policy at the start, in units of half the action range. [measured]"""
    min_std: float = 0.01
    """Smooth floor under the standard deviation; its gradient never vanishes. [measured]"""

    # --- normalisation
    normalize_observations: bool = True
    """Observations minus running mean over running standard deviation. [37, MA, IM]"""
    observation_clip: float = 10.0
    """Normalised observations are clipped to +- this. [37, IM]"""
    scale_rewards: bool = True
    """Rewards over the running standard deviation of the discounted return. [37, IM]"""
    reward_clip: float = 10.0
    """Scaled rewards are clipped to +- this. [37, IM]"""

    # --- objective
    algorithm: Algorithm = "ppo"
    """ppo: epochs of minibatches on the surrogate; trpo: one natural-gradient step of the actor on the
    ratio surrogate, inside a trust region (the epochs are the critic's). [arXiv 1502.05477]"""
    surrogate: Surrogate = "clipped"
    """What the actor maximises (docs/mathematics.md section 1). [PPO]"""
    clip_epsilon: float = 0.2
    """Ratio may leave 1 by this much before its gain is clipped; inf never clips. [PPO, 37]"""
    kl_coef: float = 1.0
    """First beta of the kl_penalty surrogate; it adapts towards desired_kl. [PPO section 4]"""
    advantage_estimator: Estimator = "gae"
    """What multiplies the log-probability (docs/mathematics.md section 2). [arXiv 1506.02438]"""
    gamma: float = 0.99
    """Discount per step. [PPO, MA]"""
    gae_lambda: float = 0.95
    """Trade of GAE: 0 is the TD residual, 1 the Monte-Carlo advantage. [PPO, 37]"""
    advantage_normalization: Normalization = "minibatch"
    """Advantages to zero mean and unit variance within the minibatch, the batch, or not. [37]"""
    min_advantage_std: float = 0.003
    """Advantages that spread less are not scaled up to 1: on a solved task they are noise. In units of
    scaled rewards, and without effect if scale_rewards is off. [measured; arXiv 2301.04104]"""
    recompute_advantages: bool = False
    """Estimate advantages afresh with the current critic before each epoch. [MA]"""
    value_clip_epsilon: float | None = None
    """Clip the value update to this around the old value; none: off, clipping hurts. [MA]"""
    value_coef: float = 0.5
    """Weight of the value loss in the joint loss (without effect when optimised apart). [37]"""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus. [PPO for MuJoCo, 37]"""

    # --- optimisation
    num_epochs: int = 10
    """Passes over each batch. [PPO, 37]"""
    num_minibatches: int = 32
    """Minibatches per pass; must divide num_envs * num_steps. [PPO, 37]"""
    shuffle_each_epoch: bool = True
    """Draw new minibatches in every epoch; off: the same split for all epochs. [37]"""
    learning_rate: float = 3e-4
    """Adam's step size at the start. [PPO, MA]"""
    critic_learning_rate: float | None = None
    """Step size of a separate critic; none: as learning_rate."""
    learning_rate_schedule: Schedule = "linear"
    """Anneal to zero over total_steps (linear, cosine), keep, or follow the KL. [37, IM, rsl_rl]"""
    desired_kl: float = 0.01
    """KL per update that kl_adaptive learning rates and the kl_penalty aim at. [rsl_rl, PPO]"""
    target_kl: float | None = None
    """Stop the actor's epochs once the KL exceeds 1.5 times this; none: never. [37]"""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this global norm (inf: off). [37]"""
    adam_epsilon: float = 1e-5
    """Adam's epsilon. [37]"""
    max_refused_updates: int = 5
    """Updates that are not finite: not applied, the step size halved, this often; then the run ends."""
    joint_loss: bool = False
    """Optimise actor and critic on one total loss with joint gradient clipping."""
    max_kl: float = 0.01
    """trpo: the policy's KL from the old one after an update, at most. [arXiv 1502.05477]"""
    cg_steps: int = 15
    """trpo: iterations of conjugate gradient. [sb3-contrib]"""
    cg_damping: float = 0.1
    """trpo: added to the diagonal of the Fisher matrix. [arXiv 1502.05477, sb3-contrib]"""
    line_search_steps: int = 10
    """trpo: step lengths tried, each 0.8 of the one before, until one is safe. [sb3-contrib]"""

    # --- measuring
    measure_held_out_kl: bool = False
    """Report each update's KL on the next rollout too, whose states it did not learn from."""

    # --- checkpoints
    checkpoint_every: int | None = 200_000
    """Environment steps between checkpoints; none: no checkpoints."""
    keep_checkpoints: int = 3
    """Newest checkpoints to keep, beside the best one and one for each quarter of the run."""
    exact_resume: ExactResume = "auto"
    """Whether environments that cannot be saved begin anew at each checkpoint, so that a resumed run
    ends with the same bytes; auto: where that takes at most 2% of the time (docs/checkpoints.md)."""

    @property
    def batch_size(self) -> int:
        """Rows of one batch, num_envs * num_steps."""
        return self.num_envs * self.num_steps

    @property
    def advantage_floor(self) -> float:
        """The least standard deviation that advantages are divided by; 0 where rewards have no unit."""
        return self.min_advantage_std if self.scale_rewards else 0.0

    @property
    def first_critic_rate(self) -> float:
        """A separate critic's step size at the start."""
        return self.critic_learning_rate or self.learning_rate

    @property
    def is_joint(self) -> bool:
        """Whether actor and critic are optimised on one total loss."""
        return self.joint_loss or self.shared_trunk

    @property
    def lag(self) -> int:
        """Updates that the collecting policy is behind the one being optimised."""
        return self.max_lag if self.overlap == "full" else 0

    @property
    def in_making(self) -> int:
        """Iterations whose update may still go on while the next one collects."""
        tied = self.is_joint or self.recompute_advantages  # one program, all of which acting needs
        if self.overlap == "off" or (self.overlap == "exact" and tied):
            return 0
        return max(1, self.lag)

    def replace(self, **changes: Any) -> Config:
        """A copy with `changes`; unknown names are refused with a suggestion."""
        check_names(changes, option_names(), what="option")
        return dataclasses.replace(self, **changes)


def option_names() -> list[str]:
    """Names of all options, in their order."""
    return [field.name for field in fields(Config)]


_RANGES: dict[str, tuple[float, float, bool, bool]] = {
    # option: (lowest, highest, lowest allowed, highest allowed)
    "total_steps": (1, 2**62, True, True),
    "seed": (0, 2**63 - 1, True, True),
    "num_envs": (1, 1_000_000, True, True),
    "num_steps": (1, 1_000_000, True, True),
    "env_workers": (0, 1_000, True, True),
    "env_timeout": (0, math.inf, False, False),
    "max_lag": (0, 1_000, True, True),
    "policy_output_scale": (0, math.inf, False, False),
    "initial_std": (0, 100, False, True),
    "min_std": (0, 100, False, True),
    "observation_clip": (0, math.inf, False, True),
    "reward_clip": (0, math.inf, False, True),
    "clip_epsilon": (0, math.inf, False, True),
    "kl_coef": (0, math.inf, False, False),
    "gamma": (0, 1, True, True),
    "gae_lambda": (0, 1, True, True),
    "min_advantage_std": (0, math.inf, True, False),
    "value_clip_epsilon": (0, math.inf, False, False),
    "value_coef": (0, math.inf, True, False),
    "entropy_coef": (-math.inf, math.inf, False, False),
    "num_epochs": (1, 10_000, True, True),
    "num_minibatches": (1, 10_000_000, True, True),
    "learning_rate": (0, math.inf, False, False),
    "critic_learning_rate": (0, math.inf, False, False),
    "desired_kl": (0, math.inf, False, False),
    "target_kl": (0, math.inf, False, False),
    "max_grad_norm": (0, math.inf, False, True),
    "adam_epsilon": (0, 1, False, False),
    "max_refused_updates": (0, 1_000_000, True, True),
    "max_kl": (0, math.inf, False, False),
    "cg_steps": (1, 10_000, True, True),
    "cg_damping": (0, math.inf, True, False),
    "line_search_steps": (1, 1_000, True, True),
    "checkpoint_every": (1, 2**62, True, True),
    "keep_checkpoints": (2, 1_000_000, True, True),
}


def validate(config: Config) -> Config:
    """Check types, ranges and combinations; return the config with types made exact.

    Raises:
        ValueError: for the first option that cannot be right, with both numbers and what to do.
    """
    hints = get_type_hints(Config)
    values = {name: _typed(name, getattr(config, name), hints[name]) for name in option_names()}
    for name, (low, high, with_low, with_high) in _RANGES.items():
        value = values[name]
        if value is None:
            continue
        above = value >= low if with_low else value > low
        below = value <= high if with_high else value < high
        if not (above and below):
            opening, closing = "[" if with_low else "(", "]" if with_high else ")"
            raise UserError(
                f"{name} = {value} is out of range: it must be in {opening}{low}, {high}{closing}"
            )
    config = Config(**values)
    _check_combinations(config)
    return config


def _check_trpo(config: Config) -> None:
    """TRPO's one step on the ratio surrogate leaves no room for what steers PPO's many."""
    clashes = {
        "surrogate": config.surrogate not in ("clipped", "ratio"),
        "target_kl": config.target_kl is not None,
        "learning_rate_schedule": config.learning_rate_schedule == "kl_adaptive",
        "recompute_advantages": config.recompute_advantages,
        "joint_loss": config.joint_loss,
        "shared_trunk": config.shared_trunk,
    }
    for name, clashing in clashes.items():
        if clashing:
            raise UserError(
                f"{name} = {getattr(config, name)!r} has no place in algorithm = 'trpo': its actor "
                "takes one step, on the ratio surrogate, apart from the critic, and max_kl bounds "
                "it; leave it out"
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
    if config.algorithm == "trpo":
        _check_trpo(config)
    if config.recompute_advantages and config.surrogate == "kl_penalty":
        raise UserError(
            "recompute_advantages begins each epoch anew, and kl_penalty measures its KL over the "
            "whole update: choose one of them"
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
            "normalised advantage is always 0; use fewer, or advantage_normalization batch or off"
        )
    if config.initial_std <= config.min_std:
        raise UserError(
            f"initial_std = {config.initial_std} must lie above min_std = {config.min_std}"
        )
    for name in ("actor_hidden", "critic_hidden"):
        if any(width < 1 for width in getattr(config, name)):
            raise UserError(f"{name} = {getattr(config, name)}: every width must be at least 1")
    if config.shared_trunk and not config.actor_hidden:
        raise UserError("shared_trunk needs at least one layer in actor_hidden to share")
    if config.is_joint and config.critic_learning_rate is not None:
        raise UserError(
            "critic_learning_rate has no effect with joint_loss or shared_trunk (one optimiser "
            "serves both); leave it out"
        )
    parse_options(config.env_options)


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` strings as a mapping; values are read as bool, int, float, else text.

    Raises:
        ValueError: an item without `=`.
    """
    for item in options:
        if "=" not in item:
            raise UserError(f"env_options: {item!r} is not of the form KEY=VALUE")
    return {key: _literal(value) for key, value in (item.split("=", 1) for item in options)}


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _near_divisors(number: int, wanted: int) -> str:
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    divisors = sorted({*small, *(number // d for d in small)})
    nearest = sorted(divisors, key=lambda d: abs(math.log(d / wanted)))[:3]
    return ", ".join(str(d) for d in sorted(nearest))


def _typed(name: str, value: Any, hint: Any) -> Any:
    """`value` as the type its option has (TOML has no tuples, JSON no inf), or ValueError."""
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
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise UserError(f"{name} = {value!r} must be {hint.__name__}, not {type(value).__name__}")
    if hint is float and math.isnan(value):
        raise UserError(f"{name} = nan is not a number")
    return value


def from_mapping(options: Mapping[str, Any], *, base: Config | None = None) -> Config:
    """A validated config from a mapping of options over `base` (default: the defaults)."""
    return validate((base or Config()).replace(**options))
