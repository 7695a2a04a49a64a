"""The training loop: determinism, counting, schedules, hooks, and what it does with numbers that are not."""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import PROBE, TINY, Recorder, extended, without_times
from tests.training.helpers import After, bytes_of, recorded, trace, trainer_for

from surefoot import functional as F
from surefoot.envs import (
    ActionSpec,
    Environment,
    EnvSpec,
    ObservationSpec,
    SingleEnvironment,
    SingleStep,
    Step,
)
from surefoot.training import METRICS, Hook, Trainer, make_streams, train
from surefoot.training.reports import Numbers
from surefoot.training.state import to_key

ACTION = ActionSpec("continuous", (1,), low=(-1.0,), high=(1.0,), shape=(1,))


@pytest.fixture(scope="module")
def run() -> Recorder:
    return recorded()


@pytest.mark.parametrize(
    "task",
    [
        PROBE,
        extended("gymnasium:CartPole-v1"),
        extended("CartPole-v1"),
        extended("Hopper-v5"),
        extended("gymnasium:Pendulum-v1"),
    ],
)
def test_same_seed_same_bytes(task: str) -> None:
    assert trace(task) == trace(task)


def test_another_seed_is_another_run(run: Recorder) -> None:
    assert trace(seed=1)[1] != bytes_of(run.state.learners)


def test_steps_count_experience_alone(run: Recorder) -> None:
    # five steps and a reset, again and again: 56 of the first 64 rows are steps
    assert run.rows[0]["step"] == 4 * (16 - 2)
    assert run.state.step >= 300 > run.rows[-2]["step"]
    assert run.state.iteration == len(run.rows)


def test_metrics_of_an_iteration_are_the_documented_ones(run: Recorder) -> None:
    row = run.rows[-1]
    assert set(row) <= set(METRICS)
    assert {"step", "wall_time_s", "rollout/episode_return", "policy/std", "loss/value"} <= set(row)
    assert row["rollout/episode_length"] == 5.0
    assert row["rollout/episode_return"] == 100.0
    shares = row["time/share_collect"] + row["time/share_update"]
    assert 0.0 < shares <= 1.0 + 1e-9


def test_no_episode_is_reported_as_none_not_as_a_number() -> None:
    trainer = trainer_for()
    before = trainer.start()
    state, rollout = trainer.collect(before, trainer.policy(before))
    none = jnp.zeros_like(rollout.terminated)
    endless = rollout._replace(terminated=none, truncated=none)
    state, gathered = trainer.make_experience(state, endless)
    numbers = Numbers("endless", TINY, pytest.fail)
    row = numbers([gathered.metrics], gathered.faults, before, state.advance(56))
    assert row["rollout/episodes"] == 0
    assert row["rollout/episode_return"] is None


class Seen(Exception):
    """The step sizes that an update was to have."""


def rates_at(trainer: Trainer, step: int) -> dict[str, Any]:
    def look(learners: Any, estimated: Any, key: Any, rates: dict[str, Any]) -> Any:
        raise Seen(rates)

    trainer.updater.update = look  # type: ignore[method-assign]
    nothing: Any = None
    with pytest.raises(Seen) as seen:
        trainer.update(trainer.init()._replace(step=step), nothing, nothing)
    return seen.value.args[0]


def test_learning_rate_is_annealed_over_the_step_budget() -> None:
    config = TINY.replace(total_steps=1000, learning_rate=0.4)
    linear = trainer_for(config=config)
    np.testing.assert_allclose(
        [rates_at(linear, s)["actor"] for s in (0, 500, 1000)], [0.4, 0.2, 0.0], atol=1e-7
    )
    assert rates_at(linear, 500)["critic"] == rates_at(linear, 500)["actor"]
    own = trainer_for(config=config.replace(critic_learning_rate=0.8))
    np.testing.assert_allclose(rates_at(own, 500)["critic"], 0.4, rtol=1e-6)
    constant = trainer_for(config=config.replace(learning_rate_schedule="constant"))
    assert rates_at(constant, 999)["actor"] == 0.4
    cosine = trainer_for(config=config.replace(learning_rate_schedule="cosine"))
    np.testing.assert_allclose(rates_at(cosine, 500)["actor"], 0.2, rtol=1e-5)
    adaptive = trainer_for(config=config.replace(learning_rate_schedule="kl_adaptive"))
    assert rates_at(adaptive, 500)["actor"] is None
    assert rates_at(adaptive, 500)["critic"] == 0.4
    joint = trainer_for(config=config.replace(joint_loss=True))
    np.testing.assert_allclose(rates_at(joint, 500)["joint"], 0.2, rtol=1e-6)


def test_learning_rates_know_budgets_beyond_32_bits() -> None:
    trainer = trainer_for(config=TINY.replace(total_steps=2**40, learning_rate=0.4))
    np.testing.assert_allclose(rates_at(trainer, 2**39)["actor"], 0.2, rtol=1e-6)


def test_the_annealed_rate_reaches_the_optimizer(run: Recorder) -> None:
    steps = [0, *(row["step"] for row in run.rows[:-1])]
    expected = [3e-4 * (1 - s / 300) for s in steps]
    np.testing.assert_allclose(
        [row["optim/learning_rate"] for row in run.rows], expected, rtol=1e-4
    )


def test_hooks_hear_start_iterations_end_in_order(run: Recorder) -> None:
    assert run.events == ["start", *["iteration"] * len(run.rows), "end"]
    assert run.finished is True


def test_a_stop_ends_after_the_iteration_and_is_not_called_finished() -> None:
    recorder = Recorder()
    state, _ = train(PROBE, TINY, hooks=[recorder], should_stop=After(1))
    assert state.iteration == 1
    assert recorder.finished is False


def test_an_error_in_the_loop_still_ends_the_hooks() -> None:
    class Breaks(Recorder):
        def on_iteration(self, state: Any, metrics: Any) -> None:
            raise RuntimeError("disk full")

    recorder = Breaks()
    with pytest.raises(RuntimeError, match="disk full"):
        train(PROBE, TINY, hooks=[recorder])
    assert recorder.events == ["start", "failure", "end"]


def test_a_hook_that_fails_to_start_leaves_nothing_open() -> None:
    class Refuses(Hook):
        def on_start(self, run: Any) -> None:
            raise OSError("no room")

    first = Recorder()
    with pytest.raises(OSError, match="no room"):
        train(PROBE, TINY, hooks=[first, Refuses()])
    assert first.events == ["start", "end"]


def test_a_hook_that_fails_to_end_does_not_keep_others_from_it() -> None:
    class Breaks(Recorder):
        def on_end(self, state: Any, policy: Any, *, finished: bool) -> None:
            raise OSError("disk full")

    first, last = Recorder(), Recorder()
    with pytest.raises(OSError, match="disk full"):
        train(PROBE, TINY, hooks=[first, Breaks(), last], should_stop=After(1))
    assert first.events[-1] == last.events[-1] == "end"


WILD = TINY.replace(learning_rate_schedule="constant", total_steps=10_000)


@pytest.mark.parametrize(
    "options",
    [
        {},
        extended({"joint_loss": True}),
        extended({"recompute_advantages": True}),
        extended({"shared_trunk": True}),
    ],
)
def test_updates_that_diverge_are_not_applied_and_the_run_ends_after_a_few(options: dict) -> None:
    keeper = Recorder()
    wild = WILD.replace(learning_rate=1e30, max_refused_updates=2, **options)
    with pytest.raises(
        ValueError, match=r"diverged: the \w+'s update in iteration 3 is not finite"
    ):
        train(PROBE, wild, hooks=[keeper])
    learners = keeper.state.learners
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(learners))
    assert keeper.state.iteration == 2
    assert keeper.events[-2:] == ["failure", "end"]
    fresh = trainer_for(config=wild).init().learners
    for name, learner in learners.items():
        assert int(learner.skipped) == 2
        assert float(learner.learning_rate) == pytest.approx(1e30 / 4)
        # not a step was taken
        assert bytes_of(learner.params) == bytes_of(fresh[name].params)
    assert [row["optim/refused_updates"] for row in keeper.rows] == [
        len(learners),
        2 * len(learners),
    ]
    assert f"learning rate is halved (1 of {wild.max_refused_updates} times)" in keeper.notes[0]


@pytest.mark.extended
def test_a_run_recovers_from_a_rate_that_was_too_large() -> None:
    # the first step overflows, half of it does not
    largest = float(np.finfo(np.float32).max)
    wild = WILD.replace(learning_rate=largest)
    with pytest.raises(ValueError, match="diverged"):
        train(PROBE, wild.replace(max_refused_updates=3))
    state, _ = train(PROBE, wild.replace(max_refused_updates=200))
    assert state.step >= wild.total_steps
    assert 3 < int(state.learners["actor"].skipped) <= 200
    rate = largest / 2.0 ** int(state.learners["actor"].skipped)
    assert float(state.learners["actor"].learning_rate) == pytest.approx(rate, rel=1e-5)


class Breaks(SingleEnvironment):
    """A field is NaN in each fourth step that draws a number (in each, if it is none)."""

    name = "breaks"
    observations = {"observation": 1}
    action = ACTION

    def __init__(self, field: str, number: int | None) -> None:
        self.field, self.number = field, number

    def reset(self, key: Any) -> Any:
        return jnp.int32(0), jnp.zeros(1)

    def step(self, state: Any, action: Any, key: Any) -> Any:
        drawn = True if self.number is None else jax.random.key_data(key)[0] == self.number
        bad = jnp.where((state == 3) & drawn, jnp.nan, 0.0)
        place, reward = (bad, 0.0) if "observation" in self.field else (0.0, bad)
        no = jnp.bool_(False)
        return state + 1, SingleStep(jnp.full(1, place), jnp.float32(reward), no, no)


@pytest.mark.parametrize("field", ["observation 'observation'", extended("reward")])
def test_a_number_that_is_not_finite_is_left_out_and_named(field: str) -> None:
    # environment 2 alone draws this number, in its fourth step
    keys = jax.vmap(jax.random.split)(jax.random.split(make_streams(0).reset, 4))[:, 1]
    for _ in range(4):
        triples = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
        keys, steps = triples[:, 0], triples[:, 1]
    unlucky = jax.random.key_data(steps)[2, 0]
    keeper = recorded(Breaks(field, unlucky))
    first = keeper.rows[0]
    assert first["rollout/masked_steps"] == 1
    # 64 rows, without that one and the row in which the environment begins anew
    assert first["step"] == 62
    assert {row["rollout/masked_steps"] for row in keeper.rows[1:]} == {0}
    assert keeper.notes == [
        f"breaks, environment 2: {field} is not finite in 1 step(s) of iteration 1, which are left "
        "out (rollout/masked_steps counts them)"
    ]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(keeper.state.learners))
    assert first["loss/value"] == 0.0  # the others are worth nothing, and no NaN came near


def test_where_no_number_is_finite_the_run_ends() -> None:
    class Never(Breaks):
        name = "never"

        def reset(self, key: Any) -> Any:
            return jnp.int32(3), jnp.full(1, jnp.nan)

    keeper = Recorder()
    with pytest.raises(
        ValueError, match=r"observation 'observation' is not finite in all of 4 environments"
    ):
        train(Never("observation", None), TINY, hooks=[keeper])
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


def test_the_normalizer_counts_exactly_the_experience(run: Recorder) -> None:
    assert float(F.count_of(run.state.normalizer.moments["observation"])) == run.state.step


def test_noise_has_the_color_of_the_options_and_goes_on_where_it_was() -> None:
    trainer = trainer_for(config=TINY.replace(noise_color=1.0))
    state = trainer.start()
    assert state.collector is not None
    noise = state.collector.noise
    state, _ = trainer.collect(state, trainer.policy(state))
    assert state.collector is not None
    for key in jax.random.split(jax.random.fold_in(state.key, 0), TINY.num_steps):
        noise, _ = F.colored_noise(noise, key, color=1.0)
    np.testing.assert_allclose(state.collector.noise, noise, rtol=1e-5, atol=1e-6)
    assert trainer_for().start().collector.noise == ()


def test_noise_of_features_is_held_for_as_long_as_the_options_say() -> None:
    trainer = trainer_for("probe:late-reward/continuous", TINY.replace(gsde=True, gsde_steps=1000))
    state = trainer.start()
    assert state.collector is not None
    assert state.collector.noise.noise.shape[1:] == (TINY.actor_hidden[-1] + 1, 1)
    after, _ = trainer.collect(state, trainer.policy(state))
    assert after.collector is not None
    began = np.asarray(after.collector.noise.age) <= TINY.num_steps
    np.testing.assert_array_equal(began, True)
    noise = trainer.agent.noise(trainer.config)
    assert noise == F.HeldNoise(1000, (TINY.actor_hidden[-1] + 1, 1))
    assert trainer_for(config=TINY.replace(gsde_steps=7)).start().collector.noise == ()


def test_the_normalizer_sees_what_was_acted_on_and_not_what_came_of_it() -> None:
    trainer = trainer_for()
    state = trainer.start()
    state, rollout = trainer.collect(state, trainer.policy(state))
    state, _ = trainer.make_experience(state, rollout)
    acted_on = np.asarray(rollout.observations["observation"])[:-1][np.asarray(rollout.valid)]
    moments = state.normalizer.moments["observation"]
    np.testing.assert_allclose(moments.mean, acted_on.mean(axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("at", [0, 2])
def test_success_is_what_the_last_step_of_an_episode_says(at: int) -> None:
    class Passing(SingleEnvironment):
        """Three steps, of which one alone is called a success."""

        name = "passing"
        observations = {"observation": 1}
        action = ACTION
        info = ("success",)

        def reset(self, key: Any) -> Any:
            return jnp.int32(0), jnp.zeros(1)

        def step(self, state: Any, action: Any, key: Any) -> Any:
            end, info = state == 2, {"success": state == at}
            return state + 1, SingleStep(jnp.zeros(1), jnp.float32(1), end, jnp.bool_(False), info)

    trainer = trainer_for(Passing())
    state = trainer.start()
    for _ in range(2):
        state, rollout = trainer.collect(state, trainer.policy(state))
        state, gathered = trainer.make_experience(state, rollout)
        assert gathered.metrics["rollout/success_rate"] == float(at == 2)


class Restless(Environment):
    """Episodes of five steps that a time limit ends; the next one begins within the last step."""

    def __init__(self, *, final: bool) -> None:
        self.spec = EnvSpec(
            "restless",
            TINY.num_envs,
            {"observation": ObservationSpec((1,))},
            ACTION,
            in_graph=True,
            autoreset="same_step",
            final_observation=final,
        )

    def reset(self, key: Any) -> Any:
        time = jnp.arange(TINY.num_envs)
        no = jnp.zeros(TINY.num_envs, bool)
        return time, Step({"observation": time[:, None] / 5.0}, 0.0 * time, no, no, no, {})

    def step(self, time: Any, action: Any) -> Any:
        ended = time == 4
        last, time = time + 1, jnp.where(ended, 0, time + 1)
        seen, final = ({"observation": x[:, None] / 5.0} for x in (time, last))
        every = jnp.ones(TINY.num_envs, bool)
        step = Step(seen, jnp.ones(TINY.num_envs), ~every, ended, every, {})
        return time, step._replace(final_observation=final if self.spec.final_observation else None)


@pytest.mark.parametrize("final", [False, extended(True)], ids=["lost", "known"])
def test_a_simulator_that_loses_the_last_observation_is_warned_of_and_counted(final: bool) -> None:
    lost = pytest.warns(UserWarning, match="restless loses the last observation at a time limit")
    with contextlib.nullcontext() if final else lost:
        trainer = trainer_for(Restless(final=final))
    state = trainer.start()
    state, rollout = trainer.collect(state, trainer.policy(state))
    metrics = trainer.make_experience(state, rollout)[1].metrics
    assert metrics["rollout/episodes"] > 10
    counted = metrics.get("rollout/inexact_truncations", 0)
    assert counted == (0 if final else metrics["rollout/episodes"])


@pytest.mark.parametrize(
    ("task", "overlap"),
    [
        (PROBE, "off"),
        ("gymnasium:CartPole-v1", "exact"),
        extended(PROBE, "exact"),
        extended(PROBE, "full"),
        extended("CartPole-v1", "exact"),
        *[
            extended(task, overlap)
            for task in ("CartPole-v1", "gymnasium:CartPole-v1")
            for overlap in ("off", "full")
        ],
        extended("Hopper-v5", "exact"),
    ],
)
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


@pytest.mark.extended
@pytest.mark.parametrize("options", [{}, {"overlap": "full"}, {"joint_loss": True}])
def test_the_held_out_kl_is_reported_and_changes_nothing(options: dict) -> None:
    config = TINY.replace(**options, learning_rate=0.01)
    measured, without = recorded(config=config, measure_held_out_kl=True), recorded(config=config)
    held_out = [row.pop("policy/held_out_kl") for row in measured.rows]
    assert held_out[0] is None  # no update has been made before the first rollout
    assert all(kl > 0.0 for kl in held_out[1:])
    assert [*map(without_times, measured.rows)] == [*map(without_times, without.rows)]
    assert without.state.last_learner is None
    assert measured.state.last_learner is not None


@pytest.mark.extended
def test_the_held_out_kl_is_that_of_the_update_before_on_the_next_rollout() -> None:
    config = TINY.replace(measure_held_out_kl=True, overlap="off", learning_rate=0.01)
    trainer = trainer_for(config=config)
    state = trainer.start()
    actors, told = [trainer.policy(state).actor], []
    for _ in range(3):
        state, rollout = trainer.collect(state, trainer.policy(state))
        state, gathered = trainer.make_experience(state, rollout)
        experience = gathered.experience
        if len(actors) > 1:
            old, new = (
                actor.unroll(experience.seen(), (), experience.first[:-1]) for actor in actors[-2:]
            )
            expected = np.average(old.kl(new), weights=experience.weights)
        state, estimated = trainer.estimate_advantages(state, experience)
        state, metrics = trainer.update(state, experience, estimated)
        state = state.advance(int(experience.num_steps()))
        if len(actors) > 1:
            told = [part["policy/held_out_kl"] for part in metrics if "policy/held_out_kl" in part]
            np.testing.assert_allclose(told, [expected], rtol=1e-4)
        actors.append(trainer.policy(state).actor)
    assert told
