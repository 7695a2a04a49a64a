"""What is printed: text as it is. No name is markup or an emoji, and none is obeyed by the terminal."""

from __future__ import annotations

import contextlib
import os
import re
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console
from rich.text import Text

# control characters but tabs and ends of lines, what turns the direction of writing, what is not seen
# (tags), and lone surrogates
_OBEYED = re.compile(
    r"(?!\r\n)[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    r"\ud800-\udfff\U000e0000-\U000e007f]"
)


def plain(text: str) -> str:
    """The text, with a question mark for each character that a terminal would obey."""
    return _OBEYED.sub("?", text)


class PlainConsole(Console):
    """A console for text that comes from files and users, in lines and in the cells of tables."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text, made plain."""
        return super().render_str(plain(text), **options)

    def on_broken_pipe(self) -> None:
        """See `drop`."""
        drop(self.file)

    def _check_buffer(self) -> None:
        # where everything that is printed is written; that it cannot be must not end what is at work
        try:
            super()._check_buffer()
        except OSError:
            drop(self.file)
        except UnicodeEncodeError:  # a terminal of few characters
            cast("TextIOWrapper", self.file).reconfigure(errors="replace")
            super()._check_buffer()


def drop(stream: IO[str]) -> None:
    """Send nowhere what is printed from here on: the reader has left, as `head` does, or a disk is full."""
    with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def say(text: str, *, stderr: bool = False) -> None:
    """Print a text, whose lines stay whole."""
    PlainConsole(stderr=stderr).print(text, soft_wrap=True)
