"""What the page asks for happens, requests of other pages do not, and ports are what they are said to be."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Mapping
from typing import Any

import mujoco
import pytest
from tests.see.helpers import Pole
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from surefoot.errors import UserError
from surefoot.local_server import is_loopback, listen
from surefoot.see.choice import Choice
from surefoot.see.panel import Panel, Wish, read_wish
from surefoot.see.show import Show, title_of
from surefoot.see.studio import Door


@pytest.mark.parametrize(
    ("message", "wish"),
    [
        ('{"pause": null}', Wish("pause")),
        ('{"step": null}', Wish("step")),
        ('{"speed": 2}', Wish("speed", 2.0)),
        ('{"speed": 1000}', None),
        ('{"command": [0.5, -1]}', Wish("command", [0.5, -1])),
        ('{"command": null}', Wish("command", None)),
        ('{"command": [0.5]}', None),
        ('{"command": [1e999, 0]}', None),
        ('{"command": [NaN, 0]}', None),
        ('{"command": [true, 0]}', None),
        ('{"pause": null, "step": null}', None),
        ('{"model": "/etc/passwd"}', None),
        ("[1]", None),
        ("{", None),
        (b"\xff\xfe", None),
        ("[" * 100_000, None),
    ],
    ids=lambda x: str(x)[:30],
)
def test_a_page_can_ask_for_nothing_else(message: str | bytes, wish: Wish | None) -> None:
    assert read_wish(message, 2) == wish


class Heard(Panel):
    """Keeps what it shows."""

    def __init__(self, title: Mapping[str, Any]) -> None:
        super().__init__(title)
        self.facts: list[Mapping[str, Any]] = []

    def show(self, facts: Mapping[str, Any]) -> None:
        super().show(facts)
        self.facts.append(facts)


class Drawing:
    """Keeps when it was drawn."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self.data, self.times = mujoco.MjData(model), [0.0]

    def draw(self) -> None:
        self.times.append(self.data.time)


def test_the_loop_does_as_the_page_says() -> None:
    stage = Choice(task=Pole, agent="zero").open(log=warnings.warn)
    view, said = stage.view(), []
    drawing, panel = Drawing(view.model), Heard(title_of(stage))
    show = Show(stage, view, drawing, panel, log=said.append)
    for wish in (
        Wish("pause"),
        Wish("speed", 4.0),
        Wish("command", [0.5]),
        *[Wish("step")] * 3,
        Wish("resume"),
    ):
        panel.ask(wish)
    show.run(episodes=2)
    assert [line.split(":")[0] for line in said] == ["episode 1", "episode 2"]
    assert all("truncated after 10 steps" in line for line in said)
    last = panel.facts[-1]
    assert last["speed"] == 4.0
    assert last["held"] == [0.5]
    assert last["command"] == [0.5]
    assert set(last["terms"]) == {"near", "time"}
    assert max(drawing.times) > 0
    # a pause shows the same again, a step one more, a reset the beginning
    paused = Show(stage, view, drawing, panel, log=said.append, paused=True)
    before = int(next(stage).step[0])
    paused._grant(Wish("step"))
    assert paused._steps_left == 1
    paused._grant(Wish("reset"))
    assert drawing.times[-1] == 0.0
    assert before >= 0
    stage.close()


def asked(
    path: str, host: str = "127.0.0.1:8080", *, at: str = "127.0.0.1", **headers: str
) -> tuple[Response | None, bool]:
    """What a door answers, and whether Studio was asked."""
    reached = []

    def studio(connection: Any, request: Request) -> Response:
        reached.append(request.path)
        return Response(200, "OK", Headers({"Access-Control-Allow-Origin": "*"}), b"")

    door = Door(at, Panel({}))
    taken: dict[str, Any] = {}

    def serve(handler: Any, **options: Any) -> None:
        taken.update(options)

    door.serve(serve, None, process_request=studio, process_response=None)
    request = Request(path, Headers({"Host": host, **headers}))
    response = taken["process_request"](None, request)
    if response is not None:
        taken["process_response"](None, request, response)
    return response, bool(reached)


SOCKET = {"Connection": "Upgrade", "Upgrade": "websocket"}
OURS = {**SOCKET, "Origin": "http://127.0.0.1:8080"}


@pytest.mark.parametrize("path", ["/ui?sid=1", "/state?sid=1", "/panel"])
def test_a_socket_is_opened_by_a_page_of_ours_alone(path: str) -> None:
    assert asked(path, **OURS) == (None, False)
    for headers in (
        SOCKET,
        {**OURS, "Origin": "http://evil.example"},
        {**OURS, "Origin": "null"},
        {**OURS, "Origin": "http://127.0.0.1:9999"},
    ):
        response, reached = asked(path, **headers)
        assert response is not None
        assert (response.status_code, reached) == (403, False)


@pytest.mark.parametrize("path", ["/drop?sid=1", "/", "/model"])
def test_no_other_socket_is_there(path: str) -> None:
    response, reached = asked(path, **OURS)
    assert response is not None
    assert (response.status_code, reached) == (404, False)


@pytest.mark.parametrize(
    ("host", "at", "status"),
    [
        ("localhost:8080", "127.0.0.1", 200),
        ("[::1]:8080", "::1", 200),
        ("evil.example:8080", "127.0.0.1", 403),
        ("evil.example", "::1", 403),
        ("127.0.0.1.evil.example", "127.0.0.1", 403),
        ("", "127.0.0.1", 403),
        ("a b; script-src *", "0.0.0.0", 403),
        ("robot.lab:8080", "0.0.0.0", 200),
    ],
)
def test_a_server_on_loopback_answers_to_its_own_names(host: str, at: str, status: int) -> None:
    response, _ = asked("/model", host, at=at)
    assert response is not None
    assert response.status_code == status


def test_what_is_served_keeps_to_itself() -> None:
    for path in ("/", "/play.js", "/play.css", "/index.html"):
        response, reached = asked(path)
        assert response is not None
        headers = response.headers
        assert reached == (path == "/index.html")
        assert "Access-Control-Allow-Origin" not in headers
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert ("unsafe" in policy) == reached
        assert "connect-src 'self' data: blob: ws://127.0.0.1:8080" in policy


def test_a_port_that_is_in_use_is_said_and_a_free_one_found() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 is in use; name another"):
            listen("127.0.0.1", port)
    with listen() as first, listen() as second:  # as two that start at once
        assert 8080 <= first.getsockname()[1] < second.getsockname()[1]
    with pytest.raises(UserError, match="no address of this machine"):
        listen("203.0.113.7", 8080)
    with pytest.raises(UserError, match="port = 70000: a port is from 1 to 65535"):
        listen("127.0.0.1", 70000)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "localhost", "::1"])
def test_loopback_is_known(host: str) -> None:
    assert is_loopback(host)
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("::")
    assert not is_loopback("127.0.0.1.example")
