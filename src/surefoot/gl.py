"""Drawing without a display: OpenGL by EGL, found and loaded before the simulators look for it."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

from surefoot.errors import UserError

PACKAGES = "libegl1 libgl1 libegl-mesa0 libgl1-mesa-dri"
_LIBRARIES = ("libEGL.so.1", "libGL.so.1")


def load_gl() -> None:
    """Let MuJoCo, Gymnasium and EnvPool draw where there is no display.

    On Linux alone: elsewhere the system brings OpenGL. To be called before EnvPool is imported, which looks
    for EGL's functions as it is loaded and ends the process if it draws without them. `MUJOCO_GL` stays as it
    is set.

    Raises:
        ValueError: there is no OpenGL here; the sentence names the packages.
    """
    if sys.platform != "linux":
        return
    for name in _LIBRARIES:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise no_gl(f"{name} cannot be loaded ({error})") from None
    os.environ.setdefault("MUJOCO_GL", "egl")


def gl_is_loaded() -> bool:
    """Whether EGL's functions can be found by everything in this process."""
    return sys.platform != "linux" or hasattr(ctypes.CDLL(None), "eglInitialize")


def open_context(width: int, height: int) -> Any:
    """A context of MuJoCo's to draw in, made current; its `free` gives it back.

    Raises:
        ValueError: there is no OpenGL here.
    """
    try:
        if sys.platform == "linux" and os.environ.get("MUJOCO_GL") == "egl":
            from mujoco.egl import GLContext
        else:
            from mujoco.rendering.classic.gl_context import GLContext
        context = GLContext(width, height)
        context.make_current()
    except Exception as error:
        raise no_gl(str(error) or type(error).__name__) from error
    return context


def no_gl(why: str) -> UserError:
    """What to say where nothing can be drawn."""
    why = " ".join(why.split()).rstrip(".")
    return UserError(
        f"pictures need OpenGL, which is missing here: {why}. On Debian and Ubuntu: apt-get install "
        f"{PACKAGES}"
    )
