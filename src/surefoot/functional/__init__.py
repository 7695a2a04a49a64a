"""Floor 0, the mathematics: pure functions on arrays, one topic a file. See mathematics.md."""

from surefoot.functional.advantages import (
    gae,
    monte_carlo_advantages,
    normalize_advantages,
    reward_to_go,
    td_residuals,
    trajectory_returns,
    vtrace_advantages,
)
from surefoot.functional.diagnostics import (
    approx_kl,
    clip_fraction,
    effective_sample_size,
    explained_variance,
    max_ratio,
)
from surefoot.functional.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    DiagGaussian,
    Distribution,
    MultiCategorical,
    TanhGaussian,
    floor_log_std,
    unfloor_log_std,
)
from surefoot.functional.masking import masked_deviations, masked_mean
from surefoot.functional.moments import (
    Moments,
    count_of,
    denormalize,
    discounted_return_step,
    init_moments,
    merge_moments,
    moments_of,
    normalize,
    scale_rewards,
    update_moments,
)
from surefoot.functional.schedules import (
    adaptive_kl_coefficient,
    cosine,
    kl_adaptive_learning_rate,
    linear,
)
from surefoot.functional.shuffling import random_permutation
from surefoot.functional.surrogates import (
    clipped_loss,
    kl_penalized_loss,
    policy_gradient_loss,
    ratio_loss,
)
from surefoot.functional.value_losses import (
    clipped_value_loss,
    squared_value_loss,
    value_targets,
)

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "DiagGaussian",
    "Distribution",
    "Moments",
    "MultiCategorical",
    "TanhGaussian",
    "adaptive_kl_coefficient",
    "approx_kl",
    "clip_fraction",
    "clipped_loss",
    "clipped_value_loss",
    "cosine",
    "count_of",
    "denormalize",
    "discounted_return_step",
    "effective_sample_size",
    "explained_variance",
    "floor_log_std",
    "gae",
    "init_moments",
    "kl_adaptive_learning_rate",
    "kl_penalized_loss",
    "linear",
    "masked_deviations",
    "masked_mean",
    "max_ratio",
    "merge_moments",
    "moments_of",
    "monte_carlo_advantages",
    "normalize",
    "normalize_advantages",
    "policy_gradient_loss",
    "random_permutation",
    "ratio_loss",
    "reward_to_go",
    "scale_rewards",
    "squared_value_loss",
    "td_residuals",
    "trajectory_returns",
    "unfloor_log_std",
    "update_moments",
    "value_targets",
    "vtrace_advantages",
]
