"""Every option of a run, in sections: what a function needs of the options is the section it takes.

A section is a frozen dataclass. A field's type carries its range; the text under it is what `--help` says,
with the source of the default in brackets. `Config` is all sections in one, so that names are unique and
flat. Only the standard library and `annotated_types` are imported here, so that the command line has its
help at once.

Sources: PPO is arXiv 1707.06347, 37 "The 37 implementation details of PPO" (ICLR blog track 2022), MA "What
matters in on-policy RL?" arXiv 2006.05990, IM "Implementation matters" arXiv 2005.12729, rsl_rl its published
defaults, measured docs/results.md, choice ours, with the reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

MAX_EPISODE_STEPS = 100_000  # of an evaluation: half an hour of a robot that is controlled at 50 Hz

Algorithm = Literal["ppo", "trpo"]
Surrogate = Literal["clipped", "ratio", "policy_gradient", "kl_penalty", "spo"]
ValueLoss = Literal["squared", "hl_gauss"]
Estimator = Literal["gae", "td", "monte_carlo", "reward_to_go", "trajectory_return"]
Activation = Literal["tanh", "elu", "relu", "swish"]
Distribution = Literal["gaussian", "squashed_gaussian", "beta", "binned"]
Symmetry = Literal["off", "average", "augment"]
MemoryKind = Literal["off", "gru", "lstm"]
MemoryFor = Literal["both", "actor", "critic"]
Schedule = Literal["linear", "constant", "cosine", "kl_adaptive"]
AdvantageScope = Literal["minibatch", "batch", "off"]
Overlap = Literal["off", "exact", "full"]
ExactResume = Literal["auto", "on", "off"]
OnEnvFailure = Literal["fail", "restart", "quarantine"]
LagCorrection = Literal["behaviour", "vtrace", "decoupled"]
Logger = Literal["tensorboard", "wandb", "mlflow", "trackio"]
BestBy = Literal["return", "success"]

Count = Annotated[int, Interval(ge=1, le=2**62)]
Few = Annotated[int, Interval(ge=1, le=10_000)]
Many = Annotated[int, Interval(ge=1, le=1_000_000)]
Positive = Annotated[float, Interval(gt=0, lt=math.inf)]
PositiveOrInf = Annotated[float, Interval(gt=0, le=math.inf)]
NotNegative = Annotated[float, Interval(ge=0, lt=math.inf)]
Share = Annotated[float, Interval(ge=0, le=1)]
Number = Annotated[float, Interval(gt=-math.inf, lt=math.inf)]


@dataclass(frozen=True)
class Fixed:
    """Marks an option that stays as it is for a whole run.

    Attributes:
        why: it cannot be another when the run goes on.
    """

    why: str


_Steps = Annotated[int, Interval(ge=0, le=1_000_000)]
_NETWORKS = Fixed("the networks have learned in this form")
_NOISE = Fixed("it goes on from step to step, and checkpoints hold where it is")
_READ = Fixed("the networks have learned from these observations")
_BEGIN = Fixed("it says how networks begin, and these have begun")
_LEARNERS = Fixed("it says which optimizers there are, and checkpoints hold those")
_KEPT = Fixed("it says which older policies are kept, and checkpoints hold those")
_SOURCE = Fixed("it says where a run begins, and this one has begun")


@dataclass(frozen=True)
class RunOptions:
    """Run: how long, and which random numbers."""

    total_steps: Count = 1_000_000
    """Environment steps to train for (steps that are experience; reset rows do not count). [PPO's MuJoCo
    experiments]"""
    seed: Annotated[
        int, Interval(ge=0, le=2**63 - 1), Fixed("every random stream of the run follows from it")
    ] = 0
    """Seed of everything random: environments, initialization, actions, shuffling. [choice: the first of
    seeds 0, 1, ...]"""


@dataclass(frozen=True)
class StartOptions:
    """Start: from what another run has learned."""

    from_run: Annotated[str | None, _SOURCE] = None
    """A run folder (or a checkpoint, or a best policy in it) whose policy training begins with; none:
    fresh networks. [choice: nothing is taken over unasked]"""
    from_critic: Annotated[bool, _SOURCE] = False
    """Begin with that run's critic and scale of rewards too, for a task with the same rewards. [choice:
    values of other rewards mislead]"""


@dataclass(frozen=True)
class CollectOptions:
    """Collecting: environments, what of them is seen, where they are stepped."""

    num_envs: Annotated[Many, Fixed("checkpoints hold the running episodes of so many")] = 16
    """Environments stepped together. [measured]"""
    num_steps: Many = 128
    """Steps of each environment per iteration; the batch is num_envs * num_steps. [measured]"""
    stagger_steps: Annotated[_Steps | None, _SOURCE] = 0
    """Random actions before training, as many as a random number below this for each environment, so that
    episodes do not all end together; they are not counted. none: below the time limit, at most 1,000, of
    EnvPool's and Gymnasium's own tasks; 0: all begin together. [arXiv 2511.21011]"""
    env_options: tuple[str, ...] = ()
    """Settings of the task as KEY=VALUE, e.g. noise_level=0.5 (what a task knows is in its docs). [choice:
    the task as it comes]"""
    actor_groups: Annotated[tuple[str, ...], _READ] = ()
    """Observation groups the actor sees. Empty: `state` if the task has it, else all but privileged_*.
    [the groups of MuJoCo Playground's tasks]"""
    critic_groups: Annotated[tuple[str, ...], _READ] = ()
    """Observation groups the critic sees. Empty: `state` and privileged_*, or all without a `state`. [the
    groups of MuJoCo Playground's tasks]"""
    ignore_groups: Annotated[tuple[str, ...], _READ] = ()
    """Observation groups nobody sees; any other group without a reader is an error. [choice: what is left
    out is left out on purpose]"""
    env_workers: Annotated[int, Interval(ge=0, le=1_000)] = 0
    """Processes that step a Gymnasium task's environments; 0: this process steps them. [choice: processes
    cost more than light environments]"""
    env_timeout: Positive | None = None
    """With env_workers: seconds a step or reset may take before its process is given up; none: 60.
    [choice: far above any step, within a user's patience]"""
    on_env_failure: OnEnvFailure = "fail"
    """What becomes of a Gymnasium environment that raises, hangs, dies or breaks the contract: the run
    ends, it is made anew, or it is left out from then on. Its episode is left out in any case. [choice:
    nothing goes wrong unseen]"""


@dataclass(frozen=True)
class OverlapOptions:
    """Overlap: collecting and optimizing at the same time."""

    overlap: Annotated[Overlap, _KEPT] = "exact"
    """exact: a separate critic learns behind the actor and the next collection, with the very results of
    off; full: both learn behind the next collection, which then acts on an older policy. [measured]"""
    max_lag: Annotated[int, Interval(ge=0, le=1_000), _KEPT] = 1
    """full: updates that the collecting policy may be behind; 0 is off. [arXiv 2110.00641]"""
    lag_correction: LagCorrection = "vtrace"
    """full: what makes up for the lag: ratios to the policy that collected, V-trace, or both policies
    decoupled (docs/overlap.md). [measured; arXiv 1802.01561, 2110.00641]"""


@dataclass(frozen=True)
class NetworkOptions:
    """Networks: their sizes, and the action distribution."""

    actor_hidden: Annotated[tuple[int, ...], _NETWORKS] = (64, 64)
    """Widths of the actor's hidden layers. [PPO]"""
    critic_hidden: Annotated[tuple[int, ...], _NETWORKS] = (64, 64)
    """Widths of the critic's hidden layers. [PPO]"""
    actor_layer_norm: Annotated[bool, _NETWORKS] = False
    """Layer norm in the actor's hidden layers, before their activations (arXiv 1607.06450). [PPO]"""
    critic_layer_norm: Annotated[bool, _NETWORKS] = False
    """The same in the critic's. [PPO]"""
    actor_residual: Annotated[bool, _NETWORKS] = False
    """Add to each of the actor's hidden layers, from the second on, what it reads, where the two are equally
    wide (arXiv 1512.03385). [PPO]"""
    critic_residual: Annotated[bool, _NETWORKS] = False
    """The same in the critic's. [PPO]"""
    activation: Annotated[Activation, _NETWORKS] = "tanh"
    """Activation of the hidden layers. [PPO, MA]"""
    shared_trunk: Annotated[bool, _NETWORKS] = False
    """One trunk (actor_hidden) for actor and critic; implies joint_loss. Separate is better. [MA]"""
    orthogonal_init: Annotated[bool, _BEGIN] = True
    """Orthogonal weights with gain sqrt(2), zero biases; off: LeCun-uniform weights. [37, IM]"""
    policy_output_scale: Annotated[Positive, _BEGIN] = 0.01
    """Gain of the last policy layer's weights at the start. [37, MA]"""
    distribution: Annotated[Distribution, _NETWORKS] = "gaussian"
    """Action distribution of continuous tasks (discrete ones are categorical or Bernoulli). [PPO]"""
    action_bins: Annotated[int, Interval(ge=2, le=1_001), _NETWORKS] = 41
    """binned: values that each action has, equally far apart in its range. [arXiv 2601.23075]"""
    state_dependent_std: Annotated[bool, _NETWORKS] = False
    """Let the network choose the standard deviation per state instead of one per action. [MA]"""
    initial_std: Annotated[float, Interval(gt=0, le=100), _BEGIN] = 0.6
    """Standard deviation of the policy at the start, in units of half the action range. [measured]"""
    min_std: Annotated[float, Interval(gt=0, le=100)] = 0.01
    """Smooth floor under the standard deviation; its gradient never vanishes. [measured]"""
    noise_color: Annotated[float, Interval(ge=0, le=2), _NOISE] = 0.0
    """Exploration noise whose power falls with frequency f as f^-noise_color, of a Gaussian distribution; 0:
    each step's own (arXiv 2312.11091). [PPO]"""
    gsde: Annotated[bool, _NETWORKS] = False
    """Exploration noise that is linear in the actor's last hidden layer, by weights that stay for gsde_steps:
    smooth, and the same in equal states (gSDE, arXiv 2005.05719). [PPO]"""
    gsde_steps: Few = 4
    """gsde: steps between draws of its weights; each episode begins with new ones. [rl-baselines3-zoo]"""
    symmetry: Annotated[Symmetry, _NETWORKS] = "off"
    """Use of the task's mirror image, where it says what that is: `average` makes the actor exactly
    equivariant, `augment` adds the mirror images of what was collected. [choice: few tasks say]"""


@dataclass(frozen=True)
class MemoryOptions:
    """Memory: recurrent networks, for tasks whose observations do not say it all."""

    memory: Annotated[MemoryKind, _NETWORKS] = "off"
    """Cells that remember, in front of the hidden layers. [choice: it costs pace]"""
    memory_for: Annotated[MemoryFor, _NETWORKS] = "both"
    """Which networks have them. [choice: a critic needs what the actor needs]"""
    memory_size: Annotated[Few, _NETWORKS] = 64
    """Units of each layer of cells. [choice: as wide as the hidden layers]"""
    memory_layers: Annotated[int, Interval(ge=1, le=100), _NETWORKS] = 1
    """Layers of cells. [choice: the smallest]"""
    memory_minibatches: Few = 4
    """Minibatches per pass for networks with memory, in place of num_minibatches: each holds whole
    environments' sequences, so it must divide num_envs. [measured]"""
    bptt_steps: Count | None = None
    """Steps that gradients flow back through at most; none: the whole rollout. [choice: no more bias than
    the rollout brings]"""


@dataclass(frozen=True)
class NormalizationOptions:
    """Normalization: of observations and rewards."""

    normalize_observations: Annotated[bool, _NETWORKS] = True
    """Observations minus running mean over running standard deviation. [37, MA, IM]"""
    observation_clip: PositiveOrInf = 10.0
    """Normalized observations are clipped to +- this. [37, IM]"""
    scale_rewards: Annotated[bool, Fixed("the critic has learned in these units")] = True
    """Rewards over the running standard deviation of the discounted return. [37, IM]"""
    reward_clip: PositiveOrInf = 10.0
    """Scaled rewards are clipped to +- this. [37, IM]"""
    normalize_values: Annotated[bool, _NETWORKS] = False
    """Fit the critic to targets minus their running mean over their running standard deviation (loss and
    value_coef are in those units), its last layer rescaled so that no value changes by it (PopArt, arXiv
    1602.07714). [37]"""


@dataclass(frozen=True)
class AdvantageOptions:
    """Advantages: what multiplies the log-probability."""

    advantage_estimator: Estimator = "gae"
    """What multiplies the log-probability (docs/mathematics.md section 2). [arXiv 1506.02438]"""
    gamma: Share = 0.99
    """Discount per step. [PPO, MA]"""
    gae_lambda: Share = 0.95
    """Trade of GAE: 0 is the TD residual, 1 the Monte-Carlo advantage. [PPO, 37]"""
    advantage_normalization: AdvantageScope = "minibatch"
    """Advantages to zero mean and unit variance within the minibatch, the batch, or not. [37]"""
    min_advantage_std: NotNegative = 0.003
    """Advantages that spread less are not scaled up to 1: on a solved task they are noise. In units of
    scaled rewards, and without effect if scale_rewards is off. [measured; arXiv 2301.04104]"""
    recompute_advantages: bool = False
    """Estimate advantages and targets afresh with the current critic before each epoch. [MA]"""


@dataclass(frozen=True)
class LossOptions:
    """Objective: what is optimized."""

    algorithm: Annotated[Algorithm, _LEARNERS] = "ppo"
    """ppo: epochs of minibatches on the surrogate; trpo: one natural-gradient step of the actor on the
    ratio surrogate, inside a trust region (the epochs are the critic's). [PPO; arXiv 1502.05477]"""
    surrogate: Surrogate = "clipped"
    """What the actor maximizes (docs/mathematics.md section 1). [PPO]"""
    clip_epsilon: PositiveOrInf = 0.2
    """Ratio may leave 1 by this much before its gain is clipped (spo: where it is drawn to); inf never
    clips. [PPO, 37]"""
    kl_coef: Annotated[Positive, Fixed("it is the first beta, which has adapted since")] = 1.0
    """First beta of the kl_penalty surrogate; it adapts towards desired_kl. [PPO section 4]"""
    value_loss: Annotated[ValueLoss, _NETWORKS] = "squared"
    """How the critic is fitted: squared errors; hl_gauss: it puts out a histogram, fitted by cross-entropy
    (arXiv 2403.03950). [PPO]"""
    value_bins: Annotated[int, Interval(ge=2, le=10_000), _NETWORKS] = 101
    """hl_gauss: bins of the histogram. [arXiv 2403.03950]"""
    value_limit: Annotated[Positive, _NETWORKS] = 20.0
    """hl_gauss: values lie between minus and plus this, in units of scaled rewards. [choice: several times
    what values come to, as rewards are scaled]"""
    value_clip_epsilon: Positive | None = None
    """Clip the value update to this around the old value; none: off, clipping hurts. [MA]"""
    value_coef: NotNegative = 0.5
    """Weight of the value loss in the joint loss (without effect when optimized apart). [37]"""
    entropy_coef: Annotated[float, Interval(gt=-math.inf, lt=math.inf)] = 0.0
    """Weight of the entropy bonus. [PPO for MuJoCo, 37]"""


@dataclass(frozen=True)
class OptimizerOptions:
    """Optimization: epochs, minibatches and step sizes."""

    num_epochs: Few = 10
    """Passes over each batch. [PPO, 37]"""
    num_minibatches: Annotated[int, Interval(ge=1, le=10_000_000)] = 32
    """Minibatches per pass; must divide num_envs * num_steps. [PPO, 37]"""
    shuffle_each_epoch: bool = True
    """Draw new minibatches in every epoch; off: the same split for all epochs. [37]"""
    learning_rate: Positive = 3e-4
    """Adam's step size at the start. [PPO, MA]"""
    critic_epochs: Few | None = None
    """Passes of a separate critic; none: as num_epochs. [PPO]"""
    critic_learning_rate: Positive | None = None
    """Step size of a separate critic; none: as learning_rate. [PPO]"""
    learning_rate_schedule: Schedule = "linear"
    """Anneal to zero over total_steps (linear, cosine), keep, or follow the KL. [37, IM, rsl_rl]"""
    desired_kl: Positive = 0.01
    """KL per update that kl_adaptive learning rates and the kl_penalty aim at. [rsl_rl, PPO]"""
    target_kl: Positive | None = None
    """Stop the actor's epochs once the KL exceeds 1.5 times this; none: never. [37]"""
    max_grad_norm: PositiveOrInf = 0.5
    """Gradients are scaled down to this global norm (inf: off). [37]"""
    adam_epsilon: Annotated[float, Interval(gt=0, lt=1)] = 1e-5
    """Adam's epsilon. [37]"""
    restart_adam: bool = False
    """Begin each update with Adam's step counter at 0, its moments kept (Adam-Rel, arXiv 2412.17113).
    [choice: as Adam is]"""
    outer_step: Annotated[float, Interval(gt=0, le=10)] = 1.0
    """Go this many times as far as the update went, from where it began (outer-PPO, arXiv 2411.00666).
    [PPO]"""
    max_refused_updates: Annotated[int, Interval(ge=0, le=1_000_000)] = 5
    """Updates that are not finite: not applied, the step size halved, this often; then the run ends.
    [choice: 1/32 of the step size is as good as none]"""
    joint_loss: Annotated[bool, _LEARNERS] = False
    """Optimize actor and critic on one total loss with joint gradient clipping. [MA]"""


@dataclass(frozen=True)
class TrustRegionOptions:
    """Trust region: the step of TRPO."""

    max_kl: Positive = 0.01
    """trpo: the policy's KL from the old one after an update, at most. [arXiv 1502.05477]"""
    cg_steps: Few = 15
    """trpo: iterations of conjugate gradient. [sb3-contrib]"""
    cg_damping: NotNegative = 0.1
    """trpo: added to the diagonal of the Fisher matrix. [arXiv 1502.05477, sb3-contrib]"""
    line_search_steps: Annotated[int, Interval(ge=1, le=1_000)] = 10
    """trpo: step lengths tried, each 0.8 of the one before, until one is safe. [sb3-contrib]"""


@dataclass(frozen=True)
class RecordOptions:
    """Records: measuring and checkpoints."""

    measure_held_out_kl: Annotated[bool, _KEPT] = False
    """Report each update's KL on the next rollout too, whose states it did not learn from. [choice: it
    costs a forward pass an iteration]"""
    checkpoint_every: Count | None = 200_000
    """Environment steps between checkpoints; none: no checkpoints. [choice: five in a run of the default
    length]"""
    keep_checkpoints: Annotated[int, Interval(ge=2, le=1_000_000)] = 3
    """Newest checkpoints to keep, beside the best one and one for each quarter of the run. [choice: one
    more than a damaged one needs]"""
    video_every: Count | None = None
    """Environment steps between videos of the newest policy, made beside the run (docs/play.md); none: no
    videos. [choice: they need OpenGL]"""
    exact_resume: ExactResume = "auto"
    """Whether environments that cannot be saved begin anew at each checkpoint, so that a resumed run ends
    with the same bytes; auto: where the task says that making them is cheap (docs/checkpoints.md).
    [measured]"""
    log: tuple[Logger, ...] = ()
    """Where metrics go beside metrics.jsonl, one or several (docs/follow.md). [choice: what needs no
    package]"""


@dataclass(frozen=True)
class EvaluationOptions:
    """Evaluation: while it trains, on environments of its own."""

    eval_every: Count | None = None
    """Environment steps between evaluations of the deterministic policy; none: no evaluations. [choice:
    they cost steps of their own]"""
    eval_episodes: Few = 20
    """Whole episodes of an evaluation. [choice: as many as `surefoot eval` plays]"""
    best_by: BestBy = "return"
    """What makes an evaluated policy the best so far: its mean return, or its share of successes and
    among equal ones its return. [choice: every task has a return]"""
    stop_at_return: Number | None = None
    """End the run once an evaluation's mean return is at least this; none: never. [choice: only the user
    knows what is enough]"""
    stop_at_success: Share | None = None
    """End the run once an evaluation's share of successes is at least this; none: never. [choice: only
    the user knows what is enough]"""


# in the order in which they are shown and written
SECTIONS = (
    RunOptions,
    StartOptions,
    CollectOptions,
    OverlapOptions,
    NetworkOptions,
    MemoryOptions,
    NormalizationOptions,
    AdvantageOptions,
    LossOptions,
    OptimizerOptions,
    TrustRegionOptions,
    RecordOptions,
    EvaluationOptions,
)
