"""The runs of same_bytes.py: all that decides what is learned, each in a few iterations.

A task `own:NAME` is a class of same_bytes_tasks.py. Every kind says whether it keeps checkpoints and
whether they are exact, because `exact_resume = "auto"` decides by a clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple


class Kind(NamedTuple):
    """A run.

    Attributes:
        name: its name.
        task: the task's name.
        options: options of `surefoot.train`.
        how: trained; interrupted and resumed; finished and given as many steps again; two seeds side
            by side.
    """

    name: str
    task: str
    options: dict[str, Any]
    how: Literal["train", "resume", "further", "seeds"] = "train"


# five batches of 256, and steps so large that ratios leave the clip range
SMALL: dict[str, Any] = {
    "total_steps": 1_200,
    "num_envs": 4,
    "num_steps": 64,
    "num_epochs": 4,
    "num_minibatches": 4,
    "actor_hidden": (16, 16),
    "critic_hidden": (16, 16),
    "learning_rate": 5e-3,
    "checkpoint_every": None,
}
STOP_AFTER = 3  # iterations of a run that is interrupted, which is between two checkpoints
CHECKPOINTS = {"checkpoint_every": 400, "exact_resume": "on"}
SHORT = {"env_options": ("max_episode_steps=20",)}
BALANCE, CHOICE = "own:Balance", "own:Choice"


def of_tasks() -> Iterator[Kind]:
    """Simulators, their spaces, and what drives them."""
    yield Kind("hopper", "Hopper-v5", {"total_steps": 6_000, "checkpoint_every": None})
    yield Kind("go1", "Go1JoystickFlatTerrain-v1", SMALL)
    for name, task, options in [
        ("envpool-discrete", "CartPole-v1", SHORT),
        ("pendulum", "gymnasium:Pendulum-v1", SHORT),
        ("pendulum-workers", "gymnasium:Pendulum-v1", SHORT | {"env_workers": 2}),
        ("cartpole", "gymnax:CartPole-v1", {}),
        ("both", "probe:both", {}),
        ("both-continuous", "probe:both/continuous", {}),
        ("truncated", "probe:truncated", {}),
        ("box", BALANCE, {}),
        ("box-open-bounds", "own:OpenBounds", {}),
        ("box-whole-numbers", "own:WholeNumbers", {}),
        ("discrete", CHOICE, {}),
        ("multi-discrete", "own:Choices", {"entropy_coef": 0.01}),
        ("multi-binary", "own:Switches", {"entropy_coef": 0.01}),
        ("one-hot", "own:OneHot", {}),
        (
            "groups",
            "own:OneHot",
            {
                "actor_groups": ("sensors", "privileged_place"),
                "critic_groups": ("sensors",),
                "ignore_groups": ("cell",),
            },
        ),
        ("fails-restart", "own:Fails", {"on_env_failure": "restart"}),
        ("fails-quarantine", "own:Fails", {"on_env_failure": "quarantine"}),
    ]:
        yield Kind(name, task, SMALL | options)


def of_robots() -> Iterator[Kind]:
    """Robots on MuJoCo's engine: randomized, with commands, curricula and memory, and resumed."""
    arm, hopper = "robot:ArmReach", "surefoot.robots.tasks.gymnasium:Hopper"
    kept = SMALL | CHECKPOINTS
    memory = {"memory": "gru", "memory_minibatches": 2}
    yield Kind("robot-hopper", hopper, SMALL)
    yield Kind("robot-arm", arm, SMALL)
    yield Kind("robot-go1", "robot:Go1Walk", SMALL)
    yield Kind("robot-rough", "robot:Go1Rough", SMALL)
    yield Kind("robot-memory", arm, SMALL | memory)
    yield Kind("resume-robot", arm, kept, "resume")


def of_networks() -> Iterator[Kind]:
    """Distributions, networks, normalisation."""
    raw = {"normalize_observations": False, "scale_rewards": False, "max_grad_norm": math.inf}
    for name, options in {
        "squashed": {"distribution": "squashed_gaussian", "entropy_coef": 0.01},
        "beta": {"distribution": "beta", "learning_rate": 5e-2, "entropy_coef": 0.01},
        "state-std": {"state_dependent_std": True, "entropy_coef": 0.01},
        "squashed-state-std": {"distribution": "squashed_gaussian", "state_dependent_std": True},
        "joint": {"joint_loss": True, "entropy_coef": 0.01},
        "shared-trunk": {"shared_trunk": True, "value_coef": 0.7},
        "elu": {"activation": "elu", "actor_hidden": (16,), "critic_hidden": (24, 16)},
        "relu": {"activation": "relu", "orthogonal_init": False},
        "swish": {"activation": "swish", "actor_hidden": ()},
        "raw": raw | {"shuffle_each_epoch": False, "clip_epsilon": math.inf},
        "clipped-inputs": {"observation_clip": 0.5, "reward_clip": 0.1, "min_advantage_std": 0.5},
    }.items():
        yield Kind(name, BALANCE, SMALL | options)


def of_updates() -> Iterator[Kind]:
    """Objectives, estimators, optimisation."""
    kl = {"learning_rate_schedule": "kl_adaptive", "desired_kl": 0.005}
    stops = {"target_kl": 1e-3}
    for name, options in {
        "recompute": {"recompute_advantages": True},
        "recompute-joint": {"recompute_advantages": True, "joint_loss": True},
        "trpo": {"algorithm": "trpo"},
        "trpo-short": {"algorithm": "trpo", "max_kl": 1.0, "line_search_steps": 3, "cg_steps": 3},
        "kl-penalty": {"surrogate": "kl_penalty", "desired_kl": 0.002},
        "ratio": {"surrogate": "ratio"},
        "policy-gradient": {"surrogate": "policy_gradient"},
        "kl-adaptive": kl,
        "kl-adaptive-joint": kl | {"joint_loss": True},
        "target-kl": stops,
        "target-kl-joint": stops | {"joint_loss": True},
        "constant": {"learning_rate_schedule": "constant", "critic_learning_rate": 3e-3},
        "cosine": {"learning_rate_schedule": "cosine"},
        "td": {"advantage_estimator": "td"},
        "monte-carlo": {"advantage_estimator": "monte_carlo"},
        "reward-to-go": {"advantage_estimator": "reward_to_go"},
        "trajectory-return": {"advantage_estimator": "trajectory_return"},
        "value-clip": {"value_clip_epsilon": 0.05},
        "advantages-batch": {"advantage_normalization": "batch"},
        "advantages-off": {"advantage_normalization": "off"},
        "entropy": {"entropy_coef": 0.05},
        "held-out-kl": {"measure_held_out_kl": True},
        # the first update is not finite: it is not applied, and the step size is halved
        "refused": {"learning_rate": 5e9},
    }.items():
        yield Kind(name, BALANCE, SMALL | options)
    yield Kind("trpo-discrete", CHOICE, SMALL | {"algorithm": "trpo"})
    yield Kind("kl-penalty-discrete", CHOICE, SMALL | {"surrogate": "kl_penalty"})


def of_loops() -> Iterator[Kind]:
    """Overlap, seeds side by side, resumed runs."""
    full = {"overlap": "full", "max_lag": 2}
    for name, options in {
        "overlap-off": {"overlap": "off"},
        "overlap-exact": {"overlap": "exact"},
        "full-behaviour": full | {"lag_correction": "behaviour"},
        "full-vtrace": full | {"lag_correction": "vtrace"},
        "full-decoupled": full | {"lag_correction": "decoupled"},
        "full-joint": full | {"joint_loss": True},
        "full-trpo": full | {"algorithm": "trpo"},
    }.items():
        yield Kind(name, BALANCE, SMALL | options)
    kept = SMALL | CHECKPOINTS
    yield Kind("seeds", "gymnax:CartPole-v1", SMALL, "seeds")
    yield Kind("resume-cartpole", "gymnax:CartPole-v1", kept, "resume")
    yield Kind("resume-hopper", "Hopper-v5", kept, "resume")
    yield Kind("resume-pendulum", "gymnasium:Pendulum-v1", kept | SHORT, "resume")
    yield Kind("resume-left", BALANCE, kept | {"exact_resume": "off"}, "resume")
    yield Kind("resume-full", "gymnax:CartPole-v1", kept | full, "resume")
    yield Kind("resume-full-hopper", "Hopper-v5", kept | full, "resume")
    adapts = {"surrogate": "kl_penalty", "measure_held_out_kl": True, "joint_loss": True}
    yield Kind("resume-adapted", "gymnax:CartPole-v1", kept | adapts, "resume")
    yield Kind("further", "gymnax:CartPole-v1", kept, "further")


PARTS = (of_tasks, of_robots, of_networks, of_updates, of_loops)
KINDS = {k.name: k for part in PARTS for k in part()}
