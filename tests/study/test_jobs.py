"""One job: what it is told, how it plays, what it leaves; and how learning rates are chosen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.helpers import TINY

from surefoot.cli.presets import preset
from surefoot.cli.study import Progress, parse, plan
from surefoot.config import Config
from surefoot.study import jobs as module
from surefoot.study.jobs import Evaluations, Job, diagnostics, outcome, write_failure
from surefoot.study.plan import Study
from surefoot.study.run_study import StudyFolder, choose_rates, reported_jobs


def job(seeds: tuple[int, ...] = (0,), **changes: Any) -> Job:
    fields = {"config": TINY, "evaluations": 4, "episodes": 2} | changes
    return Job("runs/t/a/x", "probe:both", "a", seeds=seeds, **fields)


def test_a_job_reads_back_from_its_text() -> None:
    config = TINY.replace(clip_epsilon=float("inf"), value_clip_epsilon=None, env_options=("a=1",))
    told = job((3, 4), config=config, as_it_comes=True)
    assert Job.from_json(told.to_json()) == told
    assert "\n" not in told.to_json()  # a worker reads one line


def test_the_folder_of_a_single_seed_is_its_run_folder() -> None:
    assert job((3,)).run_dir(3) == "runs/t/a/x"
    assert job((3, 4)).run_dir(4) == "runs/t/a/x/seed-4"


@pytest.mark.parametrize("as_it_comes", [False, True])
def test_the_reward_that_is_scored_is_the_tasks_own_if_asked(
    as_it_comes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []

    def make(task: str, num_envs: int, *, seed: Any, options: dict[str, Any]) -> None:
        made.append(options)

    monkeypatch.setattr(module, "make_environment", make)
    monkeypatch.setattr(module, "make_collector", lambda *_, **__: None)
    config = TINY.replace(env_options=("forward_reward_weight=2.0",))
    run: Any = SimpleNamespace(task="Hopper-v5", config=config)
    Evaluations(job(config=config, as_it_comes=as_it_comes)).on_start(run)
    assert made == [{} if as_it_comes else {"forward_reward_weight": 2.0}]


def test_the_policy_is_played_once_for_each_share_of_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "make_environment", lambda *_, **__: object())
    monkeypatch.setattr(module, "make_collector", lambda *_, **__: None)
    monkeypatch.setattr(module, "evaluate", lambda *_, **__: {"episode_return_mean": 1.0})
    config = TINY.replace(total_steps=100)
    run: Any = SimpleNamespace(task="t", config=config, policy=lambda state: None)
    watcher = Evaluations(job())
    watcher.on_start(run)
    for step in (10, 24, 25, 26, 40, 80, 99, 101):  # 80 passes two marks at once
        state: Any = SimpleNamespace(step=step)
        watcher.on_iteration(state, {})
    assert [step for step, _ in watcher.rows] == [25, 80, 101]


ROW = {"step": 1, "iteration": 1, "wall_time_s": 0.5}


def test_the_final_score_is_the_mean_of_the_last_tenth_of_the_evaluations(tmp_path: Path) -> None:
    (tmp_path / "m").write_text(json.dumps(ROW | {"policy/entropy": 1.0}) + "\n")
    rows = [(k, float(k % 20)) for k in range(20)]
    assert outcome(rows, tmp_path / "m", 20)["final"] == 18.5  # of 18 and 19, not the maximum
    assert outcome(rows[:4], tmp_path / "m", 20)["final"] == 3.0


def test_diagnostics_are_means_of_parts_and_maxima_maxima(tmp_path: Path) -> None:
    rows: list[dict[str, float | None]] = [
        {**ROW, "policy/entropy": float(k), "policy/ratio_max": float(k)} for k in range(6)
    ]
    rows[0]["policy/held_out_kl"] = None
    rows[1]["policy/held_out_kl"] = 0.5
    (tmp_path / "m").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = diagnostics(tmp_path / "m", 3)
    assert found["policy/entropy"] == [0.5, 2.5, 4.5]
    assert found["policy/ratio_max"] == [1.0, 3.0, 5.0]
    assert found["policy/held_out_kl"] == [0.5, None, None]
    assert "optim/grad_norm" not in found
    (tmp_path / "m").write_text('{"step": 1')  # a disk that was full from the first line on
    assert diagnostics(tmp_path / "m", 3) == {}


def test_the_best_rate_is_chosen_and_one_with_a_failed_run_is_out() -> None:
    def tried(rate: float, finals: list[float], errors: int = 0) -> tuple[Job, dict[str, Any]]:
        runs = {str(k): {"final": x} for k, x in enumerate(finals)}
        failed = {str(9 + k): "diverged" for k in range(errors)}
        return job(config=TINY.replace(learning_rate=rate)), {"runs": runs, "errors": failed}

    results = [tried(1e-4, [1.0, 2.0]), tried(3e-4, [3.0, 1.0]), tried(9e-4, [99.0], errors=1)]
    assert choose_rates(results) == {("probe:both", "a"): 3e-4}


def test_seeds_that_were_trained_together_are_found_again(tmp_path: Path) -> None:
    study = Study("s", {"probe:both": TINY}, {"a": {}, "b": {"gamma": 0.9}}, "a", 4)

    def jobs(seeds: int) -> list[Job]:
        with StudyFolder(tmp_path / "run", replace(study, seeds=seeds)) as folder:
            return reported_jobs(folder, lambda task: True, {})

    def groups(seeds: int) -> dict[str, list[tuple[int, ...]]]:
        return {arm: [j.seeds for j in jobs(seeds) if j.arm == arm] for arm in study.arms}

    assert groups(4) == {"a": [(0, 1, 2, 3)], "b": [(0, 1, 2, 3)]}
    done = next(j for j in jobs(4) if j.arm == "a")
    write_failure(done, tmp_path / "run", "an error is a result too")
    assert groups(4) == {"a": [(0, 1, 2, 3)], "b": [(0, 1, 2, 3)]}
    assert groups(5) == {"a": [(0, 1, 2, 3), (4,)], "b": [(0, 1, 2, 3, 4)]}
    alone = next(j for j in jobs(5) if j.seeds == (4,))
    write_failure(alone, tmp_path / "run", "and so is this")
    assert groups(7)["a"] == [(0, 1, 2, 3), (4,), (5, 6)]
    (tmp_path / "run" / done.folder / "result.json").write_text("")  # as a power cut leaves it
    assert groups(7)["a"] == [(0, 1, 2, 3, 5, 6), (4,)]


def test_a_robot_with_a_preset_is_trained_with_it_and_scored_on_its_own_reward() -> None:
    study, run_dir = plan(parse(["clipping", "--tasks", "Go1JoystickFlatTerrain-v1", "Hopper-v5"]))
    assert study.tasks["Go1JoystickFlatTerrain-v1"] == preset("go1")
    assert study.tasks["Hopper-v5"] == Config()
    assert study.as_it_comes
    assert run_dir == Path("studies/clipping")


def test_arms_can_be_chosen_and_the_baseline_stays() -> None:
    study, _ = plan(parse(["clipping", "--tasks", "Hopper-v5", "--arms", "TRPO"]))
    assert list(study.arms) == ["clip", "TRPO"]


def test_progress_tells_scores_failures_and_the_time_left(capsys: pytest.CaptureFixture) -> None:
    progress = Progress()
    runs = {"0": {"final": 1.0}, "1": {"final": 2.0}}
    progress(job((0, 1)), {"runs": runs, "errors": {}}, 1, 3)
    progress(job((2,)), {"runs": {}, "errors": {"2": "[red]diverged:ant:\x1b[2J\nmore"}}, 2, 3)
    progress(job((0,)), {"runs": {"0": {"final": 5.0}}, "errors": {}}, 1, 1)  # another phase
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("[1/3] probe:both, a, seeds 0 to 1: 1.5, about ")
    assert said[1].startswith(
        "[2/3] probe:both, a, seed 2: 1 failed: [red]diverged:ant:?[2J, about "
    )
    assert said[2] == "[1/1] probe:both, a, seed 0: 5.0"
