"""`surefoot watch RUN|FOLDER ...`: the report's page while runs train, in the browser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from surefoot.cli.arguments import default, read
from surefoot.local_server import LOOPBACK, LocalServer, open_browser, risk
from surefoot.machine import user_path
from surefoot.terminal import say


@dataclass(frozen=True)
class Arguments:
    """Show runs in the browser while they train: curves, reward terms, health, checkpoints, videos. The page
    follows them by itself, and needs no network.
    """

    folders: Annotated[
        tuple[Path, ...], tyro.conf.Positional, default("runs", metavar="FOLDER ...")
    ] = ()
    """Run folders, or folders that hold runs; a run that begins in one of these appears by itself."""
    host: str = LOOPBACK
    """The address to serve on: this machine alone, unless you name another."""
    port: Annotated[int | None, default("the first free one from 8080 on")] = None
    """The port to serve on."""
    browser: bool = True
    """Open the page in the browser, where there is a screen."""


def main(argv: Sequence[str]) -> int:
    """Serve until Ctrl-C."""
    arguments = read(Arguments, "watch", argv)
    from surefoot.pages.watch import WatchPage

    page = WatchPage([user_path(folder) for folder in arguments.folders] or [Path("runs")])
    page("/", {})  # what it needs is imported before the first one asks
    if warning := risk(arguments.host):
        say(warning, stderr=True)
    with LocalServer(page, host=arguments.host, port=arguments.port) as server:
        say(f"{server.url}  (Ctrl-C ends it; the runs go on)")
        if arguments.browser:
            open_browser(server.url)
        server.wait()
    return 0
