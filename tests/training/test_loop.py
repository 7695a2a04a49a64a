"""The training loop: determinism, counting, schedules, hooks, and that every option matters."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefoot import functional as F
from surefoot.config import Config, option_names
from surefoot.envs import ActionSpec, SingleEnvironment, SingleStep, make_environment
from surefoot.training import METRICS, Hook, Trainer, make_streams, train
from surefoot.training.state import to_key

TINY = Config(
    total_steps=300,
    num_envs=4,
    num_steps=16,
    num_minibatches=4,
    num_epochs=2,
    actor_hidden=(8,),
    critic_hidden=(8,),
)
TASK = "probe:late-reward/continuous"


class Recorder(Hook):
    def __init__(self) -> None:
        self.events: list[str] = []
        self.metrics: list[dict[str, Any]] = []
        self.finished: bool | None = None

    def on_start(self, run) -> None:
        self.run = run
        self.events.append("start")

    def on_iteration(self, state, metrics) -> None:
        self.events.append("iteration")
        self.metrics.append(dict(metrics))

    def on_end(self, state, policy, *, finished) -> None:
        self.events.append("end")
        self.finished = finished


def trace(task: str = TASK, **options: Any) -> tuple[str, list[bytes]]:
    """Metrics without times, and the parameters, of a tiny run."""
    recorder = Recorder()
    state, _ = train(task, TINY.replace(**options), hooks=[recorder])
    kept = [
        {k: v for k, v in row.items() if not k.startswith(("time/", "wall"))}
        for row in recorder.metrics
    ]
    return json.dumps(kept), [np.asarray(x).tobytes() for x in jax.tree.leaves(state.learners)]


@pytest.mark.parametrize("task", [TASK, "Hopper-v5", "gymnasium:Pendulum-v1"])
def test_same_seed_same_bytes(task: str) -> None:
    assert trace(task) == trace(task)


def test_another_seed_is_another_run() -> None:
    assert trace()[1] != trace(seed=1)[1]


# a change of each option, and what must be set for it to matter
CHANGES: dict[str, dict[str, Any]] = {
    "total_steps": {"total_steps": 600},
    "seed": {"seed": 7},
    "num_envs": {"num_envs": 8},
    "num_steps": {"num_steps": 32},
    "actor_hidden": {"actor_hidden": (16,)},
    "critic_hidden": {"critic_hidden": (16,)},
    "activation": {"activation": "relu"},
    "shared_trunk": {"shared_trunk": True},
    "orthogonal_init": {"orthogonal_init": False},
    "policy_output_scale": {"policy_output_scale": 1.0},
    "distribution": {"distribution": "squashed_gaussian"},
    "state_dependent_std": {"state_dependent_std": True},
    "initial_std": {"initial_std": 0.5},
    "min_std": {"min_std": 0.2},
    "normalize_observations": {"normalize_observations": False},
    "observation_clip": {"observation_clip": 0.1},
    "scale_rewards": {"scale_rewards": False},
    "reward_clip": {"reward_clip": 0.1},
    "surrogate": {"surrogate": "ratio", "learning_rate": 0.01},
    "clip_epsilon": {"clip_epsilon": 1e-4},
    "kl_coef": {"surrogate": "kl_penalty", "kl_coef": 50.0},
    "advantage_estimator": {"advantage_estimator": "td"},
    "gamma": {"gamma": 0.5},
    "gae_lambda": {"gae_lambda": 0.5},
    "advantage_normalization": {"advantage_normalization": "batch"},
    "recompute_advantages": {"recompute_advantages": True},
    "value_clip_epsilon": {"value_clip_epsilon": 1e-3},
    "value_coef": {"joint_loss": True, "value_coef": 5.0},
    "entropy_coef": {"entropy_coef": 0.1},
    "num_epochs": {"num_epochs": 3},
    "num_minibatches": {"num_minibatches": 8},
    "shuffle_each_epoch": {"shuffle_each_epoch": False},
    "learning_rate": {"learning_rate": 1e-3},
    "critic_learning_rate": {"critic_learning_rate": 1e-3},
    "learning_rate_schedule": {"learning_rate_schedule": "constant"},
    "desired_kl": {"learning_rate_schedule": "kl_adaptive", "desired_kl": 1e-5},
    "target_kl": {"target_kl": 1e-7},
    "max_grad_norm": {"max_grad_norm": 1e-4},
    "adam_epsilon": {"adam_epsilon": 0.1},
    "min_advantage_std": {"min_advantage_std": 10.0},
    "joint_loss": {"joint_loss": True},
    "overlap": {"overlap": "full"},
    "max_lag": {"overlap": "full", "max_lag": 3},
    "lag_correction": {"overlap": "full", "lag_correction": "decoupled"},
    "algorithm": {"algorithm": "trpo"},
    "max_kl": {"algorithm": "trpo", "max_kl": 1e-4},
    "cg_steps": {"algorithm": "trpo", "cg_steps": 1},
    "cg_damping": {"algorithm": "trpo", "cg_damping": 10.0},
    "line_search_steps": {"algorithm": "trpo", "line_search_steps": 1, "max_kl": 2.0},
}
# what an option must be compared with if not with the tiny run itself
AGAINST: dict[str, dict[str, Any]] = {
    "kl_coef": {"surrogate": "kl_penalty"},
    "value_coef": {"joint_loss": True},
    "max_lag": {"overlap": "full"},
    "lag_correction": {"overlap": "full"},
    "desired_kl": {"learning_rate_schedule": "kl_adaptive"},
    "surrogate": {"learning_rate": 0.01, "clip_epsilon": 1e-4},
    "max_kl": {"algorithm": "trpo"},
    "cg_steps": {"algorithm": "trpo"},
    "cg_damping": {"algorithm": "trpo"},
    # a region so wide that its full step is refused
    "line_search_steps": {"algorithm": "trpo", "max_kl": 2.0},
}
# tested where they act: env_options in tests/envs, the groups in test_agent.py, what is measured below,
# checkpoints in tests/services
ELSEWHERE = {
    "env_options",
    "actor_groups",
    "critic_groups",
    "ignore_groups",
    "env_workers",
    "env_timeout",
    "on_env_failure",
}
ELSEWHERE |= {
    "max_refused_updates",
    "measure_held_out_kl",
    "checkpoint_every",
    "keep_checkpoints",
    "exact_resume",
}
_traces: dict[str, Any] = {}


def _trace_once(options: dict[str, Any]) -> Any:
    name = repr(options)
    if name not in _traces:
        _traces[name] = trace(**options)
    return _traces[name]


def test_the_list_of_changes_is_complete() -> None:
    assert set(CHANGES) | ELSEWHERE == set(option_names())


@pytest.mark.parametrize("option", CHANGES)
def test_every_option_changes_what_is_learned(option: str) -> None:
    assert trace(**CHANGES[option])[1] != _trace_once(AGAINST.get(option, {}))[1]


def test_the_least_advantage_spread_needs_scaled_rewards() -> None:
    raw = {"scale_rewards": False}
    assert trace(**raw, min_advantage_std=10.0) == trace(**raw)


def test_steps_count_experience_alone() -> None:
    recorder = Recorder()
    state, _ = train("probe:late-reward", TINY, hooks=[recorder])
    # five steps and a reset, again and again: 54 of the first 64 rows are steps
    assert recorder.metrics[0]["step"] == 4 * (16 - 2)
    assert state.step >= 300 > recorder.metrics[-2]["step"]
    assert state.iteration == len(recorder.metrics)


def test_metrics_of_an_iteration_are_the_documented_ones() -> None:
    recorder = Recorder()
    train(TASK, TINY, hooks=[recorder])
    row = recorder.metrics[-1]
    assert set(row) <= set(METRICS)
    assert {"step", "wall_time_s", "rollout/episode_return", "policy/std", "loss/value"} <= set(row)
    assert row["rollout/episode_length"] == 5.0
    assert row["rollout/episode_return"] == 100.0
    shares = row["time/share_collect"] + row["time/share_update"]
    assert 0.0 < shares <= 1.0 + 1e-9


def test_no_episode_is_reported_as_none_not_as_a_number() -> None:
    recorder = Recorder()
    train("Hopper-v5", TINY.replace(num_steps=4, num_envs=4, total_steps=16), hooks=[recorder])
    assert recorder.metrics[0]["rollout/episodes"] == 0
    assert recorder.metrics[0]["rollout/episode_return"] is None


def test_learning_rate_is_annealed_over_the_step_budget() -> None:
    env = make_environment(TASK, 4, seed=np.random.SeedSequence(0))
    config = TINY.replace(total_steps=1000, learning_rate=0.4)
    linear = Trainer(config, env)
    np.testing.assert_allclose(
        [linear.learning_rates(s)["actor"] for s in (0, 500, 1000)], [0.4, 0.2, 0.0], atol=1e-7
    )
    assert linear.learning_rates(500)["critic"] == linear.learning_rates(500)["actor"]
    own = Trainer(config.replace(critic_learning_rate=0.8), env)
    np.testing.assert_allclose(own.learning_rates(500)["critic"], 0.4, rtol=1e-6)
    constant = Trainer(config.replace(learning_rate_schedule="constant"), env)
    assert constant.learning_rates(999)["actor"] == 0.4
    cosine = Trainer(config.replace(learning_rate_schedule="cosine"), env)
    np.testing.assert_allclose(cosine.learning_rates(500)["actor"], 0.2, rtol=1e-5)
    adaptive = Trainer(config.replace(learning_rate_schedule="kl_adaptive"), env)
    assert adaptive.learning_rates(500)["actor"] is None


def test_learning_rates_know_budgets_beyond_32_bits() -> None:
    env = make_environment(TASK, 4, seed=np.random.SeedSequence(0))
    trainer = Trainer(TINY.replace(total_steps=2**40, learning_rate=0.4), env)
    np.testing.assert_allclose(trainer.learning_rates(2**39)["actor"], 0.2, rtol=1e-6)


def test_the_annealed_rate_reaches_the_optimiser() -> None:
    recorder = Recorder()
    train(TASK, TINY, hooks=[recorder])
    steps = [0, *(row["step"] for row in recorder.metrics[:-1])]
    expected = [3e-4 * (1 - s / 300) for s in steps]
    np.testing.assert_allclose(
        [row["optim/learning_rate"] for row in recorder.metrics], expected, rtol=1e-4
    )


def test_hooks_hear_start_iterations_end_in_order() -> None:
    recorder = Recorder()
    train(TASK, TINY, hooks=[recorder])
    inner = recorder.events[1:-1]
    assert recorder.events[0] == "start"
    assert recorder.events[-1] == "end"
    assert inner == ["iteration"] * len(recorder.metrics)
    assert recorder.finished is True


def test_a_stop_ends_after_the_iteration_and_is_not_called_finished() -> None:
    recorder = Recorder()
    stop = iter([False, True])
    state, _ = train(TASK, TINY, hooks=[recorder], should_stop=lambda: next(stop))
    assert state.iteration == 1
    assert recorder.finished is False


def test_an_error_in_the_loop_still_ends_the_hooks() -> None:
    class Breaks(Recorder):
        def on_iteration(self, state, metrics) -> None:
            raise RuntimeError("disk full")

    recorder = Breaks()
    with pytest.raises(RuntimeError, match="disk full"):
        train(TASK, TINY, hooks=[recorder])
    assert recorder.events == ["start", "end"]


def test_a_hook_that_fails_to_start_leaves_nothing_open() -> None:
    class Refuses(Hook):
        def on_start(self, run) -> None:
            raise OSError("no room")

    first = Recorder()
    with pytest.raises(OSError, match="no room"):
        train(TASK, TINY, hooks=[first, Refuses()])
    assert first.events == ["start", "end"]


def test_a_hook_that_fails_to_end_does_not_keep_others_from_it() -> None:
    class Breaks(Recorder):
        def on_end(self, state, policy, *, finished) -> None:
            raise OSError("disk full")

    first, last = Recorder(), Recorder()
    with pytest.raises(OSError, match="disk full"):
        train(TASK, TINY, hooks=[first, Breaks(), last])
    assert first.events[-1] == last.events[-1] == "end"


class Keeps(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def on_note(self, text: str) -> None:
        self.notes.append(text)

    def on_failure(self, state, error) -> None:
        self.error = error
        self.events.append("failure")

    def on_end(self, state, policy, *, finished) -> None:
        super().on_end(state, policy, finished=finished)
        self.state, self.policy = state, policy


@pytest.mark.parametrize("options", [{}, {"shared_trunk": True}, {"recompute_advantages": True}])
def test_updates_that_diverge_are_not_applied_and_the_run_ends_after_a_few(options) -> None:
    keeper = Keeps()
    wild = TINY.replace(learning_rate=1e30, max_grad_norm=float("inf"), total_steps=10_000)
    wild = wild.replace(max_refused_updates=2, learning_rate_schedule="constant", **options)
    with pytest.raises(
        ValueError, match=r"diverged: the \w+'s update in iteration 3 is not finite"
    ):
        train(TASK, wild, hooks=[keeper])
    learners = keeper.state.learners
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(learners))
    assert keeper.state.iteration == 2
    assert keeper.events[-2:] == ["failure", "end"]
    for name, learner in learners.items():
        assert int(learner.refused) == 2
        assert float(learner.learning_rate) == pytest.approx(1e30 / 4)
        # not a step was taken
        env = make_environment(TASK, wild.num_envs, seed=np.random.SeedSequence(0))
        fresh = Trainer(wild, env).start().learners[name].params
        for kept, first in zip(
            jax.tree.leaves(learner.params), jax.tree.leaves(fresh), strict=True
        ):
            np.testing.assert_array_equal(kept, first)
    assert [row["optim/refused_updates"] for row in keeper.metrics] == [
        len(learners),
        2 * len(learners),
    ]
    assert f"learning rate is halved (1 of {wild.max_refused_updates} times)" in keeper.notes[0]


def test_a_run_recovers_from_a_rate_that_was_too_large() -> None:
    # the first step overflows, half of it does not
    keeper = Keeps()
    largest = float(np.finfo(np.float32).max)
    wild = TINY.replace(learning_rate_schedule="constant", num_minibatches=1, num_epochs=1)
    wild = wild.replace(advantage_normalization="batch", learning_rate=largest, min_std=0.5)
    with pytest.raises(ValueError, match="diverged"):
        train(TASK, wild.replace(max_refused_updates=3), hooks=[keeper])
    state, _ = train(TASK, wild.replace(max_refused_updates=200), hooks=[keeper])
    assert 3 < int(state.learners["actor"].refused) <= 200
    rate = largest / 2.0 ** int(state.learners["actor"].refused)
    assert float(state.learners["actor"].learning_rate) == pytest.approx(rate, rel=1e-5)


def breaks(field: str, numbers: list[int]) -> SingleEnvironment:
    """An environment whose field is NaN in each fourth step that draws one of the numbers."""

    class Breaks(SingleEnvironment):
        name = "breaks"
        observations = {"place": 1}
        action = ActionSpec("discrete", (2,), dtype="int32")

        def reset(self, key):
            return jnp.int32(0), {"place": jnp.zeros(1)}

        def step(self, state, action, key):
            drawn = jnp.isin(jax.random.key_data(key)[0], jnp.asarray(numbers, jnp.uint32))
            drawn = drawn if numbers else True
            bad = jnp.where((state == 3) & drawn, jnp.nan, 0.0)
            place, reward = (bad, 0.0) if "place" in field else (0.0, bad)
            no = jnp.bool_(False)
            step = SingleStep({"place": jnp.full(1, place)}, jnp.float32(reward), no, no)
            return state + 1, step

    return Breaks()


@pytest.mark.parametrize("field", ["observation 'place'", "reward"])
def test_a_number_that_is_not_finite_is_left_out_and_named(field: str) -> None:
    # environment 2 alone draws this number, in its fourth step
    keys = jax.vmap(jax.random.split)(jax.random.split(make_streams(0).reset, 4))[:, 1]
    for _ in range(4):
        triples = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
        keys, steps = triples[:, 0], triples[:, 1]
    unlucky = int(jax.random.key_data(steps)[2, 0])
    keeper = Keeps()
    state, _ = train(breaks(field, [unlucky]), TINY, hooks=[keeper])
    first = keeper.metrics[0]
    assert first["rollout/masked_steps"] == 1
    # 64 rows, without that one and the row in which the environment begins anew
    assert first["step"] == 62
    assert [row["rollout/masked_steps"] for row in keeper.metrics[1:]] == [0] * (
        len(keeper.metrics) - 1
    )
    assert keeper.notes == [
        f"breaks, environment 2: {field} is not finite in 1 step(s) of iteration 1, which are left "
        "out (rollout/masked_steps counts them)"
    ]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.learners))
    assert first["loss/value"] == 0.0  # the others are worth nothing, and no NaN came near


def test_where_no_number_is_finite_the_run_ends() -> None:
    class Never(SingleEnvironment):
        name = "never"
        observations = {"place": 1}
        action = ActionSpec("discrete", (2,), dtype="int32")

        def reset(self, key):
            return jnp.int32(0), {"place": jnp.full(1, jnp.nan)}

        def step(self, state, action, key):
            no = jnp.bool_(False)
            return state, SingleStep({"place": jnp.full(1, jnp.nan)}, jnp.float32(0), no, no)

    keeper = Keeps()
    with pytest.raises(ValueError, match=r"'place' is not finite in all of 4 environments"):
        train(Never(), TINY, hooks=[keeper])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(keeper.policy.actor))
    assert isinstance(keeper.error, ValueError)


def test_streams_of_neighbouring_seeds_share_nothing() -> None:
    words = set()
    for seed in range(20):
        streams = make_streams(seed)
        for part in (streams.environments, streams.evaluation):
            words |= {tuple(child.generate_state(2)) for child in part.spawn(8)}
        for key in (streams.networks, streams.reset, streams.training):
            words.add(tuple(np.asarray(jax.random.key_data(key))))
    assert len(words) == 20 * (2 * 8 + 3)


def test_keys_carry_64_bits_of_their_sequence() -> None:
    sequence = np.random.SeedSequence(3)
    expected = sequence.generate_state(2, np.uint32)
    np.testing.assert_array_equal(jax.random.key_data(to_key(sequence)), expected)


def test_normaliser_counts_exactly_the_experience() -> None:
    state, _ = train("probe:late-reward", TINY)
    assert float(F.count_of(state.normalizer.moments["observation"])) == state.step


@pytest.mark.parametrize("at", [0, 2])
def test_success_is_what_the_last_step_of_an_episode_says(at: int) -> None:
    class Passing(SingleEnvironment):
        """Three steps, of which one alone is called a success."""

        name = "passing"
        observations = {"observation": 1}
        action = ActionSpec("discrete", (2,), dtype="int32")
        info = ("success",)

        def reset(self, key):
            return jnp.int32(0), jnp.zeros(1)

        def step(self, state, action, key):
            end, info = state == 2, {"success": state == at}
            return state + 1, SingleStep(jnp.zeros(1), jnp.float32(1), end, jnp.bool_(False), info)

    recorder = Recorder()
    train(Passing(), TINY, hooks=[recorder])
    assert {row["rollout/success_rate"] for row in recorder.metrics} == {float(at == 2)}


def test_a_simulator_that_loses_the_last_observation_is_counted() -> None:
    import dataclasses

    env = make_environment("probe:truncated", 4, seed=np.random.SeedSequence(0))
    env.spec = dataclasses.replace(env.spec, exact_truncation=False)
    recorder = Recorder()
    with pytest.warns(UserWarning, match="last observation"):
        train(env, TINY, hooks=[recorder])
    first = recorder.metrics[0]
    assert first["rollout/inexact_truncations"] == first["rollout/episodes"] > 0


@pytest.mark.parametrize("overlap", ["off", "exact", "full"])
@pytest.mark.parametrize("task", ["Hopper-v5", "probe:both", "gymnasium:CartPole-v1"])
def test_everything_is_compiled_in_the_first_iterations_and_never_again(
    task: str, overlap: str
) -> None:
    programs: list[int] = []  # how many were traced, by iteration
    traced = [0]

    def count(event: str, *_: Any, **__: Any) -> None:
        traced[0] += event == "/jax/core/compile/jaxpr_trace_duration"

    class Counting(Hook):
        def on_iteration(self, state: Any, metrics: Any) -> None:
            programs.append(traced[0])

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        train(task, TINY.replace(total_steps=8 * 64, overlap=overlap), hooks=[Counting()])
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert programs[0] > 0
    assert programs[3:] == [programs[3]] * len(programs[3:])


@pytest.mark.parametrize("options", [{}, {"overlap": "full"}, {"joint_loss": True}])
def test_the_held_out_kl_is_reported_and_changes_nothing(options: dict) -> None:
    measured, without = Recorder(), Recorder()
    config = TINY.replace(**options, learning_rate=0.01)
    state, _ = train(TASK, config.replace(measure_held_out_kl=True), hooks=[measured])
    plain, _ = train(TASK, config, hooks=[without])
    held_out = [row.pop("policy/held_out_kl") for row in measured.metrics]
    assert held_out[0] is None  # no update has been made before the first rollout
    assert all(kl > 0.0 for kl in held_out[1:])
    for here, there in zip(measured.metrics, without.metrics, strict=True):
        assert {k: v for k, v in here.items() if not k.startswith(("time/", "wall"))} == {
            k: v for k, v in there.items() if not k.startswith(("time/", "wall"))
        }
    assert plain.previous is None
    assert state.previous is not None


def test_the_held_out_kl_is_that_of_the_update_before_on_the_next_rollout() -> None:
    config = TINY.replace(measure_held_out_kl=True, overlap="off", learning_rate=0.01)
    env = make_environment(TASK, config.num_envs, seed=np.random.SeedSequence(0))
    trainer = Trainer(config, env)
    state = trainer.start()
    actors, told = [state.learners["actor"].params], []
    for _ in range(3):
        state, rollout = trainer.collect(state, trainer.policy(state))
        state, experience, _ = trainer.digest(state, rollout)
        if len(actors) > 1:
            old, new = (actor(experience.actor_features) for actor in actors[-2:])
            expected = np.average(old.kl(new), weights=experience.weights)
        state, metrics = trainer.optimise(state, experience)
        state = state.after(int(experience.num_steps()))
        if len(actors) > 1:
            told = [part["policy/held_out_kl"] for part in metrics if "policy/held_out_kl" in part]
            np.testing.assert_allclose(told, [expected], rtol=1e-4)
        actors.append(state.learners["actor"].params)
    assert told
