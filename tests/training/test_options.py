"""Every option changes what is learned: shown where it acts, on one fixed batch.

Nothing is compiled here but single operations, which all options share; a program for each option would cost
minutes.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from tests.helpers import TINY
from tests.training.helpers import bytes_of, trainer_for

from surefoot.config import option_names
from surefoot.rollout import Rollout
from surefoot.training import Trainer, TrainState
from surefoot.update import Estimated, Experience

# two minibatches: what acts on ratios needs a step behind the first one
BASE = TINY.replace(overlap="off", num_minibatches=2, num_epochs=1)
SEEN = {"observation": np.linspace(-2.0, 2.0, 4, dtype=np.float32)[:, None]}
FIRST = np.zeros(4, bool)


class Change(NamedTuple):
    """Where an option acts, a change of it, and what must be set on both sides for it to matter."""

    stage: str
    value: Any
    both: dict[str, Any] = {}


LOUD = {"learning_rate": 0.01}  # ratios that leave 1, a KL that is more than rounding
TWICE = {"num_epochs": 2}
TRPO = {"algorithm": "trpo"}
GRU = {"memory": "gru", "memory_size": 4}
CHANGES: dict[str, Change] = {
    "total_steps": Change("update", 600),
    "seed": Change("begin", 7),
    "num_envs": Change("rollout", 8),
    "num_steps": Change("rollout", 32),
    "actor_hidden": Change("begin", (16,)),
    "critic_hidden": Change("begin", (16,)),
    "actor_layer_norm": Change("begin", True),
    "critic_layer_norm": Change("begin", True),
    "actor_residual": Change("update", True, {"actor_hidden": (8, 8)}),
    "critic_residual": Change("update", True, {"critic_hidden": (8, 8)}),
    "activation": Change("begin", "relu"),
    "shared_trunk": Change("begin", True),
    "orthogonal_init": Change("begin", False),
    "policy_output_scale": Change("begin", 1.0),
    "distribution": Change("begin", "squashed_gaussian"),
    "action_bins": Change("begin", 5, {"distribution": "binned"}),
    "state_dependent_std": Change("begin", True),
    "initial_std": Change("begin", 0.5),
    "min_std": Change("begin", 0.2),
    "memory": Change("begin", "gru"),
    "memory_for": Change("begin", "actor", GRU),
    "memory_size": Change("begin", 8, {"memory": "gru"}),
    "memory_layers": Change("begin", 2, GRU),
    "memory_minibatches": Change("sequences", 2, GRU),
    "bptt_steps": Change("sequences", 3, GRU),
    "normalize_observations": Change("experience", False),
    "observation_clip": Change("experience", 0.1),
    "scale_rewards": Change("experience", False),
    "reward_clip": Change("experience", 0.1),
    "advantage_estimator": Change("estimates", "td"),
    "gamma": Change("estimates", 0.5),
    "gae_lambda": Change("estimates", 0.5),
    "lag_correction": Change("estimates", "decoupled", {"overlap": "full"}),
    "algorithm": Change("update", "trpo"),
    "surrogate": Change("update", "ratio", LOUD | {"clip_epsilon": 1e-4}),
    "clip_epsilon": Change("update", 1e-4, LOUD),
    "kl_coef": Change("update", 50.0, LOUD | {"surrogate": "kl_penalty"}),
    "advantage_normalization": Change("update", "batch"),
    "min_advantage_std": Change("update", 10.0),
    "recompute_advantages": Change("update", True, TWICE),
    "gsde": Change("begin", True),
    "normalize_values": Change("begin", True),
    "value_loss": Change("begin", "hl_gauss"),
    "value_bins": Change("begin", 11, {"value_loss": "hl_gauss"}),
    "value_limit": Change("update", 2.0, {"value_loss": "hl_gauss"}),
    "value_clip_epsilon": Change("update", 1e-3),
    "value_coef": Change("update", 5.0, {"joint_loss": True}),
    "entropy_coef": Change("update", 0.1),
    "joint_loss": Change("update", True),
    "num_epochs": Change("update", 2),
    "num_minibatches": Change("update", 1),
    "shuffle_each_epoch": Change("update", False, TWICE),
    "learning_rate": Change("update", 1e-3),
    "critic_epochs": Change("update", 3),
    "critic_learning_rate": Change("update", 1e-3),
    "learning_rate_schedule": Change("update", "constant"),
    "desired_kl": Change("update", 1e-5, LOUD | {"learning_rate_schedule": "kl_adaptive"}),
    "target_kl": Change("update", 1e-7, LOUD),
    "max_grad_norm": Change("update", 1e-4),
    "adam_epsilon": Change("update", 0.1),
    "restart_adam": Change("second_update", True),
    "outer_step": Change("update", 1.5),
    "max_kl": Change("update", 1e-4, TRPO),
    "cg_steps": Change("update", 1, TRPO),
    "cg_damping": Change("update", 10.0, TRPO),
    # a region so wide that its full step is refused
    "line_search_steps": Change("update", 1, TRPO | {"max_kl": 2.0}),
}
# tested where they act: env_options in tests/envs, the groups in tests/agent, what is measured in
# test_loop.py, overlap in test_overlap.py, checkpoints and evaluations in tests/services, from_run in
# tests/test_warm_start.py
ELSEWHERE = {
    "stagger_steps",  # test_environments.py, tests/rollout/test_collect.py
    *("env_options", "env_workers", "env_timeout", "on_env_failure"),
    *("actor_groups", "critic_groups", "ignore_groups"),
    *("overlap", "max_lag"),
    *("noise_color", "gsde_steps"),  # of a rollout: test_loop.py, tests/rollout/test_collect.py
    "symmetry",  # of tasks that have one: tests/training/test_symmetry.py
    *("measure_held_out_kl", "max_refused_updates"),
    *("checkpoint_every", "keep_checkpoints", "exact_resume", "video_every", "log"),
    *("eval_every", "eval_episodes", "best_by", "stop_at_return", "stop_at_success"),
    *("from_run", "from_critic"),
}


def test_the_list_of_changes_is_complete() -> None:
    assert set(CHANGES) | ELSEWHERE == set(option_names())
    assert not set(CHANGES) & ELSEWHERE


class Fixed(NamedTuple):
    """One iteration of the base run, up to its update."""

    state: TrainState
    rollout: Rollout
    experience: Experience
    estimated: Estimated


@functools.cache
def fixed() -> Fixed:
    trainer = trainer_for(config=BASE)
    state = trainer.start()
    state, rollout = trainer.collect(state, trainer.policy(state))
    # what the statistics saw before, so that normalizing and scaling have an effect
    state, _ = trainer.make_experience(state, rollout)
    _, gathered = trainer.make_experience(state, rollout)
    _, estimated = trainer.estimate_advantages(state, gathered.experience)
    return Fixed(state._replace(step=100), rollout, gathered.experience, estimated)


def params_of(state: TrainState) -> Any:
    return [learner.params for learner in state.learners.values()]


def begin(trainer: Trainer) -> Any:
    """Fresh networks, and what they make of a few observations."""
    state = trainer.init()
    policy = trainer.policy(state)
    carry = policy.initial_carry(len(FIRST))
    distribution, _ = policy.actor.step(policy.normalizer(SEEN), carry, FIRST)
    actions = distribution.to_action(distribution.mode())
    return params_of(state), actions, distribution.entropy()


def rollout(trainer: Trainer) -> Any:
    """The shapes of a rollout."""
    state = trainer.init()

    def collected() -> Rollout:
        begun = trainer.reset_envs(state, trainer.env)
        return trainer.collect(begun, trainer.policy(begun))[1]

    return [np.array(x.shape) for x in jax.tree.leaves(jax.eval_shape(collected))]


def experience(trainer: Trainer) -> Any:
    """What the base run's rollout becomes."""
    fresh, fix = trainer.init(), fixed()
    # statistics of the base run, clipped and enabled as the options say
    normalizer = dataclasses.replace(fresh.normalizer, moments=fix.state.normalizer.moments)
    state = fresh._replace(normalizer=normalizer)
    return trainer.make_experience(state, fix.rollout)[1].experience


def estimates(trainer: Trainer) -> Any:
    """What a critic makes of the base run's experience; the actor is another than collected it."""
    return trainer.estimate_advantages(trainer.init(seed=1), fixed().experience)[1].estimates


def update(trainer: Trainer) -> Any:
    """What the base run's batch teaches fresh networks."""
    fix = fixed()
    state = trainer.init()._replace(step=fix.state.step)
    return params_of(trainer.update(state, fix.experience, fix.estimated)[0])


def second_update(trainer: Trainer) -> Any:
    """What the same batch teaches them once more."""
    fix = fixed()
    state, _ = trainer.update(
        trainer.init()._replace(step=fix.state.step), fix.experience, fix.estimated
    )
    return params_of(trainer.update(state, fix.experience, fix.estimated)[0])


def sequences(trainer: Trainer) -> Any:
    """What learners with memory are told; what they make of it is shown in tests/networks, tests/update."""
    minibatches = [spec.step.minibatches for spec in trainer.updater.specs]
    memories = [trainer.agent.actor.memory, trainer.agent.critic.memory]
    return [np.array([m.count for m in minibatches]), *(m and m.bptt_steps for m in memories)]


STAGES = {
    f.__name__: f for f in (begin, rollout, experience, estimates, update, second_update, sequences)
}


@functools.cache
def outcome(stage: str, options: tuple[tuple[str, Any], ...]) -> list[bytes]:
    """The bytes that a stage leaves under some options."""
    fixed()  # compiled
    trainer = trainer_for(config=BASE.replace(**dict(options)))
    with jax.disable_jit():
        return bytes_of(STAGES[stage](trainer))


def with_options(stage: str, **options: Any) -> list[bytes]:
    return outcome(stage, tuple(sorted(options.items())))


@pytest.mark.extended
@pytest.mark.parametrize("option", CHANGES)
def test_every_option_changes_what_is_learned(option: str) -> None:
    stage, value, both = CHANGES[option]
    assert with_options(stage, **both, **{option: value}) != with_options(stage, **both)


@pytest.mark.extended
@pytest.mark.parametrize("stage", STAGES)
def test_equal_options_give_equal_bytes_at_every_stage(stage: str) -> None:
    outcome.cache_clear()
    before = with_options(stage)
    outcome.cache_clear()
    assert with_options(stage) == before


@pytest.mark.extended
def test_the_least_advantage_spread_needs_scaled_rewards() -> None:
    raw = {"scale_rewards": False}
    assert with_options("update", **raw, min_advantage_std=10.0) == with_options("update", **raw)


@pytest.mark.extended
def test_what_acts_on_the_critic_alone_leaves_the_actor_as_it_was() -> None:
    plain = with_options("update")
    for option in ("critic_epochs", "critic_learning_rate", "value_clip_epsilon"):
        changed = with_options("update", **{option: CHANGES[option].value})
        differs = [a != b for a, b in zip(changed, plain, strict=True)]
        critic = len(jax.tree.leaves(fixed().state.learners["critic"].params))
        assert not any(differs[:-critic])
        assert any(differs[-critic:])
