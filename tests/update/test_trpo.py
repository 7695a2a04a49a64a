"""Laws of TRPO's update, on experience collected by the library itself."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from tests.helpers import PROBE, TINY

from surefoot import functional as F
from surefoot.config import validate
from surefoot.envs import make_environment
from surefoot.errors import UserError
from surefoot.training import Trainer
from surefoot.update import make_executors

CONFIG = TINY.replace(algorithm="trpo", overlap="off")


@functools.cache
def trainer(task: str, **options):
    config = CONFIG.replace(**options)
    env = make_environment(task, config.num_envs, seed=np.random.SeedSequence(0))
    made = Trainer(config, env, make_executors(config))
    return made, made.start()


def collect(made: Trainer, state):
    """The state, experience and what the critic makes of it."""
    state, rollout = made.collect(state, made.policy(state))
    state, gathered = made.make_experience(state, rollout)
    state, estimated = made.estimate_advantages(state, gathered.experience)
    return state, gathered.experience, estimated


def updated(task: str = PROBE, **options):
    """The learner before and after an update, the experience, its advantages and the metrics."""
    made, state = trainer(task, **options)
    rates = made.updater.learning_rates(0)
    for _ in range(3):
        before = state.learners
        state, experience, estimated = collect(made, state)
        learners, metrics = made.updater.update(before, estimated, jax.random.key(0), rates)
        state = state._replace(learners=learners)
    numbers = {name: value for part in metrics for name, value in part.items()}
    moved = before["actor"], learners["actor"]
    return *moved, experience, estimated.estimates.advantages, numbers


def look(params, experience):
    """The actor's distributions of what was acted on."""
    return params.policy().unroll(experience.seen(), experience.carry, experience.first[:-1])


def kl_and_surrogate(old, new, experience, advantages):
    before, after = look(old.params, experience), look(new.params, experience)
    kl = F.masked_mean(before.kl(after), experience.weights)
    scaled = F.normalize_advantages(advantages, weights=experience.weights, min_std=0.003)
    log_probs = after.log_prob(experience.raw_actions)
    loss = F.ratio_loss(log_probs, experience.old_log_probs, scaled, weights=experience.weights)
    return float(kl), -float(loss)


@pytest.mark.extended
@pytest.mark.parametrize("task", [PROBE, "probe:both/discrete"])
@pytest.mark.parametrize("max_kl", [0.001, 0.05])
def test_the_step_improves_inside_the_region(task: str, max_kl: float) -> None:
    old, new, experience, advantages, metrics = updated(task, max_kl=max_kl)
    kl, surrogate = kl_and_surrogate(old, new, experience, advantages)
    assert 0.1 * max_kl < kl <= max_kl * (1 + 1e-4)
    assert surrogate > 1e-4  # normalized advantages: zero at the old policy
    assert 0.0 < float(metrics["optim/step_fraction"]) <= 1.0
    np.testing.assert_allclose(metrics["loss/policy"], -surrogate, rtol=1e-3, atol=1e-6)
    # the rate is that of the step that was taken, however much of it was
    made, state = trainer(task, max_kl=max_kl)
    state, _, estimated = collect(made, state)
    directions, shortened = [], []
    for region in (max_kl, 5.0):
        updater = trainer(task, max_kl=region)[0].updater
        rates = updater.learning_rates(0)
        learners, told = updater.update(state.learners, estimated, jax.random.key(0), rates)
        after, before = (ravel_pytree(x["actor"].params)[0] for x in (learners, state.learners))
        directions.append(jnp.linalg.norm(after - before) / learners["actor"].learning_rate)
        (fraction,) = [x["optim/step_fraction"] for x in told if "optim/step_fraction" in x]
        shortened.append(float(fraction) < 1)
    np.testing.assert_allclose(*directions, rtol=1e-3)
    assert any(shortened) == (task == PROBE)
    # what is told is its estimate from the actions taken, behind the step
    log_probs = look(new.params, experience).log_prob(experience.raw_actions)
    ratios = (log_probs, experience.old_log_probs)
    estimate = F.approx_kl(*ratios, weights=experience.weights)
    np.testing.assert_allclose(metrics["policy/approx_kl"], estimate, rtol=1e-3, atol=1e-7)
    assert 0.5 < estimate / kl < 2.0


@pytest.mark.extended
@pytest.mark.parametrize(("max_kl", "shortened"), [(1e-4, False), (5.0, True)])
def test_the_step_is_along_the_natural_gradient_as_long_as_the_rate_says(
    max_kl: float, shortened: bool
) -> None:
    old, new, experience, advantages, metrics = updated(cg_steps=200, max_kl=max_kl)
    vector, unflatten = ravel_pytree(old.params)
    before = jax.tree.map(jax.lax.stop_gradient, look(old.params, experience))

    def kl(params):
        after = look(unflatten(params), experience)
        return F.masked_mean(before.kl(after), experience.weights)

    def surrogate(params):
        log_probs = look(unflatten(params), experience).log_prob(experience.raw_actions)
        scaled = F.normalize_advantages(advantages, weights=experience.weights, min_std=0.003)
        weights = experience.weights
        return -F.ratio_loss(log_probs, experience.old_log_probs, scaled, weights=weights)

    gradient = np.asarray(jax.grad(surrogate)(vector), np.float64)
    fisher = np.asarray(jax.hessian(kl)(vector), np.float64) + 0.1 * np.eye(len(vector))
    direction = np.linalg.solve(fisher, gradient)
    moved = np.asarray(ravel_pytree(new.params)[0] - vector)
    length = np.linalg.norm(moved)
    assert moved @ direction / length / np.linalg.norm(direction) > 0.999
    # the region's border lies where half the step's square in the (damped) Fisher norm is max_kl
    longest = np.sqrt(2 * max_kl / (direction @ fisher @ direction))
    fraction = float(metrics["optim/step_fraction"])
    assert (fraction < 1) == shortened
    np.testing.assert_allclose(new.learning_rate, fraction * longest, rtol=1e-3)
    np.testing.assert_allclose(length, fraction * longest * np.linalg.norm(direction), rtol=1e-2)
    np.testing.assert_allclose(metrics["optim/grad_norm"], np.linalg.norm(gradient), rtol=1e-3)


@pytest.mark.extended
def test_the_critic_learns_by_epochs_as_in_ppo() -> None:
    few, many = updated(num_epochs=1)[-1], updated(num_epochs=20)[-1]
    assert float(many["loss/value"]) < float(few["loss/value"])


@pytest.mark.extended
def test_the_actors_learning_rate_is_the_length_of_its_step() -> None:
    def first_update(max_kl: float):
        made, state = trainer("probe:both/discrete", max_kl=max_kl)
        before = state.learners["actor"]
        state, experience, estimated = collect(made, state)
        after = made.update(state, experience, estimated)[0].learners["actor"]
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
        {"joint_loss": True},
        {"shared_trunk": True},
        {"outer_step": 1.5},
    ],
)
def test_what_steers_ppos_epochs_is_refused(options: dict) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        validate(CONFIG.replace(**options))
