"""One job: what it is told, how it plays, what it leaves; and how learning rates are chosen."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest
from tests.helpers import TINY
from tests.study.helpers import ThisProcess

from surefoot.cli.presets import preset
from surefoot.cli.study import Progress, parse, plan, seconds_left
from surefoot.config import Config
from surefoot.errors import UserError
from surefoot.study import jobs as module
from surefoot.study.jobs import Evaluations, Job, diagnostics, outcome, write_failure
from surefoot.study.plan import Study
from surefoot.study.run_study import StudyFolder, choose_rates, reported_jobs, run_study
from surefoot.study.worker import claim_core
from surefoot.training import make_streams, to_key


def job(seeds: tuple[int, ...] = (0,), **changes: Any) -> Job:
    fields = {"config": TINY, "evaluations": 4, "episodes": 2} | changes
    return Job("runs/t/a/x", "probe:both", "a", seeds=seeds, **fields)


def test_a_job_reads_back_from_its_text() -> None:
    config = TINY.replace(clip_epsilon=float("inf"), value_clip_epsilon=None, env_options=("a=1",))
    told = job((3, 4), config=config, as_it_comes=True)
    assert Job.from_json(told.to_json()) == told
    assert "\n" not in told.to_json()  # a worker reads one line


SPEC = SimpleNamespace(observations={})
ENV = SimpleNamespace(read_as=lambda observations: None)


def test_the_folder_of_a_single_seed_is_its_run_folder() -> None:
    assert job((3,)).run_dir(3) == "runs/t/a/x"
    assert job((3, 4)).run_dir(4) == "runs/t/a/x/seed-4"


@pytest.mark.parametrize("as_it_comes", [False, True])
def test_the_reward_that_is_scored_is_the_tasks_own_if_asked(
    as_it_comes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    seeds: list[Any] = []

    def make(task: str, num_envs: int, *, seed: Any, options: dict[str, Any]) -> Any:
        made.append(options)
        seeds.append(seed)
        return ENV

    monkeypatch.setattr(module, "make_environment", make)
    monkeypatch.setattr(module, "make_collector", lambda *_, **__: None)
    config = TINY.replace(env_options=("forward_reward_weight=2.0",))
    run: Any = SimpleNamespace(task="Hopper-v5", config=config, env=SPEC)
    watcher = Evaluations(job(config=config, as_it_comes=as_it_comes))
    watcher.on_start(run)
    assert made == [{} if as_it_comes else {"forward_reward_weight": 2.0}]
    # the first stream is that of `surefoot eval`, and the two here are no stream of training's
    _, environments, key = make_streams(config.seed).evaluation.spawn(3)
    assert [seed.spawn_key for seed in seeds] == [environments.spawn_key]
    assert (jax.random.key_data(watcher._key) == jax.random.key_data(to_key(key))).all()


def test_the_policy_is_played_once_for_each_share_of_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "make_environment", lambda *_, **__: ENV)
    monkeypatch.setattr(module, "make_collector", lambda *_, **__: None)
    monkeypatch.setattr(module, "evaluate", lambda *_, **__: {"episode_return_mean": 1.0})
    config = TINY.replace(total_steps=100)
    run: Any = SimpleNamespace(task="t", config=config, env=SPEC, policy=lambda state: None)
    watcher = Evaluations(job())
    watcher.on_start(run)
    for step in (10, 24, 25, 26, 40, 80, 99, 101):  # 80 passes two marks at once
        state: Any = SimpleNamespace(step=step)
        watcher.on_iteration(state, {})
    assert [step for step, _ in watcher.rows] == [25, 80, 101]


ROW = {"step": 1, "iteration": 1, "wall_time_s": 0.5}


def test_the_final_score_is_the_mean_of_the_last_tenth_of_the_evaluations(tmp_path: Path) -> None:
    (tmp_path / "m").write_text(json.dumps(ROW | {"policy/entropy": 1.0}) + "\n")
    rows = [(k, {"episode_return_mean": float(k % 20)}) for k in range(20)]
    assert outcome(rows, tmp_path / "m", 20)["final"] == 18.5  # of 18 and 19, not the maximum
    assert outcome(rows[:4], tmp_path / "m", 20)["final"] == 3.0


def test_what_is_measured_beside_the_return_is_kept(tmp_path: Path) -> None:
    (tmp_path / "m").write_text(json.dumps(ROW) + "\n")
    found = {"episode_return_mean": 1.0, "truncated_share": 0.5, "reward/a": 2.0}
    rows = [(1, found | {"measure/error": 0.25}), (2, found)]
    assert outcome(rows, tmp_path / "m", 2)["measures"] == {
        "measure/error": [0.25, None],
        "truncated_share": [0.5, 0.5],
    }


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


@pytest.mark.parametrize("shares", [False, True])
def test_seeds_are_those_from_the_first_on(shares: bool, tmp_path: Path) -> None:
    study = Study("s", {"probe:both": TINY}, {"a": {}, "b": {"gamma": 0.9}}, "a", 2, first_seed=50)
    with StudyFolder(tmp_path / "run", study) as folder:
        jobs = reported_jobs(folder, lambda task: shares, {})
    assert {seed for job in jobs for seed in job.seeds} == {50, 51}


RUN = {"final": 1.0, "steps": [1], "returns": [1.0], "diagnostics": {"policy/entropy": [None, 0.5]}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"wall_time_s": None}, ""),
        *(({"wall_time_s": x}, "wall_time_s = ") for x in ("inf", -1.0, "2", True)),
        ({"learning_rate": "inf"}, "learning_rate = inf"),
        ({"runs": {"0": RUN | {"final": "inf"}}}, "a number of seed 0 is not finite"),
        ({"runs": {"0": RUN | {"returns": ["-inf"]}}}, "a number of seed 0 is not finite"),
        ({"runs": {"0": RUN | {"diagnostics": {"a": ["inf"]}}}}, "a number of seed 0 is not"),
        ({"runs": {"0": RUN | {"steps": []}}}, "0 steps and 1 returns of seed 0"),
        ({"runs": {"1": RUN}}, "of seeds .0,."),
        ({"runs": {"0": RUN | {"measures": {"a": [0.5]}}}}, ""),
        ({"runs": {"0": RUN | {"measures": {"a": []}}}}, "0 values of 'a' at 1 steps of seed 0"),
        ({"more": 1}, "'more' is unknown"),
    ],
    ids=str,
)
def test_a_result_is_what_a_job_leaves_or_is_refused(
    change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    module._write(job(), tmp_path, {0: RUN}, {}, wall_time_s=2.0)
    result = json.loads((tmp_path / job().folder / "result.json").read_text())
    check = contextlib.nullcontext() if not says else pytest.raises(ValueError, match=says)
    with check:
        module.check_result(result | change)


def test_a_robot_with_a_preset_is_trained_with_it_and_scored_on_its_own_reward() -> None:
    study, run_dir = plan(parse(["clipping", "--tasks", "Go1JoystickFlatTerrain-v1", "Hopper-v5"]))
    assert study.tasks["Go1JoystickFlatTerrain-v1"] == preset("go1")
    assert study.tasks["Hopper-v5"] == Config()
    assert study.as_it_comes
    assert run_dir == Path("studies/clipping")


def test_arms_can_be_chosen_and_the_baseline_stays() -> None:
    study, _ = plan(parse(["clipping", "--tasks", "Hopper-v5", "--arms", "TRPO"]))
    assert list(study.arms) == ["clip", "TRPO"]


def left(steps: int, arm: str = "a", task: str = "t", seeds: int = 1) -> Job:
    """A job, one of its kind."""
    config = TINY.replace(total_steps=steps)
    return Job(f"{task}/{arm}/{next(_numbers)}", task, arm, config, tuple(range(seeds)), 4, 2)


_numbers = itertools.count()


def done(seconds: float | None, **result: Any) -> dict[str, Any]:
    return {"runs": {}, "errors": {}, "wall_time_s": seconds} | result


def test_progress_tells_scores_failures_and_the_time_left(capsys: pytest.CaptureFixture) -> None:
    progress = Progress(workers=1)
    first, second, third = (job(seeds) for seeds in ((0, 1), (2,), (3,)))
    runs = {"0": {"final": 1.0}, "1": {"final": 2.0}}
    results: dict[Job, Any] = {first: done(60.0, runs=runs), second: None, third: None}
    progress(first, results)
    results[second] = done(None, errors={"2": "[red]diverged:ant:\x1b[2J\nmore"})
    progress(second, results)
    results[third] = done(30.0, runs={"3": {"final": 5.0}})
    progress(third, results)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "[1/3] probe:both, a, seeds 0 to 1: 1.5, about 60 s left",
        "[2/3] probe:both, a, seed 2: 1 failed: [red]diverged:ant:?[2J, about 30 s left",
        "[3/3] probe:both, a, seed 3: 5.0",
    ]


def test_the_time_left_is_by_the_steps_of_jobs_that_are_alike() -> None:
    slow, quick = left(100, task="slow"), left(100, arm="b")
    results: dict[Job, Any] = {slow: done(1000.0), quick: done(1.0)}
    # 10 s a step on the one task, 0.01 s on the other
    assert seconds_left({**results, left(50, arm="c", task="slow"): None}, 1) == 500.0
    assert seconds_left({**results, left(300): None}, 1) == pytest.approx(3.0)
    # an arm that is slower than the others of its task
    assert seconds_left({**results, left(100): done(7.0), left(200): None}, 1) == pytest.approx(14)
    # several seeds in one program, and a task of which none is done: as all are
    assert seconds_left({quick: done(1.0), left(100, seeds=4): None}, 1) == pytest.approx(4.0)
    assert seconds_left({**results, left(100, task="new"): None}, 1) == pytest.approx(500.5)


def test_the_time_left_is_shared_by_workers_but_no_job_is_cut() -> None:
    some = {left(100): done(10.0), **{left(100): None for _ in range(4)}}
    assert seconds_left(some, 2) == pytest.approx(20.0)
    assert seconds_left({left(100): done(10.0), left(500): None, left(100): None}, 2) == 50.0
    assert seconds_left({left(100): done(10.0)}, 2) == 0.0


def test_what_failed_early_says_nothing_of_the_time() -> None:
    failed = {left(100): done(0.1, errors={"0": "diverged"})}
    assert seconds_left({**failed, left(100): None}, 1) == 0.0
    assert seconds_left({**failed, left(100): done(10.0), left(100): None}, 1) == 10.0


def test_what_is_done_again_is_not_counted_as_done_and_both_phases_are(tmp_path: Path) -> None:
    study = Study("s", {"probe:both": TINY}, {"a": {}, "b": {"gamma": 0.9}}, "a", 2, tune_lr=2)
    heard: list[tuple[int, int]] = []

    class Writes(ThisProcess):
        def run(self, jobs: Any, study: Path, should_stop: Any) -> Any:
            for job in jobs:
                if job.folder in broken:
                    write_failure(job, study, "it failed")
                else:
                    runs = dict.fromkeys(job.seeds, RUN)
                    module._write(job, study, runs, {}, wall_time_s=2.0)
                yield job

        def describe(self) -> str:
            return "nobody"

    def progress(job: Job, results: Any) -> None:
        assert results[job]
        heard.append((sum(bool(x) for x in results.values()), len(results)))

    def run(**options: Any) -> None:
        with StudyFolder(tmp_path / "run", study) as folder:
            run_study(
                folder,
                Writes(),
                shares_program=lambda task: False,
                progress=progress,
                should_stop=lambda: False,
                **options,
            )

    broken = ["runs/probe-both/a/seed-1"]
    run()
    # two arms, two learning rates and two seeds to choose on; two arms and two seeds to report
    assert heard == [(k, 12) for k in range(1, 13)]
    heard, broken = [], []
    run()
    assert heard == []
    run(retry_failed=True)
    assert heard == [(12, 12)]


@pytest.mark.parametrize("ending", ["well", "failing again", "killed"])
def test_doing_failed_seeds_again_leaves_the_others_alone(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = job((0, 1, 2))
    module._write(ours, tmp_path, {0: RUN, 2: RUN}, {1: "diverged"})
    for seed in ours.seeds:
        (tmp_path / ours.run_dir(seed)).mkdir()
        (tmp_path / ours.run_dir(seed) / "policy.json").touch()
    trained: list[tuple[int, ...]] = []

    def train(_: Job, study: Path, seeds: tuple[int, ...]) -> dict[int, Any]:
        trained.append(seeds)
        assert not (study / ours.run_dir(1)).exists()
        if ending == "failing again":
            raise UserError("again")
        return {1: RUN | {"final": 5.0}}

    def left() -> Any:
        return json.loads((tmp_path / ours.folder / "result.json").read_text())

    monkeypatch.setattr(module, "_train", train)
    again = Job.from_json(replace(ours, kept=left()["runs"]).to_json())
    assert again == ours
    if ending == "killed":
        write_failure(again, tmp_path, "the worker was killed")
    else:
        module.run_job(again, tmp_path)
        assert trained == [(1,)]
    runs, errors = left()["runs"], left()["errors"]
    assert (runs["0"], runs["2"]) == (RUN, RUN)
    assert (tmp_path / ours.run_dir(0) / "policy.json").exists()
    assert (tmp_path / ours.run_dir(2) / "policy.json").exists()
    if ending == "well":
        assert (runs["1"]["final"], errors) == (5.0, {})
    else:
        assert list(errors) == ["1"]


@pytest.mark.skipif(sys.platform != "linux", reason="cores are claimed on Linux")
@pytest.mark.parametrize("cores", [{0}, {0, 1}, {0, 3, 5}])
def test_workers_of_all_studies_share_the_cores_evenly(
    cores: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: cores)
    monkeypatch.setattr("os.sched_setaffinity", lambda _, core: chosen.extend(core))
    claims = [claim_core() for _ in range(3 * len(cores))]
    assert {core: chosen.count(core) for core in cores} == dict.fromkeys(cores, 3)
    assert set(chosen[: len(cores)]) == cores
    # whoever comes after one that has ended takes its core
    claim = claims[1]
    assert claim is not None
    claim.release()
    again = claim_core()
    assert chosen[-1] == chosen[1]
    assert again is not None
