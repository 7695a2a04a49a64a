"""The tests that are to find mutants are there, and what was tried is not tried again."""

from __future__ import annotations

import ast
import contextlib
import re
import signal
import tomllib
from pathlib import Path

import pytest
from tests.mutants import run
from tests.mutants.catalogue import CATALOGUE
from tests.mutants.floors import FLOORS
from tests.mutants.forks import FOUND_BY, Forks
from tests.mutants.operators import mutations
from tests.mutants.run import (
    EXPLAINED,
    ROOT,
    SOURCE,
    Job,
    content_of,
    each_once,
    is_done,
    jobs_of,
    read_results,
    share,
    table,
    without_line,
    write_result,
)


def test_the_tests_that_are_to_find_a_mutant_exist() -> None:
    named = {test for mutant in CATALOGUE for test in mutant.tests}
    named |= {test for files in FLOORS.values() for tests in files.values() for test in tests}
    for test in named:
        file, _, name = test.partition("::")
        assert (ROOT / file).exists(), test
        if name:
            defined = rf"(?m)^def {name.partition('[')[0]}\("
            assert re.search(defined, (ROOT / file).read_text(encoding="utf-8")), test


@pytest.mark.parametrize("floor", FLOORS)
def test_every_file_of_a_floor_is_changed(floor: str) -> None:
    files = {path.stem for path in (SOURCE / floor).glob("*.py")} - {"__init__"}
    if floor == "training":  # of which the loop is held by runs, and by the catalogue
        assert {*FLOORS[floor]} == {"metrics", "evaluate"} < files
    else:
        assert {*FLOORS[floor]} == files


def test_what_is_explained_is_a_mutant_that_is_tried() -> None:
    explained = tomllib.loads(EXPLAINED.read_text(encoding="utf-8"))
    names = [without_line(job.name) for floor in FLOORS for job in jobs_of(floor)]
    assert len({*names}) == len(names)
    assert {*explained} <= {*names}, sorted({*explained} - {*names})


SHORT = '''
def half(x: int = 2, names=()):
    """At most 1."""
    assert x > 0, "x"
    if x > 9:
        raise ValueError(f"{x + 1}")
    pairs = zip(names, names, strict=True)
    return [*pairs], x / 2
'''


def test_each_change_is_of_one_place_and_checks_are_left_alone() -> None:
    found = {mutation.name: mutation.make() for mutation in mutations(SHORT)}
    changes = {name.partition(": ")[2]: text for name, text in found.items()}
    assert {*changes} == {
        "2 -> 3 in def half(x: int = 2, names=()):",
        "x > 9 -> GtE",
        "x > 9 -> Lt",
        "9 -> 10 in if x > 9:",
        "x / 2 -> Mult",
        "2 -> 3 in return [*pairs], x / 2",
    }
    plain = ast.unparse(ast.parse(SHORT)).splitlines()
    for text in changes.values():
        differs = [a for a, b in zip(plain, text.splitlines(), strict=True) if a != b]
        assert len(differs) == 1


# --- results


def job(name: str, key: str = "k", tests: tuple[str, ...] = ("tests/test_a.py",)) -> Job:
    return Job("update", f"update/batch.py:3: {name}", "update/batch.py", str, tests, key)


def record(key: str = "k", *, found: bool, tests: str = "") -> dict:
    kind = {"kind": "update", "name": "", "seconds": 1.0}
    return {"key": key, "found": found, "tests": tests, **kind}


def test_what_was_tried_is_not_tried_again_unless_other_tests_may_find_it(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    file, results = tmp_path / "tests/test_a.py", tmp_path / "results.jsonl"
    file.write_text("one")
    assert not is_done(job("x"), read_results(results), tmp_path)
    write_result(results, record(found=False, tests=content_of(job("x").tests, tmp_path)))
    assert is_done(job("x"), read_results(results), tmp_path)
    assert not is_done(job("x", key="the file has changed"), read_results(results), tmp_path)
    file.write_text("two")
    assert not is_done(job("x"), read_results(results), tmp_path)
    write_result(results, record(found=True))
    assert is_done(job("x"), read_results(results), tmp_path)
    assert len(read_results(results)) == 1


def test_tests_that_passed_without_a_mutant_are_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, ran, code = tmp_path / "results.jsonl", [], 0

    def pytest_on_the_source(tests: list[str], *others: object) -> tuple[int, str]:
        ran.append(tests)
        return code, "one failed"

    monkeypatch.setattr(run, "pytest", pytest_on_the_source)
    one, two = ("tests/test_machine.py",), ("tests/test_files.py",)
    for some in ({one}, {one}, {one, two}):
        assert not run.failures_without(some, read_results(file), tmp_path, file)
    assert ran == [[*one], [*two]]
    code = 1
    assert run.failures_without({(*one, *two)}, read_results(file), tmp_path, file) == "one failed"
    assert len(read_results(file)) == 2


def test_a_mutants_key_is_that_of_its_function_its_change_and_its_tests() -> None:
    before = {change.where for change in mutations(SHORT)}
    assert len(before) == 6
    assert before == {change.where for change in mutations("X = y(z)  # new\n" + SHORT)}
    assert not before & {change.where for change in mutations(SHORT.replace("x / 2", "x / 3"))}
    keys = [job.key for floor in FLOORS for job in jobs_of(floor)]
    assert len({*keys}) == len(keys)
    assert [job.key for job in jobs_of("agent")] == [job.key for job in jobs_of("agent")]


def test_shards_are_parts_of_the_whole() -> None:
    whole = [job(str(i)) for i in range(7)]
    parts = [share(whole, f"{k}/3") for k in (1, 2, 3)]
    assert sorted(x for part in parts for x in part) == sorted(whole)
    assert [len(part) for part in parts] == [3, 2, 2]
    for odd in ("0/3", "4/3", "1", "a/b"):
        with pytest.raises(SystemExit, match="K/N"):
            share(whole, odd)


def test_the_table_tells_what_was_found_what_not_and_what_is_left() -> None:
    jobs = [job(name, key=name) for name in ("a", "b", "c", "d")]
    records = {"a": record(found=True), "b": record(found=False), "c": record(found=False)}
    lines = table(jobs, records, ["update/batch.py: b"])
    assert lines[0].split() == ["mutants", "found", "explained", "survived", "not", "tried"]
    assert lines[1].split() == ["update", "4", "1", "1", "1", "1"]
    assert lines[2:] == ["survived: update/batch.py:3: c"]


def test_tests_are_named_once() -> None:
    assert each_once(["a/t.py::x", "a/t.py", "a/u.py::y", "b", "b/c/t.py"]) == [
        "a/t.py",
        "a/u.py::y",
        "b",
    ]


@pytest.mark.extended
def test_a_run_in_a_fork_finds_modules_and_tells_as_one_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "changed").mkdir()
    (tmp_path / "changed/surefoot.py").write_text("ANSWER = 42")
    (tmp_path / "test_it.py").write_text(
        "import os, surefoot\n"
        "def test_answer():\n    assert surefoot.ANSWER == 42\n"
        "def test_killed():\n    os.kill(os.getpid(), 9)\n"
    )
    path, output = [str(tmp_path / "changed")], tmp_path / "output"
    with contextlib.closing(Forks(run.ROOT)) as forks:
        for only, code in (("answer", 0), ("killed", -9), ("nothing", 5)):
            arguments = ["-p", "no:cacheprovider", str(tmp_path / "test_it.py"), "-k", only]
            assert forks.pytest(arguments, path=path, output=output) == code
    assert "1 passed" in output.read_text()


@pytest.mark.extended
def test_tests_that_found_others_come_first_and_the_one_that_failed_is_told(tmp_path: Path) -> None:
    file, output = tmp_path / "test_it.py", tmp_path / "output"
    order = "open(__file__ + '.ran', 'a').write"
    names = ("a", "b", "c d", "e")
    file.write_text(
        f"import pytest\n@pytest.mark.parametrize('name', {names})\n"
        f"def test_it(name):\n    {order}(name + ' ')\n    assert name in 'ab'\n"
    )
    arguments = ["-p", "no:cacheprovider", "-q", f"--rootdir={tmp_path}", str(file)]
    first = ["test_it.py::test_it[e]", "test_gone.py::test", "test_it.py::test_it[c d]"]
    with contextlib.closing(Forks(run.ROOT)) as forks:
        assert forks.pytest(arguments, path=[], output=output, first=first) == 1
    assert Path(f"{file}.ran").read_text() == "e c d a b "
    assert f"{FOUND_BY}test_it.py::test_it[e]\n" in output.read_text()


@pytest.mark.extended
def test_a_run_without_end_is_ended_by_the_time_that_it_has_a_core(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text("def test_it():\n    while True: pass\n")
    with contextlib.closing(Forks(run.ROOT)) as forks:
        code = forks.pytest([str(file)], path=[], output=tmp_path / "output", patience=2)
    assert -code in (signal.SIGXCPU, signal.SIGKILL)
