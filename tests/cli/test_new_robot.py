"""`surefoot new-robot`: what it writes, says, tries and trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from surefoot.cli.main import main
from surefoot.cli.new_robot import file_name

ARM = """
<mujoco><worldbody><body name="arm" pos="0 0 1"><joint name="hip" axis="0 1 0" damping=".01"/>
  <geom type="capsule" fromto="0 0 0 0 0 -.2" size=".02" mass=".1"/>{hand}</body></worldbody>
<actuator>{motors}</actuator></mujoco>
"""
HAND = """<body name="hand" pos="0 0 -.2"><joint name="wrist" axis="0 1 0" damping=".01"/>
  <geom type="capsule" fromto="0 0 0 0 0 -.1" size=".01" mass=".02"/></body>"""
MOTORS = '<position joint="hip" kp="2"/><position joint="wrist" kp="0.1" kv="0.01"/>'
STIFF = '<position joint="hip" kp="500"/>'
# it pushes the faster the faster it turns
RUNAWAY = '<general joint="hip" biastype="affine" gainprm="1" biasprm="0 -2 1"/>'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def arm(motors: str = MOTORS) -> str:
    hand = HAND if motors is MOTORS else ""
    Path("arm.xml").write_text(ARM.format(hand=hand, motors=motors))
    return "arm.xml"


def error(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line of an error."""
    assert main(["new-robot", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.extended
def test_an_installed_robot_is_written_tried_and_told(capsys: pytest.CaptureFixture) -> None:
    assert main(["new-robot", "unitree_go1/go1.xml", "--no-train"]) == 0
    text = Path("go1.py").read_text()
    assert 'lambda: read_spec(installed("unitree_go1/go1.xml"))' in text
    assert [path.name for path in Path().glob("*") if path.suffix] == ["go1.py"]
    said = capsys.readouterr().out
    for words in (
        "Go1: go1.xml, 12.7 kg",
        "base       free, trunk, 0.289 m high",
        "joints     12: FR_hip_joint, FR_thigh_joint, FR_calf_joint, FL_hip_joint and 8 more",
        "actuators  12 in the model, which hold positions, kept",
        "feet       FR, FL, RR, RL (guessed: what is lowest)",
        "home       keyframe home",
        "physics    5 ms a step, 20 ms between actions",
        "added      a floor",
        "Wrote go1.py.",
        "Tried 4 copies for 1 s with random actions: every number is finite, ",
        "with zero actions: every number is finite, 0 falls.",
        "With zero actions it stands.",
        "surefoot train go1.py:Go1 --total-steps",
        "look over what was guessed in go1.py: FEET\n",
    ):
        assert words in said


def test_nothing_is_overwritten(capsys: pytest.CaptureFixture) -> None:
    Path("arm.py").write_text("mine")
    assert "arm.py exists, and nothing is overwritten" in error(capsys, arm(), "--no-train")
    assert "there is no folder" in error(capsys, "arm.xml", "--out", "deep/arm.py")
    assert "arm.py exists" in error(capsys, "arm.xml", "--out", "arm.py")
    assert Path("arm.py").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["arn.xml"], "there is no file 'arn.xml'; did you mean 'arm.xml' or 'table.xml'?, and no"),
        (["unitree_go1/go2.xml"], "did you mean 'unitree_go1/go1.xml'"),
        (["notes.txt"], "notes.txt is no model that MuJoCo reads"),
        (["table.xml"], "table.xml has no joint that turns or slides"),
        (["arm.urdf.xacro"], "make a URDF of it first, `xacro arm.urdf.xacro > arm.urdf`"),
        (["arm.xml", "--out", "arm.txt"], "it must be a file such as my_robot.py"),
        (["arm.xml", "--out", "my-arm.py"], "it must be a file such as my_robot.py"),
        (["arm.xml", "--free-base", "--fixed-base"], "the base is one or the other"),
        (["arm.xml", "--train-seconds", "0"], "train_seconds = 0 must be more than 0"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture
) -> None:
    arm()
    Path("notes.txt").write_text("a robot")
    Path("table.xml").write_text('<mujoco><worldbody><geom size="1"/></worldbody></mujoco>')
    before = set(Path().iterdir())
    assert says in error(capsys, *arguments)
    assert set(Path().iterdir()) == before


@pytest.mark.extended
def test_a_stiff_arm_is_given_finer_steps(capsys: pytest.CaptureFixture) -> None:
    assert main(["new-robot", arm(STIFF), "--no-train", "--out", "stiff.py"]) == 0
    said = capsys.readouterr().out
    assert "physics    5 ms a step" not in said
    assert "random actions: every number is finite." in said
    step = float(said.partition("physics")[2].split()[0]) / 1000
    text = Path("stiff.py").read_text()
    assert f"physics_dt_s: float | None = {step:g} " in text
    assert 'model: Any = "arm.xml"\n' in text  # beside the file


def test_the_joint_at_which_the_simulation_breaks_down_is_named(
    capsys: pytest.CaptureFixture,
) -> None:
    assert main(["new-robot", arm(RUNAWAY), "--no-train"]) == 1
    said = capsys.readouterr().out
    assert "The simulation becomes unstable at hip, even with steps of 0.001 s" in said
    assert "surefoot doctor arm.py:Arm" in said


@pytest.mark.extended
def test_it_trains_until_the_time_is_up(capsys: pytest.CaptureFixture) -> None:
    assert main(["new-robot", arm(), "--train-seconds", "0.5"]) == 0
    said = capsys.readouterr().out
    (run,) = Path("runs").iterdir()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert 2 <= len(lines) < 200  # of 244
    assert f"surefoot eval {run} --task arm.py:Arm" in said
    assert "look over what was guessed in arm.py: EFFECTOR, WORKSPACE, HOME\n" in said
    assert '"reward/near"' in lines[-1]
    assert '"measure/distance_m"' in lines[-1]
    assert main(["eval", str(run), "--task", "arm.py:Arm", "--episodes", "2"]) == 0


def test_files_are_called_as_their_classes() -> None:
    assert [file_name(name) for name in ("Go1", "BarkourVb", "H1", "Robot2f85")] == [
        "go1",
        "barkour_vb",
        "h1",
        "robot2f85",
    ]


def test_no_file_hides_a_module_that_programs_beside_it_import() -> None:
    assert [file_name(name) for name in ("Jax", "Json", "Mujoco", "Surefoot")] == [
        "jax_robot",
        "json_robot",
        "mujoco_robot",
        "surefoot_robot",
    ]
    Path("go1.py").write_text("")
    assert file_name("Go1") == "go1"  # which is there already, as the command then says
