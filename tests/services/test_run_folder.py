"""What a run leaves on disk, and that nothing is overwritten."""

from __future__ import annotations

import itertools
import json
import tomllib
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.helpers import PROBE, TINY

import surefoot
from surefoot.config import option_names
from surefoot.services.run_folder import GoesOn, RunFolder, default_run_dir, read_config

OPTIONS = {"config": TINY, "progress": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    return surefoot.train(PROBE, run_dir=folder, seed=3, **OPTIONS).run_dir


def test_a_run_folder_holds_what_is_documented(run: Path) -> None:
    names = {entry.name for entry in run.iterdir()}
    documented = {"config.toml", "meta.json", "metrics.jsonl", "policy.json", "policy.safetensors"}
    assert names == documented | {"checkpoints", ".lock"}


def test_config_is_resolved_and_complete(run: Path) -> None:
    table = tomllib.loads((run / "config.toml").read_text())
    assert set(table) == {"task", *option_names()}
    task, config = read_config(run)
    assert task == PROBE
    assert (config.seed, config.num_envs, config.gamma) == (3, 4, 0.99)


def test_metrics_are_one_object_an_iteration(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[-1]["step"] >= 300
    assert all(a["wall_time_s"] < b["wall_time_s"] for a, b in itertools.pairwise(rows))


def test_meta_tells_versions_hardware_and_seed(run: Path) -> None:
    meta = json.loads((run / "meta.json").read_text())
    assert meta["seed"] == 3
    assert meta["versions"]["surefoot"] == surefoot.__version__
    assert meta["cores"] >= 1
    assert meta["processor"]


def test_nothing_on_disk_is_a_pickle(run: Path) -> None:
    for entry in (path for path in run.rglob("*") if path.is_file()):
        assert not entry.read_bytes().startswith((b"\x80\x04", b"\x80\x05", b"PK"))


def test_a_run_folder_is_never_overwritten(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="in use: it holds a run"):
        surefoot.train(PROBE, run_dir=run, **OPTIONS)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"such as 'notes\.txt'"):
        surefoot.train(PROBE, run_dir=tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match="is a file"):
        surefoot.train(PROBE, run_dir=tmp_path / "notes.txt", **OPTIONS)


def test_a_place_that_cannot_be_written_is_found_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions say nothing to root, so it is /proc, where nobody can make a folder."""
    monkeypatch.setattr(surefoot.api, "make_environment", pytest.fail)
    place = Path("/proc")
    if not place.is_dir():
        place = tmp_path / "locked"
        place.mkdir(mode=0o555)
    with pytest.raises(ValueError, match=f"cannot be made: {place} is not writable"):
        surefoot.train(PROBE, run_dir=place / "runs" / "one", **OPTIONS)


def test_a_mistake_found_before_training_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown probe"):
        surefoot.train("probe:lat-reward", run_dir=tmp_path / "run", **OPTIONS)
    assert not (tmp_path / "run").exists()


def test_reading_something_else_says_what_is_there(run: Path) -> None:
    with pytest.raises(
        ValueError, match=r"not a run folder \(it does not exist\); runs in .*: one"
    ):
        read_config(run.parent / "two")
    with pytest.raises(ValueError, match=r"\(it does not exist\); did you mean 'one'\?; runs in"):
        read_config(run.parent / "onee")
    with pytest.raises(ValueError, match=r"not a run folder \(it has no config.toml\)"):
        read_config(run.parent)


def test_default_folder_names_task_and_seed() -> None:
    name = default_run_dir("gymnasium:ALE/Pong-v5", 7).name
    assert name.startswith("gymnasium-ALE-Pong-v5-seed7-")


def begun(path: Path, from_step: int | None = None) -> list[str]:
    """Begin a run in a folder, or go on with it, and leave it; what was said."""
    said: list[str] = []
    goes_on = None if from_step is None else GoesOn(from_step, [], False, {"from_step": from_step})
    folder = RunFolder(path, goes_on=goes_on)
    folder.on_start(SimpleNamespace(config=TINY, task=PROBE, log=said.append))  # type: ignore[arg-type]
    folder.on_end(None, None, finished=False)  # type: ignore[arg-type]
    return said


DAMAGED = (b"", b"{", b"\xff", b"[]", b'{"seed": NaN}', b"[" * 5000, b'{"a": ' + b"9" * 5000 + b"}")


def test_a_damaged_meta_json_is_put_aside_and_the_run_goes_on(tmp_path: Path) -> None:
    begun(tmp_path)
    meta = tmp_path / "meta.json"
    for number, content in enumerate(DAMAGED, start=1):
        meta.write_bytes(content)
        (said,) = begun(tmp_path, number)
        aside = tmp_path / "replaced" / f"damaged{f'-{number}' if number > 1 else ''}" / "meta.json"
        assert said.startswith(f"{meta} is damaged, line 1: ")
        assert said.endswith(f"; it is in {aside} now")
        assert aside.read_bytes() == content
        now = json.loads(meta.read_text())
        assert (now["task"], [x["from_step"] for x in now["resumed"]]) == (PROBE, [number])
    assert begun(tmp_path, 99) == []
    assert [x["from_step"] for x in json.loads(meta.read_text())["resumed"]] == [number, 99]


@pytest.mark.parametrize("odd", [3, None, "x", {"a": 1}])
def test_what_meta_json_says_oddly_is_kept(odd: Any, tmp_path: Path) -> None:
    begun(tmp_path)
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps({"mine": odd, "resumed": odd}))
    assert begun(tmp_path, 1) == []
    now = json.loads(meta.read_text())
    assert (now["mine"], now["resumed"][0], now["resumed"][1]["from_step"]) == (odd, odd, 1)


def test_what_a_killed_writer_left_is_not_a_run(tmp_path: Path) -> None:
    left = tmp_path / f".tmp-{uuid.uuid4().hex}"
    left.write_text("half")
    begun(tmp_path)
    assert not left.exists()
    assert read_config(tmp_path) == (PROBE, TINY)
    (mine := tmp_path / "b").mkdir()
    (mine / ".tmp-notes").touch()  # not ours
    with pytest.raises(ValueError, match=r"such as '\.tmp-notes'"):
        RunFolder(mine)
