"""A small server for one person on this machine: its address, its answers, the browser that shows it.

Bound to the loopback address unless the user says otherwise. Imports the standard library alone.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket
import sys
import threading
import urllib.parse
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from surefoot.errors import UserError

LOOPBACK = "127.0.0.1"
_PORTS = range(8080, 8180)
_PIECE = 2**18  # bytes that are sent at a time
_SENT_WITH_ALL = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what is bound to a host."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


def risk(host: str) -> str:
    """What is to be said of a host that others can reach; empty for the loopback address."""
    if is_loopback(host):
        return ""
    return (
        f"everybody who reaches {host} can see and use this page: it has no password and no encryption. "
        f"Without --host it is at {LOOPBACK}, for this machine alone (from another one: ssh -L)"
    )


def listen(host: str = LOOPBACK, port: int | None = None) -> socket.socket:
    """A socket that listens on a port; None: the first free one from 8080 on.

    Raises:
        ValueError: the port is in use or not allowed, or the host is not an address of this machine.
    """
    if port is not None and not 1 <= port <= 65535:
        raise UserError(f"port = {port}: a port is from 1 to 65535; leave it out for a free one")
    for candidate in _PORTS if port is None else (port,):
        try:
            return _bound(host, candidate)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and port is None:
                continue
            raise _refusal(host, candidate, error) from None
    raise UserError(
        f"the ports {_PORTS[0]} to {_PORTS[-1]} of {host} are all in use; name another one: --port N"
    )


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # else a port that was just left is in use for a minute
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen()
    except BaseException:
        made.close()
        raise
    return made


def _refusal(host: str, port: int, error: OSError) -> UserError:
    if error.errno == errno.EADDRINUSE:
        return UserError(
            f"port {port} of {host} is in use; name another one (--port N), or none for a free one"
        )
    if error.errno == errno.EACCES:
        return UserError(
            f"port {port} of {host} may not be bound: ports below 1024 are the system's"
        )
    return UserError(
        f"host {host!r} is no address of this machine ({error.strerror or error}); {LOOPBACK} is for this "
        "machine alone"
    )


def url_of(listening: socket.socket) -> str:
    """What to type into a browser."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def open_browser(url: str) -> None:
    """Show a page in the user's browser, where there is a screen; else one for text takes the terminal."""
    has_screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if has_screen or not sys.platform.startswith("linux"):
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


@dataclass(frozen=True)
class Response:
    """An answer.

    Attributes:
        body: its bytes, or the file that has them, of which parts may be asked for.
        kind: its media type.
        status: its HTTP status.
        headers: further ones.
    """

    body: bytes | Path = b""
    kind: str = "text/plain; charset=utf-8"
    status: int = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


NOT_FOUND = Response(b"There is nothing here.\n", status=HTTPStatus.NOT_FOUND)
_NOT_THIS_HOST = Response(b"This is not the address I serve.\n", status=HTTPStatus.FORBIDDEN)

Answer = Callable[[str, Mapping[str, str]], Response]


class LocalServer:
    """Answers GET until it is closed, in threads of its own; used as a context.

    A page of another site must not read it through a name that it has pointed to this machine, so that on
    the loopback address only requests to that address are answered.

    Args:
        answer: path and query -> response; what it raises becomes an answer of status 500.
        host: the address to bind.
        port: the port; None: the first free one from 8080 on.

    Raises:
        ValueError: see `listen`.
    """

    def __init__(self, answer: Answer, *, host: str = LOOPBACK, port: int | None = None) -> None:
        listening = listen(host, port)
        self.url = url_of(listening)
        only_here = is_loopback(host)

        class Handler(_Handler):
            def reply(self, path: str, query: Mapping[str, str]) -> Response:
                if only_here and not is_loopback(_named(self.headers.get("Host", ""))):
                    return _NOT_THIS_HOST
                return answer(path, query)

        self._server = _Server(listening.getsockname(), Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listening
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> LocalServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait(self) -> None:
        """Serve until the user presses Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt):
            while self._thread.is_alive():
                self._thread.join(0.5)  # in pieces, as Windows does not interrupt a wait


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has left in the middle of an answer is nothing to tell of."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "Surefoot", ""
    timeout = 60  # a connection that says nothing

    def reply(self, path: str, query: Mapping[str, str]) -> Response:
        raise NotImplementedError

    def do_GET(self) -> None:
        """Answer."""
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        try:
            response = self.reply(urllib.parse.unquote(parts.path), query)
        except Exception as error:  # the server goes on, and the page says what it was told
            text = f"{type(error).__name__}: {error}\n".encode("utf-8", "replace")
            response = Response(text, status=HTTPStatus.INTERNAL_SERVER_ERROR)
        if isinstance(response.body, bytes):
            self._head(response, len(response.body), response.status)
            self.wfile.write(response.body)
        else:
            self._send_file(response, response.body)

    def _head(self, response: Response, size: int, status: int, **further: str) -> None:
        self.send_response(status)
        headers = {**_SENT_WITH_ALL, **response.headers, "Content-Type": response.kind}
        further = {name.replace("_", "-"): value for name, value in further.items()}
        for name, value in {**headers, **further, "Content-Length": str(size)}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_file(self, response: Response, path: Path) -> None:
        """A file, or the part of it that a player of videos asks for."""
        try:
            file = path.open("rb")
        except OSError:
            self._head(NOT_FOUND, 0, NOT_FOUND.status)
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            first, last = _part(self.headers.get("Range", ""), size)
            left = last + 1 - first
            if left == size:
                self._head(response, size, response.status, Accept_Ranges="bytes")
            else:
                told = f"bytes {first}-{last}/{size}"
                self._head(response, left, HTTPStatus.PARTIAL_CONTENT, Content_Range=told)
            file.seek(first)
            while left > 0 and (piece := file.read(min(left, _PIECE))):
                self.wfile.write(piece)
                left -= len(piece)
            if left:  # it has become shorter meanwhile
                self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is the user's."""


def _named(host: str) -> str:
    """The host of a `Host` header, without its port."""
    found = re.fullmatch(r"\[(.+)\](?::\d+)?|([^:]*)(?::\d+)?", host)
    return (found[1] or found[2]) if found else ""


def _part(asked: str, size: int) -> tuple[int, int]:
    """First and last byte of `bytes=A-B`, `bytes=A-` or `bytes=-N`; all of them for anything else."""
    found = re.fullmatch(r"bytes=(\d{0,15})-(\d{0,15})", asked)
    if not found or found[0] == "bytes=-":
        return 0, size - 1
    if not found[1]:
        return max(0, size - int(found[2])), size - 1
    first, last = int(found[1]), min(int(found[2] or size), size - 1)
    return (first, last) if first <= last else (0, size - 1)
