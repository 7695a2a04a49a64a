"""A study on a Ray cluster of two nodes on this machine, one of which is lost in the middle."""

from __future__ import annotations

import tempfile
import time
import uuid
from pathlib import Path

import pytest

from surefoot.cli.main import main

ray = pytest.importorskip("ray")

# Ray's own warnings, in its threads
pytestmark = [pytest.mark.extended, pytest.mark.filterwarnings("ignore")]


def write(folder: Path) -> Path:
    file = folder / "small.toml"
    file.write_text(
        'seeds = 3\nbaseline = "clip"\ntasks = ["CartPole-v1"]\nevaluations = 2\nepisodes = 2\n'
        "[options]\ntotal_steps = 512\nnum_envs = 8\nnum_steps = 32\nnum_minibatches = 4\n"
        "num_epochs = 1\nactor_hidden = [8]\ncritic_hidden = [8]\n"
        '[arms.clip]\n[arms."no clip"]\nclip_epsilon = inf\nlearning_rate = 0.01\n'
    )
    return file


def test_a_lost_node_costs_nothing_and_the_result_is_the_local_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    file = write(tmp_path)
    assert main(["study", str(file), "--run-dir", str(tmp_path / "local")]) == 0
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        lost = cluster.add_node(num_cpus=1)
        from surefoot.cli import study as command

        said: list[int] = []

        class Losing(command.Progress):
            def __call__(self, job, results) -> None:
                super().__call__(job, results)
                said.append(sum(result is not None for result in results.values()))
                if said == [1]:
                    cluster.remove_node(lost, allow_graceful=False)

        monkeypatch.setattr(command, "Progress", Losing)
        arguments = ["--run-dir", str(tmp_path / "ray"), "--ray", cluster.address]
        assert main(["study", str(file), *arguments]) == 0
        assert said == [1, 2, 3, 4, 5, 6]
    finally:
        ray.shutdown()
        cluster.shutdown()
    local, far = (tmp_path / name / "results.json" for name in ("local", "ray"))
    assert local.read_bytes() == far.read_bytes()


def test_an_address_that_does_not_answer_is_said_within_15_seconds(capsys, tmp_path: Path) -> None:
    began = time.monotonic()
    arguments = ["--run-dir", str(tmp_path / "run"), "--ray", "127.0.0.1:1"]
    assert main(["study", str(write(tmp_path)), *arguments]) == 2
    assert time.monotonic() - began < 15
    said = capsys.readouterr().err
    assert "nothing answers at 127.0.0.1 port 1" in said
    assert not (tmp_path / "run" / "runs").exists()


def test_a_study_that_is_stopped_leaves_no_folders(tmp_path: Path) -> None:
    from surefoot.config import Config
    from surefoot.study.jobs import Job
    from surefoot.study.on_ray import OnRay

    folder = f"runs/t/{uuid.uuid4().hex}/seed-0"
    job = Job(folder, "CartPole-v1", "a", Config(total_steps=2**40), (0,), 4, 2)
    deadline = time.monotonic() + 60

    def at_work() -> list[Path]:
        return list(Path(tempfile.gettempdir()).glob(f"surefoot-*/{folder}"))

    def has_begun() -> bool:
        return bool(at_work()) or time.monotonic() > deadline

    try:
        assert list(OnRay().run([job], tmp_path / "study", has_begun)) == []
        assert time.monotonic() < deadline
        assert at_work() == []
    finally:
        ray.shutdown()
