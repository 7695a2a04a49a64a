"""The studies that come with Surefoot: functions that return arms and their baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from surefoot.errors import check_names

_NO_CLIP = {"clip_epsilon": math.inf}


class Preset(NamedTuple):
    """Arms by name, the one that the others are compared with, and what they are to tell."""

    arms: Mapping[str, Mapping[str, Any]]
    baseline: str
    question: str


def clipping() -> Preset:
    """Clipping against what else keeps an update small."""
    return Preset(
        arms={
            "clip": {},
            "no clip": {**_NO_CLIP, "max_grad_norm": math.inf},
            "no clip + gradient clipping": _NO_CLIP,
            "KL stop only": {**_NO_CLIP, "target_kl": 0.01},
            "KL penalty": {"surrogate": "kl_penalty"},
            "TRPO": {"algorithm": "trpo"},
        },
        baseline="clip",
        question="Is clipping actually working?",
    )


def implementation_matters() -> Preset:
    """The arms of Engstrom et al. 2020, arXiv 2005.12729, section 5 and table 3.

    Code-level optimizations are, of the first kind: value clipping, reward scaling, orthogonal
    initialization with layer scaling, annealing; and of the second: reward clipping, normalized and
    clipped observations, tanh, gradient clipping. PPO-M lacks the first kind, TRPO both. Here reward
    clipping acts on scaled rewards alone, so it goes with the scaling. The paper tuned PPO-NoClip anew:
    `--tune-lr` does so for every arm.
    """
    first_on = {"value_clip_epsilon": 0.2}  # the others are on by default
    first_off = {
        "value_clip_epsilon": None,
        "scale_rewards": False,
        "orthogonal_init": False,
        "policy_output_scale": 1.0,
        "learning_rate_schedule": "constant",
    }
    second_off = {
        "normalize_observations": False,
        "observation_clip": math.inf,
        "activation": "relu",
        "max_grad_norm": math.inf,
    }
    trpo = {"algorithm": "trpo"}
    return Preset(
        arms={
            "PPO": first_on,
            "PPO-M": first_off,
            "PPO-NoClip": {**first_on, **_NO_CLIP},
            "TRPO": {**trpo, **first_off, **second_off},
            "TRPO+": {**trpo, **first_on},
        },
        baseline="PPO",
        question="Does PPO's gain come from clipping, or from the code around it?",
    )


def estimators() -> Preset:
    """What multiplies the log-probability, from the plain return to GAE."""
    gae = {f"GAE {x}": {"gae_lambda": x} for x in (0.5, 0.8, 0.9, 0.99)}
    return Preset(
        arms={
            "GAE 0.95": {"gae_lambda": 0.95},
            **gae,
            "TD residual": {"advantage_estimator": "td"},
            "Monte-Carlo": {"advantage_estimator": "monte_carlo"},
            "reward-to-go": {"advantage_estimator": "reward_to_go"},
            "trajectory return": {"advantage_estimator": "trajectory_return"},
        },
        baseline="GAE 0.95",
        question="Which advantage estimator learns best?",
    )


# every stabilizer of docs/mathematics.md section 5: name -> (options with it, options without it)
_STABILIZERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "clipping": ({"clip_epsilon": 0.2}, _NO_CLIP),
    "gradient clipping": ({"max_grad_norm": 0.5}, {"max_grad_norm": math.inf}),
    "learning-rate annealing": (
        {"learning_rate_schedule": "linear"},
        {"learning_rate_schedule": "constant"},
    ),
    "advantage normalization": (
        {"advantage_normalization": "minibatch"},
        {"advantage_normalization": "off"},
    ),
    "observation normalization": (
        {"normalize_observations": True},
        {"normalize_observations": False},
    ),
    "reward scaling": ({"scale_rewards": True}, {"scale_rewards": False}),
    "orthogonal initialization": (
        {"orthogonal_init": True, "policy_output_scale": 0.01},
        {"orthogonal_init": False, "policy_output_scale": 1.0},
    ),
    "tanh": ({"activation": "tanh"}, {"activation": "relu"}),
    "fresh shuffling": ({"shuffle_each_epoch": True}, {"shuffle_each_epoch": False}),
    "separate networks": ({"shared_trunk": False}, {"shared_trunk": True}),
}
# what acts only together with another: name -> options without it
_COMPANIONS: dict[str, dict[str, Any]] = {
    "observation clipping": {"observation_clip": math.inf},
    "reward clipping": {"reward_clip": math.inf},
}
# off by default: name -> options that switch it on
_EXTRAS: dict[str, dict[str, Any]] = {
    "value clipping": {"value_clip_epsilon": 0.2},
    "KL stop": {"target_kl": 0.01},
    "KL-adaptive learning rate": {"learning_rate_schedule": "kl_adaptive"},
    "recomputed advantages": {"recompute_advantages": True},
}


def code_level() -> Preset:
    """Each stabilizer alone: taken from the default, added to it, and added to none of them."""
    bare = {name: value for _, off in _STABILIZERS.values() for name, value in off.items()}
    arms: dict[str, Mapping[str, Any]] = {"default": {}}
    arms |= {f"without {name}": off for name, (_, off) in _STABILIZERS.items()}
    arms |= {f"without {name}": off for name, off in _COMPANIONS.items()}
    arms |= {f"with {name}": on for name, on in _EXTRAS.items()}
    arms["bare"] = bare
    arms |= {f"bare + {name}": {**bare, **on} for name, (on, _) in _STABILIZERS.items()}
    return Preset(arms, "default", "Which of the stabilizers earns its place?")


def normalization() -> Preset:
    """What is normalized, scaled and clipped on the way into the networks."""
    observations = {"normalize_observations": False}
    rewards = {"scale_rewards": False}
    advantages = {"advantage_normalization": "off"}
    return Preset(
        arms={
            "default": {},
            "observations as they are": observations,
            "rewards as they are": rewards,
            "advantages as they are": advantages,
            "advantages by the batch": {"advantage_normalization": "batch"},
            "observations not clipped": {"observation_clip": math.inf},
            "rewards not clipped": {"reward_clip": math.inf},
            "nothing normalized": {**observations, **rewards, **advantages},
        },
        baseline="default",
        question="Which normalization matters?",
    )


def techniques() -> Preset:
    """What papers report gains of, one change at a time; sources: docs/options.md."""
    layer_norm = {"critic_layer_norm": True}
    residual = {"actor_residual": True, "critic_residual": True}
    both = {"actor_layer_norm": True, **layer_norm}
    return Preset(
        arms={
            "default": {},
            "spo": {"surrogate": "spo"},
            "adam-rel": {"restart_adam": True},
            "outer step 1.5": {"outer_step": 1.5},
            "hl-gauss": {"value_loss": "hl_gauss"},
            "layer norm, critic": layer_norm,
            "layer norm, both": both,
            "binned": {"distribution": "binned"},
            # in networks of the usual width
            "rn-d": {"distribution": "binned", **both, **residual},
            "normalized values": {"normalize_values": True},
            "noise 0.5": {"noise_color": 0.5},
            "gsde": {"gsde": True},
            "critic 256 x 256": {"critic_hidden": [256, 256]},
            "critic 20 epochs, 1e-3": {"critic_epochs": 20, "critic_learning_rate": 1e-3},
            "gamma 0.995": {"gamma": 0.995},
            "kl-adaptive rate": {"learning_rate_schedule": "kl_adaptive"},
            "256 steps": {"num_steps": 256},
            "recomputed advantages": {"recompute_advantages": True},
            "staggered": {"stagger_steps": 1_000},
        },
        baseline="default",
        question="Which published technique makes the default learn more from every step?",
    )


STUDIES: dict[str, Callable[[], Preset]] = {
    "clipping": clipping,
    "implementation-matters": implementation_matters,
    "estimators": estimators,
    "code-level": code_level,
    "normalization": normalization,
    "techniques": techniques,
}
TASK_PRESETS = {  # tasks that are trained with a preset of their own
    "Go1JoystickFlatTerrain-v1": "go1",
    "Go1JoystickRoughTerrain-v1": "go1",
}


def study_preset(name: str) -> Preset:
    """A study's preset by name.

    Raises:
        ValueError: for an unknown name, with near matches.
    """
    check_names([name], STUDIES, what=f"study ({', '.join(STUDIES)}, or a .toml file):")
    return STUDIES[name]()
