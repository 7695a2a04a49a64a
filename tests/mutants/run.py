"""Put each bug back into a copy of the source, run the tests that are to find it, and count.

    python -m tests.mutants.run [catalogue] [FLOOR ...] [--only PATTERN] [--results FILE] [--shard K/N]
                                [--minutes M] [--processes N]

`catalogue` are the known bugs of catalogue.py. A floor is a package of floors.py, of which every operator,
comparison, number and selection is changed, one at a time (operators.py); those of explained.toml are known
to change nothing that could be noticed.

First the tests run on the source as it is: what fails there finds nothing. With `--results` each mutant is
written down as soon as it was tried, and what stands there is not tried again unless the function or class
that it is in has changed since, or, where no test found it, one of its tests. Tests that found others of
the same file come first. So hours of mutants can be interrupted, done in pieces
(`--minutes`), or shared out (`--shard`: the files of all shards put together are the file of the whole).
`--minutes 0` tries none and tells what is left. `make mutants MUTANTS=update
RESULTS=FILE SHARD=1/4 MINUTES=50` says the same: what make is told, it hands on in the environment.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import tempfile
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

from tests.mutants.catalogue import CATALOGUE, Mutant
from tests.mutants.floors import FLOORS
from tests.mutants.forks import FOUND_BY, Forks
from tests.mutants.operators import mutations

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/surefoot"
PATIENCE = 200  # seconds of a core; a mutant that takes longer is found, too
EXPLAINED = Path(__file__).with_name("explained.toml")
KINDS = ("catalogue", *FLOORS)

Record = dict[str, Any]  # key, kind, name, found, by (a test, where it is known), seconds, tests
Finders = dict[str, Counter[str]]  # by file, the tests that found its mutants


class Job(NamedTuple):
    """A mutant to try.

    Attributes:
        kind: `catalogue`, or the floor.
        name: of the mutant.
        file: below src/surefoot.
        make: makes the file's new text.
        tests: which are to find it.
        key: the same as long as the mutant is.
    """

    kind: str
    name: str
    file: str
    make: Callable[[], str]
    tests: tuple[str, ...]
    key: str


def digest(*parts: str) -> str:
    """Some text in short."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def jobs_of(kind: str) -> Iterator[Job]:
    """The known bugs, or every small change of a floor."""
    if kind == "catalogue":
        for mutant in CATALOGUE:
            changed, name = put_back(mutant), f"{mutant.line}: {mutant.name}"
            key = digest(name, changed, *mutant.tests)
            yield Job(kind, name, mutant.file, partial(str, changed), mutant.tests, key)
        return
    for module, tests in FLOORS[kind].items():
        file = f"{kind}/{module}.py"
        source = (SOURCE / file).read_text(encoding="utf-8")
        for change in mutations(source):
            key = digest(file, change.where, *tests)
            yield Job(kind, f"{file}:{change.name}", file, change.make, tests, key)


def put_back(mutant: Mutant) -> str:
    """The text of a file with a known bug in it."""
    text = (SOURCE / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1, f"{mutant.name}: {mutant.old!r} is not there once"
    return text.replace(mutant.old, mutant.new)


def without_line(name: str) -> str:
    """A mutant's name without the line number, which moves with every edit."""
    head, _, rest = name.partition(":")
    return f"{head}: {rest.partition(':')[2].strip()}"


# --- what was tried


def read_results(file: Path | None) -> dict[str, Record]:
    """What was tried so far, by key; of two records the later one."""
    if file is None or not file.exists():
        return {}
    records = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {record["key"]: record for record in records}


def write_result(file: Path | None, record: Record) -> None:
    """Add a line."""
    if file is not None:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")


def content_of(tests: Iterable[str], root: Path = ROOT) -> str:
    """The text of some tests, in short: another one may find what these did not."""
    files: set[Path] = set()
    for test in tests:
        place = root / test.partition("::")[0]
        files |= {*place.rglob("*.py")} if place.is_dir() else {place}
    return digest(*(file.read_text(encoding="utf-8") for file in sorted(files)))


def is_done(job: Job, records: dict[str, Record], root: Path = ROOT) -> bool:
    """Whether a mutant need not be tried again."""
    record = records.get(job.key)
    return record is not None and (
        record["found"] or record["tests"] == content_of(job.tests, root)
    )


def share(jobs: list[Job], shard: str) -> list[Job]:
    """Every N-th of them, the first one the K-th, of a shard K/N."""
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    place, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= place <= count:
        raise SystemExit(f"--shard {shard}: K/N with K from 1 to N, such as 1/4")
    return jobs[place - 1 :: count]


# --- trying


def pytest(
    tests: Iterable[str],
    shared: Path,
    forks: Forks,
    job: Job | None = None,
    first: Sequence[str] = (),
) -> tuple[int, str]:
    """Exit code and output of tests on the source, or on a copy with one file changed; some come first."""
    # the tests keep compiled programs beside their folder: all mutants share those that stay the same
    with tempfile.TemporaryDirectory(prefix="mutant-", dir=shared) as folder:
        copy, output = Path(folder) / "surefoot", Path(folder) / "output"
        shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if job is not None:
            (copy / job.file).write_text(job.make(), encoding="utf-8")
        arguments = [
            *("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow"),
            *("--basetemp", f"{folder}-made", *(["-x", "--tb=no"] if job else []), *tests),
        ]
        patience = PATIENCE if job else 0
        path = [folder, str(ROOT)]
        try:
            code = forks.pytest(arguments, path=path, output=output, patience=patience, first=first)
            said = output.read_text(encoding="utf-8", errors="replace")
        finally:
            shutil.rmtree(f"{folder}-made", ignore_errors=True)
    if -code in (signal.SIGALRM, signal.SIGXCPU, signal.SIGKILL) and job:
        return 1, f"not done after {PATIENCE} s"
    # passed, failed, could not even be imported; below 0 it was ended by a signal, memory exhausted
    if code > 2 or -code in (2, 15):  # no such test; somebody stopped it
        name = job.name if job else "unchanged"
        raise RuntimeError(f"{name}: pytest ended with {code}\n{said}")
    return code, said


def failures_without(
    tests: set[tuple[str, ...]], records: dict[str, Record], shared: Path, results: Path | None
) -> str:
    """What tests say that fail on the source as it is; those that passed are written down, too."""
    source = content_of(["src/surefoot"])
    keys = {digest("unchanged", source, content_of(some), *some): some for some in tests}
    new = {key: some for key, some in keys.items() if key not in records}
    if not new:
        return ""
    began = time.monotonic()
    with contextlib.closing(Forks(ROOT)) as forks:
        code, said = pytest(
            each_once(test for some in new.values() for test in some), shared, forks
        )
    if code:
        return said
    seconds = round(time.monotonic() - began, 1)
    print(f"without any: the tests pass ({seconds:.0f} s)", flush=True)
    for key, some in new.items():
        name = {"kind": "unchanged", "name": " ".join(some)}
        write_result(results, {"key": key, **name, "found": False, "seconds": seconds, "tests": ""})
    return ""


def attempt(
    job: Job, shared: Path, free: Queue[Forks], finders: Finders, deadline: float
) -> Record | None:
    """Try a mutant, with forks that are free; None if it is too late to begin."""
    if time.monotonic() > deadline:
        return None
    began = time.monotonic()
    forks = free.get()
    try:
        first = [test for test, _ in finders[job.file].most_common()]
        code, said = pytest(job.tests, shared, forks, job, first)
    finally:
        free.put(forks)
    found_by = re.search(rf"(?m)^{FOUND_BY}(.+)", said)
    finders[job.file].update(found_by.groups() if found_by else ())
    return {
        "key": job.key,
        "kind": job.kind,
        "name": job.name,
        "found": code != 0,
        "by": found_by[1] if found_by else "",
        "seconds": round(time.monotonic() - began, 1),
        "tests": content_of(job.tests),
    }


def try_all(
    jobs: list[Job],
    shared: Path,
    finders: Finders,
    *,
    processes: int,
    deadline: float,
    results: Path | None,
) -> Iterator[Record]:
    """Try them as long as there is time, write each down, say what became of it."""
    with ThreadPoolExecutor(processes) as pool, contextlib.ExitStack() as at_end:
        free: Queue[Forks] = Queue()
        for _ in range(processes):
            free.put(at_end.enter_context(contextlib.closing(Forks(ROOT))))
        waiting = [pool.submit(attempt, job, shared, free, finders, deadline) for job in jobs]
        try:
            for number, done in enumerate(as_completed(waiting), start=1):
                record = done.result()
                if record is None:
                    continue
                write_result(results, record)
                word = "found" if record["found"] else "SURVIVED"
                print(
                    f"[{number}/{len(jobs)}] {word} ({record['seconds']:.0f} s): {record['name']}",
                    flush=True,
                )
                yield record
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def each_once(tests: Iterable[str]) -> list[str]:
    """Tests without those that are in a file or folder which is there as a whole."""
    every = set(tests)

    def has_whole(test: str) -> bool:
        place = Path(test.partition("::")[0])
        wholes = {place, *place.parents} - ({place} if test == str(place) else set())
        return any(str(whole) in every for whole in wholes)

    return sorted(test for test in every if not has_whole(test))


# --- telling


def table(jobs: list[Job], records: dict[str, Record], explained: Iterable[str]) -> list[str]:
    """By kind: how many there are, found, explained, not found, and not tried; then the names.

    `records` are those that still hold.
    """
    told = set(explained)
    rows = [("", "mutants", "found", "explained", "survived", "not tried")]
    names: list[str] = []
    for kind in KINDS:
        own = [job for job in jobs if job.kind == kind]
        if not own:
            continue
        tried = [job for job in own if job.key in records]
        left = [job for job in tried if not records[job.key]["found"]]
        new = [job.name for job in left if without_line(job.name) not in told]
        names += [f"survived: {name}" for name in new]
        counts = (len(own), len(tried) - len(left), len(left) - len(new), len(new))
        rows.append((kind, *map(str, (*counts, len(own) - len(tried)))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for kind, *counts in rows:
        numbers = zip(counts, widths[1:], strict=True)
        lines.append("  ".join([kind.ljust(widths[0]), *(x.rjust(w) for x, w in numbers)]))
    return lines + names


def main() -> int:
    """0 if every mutant that was tried was found, but for those that are explained."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    told = os.environ.get
    parser.add_argument("which", nargs="*", metavar="|".join(KINDS), default=["catalogue"])
    parser.add_argument(
        "--only", default=told("ONLY", ""), help="those whose name this pattern finds"
    )
    parser.add_argument("--results", default=told("RESULTS"), help="where each is written down")
    parser.add_argument(
        "--shard", default=told("SHARD", "1/1"), help="K/N: every N-th from the K-th"
    )
    parser.add_argument(
        "--minutes", type=float, default=told("MINUTES", "inf"), help="after which none is begun"
    )
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    asked = parser.parse_args()
    if odd := sorted(set(asked.which) - set(KINDS)):
        parser.error(f"{', '.join(odd)}: known are {', '.join(KINDS)}")
    results = Path(asked.results) if asked.results else None
    jobs = [job for kind in KINDS if kind in asked.which for job in jobs_of(kind)]
    jobs = [job for job in jobs if re.search(asked.only, job.name)]
    records = read_results(results)
    left = [job for job in share(jobs, asked.shard) if not is_done(job, records)]
    began = time.monotonic()
    if left and asked.minutes > 0:
        with tempfile.TemporaryDirectory(prefix="mutants-") as made:
            shared = Path(made)
            said = failures_without({job.tests for job in left}, records, shared, results)
            if said:
                print(f"the tests fail on the source as it is:\n{said}")
                return 1
            deadline = time.monotonic() + 60 * asked.minutes
            print(f"{len(left)} mutants to try", flush=True)
            finders: Finders = defaultdict(Counter)
            for job in jobs:
                finders[job.file].update(filter(None, [records.get(job.key, {}).get("by")]))
            how = {"processes": asked.processes, "deadline": deadline, "results": results}
            for record in try_all(left, shared, finders, **how):
                records[record["key"]] = record
    hold = {job.key: records[job.key] for job in jobs if is_done(job, records)}
    explained = tomllib.loads(EXPLAINED.read_text(encoding="utf-8"))
    lines = table(jobs, hold, explained)
    print("\n".join(lines))
    print(f"{time.monotonic() - began:.0f} s")
    return 1 if any(line.startswith("survived: ") for line in lines) else 0


if __name__ == "__main__":
    raise SystemExit(main())
