"""`surefoot doctor TASK` on robots: what is said of a task that is fine, and of one thing wrong at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from surefoot.cli.main import main
from surefoot.robots import Actuation, Robot, RobotTask, Start, State
from surefoot.robots.examine import examine_robot

CART = """
<mujoco><option timestep="0.005"/><worldbody>
  <geom name="floor" type="plane" size="5 5 .1"/>
  <body name="cart" pos="0 0 1"><joint name="slide" type="slide" axis="1 0 0" range="-2 2"/>
    <geom type="box" size=".1 .1 .1" mass="1"/>
    <body name="pole"><joint name="hinge" axis="0 1 0" range="-90 90" damping=".1"/>
      <geom type="capsule" fromto="0 0 0 0 0 -.6" size=".03" mass=".2"/></body></body>
</worldbody></mujoco>
"""


@dataclass(frozen=True)
class Cart(RobotTask):
    """A cart with a pole hanging from it."""

    wrong: str = ""
    model: Any = lambda: mujoco.MjSpec.from_string(CART)
    physics_dt_s: float | None = 0.005
    episode_s: float = 1.0

    actuation: ClassVar[Actuation] = Actuation(
        kind="torque", joints="slide", scale=30.0, offset=0.0
    )

    def edit(self, spec: mujoco.MjSpec) -> None:
        if self.wrong == "range":
            spec.joint("hinge").range = [0.0, 1e-7]
            spec.joint("hinge").limited = True
        if self.wrong == "stuck":
            spec.joint("hinge").armature = 1e6
        if self.wrong == "solver":
            spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC

    def reset(self, robot: Robot, key: jax.Array, level: jax.Array) -> Start:
        qpos = jnp.asarray(robot.home)
        if self.wrong == "random start":
            qpos = qpos + np.random.uniform(-0.1, 0.1)
        if self.wrong == "odd start":
            qpos = qpos + jnp.where(jax.random.bernoulli(key, 0.1), jnp.nan, 0.0)
        return Start(qpos)

    def observe(self, s: State) -> Any:
        rows = [s.qpos[0], s.qpos[1], s.qvel[0], s.qvel[1]]
        if self.wrong == "constant":
            rows.append(jnp.float32(3.0))
        if self.wrong == "large":
            rows.append(1e5 * s.qpos[0])
        return jnp.stack(rows)

    def rewards(self, s: State) -> Any:
        terms = {"near": jnp.exp(-jnp.square(s.qpos[0])), "still": -0.1 * jnp.square(s.qvel[0])}
        if self.wrong == "random reward":
            terms["luck"] = np.random.default_rng().normal(size=3)[0] * s.qpos[0]
        if self.wrong == "zero":
            terms["nothing"] = 0.0 * s.qpos[0]
        if self.wrong == "huge":
            terms["huge"] = -1e4 * jnp.abs(s.qpos[1])
        return terms

    def terminated(self, s: State) -> Any:
        if self.wrong == "end":
            return jnp.abs(s.qpos[0]) > 50.0
        if self.wrong == "start":
            return s.time_s > 0.05
        return jnp.abs(s.qpos[0]) > 0.5


def found(wrong: str) -> tuple[list[str], list[str]]:
    lines = list(examine_robot(Cart(wrong=wrong), steps=1600))
    return [text for fine, text in lines if fine], [text for fine, text in lines if not fine]


def test_of_a_task_that_is_fine_everything_is_said_and_nothing_is_to_look_at() -> None:
    fine, odd = found("")
    assert not odd
    text = "\n".join(fine)
    for said in (
        "2 joints, 1 actuators, 1.2 kg; 1 actions at 50 Hz, physics at 200 Hz, episodes of 1 s",
        "reward a step under zero actions, random actions, held actions: ",
        "episodes that terminated: 0 under zero, ",
        "no simulation broke down at a time step of 5 ms, nor at 10 ms",
        "us on a core",
    ):
        assert said in text
    (near,) = (line for line in fine if line.startswith("  near"))
    assert len(near.split()) == 4


@pytest.mark.extended
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("range", "joint 'hinge' cannot move: its range is 0 to "),
        ("stuck", "joint 'hinge' did not move under random actions"),
        (
            "constant",
            "1 of 5 numbers of observation observation never change, the first is [4] = 3",
        ),
        ("large", "observation observation[4] reaches "),
        ("random start", "called where episodes begin are others each time they are traced"),
        ("random reward", "called behind a step are others each time they are traced"),
        ("odd start", "qpos of Cart.reset() ("),
        ("zero", "reward 'nothing' was 0 in every step"),
        ("huge", "reward 'huge' is more than 20 times all the others together"),
        ("end", "an end that no action reaches teaches nothing"),
        ("start", "with zero actions an episode terminates within half a second"),
    ],
)
def test_one_thing_that_is_wrong_is_named(wrong: str, says: str) -> None:
    _, odd = found(wrong)
    assert any(says in text for text in odd), odd


def test_what_an_elliptic_cone_costs_is_said() -> None:
    fine, odd = found("solver")
    assert any(text.startswith("  with a pyramidal cone: ") for text in [*fine, *odd])


@pytest.mark.extended
def test_the_command_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", f"{__file__}:Cart", "--env-options", "wrong=zero"])
    said = capsys.readouterr().out
    assert code == 1
    assert "LOOK reward 'nothing' was 0 in every step" in said
