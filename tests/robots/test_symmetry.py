"""A robot's mirror image: found from names and axes, checked on its motion, carried over to what is seen."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
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
from surefoot.robots.model import compile_spec, read_spec
from surefoot.robots.symmetry import Mirror, ModelSymmetry, find_symmetry
from surefoot.robots.tasks.quadrupeds import Go1Walk

laws = settings(max_examples=25)
seeds = st.integers(0, 2**32 - 1)
SIDES = Mirror((("L_", "R_"),))
SEEN = np.array([1.0, -1.0, 1.0])  # a place in the mirror

# joints of every kind; the right thigh's axis is the other way around, as motors are mounted
LEG = """
  <body name="{s}hip" pos="0 {y}.1 0">
    <joint name="{s}roll" axis="1 0 0" {roll}/>
    <geom name="{s}hip" type="sphere" size=".03" mass=".3" pos="0 {y}.03 0"/>
    <body name="{s}thigh" pos="0 {y}.05 0">
      <joint name="{s}pitch" axis="0 {t}1 0" damping="{damping}"/>
      <geom name="{s}thigh" type="capsule" fromto="0 0 0 .05 {y}.02 -.2" size=".02" mass=".5"/>
      <body name="{s}shin" pos=".05 {y}.02 -.2">
        <joint name="{s}slide" type="slide" axis="0 1 0" stiffness="200" damping="3"/>
        <geom name="{s}foot" type="sphere" size=".03" mass="{mass}" friction="{friction} .005 .0001"/>
        <site name="{s}sole" pos="0 {y}.01 -.03"/>
        <body name="{s}toe" pos=".05 {y}.01 0">
          <joint name="{s}socket" type="ball" stiffness=".5" damping=".02"/>
          <geom name="{s}toe" type="capsule" fromto="0 0 0 .05 {y}.02 .01" size=".01" mass=".1"/>
        </body>
      </body>
    </body>
  </body>
"""
BIRD = """
<mujoco>
  <option timestep="0.002"/>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 .1"/>
    <body name="trunk" pos="0 0 .26"><freejoint name="root"/>
      <geom name="trunk" type="box" size=".12 .08 .05" mass="3"/>
      {left}{right}
      <body name="neck" pos=".12 0 .05"><joint name="nod" axis="0 1 0" damping=".1"/>
        <geom name="neck" type="capsule" fromto="0 0 0 .05 0 .1" size=".02" mass=".2"/>
        <body name="head" pos=".05 0 .1"><joint name="turn" axis="0 0 1" damping=".05"/>
          <geom name="head" type="box" size=".05 .02 .02" mass=".2" pos=".03 0 .02"/></body></body>
    </body>
  </worldbody>
  <tendon><fixed name="L_cord"><joint joint="L_pitch" coef="1"/></fixed>
    <fixed name="R_cord"><joint joint="R_pitch" coef="-1"/></fixed></tendon>
  <actuator>{actuators}</actuator>
</mujoco>
"""
MOTORS = """
  <position name="nod" joint="nod" kp="5"/>
  <position name="R_roll" joint="R_roll" kp="20" kv=".5" ctrlrange="-1 2"/>
  <position name="R_pitch" joint="R_pitch" kp="20" kv=".5"/>
  <position name="L_pitch" joint="L_pitch" kp="{kp}" kv=".5"/>
  <position name="L_roll" joint="L_roll" kp="20" kv=".5" ctrlrange="{range}" forcerange="{force}"/>
  <position name="turn" joint="turn" kp="2"/>
"""


def bird(actuators: str | None = None, **left: Any) -> Robot:
    """A bird; what is given is so on its left side alone."""
    sides = {}
    for name, y, thigh in (("L_", "", ""), ("R_", "-", "-")):
        numbers = {"roll": "", "damping": 0.5, "mass": 0.2, "friction": 0.8}
        numbers |= {k: v for k, v in left.items() if k in numbers} if name == "L_" else {}
        sides[name] = LEG.format(s=name, y=y, t=thigh, **numbers)
    motors = {"kp": 20, "range": "-2 1", "force": "0 0"} | left
    if actuators is None:
        actuators = MOTORS.format(**{k: motors[k] for k in ("kp", "range", "force")})
    text = BIRD.format(left=sides["L_"], right=sides["R_"], actuators=actuators)
    return Robot(mujoco.MjModel.from_xml_string(text), "bird")


def go1() -> Robot:
    task = Go1Walk()
    spec = read_spec(task.model)
    task.actuation.prepare(spec, "go1")
    task.edit(spec)
    return Robot(compile_spec(spec, "go1"), "go1")


@pytest.fixture(scope="module")
def robots() -> Any:
    both = {"bird": (bird(), SIDES), "go1": (go1(), Go1Walk.mirror)}
    return {n: (robot, ModelSymmetry(mirror, robot)) for n, (robot, mirror) in both.items()}


def close(actual: Any, expected: Any, tolerance: float = 1e-6) -> None:
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


# the model ---------------------------------------------------------------------------------------


def test_the_reflection_of_a_bird_by_hand(robots: Any) -> None:
    robot, (qpos, qvel, ctrl) = robots["bird"]
    assert robot.names["joint"] == (
        *("root", "L_roll", "L_pitch", "L_slide", "L_socket"),
        *("R_roll", "R_pitch", "R_slide", "R_socket", "nod", "turn"),
    )
    # places and a quaternion; then, for a leg: roll, pitch (mounted the other way), slide, socket
    leg = [-1, -1, -1, 1, -1, 1, -1]
    assert qpos.places == (*range(7), *range(14, 21), *range(7, 14), 21, 22)
    assert qpos.signs == (1, -1, 1, 1, -1, 1, -1, *leg, *leg, 1, -1)
    leg = [-1, -1, -1, -1, 1, -1]
    assert qvel.places == (*range(6), *range(12, 18), *range(6, 12), 18, 19)
    assert qvel.signs == (1, -1, 1, -1, 1, -1, *leg, *leg, 1, -1)
    # the actuators are in another order than the joints
    assert ctrl.places == (0, 4, 3, 2, 1, 5)
    assert ctrl.signs == (1, -1, -1, -1, -1, -1)


@pytest.mark.parametrize("name", ["bird", "go1"])
@laws
@given(seed=seeds)
def test_the_mirror_image_of_the_mirror_image_is_the_state_itself(
    robots: Any, name: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    for part in robots[name][1]:
        vector = rng.normal(size=len(part.places))
        np.testing.assert_array_equal(part(part(vector)), vector)
        assert not np.array_equal(part(vector), vector)


def moved(robot: Robot, state: Any, ctrls: Any) -> list[Any]:
    """A simulation from (qpos, qvel) on, with its controls; a copy of every 10th step."""
    data, rows = mujoco.MjData(robot.model), []
    data.qpos[:], data.qvel[:] = state
    for t, ctrl in enumerate(ctrls):
        data.ctrl[:] = ctrl
        mujoco.mj_step(robot.model, data)
        if t % 10 == 9:
            rows.append(
                SimpleNamespace(
                    qpos=data.qpos.copy(),
                    qvel=data.qvel.copy(),
                    xpos=data.xpos.copy(),
                    contacts=data.ncon,
                )
            )
    return rows


@pytest.mark.parametrize(("name", "steps", "tolerance"), [("bird", 150, 1e-6), ("go1", 40, 0.02)])
def test_mirrored_states_move_as_mirror_images(
    robots: Any, name: str, steps: int, tolerance: float
) -> None:
    robot, symmetry = robots[name]
    rng, model = np.random.default_rng(0), robot.model
    touched = 0
    for _ in range(3):
        qpos = robot.home.copy()
        mujoco.mj_integratePos(model, qpos, rng.normal(size=model.nv) * 0.1, 1.0)
        qpos[2] = robot.home[2] + 0.1
        qvel = rng.normal(size=model.nv) * 0.5
        ctrls = robot.home_ctrl + rng.normal(size=(steps // 10, model.nu)).repeat(10, axis=0) * 0.2
        plain = moved(robot, (qpos, qvel), ctrls)
        image = moved(robot, (symmetry.qpos(qpos), symmetry.qvel(qvel)), symmetry.ctrl(ctrls))
        bodies = robot.names["body"]
        partners = [bodies.index(symmetry.partner("body", body)) for body in bodies]
        for a, b in zip(plain, image, strict=True):
            close(b.qpos, symmetry.qpos(a.qpos), tolerance)
            scale = np.abs(a.qvel).max()
            close(b.qvel / scale, symmetry.qvel(a.qvel) / scale, tolerance * 5)
            close(b.xpos, a.xpos[partners] * SEEN, tolerance)  # and are where a mirror shows them
            assert a.contacts == b.contacts
            touched += a.contacts
        assert np.abs(plain[-1].qpos - plain[0].qpos).max() > 0.01
    assert touched > 0 or name == "go1"


@pytest.mark.parametrize(
    ("left", "says"),
    [
        ({"mass": 0.6}, "accelerations by .* at the joint '[LR]_slide' of body '[LR]_shin'"),
        ({"damping": 5.0}, "at the joint '[LR]_pitch' of body '[LR]_thigh'"),
        ({"kp": 60}, "at the joint '[LR]_pitch' of body '[LR]_thigh'"),
        (
            {"roll": 'range="-60 40"'},
            r"jnt_range of joint 'L_roll' is \[-1.04.*, by that of 'R_roll' .*\[-inf, inf\]",
        ),
        ({"range": "-1 2"}, "actuator_ctrlrange of actuator 'R_roll' is .*, by that of 'L_roll'"),
        ({"force": "-5 5"}, r"actuator_forcerange of actuator 'R_roll' is \[-inf"),
    ],
)
def test_a_robot_whose_sides_differ_is_refused_with_the_joint(left: Any, says: str) -> None:
    with pytest.raises(UserError, match=f"^bird is not symmetric: .*{says}"):
        ModelSymmetry(SIDES, bird(**left))


def test_how_far_sides_may_differ_is_the_mirrors_tolerance() -> None:
    robot = bird(mass=0.202)
    ModelSymmetry(SIDES, robot)
    with pytest.raises(UserError, match=r"differ in their accelerations by \d% \(tolerance 0%\)"):
        ModelSymmetry(Mirror(SIDES.swap, tolerance=1e-4), robot)


def edited(change: tuple[str, str], actuators: str = "") -> Robot:
    text = BIRD.format(
        left=LEG.format(s="L_", y="", t="", roll="", damping=0.5, mass=0.2, friction=0.8),
        right=LEG.format(s="R_", y="-", t="-", roll="", damping=0.5, mass=0.2, friction=0.8),
        actuators=actuators,
    )
    assert change[0] in text
    return Robot(mujoco.MjModel.from_xml_string(text.replace(*change)), "bird")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('name="R_roll"', 'name="rolling"'), "the joint 'L_roll' would be 'R_roll', which is not"),
        (
            ('name="R_slide" type="slide"', 'name="R_slide"'),
            "joint 'L_slide' and its mirror image differ in type",
        ),
        (
            ('name="R_roll" axis="1 0 0"', 'name="R_roll" axis="1 0 1"'),
            "axes of joint 'L_roll' and of its mirror image 'R_roll' are not mirror images",
        ),
        (('name="turn" axis="0 0 1"', 'name="turn" axis="0 1 1"'), "axes of joint 'turn' and"),
    ],
)
def test_a_partner_that_is_missing_or_no_image_is_refused(
    change: tuple[str, str], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        ModelSymmetry(SIDES, edited(change))


def test_an_actuator_without_partner_is_refused() -> None:
    with pytest.raises(UserError, match="bird: the actuator 'L_roll' has no mirror image"):
        ModelSymmetry(SIDES, bird('<position name="L_roll" joint="L_roll" kp="20"/>'))
    with pytest.raises(UserError, match="actuator 'L_pull' would be 'R_pull', which is not there"):
        ModelSymmetry(SIDES, bird('<position name="L_pull" tendon="L_cord" kp="20"/>'))


def test_an_actuator_of_a_tendon_drives_no_joint() -> None:
    arm = """<body pos="0 {y} 0"><joint name="{s}arm" axis="1 0 0"/><geom size=".1" pos="0 {y} 0"/></body>"""
    cord = """<fixed name="{s}cord"><joint joint="{s}arm" coef="1"/></fixed>"""
    robot = Robot(
        mujoco.MjModel.from_xml_string(f"""
          <mujoco><worldbody>{arm.format(s="L_", y=0.3)}{arm.format(s="R_", y=-0.3)}</worldbody>
          <tendon>{cord.format(s="L_")}{cord.format(s="R_")}</tendon>
          <actuator><motor joint="L_arm"/><motor joint="R_arm"/><damper tendon="L_cord" name="L_damp" kv="1"
            ctrlrange="0 1"/><damper tendon="R_cord" name="R_damp" kv="1" ctrlrange="0 1"/></actuator>
          </mujoco>"""),
        "arms",
    )
    ctrl = ModelSymmetry(SIDES, robot).ctrl
    assert (ctrl.places, ctrl.signs) == ((1, 0, 3, 2), (-1, -1, 1, 1))


def test_actuators_of_tendons_several_of_a_joint_and_gears_that_turn_are_told_apart() -> None:
    robot = bird("""
      <position name="L_pull" tendon="L_cord" kp="9"/><position name="R_pull" tendon="R_cord" kp="9"/>
      <motor joint="L_roll" gear="3"/><velocity joint="L_roll" kv=".5"/>
      <motor joint="R_roll" gear="-3"/><velocity joint="R_roll" kv=".5"/>
    """)
    ctrl = ModelSymmetry(SIDES, robot).ctrl
    assert ctrl.places == (1, 0, 4, 5, 2, 3)
    # rolls change sign and the motor's gear changes it back; the cords' pitches are both forward
    assert ctrl.signs == (1, 1, 1, -1, 1, -1)


# what a policy sees and does ---------------------------------------------------------------------


@dataclass(frozen=True)
class Fly(RobotTask):
    """A bird follows a turn that is asked for."""

    actuation: ClassVar[Actuation] = Actuation()
    mirror: ClassVar[Mirror | None] = SIDES
    sensing: ClassVar[Any] = {"heights": Sensing(history=3)}

    def command(self, key: jax.Array, level: jax.Array) -> Any:
        return jax.random.uniform(key, (2,), minval=-1.0)

    def reset(self, robot: Robot, key: jax.Array, level: jax.Array) -> Start:
        return Start(carry={"side": jax.random.normal(key, (1,))})

    def mirrored(self, s: State) -> Any:
        image = {"carry": {"side": -s.carry["side"]}, "time_s": s.time_s + 0.25}
        return image | {"command": s.command * jnp.array([1.0, -1.0])}

    def observe(self, s: State) -> Any:
        legs, trunk = s.joints(("?_roll", "?_pitch")), s.body("trunk")
        clock = 4 * jnp.pi * s.time_s + jnp.array([0.0, jnp.pi])  # of the left and the right leg
        return {
            "state": jnp.concatenate(
                [
                    jnp.stack([jnp.sin(clock), jnp.cos(clock)], axis=1).reshape(-1),
                    legs.qpos,
                    legs.qvel,
                    trunk.gravity,
                    trunk.local_velocity,
                    s.command,
                    s.action,
                    s.last_action,
                ]
            ),
            "heights": jnp.stack([s.site(f"{side}sole").position[2] for side in ("L_", "R_")]),
            "twice": jnp.concatenate([legs.qpos, -legs.qpos, jnp.array([0.0, 3.0, -3.0])]),
            "side": s.carry["side"],
        }

    def rewards(self, s: State) -> Any:
        turning = s.body("trunk").local_angular_velocity[2]
        legs = sum(s.joint(f"{side}roll").qpos ** 2 for side in ("L_", "R_"))
        return {"follow": jnp.exp(-((turning - s.command[1]) ** 2)), "legs": legs}


@dataclass(frozen=True)
class Mistaken(Fly):
    """One mistake at a time."""

    what: str = ""

    def mirrored(self, s: State) -> Any:
        if self.what == "quarter":
            return {"time_s": s.time_s + 0.25}
        return {"comand": s.command} if self.what == "unknown" else {}

    def observe(self, s: State) -> Any:
        left, right, angle = s.joint("L_roll").qpos, s.joint("R_roll").qpos, 2 * jnp.pi * s.time_s
        numbers = {
            "one side": [jnp.ones(()), left],
            "one twice": [left, right, right],
            "quarter": [jnp.sin(angle), jnp.cos(angle)],  # sine to cosine to minus the sine
        }
        return {"heights": jnp.stack(numbers.get(self.what, [left, right]))}

    def rewards(self, s: State) -> Any:
        if self.what == "left alone":
            return {"lift": s.joint("L_roll").qpos ** 2}
        return {"turn left": s.qvel[5]} if self.what == "turning" else {}


SEES = ("qpos", "qvel", "xmat", "cvel", "xpos", "subtree_com", "site_xpos")


def found(task: RobotTask, robot: Robot) -> Any:
    return find_symmetry(task, robot, task.actuation.on(robot), SEES)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("one side", r"Mistaken: heights\[1\] has no mirror image: no number of the group is plus"),
        ("one twice", r"Mistaken: heights\[2\]: mirrored twice, it is not what it was"),
        ("quarter", r"Mistaken: heights\[0\]: mirrored twice, it is not what it was"),
        ("unknown", r"unknown Mistaken.mirrored\(\) changes 'comand'; did you mean 'command'"),
        ("left alone", "Mistaken: the reward 'lift' is another in the mirror, by "),
        ("turning", "Mistaken: the reward 'turn left' is another in the mirror, by 200%"),
    ],
)
def test_a_task_that_is_another_in_the_mirror_is_refused(robots: Any, what: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        found(Mistaken(what=what), robots["bird"][0])


@pytest.fixture(scope="module")
def flying(robots: Any) -> Any:
    return found(Fly(), robots["bird"][0])


def test_what_a_task_shows_is_reflected_number_by_number(flying: Any) -> None:
    # actions: L_roll, L_pitch, R_roll, R_pitch, nod, turn
    assert flying.action.places == (2, 3, 0, 1, 4, 5)
    assert flying.action.signs == (-1, -1, -1, -1, 1, -1)
    groups = flying.observations
    assert groups["heights"].places == (1, 0, 3, 2, 5, 4)  # a history, reading by reading
    assert groups["heights"].signs == (1,) * 6
    assert (groups["side"].places, groups["side"].signs) == ((0,), (-1,))
    state = groups["state"]
    assert state.places[4:12] == (6, 7, 4, 5, 10, 11, 8, 9)
    assert state.signs[4:12] == (-1,) * 8
    assert state.places[12:20] == tuple(range(12, 20))
    assert state.signs[12:20] == (1, -1, 1, 1, -1, 1, 1, -1)
    for start in (20, 26):
        assert state.places[start : start + 6] == tuple(start + i for i in flying.action.places)
        assert state.signs[start : start + 6] == flying.action.signs
    for group in groups.values():
        assert group.involution


def test_of_numbers_that_are_always_equal_or_opposite_any_that_fit_are_taken(flying: Any) -> None:
    groups = flying.observations
    for seen in np.random.default_rng(0).uniform(0, 7, 5):  # each leg half a stride later
        clock = np.array([np.sin(seen), np.cos(seen), -np.sin(seen), -np.cos(seen)])
        close(groups["state"](np.concatenate([clock, np.zeros(28)]))[:4], -clock)
    angles, image = np.array([0.1, 0.2, -0.3, 0.7]), np.array([0.3, -0.7, -0.1, -0.2])
    twice = np.concatenate([angles, -angles, [0, 3, -3]])
    close(groups["twice"](twice), np.concatenate([image, -image, [0, 3, -3]]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"scale": {"L_roll": 0.3, "*": 0.5}},
            "actions' scale of joint 'L_roll' is 0.3, by .* 0.5",
        ),
        ({"scale": {"R_*": 0.3, "*": 0.5}}, "actions' scale of joint 'L_roll' is 0.5, by .* 0.3"),
        ({"offset": {"?_roll": 0.1}}, "actions' offset of joint 'L_roll' is 0.1, by .* -0.1"),
        (
            {"joints": ("L_*", "R_pitch")},
            "joint 'L_roll' is driven, its mirror image 'R_roll' is not",
        ),
    ],
)
def test_actions_that_differ_left_and_right_are_refused(
    robots: Any, options: Any, says: str
) -> None:
    robot, symmetry = robots["bird"]
    controls = Actuation(**options).on(robot)
    with pytest.raises(UserError, match=f"^bird: the {says}"):
        symmetry.action(controls)


def test_actions_that_are_mirror_images_are_taken(robots: Any) -> None:
    robot, symmetry = robots["bird"]
    opposite = {"L_roll": 0.1, "R_roll": -0.1, "L_pitch": 0.3, "R_pitch": -0.3, "nod": 0.2}
    found = symmetry.action(Actuation(scale={"?_roll": 0.3}, offset=opposite).on(robot))
    assert found.places == (2, 3, 0, 1, 4, 5)
    assert symmetry.action(Actuation(kind="ctrl").on(robot)) == symmetry.ctrl
    alone = symmetry.action(Actuation(joints=("?_pitch", "turn")).on(robot))
    assert (alone.places, alone.signs) == ((1, 0, 2), (-1, -1, -1))


@dataclass(frozen=True)
class Seeing(RobotTask):
    """It wants to see the mirror image, and has no mirror."""

    model: Any = lambda: mujoco.MjSpec.from_string(
        "<mujoco><worldbody><body><joint name='j'/><geom size='.1'/></body></worldbody></mujoco>"
    )
    actuation: ClassVar[Actuation] = Actuation(kind="torque")

    def observe(self, s: State) -> Any:
        return s.qpos

    def rewards(self, s: State) -> Any:
        return {}

    def reflect(self, s: State) -> Any:
        return s.time_s > 1


def test_seeing_the_mirror_image_needs_a_mirror() -> None:
    with pytest.raises(UserError, match=r"Seeing: reflect\(\) needs a mirror = Mirror\(...\)"):
        RobotEnvironment(Seeing(), 1)


# Go1 ---------------------------------------------------------------------------------------------

# by hand: what changes sign, and legs in the order front right, front left, rear right, rear left
LEGS = (3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8)
BENDS = (-1, 1, 1) * 4  # hips turn around x, thighs and calves around y
PLACES = (*range(12), *(start + i for start in (12, 24, 36) for i in LEGS), 48, 49)
SIGNS = (
    *(1, -1, 1),  # velocity
    *(-1, 1, -1),  # turning
    *(1, -1, 1),  # gravity
    *(1, -1, -1),  # command: forward, sideways, turning
    *(BENDS * 3),  # joints, their speeds, the last action
    *(-1, -1),  # the clock, half a stride later
)


@pytest.fixture(scope="module")
def walks() -> Any:
    """Go1 that sees the mirror image in half of each stride, and one that never does."""
    common = {"standing": 0.3, "command_s": 0.2, "frequency_hz": 2.0}
    tasks = [Go1Walk(by_phase=by, **common) for by in (True, False)]
    return [RobotEnvironment(task, 4, random_ages=True) for task in tasks]


def test_what_go1_sees_and_does_is_reflected_as_by_hand(walks: Any) -> None:
    for env in walks:
        (group,) = env.symmetry.observations.values()
        assert len(PLACES) == len(SIGNS) == 50 == group(np.zeros(50)).size
        assert group.places == PLACES
        assert group.signs == SIGNS
        assert env.symmetry.action.places == LEGS
        assert env.symmetry.action.signs == BENDS
        assert env.spec.symmetry is env.symmetry


@pytest.mark.extended
def test_by_phase_it_sees_the_mirror_image_and_acts_in_it(walks: Any) -> None:
    by_phase, plain = walks
    mirror_seen = lambda x: x[:, PLACES] * np.array(SIGNS)  # noqa: E731
    mirror_done = lambda x: x[:, LEGS] * np.array(BENDS)  # noqa: E731

    def reflected(state: Any) -> np.ndarray:
        episodes = state[0].episodes
        second_half = (2.0 * 0.02 * np.asarray(episodes.steps)) % 1.0 >= 0.5
        walking = np.linalg.norm(np.asarray(episodes.command), axis=1) > 0.1
        return (second_half & walking)[:, None]

    (ours, seen), (theirs, truth) = (env.reset(jax.random.key(5)) for env in walks)
    rng, counts = np.random.default_rng(0), np.zeros(2, int)
    for _ in range(40):
        now = reflected(ours)
        np.testing.assert_array_equal(now, reflected(theirs))
        shown, true = (np.asarray(step.observation["observation"]) for step in (seen, truth))
        expected = np.where(now, mirror_seen(true), true)
        np.testing.assert_allclose(true[:, 9:12], theirs[0].episodes.command, rtol=1e-6)
        qpos = theirs[1].rows[:, 1 : 1 + plain.robot.model.nq]  # a row begins with the time
        np.testing.assert_allclose(true[:, 12:24], (qpos - plain.robot.home)[:, 7:], atol=1e-5)
        np.testing.assert_allclose(shown, expected, rtol=1e-3, atol=2e-3)
        action = 0.3 * rng.normal(size=(4, 12)).astype(np.float32)
        ours, seen = by_phase.step(ours, action)
        done = np.where(now, mirror_done(action), action).astype(np.float32)
        theirs, truth = plain.step(theirs, done)
        np.testing.assert_allclose(seen.reward, truth.reward, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(ours[1].rows, theirs[1].rows, rtol=1e-3, atol=2e-3)
        counts += [now.sum(), (~now).sum()]
    assert counts.min() > 30
