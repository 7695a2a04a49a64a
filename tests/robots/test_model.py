"""What is left out of a model that is stepped."""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.robots.looks import leave_out_looks
from surefoot.robots.model import lock, set_home

LOOKS = """
<mujoco><compiler {compiler}/><option {option}/><worldbody><geom type="plane" size="1 1 1"/>
  <body><freejoint/><inertial pos="0 0 0" mass="1" diaginertia=".1 .1 .1"/>
    <geom name="hull" size=".1"/><geom size=".2" contype="0" conaffinity="0"/>
    <geom name="lamp" size=".3" contype="0" conaffinity="0"/><site name="eye"/></body>
  <body pos="1 0 0"><geom size=".1" contype="0" conaffinity="0"/></body></worldbody>
  <sensor>{sensor}</sensor></mujoco>
"""


@pytest.mark.parametrize(
    ("changed", "left"),
    [
        ({}, 4),  # what collides, what has a name, and what gives a body its mass stay
        ({"sensor": '<rangefinder site="eye"/>'}, 5),
        ({"sensor": '<distance geom1="hull" body2="world" cutoff="9"/>'}, 5),
        ({"sensor": '<normal geom1="hull" body2="world" cutoff="9"/>'}, 5),
        ({"sensor": '<fromto geom1="hull" body2="world" cutoff="9"/>'}, 5),
        ({"option": 'density="1000"'}, 5),
        ({"option": 'viscosity=".001"'}, 5),
        ({"compiler": 'inertiafromgeom="true"'}, 5),
    ],
    ids=[
        "alone",
        "rangefinder",
        "distance",
        "normal",
        "fromto",
        "density",
        "viscosity",
        "masses from geoms",
    ],
)
def test_what_only_looks_is_left_out_and_the_robot_weighs_the_same(
    changed: dict[str, str], left: int
) -> None:
    text = LOOKS.format(**({"compiler": "", "option": "", "sensor": ""} | changed))
    before, spec = mujoco.MjModel.from_xml_string(text), mujoco.MjSpec.from_string(text)
    leave_out_looks(spec)
    model = spec.compile()
    assert (before.ngeom, model.ngeom) == (5, left)
    assert model.body_mass.tolist() == before.body_mass.tolist()


@given(
    angles=st.lists(st.floats(-1, 1), min_size=4, max_size=4),
    locked=st.sets(st.integers(0, 3), min_size=1, max_size=3),
    degrees=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_locked_joints_leave_the_robot_as_they_held_it(
    angles: list[float], locked: set[int], degrees: bool
) -> None:
    """Joints with an axis and an anchor of their own, several on one body, hinges and slides."""
    turned = 'euler="20 -30 10"' if degrees else 'euler="0.3 -0.5 0.2"'
    text = f"""<mujoco><compiler angle="{"degree" if degrees else "radian"}"/><worldbody>
      <body name="upper" pos="0.1 0.2 0.3" {turned}>
        <joint name="0" axis="1 2 0" pos="0.1 0 0.2" ref="0.1"/>
        <joint name="1" type="slide" axis="0 1 1"/>
        <joint name="2" axis="0 1 0" pos="0 0.3 0"/>
        <geom size="0.1" mass="1"/>
        <body name="lower" pos="0 0 0.5" {turned}>
          <joint name="3" axis="0 0 1" pos="0.2 0 0"/>
          <geom size="0.1" pos="0 0.1 0" mass="1"/>
        </body>
      </body>
    </worldbody><actuator>{"".join(f'<motor joint="{i}"/>' for i in range(4))}</actuator></mujoco>"""
    spec = mujoco.MjSpec.from_string(text)
    places = {str(i): angle for i, angle in enumerate(angles)}
    want = _placed(spec, places)
    lock(spec, {str(i): angles[i] for i in locked})
    left = {name: angle for name, angle in places.items() if int(name) not in locked}
    model, data = _placed(spec, left)
    assert (model.njnt, model.nu) == (4 - len(locked),) * 2
    np.testing.assert_allclose(data.xpos, want[1].xpos, atol=1e-12)
    np.testing.assert_allclose(data.xmat, want[1].xmat, atol=1e-12)


def _placed(spec: mujoco.MjSpec, joints: dict[str, float]) -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = spec.copy().compile()
    data = mujoco.MjData(model)
    for name, position in joints.items():
        data.joint(name).qpos[0] = position
    mujoco.mj_kinematics(model, data)
    return model, data


@pytest.mark.parametrize(("name", "said"), [("kneee", "did you mean 'knee'"), ("base", "no hinge")])
def test_only_hinges_and_slides_can_be_locked(name: str, said: str) -> None:
    spec = mujoco.MjSpec.from_string(
        """<mujoco><worldbody><body><freejoint name="base"/><geom size="0.1" mass="1"/><body>
        <joint name="knee"/><geom size="0.1" mass="1"/></body></body></worldbody></mujoco>"""
    )
    with pytest.raises(ValueError, match=said):
        lock(spec, {name: 0.0})


def test_position_actuators_hold_the_home_pose() -> None:
    spec = mujoco.MjSpec.from_string(
        """<mujoco><worldbody><body><joint name="a"/><geom size="0.1" mass="1"/><body>
        <joint name="b"/><geom size="0.1" mass="1"/></body></body></worldbody>
        <actuator><position joint="a" kp="7" gear="2"/><motor joint="b"/></actuator></mujoco>"""
    )
    set_home(spec, {"a": 0.4, "b": 0.3})
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, 0)
    mujoco.mj_forward(model, data)
    assert data.qpos.tolist() == [0.4, 0.3]
    assert data.ctrl[1] == 0
    np.testing.assert_allclose(data.qfrc_actuator, 0.0, atol=1e-12)
    assert data.ctrl[0] == pytest.approx(0.8)
