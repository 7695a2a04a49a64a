"""An exported policy acts as the policy does, in every form, and is refused where it would not."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from tests.helpers import TINY, flags
from tests.services.test_policy_file import as_trained, some

from surefoot import deploy
from surefoot.agent import load_policy, save_policy
from surefoot.cli.main import main
from surefoot.config_file import to_toml
from surefoot.envs import make_environment
from surefoot.ship import export, latency, subjects

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "gaussian": ("probe:late-reward/continuous", {}),
    "squashed": ("probe:late-reward/continuous", {"distribution": "squashed_gaussian"}),
    "state-dependent": ("probe:late-reward/continuous", {"state_dependent_std": True}),
    "layer norm": ("probe:late-reward/continuous", {"actor_layer_norm": True}),
    "gsde": ("probe:late-reward/continuous", {"gsde": True}),
    "residual": (
        "probe:late-reward/continuous",
        {"actor_layer_norm": True, "actor_residual": True, "actor_hidden": (8, 8)},
    ),
    "beta": ("probe:late-reward/continuous", {"distribution": "beta"}),
    "binned": ("probe:late-reward/continuous", {"distribution": "binned", "action_bins": 7}),
    "discrete": ("probe:late-reward/discrete", {}),
    "multi-discrete": ("multi-discrete", {}),
    "multi-binary": ("multi-binary", {}),
    "one-hot observations": ("gymnasium:Taxi-v4", {}),
    "a box with bounds": ("gymnasium:Pendulum-v1", {}),
    "gru": ("probe:t-maze", {"memory": "gru", "memory_size": 8, "memory_layers": 2}),
    "lstm": ("probe:late-reward/continuous", {"memory": "lstm", "memory_size": 8}),
    "averaged with its mirror image": ("robot:QuadrupedWalk", {"symmetry": "average"}),
    "elu": ("probe:late-reward/continuous", {"activation": "elu", "actor_hidden": (8, 8)}),
    "not normalized": ("probe:late-reward/continuous", {"normalize_observations": False}),
}


class Odd(gymnasium.Env):
    """Kinds of actions that no probe has."""

    SPACES = {
        "multi-discrete": gymnasium.spaces.MultiDiscrete([3, 2], start=[0, 5]),
        "multi-binary": gymnasium.spaces.MultiBinary(3),
        "far choices": gymnasium.spaces.Discrete(3, start=2**40),
        "far integers": gymnasium.spaces.Box(2**40, 2**40 + 9, (2,), np.int64),
        "far numbers": gymnasium.spaces.Box(1e6, 1e6 + 1e-3, (2,), np.float64),
    }
    observation_space = gymnasium.spaces.Box(-1, 1, (3,))

    def __init__(self, kind: str) -> None:
        self.action_space = self.SPACES[kind]

    def reset(self, **_: Any) -> tuple[np.ndarray, dict]:
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(3, np.float32), 0.0, False, False, {}


@pytest.fixture(autouse=True)
def fewer_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "RANDOM", 60)
    monkeypatch.setattr(subjects, "EXTREME", 60)


def run_folder(folder: Path, task: str, **options: Any) -> Path:
    """A run folder with a policy that no one has trained."""
    made = functools.partial(Odd, task) if task in Odd.SPACES else task
    env = make_environment(made, 4, seed=np.random.SeedSequence(0))
    policy = as_trained(TINY.replace(**options), env, some(env.spec.observations["observation"]))
    env.close()
    folder.mkdir()
    save_policy(folder, policy, task=task, step=7, finished=True)
    (folder / "config.toml").write_text(to_toml(TINY.replace(**options), task=task))
    return folder


@pytest.mark.extended
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_every_kind_acts_as_the_policy(kind: str, tmp_path: Path) -> None:
    task, options = KINDS[kind]
    run = run_folder(tmp_path / "run", task, **options)
    result = export(run, episodes=0)
    assert {*result.differences} == {"numpy", "onnx", "c"}
    for form, difference in result.differences.items():
        assert difference is not None
        assert difference <= (1e-4 if kind == "beta" else 1e-5), form
    names = {path.name for path in result.folder.iterdir()}
    assert names == {"README.md", *(f"policy.{end}" for end in ("json", "npz", "onnx", "c", "h"))}
    # once more through what users call, in a batch, from a folder that was moved
    moved = result.folder.rename(tmp_path / "moved")
    loaded = load_policy(run)
    (name, spec), *_ = loaded.observations.items()
    seen = {name: some(spec, 6)}
    for onnx in (False, True):
        policy = deploy.load(moved, onnx=onnx)
        loaded.reset()
        for _ in range(3):  # memory goes on
            want, got = loaded(seen), policy(seen)
            assert (got.dtype, got.shape) == (want.dtype, want.shape)
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        policy.reset()
        loaded.reset()
        np.testing.assert_allclose(policy(seen[name]), loaded(seen), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["numpy", "onnx", "c"])
def test_a_form_that_acts_otherwise_is_refused_and_nothing_is_written(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_folder(tmp_path / "run", "probe:late-reward/continuous")
    right = subjects.policy_graph

    def wrong(policy: Any) -> Any:
        graph = right(policy)
        first, *others = (array for array in graph.constants if array.ndim == 2)
        del others
        changed = [x + 1e-3 if x is first else x for x in graph.constants]
        return graph._replace(constants=tuple(changed))

    monkeypatch.setattr(subjects, "policy_graph", wrong)
    with pytest.raises(ValueError, match=f"'{form}' gives .* where the policy gives|'c' fails"):
        export(run, forms=[form], episodes=0)
    assert not (run / "export").exists()
    assert not list(run.glob(".*")), "nothing is left over"


@pytest.mark.parametrize("kind", ["far choices", "far integers", "far numbers"])
def test_actions_that_32_bits_do_not_tell_apart_are_not_exported(kind: str, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", kind)
    with pytest.raises(ValueError, match="too far from 0 for 32 bits"):
        export(run, forms=["numpy"], episodes=0)
    assert not (run / "export").exists()


def test_an_export_is_not_replaced_unasked(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", "probe:late-reward/continuous")
    export(run, forms=["numpy"], episodes=0)
    before = (run / "export/policy.npz").read_bytes()
    with pytest.raises(ValueError, match="is there already: choose another --output"):
        export(run, forms=["onnx"], episodes=0)
    assert (run / "export/policy.npz").read_bytes() == before
    assert export(run, forms=["onnx"], episodes=0, overwrite=True).folder == run / "export"
    assert not (run / "export/policy.npz").exists()


def test_the_description_says_what_goes_in_and_comes_out(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", "gymnasium:Pendulum-v1")
    result = export(run, episodes=2, license="MIT")
    about = json.loads((result.folder / "policy.json").read_text())
    assert about["task"] == "gymnasium:Pendulum-v1"
    assert about["step"] == 7
    assert about["observations"] == [
        {
            "name": "observation",
            "shape": [3],
            "choices": [],
            "starts": [],
            "origin": None,
            "dtype": "float32",
        }
    ]
    assert about["action"]["low"] == [-2.0]
    assert about["evaluation"]["episodes"] == 2
    assert about["robot"] is None
    import onnx

    model = onnx.load(result.folder / "policy.onnx")
    (entry,) = model.metadata_props
    assert json.loads(entry.value) == {
        k: v for k, v in about.items() if k not in ("program", "files")
    }
    card = (result.folder / "README.md").read_text()
    assert card.startswith('---\nlicense: "MIT"\n')
    assert "| observation `observation` | (3,) | float32 |" in card
    assert f"| return | {about['evaluation']['episode_return_mean']:.2f}" in card


def test_a_robot_says_how_actions_drive_it(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", "robot:ArmReach")
    result = export(run, episodes=0, forms=["numpy"])
    robot = deploy.load(result.folder).about["robot"]
    assert (robot["control_period_s"], robot["kind"]) == (0.02, "position")
    first = robot["actions"][0]
    assert (first["scale"], first["offset"]) == (1.0, first["home"])
    assert first["stiffness"] > 0
    assert first["low"] < first["high"]


def test_the_command_exports_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    assert main(["train", "probe:late-reward/continuous", *flags(), "--run-dir", str(run)]) == 0
    assert main(["export", str(run), "--episodes", "3"]) == 0
    said = capsys.readouterr().out
    for form in ("numpy", "onnx", "c"):
        assert f"{form:<6} differs from the policy by at most" in said
    assert f"Exported: {run / 'export'}" in said
    assert main(["export", str(run / "nowhere")]) == 2


# --- without JAX


def test_it_runs_where_numpy_alone_is_installed(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", "probe:late-reward/continuous", memory="gru", memory_size=4)
    export(run, episodes=0, forms=["numpy"])
    loaded = load_policy(run)
    seen = some(loaded.observations["observation"], 1)[0]
    here = Path(deploy.__file__).parent
    alone = tmp_path / "site"
    alone.mkdir()
    (alone / "surefoot").symlink_to(here)
    packages = Path(sysconfig.get_path("purelib"))
    for package in packages.glob("numpy*"):
        (alone / package.name).symlink_to(package)
    program = f"""
import sys
sys.path = [p for p in sys.path if "site-packages" not in p] + [{str(alone)!r}]
import surefoot.deploy as deploy, numpy as np
assert not [name for name in ("jax", "equinox", "gymnasium", "mujoco") if name in sys.modules]
try:
    import jax
except ImportError:
    pass
else:
    raise AssertionError("this place has JAX")
policy = deploy.load({str(run / "export")!r})
seen = np.array({seen.tolist()}, np.float32)
print([policy(seen).tolist() for _ in range(2)])
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True
    )
    want = [loaded(seen).tolist() for _ in range(2)]
    np.testing.assert_allclose(json.loads(done.stdout), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: (folder / "policy.json").unlink(), "surefoot export RUN"),
        (lambda folder: (folder / "policy.json").write_text("{"), "is damaged"),
        (lambda folder: (folder / "policy.json").write_text('{"format": 99}'), "format 99"),
        (lambda folder: (folder / "policy.npz").unlink(), "surefoot export RUN"),
        (lambda folder: (folder / "policy.npz").write_bytes(b"no zip"), "is damaged"),
    ],
)
def test_a_damaged_export_is_refused(harm: Any, said: str, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", "probe:late-reward/continuous")
    folder = export(run, episodes=0, forms=["numpy"]).folder
    harm(folder)
    with pytest.raises(ValueError, match=said):
        deploy.load(folder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = run_folder(tmp_path_factory.mktemp("exported") / "run", "probe:late-reward/continuous")
    return export(run, episodes=0).folder


@pytest.mark.parametrize("form", ["policy.npz", "policy.onnx", "policy.c"])
def test_a_bit_that_flips_in_an_exported_file_is_said(
    form: str, exported: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(exported, tmp_path / "export")
    content = bytearray((folder / form).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / form).write_bytes(bytes(content))
    with pytest.raises(ValueError, match=f"{form} is damaged"):
        latency.latency(folder, 1)


# kinds of what a program can say that no export does; each fails in another place without a check
@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("inputs", 0, "shape"), [10**12]),
        (("inputs", 0, "shape"), "x"),
        (("inputs", 0, "dtype"), "O"),
        (("inputs", 0), 7),
        (("outputs", 0, "name"), "other"),
        (("results", 0), 10**6),
        (("results",), None),
        (("nodes", -1, 0), "system"),
        (("nodes", -1, 1), [10**6]),
        (("nodes", -1), 3),
        (("nodes",), {}),
    ],
)
def test_a_program_that_does_not_hold_together_is_refused_as_it_is_loaded(
    place: tuple[Any, ...], value: Any, exported: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(exported, tmp_path / "export")
    about = json.loads((folder / "policy.json").read_text())
    inside = about["program"]
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    (folder / "policy.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"policy\.(json|npz)"):
        deploy.load(folder)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", "gymnasium:Pendulum-v1")
    policy = deploy.load(export(run, episodes=0, forms=["numpy"]).folder)
    with pytest.raises(ValueError, match=r"has shape \(4,\), need \(3,\)"):
        policy(np.zeros(4))
    with pytest.raises(ValueError, match="'observation' is missing"):
        policy({"other": np.zeros(3)})


# --- at a fixed rate


def controller(tmp_path: Path, **options: Any) -> deploy.Controller:
    run = run_folder(tmp_path / "run", "gymnasium:Pendulum-v1")
    policy = deploy.load(export(run, episodes=0, forms=["numpy"]).folder)
    return deploy.Controller(policy, 0.01, np.zeros(1, np.float32), **options)


def test_what_cannot_be_trusted_leads_to_the_safe_action(tmp_path: Path) -> None:
    control = controller(tmp_path, low={"observation": -1.0}, oldest_s=0.1)
    good = {"observation": np.array([0.5, 0.5, 0.5], np.float32)}
    assert control.act(good)[0] != 0
    for bad in (np.nan, np.inf, -2.0):
        assert control.act({"observation": np.array([0.5, bad, 0.5])}).tolist() == [0.0]
    assert control.act(good, age_s=0.2).tolist() == [0.0]
    assert control.act(good, age_s=np.nan).tolist() == [0.0]
    assert control.refused == {
        "observation is not finite": 2,
        "observation is out of range": 1,
        "too old": 2,
    }
    assert len(control.latency.seconds) == 1
    assert 0 < control.latency.percentile(0.99) < 1


def test_an_action_that_is_not_finite_is_not_sent(tmp_path: Path) -> None:
    control = controller(tmp_path)
    control.policy = lambda _: np.array([np.nan])  # type: ignore[assignment]
    assert control.act({"observation": np.zeros(3)}).tolist() == [0.0]
    assert control.refused == {"the action is not finite": 1}


def test_the_safe_action_is_written_whatever_ends_the_loop(tmp_path: Path) -> None:
    control, written = controller(tmp_path), []

    def read() -> tuple[dict[str, np.ndarray], float]:
        if len(written) == 3:
            raise OSError("the cable is out")
        return {"observation": np.full(3, 0.5)}, 0.0

    with pytest.raises(OSError, match="cable"):
        control.run(read, written.append)
    assert len(written) == 4
    assert written[-1].tolist() == [0.0]
    written.clear()
    control.run(read, written.append, steps=2)
    assert len(written) == 3


def test_the_time_of_an_action_is_told_for_each_form(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = {"memory": "gru", "memory_size": 4}
    run = run_folder(tmp_path / "run", "probe:late-reward/continuous", **options)
    assert main(["bench-policy", str(run)]) == 2
    assert "no exported policy" in capsys.readouterr().err
    export(run, episodes=0)
    assert main(["bench-policy", str(run), "--calls", "50"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["us", "an", "action", "p50", "p99", "p99.9"]
    assert [line.split()[0] for line in lines] == ["numpy", "onnx", "c"]
    for line in lines:
        median, most, extreme = map(float, line.split()[1:])
        assert 0 < median <= most <= extreme
