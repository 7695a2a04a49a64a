"""`surefoot doctor` names what was made wrong, and nothing of what is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from tests.helpers import PROBE, TINY, extended

import surefoot
from surefoot.cli.main import main
from surefoot.config import Config
from surefoot.envs.examine import examine_environment
from surefoot.envs.gymnasium import GymnasiumEnvironment
from surefoot.training import train


class Right(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.seen(), {}

    def seen(self):
        return self.np_random.normal(size=2).clip(-9, 9).astype(np.float32)

    def step(self, action):
        self.count += 1
        return self.seen(), float(action), False, self.count >= 20, {}


class LimitAsEnd(Right):
    def step(self, action):
        self.count += 1
        return self.seen(), float(action), self.count >= 20, False, {}


class NoReward(Right):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, 0.0, *rest


class OtherEachTime(Right):
    def seen(self):
        return np.random.default_rng().normal(size=2).clip(-9, 9).astype(np.float32)


class NoSeed(Right):
    def seen(self):
        return np.full(2, self.count, np.float32) / 10


class OneWorld(Right):
    world = {"count": 0}

    def reset(self, *, seed=None, options=None):
        self.world["count"] = 0
        return super().reset(seed=seed)

    def step(self, action):
        self.world["count"] += 1
        observation, reward, *rest = super().step(action)
        return observation, reward + self.world["count"], *rest


class SameStart(Right):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=0 if seed is None else seed)


class OwnStartAgain(Right):
    def reset(self, *, seed=None, options=None):
        self.own = seed if seed is not None else self.own
        return super().reset(seed=self.own)


class Clock(Right):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def seen(self):
        return super().seen().astype(np.float64) + 1.7e9


class Latitude(Clock):
    def seen(self):
        return np.array([48.137 + self.np_random.uniform(0, 1e-4), self.np_random.uniform()])


class Encoder(Clock):
    """Nothing of its first observations gives away how little it moves."""

    def seen(self):
        return np.array([1e5 + 1e-3 * max(self.count - 3, 0), self.np_random.uniform()])


class Resting(Clock):
    """Nothing wrong: a quaternion that hardly turns."""

    def seen(self):
        return np.array([1.0 - 1e-6 * self.np_random.uniform(), self.np_random.uniform()])


def wrong(task: object) -> list[str]:
    return [text for fine, text in examine_environment(task, {}, steps=250) if not fine]


@pytest.mark.parametrize(
    "task",
    [
        Right,
        "CartPole-v1",
        *map(extended, (Resting, Clock, Latitude, "gymnax:CartPole-v1", "Hopper-v5")),
    ],
)
def test_nothing_is_said_of_a_sound_environment(task: object) -> None:
    assert wrong(task) == []


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (LimitAsEnd, "every episode terminates after exactly 20 steps: a time limit"),
        (NoReward, "no reward in 9"),
        (OtherEachTime, "the same seed and actions give other numbers"),
        (OneWorld, "environment 0 plays otherwise beside others than alone, from step 2"),
        (SameStart, "all 44 later episodes begin with the same observation"),
        (OwnStartAgain, "all 44 later episodes of an environment begin with the same observation"),
        (Encoder, "python:Encoder: observation 'observation', component [0]: it changes by"),
        (NoSeed, "every episode begins with the same observation, whatever the seed"),
    ],
)
def test_what_is_wrong_with_an_environment_is_named(task: object, says: str) -> None:
    found = wrong(task)
    assert len(found) == 1
    assert found[0].startswith(says)


class FailsToClose(Right):
    def close(self):
        raise SystemExit("the simulator is gone")


class Vector(surefoot.envs.Environment):
    """An author's own vector environment that fails to close."""

    def __init__(self) -> None:
        self._env = GymnasiumEnvironment(Right, 4, seeds=range(4), name="vector")
        self.spec = self._env.spec

    def reset(self, key):
        return self._env.reset(key)

    def step(self, env_state, action):
        return self._env.step(env_state, action)

    def close(self):
        raise SystemExit("the simulator is gone")


@pytest.mark.parametrize("task", [FailsToClose, Vector])
def test_what_fails_to_close_is_named_and_the_rest_is_still_said(task: Any) -> None:
    found = list(examine_environment(task, {}, steps=60))
    assert any("the simulator is gone" in text for fine, text in found if not fine)
    assert any("the same seed and actions give the same numbers" in text for _, text in found)


@pytest.mark.extended
def test_a_run_is_judged_by_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = {"run_dir": tmp_path / "run", "total_steps": 600, "progress": False}
    config = TINY.replace(learning_rate=0.01)  # with less, so few steps hardly change a policy
    run = surefoot.train("gymnasium:CartPole-v1", config=config, **options).run_dir
    assert main(["doctor", str(run)]) == 0
    said = capsys.readouterr().out
    assert "Nothing wrong was found." in said
    assert f"it can go on from step {json.loads(lines(run)[-1])['step']:,}" in said
    spoilt = [json.dumps(json.loads(x) | {"policy/first_ratio_error": 0.5}) for x in lines(run)]
    (run / "metrics.jsonl").write_text("\n".join(spoilt) + '\n{"step": 4')
    newest = max((run / "checkpoints").glob("step-*"))
    (newest / "rng.safetensors").unlink()
    assert main(["doctor", str(run)]) == 1
    said = capsys.readouterr().out
    assert "LOOK since iteration 1: the ratio is off 1 by 0.500 before the first step" in said
    assert f"LOOK {run}/metrics.jsonl, line {len(spoilt) + 1} is damaged: Expecting" in said
    assert f"{newest / 'rng.safetensors'} cannot be read" in said
    assert said.endswith("3 thing(s) to look at.\n")


def test_what_a_run_left_is_shown_and_not_obeyed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = {"run_dir": tmp_path / "run", "progress": False}
    run = surefoot.train(PROBE, config=TINY, **options).run_dir
    (run / "crash").mkdir()
    (run / "crash" / "report.json").write_text(json.dumps({"error": "\x1b[2J[red]mine:Ant: x"}))
    assert main(["doctor", str(run)]) == 1
    assert "LOOK it failed: ?[2J[red]mine:Ant: x\n" in capsys.readouterr().out


def lines(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines()


def of_a_tiny_run(task: str, config: Config, **arguments: Any) -> Any:
    return train(task, TINY.replace(total_steps=config.total_steps), **arguments)


@pytest.mark.extended
def test_the_machine_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("surefoot.cli.doctor._SECONDS", 0.2)
    monkeypatch.setattr("surefoot.training.train", of_a_tiny_run)
    code = main(["doctor"])
    said = capsys.readouterr().out
    assert code == said.count("LOOK ") > 0 or code == 0
    assert f"surefoot {surefoot.__version__}, jax " in said
    assert "cores may be used" in said
    assert "MiB/s, to the disk" in said
    assert "CartPole-v1 trains at " in said
    assert list(tmp_path.iterdir()) == []


def test_what_is_neither_run_nor_task_is_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["doctor", "CartPol-v1"]) == 2
    assert "did you mean 'CartPole-v1'" in capsys.readouterr().err
    assert main(["doctor", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert main(["doctor", "CartPole-v1", "--steps", "0"]) == 2
    assert "steps = 0 must be at least 1" in capsys.readouterr().err


class Awful(gymnasium.Env):
    def __init__(self):
        raise RuntimeError("no licence")


class LateZero(Right):
    def step(self, action):
        if self.count == 7:
            return 1 / 0
        return super().step(action)


@pytest.mark.parametrize("task", ["Awful", "LateZero"])
def test_whatever_an_environment_raises_is_one_error_of_the_command(
    task: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["doctor", f"tests.cli.test_doctor:{task}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"surefoot: error: tests.cli.test_doctor:{task}")
    assert "test_doctor.py" in said


def test_what_nothing_else_has_named_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fails(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("deep inside")

    monkeypatch.setattr("surefoot.envs.examine._play", fails)
    assert main(["doctor", "CartPole-v1"]) == 1
    assert "LOOK CartPole-v1: raised ZeroDivisionError: deep inside" in capsys.readouterr().out
