"""A robot's task written from its model: what is found, what is made up, and that all of it runs."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import mujoco
import numpy as np
import pytest

from surefoot.envs.tasks import make_environment, own_options
from surefoot.errors import UserError
from surefoot.robots.findings import Findings, class_name, look
from surefoot.robots.model import Robot, compile_spec, installed, read_spec, set_home
from surefoot.robots.new_robot import text_of

ROOT = Path(__file__).parents[2]
BARKOUR = "google_barkour_vb/barkour_vb_rev_1_0_head_straight.urdf"


class Known(NamedTuple):
    """What is true of an installed robot."""

    model: str
    base: str
    joints: int
    end: tuple[str, ...]  # its feet, or what reaches
    stands: bool = True  # by itself, in its home pose


SLOW = pytest.mark.extended
ANKLES = ("left_ankle_{}link", "right_ankle_{}link")
ROBOTS = [
    Known("unitree_go1/go1.xml", "trunk", 12, ("FR", "FL", "RR", "RL")),
    Known(
        BARKOUR,
        "torso_asm_1",
        12,
        tuple(f"mesh_collision_lower_leg_{leg}_foot_1" for leg in (1, 2, 3, 4)),
    ),
    Known("franka_emika_panda/panda.xml", "link0", 9, ("hand",)),
    Known("boston_dynamics_spot/spot.xml", "body", 12, ("FL", "FR", "HL", "HR")),
    Known(
        "google_barkour_vb/barkour_vb.xml",
        "torso",
        12,
        ("lower_leg_front_left", "lower_leg_2", "lower_leg_3", "lower_leg_4"),
    ),
    Known("aloha/aloha.xml", "left/base_link", 16, ("left/gripper",)),
    Known("leap_hand/right_hand.xml", "palm", 16, ("if_ds",)),
    Known("unitree_g1/g1.xml", "pelvis", 29, tuple(n.format("roll_") for n in ANKLES)),
    Known("unitree_h1/h1.xml", "pelvis", 19, tuple(n.format("") for n in ANKLES)),
    Known("booster_t1/t1.xml", "Trunk", 23, ("left_foot_link", "right_foot_link")),
    Known(
        "apptronik_apollo/apptronik_apollo.xml",
        "base_link",
        32,
        ("collision_l_sole", "collision_r_sole"),
    ),
    # the model's own motors hold a knee with 1 Nm/rad, the robot weighs 16 kg
    Known(
        "berkeley_humanoid/berkeley_humanoid.xml", "torso", 12, ("ll_faa", "lr_faa"), stands=False
    ),
    Known("robotis_op3/op3.xml", "body_link", 20, ("l_ank_roll_link", "r_ank_roll_link")),
    # Gymnasium's, with torques and joints that do not turn forward
    Known(
        "ant.xml",
        "torso",
        8,
        tuple(f"{n}_ankle_geom" for n in ("left", "right", "third", "fourth")),
    ),
    Known("humanoid.xml", "torso", 17, ("right_foot", "left_foot")),
    # hands on tendons and loops
    Known("robotiq_2f85_v4/2f85.xml", "base", 6, ("left_pad",)),
    Known("tetheria_aero_hand_open/right_hand.xml", "tetheria_mount", 16, ("th_tip",)),
]
QUICK = 3


def parameters(robots: list[Known]) -> list[Any]:
    """As test parameters; all but the first are extended."""
    return [
        pytest.param(robot, id=robot.model, marks=[SLOW] if i >= QUICK else [])
        for i, robot in enumerate(robots)
    ]


def written(robot: str, folder: Path, **options: Any) -> tuple[Findings, Path]:
    """The file of an installed robot."""
    found = look(installed(robot), **options)
    file = folder / f"{found.name.lower()}.py"
    file.write_text(text_of(found, f'lambda: read_spec(installed("{robot}"))', 0.005, file.name))
    return found, file


def is_in_style(file: Path) -> None:
    """Fail unless Ruff, as this project uses it, has nothing to say of a file."""
    for command in (["check"], ["format", "--check"]):
        words = [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml")]
        ran = subprocess.run([*words, str(file)], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout


def played(env: Any, steps: int, scale: float) -> list[Any]:
    """Steps under random actions of a scale, after the reset."""
    state, step = env.reset(jax.random.key(0))
    rows = [jax.device_get(step)]
    for key in jax.random.split(jax.random.key(1), steps):
        drawn = scale * jax.random.normal(key, (env.spec.num_envs, *env.spec.action.shape))
        state, step = env.step(state, env.spec.action.to_env(drawn))
        rows.append(jax.device_get((step, state[1].rows)))
    return rows


@pytest.mark.extended
@pytest.mark.parametrize("robot", parameters(ROBOTS))
def test_an_installed_robot_gets_a_file_that_runs(robot: Known, tmp_path: Path) -> None:
    free = True if robot.model == BARKOUR else None
    found, file = written(robot.model, tmp_path, free=free)
    assert (found.trunk, len(found.robot.scalar_joints())) == (robot.base, robot.joints)
    assert (found.feet if found.free else found.effector[1:]) == robot.end
    is_in_style(file)
    task = f"{file}:{found.name}"
    assert own_options(task).num_envs == (128 if found.free else 64)
    env: Any = make_environment(task, 2, seed=np.random.SeedSequence(0))
    ended = np.zeros(2, bool)
    for step, _ in played(env, 20, 1.0)[1:]:
        assert np.array_equal(step.valid, ~ended)  # nothing is lost but the step that begins anew
        ended = step.terminated | step.truncated
        assert np.isfinite(step.observation["observation"]).all()
        assert np.isfinite(step.reward).all()
        assert not ended.any() or found.free
    if not found.free:
        return
    if found.is_urdf:
        assert env.robot.names["geom"] == ("floor", *found.feet)
    rows = played(env, 50, 0.0)
    falls = any(step.terminated.any() for step, _ in rows[1:])
    height = env.robot.model.jnt_qposadr[0] + 2 + 1  # the time is first
    low = min(state[:, height].min() for _, state in rows[1:])
    assert (not falls and low > 0.8 * found.start_m) == robot.stands


def parts(found: Findings, qpos: np.ndarray) -> Any:
    """MuJoCo's data of a pose."""
    data = mujoco.MjData(found.robot.model)
    data.qpos[:] = qpos
    mujoco.mj_forward(found.robot.model, data)
    return data


def posed(found: Findings) -> Any:
    """MuJoCo's data of the home pose that was made up."""
    assert found.home is not None
    qpos = found.robot.model.qpos0.copy()
    for name, angle in found.home.items():
        qpos[found.robot.joint_slices(found.robot.id("joint", name))[0]] = angle
    return parts(found, qpos)


def test_a_quadruped_stands_with_level_feet_around_its_centre_of_mass() -> None:
    found = look(installed(BARKOUR), free=True)
    data = posed(found)
    feet = np.array([data.geom(foot).xpos for foot in found.feet])
    assert np.ptp(feet[:, 2]) < 0.005
    assert np.linalg.norm(feet[:, :2].mean(axis=0) - data.subtree_com[0, :2]) < 0.01
    assert found.home is not None
    # its makers' own: 0.5 and 1.0, at 0.28 m
    assert found.home["hip_front_left"] == pytest.approx(0.5, abs=0.15)
    assert found.home["knee_front_left"] == pytest.approx(1.0, abs=0.15)
    assert found.start_m == pytest.approx(0.28, abs=0.03)
    assert found.home["abduction_front_left"] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(
    "model", [BARKOUR, "unitree_go1/go1.xml", "unitree_g1/g1.xml", "robotis_op3/op3.xml"]
)
def test_joints_of_a_stride_move_the_foot_that_way_and_keep_it_level(model: str) -> None:
    found = look(installed(model), free=True)
    robot, before = found.robot, posed(found) if found.home else parts(found, found.robot.home)
    trunk = before.body(found.trunk)
    turned = trunk.xmat.reshape(3, 3)
    for foot, (sole, at, stands) in enumerate(
        zip(found.soles, found.soles.values(), found.stands, strict=True)
    ):
        there = before.body(sole).xpos + before.body(sole).xmat.reshape(3, 3) @ at
        assert ((there - trunk.xpos) @ turned)[:2] == pytest.approx(stands, abs=2e-3)
        for axis, step_m in enumerate((0.01, 0.01, found.swing_m)):
            qpos = before.qpos.copy()
            for name, (of, by) in found.strides.items():
                if of == foot:
                    qpos[robot.joint_slices(robot.id("joint", name))[0]] += step_m * by[axis]
            after = parts(found, qpos)
            now = after.body(sole).xpos + after.body(sole).xmat.reshape(3, 3) @ at
            moved = (now - there) @ turned / step_m
            assert moved == pytest.approx(np.eye(3)[axis], abs=0.15), (sole, axis)
            if len(found.strides) > 3 * len(found.soles):
                tilt = after.body(sole).xmat.reshape(3, 3).T @ before.body(sole).xmat.reshape(3, 3)
                assert np.arccos(min(1.0, (np.trace(tilt) - 1) / 2)) < 0.2


def test_a_joint_that_moves_both_feet_is_not_a_leg_s(tmp_path: Path) -> None:
    leg = """<body pos="0 {y} 0"><joint name="{n}_hip" axis="0 1 0"/>
      <geom type="capsule" fromto="0 0 0 .1 0 -.3" size=".03" mass=".3" contype="0" conaffinity="0"/>
      <body pos=".1 0 -.3"><joint name="{n}_knee" axis="0 1 0"/>
        <geom name="{n}" type="capsule" fromto="0 0 0 -.1 0 -.3" size=".03" mass=".1"/></body></body>"""
    legs = "".join(leg.format(n=n, y=y) for n, y in (("left", 0.1), ("right", -0.1)))
    file = tmp_path / "waist.xml"
    file.write_text(
        f"""<mujoco><worldbody><body name="chest" pos="0 0 1"><freejoint/><geom size=".1" mass="2"
        contype="0" conaffinity="0"/><body><joint name="waist" axis="0 0 1"/><geom size=".05" mass="1"
        contype="0" conaffinity="0"/>{legs}</body></body></worldbody></mujoco>"""
    )
    found = look(file)
    assert found.feet == ("left", "right")
    feet = {name: foot for name, (foot, _) in found.strides.items()}
    assert feet == {"left_hip": 0, "left_knee": 0, "right_hip": 1, "right_knee": 1}


@pytest.mark.extended
@pytest.mark.parametrize(("axis", "least"), [(0, 1.0), (1, 0.8), (2, 1.4)])
def test_the_nominal_gait_alone_goes_where_it_is_told(
    axis: int, least: float, tmp_path: Path
) -> None:
    found, file = written(BARKOUR, tmp_path, free=True)
    drawn = "most * jax.random.uniform(key, (3,), minval=-1.0)"
    text, went = file.read_text(), []
    assert drawn in text
    for sign in (1, -1):  # it drifts, one way as the other
        command = [0.5 * sign * (k == axis) for k in range(3)]
        told = tmp_path / f"told_{sign + 1}.py"  # a module is loaded once
        told.write_text(text.replace(drawn, f"most + jnp.array({command})"))
        env: Any = make_environment(f"{told}:{found.name}", 1, seed=np.random.SeedSequence(0))
        rows = played(env, 150, 0.0)
        assert not any(step.terminated.any() for step, _ in rows[1:])
        at = env.robot.model.jnt_qposadr[0] + 1  # the time is first
        x, y, _, w, _, _, z = rows[-1][1][0, at : at + 7]
        went.append((x, y, 2 * np.arctan2(z, w))[axis])
    assert went[0] - went[1] > least  # of 3 m, or rad


def test_a_biped_stands_with_knees_in_front_and_the_same_on_both_sides() -> None:
    found = look(installed("robotis_op3/op3.xml"))
    data = posed(found)
    for side in ("l", "r"):
        assert data.body(f"{side}_knee_link").xpos[0] > data.body(f"{side}_hip_pitch_link").xpos[0]
    assert found.home is not None
    for joint in ("hip_pitch", "knee", "ank_pitch"):  # their axes point away from each other
        left, right = (found.home[f"{side}_{joint}"] for side in "lr")
        assert left == pytest.approx(-right, abs=0.01)
        assert abs(left) > 0.1


@pytest.mark.parametrize(
    ("model", "foot"),
    [
        ("robotis_op3/op3.xml", "l_ank_roll_link"),
        ("unitree_h1/h1.xml", "right_ankle_link"),  # its soles are not under its ankles
    ],
)
def test_the_feet_of_a_biped_are_level(model: str, foot: str) -> None:
    data = posed(look(installed(model)))
    assert data.body(foot).xmat.reshape(3, 3)[2, 2] > 0.99999


def test_what_a_urdf_does_not_say_is_made_up_and_said() -> None:
    found = look(installed(BARKOUR), free=True)
    assert found.lacks == (
        "a free joint for the base",
        "actuators (12), their gains and limits",
        "the joints' armature and damping",
        "a home pose to stand in",
        "a floor",
        "a light",
    )
    # the file's limits of 1e9 Nm are no motor's; its makers' motors have 18 Nm and 50 Nm/rad
    assert "1e+09" in found.notes[0]
    gains = found.gains["knee_front_left"]
    assert 10 < gains.effort < 36
    assert 25 < gains.stiffness < 100
    assert len(set(found.gains.values())) == 1


def test_positions_stay_and_torques_get_gains(tmp_path: Path) -> None:
    go1, h1 = (look(installed(model)) for model in ("unitree_go1/go1.xml", "unitree_h1/h1.xml"))
    assert not go1.gains
    assert go1.drives["FR_hip_joint"] == "position, 100, up to 23.7"
    assert (go1.home, go1.key) == (None, "home")
    assert h1.gains["left_knee"].effort == 300  # of the model
    assert h1.gains["left_elbow"].effort == 18
    # an ankle that could not hold the robot up would not be stiff enough
    assert h1.gains["left_ankle"].stiffness > 51 * 9.81 * 0.9 / 2


LEG = """
<mujoco><compiler angle="radian"/><worldbody><body name="box" pos="0 0 1">{base}
  <geom type="box" size=".1 .1 .1" mass="1" contype="0" conaffinity="0"/>
  <body name="thigh"><joint name="hip" axis="0 1 0"/>
    <geom type="capsule" fromto="0 0 0 0 0 -.3" size=".03" mass=".3"/>
    <body name="shin" pos="0 0 -.3"><joint name="knee" axis="0 1 0" range="-2 2"/>
      <geom type="capsule" fromto="0 0 0 0 0 -.3" size=".02" mass=".1"/>
      {foot}</body></body></body></worldbody>
  <actuator>{motors}</actuator></mujoco>
"""
FREE, FOOT = "<freejoint/>", '<geom name="foot" pos="0 0 -.31" size=".02" mass=".01"/>'
MOTORS = '<motor joint="hip" ctrlrange="-8 8" gear="2"/><motor joint="knee"/>'


def model_of(
    folder: Path, *, base: str = FREE, foot: str = FOOT, motors: str = MOTORS, more: str = ""
) -> Path:
    """A file with one leg."""
    file = folder / "leg.xml"
    text = LEG.format(base=base, foot=foot, motors=motors)
    file.write_text(text.replace("</mujoco>", f"{more}</mujoco>"))
    return file


def test_the_limit_of_a_motor_counts_its_gear(tmp_path: Path) -> None:
    limited = '<motor joint="hip" forcerange="-3 3" gear="2"/><motor joint="knee"/>'
    assert look(model_of(tmp_path, motors=limited)).gains["hip"].effort == 6
    found = look(model_of(tmp_path))
    assert found.gains["hip"].effort == 16
    assert found.feet == ("foot",)  # it has a name, and is the lowest
    assert found.start_m == pytest.approx(0.63 * 0.92 + 0.001, abs=0.03)


def test_of_feet_without_names_the_bodies_are_named(tmp_path: Path) -> None:
    nameless = FOOT.replace('name="foot"', "")
    assert look(model_of(tmp_path, foot=nameless)).feet == ("shin",)
    # unless one that has a name is nearly as low
    toe = FOOT.replace("foot", "toe").replace("-.31", "-.3")
    assert look(model_of(tmp_path, foot=nameless + toe)).feet == ("toe",)


@pytest.mark.parametrize("geom", ["foot", ""])
@pytest.mark.parametrize("body", ["shin", ""])
def test_a_foot_and_its_body_may_lack_names_but_not_both(
    body: str, geom: str, tmp_path: Path
) -> None:
    file = model_of(tmp_path, foot=FOOT.replace('name="foot"', geom and 'name="foot"'))
    file.write_text(file.read_text().replace('name="shin"', body and 'name="shin"'))
    if not body and not geom:
        with pytest.raises(UserError, match=r"the foot at \(.* m in the home pose has no name"):
            look(file)
        return
    found = look(file)
    assert (found.feet, tuple(found.soles)) == ((geom or body,), (body or geom,))
    task = tmp_path / "leg.py"
    task.write_text(text_of(found, '"leg.xml"', 0.005, task.name))
    is_in_style(task)
    env: Any = make_environment(f"{task}:Leg", 2, seed=np.random.SeedSequence(0))
    assert all(np.isfinite(step.reward).all() for step, _ in played(env, 3, 1.0)[1:])


@pytest.mark.parametrize(
    "motors",
    [
        '<position joint="hip" kp="9"/><velocity joint="hip" kv="1"/><position joint="knee"/>',
        '<position tendon="both" kp="9"/>',
    ],
)
def test_actuators_that_no_joint_has_for_itself_are_controlled_as_they_are(
    motors: str, tmp_path: Path
) -> None:
    joints = "".join(f'<joint joint="{joint}" coef="1"/>' for joint in ("hip", "knee"))
    more = f'<tendon><fixed name="both">{joints}</fixed></tendon>'
    found = look(model_of(tmp_path, motors=motors, more=more))
    assert found.kind == "ctrl"
    assert not found.gains
    assert 'Actuation(kind="ctrl")' in text_of(found, '"leg.xml"', 0.005, "leg.py")


def test_a_base_can_be_freed_and_fixed(tmp_path: Path) -> None:
    key = '<keyframe><key name="home" qpos="{}0 0"/></keyframe>'
    floats, bolted = tmp_path / "floats", tmp_path / "bolted"
    for folder in (floats, bolted):
        folder.mkdir()
    model = model_of(bolted, base="", more=key.format(""))
    stays, freed = look(model), look(model, free=True)
    assert (stays.free, stays.key, stays.effector) == (False, "home", ("body", "shin"))
    assert (freed.free, freed.add_base, freed.robot.model.nq) == (True, True, 9)
    model = model_of(floats, more=key.format("0 0 1 1 0 0 0 "))
    stays, fixed = look(model), look(model, free=False)
    assert (stays.free, stays.add_base, stays.home) == (True, False, None)
    assert (fixed.free, fixed.delete_base, fixed.robot.model.nq) == (False, True, 2)
    for found in (freed, fixed):
        file = found.file.with_name(f"leg_of_{found.file.parent.name}.py")
        file.write_text(text_of(found, '"leg.xml"', 0.005, file.name))  # beside the task's file
        env: Any = make_environment(f"{file}:Leg", 1, seed=np.random.SeedSequence(0))
        assert env.robot.model.nq == found.robot.model.nq


def test_targets_lie_where_the_effector_gets(tmp_path: Path) -> None:
    found = look(model_of(tmp_path, base=""))
    assert found.workspace.shape == (3, 2)
    (x0, x1), (y0, y1), (z0, z1) = found.workspace
    assert -0.2 < x0 < 0 < x1 < 0.2  # the shin's joint is 0.3 m from the hip's, which turns by 0.6
    assert (y0, y1) == (0, 0.01)
    assert 0.7 <= z0 < z1 < 0.77


def test_the_solver_iterates_longer_where_joints_rub(tmp_path: Path) -> None:
    go1, spot = (
        text_of(look(installed(model)), '"x.xml"', 0.005, "x.py")
        for model in ("unitree_go1/go1.xml", "boston_dynamics_spot/spot.xml")
    )
    assert "ls_iterations = 10, 20 " in go1
    assert "ls_iterations = 4, 8\n" in spot


@pytest.mark.parametrize("length", [1, 76, 77, 84, 85, 86, 87, 93, 200])
def test_a_path_may_be_long(length: int, tmp_path: Path) -> None:
    file = tmp_path / "leg.py"
    file.write_text(text_of(look(model_of(tmp_path)), f'"/{"x" * length}.xml"', 0.005, file.name))
    is_in_style(file)


def test_it_walks_by_changing_the_lines_that_say_so(tmp_path: Path) -> None:
    _, file = written("unitree_go1/go1.xml", tmp_path)
    lines = file.read_text().splitlines()
    for i, line in enumerate(lines):
        if "# to walk: " in line:
            rest = line.partition("# to walk: ")[2].partition(",  ")[0]
            value = rest if rest.startswith("[") else rest.split(",")[0]
            before, sign, _ = line.partition(" = ")
            lines[i] = before + sign + (f"jnp.array({value})" if "[" in value else value)
    assert sum("to walk" in line for line in file.read_text().splitlines()) == 5
    file.with_name("go1_walks.py").write_text("\n".join(lines))
    env: Any = make_environment(
        f"{file.with_name('go1_walks.py')}:Go1", 2, seed=np.random.SeedSequence(0)
    )
    assert (env.task.command_s, env.task.tracking) == (5.0, 2.0)
    drawn = np.array([env.task.command(jax.random.key(seed), 0.0) for seed in range(50)])
    np.testing.assert_allclose(np.abs(drawn).max(axis=0), (1.0, 0.5, 1.0), rtol=0.1)


# URDF --------------------------------------------------------------------------------------------

LINK = """<link name="{name}"><inertial><mass value="1"/>
  <inertia ixx=".01" iyy=".01" izz=".01" ixy="0" ixz="0" iyz="0"/></inertial>{parts}</link>"""
TURN = """<joint name="{name}" type="revolute"><parent link="{above}"/><child link="{below}"/>
  <origin xyz="0 0 .3"/><axis xyz="0 1 0"/>
  <limit lower="-1" upper="1" effort="{effort}" velocity="1"/></joint>"""


def mesh(size: float) -> bytes:
    """A tetrahedron as a binary STL."""
    corners = [(0, 0, 0), (size, 0, 0), (0, size, 0), (0, 0, size)]
    faces = [(0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)]
    body = b"".join(
        struct.pack("<12fH", 0, 0, 0, *corners[a], *corners[b], *corners[c], 0) for a, b, c in faces
    )
    return bytes(80) + struct.pack("<I", len(faces)) + body


def part(kind: str, file: str) -> str:
    return f'<{kind}><geometry><mesh filename="{file}"/></geometry></{kind}>'


def urdf(folder: Path, *parts: str, effort: float = 5.0) -> Path:
    """A package `arm` with the URDF of an arm of two links in its folder `urdf`."""
    file = folder / "arm" / "urdf" / "arm.urdf"
    file.parent.mkdir(parents=True, exist_ok=True)
    links = LINK.format(name="base", parts="") + LINK.format(name="upper", parts="")
    links += LINK.format(name="lower", parts="".join(parts))
    turns = TURN.format(name="shoulder", above="base", below="lower", effort=effort)
    turns += TURN.format(name="elbow", above="lower", below="upper", effort=effort)
    file.write_text(f'<robot name="my arm">{links}{turns}</robot>')
    return file


def lay(folder: Path, name: str, size: float = 0.1) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(mesh(size))


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("package://arm/meshes/a.stl", "arm/meshes/a.stl"),
        ("package://arm_description/meshes/a.stl", "arm/meshes/a.stl"),
        ("package://meshes/a.stl", "arm/meshes/a.stl"),
        ("../meshes/a.stl", "arm/meshes/a.stl"),
        ("a.stl", "arm/urdf/deep/er/a.stl"),
        ("package://arm/gone/a.stl", "arm/urdf/deep/a.stl"),
    ],
)
def test_the_meshes_of_a_urdf_are_found(given: str, place: str, tmp_path: Path) -> None:
    lay(tmp_path, place)
    model = compile_spec(read_spec(urdf(tmp_path, part("collision", given))), "arm")
    assert model.nmesh == 1
    assert model.nbody == 4  # what is fixed to the base is not part of the world


def test_meshes_that_are_called_alike_are_not_taken_for_one(tmp_path: Path) -> None:
    lay(tmp_path, "arm/visual/a.stl", 0.1)
    lay(tmp_path, "arm/collision/a.stl", 0.3)
    parts = [part("visual", "../visual/a.stl"), part("collision", "../collision/a.stl")]
    model = compile_spec(read_spec(urdf(tmp_path, *parts, *parts)), "arm")
    assert model.nmesh == 2
    small, large = (np.ptp(model.mesh_vert[a : a + 4]) for a in model.mesh_vertadr)
    assert large / small == pytest.approx(3, rel=1e-5)
    touches = model.geom_contype > 0
    np.testing.assert_array_equal(model.geom_dataid[touches], [1, 1])


def test_looks_that_mujoco_cannot_read_are_left_out(tmp_path: Path) -> None:
    lay(tmp_path, "arm/a.stl")
    parts = [part("visual", "../a.dae"), part("collision", "../a.stl")]
    assert compile_spec(read_spec(urdf(tmp_path, *parts)), "arm").ngeom == 1
    with pytest.raises(UserError, match=r"MuJoCo reads meshes that end in .*; convert '../a.dae'"):
        read_spec(urdf(tmp_path, part("collision", "../a.dae")))


def test_a_mesh_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    lay(tmp_path, "arm/urdf/hand.stl")
    file = urdf(tmp_path, part("visual", "package://arm/meshes/hond.stl"))
    with pytest.raises(UserError) as error:
        read_spec(file)
    said = str(error.value)
    for words in (
        "no mesh 'package://arm/meshes/hond.stl'",
        "arm/meshes/hond.stl and meshes/hond.stl was looked for in",
        str(file.parent),
        "did you mean 'hand.stl'?",
    ):
        assert words in said
    assert "\n" not in said


def test_a_file_that_an_mjcf_names_and_is_not_there_is_one_error(tmp_path: Path) -> None:
    lay(tmp_path, "meshes/hand.stl")
    file = tmp_path / "arm.xml"
    file.write_text(
        '<mujoco><compiler meshdir="meshes"/><asset><mesh name="hand" file="hond.stl"/></asset>'
        '<worldbody><geom type="mesh" mesh="hand"/></worldbody></mujoco>'
    )
    wanted = rf"arm.xml: the model needs the file {tmp_path}/meshes/hond.stl.*mean 'hand.stl'\?"
    with pytest.raises(UserError, match=wanted):
        compile_spec(read_spec(file), "arm.xml")


def test_whether_a_urdf_is_bolted_has_to_be_said_or_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'my arm' is fixed: give --free-base .* or --fixed-base"):
        look(urdf(tmp_path))
    assert not look(urdf(tmp_path), free=False).free
    file = urdf(tmp_path)
    bolt = '<joint name="bolt" type="fixed"><parent link="world"/><child link="base"/></joint>'
    file.write_text(file.read_text().replace("</robot>", f'<link name="world"/>{bolt}</robot>'))
    assert not look(file).free
    shape = "<collision><geometry><sphere radius='.1'/></geometry></collision>"
    assert look(urdf(tmp_path, shape), free=True).add_base


@pytest.mark.parametrize(("effort", "most"), [(5.0, 5.0), (0.0, None), (1e9, None)])
def test_the_effort_of_a_urdf_is_kept_if_a_motor_could_have_it(
    effort: float, most: float | None, tmp_path: Path
) -> None:
    found = look(urdf(tmp_path, effort=effort), free=False)
    gains = found.gains["elbow"]
    # 1 kg whose middle is at the joint, which 0.05 Nm turn by 5 rad/s^2
    assert gains.effort == (most or pytest.approx(0.05, rel=0.1))
    assert [note for note in found.notes if "no motor's" in note] == (
        []
        if effort < 1e9
        else ["a limit of 1e+09 (shoulder) is no motor's: what masses ask for stands in the file"]
    )
    assert found.name == "MyArm"


def test_a_joint_that_mimics_another_gets_no_motor(tmp_path: Path) -> None:
    file = urdf(
        tmp_path, '<collision name="hull"><geometry><sphere radius=".1"/></geometry></collision>'
    )
    before, middle, after = file.read_text().rpartition("<limit")
    file.write_text(f'{before}<mimic joint="shoulder"/>{middle}{after}')
    found = look(file, free=False)
    assert list(found.gains) == ["shoulder"]
    assert found.notes == ("nothing of its own drives elbow",)
    task = file.with_name("mimic.py")
    task.write_text(text_of(found, '"arm.urdf"', 0.005, task.name))
    env: Any = make_environment(f"{task}:MyArm", 1, seed=np.random.SeedSequence(0))
    assert env.spec.action.shape == (1,)
    assert env.robot.names["geom"] == ("floor",)  # nothing else has to be simulated


# errors and small things -------------------------------------------------------------------------


def test_a_model_in_which_nothing_turns_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "table.xml"
    file.write_text(
        '<mujoco><worldbody><body><freejoint/><geom size="1"/></body></worldbody></mujoco>'
    )
    with pytest.raises(UserError, match=r"table.xml has no joint that turns or slides"):
        look(file)


def test_no_name_ends_a_comment(tmp_path: Path) -> None:
    file = model_of(tmp_path)
    file.write_text(file.read_text().replace('"hip"', '"hip&#10;raise SystemExit"'))
    text = text_of(look(file), '"leg.xml"', 0.005, "leg.py")
    assert "hip raise SystemExit  hinge" in text
    assert not any(line.startswith("raise") for line in text.splitlines())


def test_a_robot_without_geoms_cannot_stand(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no geoms that could touch the ground"):
        look(urdf(tmp_path), free=True)


@pytest.mark.parametrize(
    ("file", "given", "name"),
    [
        ("unitree_go1/go1.xml", "", "Go1"),
        ("unitree_go1/scene.xml", "", "UnitreeGo1"),
        ("robotiq/2f85.xml", "", "Robot2f85"),
        ("a/state.xml", "", "StateTask"),
        ("a/x.urdf", "my arm-2", "MyArm2"),
        ("a/---.xml", "", "MyRobot"),
        ("a/None.xml", "", "NoneTask"),
        ("a/true.xml", "", "TrueTask"),
        ("a/HOME.xml", "", "HOMETask"),
        ("a/exception.xml", "", "ExceptionTask"),
    ],
)
def test_a_class_is_called_as_its_robot(file: str, given: str, name: str) -> None:
    assert class_name(Path(file), given) == name


DOG = """
<mujoco><worldbody>
  {before}
  <body name="trunk" pos="0 0 .45"><freejoint/><geom type="box" size=".25 .1 .05" mass="4"/>
    {legs}
  </body>
  {behind}
</worldbody><actuator>{motors}</actuator></mujoco>
"""
BALL = '<body name="ball" pos="1 0 .05"><freejoint/><geom size=".05" mass=".1"/></body>'


def dog(before: str = "", behind: str = "") -> str:
    legs, motors = "", ""
    for name, x, y in (("FR", 0.2, -0.1), ("FL", 0.2, 0.1), ("RR", -0.2, -0.1), ("RL", -0.2, 0.1)):
        bone = '<geom type="capsule" fromto="0 0 0 0 0 -.2" size=".02" mass=".2"/>'
        legs += (
            f'<body pos="{x} {y} 0"><joint name="{name}_hip" axis="0 1 0" range="-60 60"/>{bone}'
            f'<body pos="0 0 -.2"><joint name="{name}_knee" axis="0 1 0" range="-120 0"/>{bone}'
            f'<geom name="{name}" size=".03" pos="0 0 -.2" mass=".05"/></body></body>'
        )
        motors += "".join(f'<motor joint="{name}_{part}"/>' for part in ("hip", "knee"))
    return DOG.format(before=before, behind=behind, legs=legs, motors=motors)


@pytest.mark.parametrize("place", ["before", "behind"])
def test_things_beside_the_robot_stay_where_they_are_and_can_be_touched(
    place: str, tmp_path: Path
) -> None:
    model, file = tmp_path / "dog.xml", tmp_path / "dog.py"
    model.write_text(dog(**{place: BALL}))
    found = look(model)
    assert (found.trunk, found.others, found.feet) == ("trunk", ("ball",), ("FR", "FL", "RR", "RL"))
    file.write_text(text_of(found, '"dog.xml"', 0.005, "dog.py"))
    is_in_style(file)
    env: Any = make_environment(f"{file}:Dog", 1, seed=np.random.SeedSequence(0))
    state, _ = env.reset(jax.random.key(0))
    for _ in range(50):
        state, _ = env.step(state, np.zeros((1, 8), np.float32))
    model, data = env.robot.model, mujoco.MjData(env.robot.model)
    mujoco.mj_setState(model, data, state[1].rows[0], mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(model, data)
    assert data.body("ball").xpos[2] == pytest.approx(0.05, abs=0.01)
    assert data.body("trunk").xpos[2] == pytest.approx(found.start_m, abs=0.05)


def test_of_two_arms_the_one_that_is_driven_is_the_robot(tmp_path: Path) -> None:
    arm = (
        '<body name="{0}"><geom size=".05" mass="1"/><body pos="0 0 .1"><joint name="{0}_j" axis="0 1 0"/>'
        '<geom type="capsule" fromto="0 0 0 0 0 .3" size=".03"/><site name="{0}_tip" pos="0 0 .3"/></body>'
        "</body>"
    )
    file = tmp_path / "arms.xml"
    file.write_text(
        f"<mujoco><worldbody>{arm.format('idle')}{arm.format('own')}</worldbody>"
        '<actuator><motor joint="own_j"/></actuator></mujoco>'
    )
    found = look(file)
    assert (found.trunk, found.effector) == ("own", ("site", "own_tip"))
    assert "nothing of its own drives idle_j" in found.notes


@pytest.mark.parametrize(
    ("actuator", "kind"),
    [
        ('<velocity joint="j" kv="1"/>', "ctrl"),  # a wheel is no servo
        ('<muscle joint="j" ctrllimited="true" ctrlrange="0 1"/>', "ctrl"),
        ('<intvelocity joint="j" kp="1" actrange="-1 1"/>', "ctrl"),
        ('<motor joint="j"/>', "position"),
        ('<position joint="j" kp="9"/>', "position"),
    ],
)
def test_what_drives_a_joint_is_said_as_it_is(actuator: str, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "one.xml"
    body = '<body name="b"><joint name="j" axis="0 1 0" range="-1 1"/><geom size=".1" pos=".2 0 0"/></body>'
    file.write_text(
        f"<mujoco><worldbody>{body}</worldbody><actuator>{actuator}</actuator></mujoco>"
    )
    found = look(file)
    assert found.kind == kind
    assert any("take torques" in lack for lack in found.lacks) == ("motor" in actuator)
    if kind == "ctrl":
        ranged = (
            "over their ranges" if "range=" in actuator.replace("actrange", "") else "no ranges"
        )
        assert ranged in found.notes[-1]


def test_what_flies_needs_a_task_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "drone.xml"
    file.write_text(
        '<mujoco><worldbody><body name="d"><freejoint/><geom size=".1"/><site name="s"/></body></worldbody>'
        '<actuator><motor site="s" gear="0 0 1 0 0 0"/></actuator></mujoco>'
    )
    with pytest.raises(UserError, match=r"drive no joint .* legs and arms alone.*kind='ctrl'"):
        look(file)


def test_a_robot_that_lies_on_its_base_has_it_as_its_foot(tmp_path: Path) -> None:
    file = tmp_path / "up.xml"
    up = '<body pos="0 0 .3"><joint name="j" axis="0 1 0" range="-90 90"/>'
    up += '<geom type="capsule" fromto="0 0 0 0 0 .3" size=".03" mass="1"/></body>'
    base = f'<body name="base"><freejoint/><geom type="box" size=".1 .1 .05" mass="1"/>{up}</body>'
    file.write_text(
        f'<mujoco><worldbody>{base}</worldbody><actuator><motor joint="j"/></actuator></mujoco>'
    )
    found = look(file)
    assert (found.feet, found.start_m) == (("base",), pytest.approx(0.051))
    assert found.gains["j"].stiffness > 0
    text_of(found, '"up.xml"', 0.005, "up.py")


def test_a_home_pose_takes_the_place_of_keyframes(tmp_path: Path) -> None:
    more = '<keyframe><key name="old" qpos="0 0 9 1 0 0 0 .5 .5"/></keyframe>'
    spec = read_spec(model_of(tmp_path, more=more))
    set_home(spec, {"knee": 0.3}, height_m=0.6)
    robot = Robot(compile_spec(spec, "leg"), "leg")
    assert robot.names["key"] == ("home",)
    np.testing.assert_allclose(robot.home, [0, 0, 0.6, 1, 0, 0, 0, 0, 0.3])
    with pytest.raises(UserError, match=r"no joint 'kne'; did you mean 'knee'"):
        set_home(spec, {"kne": 0.3})
