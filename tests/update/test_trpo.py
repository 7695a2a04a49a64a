"""Laws of TRPO's update, on experience collected by the library itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from surefoot import functional as F
from surefoot.config import Config, validate
from surefoot.envs import make_environment
from surefoot.errors import UserError
from surefoot.training import Trainer

CONFIG = Config(
    algorithm="trpo",
    num_envs=8,
    num_steps=32,
    num_minibatches=4,
    num_epochs=2,
    actor_hidden=(8,),
    critic_hidden=(8,),
    overlap="off",
)


def updated(task: str = "probe:late-reward/continuous", **options):
    """The actor before and after an update, the experience, its advantages and the metrics."""
    config = CONFIG.replace(**options)
    env = make_environment(task, config.num_envs, seed=np.random.SeedSequence(0))
    trainer = Trainer(config, env)
    state = trainer.start()
    for _ in range(3):
        before = state
        state, rollout = trainer.collect(state, trainer.policy(state))
        state, experience, _ = trainer.digest(state, rollout)
        learners = trainer.algorithm.update(
            state.learners, experience, jax.random.key(0), learning_rates=trainer.learning_rates(0)
        )
        state = state._replace(learners=learners.learners)
    assert learners.estimates is not None
    old, new = before.learners["actor"].params, state.learners["actor"].params
    metrics = {name: value for part in learners.metrics for name, value in part.items()}
    return old, new, experience, learners.estimates.advantages, metrics


def kl_and_surrogate(old, new, experience, advantages):
    before, after = old(experience.actor_features), new(experience.actor_features)
    kl = F.masked_mean(before.kl(after), experience.weights)
    scaled = F.normalize_advantages(advantages, weights=experience.weights, min_std=0.003)
    log_probs = after.log_prob(experience.raw_actions)
    loss = F.ratio_loss(log_probs, experience.old_log_probs, scaled, weights=experience.weights)
    return float(kl), -float(loss)


@pytest.mark.parametrize("task", ["probe:late-reward/continuous", "probe:both/discrete"])
@pytest.mark.parametrize("max_kl", [0.001, 0.05])
def test_the_step_improves_inside_the_region(task: str, max_kl: float) -> None:
    old, new, experience, advantages, metrics = updated(task, max_kl=max_kl)
    kl, surrogate = kl_and_surrogate(old, new, experience, advantages)
    assert 0.1 * max_kl < kl <= max_kl * (1 + 1e-4)
    assert surrogate > 1e-4  # normalised advantages: zero at the old policy
    assert 0.0 < float(metrics["optim/step_fraction"]) <= 1.0
    np.testing.assert_allclose(metrics["loss/policy"], -surrogate, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(metrics["policy/approx_kl"], kl, rtol=0.5)


def test_the_step_is_along_the_natural_gradient() -> None:
    old, new, experience, advantages, _ = updated(cg_steps=200)
    vector, unflatten = ravel_pytree(old)
    before = jax.tree.map(jax.lax.stop_gradient, old(experience.actor_features))

    def kl(params):
        after = unflatten(params)(experience.actor_features)
        return F.masked_mean(before.kl(after), experience.weights)

    def surrogate(params):
        log_probs = unflatten(params)(experience.actor_features).log_prob(experience.raw_actions)
        scaled = F.normalize_advantages(advantages, weights=experience.weights, min_std=0.003)
        weights = experience.weights
        return -F.ratio_loss(log_probs, experience.old_log_probs, scaled, weights=weights)

    fisher = np.asarray(jax.hessian(kl)(vector), np.float64) + 0.1 * np.eye(len(vector))
    direction = np.linalg.solve(fisher, np.asarray(jax.grad(surrogate)(vector), np.float64))
    moved = np.asarray(ravel_pytree(new)[0] - vector)
    cosine = moved @ direction / np.linalg.norm(moved) / np.linalg.norm(direction)
    assert cosine > 0.999


def test_the_critic_learns_by_epochs_as_in_ppo() -> None:
    _, _, _, _, few = updated(num_epochs=1)
    _, _, _, _, many = updated(num_epochs=20)
    assert float(many["loss/value"]) < float(few["loss/value"])


def test_the_actors_learning_rate_is_the_length_of_its_step() -> None:
    def first_update(max_kl: float):
        env = make_environment("probe:both/discrete", 8, seed=np.random.SeedSequence(0))
        trainer = Trainer(CONFIG.replace(max_kl=max_kl), env)
        state = trainer.start()
        before = state.learners["actor"]
        state, rollout = trainer.collect(state, trainer.policy(state))
        state, experience, _ = trainer.digest(state, rollout)
        after = trainer.optimise(state, experience)[0].learners["actor"]
        assert int(after.opt_state[1].count) == 0  # Adam has no part
        moved = ravel_pytree(after.params)[0] - ravel_pytree(before.params)[0]
        return float(after.learning_rate), float(jnp.linalg.norm(moved))

    # along one direction: lengths are as the learning rates, and as the roots of the regions
    (rate, length), (wider_rate, wider_length) = first_update(1e-4), first_update(4e-4)
    np.testing.assert_allclose(wider_rate / rate, 2.0, rtol=1e-4)
    np.testing.assert_allclose(wider_length / length, 2.0, rtol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"surrogate": "policy_gradient"},
        {"target_kl": 0.01},
        {"learning_rate_schedule": "kl_adaptive"},
        {"recompute_advantages": True},
        {"joint_loss": True},
        {"shared_trunk": True},
    ],
)
def test_what_steers_ppos_epochs_is_refused(options: dict) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        validate(CONFIG.replace(**options))
