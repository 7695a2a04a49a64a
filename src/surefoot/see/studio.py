"""MuJoCo Studio's web viewer, with a page of ours around it: the one file that knows either's inside.

Studio serves everything through one port of every interface, answers whoever asks, and loads models that are
dropped onto its page. Here it is bound to one address, answers pages of its own alone (`Door`), loads nothing
from them, and draws no windows: what a visitor can do is look around and use the page's panel.
"""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false, reportMissingImports=false
from __future__ import annotations

import functools
import importlib.util
import logging
import re
import socket
import threading
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from surefoot.errors import UserError
from surefoot.local_server import is_loopback, url_of
from surefoot.see.panel import Panel

_START_S = 60.0  # to load a model and start the threads
_PAGE = Path(__file__).parent / "page"
_FILES = {
    "/": ("play.html", "text/html; charset=utf-8"),
    "/play.js": ("play.js", "text/javascript; charset=utf-8"),
    "/play.css": ("play.css", "text/css; charset=utf-8"),
}
PANEL = "/panel"
_SOCKETS = ("/ui", "/state", PANEL)  # Studio's /drop is not among them
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_ISOLATED = {  # the viewer's threads share memory, which browsers allow to isolated pages alone
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_OURS = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; frame-src 'self'"
_STUDIOS = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self'"
)
_LAST = "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"


_NAME = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?", re.ASCII)


class Door:
    """Who is answered: pages that this server itself has handed out.

    Other pages that a browser has open could speak to a server on loopback too, which has no passwords. They
    are told by the names that a request carries.

    Args:
        host: the address that is bound.
        panel: what answers at `PANEL`.
    """

    def __init__(self, host: str, panel: Panel) -> None:
        self._panel, self._is_local = panel, is_loopback(host)

    def serve(self, serve: Any, handler: Any, **options: Any) -> Any:
        """`websockets.serve` as Studio calls it, with this door in front of it."""
        studios = options.pop("process_request")
        options.pop("process_response")  # allows other origins
        options["max_size"] = 2**20
        return serve(
            functools.partial(self._handle, handler),
            process_request=functools.partial(self._answer, studios),
            process_response=self._finish,
            **options,
        )

    async def _handle(self, studios: Any, connection: Any) -> None:
        if connection.request.path.split("?")[0] == PANEL:
            await self._panel.serve(connection)
        else:
            await studios(connection)

    def _answer(self, studios: Any, connection: Any, request: Request) -> Response | None:
        path = request.path.split("?")[0]
        wants_socket = "upgrade" in ",".join(request.headers.get_all("Connection")).lower()
        if not self._is_ours(request, wants_socket=wants_socket):
            return _response(403, "Forbidden", b"not from another page or under another name\n")
        if wants_socket:
            known = path in _SOCKETS
            return None if known else _response(404, "Not Found", b"not found\n")
        if path in _FILES:
            name, kind = _FILES[path]
            return _response(200, "OK", (_PAGE / name).read_bytes(), kind)
        return studios(connection, request)

    def _finish(self, connection: Any, request: Request, response: Response) -> None:
        """Add what keeps a page to itself."""
        del connection
        page = _OURS if request.path.split("?")[0] in _FILES else _STUDIOS
        sockets = "connect-src 'self' data: blob:"
        if (host := _host(request)) is not None:  # for browsers in which 'self' means no WebSockets
            sockets += f" ws://{host[0]}"
        policy = {"Content-Security-Policy": "; ".join((page, sockets, _LAST))}
        for name, value in {**_ISOLATED, **policy, "Access-Control-Allow-Origin": None}.items():
            if name in response.headers:
                del response.headers[name]
            if value is not None:
                response.headers[name] = value

    def _is_ours(self, request: Request, *, wants_socket: bool) -> bool:
        host, origins = _host(request), request.headers.get_all("Origin")
        if host is None or (self._is_local and host["name"].lower() not in _LOOPBACK):
            return False
        return origins == [f"http://{host[0]}"] if wants_socket or origins else True


def _host(request: Request) -> re.Match[str] | None:
    """The name under which a request came, and nothing else that could stand there."""
    hosts = request.headers.get_all("Host")
    return _NAME.fullmatch(hosts[0]) if len(hosts) == 1 else None


def _response(status: int, reason: str, body: bytes, kind: str = "text/plain") -> Response:
    headers = Headers({"Content-Type": kind, "Content-Length": str(len(body))})
    headers["Cache-Control"] = "no-store"
    return Response(status, reason, headers, body)


class Screen:
    """The viewer in a browser, and the page around it.

    Args:
        model: MuJoCo's model.
        panel: the page's panel.
        listening: the socket to serve at, which is closed with the viewer.

    Raises:
        ValueError: MuJoCo has no Studio here, or it cannot start.
    """

    def __init__(self, model: mujoco.MjModel, panel: Panel, listening: socket.socket) -> None:
        studio = _studio(listening, Door(listening.getsockname()[0], panel))
        logging.getLogger("WebServer").setLevel(logging.WARNING)  # says who comes and goes
        ready = threading.Event()
        config = studio.config(title="surefoot play", gfx="web")

        def run(endpoint: Any) -> None:
            try:
                viewer = studio.viewer(config, endpoint, plugins=[studio.camera()])
            finally:
                ready.set()
            studio.run(viewer)

        self._handle = studio.launch(run)
        ready.wait(_START_S)
        self._check()
        self.data = mujoco.MjData(model)
        self._handle.set_model(model, data=self.data)
        self.url = url_of(listening)

    def _check(self) -> None:
        try:
            self._handle.is_running()
        except (RuntimeError, OSError) as error:
            raise UserError(f"the viewer cannot start: {error}") from None

    def draw(self) -> None:
        """Show what `data` is now."""
        if not self._handle.is_running():
            raise UserError("the viewer has ended")
        self._handle.sync()

    def close(self) -> None:
        """End the viewer; browsers that look at it are told so."""
        self._handle.close()


class _Studio(NamedTuple):
    """What is used of Studio: names of its modules, and the class of its viewers."""

    config: Any
    launch: Any
    run: Any
    viewer: Any
    camera: Any


def _studio(listening: socket.socket, door: Door) -> _Studio:
    """Studio with a viewer that listens at a socket of ours, has a door, and prints nothing.

    None of this can be asked for in MuJoCo 3.17, whose viewer says '::' in its constructor. So two of its
    modules are loaded once more, as copies of ours, and a few of their names stand for ours there.
    """
    try:
        from mujoco.experimental.studio import launch_thread, viewer_protocol

        from surefoot.see.camera import Camera

        server = _copy_of("mujoco.experimental.studio.web.web_server")
        viewer = _copy_of("mujoco.experimental.studio.web_viewer")
        server.serve = functools.partial(door.serve, server.serve)
        server.bind_public_socket = lambda *_: listening
        viewer.web_server, viewer.print = server, _quiet
        config, run = viewer_protocol.ViewerConfig, viewer_protocol.run_viewer_loop
        return _Studio(config, launch_thread.launch_thread, run, viewer.WebViewer, Camera)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"the installed MuJoCo {mujoco.__version__} has no Studio web viewer that this version of "
            f"Surefoot knows ({error}): pip install 'mujoco==3.17.0', or --video FILE.mp4"
        ) from None


def _copy_of(name: str) -> Any:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ImportError(f"there is no {name}")
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _quiet(*words: object, **options: object) -> None:
    del words, options
