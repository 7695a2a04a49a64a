"""What is written is true of what is there, wherever a run is cut off; and nothing that was there is lost."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import PROBE, TINY, extended
from tests.training.helpers import After

import surefoot
from surefoot import api
from surefoot.errors import UserError
from surefoot.reading import few
from surefoot.services import best, checkpoints
from surefoot.services.checkpoints import find_checkpoint
from surefoot.services.evaluation import Evaluation
from surefoot.services.metrics_file import MetricsFile
from surefoot.services.run_folder import GoesOn, put_aside, read_metrics
from surefoot.training import Hook, TrainState

OPTIONS: dict[str, Any] = {
    "config": TINY,
    "checkpoint_every": 100,
    "keep_checkpoints": 1000,
    "eval_every": 20,
    "progress": False,
}
SCANS = {"total_steps": 2_600, "checkpoint_every": 800}  # of two iterations
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir"}
WATCHES: list[Watch] = []  # audit hooks cannot be removed


class Watch(Hook):
    """Copies a folder before every change in it, and after every iteration: what a kill there leaves."""

    def __init__(self, folder: Path, to: Path) -> None:
        self.folder, self.to, self.is_on = folder, to, True
        self.copies: list[Path] = []

    def copy(self) -> None:
        if self.is_on and self.folder.exists():
            self.is_on = False
            self.copies.append(self.to / f"{len(self.copies):04d}")
            shutil.copytree(self.folder, self.copies[-1])
            self.is_on = True

    def on_iteration(self, state: Any, metrics: Any) -> None:
        self.copy()

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        writes = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if self.is_on and (writes or event in CHANGES):
            places = [os.fspath(x) for x in args[:2] if isinstance(x, (str, os.PathLike))]
            if any(str(place).startswith(str(self.folder)) for place in places):
                self.copy()


def hear(event: str, args: tuple[Any, ...]) -> None:
    for watch in WATCHES:
        watch.hear(event, args)


def worth(_: Evaluation, __: Any, state: TrainState) -> dict[str, Any]:
    """An evaluation of no episodes, whose result rises for some steps and falls for some."""
    return {"episode_return_mean": float(state.step // 60 % 4)}


@pytest.fixture(scope="module", autouse=True)
def audit() -> Iterator[None]:
    sys.addaudithook(hear)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluation, "_evaluate", worth)
        yield


@contextlib.contextmanager
def watching(folder: Path, to: Path) -> Iterator[Watch]:
    WATCHES.append(Watch(folder, to))
    try:
        yield WATCHES[-1]
        WATCHES[-1].copy()
    finally:
        WATCHES.pop()


def steps(run: Path) -> list[int]:
    return sorted(int(p.name[5:]) for p in (run / "checkpoints").glob("step-*"))


def bests(run: Path) -> list[int]:
    return sorted(int(p.name[5:]) for p in (run / "best").glob("step-*"))


def rows_of(run: Path) -> list[dict[str, Any]]:
    """Whole lines of the metrics."""
    content = (run / "metrics.jsonl").read_bytes() if (run / "metrics.jsonl").exists() else b""
    return [json.loads(line) for line in content.split(b"\n")[:-1]]


def earned(run: Path) -> set[str]:
    """All that took time to make, wherever in the folder it is now."""
    files = [*run.rglob("trainer.safetensors"), *run.rglob("policy.safetensors")]
    # a policy that was the best gives way to a better one
    files = [file for file in files if "best" not in file.parts[-4:] and ".tmp-" not in str(file)]
    lines = [x for file in run.rglob("metrics.jsonl") for x in file.read_bytes().split(b"\n")[:-1]]
    return {hashlib.sha256(x).hexdigest() for x in (*(f.read_bytes() for f in files), *lines)}


def assert_true(run: Path) -> None:
    """Every file says what is so, of all others too."""
    if not (run / "config.toml").exists():
        assert not list(run.glob("[!.]*"))
        return
    checkpoint, complaints = find_checkpoint(run)
    assert complaints == []
    rows = rows_of(run)
    assert [row["iteration"] for row in rows] == list(range(1, len(rows) + 1))
    if checkpoint:
        last = rows[checkpoint.iteration - 1]  # there is no hole before it
        assert (last["step"], last["wall_time_s"]) == (checkpoint.step, checkpoint.wall_time_s)
        assert checkpoint.best == best_of(rows[: checkpoint.iteration], steps(run))
        named = {*checkpoint.milestones, *([checkpoint.best.step] if checkpoint.best else [])}
        assert named <= {*steps(run)}  # what it says is kept is there
    evaluated = {
        row["step"]: row["eval/episode_return"] for row in rows if "eval/episode_return" in row
    }
    for step in bests(run):  # it is there with its line, and says the same
        said = json.loads((run / "best" / f"step-{step:012d}" / "evaluation.json").read_text())
        assert (said["step"], said["eval/episode_return"]) == (step, evaluated[step])
        assert (run / "best" / f"step-{step:012d}" / "policy.json").exists()
    for step in steps(run):  # wherever the run goes on, what was the best until there is there
        until = {at: value for at, value in evaluated.items() if at <= step}
        if until:
            assert max(until, key=lambda at: (until[at], -at)) in bests(run)
    if (run / "policy.json").exists():
        described = json.loads((run / "policy.json").read_text())
        same = run / "checkpoints" / f"step-{described['step']:012d}" / "policy.safetensors"
        weights = (run / "policy.safetensors").read_bytes()
        assert not same.exists() or weights == same.read_bytes()
        surefoot.load_policy(run)


def best_of(rows: list[dict[str, Any]], borders: list[int]) -> tuple[int, float] | None:
    """The best mean return between two checkpoints, and where it was."""
    best, episodes, total = None, 0, 0.0
    for row in rows:
        if row["rollout/episodes"]:
            episodes += row["rollout/episodes"]
            total += row["rollout/episodes"] * row["rollout/episode_return"]
        if row["step"] in borders and episodes:
            best = max(best or (0, -1e9), (row["step"], total / episodes), key=lambda x: x[1])
            episodes, total = 0, 0.0
    return best


def assert_nothing_lost(copies: list[Path]) -> None:
    there: set[str] = set()
    for copy in copies:
        now = earned(copy)
        assert there <= now, f"{copy} lost {len(there - now)}"
        there = now


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    folder = tmp_path_factory.mktemp("whole")
    with watching(folder / "run", folder / "copies") as watch:
        surefoot.train(PROBE, run_dir=folder / "run", hooks=[watch], **OPTIONS)
    return folder / "run", watch.copies


def test_wherever_a_run_is_cut_off_its_files_are_true(whole: tuple[Path, list[Path]]) -> None:
    run, copies = whole
    assert len(copies) > 60
    for copy in copies:
        assert_true(copy)
    assert_nothing_lost(copies)
    found = [step for copy in copies for step in bests(copy)]
    assert len({*found}) > len(bests(run)) > 1  # some were the best and are no more


GOING_BACK: dict[str, dict[str, Any]] = {
    "to an older checkpoint, and on to the end": {"from_step": 1},
    "to an older checkpoint, and stopped before the end": {"from_step": 0, "after": 1},
    "nowhere: the run is longer now": {"total_steps": 450},
    "behind its policy, whose checkpoint was not written": {"lost": 1, "after": 1},
}


@pytest.mark.parametrize(
    "how", [how if how.startswith("behind") else extended(how) for how in GOING_BACK]
)
def test_wherever_a_run_that_goes_on_is_cut_off_its_files_are_true(
    whole: tuple[Path, list[Path]], tmp_path: Path, how: str
) -> None:
    run, options = shutil.copytree(whole[0], tmp_path / "run"), dict(GOING_BACK[how])
    if "from_step" in options:
        options["from_step"] = steps(run)[options["from_step"]]
    for step in steps(run)[len(steps(run)) - options.pop("lost", 0) :]:
        shutil.rmtree(run / "checkpoints" / f"step-{step:012d}")
    stop = After(options.pop("after", 1000))
    with watching(run, tmp_path / "copies") as watch:
        watch.copy()
        api.resume(run, progress=False, hooks=[watch], should_stop=stop, **options)
    for copy in watch.copies:
        assert_true(copy)
    assert_nothing_lost(watch.copies)


@pytest.mark.extended
def test_wherever_seeds_side_by_side_are_cut_off_their_files_are_true(tmp_path: Path) -> None:
    options: dict[str, Any] = OPTIONS | SCANS
    run = tmp_path / "runs" / "seed-1"
    with watching(run, tmp_path / "copies") as watch:
        surefoot.train_seeds(PROBE, num_seeds=2, run_dir=run.parent, hooks=[[], [watch]], **options)
    for copy in watch.copies:
        assert_true(copy)
    assert_nothing_lost(watch.copies)
    assert len(steps(run)) >= 3


def test_lines_are_on_the_disk_before_the_checkpoint_that_they_led_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    whole_folder, run = checkpoints.whole_folder, tmp_path / "run"
    monkeypatch.setattr(MetricsFile, "sync", lambda _: events.append("lines"))
    for module in (best, checkpoints):
        monkeypatch.setattr(
            module, "whole_folder", lambda path: events.append(str(path)) or whole_folder(path)
        )
    surefoot.train(PROBE, run_dir=run, **OPTIONS)
    saved = [str(run / f"checkpoints/step-{step:012d}") for step in steps(run)]
    saved += [str(run / f"best/step-{step:012d}") for step in bests(run)]
    assert {*events[1::2]} >= {*saved}
    assert {*events[::2]} == {"lines"}
    at_once = [Path(event) for event in events[1::2]]
    # of a step's policy and its checkpoint the policy is first
    assert at_once == sorted(at_once, key=lambda path: (path.name, path.parent.name))


class Raises(Hook):
    """Fails at an iteration."""

    def __init__(self, iteration: int, error: BaseException) -> None:
        self.iteration, self.error = iteration, error

    def on_iteration(self, state: Any, metrics: Any) -> None:
        if metrics["iteration"] == self.iteration:
            raise self.error


@pytest.mark.extended
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("mine")], ids=repr)
def test_seeds_that_a_hook_ends_amid_a_scan_leave_no_checkpoint_with_a_hole(
    tmp_path: Path, error: BaseException
) -> None:
    options: dict[str, Any] = OPTIONS | SCANS
    with pytest.raises(type(error)):
        surefoot.train_seeds(
            PROBE, num_seeds=2, run_dir=tmp_path, hooks=[[], [Raises(27, error)]], **options
        )
    for run in sorted(tmp_path.iterdir()):
        assert steps(run)
        assert_true(run)


# --- nothing takes the place of what has more steps


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("left", ["policy.json", "policy.safetensors", "both", "damaged"])
@pytest.mark.parametrize("more", [None, 900])
def test_a_run_that_left_a_policy_and_no_checkpoint_is_not_begun_anew(
    whole: tuple[Path, list[Path]], tmp_path: Path, left: str, more: int | None
) -> None:
    run = shutil.copytree(whole[0], tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(
        config.replace("checkpoint_every = 100", 'checkpoint_every = "none"')
    )
    for name in ("policy.json", "policy.safetensors"):
        if left.startswith("policy") and name != left:
            (run / name).unlink()
    if left == "damaged":
        (run / "policy.json").write_text("{")
    before = contents(run)
    with pytest.raises(
        UserError, match=r"and no checkpoint to go on from .*checkpoint_every = None"
    ):
        api.resume(run, total_steps=more, progress=False)
    assert contents(run) == before


def row(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "iteration": step // 10, "wall_time_s": step / 7, **more}


DAMAGED = [b"", b"{", b"[1]", b"null", b'{"step": 3}', b"\xff\x00", b'{"step": NaN}', b"9" * 5000]
DAMAGED += [b'{"step": ', b"\0\0"]
LONG, ROW = b" " * 2**18, json.dumps(row(3)).encode()
DAMAGED += [LONG + ROW, ROW + LONG + b"x"]  # too long, though a part of it is a line
DAMAGED += [
    json.dumps(row(7) | change).encode()
    for change in (
        *({"step": x} for x in ("7", 7.0, -1, True, None, [7])),
        *({"iteration": x} for x in (None, 0.5)),
        *({"wall_time_s": x} for x in (None, "1")),
        *({"policy/entropy": x} for x in ("0.1", True, [], {})),
    )
]
LINES = st.integers(0, 99).map(lambda step: json.dumps(row(step, a=None)).encode())


@given(
    lines=st.lists(LINES | st.sampled_from(DAMAGED), max_size=8),
    ends=st.booleans(),
    after=st.integers(0, 99),
    times=st.integers(1, 3),
)
def test_lines_of_later_steps_and_damaged_ones_are_put_aside_and_none_is_lost(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[bytes],
    ends: bool,
    after: int,
    times: int,
) -> None:
    run = tmp_path_factory.mktemp("run")
    path, aside = run / "metrics.jsonl", run / "replaced" / f"after-{after}" / "metrics.jsonl"
    (run / "config.toml").write_text("task = 'x'\n")
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    if lines and not ends:  # a kill left half a line, or an editor a whole one
        path.write_bytes(path.read_bytes()[:-1])
        lines = lines if lines[-1] else lines[:-1]
        ends = not lines or path.read_bytes().endswith(b"\n")  # half of an empty line is none
    wrong = [n for n, line in enumerate(lines, 1) if line in DAMAGED]
    found, faults = read_metrics(path)
    assert found == [json.loads(line) for line in lines if line not in DAMAGED]
    assert [x.partition(" is damaged")[0] for x in faults] == [f"{path}, line {n}" for n in wrong]

    said = [put_aside(run, GoesOn(after, [], False, {})) for _ in range(times)]
    is_half = not ends and lines and lines[-1] in DAMAGED and len(lines[-1]) < 2**18
    told = few(faults[:-1] if is_half else faults)
    assert said == [[f"{x}; it is in {aside.parent} now" for x in told], *[[]] * (times - 1)]
    metrics = MetricsFile(path, goes_on=True)
    metrics.on_start(SimpleNamespace(log=pytest.fail))  # type: ignore[arg-type]
    metrics.on_iteration(None, row(100))  # type: ignore[arg-type]
    metrics.on_end(None, None, finished=True)  # type: ignore[arg-type]
    assert read_metrics(path) == ([x for x in found if x["step"] <= after] + [row(100)], [])
    others = [x for x in lines if x in DAMAGED or json.loads(x)["step"] > after]
    assert [*run.glob("replaced/*/metrics.jsonl")] == ([aside] if others else [])
    assert not others or aside.read_bytes() == b"".join(line + b"\n" for line in others)


def test_a_run_is_held_from_the_moment_it_is_looked_at(
    whole: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    run = shutil.copytree(whole[0], tmp_path / "run")

    def task() -> Any:
        with pytest.raises(UserError, match="another process is training in"):
            api.resume(run, total_steps=450, progress=False)
        raise LookupError

    # its environments are made behind the look at its checkpoints
    with pytest.raises(UserError, match="raised LookupError"):
        api.resume(run, task=task, total_steps=450, progress=False)
    with pytest.raises(UserError, match="raised LookupError"):  # and it was let go
        api.resume(run, task=task, total_steps=450, progress=False)
