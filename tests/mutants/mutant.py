"""One bug that is known, as a change of the source."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One bug: where, what, and which tests are to find it.

    Attributes:
        line: the row of docs/silent-bugs.md.
        name: what goes wrong.
        file: below src/surefoot.
        old: a text that is in the file exactly once.
        new: what takes its place.
        tests: files, folders or `file::test` of which at least one must fail then.
    """

    line: int
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
