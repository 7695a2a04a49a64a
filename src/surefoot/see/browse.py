"""`surefoot play` in the browser: a stage, a page and the viewer, from beginning to end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from surefoot.errors import UserError
from surefoot.local_server import listen, open_browser, risk
from surefoot.see.choice import Choice
from surefoot.see.panel import Panel
from surefoot.see.replay import Replay
from surefoot.see.show import Show, title_of
from surefoot.see.studio import Screen


def browse(
    choice: Choice,
    *,
    episodes: int | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    opens_browser: bool = True,
    log: Callable[[str], None] = print,
) -> None:
    """Show a choice in the browser until it ends or is interrupted.

    Args:
        choice: what is to be looked at.
        episodes: how many to play; None: until interrupted.
        host: the address to serve at.
        port: the port; None: a free one.
        opens_browser: whether the user's browser is opened, where there is a display.
        log: hears the address and what happens.

    Raises:
        ValueError: what is chosen cannot be shown, the port is in use, or MuJoCo has no viewer.
    """
    if episodes is not None and episodes < 1:
        raise UserError(f"episodes = {episodes} must be at least 1")
    with contextlib.ExitStack() as at_end:
        listening = at_end.enter_context(listen(host, port))  # before a model is loaded
        broken = choice.broken
        stage = choice.open(log=log) if broken is None else Replay(broken, choice.task)
        at_end.callback(stage.close)
        view = stage if isinstance(stage, Replay) else stage.view()
        panel = Panel(title_of(stage))
        screen = Screen(view.model, panel, listening)
        at_end.callback(screen.close)
        log(f"{stage.name}, {stage.by}: {screen.url} (Ctrl-C ends)")
        if warning := risk(host):
            log(warning)
        if opens_browser:
            open_browser(screen.url)
        show = Show(stage, view, screen, panel, log=log, paused=broken is not None)
        with contextlib.suppress(KeyboardInterrupt):
            show.wait_for_browser(screen.url)
            show.run(episodes)
