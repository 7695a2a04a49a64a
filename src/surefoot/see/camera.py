"""Where the viewer looks from: at the robot, along with it, and as a mouse has it. Needs MuJoCo's Studio."""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false, reportMissingImports=false
import mujoco
import numpy as np
from mujoco.experimental.dear_imgui import dear_imgui as imgui
from mujoco.experimental.studio import messages, plugin, ux

_ZOOM = 1 / 50  # of a notch of the wheel, as in Studio


class Camera(plugin.ViewerPlugin):
    """Follows the robot; a mouse turns (left), moves (right) and zooms (wheel or middle)."""

    _base: int | None = None
    _before = np.zeros(3)

    @messages.handler
    def on_post_model(self, event: messages.PostModelEvent) -> None:
        """Look at a new model."""
        self._base = base_of(event.model)
        point_camera(event.model, event.data, self.viewer.camera)
        self._before = self._place()

    @messages.handler
    def on_update(self, event: messages.UpdateEvent) -> None:
        """Go along with the robot, then do as the mouse says."""
        del event
        self.follow()
        mouse = imgui.GetIO()
        size = mouse.DisplaySize
        if mouse.WantCaptureMouse or size.x <= 0 or size.y <= 0:
            return
        if mouse.MouseWheel:
            self._move(ux.CameraMotion.ZOOM, 0.0, -mouse.MouseWheel * _ZOOM)
        moved = mouse.MouseDelta.x / size.x, mouse.MouseDelta.y / size.y
        if not any(moved):
            return
        if imgui.IsMouseDown(imgui.MouseButton.Left):
            self._move(ux.CameraMotion.ORBIT, *moved)
        elif imgui.IsMouseDown(imgui.MouseButton.Right):
            self._move(ux.CameraMotion.PLANAR_MOVE_V, *moved)
        elif imgui.IsMouseDown(imgui.MouseButton.Middle):
            self._move(ux.CameraMotion.ZOOM, *moved)

    def follow(self) -> None:
        """Go along with the robot. MuJoCo's own tracking happens where it draws: in the browser, which tells
        nobody.
        """
        place = self._place()
        self.viewer.camera.lookat[:] += place - self._before
        self._before = place

    def _place(self) -> np.ndarray:
        """Where the robot is on the ground."""
        if self._base is None:
            return np.zeros(3)
        return self.viewer.data.xpos[self._base] * (1.0, 1.0, 0.0)

    def _move(self, how: ux.CameraMotion, dx: float, dy: float) -> None:
        viewer = self.viewer
        ux.MoveCamera(viewer.model, viewer.data, viewer.camera, how, dx, dy)


def point_camera(model: mujoco.MjModel, data: mujoco.MjData, camera: mujoco.MjvCamera) -> None:
    """Let a camera look at a robot that can leave as a whole, from the side; at all else as MuJoCo does."""
    mujoco.mjv_defaultFreeCamera(model, camera)
    base = base_of(model)
    inside = [g for g in range(model.ngeom) if model.body_rootid[model.geom_bodyid[g]] == base]
    if base is None or not inside:
        return
    middle = data.subtree_com[base]
    camera.lookat[:] = middle
    reach = np.linalg.norm(data.geom_xpos[inside] - middle, axis=1) + model.geom_rbound[inside]
    camera.distance = 3.0 * float(reach.max())
    camera.azimuth, camera.elevation = 120.0, -20.0


def base_of(model: mujoco.MjModel) -> int | None:
    """The first body that flies or slides freely: a robot that can leave."""
    loose = {int(mujoco.mjtJoint.mjJNT_FREE), int(mujoco.mjtJoint.mjJNT_SLIDE)}
    for joint in range(model.njnt):
        body = int(model.jnt_bodyid[joint])
        if int(model.jnt_type[joint]) in loose and model.body_parentid[body] == 0:
            return body
    return None
