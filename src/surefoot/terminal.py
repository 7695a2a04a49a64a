"""What is printed: text as it is. No name is markup or an emoji, and none is obeyed by the terminal."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.text import Text

# control characters but tabs and ends of lines, what turns the direction of writing, and lone surrogates
_OBEYED = re.compile(
    r"(?!\r\n)[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


class PlainConsole(Console):
    """A console for text that comes from files and users, in lines and in the cells of tables."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text, with a question mark for each character that a terminal would obey."""
        return super().render_str(_OBEYED.sub("?", text), **options)

    def on_broken_pipe(self) -> None:
        """Leave it to the caller that the reader of a pipe has left."""
        raise BrokenPipeError


def say(text: str, *, stderr: bool = False) -> None:
    """Print a text, whose lines stay whole."""
    PlainConsole(stderr=stderr).print(text, soft_wrap=True)
