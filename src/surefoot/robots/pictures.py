"""Pictures of a robot: its model with all its looks, put where the simulation says it is.

Shadows, reflections and smoothed edges are off, and pictures are drawn in twice their size: a software
renderer takes a tenth of the time for that.
"""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import math
from collections.abc import Mapping

import mujoco
import numpy as np
from PIL import Image

from surefoot.envs.contract import Camera
from surefoot.errors import check_names
from surefoot.gl import load_gl, no_gl, open_context
from surefoot.robots.looks import dress
from surefoot.robots.model import Robot, compile_spec
from surefoot.robots.task import RobotTask, edited_spec

_JOINTS, _GEOMS = mujoco.mjtJoint, mujoco.mjtGeom
_DETAIL = 2  # a picture is drawn so many times as large, then reduced
_FOLLOWING = 0.35  # of the way to the robot that the camera goes in a picture
_ROOM = 1.0  # of half the picture's height, over half the diagonal of the robot's bounds


class Pictures:
    """Draws robots of a task.

    Args:
        task: the task.
        how: the pictures' size, and a camera of the model's; none: one that follows the robot.
        count: robots that are looked at.

    Raises:
        ValueError: there is no such camera, or no OpenGL.
    """

    def __init__(self, task: RobotTask, how: Camera, count: int) -> None:
        load_gl()
        self._how, self._model = how, lit_model(task, _DETAIL * how.width, _DETAIL * how.height)
        self._data = mujoco.MjData(self._model)
        self._data.qpos[:] = Robot(self._model, task.name).home
        mujoco.mj_forward(self._model, self._data)
        self._subject = Subject(self._model, self._data)
        self._cameras = [self._camera(task.name) for _ in range(count)]
        self._scene = mujoco.MjvScene(self._model, maxgeom=10_000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        shape = _DETAIL * how.height, _DETAIL * how.width
        self._gl = open_context(*shape[::-1])
        try:
            self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except mujoco.FatalError as error:  # an OpenGL that is too old
            raise no_gl(str(error)) from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._area = mujoco.MjrRect(0, 0, *shape[::-1])
        self._pixels = np.zeros((*shape, 3), np.uint8)

    def draw(self, index: int, row: np.ndarray, changed: Mapping[str, np.ndarray]) -> np.ndarray:
        """A picture [height, width, 3] of one robot.

        Args:
            index: of the robot, whose camera goes on from the last picture.
            row: [nstate] of mjSTATE_INTEGRATION.
            changed: fields of the model that this robot has of its own; those of geoms are not shown where
                geoms were left out of the simulation.
        """
        model, data = self._model, self._data
        for name, value in changed.items():
            own = getattr(model, name, None)
            if isinstance(own, np.ndarray) and own.shape == value.shape:
                own[...] = value
        mujoco.mj_setState(model, data, row, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_fwdPosition(model, data)
        camera = self._cameras[index]
        self._subject.follow(data, camera)
        nothing, all_of_it = mujoco.MjvPerturb(), mujoco.mjtCatBit.mjCAT_ALL
        looks = mujoco.MjvOption()
        mujoco.mjv_updateScene(model, data, looks, nothing, camera, all_of_it, self._scene)
        self._gl.make_current()
        mujoco.mjr_render(self._area, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._area, self._context)
        large = Image.fromarray(self._pixels[::-1])
        return np.asarray(large.reduce(_DETAIL))

    def close(self) -> None:
        """Release what the graphics library holds."""
        self._context.free()
        self._gl.free()

    def _camera(self, name: str) -> mujoco.MjvCamera:
        camera = mujoco.MjvCamera()
        if self._how.name is None:
            self._subject.place(camera, self._data, self._model)
            return camera
        names = [self._model.camera(i).name for i in range(self._model.ncam)]
        check_names([self._how.name], names, what=f"camera of {name}:")
        camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        camera.fixedcamid = names.index(self._how.name)
        return camera


class Subject:
    """What a camera follows: the robot with the most joints of its own, or all, where nothing moves about.

    Args:
        model: the model.
        data: in the home pose.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        roots = model.body_rootid[model.dof_bodyid]
        self._root = int(np.bincount(roots).argmax()) if len(roots) else 0
        joints = np.flatnonzero(model.jnt_bodyid == self._root)
        kinds = model.jnt_type[joints]
        self._moves = bool(np.isin(kinds, (_JOINTS.mjJNT_FREE, _JOINTS.mjJNT_SLIDE)).any())
        free = bool((kinds == _JOINTS.mjJNT_FREE).any())
        self._in_plane = self._moves and not free
        # the world's geoms have the root 0
        root_of = model.body_rootid[model.geom_bodyid]
        mine = root_of == self._root if self._moves else root_of > 0
        mine &= ~np.isin(model.geom_type, (_GEOMS.mjGEOM_PLANE, _GEOMS.mjGEOM_HFIELD))
        places, reach = data.geom_xpos[mine], model.geom_rbound[mine]
        if len(places):
            low, high = (places - reach[:, None]).min(axis=0), (places + reach[:, None]).max(axis=0)
            self._centre, self.radius_m = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
        else:
            self._centre, self.radius_m = model.stat.center.copy(), float(model.stat.extent)
        self._from_root = self._centre - data.xpos[self._root]

    def place(self, camera: mujoco.MjvCamera, data: mujoco.MjData, model: mujoco.MjModel) -> None:
        """A camera's first place: from the side of what moves in a plane, else from ahead and above."""
        # how near and far is seen goes by the extent, which a wide terrain makes too large
        model.stat.extent = min(float(model.stat.extent), 4 * self.radius_m)
        camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        half = math.radians(float(model.vis.global_.fovy)) / 2
        camera.distance = _ROOM * self.radius_m / math.tan(half)
        camera.azimuth, camera.elevation = (90.0, -8.0) if self._in_plane else (130.0, -18.0)
        camera.lookat[:] = self._centre

    def follow(self, data: mujoco.MjData, camera: mujoco.MjvCamera) -> None:
        """Go some of the way to where the robot is now; all of it, where it is elsewhere at once."""
        if not self._moves or camera.type != mujoco.mjtCamera.mjCAMERA_FREE:
            return
        way = data.xpos[self._root] + self._from_root - camera.lookat
        share = 1.0 if np.linalg.norm(way) > 2 * self.radius_m else _FOLLOWING
        camera.lookat[:] += share * way


def lit_model(task: RobotTask, width: int, height: int) -> mujoco.MjModel:
    """A task's model with its looks, made up where it has none, in a light that needs no shadows."""
    spec = edited_spec(task)
    if dress(spec):
        headlight = spec.visual.headlight
        headlight.ambient, headlight.diffuse, headlight.specular = [0.45] * 3, [0.5] * 3, [0.2] * 3
        spec.worldbody.add_light(
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, dir=[-0.4, 0.3, -1.0], diffuse=[0.35] * 3
        )
    size, quality = spec.visual.global_, spec.visual.quality
    size.offwidth, size.offheight = width, height
    quality.shadowsize = quality.offsamples = 0
    return compile_spec(spec, task.name)
