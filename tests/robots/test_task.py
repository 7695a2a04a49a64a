"""What a task is in training, as options, and by its first observation of an episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from tests.helpers import TINY
from tests.robots.test_environment import POLE, Pole

from surefoot.agent import make_agent
from surefoot.cli.train import parse
from surefoot.config import Config
from surefoot.envs.tasks import make_environment, own_options, robot_task
from surefoot.errors import UserError
from surefoot.robots import Actuation, RobotEnvironment, State
from surefoot.training import evaluate
from surefoot.training.state import make_streams


@dataclass(frozen=True)
class Practised(Pole):
    """Shorter episodes in training, and options of its own."""

    on: bool = False

    training: ClassVar[Config] = TINY.replace(gamma=0.9)
    practice: ClassVar[Any] = {"episode_s": 0.25, "near": 3.0}


@dataclass(frozen=True)
class Child(Practised):
    """Another default, which practice leaves alone."""

    near: float = 5.0


def made(task: Any, *, training: bool, **options: Any) -> Any:
    env = make_environment(
        task, 2, seed=np.random.SeedSequence(0), options=options, training=training
    )
    assert isinstance(env, RobotEnvironment)
    return env.task


def test_practice_is_for_training_and_leaves_alone_what_was_set() -> None:
    plain, training = (made(Practised(), training=t) for t in (False, True))
    assert (plain.episode_s, plain.near) == (0.5, 1.0)
    assert (training.episode_s, training.near) == (0.25, 3.0)
    assert made(Practised(near=2.0), training=True).near == 2.0
    assert made(Practised(), training=True, near=1.0).near == 1.0
    assert made(Child(), training=True).near == 5.0
    assert made(Child(), training=True).episode_s == 0.25


@pytest.mark.extended
def test_episodes_begin_at_random_ages_in_training_alone() -> None:
    ages = []
    for training, stagger in ((False, True), (True, True), (True, False)):
        task = Pole(stagger=stagger)
        env = make_environment(task, 16, seed=np.random.SeedSequence(0), training=training)
        state, _ = env.reset(jax.random.key(0))
        ages.append(np.asarray(state[0].episodes.steps))
    np.testing.assert_array_equal(ages[0], 0)
    np.testing.assert_array_equal(ages[2], 0)
    assert len(set(ages[1].tolist())) > 8
    assert ages[1].max() < 25


def test_a_tasks_own_options_are_the_defaults_wherever_it_is_named() -> None:
    assert own_options(Practised).gamma == 0.9
    assert own_options(Practised()).gamma == 0.9
    assert own_options("CartPole-v1") == Config()
    name = f"{__file__}:Practised"
    for argv in ([name, "--seed", "3"], ["--seed", "3", name]):
        task, _, _, config = parse(argv)
        assert (task, config.gamma, config.seed) == (name, 0.9, 3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"on": "yes"}, "on = 'yes', it must be such as False"),
        ({"near": True}, "near = True, it must be such as 1.0"),
        ({"near": "fast"}, "near = 'fast', it must be such as 1.0"),
        ({"nere": 1.0}, "did you mean 'near'"),
        ({"control_dt_s": 0.0}, "control_dt_s = 0.0, it must be seconds above 0"),
        ({"physics_dt_s": 0}, "physics_dt_s = 0, it must be seconds above 0"),
        ({"episode_s": float("inf")}, "episode_s = inf, it must be seconds above 0"),
    ],
)
def test_a_value_that_cannot_be_is_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_environment(Practised(), 1, seed=np.random.SeedSequence(0), options=options)


def test_none_is_a_value_where_the_field_has_it() -> None:
    assert robot_task(Practised(), {"command_s": "none"}).command_s is None


@dataclass(frozen=True)
class Wide(Pole):
    """A reward or an end that is no single number."""

    what: str = ""

    def rewards(self, s: State) -> Any:
        return {"near": s.qpos if self.what == "reward" else s.qpos[0]}

    def terminated(self, s: State) -> Any:
        return s.qvel > 6.0 if self.what == "end" else jnp.asarray(False)

    def metrics(self, s: State) -> Any:
        return {"speed": s.qvel if self.what == "measure" else s.qvel[0]}


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (
            "reward",
            r"Wide.rewards\(\) \(.*test_task.py:\d+\): near has shape \(1,\); of one environment",
        ),
        (
            "end",
            r"Wide.terminated\(\) .* returned bool of shape \(1,\), where it must return one bool",
        ),
        ("measure", r"Wide.metrics\(\) .*: speed has shape \(1,\)"),
    ],
)
def test_what_is_no_single_number_is_named_before_a_step(what: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        RobotEnvironment(Wide(what=what), 1)


WITH_SERVO = POLE.replace(
    "</mujoco>",
    '<actuator><position name="hip" joint="hip" kp="30" ctrlrange="0.2 1"/></actuator>'
    '<keyframe><key name="home" qpos="0.3" ctrl="0.3"/></keyframe></mujoco>',
)


@dataclass(frozen=True)
class Servo(Pole):
    """The model's own actuator, heard late."""

    model: Any = lambda: mujoco.MjSpec.from_string(WITH_SERVO)

    actuation: ClassVar[Actuation] = Actuation(kind="ctrl", delay_steps=(2, 2), smoothing=0.5)
    sensing: ClassVar[Any] = {}

    def observe(self, s: State) -> Any:
        return s.ctrl


def test_until_a_late_action_is_heard_a_servo_stays_at_home() -> None:
    env = RobotEnvironment(Servo(), 1)
    state, step = env.reset(jax.random.key(0))
    heard = []
    for _ in range(4):
        state, step = env.step(state, np.full((1, 1), 1.0, np.float32))
        heard.append(float(step.observation["observation"][0, 0]))
    np.testing.assert_allclose(heard, [0.3, 0.3, 0.65, 0.825], atol=1e-6)


@pytest.mark.extended
def test_evaluating_a_simulation_that_always_breaks_ends_with_an_error(monkeypatch: Any) -> None:
    env = RobotEnvironment(Pole(), 2)
    steps = RobotEnvironment._step

    def broken(self: Any, ids: Any) -> np.ndarray:
        return steps(self, ids) | True

    monkeypatch.setattr(RobotEnvironment, "_step", broken)
    agent = make_agent(TINY, env.spec)
    actor, _, normalizer = agent.init(TINY, make_streams(0).networks)
    with pytest.raises(UserError, match="episodes were lost and none came to its end"):
        evaluate(agent.policy(actor, normalizer), env, 2, key=jax.random.key(0))
