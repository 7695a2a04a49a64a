"""Evaluation counts whole episodes, as many from each environment, and changes nothing."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import extended
from tests.training.helpers import bytes_of, in_turn

from surefoot.agent import Policy
from surefoot.config import Config
from surefoot.envs import (
    ActionSpec,
    Environment,
    EnvSpec,
    JaxEnvironment,
    SingleEnvironment,
    SingleStep,
    Step,
    make_environment,
)
from surefoot.envs.contract import as_specs
from surefoot.errors import UserError
from surefoot.rollout import make_collector
from surefoot.training import Trainer, evaluate, play
from surefoot.training.evaluate import MOST_LOST


class Uneven(SingleEnvironment):
    """Episodes last 1 or 9 steps with equal chance; the return is the length."""

    name = "uneven"
    observations = {"observation": 1}
    action = ActionSpec("discrete", (2,), dtype="int32")
    info = ("reward_step", "success")

    def reset(self, key: Any) -> Any:
        left = jnp.where(jax.random.bernoulli(key), 1, 9)
        return left, jnp.ones(1)

    def step(self, state: Any, action: Any, key: Any) -> Any:
        left = state - 1
        info = {"reward_step": 1.0 * jnp.ones(()), "success": (left == 0) & (state < 2)}
        return left, SingleStep(jnp.ones(1), jnp.float32(1), left == 0, jnp.bool_(False), info)


class Silent(Uneven):
    """The same, its reward term never told."""

    def step(self, state: Any, action: Any, key: Any) -> Any:
        left, step = super().step(state, action, key)
        return left, step._replace(info=step.info | {"reward_step": step.reward * float("nan")})


def policy_for(env: Environment) -> Policy:
    config = Config(num_envs=env.spec.num_envs, num_steps=1, num_minibatches=1)
    trainer = Trainer(config, env, in_turn())
    return trainer.policy(trainer.init())


def test_terms_of_the_reward_and_success_are_told_of_a_batch() -> None:
    env = JaxEnvironment(Uneven(), 4)
    trainer = Trainer(Config(num_envs=4, num_steps=12, num_minibatches=1), env, in_turn())
    state = trainer.start()
    state, rollout = trainer.collect(state, trainer.acting_policy(state))
    told = trainer.make_experience(state, rollout)[1].metrics
    np.testing.assert_allclose(told["reward/step"], 1.0)
    assert told["rollout/success_rate"] == 1.0


def test_a_term_that_is_never_told_is_left_out() -> None:
    env = JaxEnvironment(Silent(), 4)
    assert "reward/step" not in evaluate(policy_for(env), env, 4, key=jax.random.key(0))


class Heard(Uneven):
    """The action is told."""

    action = ActionSpec("continuous", (1,), low=(-1.0,), high=(1.0,), shape=(1,))
    info = ("measure_action",)

    def step(self, state: Any, action: Any, key: Any) -> Any:
        left, step = super().step(state, action[0], key)
        return left, step._replace(info={"measure_action": action[0]})


def test_the_policys_mode_is_played_unless_a_sample_is_asked_for() -> None:
    env = JaxEnvironment(Heard(), 2)
    policy = policy_for(env)
    for options, spread in (({}, False), ({"deterministic": False}, True)):
        (chunk, *_) = play(policy, env, 4, key=jax.random.key(0), **options)
        actions = chunk.rollout.raw_actions[chunk.rollout.valid]
        assert (np.ptp(actions) > 1e-6) == spread


def test_short_episodes_are_not_favoured() -> None:
    env = JaxEnvironment(Uneven(), 400)
    result = evaluate(policy_for(env), env, 400, key=jax.random.key(0))
    assert result["episodes"] == 400
    # 5 on average; taking the first to end would come close to 1
    np.testing.assert_allclose(result["episode_return_mean"], 5.0, atol=0.5)
    np.testing.assert_allclose(result["episode_length_mean"], result["episode_return_mean"])
    np.testing.assert_allclose(result["episode_return_std"], 4.0, atol=0.1)
    np.testing.assert_allclose(result["reward/step"], 1.0)
    assert result["success_rate"] == 1.0


@pytest.mark.parametrize(("episodes", "num_envs"), [(1, 4), (4, 4), (7, 3)])
def test_episodes_counted_are_the_episodes_asked_for(episodes: int, num_envs: int) -> None:
    env = JaxEnvironment(Uneven(), num_envs)
    collect = make_collector(env, num_steps=8, deterministic=True)
    chunks = list(play(policy_for(env), env, episodes, key=jax.random.key(1), collect=collect))
    ends = sum((c.rollout.ended & c.counted).sum(axis=0) for c in chunks)
    assert ends.sum() == episodes
    assert ends.max() - ends.min() <= 1
    lengths = [c.rollout.episode_lengths[c.rollout.ended & c.counted] for c in chunks]
    assert sum(c.counted.sum() for c in chunks) == np.concatenate(lengths).sum()


def test_an_episode_without_end_is_refused_with_the_number() -> None:
    class Endless(Uneven):
        def step(self, state: Any, action: Any, key: Any) -> Any:
            state, step = super().step(state, action, key)
            return state, step._replace(terminated=jnp.bool_(False))

    env = JaxEnvironment(Endless(), 2)
    chunks = play(policy_for(env), env, 2, key=jax.random.key(0), max_episode_steps=300)
    with pytest.raises(ValueError, match=r"gone on for 500 steps .limit 300"):
        list(chunks)


def test_evaluation_is_deterministic_by_key_and_leaves_the_policy_alone() -> None:
    env = make_environment("probe:both", 4, seed=np.random.SeedSequence(0))
    policy = policy_for(env)
    before = bytes_of(policy)
    one = evaluate(policy, env, 8, key=jax.random.key(0), deterministic=False)
    two = evaluate(policy, env, 8, key=jax.random.key(0), deterministic=False)
    assert one == two
    assert bytes_of(policy) == before


class Spoilt(Uneven):
    """Episodes of four steps; in environments that start with 9, a number is not finite, as `spoil` says."""

    spoil = "end"

    def reset(self, key: Any) -> Any:
        bad = jnp.where(jax.random.bernoulli(key), 1, 0)
        return jnp.stack([jnp.int32(4), bad]), jnp.ones(1)

    def step(self, state: Any, action: Any, key: Any) -> Any:
        left, bad = state[0] - 1, jnp.int32(1)
        at = {"end": left == 0, "always": jnp.bool_(True), "reward": left == 2}[self.spoil]
        nan = jnp.where(at & (bad > 0), jnp.nan, 1.0)
        seen = jnp.ones(1) * (1.0 if self.spoil == "reward" else nan)
        reward = jnp.float32(1) * (nan if self.spoil == "reward" else 1.0)
        step = SingleStep(
            seen, reward, left == 0, jnp.bool_(False), {"reward_step": 1.0, "success": True}
        )
        return jnp.stack([left, bad]), step


@pytest.mark.parametrize("spoil", ["end", extended("always"), extended("reward")])
def test_episodes_that_all_end_in_nan_end_the_evaluation(spoil: str) -> None:
    env = JaxEnvironment(type("Ours", (Spoilt,), {"spoil": spoil})(), 2)
    with pytest.raises(
        ValueError, match=r"environment 0: \d+ episodes were lost and none came to its"
    ):
        evaluate(policy_for(env), env, 2, key=jax.random.key(0))


class HalfLost(Environment):
    """On the host: one ends soundly every five steps, the other is never valid."""

    def __init__(self, ends: bool) -> None:
        self.ends = ends
        self.spec = EnvSpec(
            "half", 2, as_specs({"observation": 1}), Uneven.action, in_graph=False, saves_state=True
        )

    def reset(self, key: Any) -> Any:
        no = np.zeros(2, bool)
        return 0, Step(np.ones((2, 1), np.float32), np.zeros(2, np.float32), no, no, no, {})

    def step(self, env_state: Any, action: Any) -> Any:
        phase = env_state % 6
        end, valid = np.array([phase == 4, self.ends]), np.array([phase != 5, False])
        no = np.zeros(2, bool)
        step = Step(np.ones((2, 1), np.float32), np.ones(2, np.float32), no, end, valid, {})
        return env_state + 1, step


@pytest.mark.parametrize(
    ("ends", "says"),
    [(True, "environment 1: .* episodes were lost"), (False, r"gone on for 500 steps .limit 300")],
)
def test_one_environment_that_never_ends_ends_the_evaluation(ends: bool, says: str) -> None:
    env = HalfLost(ends)
    chunks = play(policy_for(env), env, 4, key=jax.random.key(0), max_episode_steps=300)
    with pytest.raises(ValueError, match=says):
        list(chunks)


def test_progress_and_what_is_found_are_said_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["surefoot.training.evaluate"], "SAY_EVERY_S", 0.0)
    said: list[str] = []
    env = HalfLost(ends=False)
    chunks = play(
        policy_for(env), env, 40, key=jax.random.key(0), max_episode_steps=600, log=said.append
    )
    with pytest.raises(ValueError, match="gone on for 750"):
        list(chunks)
    assert said == ["half: 20 of 40 episodes have ended"]
    said.clear()

    class Endless(HalfLost):
        def step(self, env_state: Any, action: Any) -> Any:
            env_state, step = super().step(env_state, action)
            no = np.zeros(2, bool)
            return env_state, step._replace(truncated=no, valid=~no)

    env = Endless(ends=False)
    chunks = play(
        policy_for(env), env, 2, key=jax.random.key(0), max_episode_steps=300, log=said.append
    )
    with pytest.raises(
        ValueError, match=r"gone on for 500 steps .limit 300.; to evaluate it, the task"
    ):
        list(chunks)
    assert len(said) == 1
    assert (
        "0 of 2 episodes have ended after 250 steps; to evaluate it, the task needs a time limit"
        in said[0]
    )


class Played(Environment):
    """On the host, by a script: each environment's episodes by their steps, lost where the number is below 0.

    Behind the script an episode goes on without end. The step behind an end resets.
    """

    def __init__(self, *scripts: list[int]) -> None:
        count = len(scripts)
        self.rows = [self._rows(script) for script in scripts]
        groups = as_specs({"observation": 1})
        self.spec = EnvSpec(
            "played", count, groups, Uneven.action, in_graph=False, saves_state=True
        )

    @staticmethod
    def _rows(script: list[int]) -> list[tuple[bool, bool]]:
        """Whether each step ends an episode, and whether it is sound."""
        rows = []
        for steps in script:
            rows += [(False, True)] * (abs(steps) - 1) + [(True, steps > 0), (False, False)]
        return rows

    def reset(self, key: Any) -> Any:
        count = self.spec.num_envs
        no, ones = np.zeros(count, bool), np.ones((count, 1), np.float32)
        return 0, Step(ones, np.zeros(count, np.float32), no, no, no, {})

    def step(self, env_state: Any, action: Any) -> Any:
        now = [rows[env_state] if env_state < len(rows) else (False, True) for rows in self.rows]
        ends, valid = map(np.array, zip(*now, strict=True))
        ones = np.ones(len(now), np.float32)
        return env_state + 1, Step(ones[:, None], ones, ends, np.zeros_like(ends), valid, {})


def chunks_of(*scripts: list[int], episodes: int, **options: Any) -> list[Any]:
    env = Played(*scripts)
    collect = make_collector(env, num_steps=5, deterministic=True)
    return list(
        play(policy_for(env), env, episodes, key=jax.random.key(0), collect=collect, **options)
    )


def test_an_environment_may_lose_some_episodes_before_a_sound_one() -> None:
    lost = [-4] * MOST_LOST  # with the reset a chunk each
    assert len(chunks_of([*lost, 4], episodes=1)) == MOST_LOST + 1
    chunks_of([4, *lost, 4], episodes=2)  # a sound one ends the count
    for before in ([], [4]):
        with pytest.raises(UserError, match=f"environment 0: {MOST_LOST + 1} episodes were lost"):
            chunks_of([*before, *lost, -4, 4], episodes=1 + len(before))


def test_what_an_environment_does_behind_its_own_episodes_is_its_own_affair() -> None:
    said: list[str] = []
    options = {"episodes": 2, "max_episode_steps": 60, "log": said.append}
    # one goes on for ever, or loses all that follows, while the other one's turn is not over
    for behind in ([], [-1] * 100):
        chunks = chunks_of([4, *behind], [-50, -50, 50], **options)
        assert sum(int((c.rollout.ended & c.counted).sum()) for c in chunks) == 2
    assert not said  # within ten seconds nothing needs to be


def test_playing_ends_with_the_last_episode_that_counts() -> None:
    assert len(chunks_of([4, 4, 4], [3, 4, 4], episodes=2)) == 1


@pytest.mark.parametrize("steps", [3, 5, 8])
def test_an_episode_may_be_as_long_as_the_limit(steps: int) -> None:
    options = {"episodes": 2, "max_episode_steps": 5}
    if steps <= 5:
        chunks_of([steps], [2], **options)
        return
    with pytest.raises(UserError, match=r"gone on for \d steps .limit 5"):
        chunks_of([steps], [2], **options)


def test_an_episode_that_was_longer_than_the_limit_within_a_chunk_is_refused() -> None:
    env = Played([8, 2], [2, 2])
    chunks = play(policy_for(env), env, 2, key=jax.random.key(0), max_episode_steps=5)
    with pytest.raises(UserError, match="gone on for 8 steps"):
        list(chunks)


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_episodes_that_were_lost_are_told_if_there_were_any(lost: int) -> None:
    env = Played([-2] * lost + [4])
    result = evaluate(policy_for(env), env, 1, key=jax.random.key(0))
    assert result.get("lost_episodes", 0) == lost
    assert ("lost_episodes" in result) == (lost > 0)
    assert result["episode_length_mean"] == 4.0
    assert result["truncated_share"] == 0.0


class Chance(Uneven):
    """Episodes of four steps, each a success or none."""

    info = ("success", "measure_chance")

    def reset(self, key: Any) -> Any:
        return jnp.stack([4, jax.random.bernoulli(key, 0.3).astype(int)]), jnp.ones(1)

    def step(self, state: Any, action: Any, key: Any) -> Any:
        left, chance = state[0] - 1, 1.0 * state[1]
        told = {"success": jnp.where(left == 0, chance, jnp.nan), "measure_chance": chance - 1.0}
        one, no = jnp.float32(1), jnp.bool_(False)
        return jnp.stack([left, state[1]]), SingleStep(jnp.ones(1), one, no, left == 0, told)


def test_the_rate_of_success_is_that_of_the_episodes_that_say_more_than_0() -> None:
    env = JaxEnvironment(Chance(), 8)
    result = evaluate(policy_for(env), env, 40, key=jax.random.key(0))
    assert 0.0 < result["success_rate"] < 1.0
    assert result["success_rate"] == pytest.approx(result["measure/chance"] + 1.0)
    assert result["truncated_share"] == 1.0


def test_a_policy_is_worth_what_its_mode_is() -> None:
    env = JaxEnvironment(Heard(), 2)
    policy = policy_for(env)
    told = [evaluate(policy, env, 4, key=jax.random.key(i))["measure/action"] for i in (0, 1)]
    assert told[0] == pytest.approx(told[1], abs=1e-6)
