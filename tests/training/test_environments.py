"""The environments of a run: when they begin anew, from which seeds, and that what was made is closed."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from tests.helpers import PROBE, TINY, Recorder
from tests.training.helpers import recorded, trainer_for

import surefoot
from surefoot.config import Config
from surefoot.envs import (
    ActionSpec,
    Environment,
    EnvSpec,
    ObservationSpec,
    Step,
    make_environment,
)
from surefoot.errors import UserError
from surefoot.training import environments, is_checkpoint, make_streams
from surefoot.training.environments import EnvLifecycle, begins_anew, hosting_of

ACTION = ActionSpec("discrete", (2,), dtype="int32")
EVERY = 100


class Made(Environment):
    """An environment that nobody steps; says when it is closed and what it is told."""

    def __init__(self, **properties: Any) -> None:
        observations = {"observation": ObservationSpec((1,))}
        spec = EnvSpec("made", TINY.num_envs, observations, ACTION, in_graph=False)
        self.spec = dataclasses.replace(spec, **properties)
        self.log: Any = None
        self.closed = 0

    def reset(self, key: Any) -> tuple[Any, Step]:
        raise NotImplementedError

    def step(self, env_state: Any, action: Any) -> tuple[Any, Step]:
        raise NotImplementedError

    def close(self) -> None:
        self.closed += 1

    def log_to(self, log: Any) -> None:
        self.log = log


class Maker:
    """Makes environments, and keeps them."""

    def __init__(self, **properties: Any) -> None:
        self.properties, self.made = properties, []

    def __call__(self) -> Made:
        self.made.append(Made(**self.properties))
        return self.made[-1]


# (exact_resume, saves_state, cheap_to_make): whether environments that the run makes begin anew
DECISIONS = {
    ("auto", False, False): False,
    ("auto", False, True): True,
    ("auto", True, False): False,
    ("auto", True, True): False,
    ("on", False, False): True,
    ("on", False, True): True,
    ("on", True, False): False,
    ("on", True, True): False,
    ("off", False, False): False,
    ("off", False, True): False,
    ("off", True, False): False,
    ("off", True, True): False,
}
REFUSED = [("on", False, False), ("on", False, True)]  # of environments that were made already


def test_the_table_is_complete() -> None:
    assert set(DECISIONS) == set(itertools.product(("auto", "on", "off"), *[(False, True)] * 2))


@pytest.mark.parametrize("case", DECISIONS, ids=str)
@pytest.mark.parametrize("checkpoint_every", [EVERY, None])
@pytest.mark.parametrize("made_already", [False, True])
def test_whether_environments_begin_anew_follows_from_options_and_task_alone(
    case: tuple[str, bool, bool], checkpoint_every: int | None, made_already: bool
) -> None:
    exact_resume, saves_state, cheap_to_make = case
    config = TINY.replace(exact_resume=exact_resume, checkpoint_every=checkpoint_every)
    properties = {"saves_state": saves_state, "cheap_to_make": cheap_to_make}
    task = Made(**properties) if made_already else Maker(**properties)
    if made_already and case in REFUSED:
        with pytest.raises(ValueError, match="exact_resume = 'on': made was made already"):
            EnvLifecycle(task, config)
        return
    with EnvLifecycle(task, config) as envs:
        has_checkpoints = checkpoint_every is not None
        assert envs.begins_anew == (DECISIONS[case] and has_checkpoints and not made_already)
        assert envs.is_renewed(EVERY - 1, EVERY) == envs.begins_anew
        assert not envs.is_renewed(EVERY, EVERY + 1)
        if not made_already:
            assert begins_anew(config, envs.env.spec) == envs.begins_anew


@pytest.mark.parametrize(
    ("task", "cheap"),
    [
        ("gymnasium:CartPole-v1", True),  # Gymnasium's own
        ("CartPole-v1", False),  # a new pool is a new program
        (lambda: gymnasium.make("CartPole-v1"), False),  # who knows
    ],
    ids=["gymnasium", "envpool", "own"],
)
def test_auto_begins_anew_where_the_adapter_knows_it_to_be_cheap(task: Any, cheap: bool) -> None:
    with EnvLifecycle(task, TINY.replace(exact_resume="auto")) as envs:
        assert not envs.env.spec.saves_state
        assert envs.env.spec.cheap_to_make == envs.begins_anew == cheap


@pytest.mark.parametrize("task", [PROBE, "gymnax:CartPole-v1"])
def test_environments_in_jax_are_saved_and_never_begin_anew(task: str) -> None:
    with EnvLifecycle(task, TINY.replace(exact_resume="on")) as envs:
        assert envs.env.spec.saves_state
        assert not envs.begins_anew


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(0, 99, False), (0, 100, True), (99, 101, True), (100, 199, False), (50, 450, True)],
)
def test_a_checkpoint_is_due_where_an_iteration_passes_a_multiple(
    before: int, after: int, expected: bool
) -> None:
    assert is_checkpoint(before, after, TINY.replace(checkpoint_every=100)) is expected
    assert not is_checkpoint(before, after, TINY.replace(checkpoint_every=None))


def test_what_was_made_is_closed_and_what_was_given_is_not() -> None:
    maker, given = Maker(), Made()
    with EnvLifecycle(maker, TINY) as ours, EnvLifecycle(given, TINY) as theirs:
        assert ours.env is maker.made[0]
        assert theirs.env is given
    assert (maker.made[0].closed, given.closed) == (1, 0)
    with pytest.raises(RuntimeError, match="broken"), EnvLifecycle(maker, TINY):
        raise RuntimeError("broken")
    assert [env.closed for env in maker.made] == [1, 1]
    with environments(maker, TINY) as env, environments(given, TINY) as same:
        assert env is maker.made[2]
        assert same is given
    assert (maker.made[2].closed, given.closed) == (1, 0)


def test_at_the_step_that_it_has_reached_a_run_keeps_its_environments() -> None:
    maker = Maker()
    with EnvLifecycle(maker, TINY, step=300) as envs:
        assert envs.at(300) is maker.made[0]
        later = envs.at(400)
        assert later is maker.made[1] is envs.env
        assert envs.at(400) is later
        assert [env.closed for env in maker.made] == [1, 0]
    assert [env.closed for env in maker.made] == [1, 1]


def test_environments_now_and_later_say_what_goes_wrong_to_the_same_ear() -> None:
    maker, said = Maker(), []
    with EnvLifecycle(maker, TINY) as envs:
        envs.log_to(said.append)
        envs.at(100)
        for env in maker.made:
            env.log("a bad contact")
    assert said == ["a bad contact"] * 2


class Seeded(gymnasium.Env):
    """Keeps the seeds that it is given."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)
    seeds: list[int] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        assert seed is not None
        self.seeds.append(seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, False, False, {}


class Counts(Seeded):
    """Shows how many steps lie behind it."""

    observation_space = gymnasium.spaces.Box(0, 1000, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return np.full(1, self.steps, np.float32), 0.0, False, False, {}


def test_first_episodes_are_staggered_where_a_run_begins_and_nowhere_else() -> None:
    """A run that is resumed, or whose environments begin anew, begins no other episodes than without."""
    trainer = trainer_for(Counts, TINY.replace(stagger_steps=50))
    first = trainer.start()
    ages = np.ravel(first.collector.observation["observation"])
    assert len(set(ages)) > 1
    assert ages.max() < 50
    later = trainer.reset_envs(first._replace(step=64), trainer.env)
    assert not np.any(later.collector.observation["observation"])
    assert recorded(Counts, TINY.replace(stagger_steps=50)).rows[-1]["step"] >= 300


def test_environments_that_step_together_alone_are_not_staggered(tmp_path: Path) -> None:
    run = {"config": TINY.replace(stagger_steps=50), "run_dir": tmp_path / "run", "progress": False}
    with pytest.raises(UserError, match="made steps its environments together alone"):
        surefoot.train(Made(), **run)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("task", "limit"),
    [
        ("Pendulum-v1", 200),
        ("gymnasium:Pendulum-v1", 200),
        ("gymnasium:MountainCar-v0", 200),
        (PROBE, 0),
        ("robot:ArmReach", 0),
        (Counts, 0),
    ],
)
def test_none_staggers_below_the_time_limit_where_it_is_known_and_steps_are_cheap(
    task: Any, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        "surefoot.training.loop.start", lambda *args, **kw: asked.append(kw["stagger_steps"])
    )
    trainer_for(task, TINY.replace(stagger_steps=None)).start()
    assert asked == [limit]


def test_a_template_to_resume_into_is_not_staggered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        "surefoot.training.loop.start", lambda *args, **kw: asked.append(kw["stagger_steps"])
    )
    trainer_for(PROBE, TINY.replace(stagger_steps=50)).state_template(3)
    assert asked == [0]


def test_a_time_limit_of_the_tasks_options_is_the_one_that_counts() -> None:
    for prefix in ("", "gymnasium:"):
        options = {"max_episode_steps": 7}
        seed = np.random.SeedSequence(0)
        env = make_environment(f"{prefix}Pendulum-v1", 2, seed=seed, options=options)
        assert env.spec.max_episode_steps == 7
        env.close()


def seeds_of(seed: int, *steps: int) -> list[int]:
    """What environments get that a run has at the last step, having been at the others before."""
    with EnvLifecycle(Seeded, TINY.replace(seed=seed), steps[0]) as envs:
        for step in steps[1:]:
            envs.at(step)
    return Seeded.seeds[-TINY.num_envs :]


@pytest.mark.parametrize("step", [0, 100, 200])
def test_seeds_follow_from_the_runs_seed_and_the_step(step: int) -> None:
    here = seeds_of(7, step)
    assert len(set(here)) == TINY.num_envs
    assert seeds_of(7, 50, 150, step) == here  # also in a run that was not interrupted
    assert not {*here} & {*seeds_of(7, step + 1), *seeds_of(8, step)}
    children = make_streams(7, step).environments.spawn(TINY.num_envs)
    assert here == [int(child.generate_state(1)[0] >> 1) for child in children]


def test_options_say_how_host_environments_are_stepped() -> None:
    assert hosting_of(Config()) == (0, 60.0, "fail")
    options = Config(env_workers=2, env_timeout=3.0, on_env_failure="restart")
    assert hosting_of(options) == (2, 3.0, "restart")


# --- environments that fail to close

ERRORS = [RuntimeError("no display"), OSError(5, "gone"), AttributeError("renderer"), SystemExit(3)]


class Stuck(gymnasium.Env):
    """Ends its episodes soon; never closes well."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    error: BaseException = RuntimeError()
    closed = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return np.zeros(1, np.float32), 1.0, self.time == 5, False, {}

    def close(self) -> None:
        Stuck.closed += 1
        raise self.error


@pytest.mark.extended
@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_what_was_learned_is_handed_over_where_environments_cannot_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(Stuck, "error", error)
    monkeypatch.setattr(Stuck, "closed", 0)
    heard = Recorder()
    options = {"config": TINY, "checkpoint_every": 100, "exact_resume": "on", "progress": False}
    with pytest.warns(
        UserWarning, match=f"raised {type(error).__name__}: .*; 4 of 4 could not be closed"
    ):
        result = surefoot.train(Stuck, run_dir=tmp_path / "run", hooks=[heard], **options)
    assert result.finished
    checkpoints = list((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert Stuck.closed == len(checkpoints) * TINY.num_envs  # at each but the last, and at the end
    said = [note for note in heard.notes if "could not be closed" in note]
    assert len(said) == len(checkpoints) - 1
    with pytest.warns(UserWarning, match="could not be closed"):
        assert surefoot.evaluate(tmp_path / "run", task=Stuck, episodes=2)["episodes"] == 2


def test_the_runs_own_error_is_not_lost_behind_that_of_its_environments() -> None:
    with (
        pytest.warns(UserWarning, match="could not be closed"),
        pytest.raises(LookupError, match="the reason"),
        EnvLifecycle(Stuck, TINY),
    ):
        raise LookupError("the reason")


def test_an_interruption_ends_a_closing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stuck, "error", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt), EnvLifecycle(Stuck, TINY):
        pass
