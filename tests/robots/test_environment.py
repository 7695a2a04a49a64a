"""Robots on MuJoCo's batch engine: exact states, clear errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from tests.helpers import TINY, Recorder

from surefoot.errors import UserError
from surefoot.robots import Actuation, Robot, RobotEnvironment, RobotTask, Sensing, Start, State
from surefoot.training import train

POLE = """
<mujoco><option timestep="0.005"/><worldbody>
  <geom name="floor" type="plane" size="5 5 .1"/>
  <body name="arm" pos="0 0 1"><joint name="hip" axis="0 1 0" range="-90 90" damping=".1"/>
    <geom name="rod" type="capsule" fromto="0 0 0 0 0 -.6" size=".05" mass="1"/>
    <site name="tip" pos="0 0 -.6"/></body>
</worldbody></mujoco>
"""


@dataclass(frozen=True)
class Pole(RobotTask):
    """Hold an angle that is asked for."""

    model: Any = lambda: mujoco.MjSpec.from_string(POLE)
    episode_s: float = 0.5
    command_s: float | None = 0.2
    near: float = 1.0

    actuation: ClassVar[Actuation] = Actuation(
        stiffness=20.0, damping=2.0, delay_steps=(0, 2), smoothing=0.2
    )
    sensing: ClassVar[Any] = {
        "state": Sensing(noise=0.01, bias=0.02, delay_steps=(0, 2), history=2)
    }

    def reset(self, robot: Robot, key: jax.Array, level: jax.Array) -> Start:
        angle = jax.random.uniform(key, (1,), minval=-0.3, maxval=0.3)
        return Start(qpos=robot.home + angle, carry=jnp.zeros(()))

    def command(self, key: jax.Array, level: jax.Array) -> Any:
        return jax.random.uniform(key, (), minval=-1.0, maxval=1.0)

    def remember(self, s: State) -> Any:
        return s.carry + 1

    def observe(self, s: State) -> Any:
        hip = s.joint("hip")
        return {
            "state": jnp.stack([hip.qpos, hip.qvel, s.command]),
            "privileged_state": jnp.concatenate([s.site("tip").velocity, s.body("arm").gravity]),
        }

    def rewards(self, s: State) -> Any:
        return {"near": self.near * jnp.exp(-((s.joint("hip").qpos - s.command) ** 2))}

    def terminated(self, s: State) -> Any:
        return jnp.abs(s.joint("hip").qvel) > 6.0

    def randomize(self, robot: Robot, key: jax.Array) -> Any:
        return {"body_mass": robot.model.body_mass * jax.random.uniform(key, minval=0.5, maxval=2)}

    def events(self, s: State, key: jax.Array) -> Any:
        return {"qvel": s.qvel + 0.1 * jax.random.normal(key, (1,))}

    def next_level(self, s: State) -> Any:
        return s.level + 1


def played(env: RobotEnvironment, state: Any, steps: int) -> tuple[Any, list[Any]]:
    rows = []
    for t in range(steps):
        action = np.full((env.spec.num_envs, 1), np.sin(t), np.float32)
        state, step = env.step(state, action)
        rows.append(jax.tree.map(np.asarray, step))
    return state, rows


def same(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.extended
def test_a_state_goes_on_bit_by_bit_also_in_other_environments_with_other_threads() -> None:
    ours, other = (RobotEnvironment(Pole(), 6, threads=threads) for threads in (2, 1))
    state, _ = ours.reset(jax.random.key(3))
    state, _ = played(ours, state, 30)
    other.reset(jax.random.key(9))
    for physics in (state[1].rows, state[1].model["body_mass"]):
        assert physics.dtype == np.float64
    _, after = played(ours, state, 40)
    _, again = played(ours, state, 40)
    _, elsewhere = played(other, state, 40)
    same(after, again)
    same(after, elsewhere)
    assert sum(int(row.truncated.sum()) for row in after) > 3


def test_episodes_begin_anew_on_the_step_after_their_end() -> None:
    env = RobotEnvironment(Pole(), 3)
    state, first = env.reset(jax.random.key(0))
    assert not first.valid.any()
    state, rows = played(env, state, 26)
    ended = [t for t, row in enumerate(rows) if row.truncated.all()]
    assert ended == [24]
    assert not rows[25].valid.any()
    np.testing.assert_array_equal(rows[25].reward, 0)
    carried = state[0]
    np.testing.assert_array_equal(carried.episodes.steps, 0)
    np.testing.assert_array_equal(carried.episodes.level, 1)
    np.testing.assert_array_equal(carried.episodes.carry, 0)
    # another mass, and the constants that follow from it
    assert len(set(state[1].model["body_mass"][:, 1])) == 3


@pytest.mark.extended
def test_a_robot_learns_and_its_terms_are_reported() -> None:
    heard = Recorder()
    train(Pole(), TINY.replace(total_steps=TINY.batch_size * 2), hooks=[heard])
    assert heard.rows[-1]["reward/near"] > 0.3
    assert heard.rows[-1]["rollout/masked_steps"] == 0


def test_a_spec_that_is_given_stays_as_it_is() -> None:
    spec = mujoco.MjSpec.from_string(POLE)
    RobotEnvironment(Pole(model=spec), 2)
    assert not spec.actuators
    assert not spec.sensors


@dataclass(frozen=True)
class Broken(Pole):
    """One mistake at a time."""

    what: str = ""

    def observe(self, s: State) -> Any:
        if self.what == "joint":
            return s.joint("hipp").qpos
        if self.what == "field":
            return s.qposs
        return {"state": s.qpos}

    def randomize(self, robot: Robot, key: jax.Array) -> Any:
        if self.what == "unknown":
            return {"body_mas": robot.model.body_mass}
        return {"body_mass": robot.model.body_mass} if self.what == "nothing" else {}

    def remember(self, s: State) -> Any:
        return jnp.zeros(2) if self.what == "carry" else s.carry

    def events(self, s: State, key: jax.Array) -> Any:
        return {"qvel": jnp.zeros(3)} if self.what == "shape" else {}


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("joint", r"Broken has no joint 'hipp'; did you mean 'hip'\?"),
        ("field", r"test_environment.py:\d+\): the state has no 'qposs'; did you mean 'qpos'"),
        (
            "unknown",
            r"unknown model field of Broken.randomize\(\): 'body_mas'; did you mean 'body_mass'",
        ),
        ("nothing", r"body_mass never differs from the model's own"),
        (
            "carry",
            r"Broken.remember\(\) \(.*test_environment.py:\d+\) returns an array of shape \(2,\)",
        ),
        ("shape", r"Broken.events\(\): qvel has shape \(3,\), the model needs \(1,\)"),
    ],
)
def test_a_mistake_is_named_before_anything_is_stepped(what: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        RobotEnvironment(Broken(what=what), 2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "pole.xml"}, "there is no model 'pole.xml' in "),
        (
            {"control_dt_s": 0.012},
            r"control_dt_s = 0.012 is no multiple of the physics' step of 0.005 s",
        ),
    ],
)
def test_a_model_that_cannot_be_had_is_one_error(changes: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        RobotEnvironment(Pole(**changes), 2)


class Undecorated(Pole):
    """A task whose options the dataclass does not know of."""

    episode_s: float = 3.0


class Bare(Pole):
    """Likewise, and without a type."""

    near = 2.0


@pytest.mark.parametrize("task", [Undecorated, Bare])
def test_an_option_that_would_not_count_is_named(task: type[RobotTask]) -> None:
    with pytest.raises(UserError, match=r"(episode_s = 3.0|near = 2.0), but its default stays"):
        RobotEnvironment(task(), 2)


@dataclass(frozen=True)
class Breaks(Pole):
    """A robot whose velocity leaves all bounds once its command is above 0."""

    command_s: float | None = None

    def events(self, s: State, key: jax.Array) -> Any:
        return {"qvel": jnp.where((s.command > 0) & (s.time_s > 0.1), 1e12, s.qvel)}


def test_a_simulation_that_mujoco_resets_is_a_lost_row_of_a_named_environment() -> None:
    env = RobotEnvironment(Breaks(), 6)
    said: list[str] = []
    env.log_to(said.append)
    state, _ = env.reset(jax.random.key(0))
    breaks = np.asarray(state[0].episodes.command) > 0
    assert 0 < breaks.sum() < 6
    state, rows = played(env, state, 8)
    lost = np.stack([row.truncated & ~row.valid for row in rows])
    np.testing.assert_array_equal(lost.sum(axis=0), breaks)
    at = int(lost.any(axis=1).argmax())
    np.testing.assert_array_equal(lost[at], breaks)
    assert not np.stack([row.terminated for row in rows])[at, breaks].any()
    assert not rows[at + 1].valid[breaks].any()  # it begins anew
    assert rows[at + 1].valid[~breaks].all()
    first = int(np.flatnonzero(breaks)[0])
    (line,) = said
    assert line.startswith(
        f"Breaks, environment {first}: the simulation became unstable and MuJoCo"
    )
    assert np.isfinite(state[1].rows).all()


def test_what_follows_from_a_mass_is_calculated_again_for_each_robot() -> None:
    env = RobotEnvironment(Pole(), 3)
    state, _ = env.reset(jax.random.key(0))
    masses = state[1].model["body_mass"]
    weights = np.array(env._batch.expand("body_invweight0"))
    for mass, weight in zip(masses, weights, strict=True):
        model = env.robot.model.__copy__()
        model.body_mass[:] = mass
        mujoco.mj_setConst(model, mujoco.MjData(model))
        np.testing.assert_allclose(weight, model.body_invweight0, rtol=1e-9)
    assert len(set(weights[:, 1, 0].tolist())) == 3
