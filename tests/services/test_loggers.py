"""Loggers hear all that metrics.jsonl has, and whatever they do, training is the same."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.helpers import PROBE, TINY, Recorder, flags

from surefoot import processes
from surefoot.cli.main import main
from surefoot.errors import UserError
from surefoot.services.loggers import hook
from surefoot.services.loggers.adapter import About
from surefoot.services.loggers.hook import Loggers
from surefoot.services.metrics_file import MetricsFile
from surefoot.services.policy_file import PolicyFile
from surefoot.services.run_folder import RunFolder
from surefoot.training import train

RAISES = {
    "as it is imported": "raise RuntimeError('no [red]network')",
    "as it begins": "class SummaryWriter:\n def __init__(self, *_, **__): raise OSError('no [red]network')",
    "as it logs": """class SummaryWriter:
 def __init__(self, *_, **__): pass
 def __getattr__(self, name): return lambda *_: None
 def add_scalar(self, *_): raise RuntimeError('no [red]network')""",
    "as it ends": """class SummaryWriter:
 def __init__(self, *_, **__): pass
 def __getattr__(self, name): return lambda *_: None
 def close(self): raise SystemExit('no [red]network')""",
}
WORKS = """class SummaryWriter:
 def __init__(self, *_, **__): pass
 def __getattr__(self, name): return lambda *_: None"""
HANGS = "import time\nwhile True: time.sleep(60)"
DIES = "import os\nos._exit(9)"


def trained(folder: Path, *names: str, **how: Any) -> tuple[bytes, list[str]]:
    """The policy of a run with some loggers, and what was said."""
    recorder = Recorder()
    own = [Loggers(folder, names, **how)] if names else []
    hooks = [RunFolder(folder), *own, MetricsFile(folder / "metrics.jsonl"), PolicyFile(folder)]
    train(PROBE, TINY, hooks=[*hooks, recorder])
    return (folder / "policy.safetensors").read_bytes(), recorder.notes


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return trained(tmp_path_factory.mktemp("without") / "run")[0]


@pytest.fixture
def in_place_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Puts a module in place of tensorboardX, for the logger's process."""

    def put(text: str) -> None:
        (tmp_path / "stand-in").mkdir()
        (tmp_path / "stand-in" / "tensorboardX.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand-in"))

    return put


@pytest.mark.extended
@pytest.mark.parametrize("when", RAISES)
def test_a_logger_that_raises_says_so_once_and_changes_nothing(
    when: str, tmp_path: Path, without: bytes, in_place_of_the_package
) -> None:
    in_place_of_the_package(RAISES[when])
    policy, said = trained(tmp_path / "run", "tensorboard")
    assert policy == without
    (text,) = said
    assert "tensorboard does not log everything" in text
    assert "no [red]network" in text


@pytest.mark.extended
def test_a_logger_that_hangs_is_not_waited_for(
    tmp_path: Path, without: bytes, in_place_of_the_package
) -> None:
    in_place_of_the_package(HANGS)
    policy, said = trained(tmp_path / "run", "tensorboard", patience_s=0.5, waiting=2)
    assert policy == without
    assert len(said) == 2
    assert "does not keep up: 2 iterations wait" in said[0]
    assert "did not come to its end in time" in said[1]


@pytest.mark.extended
def test_a_logger_that_gets_no_core_is_waited_for_longer(
    tmp_path: Path,
    without: bytes,
    in_place_of_the_package,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_place_of_the_package("import time\ntime.sleep(5)\n" + WORKS)
    policy, (said,) = trained(tmp_path / "impatient", "tensorboard", patience_s=0.5)
    assert "did not come to its end in time" in said
    began = time.monotonic()
    monkeypatch.setattr(processes, "starved_s", lambda _: time.monotonic() - began)
    policy, said = trained(tmp_path / "run", "tensorboard", patience_s=1.0)
    assert policy == without
    assert said == []


@pytest.mark.extended
def test_a_logger_whose_process_dies_is_said(
    tmp_path: Path, without: bytes, in_place_of_the_package
) -> None:
    in_place_of_the_package(DIES)
    policy, said = trained(tmp_path / "run", "tensorboard")
    assert policy == without
    assert ["its process has died" in text for text in said] == [True]


def test_a_missing_package_is_one_sentence_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(hook, "_is_installed", lambda package: package != "wandb")
    folder = tmp_path / "run"
    words = ["train", PROBE, *flags(), "--run-dir", str(folder), "--log", "tensorboard", "wandb"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "pip install 'surefoot[wandb]'" in said
    assert said.count("\n") == 1
    assert not folder.exists()


def test_a_folder_of_a_package_s_name_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trackio_of_mine").mkdir()  # as W&B leaves `wandb/` wherever it is used
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(hook._PACKAGES, "trackio", "trackio_of_mine")
    with pytest.raises(UserError, match="not installed"):
        Loggers(tmp_path, ["trackio"])


def events(folder: Path) -> dict[str, dict[int, float]]:
    """Scalars by name and step of all event files; what was purged is not among them."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, dict[int, float]] = {}
    for file in sorted(folder.iterdir()):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (size,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + size])
            at += 12 + size + 4
            if event.HasField("session_log") and event.session_log.status == 1:
                for steps in found.values():
                    for step in [step for step in steps if step >= event.step]:
                        del steps[step]
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
                else:
                    found.setdefault(value.tag, {})
    return found


def tensorboard(tmp_path: Path, run: Path) -> dict[str, dict[int, float]]:
    found = events(run / "tensorboard")
    assert found.keys() >= {"config/text_summary", "provenance/text_summary"}
    return found


def level_db(content: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format, whose first block W&B begins with 7 bytes of its own."""
    at, size, record = 0, 2**15, b""
    while at + 7 <= len(content):
        if (left := size - (at + 7) % size) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def wandb(tmp_path: Path, run: Path) -> dict[str, dict[int, float]]:
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, dict[int, float]] = {}
    ids = set()
    for file in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for data in level_db(file.read_bytes()[7:]):
            record = Record.FromString(data)
            if record.HasField("run"):
                ids.add(record.run.run_id)
                keys = {item.key: item.value_json for item in record.run.config.update}
                assert json.loads(keys["num_envs"]) == TINY.num_envs
                assert json.loads(keys["provenance"])["task"] == PROBE
            row = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            for name, value in row.items():
                found.setdefault(name, {})[row["step"]] = value
    assert ids == {json.loads((run / "loggers" / "wandb.json").read_text())["id"]}
    return found


def mlflow(tmp_path: Path, run: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        ask = lambda text: database.execute(text).fetchall()  # noqa: E731
        assert ask("SELECT name, status FROM runs") == [(run.name, "FINISHED")]
        assert dict(ask("SELECT key, value FROM params"))["num_envs"] == str(TINY.num_envs)
        tags = dict(ask("SELECT key, value FROM tags"))
        for name, step, value in ask("SELECT key, step, value FROM metrics"):
            found.setdefault(name, {})[step] = value
    assert tags["surefoot.task"] == PROBE
    assert tags["surefoot.resumed.total_steps"] == "600"
    return found


def trackio(tmp_path: Path, run: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    with contextlib.closing(sqlite3.connect(tmp_path / "trackio" / "surefoot.db")) as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
        (config,) = {row[0] for row in database.execute("SELECT config FROM configs")}
    assert json.loads(config)["num_envs"] == TINY.num_envs
    assert {name for name, _, _ in rows} == {
        json.loads((run / "loggers" / "trackio.json").read_text())["id"]
    }
    for _, step, metrics in rows:
        for name, value in json.loads(metrics).items():
            found.setdefault(name, {})[step] = value
    return found


def test_mlflow_gets_the_newest_of_each_number_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from surefoot.services.loggers import to_mlflow

    now, sent = 0.0, []

    class Client:
        """Has MLflow's methods; what they are given counts."""

        def log_batch(self, run: str, *, metrics: list[Any] = (), **_: Any) -> None:
            if metrics:
                sent.append([(m.key, m.step, m.value) for m in metrics])

        def create_run(self, *_: Any, **__: Any) -> Any:
            return SimpleNamespace(info=SimpleNamespace(run_id="id"))

        def get_experiment_by_name(self, _: str) -> Any:
            return SimpleNamespace(experiment_id="0")

        def set_terminated(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(to_mlflow, "MlflowClient", Client)
    monkeypatch.setattr(to_mlflow.time, "monotonic", lambda: now)
    logger = to_mlflow.open_run(About(tmp_path, {}, {}, 0, None))
    for step in range(1, 11):  # 0.3 s each
        now = 0.3 * step
        logger.log(step, {"loss": float(step)} | ({"eval": 7.0} if step == 2 else {}))
    assert sent == [[("loss", 4, 4.0), ("eval", 2, 7.0)]]
    logger.close("finished")
    assert sent[1:] == [[("loss", 8, 8.0), ("loss", 10, 10.0)]]


def test_a_run_that_goes_on_within_the_second_keeps_what_tensorboard_had(tmp_path: Path) -> None:
    from surefoot.services.loggers.to_tensorboard import open_run

    for step in (0, 64, 64):
        logger = open_run(About(tmp_path, {}, {}, step, None))
        logger.log(step + 64, {"loss": float(step)})
        logger.close("stopped")
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3
    assert events(tmp_path / "tensorboard")["loss"] == {64: 0.0, 128: 64.0}


@pytest.mark.extended
@pytest.mark.parametrize("read", [tensorboard, wandb, mlflow, trackio])
def test_a_logger_has_all_metrics_and_goes_on_in_the_same_run(
    read: Callable[[Path, Path], dict[str, dict[int, float]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }.items():
        monkeypatch.setenv(name, value)
    run, name = tmp_path / "run", read.__name__
    assert main(["train", PROBE, *flags(), "--run-dir", str(run), "--log", name]) == 0
    assert main(["resume", str(run), "--total-steps", "600"]) == 0
    assert "does not log" not in capsys.readouterr().out
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] >= 600
    logged = read(tmp_path, run)
    for name in rows[0]:
        expected = {row["step"]: row[name] for row in rows if row[name] is not None}
        if name != "step" and expected:
            if read is mlflow:  # the newest of a second, and the last
                assert max(logged[name]) == max(expected), name
                expected = {step: expected[step] for step in logged[name]}
            assert logged[name] == pytest.approx(expected, rel=1e-6), name
