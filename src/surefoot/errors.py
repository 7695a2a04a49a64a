"""What the user is told of a mistake: one line, with the names that were near."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user's: the message says what was wrong and what to do, in one line."""


def near_matches(name: str, known: Iterable[str], *, count: int = 3) -> str:
    """A phrase such as `; did you mean 'gamma'?`, or nothing where no known name is near."""
    names = list(known)
    folded: dict[str, str] = {known_name.lower(): known_name for known_name in names}
    close = difflib.get_close_matches(name.lower(), folded, n=count, cutoff=0.6)
    if not close:
        close = [fold for fold in folded if name.lower() in fold][:count]
    return f"; did you mean {' or '.join(repr(folded[c]) for c in close)}?" if close else ""


def check_names(given: Iterable[str], known: Iterable[str], *, what: str) -> None:
    """Raise ValueError for the first name in `given` that is not `known`."""
    known = list(known)
    for name in given:
        if name not in known:
            raise UserError(f"unknown {what} {name!r}{near_matches(name, known)}")
