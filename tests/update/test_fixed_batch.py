"""Laws of an update on one fixed batch: actor and critic apart and together, and what the KL does."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from tests.helpers import extended

from surefoot.config import Config
from surefoot.networks import PolicyHead, TorsoSpec, make_actor, make_critic
from surefoot.update import Estimated, Estimates, Executors, Experience, Learner, Updater
from surefoot.update.executors import Serial

T, N = 4, 4
TORSO = TorsoSpec(("o",), 2, (4,), "tanh")
KEY = jax.random.key(5)
CONFIG = Config(
    num_envs=N,
    num_steps=T,
    num_minibatches=1,
    num_epochs=1,
    max_grad_norm=np.inf,
    entropy_coef=0.01,
    value_coef=1.0,
    learning_rate=0.01,
)
RATES = {"actor": 0.01, "critic": 0.01, "joint": 0.01}


@functools.cache
def networks() -> Any:
    head = PolicyHead("gaussian", (1,))
    actor = make_actor(
        jax.random.key(0), TORSO, head, orthogonal=True, output_scale=1.0, initial_std=0.5
    )
    return actor, make_critic(jax.random.key(1), TORSO, orthogonal=True)


@functools.cache
def updater(**options: Any) -> Updater:
    """Compiled once for all tests that ask for the same options."""
    return Updater(CONFIG.replace(**options), Executors(Serial(), Serial()), exact=True)


@functools.cache
def batch(log_ratio: float = 0.0, spoilt: bool = False, target_scale: float = 1.0) -> Estimated:
    """A fixed batch, whose ratios are all exp(log_ratio) before the first step."""
    random = np.random.default_rng(0)
    observations = {"o": jnp.asarray(random.normal(size=(T + 1, N, 2)), jnp.float32)}
    raw = jnp.asarray(random.normal(size=(T, N, 1)), jnp.float32)
    log_probs = networks()[0].unroll({"o": observations["o"][:-1]}, (), None).log_prob(raw)
    no = jnp.zeros((T, N), bool)
    experience = Experience(
        observations=observations,
        first=jnp.zeros((T + 1, N), bool).at[0].set(True),
        carry=(),
        raw_actions=raw,
        old_log_probs=log_probs - log_ratio,
        rewards=jnp.zeros((T, N)),
        terminated=no,
        truncated=no,
        weights=jnp.ones((T, N)),
    )
    numbers = jnp.asarray(random.normal(size=(3, T, N)), jnp.float32)
    estimates = Estimates(*(numbers * np.nan if spoilt else numbers))
    estimates = estimates._replace(targets=target_scale * estimates.targets)
    return Estimated(experience, estimates, ())


def updated(
    log_ratio: float = 0.0,
    *,
    rates: Mapping[str, Any] = RATES,
    times: int = 1,
    spoilt: bool = False,
    target_scale: float = 1.0,
    **options: Any,
) -> tuple[dict[str, Learner], dict[str, float]]:
    """Learners and metrics after updates on the fixed batch."""
    ours = updater(**options)
    learners = ours.init(*networks())
    rows = batch(log_ratio, spoilt, target_scale)
    for _ in range(times):
        learners, metrics = ours.update(learners, rows, KEY, rates)
    names = [name for part in metrics for name in part]
    assert len(names) == len(set(names))
    return dict(learners), {name: float(x) for part in metrics for name, x in part.items()}


def flat(tree: Any) -> np.ndarray:
    return np.asarray(ravel_pytree(tree)[0])


def test_on_one_batch_the_joint_loss_moves_both_as_the_two_losses_apart() -> None:
    apart, numbers = updated(times=3)
    joint, together = updated(times=3, joint_loss=True)
    moved = joint["joint"].params
    for ours, theirs, before in (
        (moved.actor, apart["actor"].params, networks()[0]),
        (moved.critic, apart["critic"].params, networks()[1]),
    ):
        assert np.abs(flat(ours) - flat(before)).max() > 0.02
        np.testing.assert_allclose(flat(ours), flat(theirs), rtol=1e-4, atol=1e-5)
    for name in set(numbers) & set(together) - {"optim/grad_norm"}:
        np.testing.assert_allclose(together[name], numbers[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("value_coef", [extended(1.0), 0.25])
def test_the_joint_gradient_is_that_of_the_policy_and_the_weighed_one_of_the_value(
    value_coef: float,
) -> None:
    apart, numbers = updated()
    joint, together = updated(joint_loss=True, value_coef=value_coef)
    norms = numbers["optim/grad_norm"], value_coef * numbers["optim/critic_grad_norm"]
    np.testing.assert_allclose(together["optim/grad_norm"], np.hypot(*norms), rtol=1e-5)
    # Adam's first moment is a tenth of the gradient
    moments = [np.asarray(apart[name].opt_state[1].mu) for name in ("actor", "critic")]
    expected = np.concatenate([moments[0], value_coef * moments[1]])
    np.testing.assert_allclose(joint["joint"].opt_state[1].mu, expected, rtol=1e-4, atol=1e-7)
    # what is reported is the loss without its weight
    np.testing.assert_allclose(together["loss/value"], numbers["loss/value"], rtol=1e-5)


def test_the_critics_gradient_does_not_touch_a_separate_actor() -> None:
    one, two = (updated(max_grad_norm=0.1, target_scale=scale)[0] for scale in (1.0, 1e6))
    np.testing.assert_array_equal(flat(one["actor"].params), flat(two["actor"].params))
    assert (flat(one["critic"].params) != flat(two["critic"].params)).any()
    for name in ("actor", "critic"):  # each is clipped to the norm of its own gradient
        np.testing.assert_allclose(np.linalg.norm(one[name].opt_state[1].mu), 0.01, rtol=1e-4)


def test_joint_clipping_couples_actor_and_critic() -> None:
    one, two = (
        updated(max_grad_norm=0.1, target_scale=scale, joint_loss=True)[0]["joint"]
        for scale in (1.0, 1e6)
    )
    for learner in (one, two):
        np.testing.assert_allclose(np.linalg.norm(learner.opt_state[1].mu), 0.01, rtol=1e-4)
    before = flat(networks()[0])
    moves = [np.abs(flat(learner.params.actor) - before).max() for learner in (one, two)]
    assert moves[0] > 10 * moves[1]


def test_learners_take_the_rates_that_they_are_given() -> None:
    still, _ = updated(rates={"actor": 0.0, "critic": 0.5})
    np.testing.assert_array_equal(flat(still["actor"].params.actor), flat(networks()[0]))
    assert float(still["critic"].learning_rate) == 0.5
    # Adam's first step is as long as the rate
    moved = flat(still["critic"].params.critic) - flat(networks()[1])
    np.testing.assert_allclose(np.abs(moved).max(), 0.5, rtol=1e-2)


@pytest.mark.parametrize("joint", [False, True])
def test_an_update_tells_the_same_numbers_by_name(joint: bool) -> None:
    _, numbers = updated(joint_loss=joint)
    expected = {"loss/policy", "loss/value", "policy/approx_kl", "policy/clip_fraction"}
    expected |= {"policy/entropy", "policy/ratio_max", "optim/grad_norm", "optim/step_fraction"}
    assert set(numbers) == (expected if joint else expected | {"optim/critic_grad_norm"})


# --- what the KL does


def log_ratio_of(kl: float) -> float:
    """Ratios of e^c everywhere have the KL e^c - 1 - c."""
    c = np.sqrt(2 * kl)
    for _ in range(20):
        c -= (np.expm1(c) - c - kl) / np.expm1(c)
    return float(c)


@pytest.mark.parametrize("joint", [False, extended(True)])
@pytest.mark.parametrize(("factor", "goes_on"), [(1.47, True), (1.53, False)])
def test_the_kl_stops_the_actor_at_one_and_a_half_times_the_target(
    joint: bool, factor: float, goes_on: bool
) -> None:
    after, numbers = updated(log_ratio_of(0.02 * factor), target_kl=0.02, joint_loss=joint)
    np.testing.assert_allclose(numbers["policy/approx_kl"], 0.02 * factor, rtol=1e-4)
    assert numbers["optim/step_fraction"] == goes_on
    main = after["joint" if joint else "actor"]
    assert bool(main.stopped) != goes_on
    assert (flat(main.params.actor) != flat(networks()[0])).any() == goes_on
    if not joint:
        assert not bool(after["critic"].stopped)
        assert (flat(after["critic"].params.critic) != flat(networks()[1])).any()


def test_without_a_target_no_kl_stops() -> None:
    _, numbers = updated(3.0)
    assert numbers["policy/approx_kl"] > 10
    assert numbers["optim/step_fraction"] == 1.0


@pytest.mark.parametrize(("factor", "change"), [(3.0, 1 / 1.5), (1.0, 1.0), (0.3, 1.5)])
def test_an_adaptive_rate_follows_the_kl_of_each_minibatch_towards_the_desired_one(
    factor: float, change: float
) -> None:
    after, _ = updated(
        log_ratio_of(0.02 * factor),
        rates=RATES | {"actor": None},
        learning_rate_schedule="kl_adaptive",
        desired_kl=0.02,
        learning_rate=0.004,
    )
    np.testing.assert_allclose(after["actor"].learning_rate, 0.004 * change, rtol=1e-5)
    np.testing.assert_allclose(after["critic"].learning_rate, 0.01, rtol=1e-6)
    fixed, _ = updated(log_ratio_of(0.02 * factor))
    np.testing.assert_allclose(fixed["actor"].learning_rate, 0.01, rtol=1e-6)


PENALTY = {"surrogate": "kl_penalty", "kl_coef": 3.0, "advantage_normalization": "off"}


@pytest.mark.parametrize("joint", [False, extended(True)])
@pytest.mark.parametrize(("rate", "change"), [(0.1, 2.0), (0.0, 0.5)])
def test_beta_of_the_kl_penalty_doubles_or_halves_around_the_desired_kl(
    rate: float, change: float, joint: bool
) -> None:
    after, _ = updated(rates=dict.fromkeys(RATES, rate), joint_loss=joint, **PENALTY)
    np.testing.assert_allclose(after["joint" if joint else "actor"].kl_coef, 3 * change)
    if not joint:
        assert float(after["critic"].kl_coef) == 3.0


def test_old_policy_for_the_kl_penalty_is_the_one_before_the_update() -> None:
    _, numbers = updated(0.5, **PENALTY)
    # before the first step its KL is 0, whoever collected: what is left is the ratio's loss
    expected = -np.exp(0.5) * np.mean(batch().estimates.advantages)
    assert abs(expected) > 0.1
    np.testing.assert_allclose(numbers["loss/policy"], expected, rtol=1e-4)


def test_beta_stays_where_there_is_no_kl_penalty() -> None:
    after, _ = updated(rates=dict.fromkeys(RATES, 0.1))
    assert float(after["actor"].kl_coef) == CONFIG.kl_coef


@pytest.mark.parametrize("joint", [False, True])
def test_an_update_on_a_batch_that_is_not_finite_is_not_applied(joint: bool) -> None:
    after, _ = updated(spoilt=True, joint_loss=joint)
    before = updater(joint_loss=joint).init(*networks())
    for name, moved in after.items():
        np.testing.assert_array_equal(flat(moved.params), flat(before[name].params))
        np.testing.assert_allclose(moved.learning_rate, 0.005)
        assert int(moved.skipped) == 1


@pytest.mark.parametrize("joint", [False, extended(True)])
def test_rows_that_are_no_experience_change_nothing(joint: bool) -> None:
    ours, experience = updater(joint_loss=joint), batch().experience
    gone = jnp.zeros((T, N), bool).at[1, 2].set(True).at[2, 0].set(True)
    experience = experience._replace(weights=1.0 - gone)
    poisoned = experience._replace(
        rewards=jnp.where(gone, jnp.nan, experience.rewards),
        old_log_probs=jnp.where(gone, 1e9, experience.old_log_probs),
        terminated=experience.terminated | gone,
    )
    learners, after = ours.init(*networks()), []
    for rows in (experience, poisoned):
        done, _ = ours.estimate_advantages(learners, (), rows)
        after.append(ours.update(learners, done, KEY, RATES)[0])
    for clean, dirty in zip(*map(jax.tree.leaves, after), strict=True):
        assert np.asarray(clean).tobytes() == np.asarray(dirty).tobytes()
    assert (flat(after[0]) != flat(learners)).any()


# --- the loop over the learners


def estimated(**changes: Any) -> Estimated:
    """The fixed batch with what the critic makes of it."""
    experience = batch().experience._replace(**changes)
    return updater().estimate_advantages(updater().init(*networks()), (), experience)[0]


@pytest.mark.extended
@pytest.mark.parametrize("options", [{}, {"shared_trunk": True}], ids=str)
def test_estimating_anew_before_each_epoch_is_as_many_updates_with_the_critic_as_it_stands(
    options: dict,
) -> None:
    theirs, rows = updater(**options), estimated(rewards=jnp.ones((T, N)))
    before = theirs.init(*networks())
    # far enough for the second estimates to be others
    rates = dict.fromkeys(RATES, 0.1)
    ours = updater(recompute_advantages=True, num_epochs=2, **options)
    fresh, (numbers,) = ours.update(before, rows, KEY, rates)
    one_by_one, kept, told = before, before, []
    for _ in range(2):
        again, _ = theirs.estimate_advantages(one_by_one, (), rows.experience)
        one_by_one, parts = theirs.update(one_by_one, again, KEY, rates)
        told.append({name: x for part in parts for name, x in part.items()})
        kept, _ = theirs.update(kept, rows, KEY, rates)
    for name in before:
        found, right, wrong = (flat(x[name].params) for x in (fresh, one_by_one, kept))
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-4)
        assert np.abs(found - wrong).max() > 1e-3
    assert set(numbers) == set(told[0])
    for name, x in numbers.items():
        over = max if name == "policy/ratio_max" else np.mean
        np.testing.assert_allclose(x, over([row[name] for row in told]), rtol=1e-3, atol=1e-4)


def test_a_critic_beside_trpo_has_its_targets_estimated_anew_before_each_of_its_epochs() -> None:
    """As by as many updates of an epoch each; the actor takes the step that it took."""
    one, rows = updater(critic_epochs=1), estimated(rewards=jnp.ones((T, N)))
    before, rates = one.init(*networks()), dict.fromkeys(RATES, 0.1)
    trpo = {"algorithm": "trpo", "num_epochs": 2}
    found, _ = updater(recompute_advantages=True, **trpo).update(before, rows, KEY, rates)
    kept, _ = updater(**trpo).update(before, rows, KEY, rates)
    critic = before
    for _ in range(2):
        again, _ = one.estimate_advantages(critic, (), rows.experience)
        critic, _ = one.update(critic, again, KEY, rates)
    np.testing.assert_array_equal(flat(found["actor"].params), flat(kept["actor"].params))
    values, right, wrong = (flat(x["critic"].params) for x in (found, critic, kept))
    np.testing.assert_allclose(values, right, rtol=1e-4, atol=1e-4)
    assert np.abs(values - wrong).max() > 1e-3


def test_a_critic_may_take_several_epochs_for_one_of_the_actors() -> None:
    ours = updater(recompute_advantages=True, num_epochs=2, critic_epochs=6)
    after, _ = ours.update(ours.init(*networks()), batch(), KEY, RATES)
    assert int(after["actor"].opt_state[1].count) == 2
    assert int(after["critic"].opt_state[1].count) == 6


def test_the_kl_penalty_is_of_the_whole_update_where_the_batch_is_estimated_anew() -> None:
    """Beta is halved or doubled once, by the KL from the policy before the first epoch."""
    options = {**PENALTY, "num_epochs": 2, "entropy_coef": 0.0}
    ours = updater(recompute_advantages=True, **options)
    before, rows = ours.init(*networks()), estimated(rewards=jnp.ones((T, N)))
    after, _ = ours.update(before, rows, KEY, RATES)
    old, new = (
        x["actor"].params.policy().unroll(rows.experience.seen(), (), None) for x in (before, after)
    )
    kl = float(jnp.mean(old.kl(new)))
    betas = []
    for desired in (kl / 1.4, kl / 1.6, kl * 1.4, kl * 1.6):
        ours = updater(recompute_advantages=True, **options, desired_kl=desired)
        betas.append(float(ours.update(before, rows, KEY, RATES)[0]["actor"].kl_coef))
    assert betas == [3.0, 6.0, 3.0, 1.5]


@pytest.mark.extended
def test_a_kl_stop_holds_across_recomputed_epochs() -> None:
    ours = updater(
        recompute_advantages=True,
        num_epochs=8,
        num_minibatches=16,
        advantage_normalization="off",
        target_kl=0.02,
    )
    # one row of each epoch's sixteen is far from the old policy: nothing follows it
    experience = batch().experience
    spike = experience.old_log_probs.at[2, 1].add(-1.0)
    rows = batch()._replace(experience=experience._replace(old_log_probs=spike))
    rates = RATES | {"actor": 1e-6}
    after, (numbers,) = ours.update(ours.init(*networks()), rows, KEY, rates)
    steps = int(after["actor"].opt_state[1].count)
    assert 0 < steps < 16
    np.testing.assert_allclose(numbers["optim/step_fraction"], steps / 128, rtol=1e-6)
    assert bool(after["actor"].stopped)
    assert int(after["critic"].opt_state[1].count) == 128


def test_the_value_clip_stays_around_the_values_from_before_the_update() -> None:
    ours = updater(recompute_advantages=True, num_epochs=2, value_clip_epsilon=1e-6)
    # all rows look alike, with a target far above: the first step takes them out of their band
    rows = estimated(rewards=jnp.full((T, N), 1000.0), observations={"o": jnp.ones((T + 1, N, 2))})
    _, (numbers,) = ours.update(ours.init(*networks()), rows, KEY, RATES)

    def loss(critic: Any) -> jax.Array:
        values, _ = critic.unroll(rows.experience.seen(), (), None)
        return 0.5 * jnp.mean((values - rows.estimates.targets) ** 2)

    first = np.linalg.norm(flat(jax.grad(loss)(networks()[1])))
    assert first > 100
    # and the second epoch leaves them where they are: its gradient is 0
    np.testing.assert_allclose(numbers["optim/critic_grad_norm"], first / 2, rtol=1e-4)


def test_a_batch_catches_up_with_the_present_policy_where_an_older_one_may_have_collected_it() -> (
    None
):
    rows = batch(log_ratio=0.5).experience
    learners = updater().init(*networks())
    done, _ = updater(overlap="full").estimate_advantages(learners, (), rows)
    expected = networks()[0].unroll(rows.seen(), (), None).log_prob(rows.raw_actions)
    np.testing.assert_allclose(done.experience.proximal_log_probs, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(done.experience.old_log_probs, rows.old_log_probs)
    for options in ({}, {"overlap": "full", "max_lag": 0}):
        done, _ = updater(**options).estimate_advantages(learners, (), rows)
        assert done.experience.proximal_log_probs is None


class Noting(Serial):
    """Runs nothing: notes who was asked, and for how many parts."""

    def __init__(self, name: str, asked: list[tuple[str, int | None]]) -> None:
        self.name, self.asked = name, asked

    def submit(self, program: Any, *args: Any, parts: int | None = None) -> Any:
        self.asked.append((self.name, parts))
        return tuple(f"{self.name} {i}" for i in range(parts or 1))


@pytest.mark.parametrize(
    ("options", "estimates", "updates"),
    [
        ({}, [("critic", 2)], [("critic", 2), ("main", 2)]),
        ({"overlap": "full"}, [("main", None), ("critic", 2)], [("critic", 2), ("main", 2)]),
        ({"joint_loss": True}, [("main", 2)], [("main", 2)]),
        ({"recompute_advantages": True}, [("critic", 2)], [("main", 3)]),
        ({"recompute_advantages": True, "joint_loss": True}, [("main", 2)], [("main", 2)]),
    ],
    ids=str,
)
def test_who_owns_the_critic_estimates_and_who_has_a_thread_begins(
    options: dict, estimates: list, updates: list
) -> None:
    asked: list[tuple[str, int | None]] = []
    pair = Executors(Noting("main", asked), Noting("critic", asked))
    ours = Updater(CONFIG.replace(**options), pair, exact=True)
    learners = ours.init(*networks())
    ours.estimate_advantages(learners, (), batch().experience)
    assert asked == estimates
    after, _ = ours.update(learners, batch(), KEY, RATES)
    assert asked[len(estimates) :] == updates
    assert list(after) == list(learners)
    if len(after) == 2:
        assert after["critic"] == ("main 1" if options.get("recompute_advantages") else "critic 0")
    assert after[ours.main] == "main 0"
