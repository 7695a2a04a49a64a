"""What is interrupted goes on, with the same bytes where that can be; what is damaged is not used."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tests.helpers import PROBE, TINY, Recorder, extended, flags, metrics_of
from tests.training.helpers import After, bytes_of, in_turn

import surefoot
from surefoot import api
from surefoot.cli.main import main
from surefoot.envs import (
    ActionSpec,
    Environment,
    EnvSpec,
    ObservationSpec,
    Step,
    make_environment,
    source,
)
from surefoot.errors import UserError
from surefoot.services import checkpoints, policy_file
from surefoot.services.checkpoints import find_checkpoint, read_checkpoint
from surefoot.services.run_folder import RunFolder, read_config
from surefoot.services.step_folders import by_step
from surefoot.training import Hook, Trainer

OPTIONS: dict[str, Any] = {
    "config": TINY,
    "total_steps": 600,
    "checkpoint_every": 100,
    "keep_checkpoints": 1000,
    "exact_resume": "on",
    "progress": False,
}
# what cannot give its state away; unlike EnvPool's, whose programs are compiled for each new pool
HOSTED = "gymnasium:CartPole-v1"


def steps(run: Path) -> list[int]:
    return sorted(int(p.name[5:]) for p in (run / "checkpoints").glob("step-*"))


def interrupted_at(run: Path, to: Path, step: int) -> Path:
    """The run as a kill behind its checkpoint at `step` would have left it."""
    shutil.copytree(run, to)
    for later in steps(run):
        if later > step:
            shutil.rmtree(to / "checkpoints" / f"step-{later:012d}")
    for name in ("policy.json", "policy.safetensors"):
        (to / name).unlink()
    lines = (to / "metrics.jsonl").read_text().splitlines(keepends=True)
    done = [line for line in lines if json.loads(line)["step"] <= step + 100]
    (to / "metrics.jsonl").write_text(
        "".join(done) + '{"step": 9'
    )  # killed in the middle of a line
    return to


def assert_same(run: Path, other: Path) -> None:
    assert metrics_of(run) == metrics_of(other)
    last = f"checkpoints/step-{steps(run)[-1]:012d}/"
    names = ["policy.safetensors", "trainer.safetensors", "rng.safetensors"]
    if (run / last / "environments.safetensors").exists():
        names.append("environments.safetensors")
    for name in ["policy.safetensors", *(last + name for name in names)]:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was left alone."""
    return surefoot.train(PROBE, run_dir=tmp_path_factory.mktemp("r") / "whole", **OPTIONS).run_dir


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on simulators that cannot be saved."""
    return surefoot.train(HOSTED, run_dir=tmp_path_factory.mktemp("r") / "whole", **OPTIONS).run_dir


@pytest.mark.parametrize(
    "options",
    [
        {"task": PROBE},
        extended({"task": PROBE, "overlap": "full", "max_lag": 2}),
        extended({"task": "gymnasium:CartPole-v1"}),
        extended({"task": PROBE, "overlap": "off"}),
        extended({"task": PROBE, "overlap": "full", "max_lag": 1, "measure_held_out_kl": True}),
        extended({"task": PROBE, "shared_trunk": True}),
        extended({"task": PROBE, "learning_rate_schedule": "kl_adaptive"}),
        extended({"task": PROBE, "surrogate": "kl_penalty", "recompute_advantages": False}),
        extended({"task": PROBE, "algorithm": "trpo"}),
        extended({"task": PROBE, "noise_color": 0.5}),
        extended({"task": PROBE, "gsde": True, "normalize_values": True}),
        extended({"task": "CartPole-v1", "total_steps": 200}),
        extended({"task": "CartPole-v1", "overlap": "full"}),
        extended({"task": "gymnax:CartPole-v1"}),
    ],
    ids=lambda options: "-".join(str(v) for v in options.values()),
)
def test_a_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, options: dict) -> None:
    whole = surefoot.train(run_dir=tmp_path / "whole", **OPTIONS | options).run_dir
    middle = steps(whole)[(len(steps(whole)) - 1) // 2]
    half = interrupted_at(whole, tmp_path / "half", middle)
    result = api.resume(half, progress=False)
    assert result.finished
    assert_same(whole, half)
    resumed = json.loads((half / "meta.json").read_text())["resumed"]
    assert resumed[0]["from_step"] == middle
    assert "exact" in resumed[0]["words"][0]


def said(heard: Recorder) -> list[str]:
    """What was told; the health of so short a run is another matter."""
    return [text for text in heard.notes if not text.startswith("iteration ")]


@pytest.mark.extended
def test_going_on_twice_is_the_same_too(hosted: Path, tmp_path: Path) -> None:
    run = interrupted_at(hosted, tmp_path / "run", steps(hosted)[1])
    first = api.resume(run, progress=False, should_stop=After(2))
    assert not first.finished
    api.resume(run, progress=False)
    assert_same(hosted, run)


@pytest.fixture(scope="module")
def inexact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `hosted`, its environments going on over its checkpoints."""
    run = tmp_path_factory.mktemp("r") / "whole"
    return surefoot.train(HOSTED, run_dir=run, **OPTIONS | {"exact_resume": "off"}).run_dir


@pytest.mark.extended
def test_environments_that_began_anew_are_not_those_of_the_start(
    hosted: Path, inexact: Path
) -> None:
    ours, theirs = metrics_of(hosted), metrics_of(inexact)
    border = next(i for i, row in enumerate(ours) if row["step"] >= 100)
    assert ours[: border + 1] == theirs[: border + 1]
    assert ours[border + 1] != theirs[border + 1]
    assert not find_checkpoint(inexact)[0].exact


def test_without_exactness_it_says_so_and_goes_on(inexact: Path, tmp_path: Path) -> None:
    half = interrupted_at(inexact, tmp_path / "half", steps(inexact)[1])
    api.resume(half, progress=False)
    words = json.loads((half / "meta.json").read_text())["resumed"][0]["words"]
    assert "statistically equal, not exact (its simulators could not be saved" in words[0]
    assert metrics_of(half)[-1]["step"] >= 600


class Push(gymnasium.Env):
    """A point that is pushed; what it costs to make one is nothing that anyone can know."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    pause = 0.0

    def __init__(self) -> None:
        time.sleep(self.pause)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place, self.time = self.np_random.uniform(-1.0, 1.0, 1).astype(np.float32), 0
        return self.place, {}

    def step(self, action: Any) -> Any:
        self.time += 1
        time.sleep(self.pause if self.time == 5 else 0.0)
        self.place = self.place + 0.1 * action
        return self.place, -float(abs(self.place[0])), False, self.time == 9, {}


class Pause(Hook):
    """Takes its time after an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_iteration(self, state: Any, metrics: Any) -> None:
        time.sleep(0.2 if state.iteration == self.iteration else 0.0)


def bytes_left(run: Path) -> dict[str, bytes]:
    """All that a run leaves of what it learned, and of where it was at each checkpoint."""
    left = {"metrics": json.dumps(metrics_of(run)).encode()}
    for file in sorted(run.rglob("*")):
        name = str(file.relative_to(run))
        if file.suffix in (".safetensors", ".toml") or file.name == "policy.json":
            left[name] = file.read_bytes()
        if file.name == "manifest.json":
            manifest = json.loads(file.read_text())
            assert manifest.pop("wall_time_s") > 0.0
            left[name] = json.dumps(manifest).encode()
    return left


@pytest.mark.extended
@pytest.mark.parametrize(
    ("task", "exact_resume", "environments"),
    [
        (HOSTED, "auto", "anew"),  # Gymnasium's own are known to be cheap to make
        (Push, "auto", "left"),
        (Push, "on", "anew"),
        (PROBE, "auto", "saved"),
    ],
)
def test_the_same_command_leaves_the_same_bytes_however_long_something_takes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: Any,
    exact_resume: str,
    environments: str,
) -> None:
    options = OPTIONS | {"exact_resume": exact_resume, "total_steps": 250}
    heard = Recorder()
    quick = surefoot.train(task, run_dir=tmp_path / "quick", hooks=[heard], **options).run_dir
    monkeypatch.setattr(Push, "pause", 0.01)
    # before the first checkpoint and between two of them
    hooks = [Pause(1), Pause(4)]
    slow = surefoot.train(task, run_dir=tmp_path / "slow", hooks=hooks, **options).run_dir
    assert len(steps(quick)) == 3
    assert bytes_left(slow) == bytes_left(quick)
    first = read_checkpoint(quick / "checkpoints" / f"step-{steps(quick)[0]:012d}")
    assert (first.environments, first.exact) == (environments, environments != "left")
    assert said(heard) == []  # there is nothing to be decided, and so nothing to be told


@pytest.mark.extended
def test_auto_is_on_where_environments_are_cheap_to_make_and_off_elsewhere(
    hosted: Path, tmp_path: Path
) -> None:
    auto = OPTIONS | {"exact_resume": "auto"}
    cheap = surefoot.train(HOSTED, run_dir=tmp_path / "a", **auto).run_dir
    assert metrics_of(cheap) == metrics_of(hosted)
    half = interrupted_at(cheap, tmp_path / "b", steps(cheap)[1])
    heard = Recorder()
    api.resume(half, progress=False, hooks=[heard])
    assert_same(cheap, half)
    assert said(heard) == []


def test_environments_that_were_made_already_cannot_be_made_anew(tmp_path: Path) -> None:
    env = make_environment("CartPole-v1", 4, seed=np.random.SeedSequence(0))
    try:
        with pytest.raises(ValueError, match="exact_resume = 'on': CartPole-v1 was made already"):
            surefoot.train(env, run_dir=tmp_path / "run", **OPTIONS)
    finally:
        env.close()


@pytest.mark.extended
def test_a_run_that_was_stopped_goes_on_from_there(whole: Path, tmp_path: Path) -> None:
    stopped = surefoot.train(PROBE, run_dir=tmp_path / "run", should_stop=After(3), **OPTIONS)
    assert not stopped.finished
    assert steps(stopped.run_dir)[-1] == metrics_of(stopped.run_dir)[-1]["step"]
    api.resume(stopped.run_dir, progress=False)
    assert_same(whole, stopped.run_dir)


@pytest.mark.extended
def test_where_exactness_was_asked_for_it_goes_back_to_where_it_holds(
    hosted: Path, tmp_path: Path
) -> None:
    kept = steps(hosted)
    stop = After(next(x["iteration"] for x in metrics_of(hosted)[4:] if x["step"] not in kept))
    run = surefoot.train(HOSTED, run_dir=tmp_path / "run", should_stop=stop, **OPTIONS)
    newest = read_checkpoint(run.run_dir / "checkpoints" / f"step-{steps(run.run_dir)[-1]:012d}")
    assert newest.environments == "left"
    heard = Recorder()
    api.resume(run.run_dir, progress=False, hooks=[heard])
    assert_same(hosted, run.run_dir)
    (aside,) = (run.run_dir / "replaced").iterdir()
    assert said(heard) == [f"of later steps: 1 checkpoint(s) and the policy, in {aside} now"]
    assert steps(aside) == [newest.step]
    assert metrics_of(aside)[-1]["step"] == newest.step
    assert surefoot.evaluate(aside, episodes=2)["episodes"] == 2


def test_a_run_without_a_checkpoint_begins_at_its_start(hosted: Path, tmp_path: Path) -> None:
    run = interrupted_at(hosted, tmp_path / "run", 0)
    shutil.rmtree(run / "checkpoints")
    api.resume(run, progress=False)
    assert_same(hosted, run)
    words = json.loads((run / "meta.json").read_text())["resumed"][0]["words"]
    assert "beginning at the start" in words[0]


def test_a_finished_run_asks_for_more_steps(whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    done = steps(run)[-1]
    with pytest.raises(
        UserError, match=f"finished its {done:,} steps; .* --total-steps {2 * done}"
    ):
        api.resume(run, progress=False)
    result = api.resume(run, total_steps=900, progress=False)
    assert result.step >= 900
    assert read_config(run)[1].total_steps == 900
    words = json.loads((run / "meta.json").read_text())["resumed"][0]["words"]
    assert "its learning rate now anneals over 900 steps" in words[0]
    assert [row["iteration"] for row in metrics_of(run)] == list(range(1, len(metrics_of(run)) + 1))


@pytest.mark.extended
def test_more_steps_at_a_constant_rate_are_those_of_a_longer_run(tmp_path: Path) -> None:
    options = OPTIONS | {"learning_rate_schedule": "constant"}
    longer = surefoot.train(PROBE, run_dir=tmp_path / "a", **options | {"total_steps": 900}).run_dir
    run = surefoot.train(PROBE, run_dir=tmp_path / "b", **options).run_dir
    api.resume(run, total_steps=900, progress=False)
    assert metrics_of(longer) == metrics_of(run)


def test_an_older_checkpoint_can_be_chosen(whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    before, at = metrics_of(run), steps(run)[1]
    api.resume(run, from_step=at, progress=False)
    assert metrics_of(run) == before
    assert steps(run / "replaced" / f"after-{at}") == steps(run)[2:]
    with pytest.raises(UserError, match=rf"no checkpoint at step 7 \(it has {steps(run)[-1]}, "):
        api.resume(run, from_step=7, progress=False)


@pytest.fixture
def stopped(whole: Path, tmp_path: Path) -> Path:
    """A run that ended early."""
    return interrupted_at(whole, tmp_path / "stopped", steps(whole)[1])


def test_time_goes_on_where_it_stopped(stopped: Path) -> None:
    run = stopped
    api.resume(run, progress=False)
    walls = [json.loads(x)["wall_time_s"] for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert walls == sorted(walls)


def test_another_machine_or_option_is_named_and_not_called_exact(stopped: Path) -> None:
    run = stopped
    manifest = run / "checkpoints" / f"step-{steps(run)[-1]:012d}" / "manifest.json"
    found = json.loads(manifest.read_text())
    found["machine"]["versions"]["jax"] = "0.1"
    found["machine"]["cores"] = 77
    manifest.write_text(json.dumps(found))
    config = run / "config.toml"
    config.write_text(config.read_text().replace("gamma = 0.99", "gamma = 0.9"))
    api.resume(run, progress=False)
    words = json.loads((run / "meta.json").read_text())["resumed"][0]["words"][0]
    assert "statistically equal, not exact (" in words
    assert "gamma was 0.99, is 0.9" in words
    assert "cores was 77, is" in words
    assert f"jax was 0.1, is {jax.__version__}" in words


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path) -> None:
    run = surefoot.train(PROBE, run_dir=tmp_path / "run", should_stop=After(3), **OPTIONS).run_dir
    before = metrics_of(run)

    class Other(Hook):
        def on_start(self, run_: Any) -> None:
            with pytest.raises(UserError, match="another process is training in"):
                api.resume(run, progress=False)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.resume(run, progress=False, hooks=[Other()])
    assert metrics_of(run) == before


def test_a_used_folder_is_refused_with_the_way_on(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"go on with it \\(surefoot resume {whole}\\)"):
        RunFolder(whole)
    with pytest.raises(UserError, match="is not a run folder"):
        api.resume(tmp_path, progress=False)


@pytest.mark.extended
def test_seeds_trained_together_go_on_alone(tmp_path: Path) -> None:
    options = OPTIONS | {"total_steps": 3000, "checkpoint_every": 500}
    results = surefoot.train_seeds(PROBE, num_seeds=2, run_dir=tmp_path / "s", **options)
    run = results[1].run_dir
    checkpoint, _ = find_checkpoint(run)
    assert (checkpoint.exact, checkpoint.environments) == (False, "saved")
    result = api.resume(run, total_steps=3300, progress=False)
    assert result.step >= 3300
    words = json.loads((run / "meta.json").read_text())["resumed"][0]["words"][0]
    assert "its seeds were trained side by side" in words


# --- which checkpoints there are


def test_the_newest_the_best_and_the_milestones_are_kept(tmp_path: Path) -> None:
    options = OPTIONS | {"total_steps": 2000, "keep_checkpoints": 2}
    run = surefoot.train(HOSTED, run_dir=tmp_path / "run", **options).run_dir
    found, _ = find_checkpoint(run)
    here = steps(run)
    assert len(found.milestones) == 4
    assert {*found.milestones, found.best.step} <= set(here)
    assert len(here) <= 2 + 4 + 1 + 1
    for quarter, milestone in enumerate(found.milestones, start=1):
        assert quarter * 500 <= milestone < quarter * 500 + 200
    # the best of the means between checkpoints
    means: dict[int, float] = {}
    total = count = border = 0
    for row in metrics_of(run):
        if row["rollout/episodes"]:
            total += row["rollout/episodes"] * row["rollout/episode_return"]
            count += row["rollout/episodes"]
        if row["step"] // 100 > border or row["step"] >= 2000:
            border = row["step"] // 100
            if count:
                means[row["step"]], total, count = total / count, 0, 0
    assert found.best.step == max(means, key=lambda step: means[step])
    assert found.best.episode_return == pytest.approx(max(means.values()))


@pytest.mark.extended
def test_the_best_of_before_the_interruption_stays_the_best(tmp_path: Path) -> None:
    options = OPTIONS | {"keep_checkpoints": 2}
    run = surefoot.train(HOSTED, run_dir=tmp_path / "run", should_stop=After(6), **options)
    manifest = run.run_dir / "checkpoints" / f"step-{steps(run.run_dir)[-1]:012d}" / "manifest.json"
    found = json.loads(manifest.read_text())
    found["best"]["episode_return"] = 1e6  # as good as none will be
    manifest.write_text(json.dumps(found))
    api.resume(run.run_dir, progress=False, from_step=found["step"])
    after, _ = find_checkpoint(run.run_dir)
    assert after.best == checkpoints.Best(found["best"]["step"], 1e6)
    assert found["best"]["step"] in steps(run.run_dir)


def test_the_newest_is_found_by_number_among_junk(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for name in (
        *("step-000000000009", "step-000000000010", "step-1000000000000", "step-11"),
        *(".tmp-77", "step-000000000012.old", "stepxx", "replaced", "step--00000000001"),
    ):
        (folder / name).mkdir(parents=True)
    (folder / "step-000000000099").touch()  # a file
    found = [step for step, _ in by_step(folder)]
    assert found == [1_000_000_000_000, 10, 9]


# --- what is damaged or hostile


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "run"
    return surefoot.train(PROBE, run_dir=folder, should_stop=After(6), **OPTIONS).run_dir


FILES = (
    *("config.toml", "manifest.json", "policy.json", "policy.safetensors"),
    *("trainer.safetensors", "rng.safetensors", "environments.safetensors"),
)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


class Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/surefoot-was-here",)


def hide_pickle(file: Path) -> None:
    file.write_bytes(pickle.dumps(Bomb()))


def zip_bomb(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", b"\0" * 10_000_000)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a flipped bit": flip,
    "a short file": truncate,
    "a missing file": Path.unlink,
    "a pickle": hide_pickle,
    "a zip bomb": zip_bomb,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_what_is_damaged_is_named_and_the_one_before_is_used(
    sound: Path, tmp_path: Path, name: str, damage: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(sound, run)
    newest, before = steps(run)[-1], steps(run)[-2]
    file = run / "checkpoints" / f"step-{newest:012d}" / name
    DAMAGES[damage](file)
    if name == "manifest.json" and damage == "a flipped bit":
        text = file.read_text(encoding="utf-8", errors="replace")
        file.write_text(text.replace('"format"', '"fxrmat"'))
    heard: list[str] = []
    sys.addaudithook(lambda event, _: heard.append(event) if LISTENING else None)
    LISTENING.append(True)
    try:
        found, complaints = find_checkpoint(run)
    finally:
        LISTENING.clear()
    assert found.step == before
    assert len(complaints) == 1
    assert str(file) in complaints[0]
    assert not {"exec", "compile", "os.system", "subprocess.Popen", "pickle.find_class"} & {*heard}


LISTENING: list[bool] = []


def test_going_on_past_a_damaged_checkpoint_says_so(sound: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(sound, run)
    newest, before = steps(run)[-1], steps(run)[-2]
    flip(run / "checkpoints" / f"step-{newest:012d}" / "trainer.safetensors")
    result = api.resume(run, progress=False)
    assert result.finished
    resumed = json.loads((run / "meta.json").read_text())["resumed"][0]
    assert resumed["from_step"] == before
    assert "trainer.safetensors is damaged: its checksum" in resumed["words"][0]


def test_where_all_are_damaged_it_stops_and_nothing_is_begun_anew(
    sound: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(sound, run)
    for step in steps(run):
        truncate(run / "checkpoints" / f"step-{step:012d}" / "policy.json")
    before = {p: p.stat().st_mtime_ns for p in run.rglob("[!.]*")}
    with pytest.raises(UserError, match=r"every checkpoint of .* is damaged: .*policy\.json"):
        api.resume(run, progress=False)
    assert {p: p.stat().st_mtime_ns for p in run.rglob("[!.]*")} == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 3}, "format 3, this version reads 2"),
        ({"step": 10**30}, "no finite number of 64 bits"),
        ({"step": 2**62}, "is not a count"),
        ({"step": True}, "is not a count"),
        ({"step": 5}, "is of step 5, and its folder of another"),
        ({"environments": "gone"}, "environments = 'gone'"),
        ({"files": {"../../secret": {"size": 1, "sha256": ""}}}, "it lists the files"),
        ({"files": {"/etc/passwd": {"size": 1, "sha256": ""}}}, "it lists the files"),
        ({"files": []}, "is damaged"),
        ({"best": [1]}, "is damaged"),
        ({"milestones": 3}, "is damaged"),
        ({"machine": None}, "is damaged"),
        *(({"wall_time_s": x}, "is damaged") for x in ("soon", "1.5", True, -1.0, 1e300)),
        *(({"exact": x}, r"is damaged: .*exact = ") for x in ("false", 1, None)),
        ({"best": {"step": 1, "episode_return": "2.0"}}, "is damaged: .*'2.0' is not a number"),
    ],
)
def test_a_manifest_that_lies_is_refused(
    sound: Path, tmp_path: Path, change: dict, says: str
) -> None:
    path = tmp_path / f"step-{steps(sound)[-1]:012d}"
    shutil.copytree(sound / "checkpoints" / path.name, path)
    manifest = json.loads((path / "manifest.json").read_text()) | change
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=says):
        read_checkpoint(path)


def test_a_checkpoint_of_format_1_is_refused_with_what_to_do(sound: Path, tmp_path: Path) -> None:
    run = shutil.copytree(sound, tmp_path / "run")
    for step in steps(run):
        file = run / "checkpoints" / f"step-{step:012d}" / "manifest.json"
        manifest = json.loads(file.read_text()) | {"format": 1, "anew": None}
        file.write_text(json.dumps(manifest))
    told = (
        f"{file}: format 1, this version reads 2; go on with it in the version of Surefoot that "
        "meta.json names, or train it again (--config config.toml)"
    )
    with pytest.raises(UserError) as error:
        read_checkpoint(file.parent)
    assert str(error.value) == told
    before = {p: p.stat().st_mtime_ns for p in run.rglob("[!.]*")}
    with pytest.raises(UserError, match=r"format 1, this version reads 2; go on with it in the"):
        api.resume(run, progress=False)
    assert {p: p.stat().st_mtime_ns for p in run.rglob("[!.]*")} == before
    assert json.loads((run / "meta.json").read_text())["versions"]["surefoot"]  # there it is


def test_no_manifest_says_any_more_what_was_decided(sound: Path) -> None:
    newest = sound / "checkpoints" / f"step-{steps(sound)[-1]:012d}"
    manifest = json.loads((newest / "manifest.json").read_text())
    assert manifest["format"] == 2
    assert "anew" not in manifest


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(data=st.data())
def test_whatever_a_manifest_says_it_is_read_or_refused(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz" / f"step-{steps(sound)[-1]:012d}"
    if not path.exists():
        shutil.copytree(sound / "checkpoints" / path.name, path)
    manifest = json.loads((sound / "checkpoints" / path.name / "manifest.json").read_text())
    field = data.draw(st.sampled_from(sorted(manifest)))
    if data.draw(st.booleans()):
        manifest[field] = data.draw(JSON)
    else:
        del manifest[field]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with contextlib.suppress(UserError):
        assert read_checkpoint(path).step == steps(sound)[-1]


# --- simulators that count in 64 bits


class Chaos(Environment):
    """A map that doubles every error within two steps; shows bits that float32 does not have."""

    def __init__(self, side: str) -> None:
        self.xp = jnp if side == "graph" else np
        action = ActionSpec("continuous", (1,), low=(-1.0,), high=(1.0,), shape=(1,))
        self.spec = EnvSpec(
            "chaos",
            TINY.num_envs,
            {"observation": ObservationSpec((1,))},
            action,
            in_graph=side == "graph",
            needs_float64=side == "graph",
            saves_state=True,
        )

    def reset(self, key: Any) -> tuple[Any, Step]:
        begun = np.asarray(jax.random.uniform(key, (TINY.num_envs,)), np.float64)
        state = {"place": self.xp.asarray(begun), "ticks": self.xp.array(2**40, "int64")}
        return state, self.observed(state, self.xp.zeros(TINY.num_envs, bool))

    def step(self, env_state: Any, action: Any) -> tuple[Any, Step]:
        place = env_state["place"]
        state = {"place": 3.9 * place * (1.0 - place), "ticks": env_state["ticks"] + 1}
        return state, self.observed(state, self.xp.ones(TINY.num_envs, bool))

    def observed(self, state: Any, valid: Any) -> Step:
        deep = (state["place"] * 2.0**40) % 1.0
        deep = (deep + state["ticks"] % 7).astype("float32")
        no = self.xp.zeros(TINY.num_envs, bool)
        return Step({"observation": deep[:, None]}, deep * valid, no, no, valid, {})


class InGraph(Chaos):
    def __init__(self) -> None:
        super().__init__("graph")


class OnHost(Chaos):
    def __init__(self) -> None:
        super().__init__("host")


@pytest.mark.extended
@pytest.mark.parametrize("task", [InGraph, OnHost])
def test_a_state_in_64_bits_comes_back_bit_for_bit_and_the_run_goes_on_exactly(
    tmp_path: Path, task: Any
) -> None:
    heard = Recorder()
    options = OPTIONS | {"total_steps": 400}
    whole = surefoot.train(task, run_dir=tmp_path / "whole", hooks=[heard], **options).run_dir
    checkpoint, _ = find_checkpoint(whole)
    assert (checkpoint.environments, checkpoint.exact) == ("saved", True)
    stored = load_file(checkpoint.path / "environments.safetensors")
    assert stored["env_state.place"].dtype == np.float64
    assert stored["env_state.ticks"].dtype == np.int64
    # float32 would not hold what is in it
    assert (stored["env_state.place"] != stored["env_state.place"].astype(np.float32)).all()
    config = read_config(whole)[1]
    restored = checkpoint.restore(Trainer(config, task(), in_turn()))
    ours, theirs = restored.collector.env_state, heard.state.collector.env_state
    assert bytes_of(ours) == bytes_of(theirs)
    kind = jax.Array if task is InGraph else np.ndarray
    for name in ("place", "ticks"):
        assert isinstance(ours[name], kind)
        assert ours[name].dtype == theirs[name].dtype
    half = interrupted_at(whole, tmp_path / "half", steps(whole)[1])
    assert api.resume(half, task=task, progress=False).finished
    assert_same(whole, half)


# --- when saving fails


def full_disk(path: Path, tree: Any) -> Any:
    (path / "half" if path.is_dir() else path).write_bytes(b"half of it")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_costs_a_checkpoint_and_nothing_else(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = steps(whole)
    save_arrays, heard = checkpoints.save_arrays, Recorder()

    def sometimes(path: Path, tree: Any) -> Any:
        full = len(list(path.parent.parent.glob("step-*"))) == 2 and not said(heard)
        return (full_disk if full else save_arrays)(path, tree)

    monkeypatch.setattr(checkpoints, "save_arrays", sometimes)
    run = surefoot.train(PROBE, run_dir=tmp_path / "run", hooks=[heard], **OPTIONS).run_dir
    assert_same(whole, run)
    assert steps(run) == [*at[:2], *at[3:]]
    assert said(heard) == [
        f"the checkpoint at step {at[2]:,} could not be written ([Errno 28] No space left on "
        f"device); training goes on, the one at step {at[1]:,} is kept"
    ]
    assert not list((run / "checkpoints").glob(".tmp-*"))


def test_a_state_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    heard = Recorder()
    made = checkpoints.Checkpoints(tmp_path)

    class Poison(Hook):
        def on_start(self, run: Any) -> None:
            made.on_start(run)

        def on_iteration(self, state: Any, metrics: Any) -> None:
            bad = state.normalizer.moments["observation"].mean.at[0].set(jnp.nan)
            moments = {"observation": state.normalizer.moments["observation"]._replace(mean=bad)}
            normalizer = dataclasses.replace(state.normalizer, moments=moments)
            made.on_iteration(state._replace(normalizer=normalizer), metrics)

    options = OPTIONS | {"total_steps": 150}
    surefoot.train(PROBE, run_dir=tmp_path / "run", hooks=[Poison(), heard], **options)
    assert not list((tmp_path / "checkpoints").glob("step-*"))
    assert "a number is not finite, so no checkpoint is made of it" in said(heard)[0]


def test_no_checkpoints_where_none_are_wanted(tmp_path: Path) -> None:
    run = surefoot.train(
        PROBE, run_dir=tmp_path / "run", **OPTIONS | {"checkpoint_every": None}
    ).run_dir
    assert not (run / "checkpoints").exists()


# --- exact is said of nothing else


OWN_TASK = """
import gymnasium
import numpy as np
from reward import reward

class Own(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.np_random.uniform(-1.0, 1.0, 1).astype(np.float32), {}

    def step(self, action):
        self.time += 1
        return np.float32(action), reward(action), False, self.time == 9, {}
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task in files of the user's, and a run on it that was stopped."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_task.py").write_text(OWN_TASK)
    (folder / "reward.py").write_text("def reward(action): return -float(action[0] ** 2)\n")
    options: dict[str, Any] = OPTIONS | {"total_steps": 400}
    surefoot.train(
        f"{folder}/own_task.py:Own", run_dir=folder / "run", should_stop=After(4), **options
    )
    return folder


def as_in_a_new_process() -> None:
    for name in ("own_task", "reward"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    source._as_loaded.cache_clear()


def resumed(run: Path, **options: Any) -> dict[str, Any]:
    """What is on record of a run that was to go on, and was stopped at once."""
    as_in_a_new_process()
    api.resume(run, progress=False, should_stop=lambda: True, **options)
    return json.loads((run / "meta.json").read_text())["resumed"][-1]


@pytest.mark.parametrize("edited", [None, "own_task.py", "reward.py"])
def test_a_task_whose_code_was_edited_is_not_called_exact(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edited: str | None
) -> None:
    folder = shutil.copytree(own, tmp_path / "own")
    monkeypatch.setattr(sys, "path", [x for x in sys.path if x != str(own)])
    if edited:
        text = (folder / edited).read_text()
        (folder / edited).write_text(text.replace("** 2", "** 4") + "# edited\n")
    record = resumed(folder / "run", task=f"{folder}/own_task.py:Own")
    words = record["words"][-1]
    assert ("exact, with the very numbers" in words) == (edited is None)
    assert ("the task's code or model was " in words) == (edited is not None)
    # the same by another name, because the folder is another
    assert record["changed"]["task"] == [f'"{own}/own_task.py:Own"', f'"{folder}/own_task.py:Own"']


def test_another_task_is_named_and_the_first_one_stays_on_record(
    whole: Path, tmp_path: Path
) -> None:
    run = interrupted_at(whole, tmp_path / "run", steps(whole)[1])
    other = "probe:both/continuous"
    record = resumed(run, task=other, total_steps=700)
    assert (
        f"not exact (its learning rate now anneals over 700 steps; task was {PROBE}, is"
        in (record["words"][0])
    )
    assert record["changed"] == {
        "task": [f'"{PROBE}"', f'"{other}"'],
        "total_steps": ["600", "700"],
    }
    assert json.loads((run / "meta.json").read_text())["task"] == PROBE
    assert read_config(run)[0] == other
    # nothing has changed since, and still it is not what it was
    assert f"task was {PROBE}, is {other}" in resumed(run)["words"][0]


@pytest.mark.parametrize(
    ("option", "value", "run_of", "says"),
    [
        ("checkpoint_every", 200, "hosted", "checkpoint_every was 100, is 200"),
        ("checkpoint_every", 200, "whole", None),  # where environments are saved it is the same
        ("keep_checkpoints", 5, "hosted", None),
        ("gamma", 0.5, "whole", "gamma was 0.99, is 0.5"),
    ],
)
def test_an_option_is_named_if_numbers_depend_on_it(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    option: str,
    value: float,
    run_of: str,
    says: str | None,
) -> None:
    whole = request.getfixturevalue(run_of)
    run = interrupted_at(whole, tmp_path / "run", steps(whole)[1])
    config = run / "config.toml"
    before = getattr(read_config(run)[1], option)
    config.write_text(config.read_text().replace(f"{option} = {before}", f"{option} = {value}"))
    record = resumed(run)
    assert ("exact, with the very numbers" in record["words"][0]) == (says is None)
    assert says is None or says in record["words"][0]
    assert record["changed"] == {option: [str(before), str(value)]}


# --- when the policy cannot be written


@pytest.mark.extended
def test_a_policy_that_cannot_be_written_is_handed_over_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(policy_file, "save_policy", lambda folder, *_, **__: full_disk(folder, 0))
    heard = Recorder()
    options: dict[str, Any] = OPTIONS | {"checkpoint_every": None, "total_steps": 100}
    result = surefoot.train(PROBE, run_dir=tmp_path / "run", hooks=[heard], **options)
    assert result.finished
    assert result.policy(np.zeros(1, np.float32)).shape == (1,)
    assert any("the policy could not be written to" in text for text in said(heard))
    words = flags(TINY.replace(total_steps=100))
    assert main(["train", PROBE, *words, "--run-dir", str(tmp_path / "other")]) == 1
    assert "the policy could not be written" in capsys.readouterr().out


# --- processes that are ended


def command(*words: str, folder: Path) -> subprocess.Popen:
    call = [sys.executable, "-m", "surefoot", *words]
    return subprocess.Popen(
        call, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


LONG = ("CartPole-v1", "--total-steps", "40000", "--checkpoint-every", "5000")
LONG += ("--exact-resume", "on", "--run-dir", "run", "--num-epochs", "2")


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


@pytest.mark.extended
def test_killed_at_any_moment_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    whole = command("train", *LONG[:-4], "--run-dir", "whole", *LONG[-2:], folder=tmp_path)
    assert "Trained" in whole.communicate()[0]
    run = tmp_path / "b" / "run"
    process = command("train", *LONG, folder=tmp_path / "b")
    wait_for(lambda: len(steps(run)) >= 1, process)
    process.kill()
    process.communicate()
    process = command("resume", "run", folder=tmp_path / "b")
    wait_for(lambda: len(steps(run)) >= 4, process)
    process.kill()
    process.communicate()
    process = command("resume", "run", folder=tmp_path / "b")
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "exact, with the very numbers" in output
    assert_same(tmp_path / "whole", run)


@pytest.mark.parametrize(
    ("name", "code"), [extended("SIGINT", 130), ("SIGTERM", 143), extended("SIGUSR1", 143)]
)
def test_a_signal_ends_it_with_everything_saved(
    tmp_path: Path, name: str, code: int, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"

    def send() -> None:
        patience = time.monotonic() + 120.0
        while time.monotonic() < patience:
            time.sleep(0.01)
            file = run / "metrics.jsonl"
            if file.exists() and file.read_bytes().count(b"\n") > 3:
                os.kill(os.getpid(), getattr(signal, name))
                return

    sender = threading.Thread(target=send)
    sender.start()
    endless = flags(TINY.replace(total_steps=20_000_000, checkpoint_every=100_000))
    assert main(["train", PROBE, *endless, "--run-dir", str(run)]) == code
    sender.join()
    out, err = capsys.readouterr()
    assert "finishing this iteration, then saving" in err
    assert f"To go on: surefoot resume {run}" in out
    assert steps(run)[-1] == metrics_of(run)[-1]["step"]
    surefoot.evaluate(run, episodes=2)
