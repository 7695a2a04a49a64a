"""The command, on real tasks: what it leaves, and that nothing finished is lost.

Most studies do their runs in this process; those in processes of their own, which one can kill, say so.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers import PROBE, TINY
from tests.study.helpers import ThisProcess

from surefoot.cli.main import main
from surefoot.cli.study import parse, plan
from surefoot.errors import UserError
from surefoot.study.executors import LocalProcesses
from surefoot.study.jobs import Job, run_job
from surefoot.study.plan import parse_study, slug, write_study
from surefoot.study.results import interval, score_form

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
learning_rate = 1e30
max_refused_updates = 0
"""
TASK = "gymnasium:CartPole-v1"
POOL = "CartPole-v1"  # its programs are compiled for every pool


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
    """What a study in processes of its own said."""
    process = start(file, run_dir, *arguments)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def finished_here(file: Path, run_dir: Path, *arguments: str) -> str:
    """What a study in this process said."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr("surefoot.cli.study.executor_of", lambda *_: ThisProcess())
        assert main(["study", str(file), "--run-dir", str(run_dir), *arguments]) == 0
    return said.getvalue()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished study, one arm of which cannot be trained, and what it said."""
    folder = tmp_path_factory.mktemp("study")
    return folder / "run", finished_here(write(folder, STUDY + BROKEN), folder / "run")


def results(run_dir: Path) -> dict:
    return json.loads((run_dir / "results.json").read_text())


@pytest.mark.extended
def test_it_says_what_it_does_and_what_it_shows(study: tuple[Path, str]) -> None:
    folder, said = study
    arms = results(folder)["tasks"][TASK]
    shown = interval(arms["clip"]["mean"], score_form(arms))
    assert f"{TASK}, clip: mean {shown}\n" in said
    assert "1 task(s) x 3 arms x 2 seeds = 6 runs" in said
    assert "[6/6]" in said
    assert "no clip: " in said
    assert f"against clip on {TASK}, 2 seeds: " in said
    assert "2 run(s) failed" in said
    assert "report.html" in said


@pytest.mark.extended
def test_scores_are_the_mean_of_the_last_tenth_of_the_evaluations(study: tuple[Path, str]) -> None:
    run_dir, _ = study
    for arm, folder in (("clip", "clip"), ("no clip", "no-clip")):
        for seed in ("0", "1"):
            job = run_dir / "runs" / slug(TASK) / folder / f"seed-{seed}"
            assert (job / "policy.safetensors").is_file()
            run = json.loads((job / "result.json").read_text())["runs"][seed]
            assert len(run["returns"]) == 4
            assert run["final"] == run["returns"][-1]  # the last tenth of four is the last one
            assert run["steps"][-1] >= 1024
            found = results(run_dir)["tasks"][TASK][arm]
            assert found["scores"][seed] == run["final"]
            assert set(found["diagnostics"]) >= {"policy/held_out_kl", "policy/ratio_max"}


@pytest.mark.extended
def test_seeds_are_paired_across_arms(study: tuple[Path, str]) -> None:
    run_dir, _ = study

    def first_row(arm: str, seed: int) -> dict:
        file = run_dir / "runs" / slug(TASK) / arm / f"seed-{seed}" / "metrics.jsonl"
        return json.loads(file.read_text().splitlines()[0])

    # before the first update two arms play the same policy in the same environments
    for key in ("step", "rollout/episodes", "rollout/episode_return"):
        assert first_row("clip", 0)[key] == first_row("no-clip", 0)[key]
    assert (
        first_row("clip", 0)["rollout/episode_return"]
        != first_row("clip", 1)["rollout/episode_return"]
    )


@pytest.mark.extended
def test_a_failed_run_is_recorded_and_the_study_goes_on(study: tuple[Path, str]) -> None:
    run_dir, _ = study
    found = results(run_dir)
    assert [(x["arm"], x["seed"]) for x in found["failed"]] == [("broken", 0), ("broken", 1)]
    assert "training diverged" in found["failed"][0]["error"]
    assert found["tasks"][TASK]["broken"]["failed"] == 2
    assert found["tasks"][TASK]["clip"]["failed"] == 0


@pytest.mark.extended
def test_the_csv_has_a_line_for_each_evaluation(study: tuple[Path, str]) -> None:
    run_dir, _ = study
    rows = list(csv.DictReader((run_dir / "results.csv").read_text().splitlines()))
    assert len(rows) == 2 * 2 * 4 + 2
    assert {row["arm"] for row in rows} == {"clip", "no clip", "broken"}
    assert all(float(row["return"]) > 0 for row in rows if not row["error"])


@pytest.mark.extended
def test_a_finished_run_is_never_repeated(study: tuple[Path, str], tmp_path: Path) -> None:
    run_dir, _ = study
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("result.json")}
    first = (run_dir / "results.json").read_bytes()
    said = finished_here(run_dir, run_dir)  # a study's folder stands for the study
    assert "[" not in said.split("folder:")[1].splitlines()[1]
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("result.json")} == before
    assert (run_dir / "results.json").read_bytes() == first
    # more seeds add to what is there
    finished_here(write(tmp_path, STUDY + BROKEN), run_dir, "--seeds", "3")
    now = {path: path.stat().st_mtime_ns for path in run_dir.rglob("result.json")}
    assert len(now) == len(before) + 3
    assert {path: now[path] for path in before} == before
    assert set(results(run_dir)["tasks"][TASK]["clip"]["scores"]) == {"0", "1", "2"}


@pytest.mark.extended
def test_it_goes_on_from_three_kinds_of_file(study: tuple[Path, str], tmp_path: Path) -> None:
    run_dir, _ = study
    kept = tmp_path / "kept"
    for path in run_dir.rglob("*"):
        if path.name in {"study.toml", "provenance.json", "result.json"}:
            copy = kept / path.relative_to(run_dir)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
    said = finished_here(kept, kept)
    assert "[" not in said.split("folder:")[1].splitlines()[1]
    assert results(kept) == results(run_dir)


@pytest.mark.extended
@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_continues_to_the_same_results(tmp_path: Path, kills: int) -> None:
    file, killed = write(tmp_path, task=POOL), tmp_path / "killed"
    began = time.monotonic()
    finished(file, tmp_path / "whole")
    took = time.monotonic() - began
    chance, kept = random.Random(kills), {}
    for _ in range(kills):
        with start(file, killed) as process:
            try:
                process.wait(timeout=chance.uniform(0.1, 1.0) * took)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        now = {path: path.stat().st_mtime_ns for path in killed.rglob("result.json")}
        assert kept.items() <= now.items()  # what was finished was not done again
        kept = now
    assert kept or kills < 10  # a few kills may all come before the first run is finished
    finished(file, killed)
    whole = tmp_path / "whole"
    finished_here(file, tmp_path / "here")
    assert (whole / "results.json").read_bytes() == (tmp_path / "here/results.json").read_bytes()
    assert (whole / "results.json").read_bytes() == (killed / "results.json").read_bytes()
    assert (whole / "results.csv").read_bytes() == (killed / "results.csv").read_bytes()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def workers_of(process: subprocess.Popen) -> list[int]:
    for _ in range(300):
        if workers := children(process.pid):
            return workers
        time.sleep(0.1)
    pytest.fail("no worker was started")


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.extended
@linux
@pytest.mark.parametrize("wait", [0.0, 4.0], ids=["starting", "training"])
def test_workers_end_with_the_study(tmp_path: Path, wait: float) -> None:
    file = write(tmp_path, task=POOL)
    with start(file, tmp_path / "run", "--total-steps", "1000000") as process:
        workers = workers_of(process)
        time.sleep(wait)
        process.kill()
    for _ in range(100):
        if not any(map(alive, workers)):
            return
        time.sleep(0.1)
    pytest.fail(f"workers {workers} go on though nobody waits for them")


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    tasks = Path(f"/proc/{pid}/task").glob("*/children") if listed.exists() else []
    return [int(child) for task in tasks for child in task.read_text().split()]


@pytest.mark.extended
def test_ctrl_c_stops_and_says_how_to_go_on(tmp_path: Path) -> None:
    with start(write(tmp_path), tmp_path / "run", "--workers", "1") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("[1/"):
                break
        os.kill(process.pid, signal.SIGINT)
        said = process.stdout.read()
    assert process.returncode == 130
    assert f"To continue: surefoot study {tmp_path / 'run'}" in said
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.extended
@linux
def test_a_worker_that_dies_is_a_failed_run_and_can_be_tried_again(tmp_path: Path) -> None:
    file, run_dir = write(tmp_path, task=POOL), tmp_path / "run"
    with start(file, run_dir, "--workers", "1") as process:
        os.kill(workers_of(process)[0], signal.SIGKILL)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    failed = results(run_dir)["failed"]
    assert [x["error"] for x in failed] == ["the worker was ended by SIGKILL (out of memory?)"]
    assert "(1 of 2 runs failed)" in said or "too few" in said or "1 run(s) failed" in said
    finished(file, run_dir)
    assert results(run_dir)["failed"] == failed  # what failed is not tried again unasked
    finished(file, run_dir, "--retry-failed")
    assert results(run_dir)["failed"] == []


@pytest.mark.skipif(not Path("/bin/false").exists(), reason="needs a program that reads nothing")
def test_a_worker_that_dies_before_it_has_its_job_is_a_failed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job("runs/t/arm/seed-0", PROBE, "arm", TINY, (0,), evaluations=1, episodes=1)

    class DiesAtOnce(subprocess.Popen):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(["/bin/false"], **options)
            self.wait()  # so that nobody is there to read what is written

    monkeypatch.setattr("surefoot.study.executors.subprocess.Popen", DiesAtOnce)
    done = list(LocalProcesses(1).run([job], tmp_path, lambda: False))
    assert done == [job]
    result = json.loads((tmp_path / job.folder / "result.json").read_text())
    assert result["errors"] == {"0": "the worker ended with exit code 1"}


@pytest.mark.extended
def test_tasks_in_jax_share_a_program_and_give_what_solo_runs_do(tmp_path: Path) -> None:
    task = PROBE
    finished_here(write(tmp_path, task=task), tmp_path / "run")
    jobs = sorted(p.parent.name for p in (tmp_path / "run").rglob("result.json"))
    assert jobs == ["seeds-0-1", "seeds-0-1"]
    run = json.loads(next((tmp_path / "run").rglob("result.json")).read_text())["runs"]["1"]
    assert (
        len(run["returns"]) == 4
    )  # the evaluations asked for, though the host hears of it less often
    found = results(tmp_path / "run")["tasks"][task]["clip"]
    import surefoot

    study, _ = parse_study(write(tmp_path, task=task).read_text(), where="", presets={})
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
    # more seeds: those that are there stay, the new ones share a program
    finished_here(write(tmp_path, task=task), tmp_path / "run", "--seeds", "4")
    jobs = sorted(p.parent.name for p in (tmp_path / "run").rglob("result.json"))
    assert jobs == ["seeds-0-1", "seeds-0-1", "seeds-2-3", "seeds-2-3"]
    more = results(tmp_path / "run")["tasks"][task]["clip"]["scores"]
    assert {seed: more[seed] for seed in ("0", "1")} == found["scores"]
    assert set(more) == {"0", "1", "2", "3"}


@pytest.mark.extended
def test_a_seed_that_fails_does_not_take_the_others_with_it(tmp_path: Path, monkeypatch) -> None:
    from surefoot import api

    right = api.train

    def train(task, *, config, **options):
        if config.seed == 1:
            raise UserError("training diverged")
        return right(task, config=config, **options)

    def together(*_, **__):
        raise UserError("training diverged")

    monkeypatch.setattr(api, "train", train)
    monkeypatch.setattr(api, "train_seeds", together)
    job = Job("here", PROBE, "clip", TINY, (0, 1, 2), evaluations=2, episodes=2)
    run_job(job, tmp_path)
    result = json.loads((tmp_path / "here" / "result.json").read_text())
    assert set(result["runs"]) == {"0", "2"}
    assert result["errors"] == {"1": "training diverged"}


@pytest.mark.extended
def test_every_arm_may_choose_its_learning_rate_on_seeds_of_its_own(tmp_path: Path) -> None:
    task = PROBE
    finished_here(write(tmp_path, task=task), tmp_path / "run", "--tune-lr", "2")
    tried = sorted(p.parent.name for p in (tmp_path / "run" / "tuning").rglob("result.json"))
    assert tried == ["seeds-1000000-1000001"] * 4
    found = results(tmp_path / "run")["tasks"][task]
    for arm, own in (("clip", 3e-4), ("no clip", 0.01)):
        assert min(abs(found[arm]["learning_rate"] / rate - 1) for rate in (own / 3, own)) < 1e-6
    for arm in ("clip", "no clip"):
        means = {}
        for file in (tmp_path / "run" / "tuning").glob(f"lr-*/*/{slug(arm)}/*/result.json"):
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
    (tmp_path / "mine.toml").touch()
    for misspelt in ("mien.toml", "mine.tml"):
        said = error(capsys, str(tmp_path / misspelt), *tasks, *where)
        assert "does not exist; did you mean 'mine.toml'?" in said
    assert "at least one task" in error(capsys, "clipping", *where)
    assert "at least 2 seeds" in error(capsys, "clipping", *tasks, "--seeds", "1", *where)
    assert POOL in error(capsys, "clipping", "--tasks", "CartPol-v1", *where)
    assert "did you mean 'no clip'" in error(capsys, "clipping", *tasks, "--arms", "noclip", *where)
    assert "--workers 0" in error(capsys, "clipping", *tasks, "--workers", "0", *where)
    assert "holds no study" in error(capsys, str(tmp_path))
    assert not (tmp_path / "run").exists()


def test_seeds_begin_where_they_are_asked_to() -> None:
    asked = ["clipping", "--tasks", TASK, "--seeds", "2", "--first-seed", "1000000"]
    assert [*plan(parse(asked))[0].every_seed] == [1_000_000, 1_000_001]


def test_a_place_that_cannot_be_written_is_found_before_work_starts(
    capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions say nothing to root, so it is /proc, where nobody can make a folder."""
    monkeypatch.setattr("surefoot.study.executors.start_worker", pytest.fail)
    place = Path("/proc")
    if not place.is_dir():
        place = tmp_path / "locked"
        place.mkdir(mode=0o555)
    arguments = ["clipping", "--tasks", TASK, "--run-dir", str(place / "studies" / "mine")]
    assert main(["study", *arguments]) == 2
    out, err = capsys.readouterr()
    assert f"cannot be made: {place} is not writable" in err
    assert not out


def test_a_folder_called_like_a_study_is_not_taken_for_one(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "clipping").mkdir()
    monkeypatch.chdir(tmp_path)
    study, _ = plan(parse(["clipping", "--tasks", TASK]))
    assert study.baseline == "clip"


@pytest.mark.extended
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
    with start(file, tmp_path / "run") as process:
        try:
            for _ in range(300):
                if (tmp_path / "run" / "study.toml").is_file():
                    break
                time.sleep(0.1)
            said = error(capsys, str(file), "--run-dir", str(tmp_path / "run"))
            assert "another process is at work" in said
        finally:
            process.kill()


def test_it_is_known_where_a_study_differs(capsys, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    there, _ = parse_study((STUDY + BROKEN).replace("{task}", TASK), where="small.toml", presets={})
    (run_dir / "study.toml").write_text(write_study(replace(there, seeds=3)))

    def told(old: str, new: str, *arguments: str) -> str:
        file = write(tmp_path, (STUDY + BROKEN).replace(old, new))
        return error(capsys, str(file), "--run-dir", str(run_dir), *arguments)

    assert f"arm 'clip' on {TASK} has num_envs = 8 there and 4 here" in told(
        "num_envs = 8", "num_envs = 4"
    )
    assert "its arms are clip, no clip, broken, not clip, no clip" in told(BROKEN, "")
    assert "episodes = 2 there and 3 here" in told("episodes = 2", "episodes = 3")
    assert "holds a study of 3 seeds" in told("", "")


def test_arms_that_do_not_fit_the_task_are_refused(capsys, tmp_path: Path) -> None:
    text = STUDY + '[arms.blind]\nactor_groups = ["no-such-group"]\n'
    said = error(capsys, str(write(tmp_path, text)), "--run-dir", str(tmp_path / "run"))
    assert "arm 'blind'" in said
    assert "no-such-group" in said
    assert not (tmp_path / "run").exists()


def test_an_emptied_result_is_done_again(tmp_path: Path) -> None:
    from surefoot.study.run_study import StudyFolder, reported_jobs

    study, _ = parse_study(write(tmp_path).read_text(), where="small.toml", presets={})
    with StudyFolder(tmp_path / "run", study) as folder:
        job = reported_jobs(folder, lambda task: False, {})[0]
        (tmp_path / "run" / job.folder).mkdir(parents=True)
        (tmp_path / "run" / job.folder / "result.json").write_text("")
        assert folder.result(job) is None
