"""The command: what it leaves, and that nothing finished is lost.

Most tunings train in this process; those in processes of their own, which one can kill, say so.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import PROBE, TINY
from tests.study.helpers import ThisProcess
from tests.test_docs import surefoot_commands

from surefoot.cli.main import main
from surefoot.config_file import read_toml
from surefoot.study.executors import Stop
from surefoot.study.jobs import Job, run_job
from surefoot.study.plan import FIRST_TUNING_SEED
from surefoot.tune.by_optuna import Book
from surefoot.tune.plan import Tuning, claim_folder
from surefoot.tune.search import _Watch, search
from surefoot.tune.space import Range

SPACE = f"""
learning_rate = {{low = 1e-4, high = 1e-2, log = true}}
num_minibatches = [3, 4]

[options]
total_steps = 300
num_envs = {TINY.num_envs}
num_steps = {TINY.num_steps}
num_epochs = {TINY.num_epochs}
num_minibatches = 4
actor_hidden = [8]
critic_hidden = [8]
"""
POOL = "Pendulum-v1"  # of which no score is the highest


def words(folder: Path, *more: str, task: str = PROBE, space: str = SPACE) -> list[str]:
    file = folder / "space.toml"
    file.write_text(space)
    numbers = ["--evaluations", "4", "--episodes", "2", "--fresh-seeds", "2"]
    return ["tune", task, "--space", str(file), "--run-dir", str(folder / "run"), *numbers, *more]


class Searching(ThisProcess):
    """Pays for a learning rate: the probe pays all options alike."""

    def do(self, job: Job, study: Path, should_stop: Stop) -> bool:
        run_job(job, study)
        file = study / job.folder / "result.json"
        result = json.loads(file.read_text())
        for run in result["runs"].values():
            run["final"] += job.config.learning_rate
        file.write_text(json.dumps(result))
        return True


def here(*arguments: str, code: int = 0) -> str:
    """What a tuning in this process said."""
    said = io.StringIO()

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr("surefoot.study.executors.LocalProcesses", lambda _: Searching())
        assert main(list(arguments)) == code
    return said.getvalue()


def start(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "surefoot", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run" / "results.json").read_text())


def trained(folder: Path) -> dict[Path, int]:
    """What trainings have left, and when."""
    files = (folder / "run").rglob("result.json")
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished tuning, and what it said."""
    folder = tmp_path_factory.mktemp("tune")
    return folder, here(*words(folder, "--trials", "3", "--seeds", "2"))


@pytest.mark.extended
def test_it_says_what_it_does_and_what_it_found(tuned: tuple[Path, str]) -> None:
    folder, said = tuned
    assert "3 trials of learning_rate, num_minibatches, 2 seed(s) each" in said
    assert "[3/3] trial " in said
    assert "[1/3] trial 0: " in said
    assert " left\n" in said
    best = results(folder)["best"]
    assert best != 0
    assert f"Best: trial {best}, " in said
    assert f"{PROBE}, default: mean " in said
    assert "report.html" in said


@pytest.mark.extended
def test_a_score_is_the_mean_over_the_seeds_of_tuning(tuned: tuple[Path, str]) -> None:
    folder, _ = tuned
    done = [trial for trial in results(folder)["trials"] if trial["state"] == "complete"]
    assert len(done) == 3
    for trial in done:
        runs = sorted((folder / "run" / "trials" / str(trial["number"])).glob("seed-*"))
        assert [run.name for run in runs] == [f"seed-{FIRST_TUNING_SEED + k}" for k in range(2)]
        left = [json.loads((run / "result.json").read_text()) for run in runs]
        finals = [run["final"] for result in left for run in result["runs"].values()]
        assert trial["score"] == pytest.approx(sum(finals) / 2)
        config = tomllib.loads((runs[0] / "config.toml").read_text())
        assert {name: str(config[name]) for name in trial["options"]} == trial["options"]


@pytest.mark.extended
def test_the_best_is_judged_beside_the_default_on_fresh_seeds(tuned: tuple[Path, str]) -> None:
    folder, said = tuned
    found = results(folder)
    judged = found["judged"]
    assert judged["seeds"] == 2
    assert [*judged["arms"]] == ["default", "tuned"]
    for arm in judged["arms"].values():
        assert [*arm["scores"]] == ["0", "1"]
        assert arm["mean"].keys() == {"estimate", "low", "high"}
    assert judged["arms"]["tuned"]["sentence"] in said
    assert (folder / "run" / "judgment" / f"trial-{found['best']}" / "report.html").is_file()


@pytest.mark.extended
def test_the_best_options_are_a_file_to_train_with(tuned: tuple[Path, str]) -> None:
    folder, _ = tuned
    found = results(folder)
    best = next(trial for trial in found["trials"] if trial["number"] == found["best"])
    assert best["score"] == max(t["score"] for t in found["trials"] if t["state"] == "complete")
    options = read_toml(folder / "run" / "best.toml")
    assert options["task"] == PROBE
    assert {name: str(options[name]) for name in best["options"]} == best["options"]
    config = ["--config", str(folder / "run" / "best.toml"), "--run-dir", str(folder / "again")]
    assert main(["train", PROBE, *config]) == 0
    assert (folder / "again" / "policy.safetensors").is_file()


@pytest.mark.extended
def test_options_that_do_not_go_together_are_not_trained(tuned: tuple[Path, str]) -> None:
    folder, _ = tuned
    trials = results(folder)["trials"]
    refused = [trial for trial in trials if trial["options"]["num_minibatches"] == "3"]
    assert refused
    for trial in refused:
        assert trial["state"] == "refused"
        assert "num_minibatches = 3 does not divide the batch" in trial["reason"]
        assert not (folder / "run" / "trials" / str(trial["number"])).exists()
    page = (folder / "run" / "report.html").read_text()
    assert "after 300 environment steps: 3 complete, " in page
    assert f", {len(refused)} refused." in page or f" {len(refused)} refused," in page


@pytest.mark.extended
def test_what_was_judged_stays_judged(tuned: tuple[Path, str]) -> None:
    folder, _ = tuned
    again = folder / "again and fewer"
    shutil.copytree(folder, again)
    judged = results(folder)["judged"]
    stops = words(again, "--trials", "3", "--seeds", "2")
    with pytest.MonkeyPatch.context() as patch:  # stopped before anything is judged
        patch.setattr("surefoot.tune.results.judge", lambda *_, **__: None)
        here(*stops, code=1)
    assert results(again)["judged"] == judged
    (again / "run" / "judgment").rename(again / "run" / "before")
    here(*stops, "--fresh-seeds", "3")
    three = results(again)["judged"]
    assert three["seeds"] == 3
    here(*stops)  # asks for two
    assert results(again)["judged"] == three
    shown = again / "run" / "judgment" / f"trial-{results(again)['best']}" / "results.json"
    for damage in (
        "",
        "{}",
        '{"tasks": []}',
        '{"seeds": 3, "tasks": {"' + PROBE + '": {"default": 1}}}',
    ):
        shown.write_text(damage)
        here(*stops)  # shows it again from what the runs have left
        assert results(again)["judged"] == three


@pytest.mark.extended
def test_no_password_is_left_in_the_folder(tmp_path: Path) -> None:
    url = f"sqlite://surefoot:secret@/{tmp_path / 'trials.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["surefoot", "tune", "--storage", url, f"--storage={url}"])
        here(*words(tmp_path, "--trials", "1"))
    kept = [file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert kept
    assert not any(b"secret" in content for content in kept)
    assert any(b"sqlite://surefoot:***@" in content for content in kept)


@pytest.mark.extended
def test_no_trial_is_repeated(tuned: tuple[Path, str]) -> None:
    folder, _ = tuned
    before, first = trained(folder), results(folder)
    here(*words(folder, "--trials", "3", "--seeds", "2"))
    assert trained(folder) == before
    assert results(folder) == first
    here(*words(folder, "--trials", "4", "--seeds", "2"))  # more add to what is there
    now = trained(folder)
    assert before.items() <= now.items()
    added = [path for path in now if path not in before and "trials" in path.parts]
    assert len(added) == 2
    assert results(folder)["trials"][: len(first["trials"])] == first["trials"]


def error(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert said.startswith("surefoot: error: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.extended
def test_a_folder_with_another_tuning_is_left_alone(tuned: tuple[Path, str], capsys) -> None:
    folder, _ = tuned
    before = trained(folder)
    both = ["--seeds", "2"]
    said = error(capsys, *words(folder, *both, "--total-steps", "400"))
    assert "holds another tuning: total_steps = 300 there and 400 here" in said
    said = error(capsys, *words(folder, *both, task="probe:late-reward"))
    assert f"task = {PROBE} there and probe:late-reward here" in said
    other = SPACE.replace("high = 1e-2", "high = 1e-3")
    said = error(capsys, *words(folder, *both, space=other))
    assert "space.learning_rate.high = 0.01 there and 0.001 here" in said
    said = error(capsys, *words(folder, *both, space=SPACE.replace("[3, 4]", "[4, 8]")))
    assert "space.num_minibatches = [3, 4] there and [4, 8] here" in said
    assert "seeds = 2 there and 1 here" in error(capsys, *words(folder))
    said = error(capsys, *words(folder, *both, "--storage", "sqlite://"))
    assert "ends with this process: name a file" in said
    said = error(capsys, *words(folder, *both, "--storage", f"sqlite:///{folder}/x.db"))
    assert "storage = file there and database here" in said
    assert trained(folder) == before


def test_bad_input_is_refused_before_work_starts(capsys, tmp_path: Path) -> None:
    assert "--trials 0 must be at least 1" in error(capsys, *words(tmp_path, "--trials", "0"))
    assert "--workers 0" in error(capsys, *words(tmp_path, "--workers", "0"))
    assert "--fresh-seeds 1 must be at least 2" in error(
        capsys, *words(tmp_path, "--fresh-seeds", "1")
    )
    assert "seeds = 0 must be at least 1" in error(capsys, *words(tmp_path, "--seeds", "0"))
    assert "did you mean 'learning_rate'" in error(
        capsys, *words(tmp_path, space="learning_rat = [1, 2]")
    )
    assert "CartPole-v1" in error(capsys, *words(tmp_path, task="CartPol-v1"))
    whole = SPACE.replace("num_minibatches = 4\n", "num_minibatches = 5\n")
    assert "num_minibatches = 5 does not divide" in error(capsys, *words(tmp_path, space=whole))
    gone = words(tmp_path)
    gone[gone.index("--space") + 1] = str(tmp_path / "none.toml")
    assert "does not exist" in error(capsys, *gone)
    assert "--storage cannot be opened" in error(capsys, *words(tmp_path, "--storage", "x"))
    assert "a batch of num_envs x num_steps" in error(
        capsys, *words(tmp_path, "--total-steps", "9")
    )
    for option in ("seed = 3", "stop_at_return = 5.0", "stop_at_success = 0.5"):
        said = error(capsys, *words(tmp_path, space=f"{SPACE}{option}\n"))
        assert f"{option.split()[0]} among [options]" in said
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    assert "'thesis.txt'" in error(capsys, *words(tmp_path))


def test_code_is_named_on_the_command_line_alone(capsys, tmp_path: Path) -> None:
    setting = '[options]\nenv_options = ["env_id=stranger:Env-v0"]\n'
    space = SPACE.replace("[options]\n", setting)
    said = error(capsys, *words(tmp_path, space=space, task="gymnasium:CartPole-v1"))
    assert "may name code, which is not taken from a file" in said


@pytest.mark.parametrize("verb", ["tune", "study"])
def test_a_cluster_has_the_workers_that_it_has(verb: str, capsys, tmp_path: Path) -> None:
    what = words(tmp_path)[1:] if verb == "tune" else ["clipping", "--tasks", PROBE]
    said = error(capsys, verb, *what, "--workers", "2", "--ray", "127.0.0.1:1")
    assert "--workers 2 with --ray: it is for processes on this machine" in said


@pytest.mark.extended
def test_a_training_that_cannot_be_done_is_recorded_and_the_search_goes_on(
    tmp_path: Path, capsys
) -> None:
    space = SPACE.replace("high = 1e-2", "high = 1e30").replace("log = true", "log = false")
    space = space.replace("num_minibatches = [3, 4]", "") + "max_refused_updates = 0\n"
    here(*words(tmp_path, "--trials", "2", space=space))
    states = {trial["state"]: trial for trial in results(tmp_path)["trials"]}
    assert {*states} == {"complete", "failed"}
    assert "training diverged" in states["failed"]["reason"]
    assert results(tmp_path)["best"] == 0


@pytest.mark.parametrize("is_slow_to_look", [False, True])
def test_evaluations_are_followed_and_what_falls_behind_is_ended(
    is_slow_to_look: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each training is made up: it plays eight times, and returns more the earlier it came."""
    tuning = Tuning(PROBE, TINY, {"learning_rate": Range(1e-4, 1e-2)}, seeds=1, evaluations=8)
    started: list[Job] = []

    def train(job: Job, path: Path, should_stop: Stop) -> bool:
        started.append(job)
        folder, value = path / job.folder, float(-len(started))
        folder.mkdir(parents=True)
        steps = [TINY.total_steps * (k + 1) // 8 + 1 for k in range(8)]
        for step in steps:
            with (folder / "evaluations.jsonl").open("a") as file:
                row = {
                    "step": step,
                    "return": value if len(started) < 7 or step == steps[-1] else 0.0,
                }
                file.write(json.dumps(row) + "\n" + '{"step": ')  # and half a line
            if not is_slow_to_look and should_stop():
                return False
            text = (folder / "evaluations.jsonl").read_text().removesuffix('{"step": ')
            (folder / "evaluations.jsonl").write_text(text)
        (seed,) = job.seeds
        run = {"final": value, "steps": [1], "returns": [value], "diagnostics": {}}
        result = {"task": PROBE, "arm": job.arm, "learning_rate": 1e-3, "seeds": [seed]}
        result |= {"runs": {str(seed): run}, "errors": {}}
        (folder / "result.json").write_text(json.dumps(result))
        return True

    executor = ThisProcess()
    monkeypatch.setattr(executor, "do", train)
    claim_folder(tmp_path / "run", tuning)
    with Book(tuning, tmp_path / "run", 7) as book:
        search(
            book,
            tuning,
            tmp_path / "run",
            executor=executor,
            progress=lambda *_: None,
            should_stop=lambda: False,
        )
        trials = book.trials()
    # the last one is behind at its end alone, where there is nothing left to save
    assert [trial.state for trial in trials] == ["complete"] * 5 + ["pruned", "complete"]
    assert [trial.score for trial in trials] == [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0]
    assert trials[5].reason == "return -6 after 113 steps is below the median"
    assert len(started) == 7


def test_every_evaluation_has_its_place(tmp_path: Path) -> None:
    for count in (1, 3, 20, 50, 100):
        tuning = Tuning(PROBE, TINY, {"learning_rate": Range(1e-4, 1e-2)}, 1, evaluations=count)
        path = tmp_path / str(count)
        claim_folder(path, tuning)
        with Book(tuning, path, 1) as book:
            trial = book.ask()
            assert trial is not None
            job = tuning.job(trial, 0)
            (path / job.folder).mkdir(parents=True)
            total = TINY.total_steps
            steps = [
                -(-total * k // count) for k in range(1, count + 1)
            ]  # at k / count, or just after
            rows = [json.dumps({"step": step, "return": 1.0}) + "\n" for step in steps]
            (path / job.folder / "evaluations.jsonl").write_text("".join(rows))
            assert not _Watch(book, trial, job, path, before=0)()
            assert [*book._frozen(0).intermediate_values] == list(range(count))


# --- in processes of their own

LONG = SPACE.replace("total_steps = 300", "total_steps = 10000").replace("[3, 4]", "[2, 4]")


def wait_for_trials(folder: Path, count: int) -> None:
    for _ in range(1200):
        if len(trained(folder)) >= count:
            return
        time.sleep(0.1)
    pytest.fail(f"no {count} trials within two minutes")


@pytest.mark.extended
def test_killed_in_the_middle_it_continues_and_repeats_no_trial(tmp_path: Path) -> None:
    arguments = words(tmp_path, "--trials", "4", task=POOL, space=LONG)
    with start(*arguments) as process:
        wait_for_trials(tmp_path, 2)
        time.sleep(1.0)
        process.send_signal(signal.SIGKILL)
    before = trained(tmp_path)
    process = start(*arguments)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert before.items() <= trained(tmp_path).items()
    trials = results(tmp_path)["trials"]
    assert sum(trial["state"] == "complete" for trial in trials) == 4
    options = [str(trial["options"]) for trial in trials]
    assert len(set(options)) == len(options)  # each was done once, what was interrupted too
    assert results(tmp_path)["judged"] is not None


@pytest.mark.extended
def test_two_processes_share_the_trials(tmp_path: Path) -> None:
    arguments = words(tmp_path, "--trials", "4", "--workers", "1", task=POOL, space=LONG)
    both = [start(*arguments), start(*arguments)]
    said = [process.communicate(timeout=400)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    trials = results(tmp_path)["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 4
    assert all(text.count("] trial ") for text in said)
    assert sum(text.count("] trial ") for text in said) == 4
    assert len(trained(tmp_path)) >= 4 + 2
    assert results(tmp_path)["judged"] is not None


@pytest.mark.extended
def test_ctrl_c_leaves_what_there_is_and_the_same_command_continues(tmp_path: Path) -> None:
    arguments = words(tmp_path, "--trials", "3", "--workers", "1", task=POOL, space=LONG)
    with start(*arguments) as process:
        wait_for_trials(tmp_path, 1)
        time.sleep(2.0)
        os.kill(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "The same command continues." in said
    assert (tmp_path / "run" / "best.toml").is_file()
    assert "Not known yet" in (tmp_path / "run" / "report.html").read_text()
    before = trained(tmp_path)
    process = start(*arguments)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert before.items() <= trained(tmp_path).items()
    assert sum(t["state"] == "complete" for t in results(tmp_path)["trials"]) == 3


@pytest.mark.extended
def test_the_command_of_the_documentation_works(tmp_path: Path, monkeypatch) -> None:
    line = next(line for page, line in surefoot_commands() if page == "docs/tuning.md")
    monkeypatch.chdir(tmp_path)
    small = ["--trials", "2", "--total-steps", "4096", "--fresh-seeds", "2", "--evaluations", "2"]
    said = here(*shlex.split(line)[1:], *small)
    assert "Best: trial " in said
    assert (tmp_path / "tuning" / "CartPole-v1" / "best.toml").is_file()
