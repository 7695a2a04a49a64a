"""The camera goes along with what can leave, and looks at it as a whole."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
import pytest
from tests.see.helpers import POLE

from surefoot.see.camera import Camera, base_of

WALKER = """
<mujoco><worldbody><geom type="plane" size="5 5 .1"/>
  <body name="box" pos="0 0 .5"/>
  <body name="trunk" pos="1 2 .5">{joint}<geom size=".2" pos="0 0 .1"/>
    <body pos=".3 0 0"><joint/><geom size=".1"/></body></body>
</worldbody></mujoco>
"""


@pytest.mark.parametrize(
    ("xml", "base"),
    [
        (POLE, None),
        (WALKER.format(joint="<freejoint/>"), 2),
        (WALKER.format(joint='<joint type="slide" axis="1 0 0"/>'), 2),
        (WALKER.format(joint=""), None),
    ],
)
def test_what_can_leave_is_found(xml: str, base: int | None) -> None:
    assert base_of(mujoco.MjModel.from_xml_string(xml)) == base


def test_the_camera_goes_along_and_keeps_what_a_mouse_did() -> None:
    model = mujoco.MjModel.from_xml_string(WALKER.format(joint="<freejoint/>"))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera, view = Camera(), mujoco.MjvCamera()
    viewer: Any = SimpleNamespace(model=model, data=data, camera=view)
    camera.viewer = viewer
    shown: Any = SimpleNamespace(model=model, data=data)
    camera.on_post_model(shown)
    np.testing.assert_allclose(view.lookat, data.subtree_com[2])
    assert 0.6 < view.distance < 2.0  # three times what reaches farthest
    view.lookat[:] += 0.1  # as a mouse moves it
    before = view.lookat.copy()
    data.qpos[:3] += (3.0, -1.0, 0.2)
    mujoco.mj_forward(model, data)
    camera.follow()
    camera.follow()  # where it stands still, so does the camera
    np.testing.assert_allclose(view.lookat - before, (3.0, -1.0, 0.0), atol=1e-12)
