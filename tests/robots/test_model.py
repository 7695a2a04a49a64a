"""What is left out of a model that is stepped."""

from __future__ import annotations

import mujoco
import pytest

from surefoot.robots.model import leave_out_looks

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
        ({"option": 'density="1000"'}, 5),
        ({"option": 'viscosity=".001"'}, 5),
        ({"compiler": 'inertiafromgeom="true"'}, 5),
    ],
    ids=["alone", "rangefinder", "density", "viscosity", "masses from geoms"],
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
