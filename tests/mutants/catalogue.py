"""Silent bugs that other libraries had, each as a change of one line or a few of ours.

The rows of docs/silent-bugs.md, put back: the tests named must fail on each (`make mutants`).
"""

from __future__ import annotations

from tests.mutants import boundaries, memory, normalization, objective, robots, running
from tests.mutants.mutant import Mutant

CATALOGUE: tuple[Mutant, ...] = (
    *boundaries.MUTANTS,
    *memory.MUTANTS,
    *normalization.MUTANTS,
    *objective.MUTANTS,
    *robots.MUTANTS,
    *running.MUTANTS,
)

__all__ = ["CATALOGUE", "Mutant"]
