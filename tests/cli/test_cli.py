"""The command: what it accepts, what it says, and what it refuses before any work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.helpers import PROBE, extended, flags, metrics_of

from surefoot.cli.main import VERBS, main
from surefoot.cli.presets import PRESETS, preset
from surefoot.cli.train import parse
from surefoot.config import Config, validate


def command(*arguments: str, cwd: Path, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "surefoot", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
        **kwargs,
    )


def error(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert said.startswith("surefoot: error: ")
    assert said.count("\n") == 1
    return said


def test_help_names_every_verb(capsys: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(verb in said for verb in VERBS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["eval", "--help"],
        ["study", "--help"],
        extended(["tune", "--help"]),
        extended(["report", "--help"]),
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom surefoot.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'jax', 'numpy', 'envpool', 'gymnasium', 'equinox', 'optax', 'scipy', 'bokeh'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_of_train_shows_every_option(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    from surefoot.config import option_names

    for name in option_names():
        assert "--" + name.replace("_", "-") in said


def test_an_unknown_verb_gets_a_suggestion(capsys: pytest.CaptureFixture) -> None:
    assert "did you mean 'train'" in error(capsys, "trian")


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["train", "CartPole-v1", "--gama", "0.9"], "--gamma"),
        (["resume", "runs/mine", "--total-step", "9"], "--total-steps"),
        (["eval", "runs/mine", "--episods", "9"], "--episodes"),
        (["doctor", "--stpes", "9"], "--steps"),
        (["bench", "CartPole-v1", "--quik"], "--quick"),
        (["study", "clipping", "--task", "CartPole-v1"], "--tasks"),
        (["tune", "CartPole-v1", "--trails", "9"], "--trials"),
        (["report", "runs/mine", "--outputs", "page.html"], "--output"),
        (["demo", "--sead", "9"], "--seed"),
    ],
)
def test_an_unknown_option_gets_a_suggestion(
    arguments: list[str], near: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert f"{near} " in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb", sorted(VERBS.keys() - {"train", "bench"})
)  # their options have None
def test_help_says_what_an_option_is_if_it_is_left_out(
    verb: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "None" not in said
    assert "(default: )" not in said


def test_a_report_needs_a_folder(capsys: pytest.CaptureFixture) -> None:
    assert "no folder given" in error(capsys, "report")


def test_one_address_of_a_cluster(capsys: pytest.CaptureFixture) -> None:
    """What follows `--ray` is an address, or nothing."""
    arguments = ["clipping", "--tasks", "CartPole-v1", "--seeds", "2", "--ray", "here", "there"]
    assert "one address" in error(capsys, "study", *arguments)


def test_a_task_is_needed(capsys: pytest.CaptureFixture) -> None:
    assert "no TASK given" in error(capsys, "train", "--seed", "3")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["CartPol-v1"], "did you mean 'CartPole-v1'"),
        (["gymnasium:Hoper-v5"], "did you mean 'Hopper-v5'"),
        (["gymnax:CartPole-v2"], "did you mean 'CartPole-v1'"),
        (["probe:bot"], "did you mean 'both'"),
        (["CartPole-v1", "--num-minibatches", "30"], "30 does not divide the batch of"),
        (
            ["CartPole-v1", "--gamma", "1.5"],
            "gamma = 1.5 is out of range: it must be in [0.0, 1.0]",
        ),
        (["CartPole-v1", "--preset", "go2"], "did you mean 'go1'"),
        (["CartPole-v1", "--config", "nowhere.toml"], "'nowhere.toml' does not exist"),
        (["CartPole-v1", "--env-options", "gravity"], "not of the form KEY=VALUE"),
        (["CartPole-v1", "--env-options", "max_episode_step=9"], "'max_episode_steps'"),
        (["CartPole-v1", "--actor-groups", "state"], "unknown observation group"),
        (["no_such_module:Thing"], "no module 'no_such_module'"),
    ],
)
def test_mistakes_are_named_before_training(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in error(capsys, "train", *arguments).replace("[0, 1]", "[0.0, 1.0]")
    assert list(tmp_path.iterdir()) == []


def test_the_batch_error_tells_the_numbers_and_what_would_do(
    capsys: pytest.CaptureFixture,
) -> None:
    said = error(capsys, "train", "CartPole-v1", "--num-minibatches", "30")
    assert "16 * 128 = 2048" in said
    assert "near divisors: 16, 32, 64" in said


def test_command_line_wins_over_file_wins_over_preset(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("gamma = 0.9\nseed = 5\ntarget_kl = 'none'\nactor_hidden = [32]\n")
    arguments = ["Hopper-v5", "--preset", "go1", "--config", str(file), "--seed", "6"]
    task, run_dir, _, config = parse(arguments)
    assert (task, run_dir) == ("Hopper-v5", None)
    assert (config.seed, config.gamma, config.actor_hidden) == (6, 0.9, (32,))
    assert config.num_envs == preset("go1").num_envs != Config().num_envs
    assert config.target_kl is None


def test_the_task_may_come_from_the_file_but_code_may_not(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("task = 'Hopper-v5'\n")
    assert parse(["--config", str(file)])[0] == "Hopper-v5"
    for code in ("my_module:Thing", "gymnasium:my_module:Thing-v0", "python:Thing"):
        file.write_text(f"task = '{code}'\n")
        with pytest.raises(ValueError, match="no TASK given"):
            parse(["--config", str(file)])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gama = 0.9", "did you mean 'gamma'"),
        ("gamma = '1e-4'", "must be float, not str"),
        ("gamma = true", "must be float, not bool"),
        ("num_envs = 1.5", "must be int, not float"),
        ("actor_hidden = 64", "must be a list"),
        ("surrogate = 'clip'", "did you mean 'clipped'"),
        ("gamma = ", "not valid TOML"),
        ("task = 5", "must be a text, not 5"),
        ("num_minibatches = 2048", "one row to each minibatch"),
    ],
)
def test_a_bad_toml_file_is_refused(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "my.toml"
    file.write_text(text)
    assert words in error(capsys, "train", "CartPole-v1", "--config", str(file))


def test_an_error_with_a_name_from_a_file_is_not_obeyed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "my.toml"
    file.write_text('[tasks."[red]Ant \\u001b[2J"]\n[arms.a]\ngamma = 2.0\n[arms.b]\n')
    said = error(capsys, "study", str(file))
    assert "arm 'a' on [red]Ant ?[2J: gamma" in said


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name: str) -> None:
    assert validate(preset(name)) == preset(name)


def test_tasks_lists_and_filters(capsys: pytest.CaptureFixture) -> None:
    assert main(["tasks", "Go1Joystick*"]) == 0
    found = capsys.readouterr().out.split()
    assert found == ["Go1JoystickFlatTerrain-v1", "Go1JoystickRoughTerrain-v1"]
    assert main(["tasks", "hopper-v5"]) == 0
    assert "gymnasium:Hopper-v5" in capsys.readouterr().out
    assert main(["tasks", "Gooo1"]) == 1
    assert "no task matches" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ("Pong-v5", "is an image"),
        extended("Sokoban-v0", "is an image"),
        extended("Maze-v0", "is a Dict space"),
        ("gymnasium:Blackjack-v1", "is a Tuple space"),
        extended("gymnasium:GymV26Environment-v0", "shimmy"),
        extended("gymnasium:Pusher-v4", "mujoco<3"),
        extended("gymnax:FrozenLake-misc", "Discrete"),
    ],
)
def test_a_task_that_is_refused_is_not_listed(
    task: str, why: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["tasks", task.replace("[", "?")]) == 1
    said = capsys.readouterr()
    assert task not in said.out.split()
    assert "--all" in said.err
    assert main(["tasks", task, "--all"]) == 1
    said = capsys.readouterr().out
    assert f"{task}  (" in said
    assert why in said


@pytest.mark.extended
@pytest.mark.filterwarnings("ignore")  # some versions are old
def test_exactly_what_is_listed_has_spaces_that_can_be_served(monkeypatch, tmp_path: Path) -> None:
    """Of every task of EnvPool's, from its own spec, and of every one of Gymnasium's, made."""
    import envpool
    import gymnasium

    from surefoot.cli.tasks import known_tasks, refusals
    from surefoot.envs.spaces import action_spec, observation_groups

    monkeypatch.chdir(tmp_path)  # MuJoCo leaves a log
    names = [name for name in known_tasks() if name.partition(":")[0] in (name, "gymnasium")]
    refused = refusals(names)
    assert len(names) > len(refused) > 0
    for name in names:
        try:
            if ":" in name:
                env = gymnasium.make(name.partition(":")[2])
                spaces = env.observation_space, env.action_space
                env.close()
            else:
                spec = envpool.make_spec(name)
                spaces = spec.gymnasium_observation_space, spec.gymnasium_action_space
            observation_groups(spaces[0], task=name)
            action_spec(spaces[1], task=name)
        except (ValueError, RuntimeError, ImportError, gymnasium.error.Error):
            assert name in refused
        else:
            assert name not in refused


def test_to_list_tasks_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tasks", "gymnasium:*"]) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "CartPol-v1"],
        ["train", "CartPole-v1", "--env-options", "max_episode_step=9"],
        ["train", "probe:bot", "--num-seeds", "2"],
        ["bench", "CartPol-v1"],
    ],
)
def test_a_mistake_is_all_that_is_said(
    arguments: list[str], capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)


def test_train_then_eval_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", PROBE, *flags(), "--run-dir", "r"]) == 0
    said = capsys.readouterr().out
    assert "run folder: r" in said
    assert "surefoot eval r" in said
    assert main(["eval", "r", "--episodes", "7", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {
        "episodes",
        "episode_return_mean",
        "episode_return_std",
        "episode_length_mean",
        "truncated_share",
    }
    assert result["episodes"] == 7
    assert "in use" in error(capsys, "train", PROBE, *flags(), "--run-dir", "r")


@pytest.mark.extended
@pytest.mark.skipif(sys.platform != "linux", reason="the cache folder's place on Linux")
def test_compiled_programs_are_kept_in_the_user_s_cache_folder(tmp_path: Path) -> None:
    tests = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(tests)}
    own = kept | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = command("train", PROBE, *flags(), "--run-dir", "a", cwd=tmp_path, env=own)
    assert done.returncode == 0, done.stderr
    programs = tmp_path / "cache" / "surefoot" / "programs"
    assert any(programs.iterdir())
    # one was cut off while it was written, as by a kill: JAX would keep no other, and say so each time
    # (the largest: a small one may take too little to compile to be kept again)
    whole = max(programs.glob("*-cache"), key=lambda file: file.stat().st_size)
    length = whole.stat().st_size
    whole.write_bytes(whole.read_bytes()[: length // 2])
    (programs / whole.name.replace("-cache", "-atime")).unlink()
    done = command("train", PROBE, *flags(), "--run-dir", "c", cwd=tmp_path, env=own)
    assert done.returncode == 0, done.stderr
    assert "compilation cache" not in done.stderr
    assert whole.stat().st_size > 0.9 * length  # compiled again, and kept
    off = own | {"XDG_CACHE_HOME": str(tmp_path / "none"), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = command("train", PROBE, *flags(), "--run-dir", "b", cwd=tmp_path, env=off)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "none" / "surefoot" / "programs").exists()
    a, b = ((tmp_path / n / "policy.safetensors").read_bytes() for n in ("a", "b"))
    assert a == b


@pytest.mark.extended
@pytest.mark.parametrize("task", [PROBE, "Hopper-v5"])
def test_two_processes_with_one_seed_write_the_same_metrics(task: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        done = command("train", task, *flags(), "--run-dir", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert metrics_of(tmp_path / "a") == metrics_of(tmp_path / "b")
    a, b = ((tmp_path / n / "policy.safetensors").read_bytes() for n in ("a", "b"))
    assert a == b


@pytest.mark.extended
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_saves_the_policy_and_complete_metrics(tmp_path: Path) -> None:
    arguments = ["train", "probe:both", "--total-steps", "100000000", "--run-dir", "r"]
    process = subprocess.Popen(
        [sys.executable, "-m", "surefoot", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "r" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size > 0) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Stopped early, everything saved" in out
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    description = json.loads((tmp_path / "r" / "policy.json").read_text())
    assert description["step"] == steps[-1]
    assert description["finished"] is False
    asked = command("eval", "r", "--episodes", "2", "--json", cwd=tmp_path)
    assert json.loads(asked.stdout)["episodes"] == 2


def test_own_code_is_trained_and_never_imported_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "my_tasks_of_the_test.py").write_text(
        "from surefoot.envs.probes import make_probe\n\n\n"
        "def task(name='both'):\n    return make_probe(name, actions='continuous')\n"
    )
    task = "my_tasks_of_the_test:task"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_tasks_of_the_test", raising=False)
    named = ["--env-options", "name=late-reward"]
    assert main(["train", task, *flags(), "--run-dir", "r", *named]) == 0
    monkeypatch.delitem(sys.modules, "my_tasks_of_the_test")
    assert f"--task {task}" in error(capsys, "eval", "r", "--episodes", "2")
    assert "my_tasks_of_the_test" not in sys.modules
    assert main(["eval", "r", "--episodes", "2", "--task", task]) == 0


@pytest.mark.extended
def test_eval_plays_with_the_run_s_task_settings_unless_told_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = str(tmp_path / "r")
    short = ["--env-options", "max_episode_steps=3"]
    assert main(["train", "gymnasium:CartPole-v1", *flags(), *short, "--run-dir", run]) == 0

    def length(*arguments: str) -> float:
        capsys.readouterr()
        assert main(["eval", run, "--episodes", "4", "--json", *arguments]) == 0
        return json.loads(capsys.readouterr().out)["episode_length_mean"]

    assert length() == 3
    assert length("--env-options", "max_episode_steps=2") == 2
    assert length("--env-options") > 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "not a run folder"),
        (["r", "--episodes", "0"], "must be at least 1"),
    ],
)
def test_eval_refuses_mistakes(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture
) -> None:
    assert words in error(capsys, "eval", *arguments)
