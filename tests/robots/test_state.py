"""A state read by name: against MuJoCo's own calculations, also after steps; names that are wrong."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from mujoco.batch import Batch

from surefoot.errors import UserError
from surefoot.robots import Actuation, Robot, RobotEnvironment, RobotTask, Start, State
from surefoot.robots.model import installed, read_spec
from surefoot.robots.state import Episode, Reads, stage_of

# every kind of joint, frames that are turned, things that touch and things that do not
CRATE = """
<mujoco>
  <option timestep="0.004" density="1.2" viscosity="0.001" integrator="implicitfast"/>
  <default><default class="light"><geom contype="0" conaffinity="0"/></default></default>
  <worldbody>
    <light name="lamp" mode="trackcom" pos="1 0 2"/>
    <geom name="floor" type="plane" size="5 5 .1"/>
    <body name="crate" pos="0 0 .13" gravcomp=".1">
      <freejoint name="root"/>
      <camera name="eye" pos=".1 0 .1" euler="10 20 30"/>
      <geom name="cube" type="box" size=".1 .1 .1" mass="2"/>
      <geom name="step" type="box" size=".03 .1 .03" pos=".15 0 -.07" mass=".2"/>
      <geom name="knob" type="sphere" size=".03" pos="0 0 .2" mass=".1"/>
      <site name="tip" pos=".2 .1 .3" euler="30 40 50"/>
      <body name="lid" pos="-.05 0 .15" euler="0 0 15">
        <joint name="hinge" axis="0 1 0" damping=".1" stiffness="2" range="-60 60"/>
        <geom name="plate" class="light" type="box" size=".05 .05 .01" pos=".05 0 .02" mass=".3"/>
        <site name="hook" pos=".05 0 .05"/>
        <body name="ball" pos="0 0 .1">
          <joint name="socket" type="ball" damping=".1" stiffness="10"/>
          <geom name="bob" class="light" type="sphere" size=".03" pos="0 0 .1" mass=".2"/>
          <body name="drawer" pos="0 .1 .1">
            <joint name="slide" type="slide" axis="0 0 1" stiffness="50" damping="1"/>
            <geom name="coin" class="light" type="sphere" size=".02" mass=".1"/>
          </body>
        </body>
      </body>
    </body>
    <body name="marble" pos="1 1 .04"><freejoint name="rolls"/>
      <geom name="marble" type="sphere" size=".03" mass=".1"/><site name="top" pos=".01 0 .03"/></body>
  </worldbody>
  <tendon><spatial name="rope" springlength=".1" stiffness="5" damping=".1">
    <site site="tip"/><site site="hook"/></spatial></tendon>
  <actuator><position name="motor" joint="hinge" kp="5" kv=".5"/></actuator>
  <sensor>
    <gyro name="gyro" site="tip"/><velocimeter name="speed" site="tip"/>
    <jointpos name="angle" joint="hinge"/><framepos name="place" objtype="site" objname="tip"/>
  </sensor>
  <keyframe><key name="home" qpos="0 0 .13 1 0 0 0 .2 1 0 0 0 .01 1 1 .04 1 0 0 0" ctrl=".2"/></keyframe>
</mujoco>
"""


class Fields:
    """What was read of the engine, by field: all of an MjData."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __getitem__(self, name: str) -> Any:
        return jnp.asarray(getattr(self._data, name))


def state_of(robot: Robot, fields: Any, steps: int = 7) -> State:
    now = Episode(
        key=jax.random.key(3),
        steps=jnp.asarray(steps),
        level=2.0,
        command="a command",
        carry="a carry",
        action="an action",
        last_action="the one before",
        control=None,
        sensing=None,
    )
    return State(robot, fields, now, 0.02)


@pytest.fixture(scope="module", params=["go1", "crate"])
def moving(request: pytest.FixtureRequest) -> Any:
    """A robot, its data somewhere in motion, and the state that is read of it."""
    if request.param == "go1":
        spec = read_spec(installed("unitree_go1/go1.xml"))
    else:
        spec = mujoco.MjSpec.from_string(CRATE)
    robot = Robot(spec.compile(), request.param)
    data, rng = mujoco.MjData(robot.model), np.random.default_rng(0)
    data.qpos[:] = robot.home
    mujoco.mj_integratePos(robot.model, data.qpos, rng.normal(size=robot.model.nv) * 0.4, 1.0)
    data.qvel[:], data.ctrl[:] = rng.normal(size=robot.model.nv), rng.normal(size=robot.model.nu)
    mujoco.mj_forward(robot.model, data)
    return SimpleNamespace(robot=robot, data=data, s=state_of(robot, Fields(data)))


def close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


# by name -----------------------------------------------------------------------------------------


def test_every_joint_reads_its_own_numbers(moving: Any) -> None:
    s, data = moving.s, moving.data
    for name in filter(None, moving.robot.names["joint"]):
        joint, theirs = s.joint(name), data.joint(name)
        if theirs.qpos.size == 1:  # a number, not a vector of one
            assert joint.qpos.shape == joint.qvel.shape == joint.torque.shape == ()
        close(jnp.ravel(joint.qpos), theirs.qpos)
        close(jnp.ravel(joint.qvel), theirs.qvel)
        close(jnp.ravel(joint.torque), theirs.qfrc_actuator)


def test_joints_are_vectors_in_the_models_order(moving: Any) -> None:
    names = [
        name
        for name, kind in zip(moving.robot.names["joint"], moving.robot.model.jnt_type, strict=True)
        if mujoco.mjtJoint(int(kind)).name in ("mjJNT_HINGE", "mjJNT_SLIDE")
    ]
    joints, data = moving.s.joints(), moving.data
    close(joints.qpos, [data.joint(name).qpos[0] for name in names])
    close(joints.qvel, [data.joint(name).qvel[0] for name in names])
    close(joints.qacc, [data.joint(name).qacc[0] for name in names], tolerance=1e-4)
    close(joints.torque, [data.joint(name).qfrc_actuator[0] for name in names])
    some = moving.s.joints([names[-1], names[0]])
    close(some.qpos, [data.joint(name).qpos[0] for name in (names[0], names[-1])])
    close(moving.s.joints(names[0][:-1] + "?").qpos, [data.joint(names[0]).qpos[0]])


def test_joints_have_a_home_and_limits_where_there_are_any() -> None:
    robot = Robot(mujoco.MjSpec.from_string(CRATE).compile(), "crate")
    joints = state_of(robot, {}).joints()
    close(joints.home, [0.2, 0.01])
    close(joints.lower, [-np.pi / 3, -np.inf])
    close(joints.upper, [np.pi / 3, np.inf])


KINDS = {
    "body": ("mjOBJ_XBODY", "xpos", "xmat"),
    "geom": ("mjOBJ_GEOM", "xpos", "xmat"),
    "site": ("mjOBJ_SITE", "xpos", "xmat"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_where_mujoco_says_and_move_as_it_says(moving: Any, kind: str) -> None:
    robot, data = moving.robot, moving.data
    object_type, place, turn = KINDS[kind]
    object_type = getattr(mujoco.mjtObj, object_type)
    names = [name for name in robot.names[kind] if name]
    assert len(names) > 1
    for name in names:
        frame, theirs = getattr(moving.s, kind)(name), getattr(data, kind)(name)
        close(frame.position, getattr(theirs, place))
        close(frame.rotation, getattr(theirs, turn).reshape(3, 3))
        world, local = np.zeros((2, 6))
        for local_axes, out in ((0, world), (1, local)):
            mujoco.mj_objectVelocity(
                robot.model, data, object_type, theirs.id, out, local_axes
            )  # turning first
        close(frame.angular_velocity, world[:3])
        close(frame.velocity, world[3:])
        close(frame.local_angular_velocity, local[:3])
        close(frame.local_velocity, local[3:])
        back, quat, gravity = np.zeros(4), np.zeros(4), np.zeros(3)
        mujoco.mju_mat2Quat(quat, getattr(theirs, turn))
        mujoco.mju_negQuat(back, quat)
        mujoco.mju_rotVecQuat(gravity, np.array([0.0, 0.0, -1.0]), back)
        close(frame.gravity, gravity)
        close(frame.up, -gravity[2])


@pytest.mark.parametrize(("kind", "field"), [("geom", "geom_xpos"), ("site", "site_xpos")])
def test_velocities_are_how_positions_change(moving: Any, kind: str, field: str) -> None:
    model, data = moving.robot.model, moving.data
    ends = []
    for step in (-1e-6, 1e-6):
        later = mujoco.MjData(model)
        later.qpos[:] = data.qpos
        mujoco.mj_integratePos(model, later.qpos, data.qvel, step)
        mujoco.mj_kinematics(model, later)
        ends.append(getattr(later, field).copy())
    speeds = (ends[1] - ends[0]) / 2e-6
    for index, name in enumerate(moving.robot.names[kind]):
        if name:
            close(getattr(moving.s, kind)(name).velocity, speeds[index], tolerance=2e-5)


def test_upright_upside_down_and_leaning_by_hand() -> None:
    robot = Robot(mujoco.MjSpec.from_string(CRATE).compile(), "crate")
    data = mujoco.MjData(robot.model)
    half = np.sqrt(0.5)
    for quat, gravity, up in (
        ((1, 0, 0, 0), (0, 0, -1), 1),
        ((0, 1, 0, 0), (0, 0, 1), -1),
        ((half, 0, half, 0), (1, 0, 0), 0),  # nose down: gravity pulls forward
        ((half, half, 0, 0), (0, -1, 0), 0),  # on the right side: to the right
        ((half, 0, 0, half), (0, 0, -1), 1),  # turned left alone
    ):
        data.qpos[3:7] = quat
        mujoco.mj_kinematics(robot.model, data)
        crate = state_of(robot, Fields(data)).body("crate")
        close(crate.gravity, gravity)
        close(crate.up, up)


def test_sensors_and_actuators_read_their_own_numbers(moving: Any) -> None:
    s, data = moving.s, moving.data
    for name in moving.robot.names["sensor"]:
        close(s.sensor(name), data.sensor(name).data)
    for name in moving.robot.names["actuator"]:
        close(s.actuator(name).force, data.actuator(name).force[0])
        close(s.actuator(name).ctrl, data.actuator(name).ctrl[0])


def test_a_frames_own_velocities_are_what_sensors_there_measure() -> None:
    robot = Robot(mujoco.MjSpec.from_string(CRATE).compile(), "crate")
    data = mujoco.MjData(robot.model)
    data.qvel[:] = np.random.default_rng(1).normal(size=robot.model.nv)
    mujoco.mj_forward(robot.model, data)
    s = state_of(robot, Fields(data))
    close(s.site("tip").local_angular_velocity, s.sensor("gyro"))
    close(s.site("tip").local_velocity, s.sensor("speed"))
    close(s.site("tip").position, s.sensor("place"))


def test_what_lasts_beside_the_physics() -> None:
    robot = Robot(mujoco.MjSpec.from_string(CRATE).compile(), "crate")
    s, later = state_of(robot, {}, 7), state_of(robot, {}, 8)
    close(s.time_s, 0.14)
    assert (s.command, s.carry, s.level) == ("a command", "a carry", 2.0)
    assert (s.action, s.last_action) == ("an action", "the one before")
    assert s.key == state_of(robot, {}, 7).key
    assert s.key != later.key


# names that are wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (lambda s: s.joint("hing"), "crate has no joint 'hing'; did you mean 'hinge'"),
        (lambda s: s.joints("hinges*"), r"no joint that matches 'hinges\*'; did you mean 'hinge'"),
        (lambda s: s.body("create"), "crate has no body 'create'; did you mean 'crate'"),
        (lambda s: s.site("tipp"), "crate has no site 'tipp'; did you mean 'tip'"),
        (lambda s: s.geom("cub"), "crate has no geom 'cub'; did you mean 'cube'"),
        (lambda s: s.sensor("gyros"), "crate has no sensor 'gyros'; did you mean 'gyro'"),
        (lambda s: s.actuator("moto"), "crate has no actuator 'moto'; did you mean 'motor'"),
        (lambda s: s.contact("kube"), "crate has no geom or body 'kube'; did you mean 'cube'"),
        (lambda s: s.contact("lidd"), "crate has no geom or body 'lidd'; did you mean 'lid'"),
        (lambda s: s.contact(""), "crate has no geom or body ''"),
    ],
)
def test_names_that_are_not_there_are_refused_with_near_matches(read: Any, says: str) -> None:
    robot = Robot(mujoco.MjSpec.from_string(CRATE).compile(), "crate")
    with pytest.raises(UserError, match=says):
        read(state_of(robot, Reads(robot)))


@pytest.mark.parametrize(("geoms", "both"), [("", False), ("<geom size='.1' pos='1 0 0'/>", True)])
def test_what_touches_a_geom_or_a_body_of_one_name_has_to_be_said_where_it_differs(
    geoms: str, both: bool
) -> None:
    looks = "<geom size='.2' contype='0' conaffinity='0'/>"
    body = f"<body name='box'><freejoint/><geom name='box' size='.1'/>{looks}{geoms}</body>"
    spec = mujoco.MjSpec.from_string(f"<mujoco><worldbody>{body}</worldbody></mujoco>")
    robot = Robot(spec.compile(), "box")
    reads = Reads(robot)
    s = state_of(robot, reads)
    for kind in ("geom", "body"):
        s.contact("box", kind)
        assert reads.sensors.popitem()[0] == f"contact of {kind} box"
    if both:
        with pytest.raises(UserError, match=r"a geom and a body 'box'.*contact\('box', 'body'\)"):
            s.contact("box")
    else:
        s.contact("box")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("qposs", "qpos"),
        ("site_xpo", "site_xpos"),
        ("comand", "command"),
        ("last_actions", "last_action"),
        ("sensors", "sensor"),
        ("qfrc_inverse", ""),  # MuJoCo has it, and no step calculates it
        ("_hidden", ""),
    ],
)
def test_attributes_that_are_not_there_are_refused_with_near_matches(name: str, near: str) -> None:
    robot = Robot(mujoco.MjSpec.from_string(CRATE).compile(), "crate")
    with pytest.raises(AttributeError, match=f"the state has no '{name}'.*{near}"):
        getattr(state_of(robot, {}), name)


def test_what_is_read_is_noted_and_nothing_else() -> None:
    robot = Robot(mujoco.MjSpec.from_string(CRATE).compile(), "crate")
    for read, fields in (
        (lambda s: s.joint("hinge").qpos, {"qpos"}),
        (lambda s: s.joints("*").lower, set()),
        (lambda s: s.body("crate").up, {"xmat"}),
        (lambda s: s.site("tip").velocity, {"cvel", "site_xpos", "subtree_com"}),
        (lambda s: s.sensor("gyro"), {"sensordata"}),
        (lambda s: s.actuator("motor").force, {"actuator_force"}),
        (lambda s: s.contact("cube").found, {"sensordata"}),
        (lambda s: s.cfrc_ext, {"cfrc_ext", "sensordata"}),
        (lambda s: s.command, set()),
    ):
        reads = Reads(robot)
        read(state_of(robot, reads))
        assert reads.fields == fields


# what has to be calculated after a step ----------------------------------------------------------

NOW = (
    *("xpos", "xquat", "xmat", "xipos", "ximat", "xanchor", "xaxis", "geom_xpos", "geom_xmat"),
    *("site_xpos", "site_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir", "subtree_com"),
    *("ten_length", "actuator_length", "cdof", "cinert", "M", "cvel", "cdof_dot", "ten_velocity"),
    *("actuator_velocity", "qfrc_bias", "qfrc_passive", "qfrc_spring", "qfrc_damper"),
    *("qfrc_gravcomp", "qfrc_fluid", "sensordata", "subtree_linvel", "subtree_angmom", "energy"),
    *("qpos", "qvel", "ctrl", "time"),
)


def crate_with_sensors(*types: str) -> Robot:
    spec = mujoco.MjSpec.from_string(CRATE)
    if types:
        for sensor in spec.sensors:
            spec.delete(sensor)
    for name in types:
        site = {"objtype": mujoco.mjtObj.mjOBJ_SITE, "objname": "tip"}
        spec.add_sensor(type=getattr(mujoco.mjtSensor, f"mjSENS_{name}"), **site)
    return Robot(spec.compile(), "crate")


def test_the_refresh_is_the_least_that_makes_fields_those_of_now() -> None:
    robot = Robot(mujoco.MjSpec.from_string(CRATE).compile(), "crate")
    nothing, position, velocity = 0, 1, 2
    for fields, stage in (
        ((), nothing),
        (("qpos", "qvel", "ctrl", "time"), nothing),
        (("qacc", "actuator_force", "qfrc_actuator", "cfrc_ext"), nothing),  # of the last substep
        (("xpos",), position),
        (("qpos", "site_xmat", "subtree_com"), position),
        (("cvel",), velocity),
        (("xpos", "cvel", "qacc"), velocity),
        (("qfrc_passive",), velocity),
        (("sensordata",), velocity),  # a gyroscope is among them
    ):
        assert stage_of(robot, fields) == stage, fields
    for types, stage in (
        (("FRAMEPOS",), position),
        (("FRAMEPOS", "GYRO"), velocity),
        (("ACCELEROMETER",), nothing),
        (("FRAMEPOS", "ACCELEROMETER"), position),
    ):
        assert stage_of(crate_with_sensors(*types), ["sensordata"]) == stage, types


def with_what_is_read(names: Any) -> Robot:
    """The crate with the sensors that reading fields brings along."""
    robot = Robot(mujoco.MjSpec.from_string(CRATE).compile(), "crate")
    reads = Reads(robot)
    for name in names:
        getattr(state_of(robot, reads), name)
    spec = mujoco.MjSpec.from_string(CRATE)
    for sensor in reads.sensors.values():
        sensor.add_to(spec)
    return Robot(spec.compile(), "crate")


def test_fields_are_those_of_now_after_a_step_and_not_one_substep_old() -> None:
    robot = with_what_is_read(NOW)
    model = robot.model

    def played(stages: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
        fields, rows = {}, np.zeros(0)
        for stage in (0, 1, 2):
            batch = Batch(model, 2, 1)
            bound = {n: batch.bind(n) for n in NOW if stage_of(robot, [n]) == stage}
            batch.qpos, batch.ctrl = robot.home, 0.5
            batch.bind("qvel")[:] = np.random.default_rng(0).normal(size=(2, model.nv))
            for _ in range(5):
                batch.step(nstep=3, stage=stages(stage))
            fields |= {name: np.array(x[1]) for name, x in bound.items()}
            rows = batch.state[1].copy()
        return fields, rows

    fields, rows = played(lambda stage: stage)
    data = mujoco.MjData(model)
    mujoco.mj_setState(model, data, rows, mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(model, data)
    mujoco.mj_subtreeVel(model, data)
    mujoco.mj_energyPos(model, data)
    mujoco.mj_energyVel(model, data)
    assert set(fields) == set(NOW)
    for name, x in fields.items():
        ours, theirs = x, np.asarray(getattr(data, name))
        if name == "sensordata":  # without those that follow from accelerations, which are old
            ours, theirs = ours[:10], theirs[:10]
        assert np.abs(theirs).max() > 0, f"{name} shows nothing"
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12, err_msg=name)
    old, _ = played(lambda stage: 0)
    state = {"time", "qpos", "qvel", "ctrl"}
    stale = {n for n in NOW if not np.allclose(old[n], fields[n], rtol=1e-9, atol=1e-12)}
    assert not stale & state
    assert len(stale) > len(NOW) - len(state) - 3, "the test would see it"


# an environment that reads them ------------------------------------------------------------------

SUBSTEPS = 4
TOUCHED = ("cube", "step", "knob", "floor", "crate", "lid", "marble")  # geoms and bodies


@dataclass(frozen=True)
class Crate(RobotTask):
    """A crate falls a little, slides, and comes to rest."""

    model: Any = lambda: mujoco.MjSpec.from_string(CRATE)
    control_dt_s: float = 0.016

    actuation: ClassVar[Actuation] = Actuation(joints="hinge")

    def reset(self, robot: Robot, key: jax.Array, level: jax.Array) -> Start:
        qvel = jnp.zeros(robot.model.nv).at[0].set(0.8).at[5].set(1.0)
        return Start(qvel=qvel)

    def observe(self, s: State) -> Any:
        touched = {name: s.contact(name) for name in TOUCHED}
        return {
            "found": jnp.stack([contact.found for contact in touched.values()]),
            "force": jnp.stack([contact.force for contact in touched.values()]),
            "tip": jnp.concatenate([s.site("tip").position, s.site("tip").velocity]),
            "gyro": s.sensor("gyro"),
            "subtree": s.subtree_linvel,
            "energy": s.energy,
            "on_bodies": s.cfrc_ext,
            "hinge": jnp.stack([s.joint("hinge").torque, s.joints("hinge").qacc[0]]),
        }

    def rewards(self, s: State) -> Any:
        return {"none": jnp.zeros(())}


@pytest.fixture(scope="module")
def slid() -> Any:
    """An environment's steps, each with the engine's own numbers of its last substep and of its end."""
    env = RobotEnvironment(Crate(), 1)
    model = env.robot.model
    state, first = env.reset(jax.random.key(0))
    steps = []
    for t in range(100):
        before = state[1].rows[0]
        state, step = env.step(state, np.full((1, 1), np.sin(t / 3), np.float32))
        last, now = mujoco.MjData(model), mujoco.MjData(model)
        both = mujoco.mjtState.mjSTATE_INTEGRATION
        mujoco.mj_setState(model, last, state[1].rows[0], both)
        ctrl = last.ctrl.copy()
        mujoco.mj_setState(model, last, before, both)
        last.ctrl[:] = ctrl
        for _ in range(SUBSTEPS - 1):
            mujoco.mj_step(model, last)
        now = copy.copy(last)
        mujoco.mj_forward(model, last)
        mujoco.mj_rnePostConstraint(model, last)
        mujoco.mj_step(model, now)
        np.testing.assert_array_equal(now.qpos, state[1].rows[0, 1 : 1 + model.nq])
        mujoco.mj_forward(model, now)
        shown = {name: np.asarray(x)[0] for name, x in step.observation.items()}
        steps.append(SimpleNamespace(last=last, now=now, **shown))
    env.close()
    return SimpleNamespace(robot=env.robot, steps=steps, first=first)


def touching(model: Any, data: Any, name: str) -> tuple[int, np.ndarray]:
    """How many contacts a geom, or a body's geoms have, and the force on it: contact by contact."""
    geoms = [model.geom(i).name for i in range(model.ngeom)]
    if name in geoms:
        mine = {geoms.index(name)}
    else:
        mine = set(np.flatnonzero(model.geom_bodyid == model.body(name).id).tolist())
    count, total = 0, np.zeros(3)
    for i, contact in enumerate(data.contact):
        on_first, on_second = contact.geom1 in mine, contact.geom2 in mine
        if not (on_first or on_second):
            continue
        local = np.zeros(6)
        mujoco.mj_contactForce(model, data, i, local)  # what the first does to the second
        force = contact.frame.reshape(3, 3).T @ local[:3]
        count, total = count + 1, total + (force if on_second else -force)
    return count, total


def test_contacts_are_found_and_felt_as_in_the_last_substep(slid: Any) -> None:
    model, seen = slid.robot.model, set()
    for step in slid.steps:
        for i, name in enumerate(TOUCHED):
            count, force = touching(model, step.last, name)
            assert bool(step.found[i]) == (count > 0), name
            np.testing.assert_allclose(
                step.force.reshape(-1, 3)[i], force, rtol=1e-4, atol=1e-3, err_msg=name
            )
            seen.add((name, count > 0))
    assert seen >= {("cube", True), ("cube", False), ("crate", True), ("marble", True)}
    assert {name for name, found in seen if found} == set(TOUCHED) - {"knob", "lid"}


def test_the_floor_carries_the_weight_and_slows_what_slides(slid: Any) -> None:
    model = slid.robot.model
    carried = model.body_subtreemass[model.body("crate").id] - 0.1 * model.body("crate").mass[0]
    forces = {name: slid.steps[-1].force.reshape(-1, 3)[i] for i, name in enumerate(TOUCHED)}
    assert forces["crate"][2] == pytest.approx(carried * 9.81, rel=0.1)
    assert forces["marble"][2] == pytest.approx(0.1 * 9.81, rel=0.1)
    np.testing.assert_allclose(forces["cube"] + forces["step"], forces["crate"], atol=1e-4)
    np.testing.assert_allclose(forces["floor"], -forces["crate"] - forces["marble"], atol=1e-4)
    np.testing.assert_array_equal(forces["knob"], 0.0)
    landed = next(step for step in slid.steps if step.found[0])
    assert landed.now.qvel[0] > 0.1
    assert landed.force.reshape(-1, 3)[0][0] < -0.1  # back, against the motion


def test_what_follows_from_positions_and_velocities_is_of_now(slid: Any) -> None:
    model = slid.robot.model
    for step in slid.steps[::10]:
        data = step.now
        mujoco.mj_subtreeVel(model, data)
        mujoco.mj_energyPos(model, data)
        mujoco.mj_energyVel(model, data)
        velocity = np.zeros(6)
        tip = data.site("tip")
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_SITE, tip.id, velocity, 0)
        close(step.tip, [*tip.xpos, *velocity[3:]])
        close(step.gyro, data.sensor("gyro").data)
        close(step.subtree, data.subtree_linvel.ravel())
        close(step.energy, data.energy)
        assert not np.allclose(step.tip[3:], 0, atol=1e-3)


def test_what_follows_from_forces_is_of_the_last_substep(slid: Any) -> None:
    for step in slid.steps[::10]:
        close(step.on_bodies, step.last.cfrc_ext.ravel(), tolerance=1e-3)
        close(step.hinge, [step.last.joint("hinge").qfrc_actuator[0], step.last.qacc[6]], 1e-3)
    assert max(np.abs(step.on_bodies).max() for step in slid.steps) > 10


def test_a_reset_shows_what_is_there_and_no_old_contact(slid: Any) -> None:
    first = {name: np.asarray(x)[0] for name, x in slid.first.observation.items()}
    np.testing.assert_array_equal(first["found"], 0)
    np.testing.assert_array_equal(first["force"], 0)
    data = mujoco.MjData(slid.robot.model)
    data.qpos[:] = slid.robot.home
    data.qvel[:] = np.eye(data.qvel.size)[0] * 0.8 + np.eye(data.qvel.size)[5]
    mujoco.mj_forward(slid.robot.model, data)
    close(first["tip"][:3], data.site("tip").xpos)
    close(first["gyro"], data.sensor("gyro").data)
