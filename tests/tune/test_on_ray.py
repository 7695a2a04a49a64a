"""A tuning on a Ray cluster on this machine: a node that is lost, and evaluations as they come."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from tests.tune.test_tune import words

from surefoot.cli import tune as command
from surefoot.cli.main import main
from surefoot.config import Config
from surefoot.study.jobs import Job
from surefoot.study.on_ray import OnRay

ray = pytest.importorskip("ray")

# Ray's own warnings, in its threads
pytestmark = [pytest.mark.extended, pytest.mark.filterwarnings("ignore")]


def found(run: Path) -> tuple[list[dict], object]:
    """What a tuning found, but for how long it took."""
    results = json.loads((run / "results.json").read_text())
    trials = [{**trial, "seconds": None} for trial in results["trials"]]
    return trials, results["judged"]


def test_a_lost_node_costs_nothing_and_the_result_is_the_local_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    here, far = (tmp_path / name for name in ("here", "far"))
    for folder in (here, far):
        folder.mkdir()
    assert main([*words(here, "--trials", "3"), "--workers", "1"]) == 0
    head = {"num_cpus": 0, "include_dashboard": False}
    is_over = threading.Event()
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        lost = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        ended: list[int] = []
        at_work: list[bool] = []

        def lose() -> None:
            at_work.append(not any((far / "run/trials/1").rglob("result.json")))
            cluster.remove_node(lost, allow_graceful=False)
            cluster.add_node(num_cpus=1)  # which ends with the thread that started it
            is_over.wait()

        class Losing(command.Progress):
            def __call__(self, trials, trial) -> None:
                super().__call__(trials, trial)
                ended.append(trial.number)
                if ended == [0]:
                    threading.Timer(2.0, lose).start()

        monkeypatch.setattr(command, "Progress", Losing)
        # which is for the main thread alone
        monkeypatch.setattr("ray._private.utils.set_sigterm_handler", lambda _: None)
        assert main([*words(far, "--trials", "3"), "--ray", cluster.address]) == 0
        assert len(ended) == 3
        assert at_work == [True]
    finally:
        ray.shutdown()
        cluster.shutdown()
        is_over.set()
    assert found(far / "run") == found(here / "run")


def test_evaluations_come_while_it_trains_and_what_has_fallen_behind_is_ended(
    tmp_path: Path,
) -> None:
    small = {"num_envs": 8, "num_steps": 32, "actor_hidden": (8,), "critic_hidden": (8,)}
    config = Config(total_steps=2**24, **small)
    job = Job("trials/0/seed-0", "CartPole-v1", "0", config, (0,), 2**14, 1, live=True)
    told = tmp_path / job.folder / "evaluations.jsonl"
    deadline = time.monotonic() + 120

    def has_two() -> bool:
        lines = told.read_bytes().count(b"\n") if told.is_file() else 0
        return lines > 1 or time.monotonic() > deadline

    try:
        assert not OnRay().do(job, tmp_path, has_two)
        steps = [json.loads(line)["step"] for line in told.read_text().splitlines()]
        assert len(steps) > 1
        assert steps == sorted({*steps})
        assert not (told.parent / "result.json").exists()
    finally:
        ray.shutdown()
