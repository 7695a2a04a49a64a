"""Evaluation while it trains: no number of the training moves, the best policy stays, a goal ends the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import PROBE, TINY, Recorder, extended, metrics_of
from tests.training.helpers import After, bytes_of

import surefoot
from surefoot import api
from surefoot.cli.main import main
from surefoot.config import Config
from surefoot.envs import ActionSpec, JaxEnvironment, SingleEnvironment, SingleStep
from surefoot.errors import UserError
from surefoot.services import evaluation
from surefoot.services.best import BestPolicy, score
from surefoot.services.evaluation import Evaluation
from surefoot.training import evaluate, evaluation_stream, to_key

OPTIONS: dict[str, Any] = {"config": TINY, "checkpoint_every": 100, "progress": False}
EVALUATED = OPTIONS | {"eval_every": 100, "eval_episodes": 6}


class Near(SingleEnvironment):
    """Reward for an action near what is seen; an episode is three steps, and its return no round number."""

    name, info = "near", ("success",)
    observations = {"observation": 1}
    action = ActionSpec("continuous", (1,), low=(-1.0,), high=(1.0,), shape=(1,))

    def reset(self, key: jax.Array) -> tuple[Any, Any]:
        seen = jax.random.normal(key, (1,))
        return (jnp.int32(0), seen), seen

    def step(self, state: Any, action: jax.Array, key: jax.Array) -> tuple[Any, SingleStep]:
        time, seen = state
        off = jnp.abs(action - seen)[0]
        after = (time + 1, jax.random.normal(key, (1,)))
        ended = time >= 2
        info = {"success": (off < 1.0).astype(jnp.float32)}
        return after, SingleStep(after[1], -off, ended, jnp.bool_(False), info)


def evaluations(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "eval/episode_return" in row]


def bests(run: Path) -> list[Path]:
    return sorted((run / "best").glob("step-*"))


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def learned(run: Path) -> list[bytes]:
    """Every number that was trained, at the end and at every checkpoint."""
    found = [*run.rglob("trainer.safetensors"), *run.rglob("rng.safetensors")]
    found += [run / "policy.safetensors", *run.rglob("environments.safetensors")]
    return [file.read_bytes() for file in sorted(found) if "best" not in file.parts]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was evaluated and left alone."""
    run = tmp_path_factory.mktemp("evaluated") / "run"
    return surefoot.train(Near, run_dir=run, **EVALUATED).run_dir


# --- the training is the same


@pytest.mark.extended
@pytest.mark.parametrize(
    "options",
    [
        {},
        extended({"overlap": "off"}),
        extended({"overlap": "full", "max_lag": 2}),
        extended({"task": "gymnasium:CartPole-v1"}),
        extended({"task": "gymnasium:CartPole-v1", "env_workers": 2}),
        extended({"task": "CartPole-v1"}),
        extended({"task": "CartPole-v1", "exact_resume": "on"}),
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "as it comes",
)
def test_what_is_learned_is_the_same_with_and_without_evaluations(
    options: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    task = options.pop("task", Near)
    with_it = whole
    if options or task is not Near:
        run = tmp_path / "with"
        with_it = surefoot.train(task, run_dir=run, **EVALUATED | options).run_dir
    without = surefoot.train(task, run_dir=tmp_path / "run", **OPTIONS | options).run_dir
    assert learned(with_it) == learned(without)
    rows = metrics_of(with_it)
    plain = [{k: v for k, v in row.items() if not k.startswith("eval/")} for row in rows]
    assert plain == metrics_of(without) != rows
    assert len(evaluations(with_it)) == 3


@pytest.mark.extended
def test_seeds_side_by_side_learn_the_same_with_and_without_evaluations(tmp_path: Path) -> None:
    options = {"num_seeds": 2, "total_steps": 2_600, "checkpoint_every": 800, "eval_every": 500}
    surefoot.train_seeds(Near, run_dir=tmp_path / "with", **OPTIONS | options)
    surefoot.train_seeds(
        Near, run_dir=tmp_path / "without", **OPTIONS | options | {"eval_every": None}
    )
    for seed in ("seed-0", "seed-1"):
        assert learned(tmp_path / "with" / seed) == learned(tmp_path / "without" / seed)
        assert len(evaluations(tmp_path / "with" / seed)) == 5
        assert api.best_folder(tmp_path / "with" / seed).parent.name == "best"


@pytest.mark.parametrize("option", ["stop_at_return", "stop_at_success"])
def test_seeds_side_by_side_have_no_goal(option: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{option} = 0.5 with num_seeds = 2: seeds that share"):
        surefoot.train_seeds(PROBE, num_seeds=2, run_dir=tmp_path, **EVALUATED | {option: 0.5})
    assert not list(tmp_path.iterdir())


# --- what is measured


def test_an_evaluation_is_what_the_policy_of_that_step_is_worth_when_it_does_not_explore(
    whole: Path,
) -> None:
    rows = evaluations(whole)
    assert [row["step"] // 100 for row in rows] == [1, 2, 3]
    for row in rows:
        folder = whole / "checkpoints" / f"step-{row['step']:012d}"
        policy = surefoot.load_policy(folder).policy
        key = to_key(evaluation_stream(TINY.seed, row["step"]))
        found = evaluate(policy, JaxEnvironment(Near(), 6), 6, key=key)
        assert row["eval/episode_return"] == found["episode_return_mean"]
        assert row["eval/success_rate"] == found["success_rate"]
        assert row["eval/episodes"] == 6
        assert row["time/evaluation_s"] < row["wall_time_s"]
    assert len({row["eval/episode_return"] for row in rows}) == 3


def test_evaluations_have_random_streams_of_their_own() -> None:
    streams = [evaluation_stream(seed, step) for seed in (0, 1) for step in (0, 100, 200)]
    streams += [*np.random.SeedSequence(0).spawn(6), np.random.SeedSequence(0, spawn_key=(5, 100))]
    assert len({stream.generate_state(2).tobytes() for stream in streams}) == len(streams)


def test_an_evaluation_that_fails_is_said_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any, **__: Any) -> Any:
        raise UserError("an episode has gone on for 100,250 steps")

    monkeypatch.setattr(evaluation, "evaluate", breaks)
    heard = Recorder()
    result = surefoot.train(PROBE, run_dir=tmp_path / "run", hooks=[heard], **EVALUATED)
    assert result.finished
    failed = [note for note in heard.notes if "failed, training goes on: an episode has" in note]
    assert len(failed) == 3
    assert not evaluations(result.run_dir)


@pytest.mark.parametrize("option", [{"best_by": "success"}, {"stop_at_success": 0.5}])
def test_success_is_asked_only_of_tasks_that_tell_of_it(option: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tells of no success; judge by its return"):
        surefoot.train(PROBE, run_dir=tmp_path / "run", **EVALUATED | option)
    assert not (tmp_path / "run").exists()


def test_environments_that_were_made_already_are_not_evaluated_on(tmp_path: Path) -> None:
    env = JaxEnvironment(Near(), TINY.num_envs)
    with pytest.raises(UserError, match="near was made already, and evaluations have environments"):
        surefoot.train(env, run_dir=tmp_path / "run", **EVALUATED)


@pytest.mark.extended
@pytest.mark.parametrize("exact", ["on", "off"])
def test_environments_of_evaluations_are_closed(
    tmp_path: Path, exact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gymnasium

    alive: set[int] = set()

    class Counted(gymnasium.Wrapper):
        def __init__(self) -> None:
            super().__init__(gymnasium.make("CartPole-v1"))
            alive.add(id(self))

        def close(self) -> None:
            super().close()
            alive.remove(id(self))

    surefoot.train(Counted, run_dir=tmp_path / "run", exact_resume=exact, **EVALUATED)
    assert not alive


@pytest.mark.extended
def test_evaluations_read_observations_as_the_networks_know_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.envs.test_origins import Far  # whose episodes begin elsewhere each time it is made

    seen: list[Any] = []

    def worth(policy: Any, env: Any, *_: Any, **__: Any) -> dict[str, float]:
        seen.append(env.spec.observations)
        return {"episode_return_mean": 0.0}

    monkeypatch.setattr(evaluation, "evaluate", worth)
    run = surefoot.train(
        Far, run_dir=tmp_path / "run", **EVALUATED | {"exact_resume": "on"}
    ).run_dir
    known = surefoot.load_policy(run).observations
    assert known["observation"].origin is not None
    assert seen == [known] * 3


# --- the best policy


def of_return(value: float | None, success: float | None = None) -> dict[str, Any]:
    return {"eval/episode_return": value, "eval/success_rate": success}


def test_policies_are_compared_by_return_or_by_success_and_then_by_return() -> None:
    by_return, by_success = Config(), Config(eval_every=1, best_by="success")
    assert score(of_return(2.0, 0.1), by_return) > score(of_return(1.0, 0.9), by_return)
    assert score(of_return(2.0, 0.1), by_success) < score(of_return(1.0, 0.9), by_success)
    assert score(of_return(2.0, 0.5), by_success) > score(of_return(1.0, 0.5), by_success)
    assert score(of_return(2.0), by_success) < score(of_return(-9.0, 0.0), by_success)


def best_after(whole: Path, to: Path, returns: list[float | None]) -> list[int]:
    """The steps of the policies that are kept after evaluations at steps 1, 2, ..."""
    policy = surefoot.load_policy(whole).policy
    said: list[str] = []
    run = SimpleNamespace(config=TINY, task="near", policy=lambda _: policy, log=said.append)
    to.mkdir(exist_ok=True)
    hook = BestPolicy(to)
    hook.on_start(run)  # type: ignore[arg-type]
    for step, value in enumerate(returns, 1):
        state: Any = SimpleNamespace(step=step)
        hook.on_iteration(state, {} if value is None else of_return(value))
    assert not said
    return [int(path.name[5:]) for path in bests(to)]


def test_a_policy_takes_the_place_of_a_worse_one_alone(whole: Path, tmp_path: Path) -> None:
    assert best_after(whole, tmp_path / "a", [1.0, 3.0, None, 2.0, 3.0]) == [2]
    (tmp_path / "b" / "checkpoints" / "step-000000000002").mkdir(parents=True)
    (tmp_path / "b" / "checkpoints" / "step-000000000004").mkdir()
    # at the first checkpoint the best is of step 1, at the second of step 3, now of step 5
    assert best_after(whole, tmp_path / "b", [1.0, 0.0, 2.0, 1.0, 5.0, 4.0]) == [1, 3, 5]


def test_a_run_that_goes_on_knows_what_was_the_best(whole: Path, tmp_path: Path) -> None:
    assert best_after(whole, tmp_path, [0.0, 7.0]) == [2]
    assert best_after(whole, tmp_path, [None, None, 6.0]) == [2]
    assert best_after(whole, tmp_path, [None, None, None, 8.0]) == [4]


def test_the_best_policy_is_played_and_is_not_the_last(whole: Path, capsys: Any) -> None:
    rows = evaluations(whole)
    best = max(rows, key=lambda row: row["eval/episode_return"])
    folder = api.best_folder(whole)
    assert folder == whole / "best" / f"step-{best['step']:012d}"
    assert json.loads((folder / "evaluation.json").read_text()) == {
        name: value for name, value in best.items() if name == "step" or name.startswith("eval/")
    }
    numbers = {"episodes": 4, "num_envs": 2, "task": Near}
    assert surefoot.evaluate(whole, best=True, **numbers) == surefoot.evaluate(folder, **numbers)
    if best is not rows[-1]:
        assert surefoot.evaluate(whole, best=True, **numbers) != surefoot.evaluate(whole, **numbers)


def test_of_a_run_without_evaluations_the_best_is_the_checkpoint_with_the_best_episodes(
    tmp_path: Path, capsys: Any
) -> None:
    run = surefoot.train(PROBE, run_dir=tmp_path / "run", **OPTIONS).run_dir
    manifests = sorted(run.glob("checkpoints/*/manifest.json"))
    step = json.loads(manifests[-1].read_text())["best"]["step"]
    assert api.best_folder(run) == run / "checkpoints" / f"step-{step:012d}"
    assert main(["eval", str(run), "--best", "--episodes", "3", "--num-envs", "3", "--json"]) == 0
    out = capsys.readouterr()
    assert json.loads(out.out)["episodes"] == 3
    assert out.err == ""  # no progress where nobody looks
    shutil.rmtree(run / "checkpoints")
    assert main(["eval", str(run), "--best"]) == 2
    assert "has no best policy: none was evaluated (--eval-every)" in capsys.readouterr().err


def test_a_best_policy_whose_worth_cannot_be_read_is_passed_over(
    whole: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    *others, newest = bests(run)
    for other in others:
        shutil.rmtree(other)
    (newest / "evaluation.json").write_text("{")
    older = shutil.copytree(newest, newest.with_name("step-000000000007"))
    (older / "evaluation.json").write_text('{"step": 7, "eval/episode_return": -9.5}')
    assert api.best_folder(run) == older
    said: list[str] = []
    BestPolicy(run).on_start(SimpleNamespace(config=TINY, log=said.append))  # type: ignore[arg-type]
    assert len(said) == 1
    assert "it counts no longer as the best policy" in said[0]


# --- going on


def cut_off(run: Path, to: Path, step: int) -> Path:
    """The run as a kill some time behind its checkpoint at `step` would have left it."""
    shutil.copytree(run, to)
    for path in to.glob("checkpoints/step-*"):
        if int(path.name[5:]) > step:
            shutil.rmtree(path)
    for name in ("policy.json", "policy.safetensors"):
        (to / name).unlink()
    return to


@pytest.mark.parametrize("task", [Near, extended("gymnasium:CartPole-v1")])
def test_a_run_that_goes_on_has_the_same_evaluations_and_the_same_best_policy(
    task: Any, whole: Path, tmp_path: Path
) -> None:
    if task is not Near:
        whole = surefoot.train(task, run_dir=tmp_path / "whole", **EVALUATED).run_dir
    middle = sorted(whole.glob("checkpoints/step-*"))[0]
    half = cut_off(whole, tmp_path / "half", int(middle.name[5:]))
    assert api.resume(half, task=task, progress=False).finished
    assert metrics_of(half) == metrics_of(whole)
    assert files(half / "best") == files(whole / "best")
    assert learned(half) == learned(whole)


@pytest.fixture
def rising(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations that come to the step they are of."""
    found = lambda self, run, state: {"episode_return_mean": float(state.step)}  # noqa: E731
    monkeypatch.setattr(Evaluation, "_evaluate", found)


@pytest.mark.extended
@pytest.mark.usefixtures("rising")
@pytest.mark.parametrize("overlap", ["exact", "full"])
def test_a_goal_ends_the_run_with_the_policy_that_reached_it(overlap: Any, tmp_path: Path) -> None:
    options = EVALUATED | {"total_steps": 900, "eval_every": 60, "overlap": overlap}
    heard = Recorder()
    result = surefoot.train(
        PROBE, run_dir=tmp_path / "run", hooks=[heard], stop_at_return=350, **options
    )
    run = result.run_dir
    at = heard.rows[-1]["step"]
    assert [row["step"] for row in heard.rows if row["step"] >= 350] == [at] == [result.step]
    assert not result.finished
    assert result.reached.endswith(f"at step {at:,} reached return {at} (--stop-at-return 350)")
    assert f"{result.reached}: training ends" in heard.notes
    assert api.best_folder(run).name == f"step-{at:012d}"
    assert (api.best_folder(run) / "policy.safetensors").read_bytes() == (
        run / "policy.safetensors"
    ).read_bytes()

    # cut off before, it ends at the same step with the same bytes
    checkpoints = sorted(run.glob("checkpoints/step-*"))
    half = cut_off(run, tmp_path / "half", int(checkpoints[0].name[5:]))
    assert api.resume(half, progress=False).reached == result.reached
    assert metrics_of(half) == metrics_of(run)
    assert learned(half) == learned(run)

    # cut off behind the checkpoint at which it ended, it has ended
    assert int(checkpoints[-1].name[5:]) == at
    ended = cut_off(run, tmp_path / "ended", at)
    with pytest.raises(UserError, match=f"has ended: the evaluation at step {at:,} reached"):
        api.resume(ended, progress=False)
    more = api.resume(ended, stop_at_return=None, total_steps=at + 60, progress=False)
    assert more.finished
    assert not more.reached


@pytest.mark.parametrize(
    ("goals", "found", "ends"),
    [
        ({"stop_at_return": 2.0}, of_return(2.0), True),
        ({"stop_at_return": 2.0}, of_return(1.999), False),
        ({"stop_at_return": 2.0}, {}, False),
        ({"stop_at_success": 0.5}, of_return(9.0, 0.5), True),
        ({"stop_at_success": 0.5}, of_return(9.0), False),
        ({"stop_at_return": 2.0, "stop_at_success": 0.5}, of_return(3.0, 0.4), False),
        ({"stop_at_return": 2.0, "stop_at_success": 0.5}, of_return(3.0, 0.6), True),
        ({}, of_return(3.0, 0.6), False),
    ],
)
def test_a_goal_is_reached_when_every_one_that_was_set_is(
    goals: Any, found: dict[str, Any], ends: bool
) -> None:
    words = evaluation.reached({"step": 1_000} | found, Config(eval_every=1, **goals))
    assert bool(words) == ends
    assert all(f"--{name.replace('_', '-')}" in words for name in goals) or not ends


@pytest.mark.usefixtures("rising")
def test_the_command_says_that_a_goal_was_reached_and_all_is_well(
    tmp_path: Path, capsys: Any
) -> None:
    from tests.helpers import flags

    words = ["--eval-every", "60", "--stop-at-return", "100", "--run-dir", str(tmp_path / "run")]
    assert main(["train", PROBE, *flags(), *words]) == 0
    said = capsys.readouterr().out
    assert "reached return" in said
    assert "Ended early: the evaluation at step" in said
    assert "To go on" not in said


def test_a_run_stopped_by_hand_reached_nothing(tmp_path: Path) -> None:
    result = surefoot.train(
        PROBE, run_dir=tmp_path / "run", should_stop=After(1), stop_at_return=1e9, **EVALUATED
    )
    assert not result.finished
    assert result.reached == ""
    assert bytes_of(result.policy.policy)
