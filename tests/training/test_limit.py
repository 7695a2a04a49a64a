"""What the machine allows: the arithmetic, what is counted, and the command."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
import pytest
from tests.helpers import PROBE, TINY, few, flags

from surefoot.cli.bench import advice, alternatives
from surefoot.cli.main import main
from surefoot.config import Config
from surefoot.envs import ActionSpec, make_environment
from surefoot.limits import Limit, Pace, simulator_pace, training_pace
from surefoot.machine import usable_cores

PACE = TINY.replace(num_steps=12)  # two episodes of five steps, and their resets


def test_the_limit_is_the_cores_over_what_a_step_costs() -> None:
    simulator = Pace(steps=1000, seconds=1.0, core_seconds=0.5, shares={})
    in_turn = Pace(steps=1000, seconds=2.0, core_seconds=2.0, shares={})
    training = Pace(steps=1000, seconds=1.25, core_seconds=2.0, shares={})
    limit = Limit(2, simulator, in_turn, training)
    assert limit.learner_cost == pytest.approx(1.5e-3)
    assert limit.rate == pytest.approx(2 / (0.5e-3 + 1.5e-3))
    assert limit.share == pytest.approx(800 / 1000)


@pytest.mark.parametrize(
    ("spec", "least", "most"),
    [
        (ActionSpec("discrete", (3,), start=-1, dtype="int64"), [-1], [1]),
        (ActionSpec("multi_discrete", (2, 4), shape=(2,), dtype="int32"), [0, 0], [1, 3]),
        (ActionSpec("multi_binary", (3,), shape=(3,), dtype="int8"), [0, 0, 0], [1, 1, 1]),
    ],
)
def test_random_actions_take_every_choice_of_every_component(
    spec: ActionSpec, least: list[int], most: list[int]
) -> None:
    with jax.enable_x64(True):
        drawn = np.asarray(spec.to_env(spec.random(jax.random.key(0), (12, 50))))
    assert drawn.shape == (12, 50, *spec.shape)
    assert drawn.dtype == spec.dtype
    rows = drawn.reshape(600, -1)
    assert rows.min(0).tolist() == least
    assert rows.max(0).tolist() == most
    if rows.shape[1] > 1:
        assert len(np.unique(rows, axis=0)) == np.prod(np.subtract(most, least) + 1)


@pytest.mark.parametrize(
    "task",
    few(1, ["probe:late-reward/continuous", "probe:both/discrete", "gymnasium:CartPole-v1"]),
)
def test_a_simulator_is_paced_with_every_kind_of_action(task: str) -> None:
    env = make_environment(task, 4, seed=np.random.SeedSequence(0))
    pace = simulator_pace(env, PACE, seconds=0.05)
    assert pace.steps > 0
    assert pace.seconds >= 0.05
    assert pace.cost > 0
    env.close()


def test_reset_rows_are_not_counted_as_steps() -> None:
    # five steps and a reset, so 40 of the 48 rows of 12 steps are steps
    env = make_environment("probe:late-reward", 4, seed=np.random.SeedSequence(0))
    assert simulator_pace(env, PACE, seconds=0.02).steps % 40 == 0


def test_training_is_paced_after_its_warm_up() -> None:
    env = make_environment(PROBE, 4, seed=np.random.SeedSequence(0))
    pace = training_pace(env, TINY, seconds=0.1)
    assert pace.seconds >= 0.1
    assert pace.steps > 0
    assert set(pace.shares) == {"collect", "update"}
    assert 0 < sum(pace.shares.values()) <= 1.0 + 1e-9


def test_alternatives_make_the_same_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surefoot.cli.bench.usable_cores", lambda: 4)
    config = Config(num_envs=16, num_steps=128, env_options=("noise=1",))
    found = alternatives(config, threads=4)
    assert list(found) == [
        "--num-envs 4 --num-steps 512",
        "--num-envs 8 --num-steps 256",
        "--num-envs 32 --num-steps 64",
        "--env-options noise=1 num_threads=1",
    ]
    assert {other.batch_size for other in found.values()} == {2048}
    assert found["--env-options noise=1 num_threads=1"].env_options == ("noise=1", "num_threads=1")
    few = Config(num_envs=1, num_steps=16, num_minibatches=1)
    assert list(alternatives(few, threads=None)) == ["--num-envs 2 --num-steps 8"]
    assert list(alternatives(few, threads=1)) == ["--num-envs 2 --num-steps 8"]
    two = Config(num_envs=2, num_steps=16, num_minibatches=1)
    assert "--env-options num_threads=2" in alternatives(two, threads=1)


def test_advice_is_given_for_differences_that_matter() -> None:
    result = {
        "overlap": "exact",
        "steps_per_second": 100.0,
        "in_turn_steps_per_second": 90.0,
        "same_batch": [
            {"options": "", "steps_per_second": 100.0},
            {"options": "--num-envs 64 --num-steps 32", "steps_per_second": 105.0},
        ],
    }
    assert "Nothing" in advice(result)
    result["same_batch"][1]["steps_per_second"] = 150.0
    assert "--num-envs 64 --num-steps 32 (1.50 times" in advice(result)
    result["in_turn_steps_per_second"] = 200.0
    assert "--overlap off" in advice(result)


@pytest.fixture
def paces(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations whose pace is asked for; nothing is measured."""
    asked: list[Config] = []

    def simulator(env: Any, config: Config, *, seconds: float) -> Pace:
        return Pace(steps=1000, seconds=1.0, core_seconds=0.5, shares={})

    def training(env: Any, config: Config, *, seconds: float) -> Pace:
        assert env.spec.num_envs == config.num_envs
        asked.append(config)
        return Pace(1000, 1.0 + len(asked), 2.0, {"collect": 0.25, "update": 0.5})

    monkeypatch.setattr("surefoot.limits.simulator_pace", simulator)
    monkeypatch.setattr("surefoot.limits.training_pace", training)
    return asked


def test_the_command_reports_in_words_and_in_json(
    paces: list[Config], capsys: pytest.CaptureFixture
) -> None:
    tiny = flags(TINY)
    assert main(["bench", PROBE, *tiny, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["cores"] == usable_cores()
    costs = result["simulator_core_ms_per_step"] + result["learner_core_ms_per_step"]
    assert result["limit_steps_per_second"] == pytest.approx(1e3 * result["cores"] / costs)
    assert [row["options"] for row in result["same_batch"]] == [
        "",
        "--num-envs 1 --num-steps 64",
        "--num-envs 2 --num-steps 32",
        "--num-envs 8 --num-steps 8",
    ]
    assert [config.overlap for config in paces[:2]] == ["off", "exact"]
    assert [config.num_envs for config in paces[2:]] == [1, 2, 8]
    assert main(["bench", PROBE, *tiny]) == 0
    said = capsys.readouterr().out
    assert "share of the limit:" in said
    assert "collect 25%, update 50%" in said
    assert "--num-envs 8" in said
    paces.clear()
    assert main(["bench", PROBE, *tiny, "--quick"]) == 0
    said = capsys.readouterr().out
    assert "share of the limit:" in said
    assert "other settings" not in said
    assert len(paces) == 2


@pytest.mark.extended
@pytest.mark.parametrize("further", [["--quick"], []], ids=["quick", "all"])
def test_the_command_measures(further: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", PROBE, *flags(TINY), "--seconds", "0.1", "--json", *further]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["same_batch"]) == (1 if further else 4)
    assert all(row["steps_per_second"] > 0 for row in result["same_batch"])
    assert result["simulator"]["seconds"] >= 0.1
    assert 0.0 < sum(result["time"].values()) <= 1.0 + 1e-9


def test_a_simulator_with_options_is_measured_with_its_threads(
    paces: list[Config], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surefoot.envs.envpool.usable_cores", lambda: 2)
    monkeypatch.setattr("surefoot.cli.bench.usable_cores", lambda: 2)
    tiny = ["--num-envs", "2", "--num-steps", "8", "--num-minibatches", "2", "--num-epochs", "1"]
    options = ["--env-options", "reset_noise_scale=0.01", "--json"]
    assert main(["bench", "Hopper-v5", *tiny, *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["simulator_threads"] == 2
    assert [row["options"] for row in result["same_batch"]] == [
        "",
        "--num-envs 1 --num-steps 16",
        "--env-options reset_noise_scale=0.01 num_threads=1",
    ]
    assert paces[-1].env_options == ("reset_noise_scale=0.01", "num_threads=1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["probe:bot"], "did you mean 'both'"),
        (["probe:both", "--seconds", "0"], "seconds = 0.0 must be in (0, 600]"),
        ([], "no TASK given"),
    ],
)
def test_the_command_refuses_mistakes(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["bench", *arguments]) == 2
    assert words in capsys.readouterr().err
