"""The loop behind the viewer: a task in real time, as the page's panel asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from surefoot.see.panel import SPEEDS, Panel, Wish
from surefoot.see.stage import CommandPart, Moment, View

_DRAW_S, _TELL_S = 1 / 60, 0.1  # at most as often to the screen, and to the panel
_IDLE_S = 1 / 30  # between looks at the panel in a pause
_LOOK_S = 2.0  # between looks for a newer policy
_WAIT_S = 20.0  # until it is said that no browser has come
_BEHIND_S = 0.25  # a loop that is later than this does not catch up


class Plays(Protocol):
    """What can be shown: a `Stage`, or a `Replay`."""

    control_dt_s: float | None
    command_parts: tuple[CommandPart, ...]

    @property
    def name(self) -> str:
        """What is shown."""
        ...

    @property
    def by(self) -> str:
        """Who acts."""
        ...

    @property
    def policy_step(self) -> float | None:
        """Steps of training that a policy has."""
        ...

    @property
    def outcome(self) -> str:
        """What is to be said of the state that it is in."""
        ...

    @property
    def command(self) -> np.ndarray | None:
        """[N, K] what is asked for now."""
        ...

    def __next__(self) -> Moment:
        """A step."""
        ...

    def reset(self) -> None:
        """Begin again."""
        ...

    def hold_command(self, numbers: Sequence[float] | None) -> None:
        """Ask for this from now on."""
        ...

    def newer(self) -> Callable[[], str] | None:
        """What takes up a newer policy."""
        ...


class Draws(Protocol):
    """What shows a model's data: `studio.Screen`."""

    data: Any

    def draw(self) -> None:
        """Show what `data` is now."""
        ...


def title_of(stage: Plays) -> dict[str, Any]:
    """What the panel shows all along."""
    return {
        "task": stage.name,
        "speeds": SPEEDS,
        "command": [part._asdict() for part in stage.command_parts],
        "control_dt_s": stage.control_dt_s,
    }


class Show:
    """A stage on a screen.

    Args:
        stage: the task and its player; the first environment is shown.
        view: where its bodies are.
        screen: draws them.
        panel: the page's panel.
        log: hears of episodes that ended and of newer policies.
        paused: whether to begin in a pause.
    """

    def __init__(
        self,
        stage: Plays,
        view: View,
        screen: Draws,
        panel: Panel,
        *,
        log: Callable[[str], None],
        paused: bool = False,
    ) -> None:
        self._stage, self._view, self._screen, self._panel = stage, view, screen, panel
        self._log, self._note = log, ""
        self._paused, self._steps_left, self._speed = paused, 0, 1.0
        self._held: list[float] | None = None
        self._moment: Moment | None = None
        self._drawn = self._told = self._due = 0.0
        self._pace = _Pace()
        self._looker = ThreadPoolExecutor(1, "newer-policy")
        self._looked, self._search = 0.0, None
        self._draw()

    def wait_for_browser(self, url: str) -> None:
        """Wait until a page is there; said after some seconds, with the address."""
        if self._panel.was_opened.wait(_WAIT_S):
            return
        self._log(f"no browser has come yet; waiting for one at {url} (Ctrl-C ends)")
        while not self._panel.was_opened.wait(1.0):  # so that Ctrl-C is heard
            pass

    def run(self, episodes: int | None = None) -> None:
        """Play until so many episodes have ended; None: until interrupted."""
        ended, self._due = 0, time.monotonic()
        try:
            while episodes is None or ended < episodes:
                for wish in self._panel.wishes():
                    self._grant(wish)
                self._look_for_newer()
                if self._paused and not self._steps_left:
                    self._draw()
                    self._tell()
                    time.sleep(_IDLE_S)
                    self._due = time.monotonic()
                    continue
                self._steps_left = max(0, self._steps_left - 1)
                ended += self._step()
        finally:
            self._looker.shutdown(wait=False, cancel_futures=True)

    def _step(self) -> bool:
        """A control step in its time; whether an episode ended with it."""
        before = self._screen.data.time
        moment = self._moment = next(self._stage)
        now = time.monotonic()
        passed = self._advance(before)
        if now - self._drawn >= _DRAW_S:
            self._draw()
        if now - self._told >= _TELL_S:
            self._tell()
        self._due += passed / self._speed
        self._pace.add(passed)
        left = self._due - time.monotonic()
        if left > 0:
            time.sleep(left)
        elif left < -_BEHIND_S:
            self._due = time.monotonic()
        if not (moment.terminated[0] or moment.truncated[0]):
            return False
        self._log(_ended(moment))
        return True

    def _advance(self, before: float) -> float:
        """Seconds of simulation in the last step."""
        known = self._stage.control_dt_s
        if known is not None:
            return known
        self._view.put(0, self._screen.data)
        return max(0.0, self._screen.data.time - before)

    def _draw(self) -> None:
        self._view.put(0, self._screen.data)
        self._screen.draw()
        self._drawn = time.monotonic()

    def _grant(self, wish: Wish) -> None:
        if wish.kind in ("pause", "resume"):
            self._paused = wish.kind == "pause"
        elif wish.kind == "step":
            self._paused, self._steps_left = True, self._steps_left + 1
        elif wish.kind == "speed":
            self._speed, self._due = wish.value, time.monotonic()
        elif wish.kind == "reset":
            self._stage.reset()
            self._moment = None
            self._draw()
        else:
            self._held = wish.value
            self._stage.hold_command(wish.value)
        self._told = 0.0

    def _look_for_newer(self) -> None:
        search: Future[Any] | None = self._search
        now = time.monotonic()
        if search is None and now - self._looked >= _LOOK_S:
            self._looked = now
            self._search = self._looker.submit(self._stage.newer)
        elif search is not None and search.done():
            self._search, take = None, search.result()
            if take is not None:
                self._note = take()
                self._log(self._note)

    def _tell(self) -> None:
        self._told = time.monotonic()
        facts = {
            "paused": self._paused,
            "speed": self._speed,
            "pace": self._pace.now(),
            "player": self._stage.by,
            "policy_step": self._stage.policy_step,
            "held": self._held,
            "note": self._stage.outcome or self._note,
        }
        command = self._stage.command
        if command is not None:
            facts["command"] = command[0].tolist()
        if self._moment is not None:
            facts |= _of_moment(self._moment)
        self._panel.show(facts)


class _Pace:
    """Seconds of simulation a second, over the last one."""

    def __init__(self) -> None:
        self._since, self._simulated, self._pace = time.monotonic(), 0.0, 0.0

    def add(self, seconds: float) -> None:
        self._simulated += seconds

    def now(self) -> float:
        passed = time.monotonic() - self._since
        if passed >= 1.0:
            self._pace = self._simulated / passed
            self._since, self._simulated = time.monotonic(), 0.0
        return self._pace


def _of_moment(moment: Moment) -> dict[str, Any]:
    """What the panel shows of a step."""
    return {
        "episode": int(moment.episode[0]),
        "step": int(moment.step[0]),
        "return": float(moment.episode_return[0]),
        "reward": float(moment.reward[0]),
        "value": None if moment.value is None else float(moment.value[0]),
        "terms": {name: float(x[0]) for name, x in moment.terms.items()},
        "measures": {name: float(x[0]) for name, x in moment.measures.items()},
    }


def _ended(moment: Moment) -> str:
    how = "terminated" if moment.terminated[0] else "truncated"
    if not moment.valid[0]:
        how = "lost, as the simulation broke down,"
    return (
        f"episode {moment.episode[0]}: return {moment.episode_return[0]:.2f}, {how} after "
        f"{moment.step[0]} steps"
    )
