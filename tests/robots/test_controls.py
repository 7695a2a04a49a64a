"""From actions to MuJoCo's controls, and from the truth to what is shown."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.errors import UserError
from surefoot.robots import Actuation, Robot, RobotEnvironment, RobotTask, Sensing, Start, State
from surefoot.robots.actuation import Controls, kind_of
from surefoot.robots.model import compile_spec

laws = settings(max_examples=25)
seeds = st.integers(0, 2**32 - 1)

# the actuators, where there are any, are not in the order of the joints
ARM = """
<mujoco>
  <option timestep="0.005" gravity="0 0 0"/>
  <worldbody><body name="upper">
    <joint name="hip" axis="0 1 0" range="-60 90"/>
    <geom type="capsule" fromto="0 0 0 0 0 -.3" size=".03" mass="1"/>
    <body name="lower" pos="0 0 -.3">
      <joint name="knee" axis="0 1 0"/>
      <geom type="capsule" fromto="0 0 0 0 0 -.3" size=".02" mass=".5"/>
      <body name="hand" pos="0 0 -.3">
        <joint name="rail" type="slide" axis="0 0 1" range="-.2 .1"/>
        <geom size=".04" mass=".2"/>
      </body>
    </body>
  </body></worldbody>
  <tendon><fixed name="{tendon}"><joint joint="knee" coef="1"/><joint joint="rail" coef="2"/></fixed></tendon>
  <actuator>{actuators}</actuator>
  <keyframe><key name="home" qpos=".3 -.5 .05" {key}/></keyframe>
</mujoco>
"""
JOINTS = ("hip", "knee", "rail")
POSITIONS = """
  <position name="of_rail" joint="rail" kp="50" kv="2"/>
  <position name="of_hip" joint="hip" kp="30" kv="1" ctrlrange="-.5 2" forcerange="-8 12"/>
  <position name="of_knee" joint="knee" kp="20" kv=".5"/>
"""
MOTORS = """
  <motor name="of_rail" joint="rail" gear="40" ctrlrange="-1 1"/>
  <motor name="of_hip" joint="hip" gear="-10" ctrlrange="-1 .5" forcerange="-.8 2"/>
  <motor name="of_knee" joint="knee"/>
"""


def driven(
    actuators: str = "", key: str = "", tendon: str = "cable", **options: Any
) -> tuple[mujoco.MjModel, Controls]:
    """The arm with an actuation: its model, and what turns actions into controls."""
    spec = mujoco.MjSpec.from_string(ARM.format(actuators=actuators, key=key, tendon=tendon))
    actuation = Actuation(**options)
    actuation.prepare(spec, "arm")
    robot = Robot(compile_spec(spec, "arm"), "arm")
    return robot.model, actuation.on(robot)


def forces(model: mujoco.MjModel, ctrl: Any, qpos: Any = 0.0, qvel: Any = 0.0) -> np.ndarray:
    """What the actuators do to the joints: Nm of the hinges, N of the slide."""
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, ctrl
    mujoco.mj_forward(model, data)
    return data.qfrc_actuator.copy()


def close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


HOME = np.array([0.3, -0.5, 0.05])
QPOS, QVEL = np.array([0.1, -0.2, 0.0]), np.array([0.5, -1.0, 0.2])
ACTION = np.array([0.4, -1.0, 0.1], np.float32)


# kinds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "actuators", ["", POSITIONS.replace('ctrlrange="-.5 2" forcerange="-8 12"', "")]
)
def test_position_actions_move_targets_around_the_home_pose(actuators: str) -> None:
    model, controls = driven(actuators, stiffness=20.0, damping=2.0)
    torque = forces(model, controls.ctrl(jnp.asarray(ACTION)), QPOS, QVEL)
    targets = HOME + 0.5 * ACTION
    close(torque, 20 * (targets - QPOS) - 2 * QVEL)
    close(forces(model, controls.ctrl(jnp.zeros(3)), HOME), 0.0)  # at home with an action of 0


@pytest.mark.parametrize("actuators", ["", POSITIONS.replace('forcerange="-8 12"', ""), MOTORS])
def test_velocity_actions_are_speeds_to_be_held(actuators: str) -> None:
    model, controls = driven(actuators, kind="velocity", damping=0.5, scale=2.0)
    torque = forces(model, controls.ctrl(jnp.asarray(ACTION)), QPOS, QVEL)
    close(torque, 0.5 * (2 * ACTION - QVEL))


@pytest.mark.parametrize("actuators", ["", POSITIONS, MOTORS])
def test_torque_actions_are_torques(actuators: str) -> None:
    model, controls = driven(actuators, kind="torque", scale=3.0, offset={"knee": 0.5})
    torque = forces(model, controls.ctrl(jnp.asarray(ACTION)), QPOS, QVEL)
    close(torque, 3 * ACTION + [0, 0.5, 0])
    assert controls.spec.low == (-math.inf,) * 3


def test_ctrl_actions_are_the_actuators_controls_mapped_onto_their_ranges() -> None:
    model, controls = driven(MOTORS, kind="ctrl")
    close(controls.ctrl(jnp.asarray(ACTION)), ACTION)  # as they are, in the actuators' order
    assert controls.spec.low == (-1, -1, -math.inf)
    assert controls.spec.high == (1, 0.5, math.inf)
    mapped = controls.spec.to_env(jnp.array([[-1.0, -1.0, -7.0], [0, 0, 0], [9, 9, 9]]))
    close(mapped, [[-1, -1, -7], [0, -0.25, 0], [1, 0.5, 9]])
    close(forces(model, ACTION), [-10 * np.clip(-1.0, -0.8, 2), 0.1, 40 * 0.4])


@pytest.fixture(scope="module")
def arms() -> Any:
    return [driven(actuators, stiffness=20.0) for actuators in ("", POSITIONS)]


@laws
@given(seeds)
def test_actions_are_in_the_joints_order_whatever_the_actuators_is(arms: Any, seed: int) -> None:
    action = jnp.asarray(np.random.default_rng(seed).normal(size=3) * 0.05, jnp.float32)
    for model, controls in arms:
        close(forces(model, controls.ctrl(action), HOME), 20 * 0.5 * action, tolerance=1e-4)


# scale, offset and gains by name -----------------------------------------------------------------


def test_numbers_by_name_go_to_the_first_pattern_that_a_joint_matches() -> None:
    model, controls = driven(
        scale={"k*": 0.1, "rail": 2.0, "*l": 9.0},
        offset={"knee": 0.7},
        stiffness={"hip": 10.0, "knee": 5.0, "r*": 100.0},
        damping={"hip": 1.0},
    )
    close(controls.scale, [1.0, 0.1, 2.0])
    close(controls.offset, [0.3, 0.7, 0.05])
    targets = controls.offset + controls.scale * np.array([0.1, 0.1, 0.01])
    torque = forces(model, controls.ctrl(jnp.array([0.1, 0.1, 0.01])), QPOS, QVEL)
    close(torque, [10 * (targets[0] - 0.1) - 0.5, 5 * (targets[1] + 0.2), 100 * targets[2]])


def test_one_offset_is_for_all_joints_and_without_one_it_is_the_home_pose_or_0() -> None:
    for options, expected in (
        ({"stiffness": 1.0}, HOME),
        ({"stiffness": 1.0, "offset": 0.2}, [0.2] * 3),
        ({"stiffness": 1.0, "offset": {"r*": 0.0}}, [0.3, -0.5, 0.0]),
        ({"kind": "velocity", "damping": 1.0}, [0.0] * 3),
        ({"kind": "torque", "offset": {"r*": 2.0}}, [0.0, 0.0, 2.0]),
    ):
        close(driven(**options)[1].offset, expected)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"joints": "hipp"},
            "^actuation: arm has no joint that matches 'hipp'; did you mean 'hip'",
        ),
        ({"joints": ("hip", "ankle*")}, r"no joint that matches 'ankle\*'$"),
        ({"scale": {"nee": 1.0}}, "scale names 'nee', which is no driven joint of arm; .* 'knee'"),
        ({"offset": {"hi": 1.0}}, "offset names 'hi', which .*; did you mean 'hip'"),
        ({"effort": {"rails": 1.0}}, "effort names 'rails', which .*; did you mean 'rail'"),
        ({"damping": {"knees": 1.0}}, "damping names 'knees', which .* 'knee'"),
        ({"stiffness": {"*": 1.0, "knees": 1.0}}, "stiffness names 'knees', which .* 'knee'"),
        ({"joints": "hip", "scale": {"knee": 1.0}}, "scale names 'knee', which is no driven joint"),
        ({"stiffness": None}, "joint 'hip' of arm has no actuator; give stiffness and damping"),
        (
            {"kind": "velocity", "stiffness": None},
            "joint 'hip' of arm has no actuator; give damping, and it gets one",
        ),
        ({"kind": "velocity"}, "stiffness does not count with kind = 'velocity': leave it out"),
        ({"kind": "torque"}, "stiffness does not count with kind = 'torque': leave it out"),
        (
            {"stiffness": None, "damping": 1.0},
            "damping does not count with kind = 'position' and no stiffness: give stiffness too",
        ),
        ({"kind": "ctrl"}, "kind = 'ctrl' hands actions to the model's actuators as they are"),
        (
            {"kind": "ctrl", "stiffness": None},
            "arm has no actuators to control: choose another kind",
        ),
        (
            {"others": "knees"},
            "arm has no actuator that matches 'knees'",
        ),
        ({"others": "knee"}, "others names the actuator 'knee', which drives a joint already"),
    ],
)
def test_names_that_are_not_there_are_refused_with_near_matches(options: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        driven(**({"stiffness": 20.0} | options))


@pytest.mark.parametrize(
    ("actuators", "options", "says"),
    [
        (
            MOTORS,
            {},
            "actuator of joint 'hip' of arm takes no position; give stiffness and damping",
        ),
        (POSITIONS, {"kind": "velocity"}, "joint 'hip' of arm takes no velocity; give damping"),
        (POSITIONS, {"kind": "velocity", "damping": {"h*": 1.0}}, "joint 'knee' .* no velocity"),
    ],
)
def test_actuators_are_not_told_what_they_do_not_take(
    actuators: str, options: Any, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        driven(actuators, **options)


# limits ------------------------------------------------------------------------------------------


def test_targets_end_at_the_joints_ranges_and_at_the_controls() -> None:
    for actuators, low in (("", -math.pi / 3), (POSITIONS, -0.5)):
        _, controls = driven(actuators, stiffness=20.0)
        at = [list(JOINTS), ["rail", "hip", "knee"]][bool(actuators)]
        for action, ends in ((-99.0, (low, -49.5 - 0.5, -0.2)), (99.0, (math.pi / 2, 49.0, 0.1))):
            ctrl = np.asarray(controls.ctrl(jnp.full(3, action)))
            close([ctrl[at.index(name)] for name in JOINTS], ends)


def test_torques_end_at_the_effort_and_without_one_at_the_models_limit() -> None:
    strong = jnp.full(3, 50.0)
    for options, ends in (
        ({}, [12, 50, 50]),
        ({"effort": 7.0}, [7, 7, 7]),
        ({"effort": {"k*": 3.0}}, [12, 3, 50]),
    ):
        model, controls = driven(POSITIONS, kind="torque", scale=1.0, **options)
        close(forces(model, controls.ctrl(strong)), ends)
        close(forces(model, controls.ctrl(-strong)), [-min(ends[0], 8), -ends[1], -ends[2]])


def test_actuators_of_the_models_own_keep_their_gains_and_an_effort_ends_them_too() -> None:
    model, controls = driven(POSITIONS)
    torque = forces(model, controls.ctrl(jnp.asarray(ACTION)), QPOS, QVEL)
    off = HOME + 0.5 * ACTION - QPOS
    close(torque, [30 * off[0] - 0.5, 20 * off[1] + 0.5, 50 * off[2] - 0.4])
    model, controls = driven(POSITIONS, effort=5.0)
    close(forces(model, controls.ctrl(jnp.asarray(ACTION)), QPOS, QVEL), np.clip(torque, -5, 5))
    model, controls = driven(POSITIONS, stiffness={"knee": 1.0})  # that one alone is another
    close(forces(model, controls.ctrl(jnp.asarray(ACTION)), QPOS, QVEL)[[0, 2]], torque[[0, 2]])
    close(forces(model, controls.ctrl(jnp.asarray(ACTION)), QPOS, QVEL)[1], off[1])


@pytest.mark.parametrize("options", [{"kind": "torque", "scale": 1.0}, {"stiffness": 1e4}])
def test_what_a_geared_motor_can_do_limits_what_takes_its_place(options: Any) -> None:
    model, controls = driven(MOTORS, **options)
    for action in (-9.0, 9.0):
        torque = forces(model, controls.ctrl(jnp.full(3, action * 10)), HOME)
        own = forces(driven(MOTORS, kind="ctrl")[0], [action, -action, 0.0])
        assert abs(own[0]) in (5.0, 8.0)  # of the hip, whose gear turns it around
        close(torque[[0, 2]], own[[0, 2]], tolerance=1e-3)
        assert abs(torque[1]) > 50  # the knee's motor has no limit
    close(np.diff([controls.ctrl(jnp.full(3, x))[1] for x in (-99, 99)]) > 1.5, True)  # not [-1, 1]


@pytest.mark.parametrize("gear", [2.0, -0.5])
def test_a_gear_is_left_out_targets_are_in_the_joints_own_units(gear: float) -> None:
    geared = f"""<position joint="hip" kp="30" kv="1" gear="{gear}" ctrlrange="-1 2"
      forcerange="-8 12"/>"""
    plain = mujoco.MjModel.from_xml_string(ARM.format(actuators=geared, key="", tendon="cable"))
    model, controls = driven(geared, joints="hip")
    for target in (-0.9, -0.3, 0.4, 1.5):
        ctrl = controls.ctrl_of(jnp.array([target]))
        theirs = np.clip(gear * np.clip(target, -math.pi / 3, math.pi / 2), -1, 2)
        close(forces(model, ctrl, QPOS, QVEL), forces(plain, [theirs], QPOS, QVEL))


@pytest.mark.parametrize(
    "own",
    [
        '<intvelocity joint="hip" kp="30" actrange="-1 1"/>',
        '<position joint="hip" kp="30" timeconst=".1" inheritrange=".5"/>',
        '<damper joint="hip" kv="3" ctrlrange="0 1"/>',
        '<muscle joint="hip"/>',
    ],
)
@pytest.mark.parametrize("kind", ["position", "velocity", "torque"])
def test_whatever_drove_a_joint_is_replaced(own: str, kind: Any) -> None:
    gains = {"position": {"stiffness": 20.0, "damping": 2.0}, "velocity": {"damping": 2.0}}
    model, controls = driven(own, kind=kind, joints="hip", scale=0.1, **gains.get(kind, {}))
    assert model.na == 0  # it answers at once
    target = controls.offset[0] - 0.1 * 0.5
    expected = {
        "position": 20 * (target - 0.1) - 2 * 0.5,
        "velocity": 2 * (target - 0.5),
        "torque": target,
    }[kind]
    close(forces(model, controls.ctrl(jnp.array([-0.5])), QPOS, QVEL), [expected, 0, 0])


# some joints alone -------------------------------------------------------------------------------


def test_joints_that_are_not_driven_keep_the_controls_of_home() -> None:
    model, controls = driven(POSITIONS, 'ctrl=".04 .3 -.6"', joints=("rail", "hip"))
    assert [model.joint(int(i)).name for i in controls.joints] == ["hip", "rail"]
    assert controls.spec.sizes == (2,)
    ctrl = controls.ctrl(jnp.array([0.2, -0.1]))
    close(ctrl, [0.05 - 0.05, 0.3 + 0.1, -0.6])  # of_rail, of_hip, of_knee


def test_joints_without_actuators_stay_passive_where_others_have_them() -> None:
    model, controls = driven('<position joint="knee" kp="20"/>')
    assert model.nu == 1
    assert [model.joint(int(i)).name for i in controls.joints] == ["knee"]
    with pytest.raises(UserError, match="joint 'hip' of arm has no actuator"):
        driven('<position joint="knee" kp="20"/>', joints=("hip", "knee"))


@pytest.mark.parametrize("name", ["cable", "knee"])
def test_an_actuator_of_a_tendon_is_none_of_a_joint_of_the_same_number_or_name(name: str) -> None:
    rope = f'<position name="pull" tendon="{name}" kp="7"/>'  # tendon 0, as the hip is joint 0
    _, controls = driven(POSITIONS + rope, 'ctrl="0 0 0 .9"', tendon=name)
    assert controls.spec.sizes == (3,)
    close(controls.ctrl(jnp.zeros(3)), [0.05, 0.3, -0.5, 0.9])
    model, controls = driven(rope, 'ctrl=".9"', tendon=name, stiffness=20.0)
    close(controls.ctrl(jnp.zeros(3)), [0.9, *HOME])
    assert model.actuator("pull").gainprm[0] == 7


# late and smooth ---------------------------------------------------------------------------------


def heard(actuation: dict[str, Any], actions: np.ndarray, seed: int = 0) -> tuple[int, np.ndarray]:
    """The delay of an episode, and what is heard of [T, 3] actions."""
    _, controls = driven(stiffness=1.0, **actuation)
    memory, rows = controls.init(jax.random.key(seed)), []
    for action in actions:
        memory, row = controls.hear(memory, jnp.asarray(action))
        rows.append(np.asarray(row))
    return 0 if memory.delay is None else int(memory.delay), np.stack(rows)


ACTIONS = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


@pytest.mark.parametrize("late", [0, 1, 3])
def test_an_action_is_heard_some_steps_late_and_until_then_it_is_0(late: int) -> None:
    delay, rows = heard({"delay_steps": (late, late)}, ACTIONS)
    assert delay == late
    np.testing.assert_array_equal(rows[:late], 0.0)
    np.testing.assert_array_equal(rows[late:], ACTIONS[: 8 - late])


def test_delays_are_drawn_for_each_episode_and_last() -> None:
    _, controls = driven(stiffness=1.0, delay_steps=(1, 3))
    delays = {int(controls.init(jax.random.key(seed)).delay) for seed in range(20)}
    assert delays == {1, 2, 3}
    for seed in range(3):
        delay, rows = heard({"delay_steps": (1, 3)}, ACTIONS, seed)
        np.testing.assert_array_equal(rows[:delay], 0.0)
        np.testing.assert_array_equal(rows[delay:], ACTIONS[: 8 - delay])


@pytest.mark.parametrize("late", [0, 2])
def test_a_share_of_what_was_heard_before_remains(late: int) -> None:
    _, rows = heard({"smoothing": 0.75, "delay_steps": (late, late)}, ACTIONS)
    before = np.zeros(3)
    for t, row in enumerate(rows):
        arrived = ACTIONS[t - late] if t >= late else np.zeros(3)
        before = 0.75 * before + 0.25 * arrived
        close(row, before)
    _, rows = heard({"smoothing": 0.75}, np.ones((3, 3), np.float32))
    close(rows[:, 0], [0.25, 0.4375, 0.578125])


def test_an_action_beyond_the_bound_is_clipped() -> None:
    _, rows = heard({"bound": 2.0}, np.array([[-7.0, 0.5, 7.0]], np.float32))
    close(rows[0], [-2, 0.5, 2])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Actuation(delay_steps=(2, 1)), r"delay_steps = \(2, 1\): it must be"),
        (lambda: Actuation(delay_steps=(-1, 1)), r"delay_steps = \(-1, 1\)"),
        (lambda: Actuation(smoothing=1.0), r"smoothing = 1.0: it must be in \[0, 1\)"),
        (lambda: Actuation(smoothing=-0.1), r"smoothing = -0.1"),
        (lambda: Sensing(delay_steps=(3, 2)), r"delay_steps = \(3, 2\): it must be"),
        (lambda: Sensing(drop=1.0), r"drop = 1.0: a chance in \[0, 1\)"),
        (lambda: Sensing(history=0), r"history = 0: at least 1"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(make: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make()


# what is shown -----------------------------------------------------------------------------------

STEPS, EPISODES = 12, 200
TRUTHS = np.random.default_rng(1).normal(size=(STEPS, 2)).astype(np.float32)


@functools.cache
def episodes(sensing: Sensing) -> Any:
    def episode(key: jax.Array, again: jax.Array) -> Any:
        to_init, key = jax.random.split(key)
        begun = sensing.init(TRUTHS.shape[1], to_init)

        def step(readings: Any, now: Any) -> Any:
            t, truth = now
            first = (t == 0) | (t == again)
            return sensing(readings, truth, jax.random.fold_in(key, t), first=first)

        return begun, jax.lax.scan(step, begun, (jnp.arange(STEPS), jnp.asarray(TRUTHS)))[1]

    return jax.jit(jax.vmap(episode, in_axes=(0, None)))


def shown(sensing: Sensing, again: int = 0) -> Any:
    """Readings as episodes began, and what these show, [E, T, ...]; they may begin anew at a step."""
    keys = jax.random.split(jax.random.key(2), EPISODES)
    return jax.tree.map(np.asarray, episodes(sensing)(keys, again))


def test_without_options_the_truth_is_shown() -> None:
    _, rows = shown(Sensing())
    np.testing.assert_array_equal(rows, np.broadcast_to(TRUTHS, rows.shape))


def test_noise_is_drawn_anew_at_every_step_within_its_bounds() -> None:
    _, rows = shown(Sensing(noise=(0.1, 0.4)))
    noise = rows - TRUTHS
    for i, bound in enumerate((0.1, 0.4)):
        drawn = noise[..., i] / bound
        assert np.abs(drawn).max() <= 1 + 1e-5
        assert np.abs(drawn).max() > 0.99
        # uniform: a mean of 0, a variance of 1/3, over 2400 draws
        assert abs(drawn.mean()) < 0.05
        assert abs(drawn.var() - 1 / 3) < 0.03
        assert len(np.unique(noise[0, :, i])) == STEPS
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.08


def test_a_bias_is_drawn_for_each_episode_and_stays() -> None:
    begun, rows = shown(Sensing(bias=(0.5, 0.0)))
    bias = rows - TRUTHS
    close(bias, np.broadcast_to(begun.bias[:, None], bias.shape))
    np.testing.assert_array_equal(bias[..., 1], 0.0)
    drawn = begun.bias[:, 0] / 0.5
    assert len(np.unique(drawn)) == EPISODES
    assert drawn.min() < -0.9
    assert drawn.max() > 0.9
    assert np.abs(drawn).max() <= 1


@pytest.mark.parametrize("again", [0, 5])
def test_readings_are_late_and_an_episode_begins_with_its_own_first(again: int) -> None:
    begun, rows = shown(Sensing(delay_steps=(1, 3)), again=again)
    assert set(begun.delay.tolist()) == {1, 2, 3}
    for delay, row in zip(begun.delay, rows, strict=True):
        for t in range(STEPS):
            start = again if t >= again else 0
            np.testing.assert_array_equal(row[t], TRUTHS[max(start, t - delay)])


@pytest.mark.parametrize("again", [0, 5])
def test_history_is_shown_oldest_first_and_begins_with_copies_of_the_first(
    again: int,
) -> None:
    _, rows = shown(Sensing(history=3), again=again)
    assert rows.shape == (EPISODES, STEPS, 6)
    for t in range(STEPS):
        start = again if t >= again else 0
        expected = [TRUTHS[max(start, t - back)] for back in (2, 1, 0)]
        np.testing.assert_array_equal(rows[0, t], np.concatenate(expected))


def test_a_reading_that_is_lost_is_the_one_before_again_and_the_first_is_never_lost() -> None:
    _, rows = shown(Sensing(drop=0.3, noise=0.01, history=2))
    newest, before = rows[..., 2:], rows[..., :2]
    lost = (newest == before).all(axis=-1)  # noise makes each reading another
    assert lost[:, 0].all()  # a history of copies
    assert np.abs(newest[:, 0] - TRUTHS[0]).max() <= 0.01 + 1e-6
    assert abs(lost[:, 1:].mean() - 0.3) < 0.03  # of 2200
    np.testing.assert_array_equal(newest[:, :-1], before[:, 1:])  # what was shown, noise and all
    kept = ~lost[:, 1:]
    assert np.abs(newest[:, 1:] - TRUTHS[1:])[kept].max() <= 0.01 + 1e-6
    twice = lost[:, 1:-1] & lost[:, 2:]
    assert twice.any()  # two in a row: the same one still
    np.testing.assert_array_equal(newest[:, 3:][twice[:, 1:]], newest[:, 1:-2][twice[:, 1:]])


def test_an_episode_that_begins_anew_shows_nothing_of_the_one_before() -> None:
    _, rows = shown(Sensing(drop=0.9, delay_steps=(0, 4), history=2), again=6)
    np.testing.assert_array_equal(rows[:, 6], np.tile(TRUTHS[6], (EPISODES, 2)))


# in an environment -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm(RobotTask):
    """An arm, heard late and seen late, in episodes of seven steps."""

    model: Any = lambda: mujoco.MjSpec.from_string(ARM.format(actuators="", key="", tendon="cable"))
    episode_s: float = 0.14

    actuation: ClassVar[Actuation] = Actuation(
        stiffness=5.0, damping=1.0, scale={"r*": 0.1, "*": 0.5}, delay_steps=(0, 2), smoothing=0.5
    )
    sensing: ClassVar[Any] = {
        "seen": Sensing(bias=0.5, delay_steps=(0, 2), history=2),
        "noisy": Sensing(noise=0.1, drop=0.3),
    }

    def reset(self, robot: Robot, key: jax.Array, level: jax.Array) -> Start:
        return Start(robot.home + 0.02 * jax.random.normal(key, (3,)))

    def observe(self, s: State) -> Any:
        truth = s.joints().qpos
        return {"truth": truth, "ctrl": s.ctrl, "seen": truth, "noisy": truth}

    def rewards(self, s: State) -> Any:
        return {"none": jnp.zeros(())}


@pytest.fixture(scope="module")
def played() -> Any:
    """30 steps of 6 arms: actions, observations and episodes, [T, N, ...], the reset first."""
    env = RobotEnvironment(Arm(), 6)
    state, step = env.reset(jax.random.key(0))
    actions = np.random.default_rng(0).normal(size=(30, 6, 3)).astype(np.float32)
    rows = [(step.observation, state[0].episodes)]
    for action in actions:
        state, step = env.step(state, action)
        rows.append((step.observation, state[0].episodes))
    env.close()
    stacked = jax.tree.map(
        lambda *x: np.stack(x),
        *[
            jax.tree.map(np.asarray, (seen, episodes.control, episodes.sensing, episodes.steps))
            for seen, episodes in rows
        ],
    )
    return actions, *stacked


def test_every_episode_of_an_environment_hears_late_and_smoothly(played: Any) -> None:
    actions, shown, control, _, steps = played
    scale, low, high = np.array([0.5, 0.5, 0.1]), [-math.pi / 3, -9, -0.2], [math.pi / 2, 9, 0.1]
    delays = set()
    for n in range(6):
        heard = np.zeros(3)
        for t in range(1, 31):
            age, delay = steps[t, n], control.delay[t, n]
            if age == 0:  # it began anew: nothing is left of before
                heard, delays = np.zeros(3), delays | {int(delay)}
                close(shown["ctrl"][t, n], HOME)  # nothing was asked for yet
                continue
            arrived = actions[t - 1 - delay, n] if age > delay else np.zeros(3)
            heard = 0.5 * heard + 0.5 * arrived
            close(shown["ctrl"][t, n], np.clip(HOME + scale * heard, low, high))
    assert delays == {0, 1, 2}
    assert (steps == 0).sum() > 12


def test_every_episode_of_an_environment_is_seen_late_from_its_first_step_on(played: Any) -> None:
    _, shown, _, sensing, steps = played
    biases = set()
    for n in range(6):
        for t in range(31):
            bias, delay = sensing["seen"].bias[t, n], sensing["seen"].delay[t, n]
            start = t - steps[t, n]
            expected = [
                shown["truth"][max(start, max(start, t - back) - delay), n] + bias
                for back in (1, 0)
            ]
            close(shown["seen"][t, n], np.concatenate(expected))
            biases.add(tuple(bias.tolist()))
            if t == start:  # no reading is lost where there was none before
                assert np.abs(shown["noisy"][t, n] - shown["truth"][t, n]).max() <= 0.1 + 1e-6
    assert len(biases) == (steps == 0).sum()  # one for each episode
    again = (shown["noisy"][1:] == shown["noisy"][:-1]).all(axis=-1)
    assert 0.1 < again.mean() < 0.5
    assert not again[steps[1:] == 0].any()


def test_actuators_of_tendons_are_driven_over_their_ranges_behind_the_joints() -> None:
    robot = Robot(mujoco.MjModel.from_xml_string(GRIPPER), "gripper")
    controls = Controls(Actuation(joints="wrist", scale=0.5, others="grip"), robot)
    assert controls.spec.sizes == (2,)
    for action, grip in ((-1.0, 0.0), (0.0, 100.0), (1.0, 200.0), (5.0, 200.0)):
        close(controls.ctrl(jnp.array([0.4, action])), [0.2, grip])
    close(controls.rest, [0.0, 0.0])


GRIPPER = """
<mujoco><worldbody><body><joint name="wrist" axis="0 0 1" range="-90 90"/><geom size=".1"/>
  <body pos="0 .2 0"><joint name="left" type="slide" axis="0 1 0" range="0 .1"/><geom size=".02"/></body>
  <body pos="0 -.2 0"><joint name="right" type="slide" axis="0 1 0" range="0 .1"/><geom size=".02"/></body>
</body></worldbody>
<tendon><fixed name="split"><joint joint="left" coef=".5"/><joint joint="right" coef=".5"/></fixed></tendon>
<actuator><position name="wrist" joint="wrist" kp="10" ctrlrange="-1 1"/>
  <position name="grip" tendon="split" kp="10" ctrlrange="0 200"/></actuator></mujoco>
"""


# what models have --------------------------------------------------------------------------------


@pytest.mark.parametrize("gear", [1.0, 3.0, -2.0])
@pytest.mark.parametrize("damped", ['dampratio="1"', 'dampratio=".4"', 'kv="2"', ""])
def test_a_gear_changes_units_and_not_how_a_servo_moves(gear: float, damped: str) -> None:
    servo = f'<position name="of_knee" joint="knee" kp="5" {damped} gear="{gear}"/>'
    model, controls = driven(servo, key='ctrl="0"', joints="knee")
    plain = mujoco.MjModel.from_xml_string(
        ARM.format(actuators=servo, key='ctrl="0"', tendon="cable")
    )
    paths = []
    for one, ctrl in (
        (model, controls.ctrl(jnp.array([0.4], jnp.float32))),
        (plain, [gear * (HOME[1] + 0.5 * 0.4)]),  # its length is that of the joint times the gear
    ):
        data = mujoco.MjData(one)
        data.qpos[:], data.ctrl[:] = HOME, ctrl
        for _ in range(40):
            mujoco.mj_step(one, data)
        paths.append(data.qpos.copy())
    close(*paths)
    assert abs(paths[0][1] - HOME[1]) > 0.01


FILTERED = """
  <position name="of_hip" joint="hip" kp="30" kv="1" timeconst=".1" ctrlrange="-1 1"/>
  <general name="of_knee" joint="knee" dyntype="filterexact" dynprm=".1" gainprm="20" biastype="affine"
    biasprm="0 -20 -1" actlimited="true" actrange="-.4 1"/>
  <motor name="of_rail" joint="rail"/>
"""


@dataclass(frozen=True)
class Filtered(RobotTask):
    """The arm, whose targets are filtered."""

    act: Any = None

    actuation: ClassVar[Actuation] = Actuation(joints=("hip", "knee"))

    def edit(self, spec: mujoco.MjSpec) -> None:
        spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT

    def reset(self, robot: Robot, key: jax.Array, level: jax.Array) -> Start:
        return Start(act=self.act)

    def observe(self, s: State) -> Any:
        return s.qpos

    def rewards(self, s: State) -> Any:
        return {"none": 0.0}


@pytest.mark.parametrize(
    ("key", "act", "expected"),
    [
        ("", None, [0.3, -0.4]),  # what the filters come to, within their ranges
        ('ctrl="9 9 9"', None, [0.3, -0.4]),  # the targets are the home pose's
        ('act=".1 -.2"', None, [0.1, -0.2]),  # the keyframe's
        ('act=".1 -.2"', jnp.array([0.5, 0.6]), [0.5, 0.6]),  # the task's
    ],
)
def test_activations_begin_settled(key: str, act: Any, expected: list[float]) -> None:
    spec = mujoco.MjSpec.from_string(ARM.format(actuators=FILTERED, key=key, tendon="cable"))
    env = RobotEnvironment(Filtered(model=spec, act=act), 2)
    (_, physics), _ = env.reset(jax.random.key(0))
    model, data = env.robot.model, mujoco.MjData(env.robot.model)
    mujoco.mj_setState(model, data, physics.rows[1], mujoco.mjtState.mjSTATE_INTEGRATION)
    close(data.act, expected)


def test_an_action_of_0_leaves_filtered_servos_at_home() -> None:
    text = ARM.format(actuators=FILTERED, key="", tendon="cable").replace('actrange="-.4 1"', "")
    spec = mujoco.MjSpec.from_string(text.replace('actlimited="true"', ""))
    env = RobotEnvironment(Filtered(model=spec), 1)
    state, _ = env.reset(jax.random.key(0))
    for _ in range(10):
        state, step = env.step(state, np.zeros((1, 2), np.float32))
    close(step.observation["observation"][0], HOME, tolerance=1e-4)


POSITION, SPEED = '<position name="p{}" joint="hip" kp="50"/>', '<velocity name="v" joint="hip"/>'
PUSH = '<motor name="m" joint="hip"/>'


@pytest.mark.parametrize(
    ("actuators", "options", "left"),
    [
        ([POSITION, SPEED], {}, ["position", "velocity"]),  # the speed of 0 damps it
        ([SPEED, POSITION], {}, ["velocity", "position"]),
        ([PUSH, POSITION], {}, ["torque", "position"]),
        ([SPEED, PUSH], {"kind": "torque"}, ["velocity", "torque"]),
        ([POSITION, SPEED], {"stiffness": 30.0, "damping": 1.0}, ["position"]),
        ([POSITION, POSITION], {"stiffness": 30.0}, ["position"]),
        ([PUSH, SPEED, POSITION], {"kind": "velocity", "damping": 1.0}, ["velocity"]),
    ],
)
def test_a_joint_with_several_actuators_is_driven_by_the_one_that_is_meant(
    actuators: list[str], options: dict[str, Any], left: list[str]
) -> None:
    text = "".join(one.format(i) for i, one in enumerate(actuators))
    model, controls = driven(text, joints="hip", **options)
    assert [kind_of(model.actuator(i)) for i in range(model.nu)] == left
    kind = options.get("kind", "position")
    assert controls.actuators.tolist() == [left.index(kind)]
    ctrl = np.asarray(controls.ctrl(jnp.array([0.2], jnp.float32)))
    assert np.flatnonzero(ctrl).tolist() == [left.index(kind)]
    if options.get("stiffness"):
        close(forces(model, ctrl, HOME)[0], 30 * 0.5 * 0.2)


@pytest.mark.parametrize(
    ("actuators", "options", "says"),
    [
        (
            [POSITION, POSITION],
            {},
            r"2 actuators: position \(p0\), position \(p1\); give stiffness",
        ),
        ([POSITION, PUSH], {"kind": "torque"}, r"position \(p0\), torque \(m\); leave one in"),
        ([POSITION, SPEED], {"kind": "velocity"}, r"position \(p0\), velocity \(v\)"),
        ([SPEED], {}, "the actuator of joint 'hip' of arm takes no position"),
    ],
)
def test_actuators_that_would_fight_are_refused(
    actuators: list[str], options: dict[str, Any], says: str
) -> None:
    text = "".join(one.format(i) for i, one in enumerate(actuators))
    with pytest.raises(UserError, match=says):
        driven(text, joints="hip", **options)


@pytest.mark.parametrize("name", ["arm[1]", "a*", "[hip", "hip?", "(x)", "a.b"])
def test_a_name_that_is_just_so_comes_before_patterns(name: str) -> None:
    other = "axx" if name == "a*" else "hipp"
    text = ARM.replace('"hip"', f'"{name}"').replace('"knee"', f'"{other}"')
    text = text.format(actuators="", key="", tendon="cable")
    spec = mujoco.MjSpec.from_string(text)
    actuation = Actuation(stiffness={"*": 5.0, name: 30.0}, joints=(name, other))
    actuation.prepare(spec, "arm")
    robot = Robot(compile_spec(spec, "arm"), "arm")
    assert robot.model.actuator_gainprm[:, 0].tolist() == [30.0, 5.0]
    assert robot.ids("joint", name).tolist() == [0]


def test_an_actuator_in_the_parents_frame_is_the_joints() -> None:
    servo = '<position name="of_hip" jointinparent="hip" kp="30"/>'
    model, controls = driven(servo, joints="hip")
    assert (model.nu, controls.actuators.tolist()) == (1, [0])


def test_a_joint_without_a_name_cannot_get_an_actuator() -> None:
    text = ARM.replace('name="rail" ', "").replace('<joint joint="rail" coef="2"/>', "")
    spec = mujoco.MjSpec.from_string(text.format(actuators="", key="", tendon="cable"))
    with pytest.raises(UserError, match=r"a joint of the body 'hand' of arm .* has no name"):
        Actuation(stiffness=5.0).prepare(spec, "arm")
