"""What is printed: text as it is. No name is markup or an emoji, and none is obeyed by the terminal."""

from __future__ import annotations

import re
from typing import Any

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
        """Leave it to the caller that the reader of a pipe has left."""
        raise BrokenPipeError


def say(text: str, *, stderr: bool = False) -> None:
    """Print a text, whose lines stay whole."""
    PlainConsole(stderr=stderr).print(text, soft_wrap=True)
