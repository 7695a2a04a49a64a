"""The `surefoot` command: one verb, one file. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from surefoot.errors import UserError, near_matches

VERBS = {
    "train": "train a policy on a task",
    "resume": "go on with a run that was interrupted",
    "eval": "play a trained policy and report what it is worth",
    "play": "look at a policy, or at a task before training, in the browser or as a video",
    "doctor": "say what is wrong with a run, an environment, or this machine",
    "bench-policy": "measure how long an exported policy takes for an action",
    "bench": "measure how near training comes to what this machine allows",
    "study": "find out which heuristics matter: tasks x arms x seeds, with statistics",
    "tune": "search for options that train a task well, and judge the best on fresh seeds",
    "export": "write a policy as ONNX, C and NumPy files",
    "report": "write a page of charts from a study or from runs",
    "watch": "show runs in the browser while they train",
    "tasks": "list the tasks that can be trained",
    "new-robot": "write a task file for a robot from its model, and train it for a minute",
    "demo": "teach a Unitree Go1 to walk, then measure how well it follows commands",
}


def usage() -> str:
    """What `surefoot --help` prints."""
    verbs = "\n".join(f"  {verb:<13}{text}" for verb, text in VERBS.items())
    return (
        "usage: surefoot VERB ...\n\nPPO for robots, fast on the CPU you own.\n\n"
        f"{verbs}\n\n`surefoot VERB --help` explains a verb; "
        "`surefoot train CartPole-v1` is a good start."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 (fine), 1 (nothing found, a fault), 2 (a mistake), 130 (Ctrl-C)."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    finally:
        flush()


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        from surefoot import __version__

        print(f"surefoot {__version__}")
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        return fail(f"unknown verb {verb!r}{near_matches(verb, VERBS)} (verbs: {', '.join(VERBS)})")
    keep_compiled_programs()
    try:
        return importlib.import_module(f"surefoot.cli.{verb.replace('-', '_')}").main(rest)
    except UserError as error:
        return fail(str(error))
    except OSError as error:
        return fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
    except KeyboardInterrupt:
        return fail("interrupted", code=130)
    except Exception:  # a fault of ours or of a simulator's, which may speak of what is in a file
        from surefoot.terminal import say

        say(traceback.format_exc().rstrip(), stderr=True)
        return 1


def keep_compiled_programs() -> None:
    """Let JAX keep what it compiles in the user's cache folder, at most 256 MiB of it.

    Only what the environment does not say already; `JAX_ENABLE_COMPILATION_CACHE=false` turns it off.
    """
    from platformdirs import user_cache_path

    try:
        folder = user_cache_path("surefoot") / "programs"
    except RuntimeError:  # nobody knows where that is
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            _without_cache("there is no home folder")
        return
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(256 * 2**20),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    off = os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "").lower() == "false"
    if off or any(os.environ[name] != value for name, value in settings.items()):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            mend_compiled_programs(folder)
    except OSError as error:
        _without_cache(f"{folder}: {error.strerror}")


def _without_cache(why: str) -> None:
    if "JAX_ENABLE_COMPILATION_CACHE" in os.environ:
        return
    from surefoot.terminal import say

    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    say(
        f"compiled programs are not kept ({why}), so every start compiles them anew; "
        "JAX_COMPILATION_CACHE_DIR names another folder",
        stderr=True,
    )


def mend_compiled_programs(folder: Path) -> None:
    """Remove programs whose writing was cut off, as by a kill: with one of them JAX keeps no other.

    JAX writes `KEY-cache`, which it never writes again, and then the time in `KEY-atime`, without which
    it fails on every later program.
    """
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    keys = [name.removesuffix("-cache") for name in names if name.endswith("-cache")]
    if not any(f"{key}-atime" not in names for key in keys):
        return
    from filelock import FileLock, Timeout

    with contextlib.suppress(OSError, Timeout), FileLock(folder / ".lockfile", timeout=10):
        for key in keys:  # looked at again, as another process may just have been writing
            if not (folder / f"{key}-atime").exists():
                (folder / f"{key}-cache").unlink(missing_ok=True)


def flush() -> None:
    """Write what Python would write as it exits, where a reader that has left is a noisy failure."""
    for stream in filter(
        None, (sys.stdout, sys.stderr)
    ):  # None where there is none, as of a service
        try:
            stream.flush()
        except (OSError, ValueError):
            from surefoot.terminal import drop

            drop(stream)


def fail(message: str, *, code: int = 2) -> int:
    """One line on stderr, and the exit code."""
    from surefoot.terminal import say

    say(f"surefoot: error: {message}", stderr=True)
    return code
