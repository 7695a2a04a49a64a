"""Kill it, fill its disk, damage its files, run it for long: `make faults`.

    python -m tests.faults.run [kills] [disk] [files] [soak] [--long]

Each part prints what it did and what it found; the exit code is 1 if anything was lost. Without `--long`
it takes some minutes; with it, kills are 200, fuzzed files 10,000 and updates 2,000.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from tests.faults.fuzz import fuzz

from surefoot.agent import NormalizerSpec, PolicySpec, description, load_policy
from surefoot.config import Config
from surefoot.envs import ActionSpec, ObservationSpec
from surefoot.errors import UserError
from surefoot.networks import MemorySpec, PolicyHead, TorsoSpec
from surefoot.reading import read_json
from surefoot.services.checkpoints import find_checkpoint, read_checkpoint
from surefoot.training import Hook

OPTIONS = (
    *("--num-envs", "8", "--num-steps", "32", "--num-minibatches", "4", "--num-epochs", "2"),
    *("--actor-hidden", "16", "--critic-hidden", "16", "--keep-checkpoints", "2"),
    *("--exact-resume", "on"),
)
CASES = {  # name: (task, total steps, steps between checkpoints, further options)
    "EnvPool, in turn": ("CartPole-v1", 400_000, 2_000, ("--overlap", "off")),
    "EnvPool, overlapped": ("CartPole-v1", 400_000, 2_000, ("--overlap", "exact")),
    "JAX, in turn": ("gymnax:CartPole-v1", 400_000, 2_000, ("--overlap", "off")),
    "JAX, overlapped": ("gymnax:CartPole-v1", 400_000, 2_000, ("--overlap", "full")),
    "EnvPool, evaluated": (
        "CartPole-v1",
        100_000,
        2_000,
        ("--eval-every", "5000", "--eval-episodes", "2"),
    ),
    "Gymnasium, in turn": ("gymnasium:CartPole-v1", 100_000, 1_000, ("--overlap", "off")),
    "Gymnasium, overlapped": ("gymnasium:CartPole-v1", 100_000, 1_000, ("--overlap", "exact")),
}


def start(*words: str, folder: Path, limit: int | None = None) -> subprocess.Popen[str]:
    """The command, its output kept; with no file larger than `limit` bytes."""

    call = [sys.executable, "-m", "surefoot", *words]
    if limit is not None:
        bound = (
            "import os, resource as r, sys; r.setrlimit(r.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); "
        )
        call = [
            sys.executable,
            "-c",
            bound + "os.execv(sys.argv[2], sys.argv[2:])",
            str(limit),
            *call,
        ]
    return subprocess.Popen(
        call,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(*words: str, folder: Path) -> str:
    """What the command said, once it has ended well."""
    process = start(*words, folder=folder)
    said, _ = process.communicate()
    if process.returncode:
        raise AssertionError(f"{' '.join(words)}: exit code {process.returncode}\n{said}")
    return said


def final_bytes(run: Path) -> dict[str, bytes]:
    """What a run has come to: its policy, its last checkpoint, its metrics without times."""
    last = max((run / "checkpoints").glob("step-*"))
    names = [file.name for file in sorted(last.glob("*.safetensors"))]
    kept = {name: (last / name).read_bytes() for name in names}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told = [{k: v for k, v in row.items() if "time" not in k} for row in rows]
    kept["metrics"] = json.dumps(told).encode()
    for name in ("policy.safetensors", "best/policy.safetensors"):
        if (run / name).exists():
            kept[name] = (run / name).read_bytes()
    return kept


# --- kills


def kills(number: int) -> bool:
    """SIGKILL at random moments, half of them aimed at the middle of a save."""
    share = [number // len(CASES) + (k < number % len(CASES)) for k in range(len(CASES))]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(kill_case, CASES, share))
    total, inside = (sum(column) for column in zip(*[r[:2] for r in results], strict=True))
    lost = [name for name, result in zip(CASES, results, strict=True) if not result[2]]
    print(
        f"kills: {total} by SIGKILL, {inside} of them inside a save; "
        + (
            f"LOST in {', '.join(lost)}"
            if lost
            else "every run ended with the bytes of one left alone"
        )
    )
    return not lost


def kill_case(name: str, number: int) -> tuple[int, int, bool]:
    """Kills, kills inside a save, and whether every run ended with the same bytes."""
    task, total, every, further = CASES[name]
    call = ("train", task, "--total-steps", str(total), "--checkpoint-every", str(every))
    call += (*OPTIONS, *further, "--run-dir")
    choice = random.Random(name)
    done = inside = 0
    same = True
    with tempfile.TemporaryDirectory(prefix="faults-") as made:
        folder = Path(made)
        finished(*call, "whole", folder=folder)
        expected = final_bytes(folder / "whole")
        chain = 0
        while done < number:
            chain += 1
            run = folder / f"run-{chain}"
            process = start(*call, run.name, folder=folder)
            while done < number:
                was_alive = kill_somewhere(process, run, choice)
                if not was_alive:
                    break
                done += 1
                left = list((run / "checkpoints").glob(".tmp-*"))
                inside += bool(left)
                again = (
                    ("resume", run.name) if (run / "config.toml").exists() else (*call, run.name)
                )
                if not (run / "config.toml").exists():
                    shutil.rmtree(run, ignore_errors=True)
                process = start(*again, folder=folder)
            said, _ = process.communicate()
            if process.returncode or final_bytes(run) != expected:
                same = False
                print(f"{name}, run {chain}: not the same; exit code {process.returncode}\n{said}")
            shutil.rmtree(run)
            print(f"  {name}: {done} of {number} kills, {inside} inside a save", flush=True)
    return done, inside, same


def kill_somewhere(process: subprocess.Popen[str], run: Path, choice: random.Random) -> bool:
    """Kill a run at a moment of its training; False if it had ended before."""
    metrics, checkpoints = run / "metrics.jsonl", run / "checkpoints"
    before = metrics.stat().st_size if metrics.exists() else 0
    # sometimes while it starts, else once it has gone on
    if choice.random() < 0.1:
        time.sleep(choice.uniform(0.0, 4.0))
    else:
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size > before):
            time.sleep(0.005)
        if choice.random() < 0.5:
            while process.poll() is None and not any(checkpoints.glob(".tmp-*")):
                pass
            time.sleep(choice.uniform(0.0, 0.01))
        else:
            time.sleep(choice.uniform(0.0, 1.0))
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return True


# --- disk


def disk(number: int) -> bool:
    """A file system on which no file grows beyond k bytes, and places that cannot be written."""
    sound = True
    call = ("train", "CartPole-v1", "--total-steps", "20000", "--checkpoint-every", "2000")
    call += (*OPTIONS, "--run-dir")
    choice = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="faults-") as made:
        folder = Path(made)
        finished(*call, "whole", folder=folder)
        expected = final_bytes(folder / "whole")
        largest = max(f.stat().st_size for f in (folder / "whole").rglob("*") if f.is_file())
        for k in range(number):
            limit = choice.randrange(200, largest)
            process = start(*call, f"run-{k}", folder=folder, limit=limit)
            said, _ = process.communicate()
            run = folder / f"run-{k}"
            # it may end with an error that names the file, but never leaves half a checkpoint
            found, complaints = (
                find_checkpoint(run) if (run / "checkpoints").is_dir() else (None, [])
            )
            half = [*run.rglob(".tmp-*")] if run.exists() else []
            clear = process.returncode == 0 or "Traceback" not in said
            if complaints or half or not clear:
                sound = False
                print(f"disk: {limit} bytes: {complaints} {half}\n{said}")
            if (run / "config.toml").exists() and (run / "meta.json").exists():
                step = found.step if found else 0
                if step < 20_000:
                    finished("resume", run.name, folder=folder)
                ours = final_bytes(run)
                # rows that found no room are gone, and so may the policy be: the checkpoint has it
                ours = {k: v for k, v in ours.items() if k != "metrics"}
                if any(expected[name] != content for name, content in ours.items()):
                    sound = False
                    print(f"disk: {limit} bytes: went on to other bytes")
        blocked = folder / "a-file"
        blocked.touch()
        for place in ("/proc/run", str(blocked / "run"), "/sys/run"):
            began = time.perf_counter()
            process = start(*call, place, folder=folder)
            said, _ = process.communicate()
            took = time.perf_counter() - began
            one_error = process.returncode == 2 and "Traceback" not in said and place in said
            print(
                f"  --run-dir {place}: exit code {process.returncode} after {took:.1f} s: {said.strip()}"
            )
            sound &= one_error
    print(
        f"disk: {number} limits of a file's size, 3 places that cannot be written: {verdict(sound)}"
    )
    return sound


# --- files


FORBIDDEN = {"exec", "compile", "os.system", "os.exec", "os.fork", "os.posix_spawn", "import"}
FORBIDDEN |= {"subprocess.Popen", "pickle.find_class", "socket.connect", "ctypes.dlopen"}


def files(number: int) -> bool:
    """Changed bytes, cut ends and strange values in every file: numbers or one error, nothing run."""
    heard: list[str] = []
    listening: list[bool] = []
    sys.addaudithook(
        lambda event, _: heard.append(event) if listening and event in FORBIDDEN else None
    )
    choice = random.Random(0)
    slowest, refused, odd = 0.0, 0, []
    with tempfile.TemporaryDirectory(prefix="faults-") as made:
        folder = Path(made)
        for task in ("CartPole-v1", "gymnax:CartPole-v1"):
            call = ("train", task, "--total-steps", "600", "--checkpoint-every", "300")
            finished(*call, *OPTIONS, "--run-dir", task.replace(":", "-"), folder=folder)
        places: list[tuple[Path, Callable[[Path], Any]]] = []
        for run in folder.iterdir():
            newest = max((run / "checkpoints").glob("step-*"))
            places += [(file, lambda f: read_checkpoint(f.parent)) for file in newest.iterdir()]
            places += [(run / name, lambda f: load_policy(f.parent)) for name in POLICY]
            places += [(run / "meta.json", read_json)]
            load_policy(run)  # imports and compiles what it needs
        # types of our own fields are texts, which are evaluated: once, before anything is listened to
        description.get_type_hints = functools.cache(get_type_hints)
        for kind in DESCRIBED:
            description.get_type_hints(kind)
        content = {file: file.read_bytes() for file, _ in places}
        for _ in range(number):
            file, read = choice.choice(places)
            file.write_bytes(damaged(content[file], choice))
            listening.append(True)
            began = time.perf_counter()
            try:
                read(file)
            except UserError:
                refused += 1
            except Exception as error:
                odd.append(f"{file.name}: {error!r}")
            slowest = max(slowest, time.perf_counter() - began)
            listening.clear()
            file.write_bytes(content[file])
    sound = not odd and not heard
    print(
        f"files: {number} damaged, {refused} refused with one error, the others were read as they are; "
        f"the slowest took {slowest:.2f} s; run or imported meanwhile: {sorted({*heard}) or 'nothing'}; "
        f"{verdict(sound)}"
    )
    for line in odd[:10]:
        print(f"  {line}")
    wrong = fuzz(number)
    print(f"files: {number:,} damaged and read by every verb that reads, {len(wrong)} wrongly")
    for line in wrong[:10]:
        print(f"  {line}")
    return sound and not wrong


POLICY = ("policy.json", "policy.safetensors")
DESCRIBED = (
    PolicySpec,
    ObservationSpec,
    ActionSpec,
    NormalizerSpec,
    TorsoSpec,
    MemorySpec,
    PolicyHead,
)
STRANGE = ("null", "-1", "1e999", "[]", "{}", '"x"', "true", "99999999999999999999", "NaN", "[[[[[")


def damaged(content: bytes, choice: random.Random) -> bytes:
    """The content with some bytes changed, cut off, doubled, or a JSON value replaced."""
    kind = choice.randrange(5)
    changed = bytearray(content)
    if kind == 0:
        for _ in range(choice.randint(1, 8)):
            changed[choice.randrange(len(changed))] = choice.randrange(256)
    elif kind == 1:
        del changed[choice.randrange(len(changed)) :]
    elif kind == 2:
        changed += bytes(choice.randrange(256) for _ in range(choice.randint(1, 64)))
    elif kind == 3:  # the header of safetensors, the names and values of JSON
        for _ in range(choice.randint(1, 8)):
            changed[choice.randrange(min(len(changed), 400))] = choice.randrange(256)
    else:
        text = content[:4000].decode("latin-1")
        colons = [k for k, c in enumerate(text) if c == ":"]
        if colons:
            at = choice.choice(colons) + 1
            end = min((text.find(c, at) for c in ",}\n" if text.find(c, at) > 0), default=at)
            value = choice.choice(STRANGE)
            changed = bytearray(content[:at] + value.encode() + content[end:])
    return bytes(changed)


# --- soak


class Watch(Hook):
    """Resident MiB, open files and threads, every 20 updates."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, int, int]] = []

    def on_iteration(self, state: Any, metrics: Any) -> None:
        if state.iteration % 20 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            mib = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
            opened = len(list(Path("/proc/self/fd").iterdir()))
            self.rows.append((state.iteration, mib, opened, threading.active_count()))


def soak(updates: int) -> bool:
    """Memory, open files and threads over many updates, with checkpoints."""
    from surefoot.api import train as train_run

    sound = True
    for task in ("CartPole-v1", "gymnasium:CartPole-v1"):
        watch = Watch()
        with tempfile.TemporaryDirectory(prefix="faults-") as made:
            train_run(
                task,
                config=Config(
                    total_steps=256 * updates,
                    num_envs=8,
                    num_steps=32,
                    num_minibatches=4,
                    num_epochs=4,
                    checkpoint_every=256 * 20,
                    exact_resume="off",
                ),
                run_dir=Path(made) / "run",
                hooks=[watch],
                progress=False,
            )
        settled = np.array([row for row in watch.rows if row[0] > updates / 4])
        slope = 1000 * np.polyfit(settled[:, 0], settled[:, 1], 1)[0]
        steady = np.ptp(settled[:, 2]) <= 1 and np.ptp(settled[:, 3]) == 0
        sound &= bool(slope < 1.0 and steady)
        print(
            f"soak: {task}, {updates} updates: {slope:+.2f} MiB per 1,000 updates; open files "
            f"{settled[:, 2].min():.0f} to {settled[:, 2].max():.0f}, threads "
            f"{settled[:, 3].min():.0f} to {settled[:, 3].max():.0f}: "
            f"{verdict(bool(slope < 1.0 and steady))}",
            flush=True,
        )
    return sound


def verdict(sound: bool) -> str:
    """In a word."""
    return "sound" if sound else "NOT sound"


def main() -> int:
    """0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ("kills", "disk", "files", "soak")
    parser.add_argument("which", nargs="*", choices=parts, default=list(parts))
    parser.add_argument(
        "--long", action="store_true", help="200 kills, 10,000 files, 2,000 updates"
    )
    asked = parser.parse_args()
    long = asked.long
    sizes = {"kills": 200, "disk": 20, "files": 10_000, "soak": 2000}
    short = {"kills": 12, "disk": 4, "files": 2_000, "soak": 400}
    sound = True
    # compiled programs in a folder of their own: some are cut off here
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="faults-cache-")
    for which in asked.which:
        part = {"kills": kills, "disk": disk, "files": files, "soak": soak}[which]
        began = time.monotonic()
        sound &= part((sizes if long else short)[which])
        print(f"{which}: {time.monotonic() - began:.0f} s", flush=True)
    shutil.rmtree(os.environ["XDG_CACHE_HOME"])
    return 0 if sound else 1


if __name__ == "__main__":
    raise SystemExit(main())
