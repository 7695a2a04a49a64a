"""A robot's policy with its task gives, step by step, the controls that the simulator was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import TINY
from tests.services.test_policy_file import as_trained, some

from surefoot import deploy
from surefoot.agent import load_policy, save_policy
from surefoot.config import Config
from surefoot.config_file import to_toml
from surefoot.robots import Actuation, RobotEnvironment, Sensing, State, terms
from surefoot.robots.task import RobotTask, Start
from surefoot.robots.tasks.quadrupeds import QuadrupedWalk
from surefoot.robots.tasks.reaching import ArmReach
from surefoot.ship import export, subjects
from surefoot.ship.robot_graph import RobotPolicy, given_of


@dataclass(frozen=True)
class Everything(QuadrupedWalk):
    """A gait, a filter, a history of readings, a carry and the time, which no reflection leaves alone."""

    mirror: ClassVar[Any] = None
    reflect = RobotTask.reflect
    actuation: ClassVar[Actuation] = Actuation(scale=0.5, smoothing=0.3, bound=0.8)
    sensing: ClassVar[Mapping[str, Sensing]] = {"feet": Sensing(history=3)}

    def reset(self, robot: Any, key: jax.Array, level: jax.Array) -> Start:
        return super().reset(robot, key, level)._replace(carry=terms.Feet.init(4))

    def remember(self, s: State) -> Any:
        touching = jnp.stack([s.contact(foot).found for foot in self.feet])
        return s.carry.step(touching, self.control_dt_s)

    def observe(self, s: State) -> Any:
        knee = s.joint("FR_calf")
        own = jnp.stack([knee.qpos - knee.home, s.body("trunk").up, s.time_s])
        return {
            "observation": jnp.concatenate([super().observe(s), own, s.last_action]),
            "feet": jnp.concatenate([s.carry.air_s, s.carry.contact.astype(jnp.float32)]),
        }


def run_of(task: Any, folder: Path, **options: Any) -> Path:
    env = RobotEnvironment(task, 4)
    seen = {name: some(spec) for name, spec in env.spec.observations.items()}
    config = TINY.replace(**options)
    policy = as_trained(config, env, seen)
    folder.mkdir()
    save_policy(folder, policy, task="robot:QuadrupedWalk", step=7, finished=True)
    (folder / "config.toml").write_text(to_toml(config, task="robot:QuadrupedWalk"))
    return folder


@pytest.mark.extended
@pytest.mark.parametrize(
    ("task", "options"),
    [
        (QuadrupedWalk(command_s=0.3), {}),
        (Everything(command_s=0.3), {"memory": "gru", "memory_size": 4}),
    ],
    ids=["with a reflection", "with all that is remembered"],
)
def test_it_gives_the_controls_of_the_simulator(task: Any, options: Any, tmp_path: Path) -> None:
    loaded = load_policy(run_of(task, tmp_path / "run", **options))
    whole = RobotPolicy(loaded.policy, task)
    act = subjects._Jitted(whole)
    env = RobotEnvironment(task, 1)
    state, step = env.reset(jax.random.key(3))
    for _ in range(40):
        carried = jax.tree.map(lambda x: x[0], state[0])
        s = env.state_of(carried)
        given = {p.name: np.asarray(given_of(s, p.name)) for p in whole.inputs if not p.carried}
        wanted = act({name: x.astype(np.float32) for name, x in given.items()})
        action = loaded({name: np.asarray(x) for name, x in step.observation.items()})
        state, step = env.step(state, action)
        assert not step.terminated.any()
        told = np.asarray(env._batch.bind("ctrl"))[0]
        np.testing.assert_allclose(wanted, told, atol=2e-6)
    env.close()


@pytest.mark.extended
def test_names_say_what_goes_in(tmp_path: Path) -> None:
    whole = RobotPolicy(load_policy(run_of(Everything(), tmp_path / "run")).policy, Everything())
    shapes = {port.name: port.shape for port in whole.inputs if not port.carried}
    assert shapes == {
        "trunk.local_velocity": (3,),
        "trunk.local_angular_velocity": (3,),
        "trunk.gravity": (3,),
        "joints.qpos": (12,),
        "joints.qvel": (12,),
        "command": (3,),
        **{f"{foot}.contact": () for foot in Everything.feet},
    }


@dataclass(frozen=True)
class ReadsTheSimulator(ArmReach):
    """Reads what no robot measures."""

    def observe(self, s: State) -> Any:
        return s.xpos.reshape(-1)


@pytest.mark.extended
def test_every_form_is_compared_and_says_what_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANDOM", "EXTREME", "RECORDED"):
        monkeypatch.setattr(subjects, name, 40)
    run = run_of(QuadrupedWalk(), tmp_path / "run")
    result = export(run, from_state=True, episodes=0)
    assert {*result.differences} == {"numpy", "onnx", "c"}
    assert max(x for x in result.differences.values() if x is not None) <= 1e-5
    about = deploy.load(result.folder).about
    reads = {group["name"]: group for group in about["observations"]}
    assert reads["joints.qpos"]["order"][:2] == ["FR_hip", "FR_thigh"]
    assert about["action"]["order"] == reads["joints.qpos"]["order"]
    assert "what the actuators are told" in (result.folder / "README.md").read_text()


@pytest.mark.extended
def test_what_no_robot_measures_is_refused(tmp_path: Path) -> None:
    task = ReadsTheSimulator()
    loaded = load_policy(run_of(task, tmp_path / "run"))
    with pytest.raises(ValueError, match="'xpos', which no robot measures"):
        RobotPolicy(loaded.policy, task)


def test_only_robots_have_a_state(tmp_path: Path) -> None:
    from tests.ship.test_export import run_folder

    run = run_folder(tmp_path / "run", "gymnasium:Pendulum-v1")
    with pytest.raises(ValueError, match="Pendulum-v1 is none"):
        export(run, from_state=True, episodes=0)
    assert not (run / "export").exists()
    assert Config().memory == "off"
