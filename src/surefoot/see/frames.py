"""What is drawn around a picture: whose it is, and in numbers what happens in it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK, _PALE, _LINE = (250, 250, 248), (33, 37, 41), (110, 117, 125), (222, 226, 230)
_GAIN, _LOSS, _SIGNAL = (64, 145, 108), (201, 84, 74), (29, 78, 137)
_EDGE = 8  # pixels around a panel's text


class Caption(NamedTuple):
    """What is said under an environment's picture.

    Attributes:
        heading: which episode, and how far it is.
        figures: short texts by name, such as the return.
        command: numbers by name.
        terms: of the reward, per step, by name.
        ending: how the episode ended, in words; none: it goes on.
    """

    heading: str
    figures: Mapping[str, str]
    command: Mapping[str, float]
    terms: Mapping[str, float]
    ending: str | None = None


class Layout:
    """Where pictures and captions go on a frame.

    Args:
        width: of one picture.
        height: of one picture.
        example: a caption with as many numbers as any.
        count: of pictures.
        title: over all of them.
    """

    def __init__(self, width: int, height: int, example: Caption, count: int, title: str) -> None:
        self._width, self._height, self._title = width, height, title
        self._text = max(11, min(16, width // 34))
        self._line = round(self._text * 1.45)
        self._columns = math.ceil(math.sqrt(count)) if count > 3 else count
        self._rows = math.ceil(count / self._columns)
        self._cells = max(1, width // (self._text * 13))
        wanted = 2 + (len(example.command) > 0) * self._lines_of(len(example.command))
        wanted += self._lines_of(len(example.terms))
        self._panel = _even(wanted * self._line + 2 * _EDGE)
        self._bar = _even(self._line + _EDGE)
        self._most = 1e-9

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a frame, both even."""
        return (
            _even(self._columns * self._width),
            self._bar + self._rows * (_even(self._height) + self._panel),
        )

    def draw(self, pictures: Sequence[np.ndarray], captions: Sequence[Caption]) -> np.ndarray:
        """A frame [height, width, 3] uint8."""
        frame = Image.new("RGB", self.size, _PAPER)
        pen = ImageDraw.Draw(frame)
        self._write(pen, (_EDGE, _EDGE // 2), self._title, _INK, frame.width - 2 * _EDGE)
        sizes = [abs(x) for caption in captions for x in caption.terms.values()]
        self._most = max([self._most, *(x for x in sizes if math.isfinite(x))])
        for k, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
            row, column = divmod(k, self._columns)
            left = column * self._width
            top = self._bar + row * (_even(self._height) + self._panel)
            frame.paste(self._fitted(picture, dimmed=caption.ending is not None), (left, top))
            if caption.ending is not None:
                middle = left + self._width / 2, top + self._height / 2
                pen.text(middle, caption.ending, _INK, _font(2 * self._text), anchor="mm")
            self._describe(pen, left, top + _even(self._height), caption)
            if column:
                pen.line((left, top, left, top + self._height + self._panel), _PAPER, 2)
        return np.asarray(frame)

    def _fitted(self, picture: np.ndarray, *, dimmed: bool) -> Image.Image:
        """A picture of any size within its place, as large as it fits."""
        image = Image.fromarray(picture)
        share = min(self._width / image.width, self._height / image.height)
        if share != 1:
            size = max(1, round(image.width * share)), max(1, round(image.height * share))
            smooth = Image.Resampling.LANCZOS if share < 2 else Image.Resampling.NEAREST
            image = image.resize(size, smooth)
        place = Image.new("RGB", (self._width, self._height), _LINE)
        place.paste(image, ((self._width - image.width) // 2, (self._height - image.height) // 2))
        return Image.blend(place, Image.new("RGB", place.size, _PAPER), 0.6) if dimmed else place

    def _describe(self, pen: ImageDraw.ImageDraw, left: int, top: int, caption: Caption) -> None:
        """The panel under a picture."""
        at, width = top + _EDGE, self._width - 2 * _EDGE
        self._write(pen, (left + _EDGE, at), caption.heading, _PALE, width)
        at += self._line
        figures = "    ".join(f"{name} {text}" for name, text in caption.figures.items())
        self._write(pen, (left + _EDGE, at), figures, _INK, width)
        at += self._line
        for numbers, bars in ((caption.command, False), (caption.terms, True)):
            for k, (name, value) in enumerate(numbers.items()):
                row, column = divmod(k, self._cells)
                place = left + _EDGE + column * (width // self._cells), at + row * self._line
                self._cell(pen, place, name, value, has_bar=bars)
            at += self._lines_of(len(numbers)) * self._line

    def _cell(
        self,
        pen: ImageDraw.ImageDraw,
        place: tuple[int, int],
        name: str,
        value: float,
        *,
        has_bar: bool,
    ) -> None:
        """A name, its number, and under both a bar as long as the number is large."""
        left, top = place
        width = (self._width - 2 * _EDGE) // self._cells - _EDGE
        number = short(value)
        room = width - pen.textlength(number, _font(self._text)) - self._text / 2
        self._write(pen, place, name, _PALE if has_bar else _SIGNAL, room)
        ink = _INK if has_bar else _SIGNAL
        pen.text((left + width, top), number, ink, _font(self._text), anchor="ra")
        if has_bar and math.isfinite(value):
            bottom = top + self._line - 2
            length = round(width * min(1.0, abs(value) / self._most))
            pen.line((left, bottom, left + width, bottom), _LINE, 2)
            if length:
                pen.line((left, bottom, left + length, bottom), _GAIN if value > 0 else _LOSS, 2)

    def _write(
        self,
        pen: ImageDraw.ImageDraw,
        place: tuple[int, int],
        text: str,
        ink: tuple[int, int, int],
        room: float,
    ) -> None:
        """A text, its end left out where there is no room for it."""
        font = _font(self._text)
        if pen.textlength(text, font) > room:
            while text and pen.textlength(f"{text}...", font) > room:
                text = text[:-1]
            text = f"{text.rstrip()}..."
        pen.text(place, text, ink, font)

    def _lines_of(self, count: int) -> int:
        return math.ceil(count / self._cells)


def short(x: float) -> str:
    """A number in few characters."""
    if not math.isfinite(x):
        return "-"
    digits = 0 if abs(x) >= 1000 else 1 if abs(x) >= 100 else 2
    return f"{round(x, digits) + 0.0:,.{digits}f}"  # and never -0.00


def _even(x: int) -> int:
    return x + x % 2


@functools.cache
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
