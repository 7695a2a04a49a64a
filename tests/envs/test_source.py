"""A fingerprint changes with the user's own code and with what it was given, and with nothing else."""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import sys
import types
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import PROBE

from surefoot.envs.source import source_fingerprint
from surefoot.envs.tasks import task_fingerprint

FILES = {
    "walk.py": (
        "import gymnasium\nimport numpy as np\nfrom terms import GAIN\n"
        "class Walk(gymnasium.Env):\n"
        "    def step(self, action):\n"
        "        from lib.late import late\n"
        "        return GAIN + late\n"
        "def make(gain=1.0): return Walk()\n"
    ),
    "terms.py": "import lib.inner\nGAIN = 2.0\n",
    "lib/__init__.py": "",
    "lib/inner.py": "from . import beside\nfrom .sub.deep import x\n",
    "lib/beside.py": "y = 1\n",
    "lib/late.py": "late = 1\n",
    "lib/sub/__init__.py": "",
    "lib/sub/deep.py": "x = 3\n",
    "other.py": "z = 4\n",  # nobody imports it
}
NEVER = itertools.count()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own files, which import one another in every way."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def of(task: str) -> str | None:
    """In a process that has not seen it before."""
    for name in ("walk", "terms", "other", *(m for m in sys.modules if m.split(".")[0] == "lib")):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    source_fingerprint.__globals__["_as_loaded"].cache_clear()
    return task_fingerprint(task, {})


@pytest.mark.parametrize("task", ["walk:Walk", "walk.py:Walk", "walk.py:make"])
@pytest.mark.parametrize("edited", FILES)
def test_an_edit_of_any_file_that_a_task_is_made_of_changes_its_fingerprint(
    project: Path, task: str, edited: str
) -> None:
    before = of(task)
    assert before is not None
    assert of(task) == before
    (project / edited).write_text(FILES[edited] + "more = 5\n")
    assert (of(task) != before) == (edited != "other.py")


MANY = """
import gymnasium
class A(gymnasium.Env): pass
class B(A): pass
def one(): return A()
def two(): return A()
three, four = (lambda: A()), (lambda: B())
class Maker:
    def A(self): return A()
"""


def test_what_is_in_one_file_is_told_apart(project: Path) -> None:
    (project / "walk.py").write_text(MANY)
    names = ("A", "B", "one", "two", "three", "four")
    assert len({of(f"walk:{name}") for name in names}) == len(names)


def test_it_is_the_same_wherever_the_files_are_and_by_whatever_name(project: Path) -> None:
    assert len({of("walk:Walk"), of("walk.py:Walk"), of(f"{project}/walk.py:Walk")}) == 1
    gymnasium.register("OwnWalk-v0", entry_point="walk:Walk")
    try:
        assert of("gymnasium:OwnWalk-v0") is not None
        assert of("gymnasium:OwnWalk-v0") == of("gymnasium:walk:OwnWalk-v0")
    finally:
        del gymnasium.registry["OwnWalk-v0"]


def test_what_runs_is_what_was_loaded_not_what_was_edited_since(project: Path) -> None:
    before = of("walk:Walk")
    (project / "walk.py").write_text(FILES["walk.py"] + "more = 5\n")
    assert task_fingerprint("walk:Walk", {}) == before
    importlib.invalidate_caches()
    importlib.reload(sys.modules["walk"])
    assert task_fingerprint("walk:Walk", {}) != before


@pytest.mark.parametrize(
    "task", ["CartPole-v1", "gymnasium:CartPole-v1", "gymnax:CartPole-v1", PROBE]
)
def test_what_comes_with_a_library_has_none(task: str) -> None:
    assert task_fingerprint(task, {}) is None


def test_nothing_is_imported_or_run_for_it(project: Path) -> None:
    (project / "lib" / "late.py").write_text("raise SystemExit('imported')\n")
    assert of("walk:Walk") is not None


# --- what it was given

PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=3)
)
GIVEN = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=5,
)


class Own:
    def __init__(self, given: Any) -> None:
        self.given = given


def by_partial(given: Any) -> Any:
    return functools.partial(Own, given=given)


def by_closure(given: Any) -> Any:
    return lambda: Own(given)


def by_default(given: Any) -> Any:
    def make(given: Any = given) -> Any:
        return Own(given)

    return make


@pytest.mark.extended
@pytest.mark.parametrize("make", [Own, by_partial, by_closure, by_default])
@given(one=GIVEN, other=GIVEN)
def test_what_a_task_was_given_is_part_of_it(make: Any, one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)  # 1 is not 1.0
    assert (source_fingerprint(make(one)) == source_fingerprint(make(other))) == same
    assert source_fingerprint(make(one)) == source_fingerprint(make(one)) is not None


def test_arrays_are_compared_by_their_numbers() -> None:
    gains = [np.arange(3000.0), np.arange(3000.0), np.arange(3000.0)]
    gains[2][1500] += 1e-9
    first, same, other = (source_fingerprint(by_partial(gain)) for gain in gains)
    assert first == same != other


# --- where there is no file, as in a notebook

CELL = """
GAIN = {gain}
def term(x): return {term}
class Walk:
    limit = {limit}
    def step(self): return max(term(y) for y in (1, 2)) * GAIN
"""
AS_IT_WAS = {"gain": "1.0", "term": "x + 1", "limit": "5"}


def in_a_cell(**changes: str) -> Any:
    module = types.ModuleType(f"cell_{next(NEVER)}")
    sys.modules[module.__name__] = module
    try:
        exec(compile(CELL.format(**AS_IT_WAS | changes), "<cell>", "exec"), vars(module))
        return source_fingerprint(module.Walk)
    finally:
        del sys.modules[module.__name__]


@pytest.mark.parametrize(
    "change", [{"gain": "2.0"}, {"term": "x + 2"}, {"term": "x - 1"}, {"limit": "6"}], ids=str
)
def test_code_of_a_notebook_has_a_fingerprint_too(change: dict[str, str]) -> None:
    assert in_a_cell() == in_a_cell() is not None
    assert in_a_cell(**change) != in_a_cell()
