"""pytest in forks of one process that has imported what no mutant changes: a third of a mutant's time.

Programs are compiled with little optimization, which takes half of the time and is undone by no test.

`Forks` is used by run.py, one by each thread; as a program this is the process that forks. It reads a line
of JSON for each run, and answers with a line, the exit code: below 0 the signal that ended it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOUND_BY = "found by "  # and the first test that failed: a line of the output
IMPORTED_BEFORE = ("jax.numpy", "equinox", "optax", "gymnasium", "hypothesis.strategies", "rich")


class Forks:
    """A process that forks, begun with its first run; its runs come one after the other.

    Args:
        cwd: where the runs are.
    """

    def __init__(self, cwd: Path) -> None:
        self._cwd = cwd
        self._process: subprocess.Popen[str] | None = None

    def pytest(
        self,
        arguments: Sequence[str],
        *,
        path: Sequence[str],
        output: Path,
        patience: int = 0,
        first: Sequence[str] = (),
    ) -> int:
        """Exit code of a run.

        Args:
            arguments: of pytest.
            path: where modules are looked for first.
            output: a file for what it says.
            patience: seconds of a core after which it is ended, or ten times as many by the clock; 0: never.
            first: tests that are run before the others, where they are among them.

        Raises:
            RuntimeError: the process that forks is gone.
        """
        process = self._process = self._process or self._begin()
        assert process.stdin is not None
        assert process.stdout is not None
        asked = {"arguments": list(arguments), "path": list(path), "output": str(output)}
        asked |= {"patience": patience, "first": list(first)}
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that forks ended with {process.wait()}")
        return int(answer)

    def _begin(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.forks"],
            cwd=self._cwd,
            env={
                **os.environ,
                "PYTHONDONTWRITEBYTECODE": "1",
                "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()


class FirstToFail:
    """A plugin of pytest: some tests come first, and the first that fails is told at the end.

    An example that fails is not made smaller: that it fails is enough.

    Args:
        first: node ids, in order.
    """

    def __init__(self, first: Sequence[str]) -> None:
        self._rank = {test: rank for rank, test in enumerate(first)}
        self._failed = ""

    def pytest_sessionstart(self) -> None:  # the profile of tests/conftest.py is there by now
        from hypothesis import Phase, settings

        phases = [phase for phase in Phase if phase not in (Phase.shrink, Phase.explain)]
        settings.register_profile("found", settings(), phases=phases)
        settings.load_profile("found")

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=lambda item: self._rank.get(item.nodeid, len(self._rank)))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self._failed = self._failed or report.nodeid

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._failed:
            terminalreporter.write_line(f"{FOUND_BY}{self._failed}")


def run(asked: dict) -> int:
    """Exit code of pytest, in this process."""
    place = os.open(asked["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(place, 1)
    os.dup2(place, 2)
    if patience := asked["patience"]:  # of a core's time: others may have the cores
        resource.setrlimit(resource.RLIMIT_CPU, (patience, patience))
        signal.alarm(10 * patience)  # ends this process, unless a test takes the signal for itself
    sys.path[:0] = asked["path"]
    os.environ["PYTHONPATH"] = os.pathsep.join(asked["path"])
    import pytest

    # it cannot rewrite the assertions of what was imported before; there are none to be rewritten
    quiet = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*quiet, *asked["arguments"]], plugins=[FirstToFail(asked["first"])]))


def main() -> None:
    """Fork for every line."""
    for name in IMPORTED_BEFORE:
        __import__(name)
    assert not any(name.partition(".")[0] == "surefoot" for name in sys.modules)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 3  # pytest's own failure
            try:
                code = run(json.loads(line))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
