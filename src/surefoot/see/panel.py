"""What the page beside the viewer shows and asks for: JSON over a WebSocket, the newest alone."""

from __future__ import annotations

import asyncio
import json
import math
import queue
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from websockets.exceptions import ConnectionClosed

SPEEDS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)


class Wish(NamedTuple):
    """What somebody asked for on the page.

    Attributes:
        kind: `pause`, `resume`, `step`, `reset`, `speed` or `command`.
        value: of a speed the factor; of a command its numbers, or None for the task's own.
    """

    kind: str
    value: Any = None


class Panel:
    """Stands between the loop that steps a task and the pages that show it, on their server's thread.

    Args:
        title: what the page shows all along: names, parts of the command, reward terms.

    Attributes:
        was_opened: set once a page is there.
    """

    def __init__(self, title: Mapping[str, Any]) -> None:
        self._title = _json({"title": title})
        self._parts = len(title.get("command", ()))
        self._wishes: queue.SimpleQueue[Wish] = queue.SimpleQueue()
        self._newest, self._loops = "", {}
        self._lock = threading.Lock()
        self.was_opened = threading.Event()

    def show(self, facts: Mapping[str, Any]) -> None:
        """Let all pages show these facts in place of those before."""
        with self._lock:
            self._newest = _json(facts)
            for news, loop in self._loops.items():
                try:
                    loop.call_soon_threadsafe(news.set)
                except RuntimeError:  # the server has just ended
                    continue

    def ask(self, wish: Wish) -> None:
        """Ask for something, as a page does."""
        self._wishes.put(wish)

    def wishes(self) -> list[Wish]:
        """What was asked for since the last call."""
        found = []
        while not self._wishes.empty():
            found.append(self._wishes.get())
        return found

    async def serve(self, connection: Any) -> None:
        """Serve one page until it leaves."""
        news = asyncio.Event()
        news.set()
        with self._lock:
            self._loops[news] = asyncio.get_running_loop()
        self.was_opened.set()
        sending = asyncio.create_task(self._send(connection, news))
        try:
            async for message in connection:
                wish = read_wish(message, self._parts)
                if wish is not None:
                    self.ask(wish)
        except ConnectionClosed:
            pass
        finally:
            sending.cancel()
            with self._lock:
                del self._loops[news]

    async def _send(self, connection: Any, news: asyncio.Event) -> None:
        try:
            await connection.send(self._title)
            while True:
                await news.wait()
                news.clear()
                if self._newest:
                    await connection.send(self._newest)
        except ConnectionClosed:
            return


def read_wish(message: str | bytes, parts: int) -> Wish | None:
    """What a message asks for; None: nothing that can be done.

    Args:
        message: JSON such as `{"speed": 2}`.
        parts: numbers of a command.
    """
    try:
        (kind, value), *more = json.loads(message).items()
    except (ValueError, AttributeError, RecursionError):
        return None
    if more:
        return None
    if kind in ("pause", "resume", "step", "reset"):
        return Wish(kind)
    if kind == "speed" and value in SPEEDS:
        return Wish(kind, float(value))
    if kind == "command" and (value is None or _is_numbers(value, parts)):
        return Wish(kind, value)
    return None


def _is_numbers(value: Any, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(type(x) in (int, float) and math.isfinite(x) for x in value)
    )


def _json(facts: Any) -> str:
    """As JSON, which has no NaN: null stands for what is no number."""
    return json.dumps(_finite(facts), allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
