"""The command, on real tasks in real processes: what it leaves, and that nothing finished is lost."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from surefoot.cli.main import main

STUDY = """
seeds = 2
baseline = "clip"
tasks = ["{task}"]
evaluations = 4
episodes = 2

[options]
total_steps = 1024
num_envs = 8
num_steps = 32
num_minibatches = 4
num_epochs = 2
actor_hidden = [8]
critic_hidden = [8]

[arms.clip]

[arms."no clip"]
clip_epsilon = inf
learning_rate = 0.01
"""
BROKEN = """
[arms.broken]
actor_groups = ["no-such-group"]
"""
TASK = "CartPole-v1"


def write(folder: Path, text: str = STUDY, task: str = TASK) -> Path:
    file = folder / "small.toml"
    file.write_text(text.replace("{task}", task))
    return file


def start(file: Path, run_dir: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "surefoot", "study", str(file), "--run-dir", str(run_dir)]
    return subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(file: Path, run_dir: Path, *arguments: str) -> str:
    process = start(file, run_dir, *arguments)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished study, one arm of which cannot be trained, and what it said."""
    folder = tmp_path_factory.mktemp("study")
    return folder / "run", finished(write(folder, STUDY + BROKEN), folder / "run")


def results(run_dir: Path) -> dict:
    return json.loads((run_dir / "results.json").read_text())


def test_it_says_what_it_does_and_what_it_shows(study: tuple[Path, str]) -> None:
    _, said = study
    assert "1 task(s) x 3 arms x 2 seeds = 6 runs" in said
    assert "[6/6]" in said
    assert "no clip: " in said
    assert "against clip on CartPole-v1, 2 seeds: " in said
    assert "2 run(s) failed" in said
    assert "report.html" in said


def test_scores_are_the_mean_of_the_last_tenth_of_the_evaluations(study: tuple[Path, str]) -> None:
    run_dir, _ = study
    for arm, folder in (("clip", "clip"), ("no clip", "no-clip")):
        for seed in ("0", "1"):
            job = run_dir / "runs" / TASK / folder / f"seed-{seed}"
            run = json.loads((job / "result.json").read_text())["runs"][seed]
            assert len(run["returns"]) == 4
            assert run["final"] == run["returns"][-1]  # the last tenth of four is the last one
            assert run["steps"][-1] >= 1024
            found = results(run_dir)["tasks"][TASK][arm]
            assert found["scores"][seed] == run["final"]
            assert set(found["diagnostics"]) >= {"policy/held_out_kl", "policy/ratio_max"}


def test_seeds_are_paired_across_arms(study: tuple[Path, str]) -> None:
    run_dir, _ = study

    def first_row(arm: str, seed: int) -> dict:
        file = run_dir / "runs" / TASK / arm / f"seed-{seed}" / f"seed-{seed}" / "metrics.jsonl"
        return json.loads(file.read_text().splitlines()[0])

    # before the first update two arms play the same policy in the same environments
    for key in ("step", "rollout/episodes", "rollout/episode_return"):
        assert first_row("clip", 0)[key] == first_row("no-clip", 0)[key]
    assert first_row("clip", 0)["rollout/episode_return"] != first_row("clip", 1)["rollout/episode_return"]


def test_a_failed_run_is_recorded_and_the_study_goes_on(study: tuple[Path, str]) -> None:
    run_dir, _ = study
    found = results(run_dir)
    assert [(x["arm"], x["seed"]) for x in found["failed"]] == [("broken", 0), ("broken", 1)]
    assert "no-such-group" in found["failed"][0]["error"]
    assert found["tasks"][TASK]["broken"]["failed"] == 2
    assert found["tasks"][TASK]["clip"]["failed"] == 0


def test_the_csv_has_a_line_for_each_evaluation(study: tuple[Path, str]) -> None:
    run_dir, _ = study
    rows = list(csv.DictReader((run_dir / "results.csv").open()))
    assert len(rows) == 2 * 2 * 4 + 2
    assert {row["arm"] for row in rows} == {"clip", "no clip", "broken"}
    assert all(float(row["return"]) > 0 for row in rows if not row["error"])


def test_a_finished_run_is_never_repeated(study: tuple[Path, str], tmp_path: Path) -> None:
    run_dir, _ = study
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("result.json")}
    first = (run_dir / "results.json").read_bytes()
    said = finished(run_dir, run_dir)  # a study's folder stands for the study
    assert "[" not in said.split("folder:")[1].splitlines()[1]
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("result.json")} == before
    assert (run_dir / "results.json").read_bytes() == first
    # more seeds add to what is there
    finished(write(tmp_path, STUDY + BROKEN), run_dir, "--seeds", "3")
    now = {path: path.stat().st_mtime_ns for path in run_dir.rglob("result.json")}
    assert len(now) == len(before) + 3
    assert {path: now[path] for path in before} == before
    assert set(results(run_dir)["tasks"][TASK]["clip"]["scores"]) == {"0", "1", "2"}


def test_killed_at_any_moment_it_continues_to_the_same_results(tmp_path: Path) -> None:
    file = write(tmp_path)
    finished(file, tmp_path / "whole")
    chance = random.Random(0)
    for _ in range(10):
        process = start(file, tmp_path / "killed")
        try:
            process.wait(timeout=chance.uniform(0.5, 5.0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    finished(file, tmp_path / "killed")
    whole, killed = (tmp_path / name / "results.json" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()


def test_workers_end_with_the_study(tmp_path: Path) -> None:
    process = start(write(tmp_path), tmp_path / "run")
    workers: list[int] = []
    for _ in range(200):
        workers = children(process.pid)
        if workers:
            break
        time.sleep(0.1)
    assert workers
    process.kill()
    process.wait()
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in workers):
            return
        time.sleep(0.1)
    pytest.fail(f"workers {workers} go on though nobody waits for them")


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    tasks = Path(f"/proc/{pid}/task").glob("*/children") if listed.exists() else []
    return [int(child) for task in tasks for child in task.read_text().split()]


def test_ctrl_c_stops_and_says_how_to_go_on(tmp_path: Path) -> None:
    process = start(write(tmp_path), tmp_path / "run")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[1/"):
            break
    os.kill(process.pid, signal.SIGINT)
    said = process.stdout.read()
    assert process.wait(timeout=60) == 130
    assert f"To continue: surefoot study {tmp_path / 'run'}" in said
    assert not (tmp_path / "run" / "results.json").exists()


def test_a_worker_that_dies_is_a_failed_run(tmp_path: Path) -> None:
    process = start(write(tmp_path), tmp_path / "run", "--workers", "1")
    for _ in range(200):
        workers = children(process.pid)
        if workers:
            break
        time.sleep(0.1)
    time.sleep(0.5)
    os.kill(workers[0], signal.SIGSEGV)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    found = results(tmp_path / "run")["failed"]
    assert len(found) == 1
    assert "the worker died (signal SIGSEGV)" in found[0]["error"]


def test_tasks_in_jax_share_a_program_and_give_what_solo_runs_do(tmp_path: Path) -> None:
    task = "probe:late-reward/continuous"
    finished(write(tmp_path, task=task), tmp_path / "run")
    jobs = sorted(p.parent.name for p in (tmp_path / "run").rglob("result.json"))
    assert jobs == ["seeds-0-1", "seeds-0-1"]
    found = results(tmp_path / "run")["tasks"][task]["clip"]
    import surefoot
    from surefoot.study.plan import parse_study

    study = parse_study(write(tmp_path, task=task).read_text(), where="", presets={})
    alone = surefoot.train(
        task, config=study.tasks[task], run_dir=tmp_path / "alone", seed=1, progress=False
    )
    assert alone.step >= 1024
    assert set(found["scores"]) == {"0", "1"}
    rows = (tmp_path / "alone" / "metrics.jsonl").read_text().splitlines()
    entropy = [json.loads(row)["policy/entropy"] for row in rows]
    there = tmp_path / "run" / "runs" / "probe-late-reward-continuous" / "clip" / "seeds-0-1"
    both = (there / "seed-1" / "metrics.jsonl").read_text().splitlines()
    np.testing.assert_allclose([json.loads(r)["policy/entropy"] for r in both], entropy, rtol=1e-3)


def test_every_arm_may_choose_its_learning_rate_on_seeds_of_its_own(tmp_path: Path) -> None:
    task = "probe:late-reward/continuous"
    finished(write(tmp_path, task=task), tmp_path / "run", "--tune-lr", "2")
    tried = sorted(p.parent.name for p in (tmp_path / "run" / "tuning").rglob("result.json"))
    assert tried == ["seeds-1000000-1000001"] * 4
    found = results(tmp_path / "run")["tasks"][task]
    assert found["clip"]["learning_rate"] in (3e-4, 9e-4)
    assert found["no clip"]["learning_rate"] in (0.01, 0.03)
    for arm, slug in (("clip", "clip"), ("no clip", "no-clip")):
        means = {}
        for file in (tmp_path / "run" / "tuning").glob(f"lr-*/*/{slug}/*/result.json"):
            result = json.loads(file.read_text())
            finals = [run["final"] for run in result["runs"].values()]
            means[result["learning_rate"]] = sum(finals) / len(finals)
        assert means[found[arm]["learning_rate"]] == max(means.values())


def error(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert main(["study", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("surefoot: error: ")
    assert said.count("\n") == 1
    return said


def test_bad_input_is_refused_before_work_starts(capsys, tmp_path: Path) -> None:
    where = ["--run-dir", str(tmp_path / "run")]
    tasks = ["--tasks", TASK]
    assert "did you mean 'clipping'" in error(capsys, "cliping", *tasks, *where)
    assert "does not exist" in error(capsys, "none.toml", *tasks, *where)
    assert "at least one task" in error(capsys, "clipping", *where)
    assert "at least 2 seeds" in error(capsys, "clipping", *tasks, "--seeds", "1", *where)
    assert "CartPole-v1" in error(capsys, "clipping", "--tasks", "CartPol-v1", *where)
    assert "did you mean 'no clip'" in error(capsys, "clipping", *tasks, "--arms", "noclip", *where)
    assert "--workers 0" in error(capsys, "clipping", *tasks, "--workers", "0", *where)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_something_else_is_left_alone(capsys, tmp_path: Path, study) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    tasks = ["--tasks", TASK]
    said = error(capsys, "clipping", *tasks, "--run-dir", str(tmp_path / "other"))
    assert "'thesis.txt'" in said
    said = error(capsys, "clipping", *tasks, "--run-dir", str(study[0]))
    assert "holds another study" in said


def test_one_process_at_a_time_works_on_a_study(capsys, tmp_path: Path) -> None:
    file = write(tmp_path)
    process = start(file, tmp_path / "run")
    try:
        for _ in range(300):
            if (tmp_path / "run" / "study.toml").is_file():
                break
            time.sleep(0.1)
        said = error(capsys, str(file), "--run-dir", str(tmp_path / "run"))
        assert "another process is at work" in said
    finally:
        process.kill()
        process.wait()
