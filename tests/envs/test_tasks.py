"""Task names and objects -> environments, and what is said when a name is wrong."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest

from surefoot.config import parse_options
from surefoot.envs import Environment, JaxEnvironment, make_environment
from surefoot.envs.contract import as_groups
from surefoot.envs.envpool import EnvPoolEnvironment
from surefoot.envs.gymnasium import GymnasiumEnvironment
from surefoot.envs.probes import make_probe
from surefoot.envs.tasks import is_import_path, names_code, task_name


@pytest.fixture(autouse=True, scope="module")
def usual_promotion() -> Iterator[None]:
    with jax.numpy_dtype_promotion("standard"):  # gymnax mixes dtypes
        yield


def make(task: Any, num_envs: int = 2, **options: Any) -> Environment:
    return make_environment(task, num_envs, seed=np.random.SeedSequence(5), options=options)


def refusal(task: Any, **options: Any) -> str:
    with pytest.raises(ValueError, match=r"\w") as error:
        make(task, **options)
    return str(error.value)


@pytest.mark.parametrize(
    ("task", "kind", "name"),
    [
        ("CartPole-v1", EnvPoolEnvironment, "CartPole-v1"),
        ("envpool:CartPole-v1", EnvPoolEnvironment, "CartPole-v1"),
        ("gymnasium:CartPole-v1", GymnasiumEnvironment, "gymnasium:CartPole-v1"),
        ("gymnax:CartPole-v1", JaxEnvironment, "gymnax:CartPole-v1"),
        ("probe:both", JaxEnvironment, "both"),
    ],
)
def test_the_prefix_chooses_the_simulator(task: str, kind: type, name: str) -> None:
    env = make(task)
    assert type(env) is kind
    assert env.spec.name == name
    assert env.spec.num_envs == 2


def test_probes_take_discrete_or_continuous_actions() -> None:
    assert make("probe:both").spec.action.kind == "discrete"
    assert make("probe:both/discrete").spec.action.kind == "discrete"
    assert make("probe:both/continuous").spec.action.kind == "continuous"


@pytest.mark.parametrize(
    ("task", "near"),
    [
        ("CartPol-v1", "'CartPole-v1'"),
        ("hopper-v5", "'Hopper-v5'"),
        ("envpool:Hoper-v5", "'Hopper-v5'"),
        ("gymnasium:CartPol-v1", "'CartPole-v1'"),
        ("gymnax:cartpole-v1", "'CartPole-v1'"),
        ("probe:constnt", "'constant'"),
        ("probe:both/continous", "'continuous'"),
        ("gymnasum:CartPole-v1", "'gymnasium'"),
    ],
)
def test_a_misspelt_task_is_answered_with_near_ones(task: str, near: str) -> None:
    assert f"did you mean {near}" in refusal(task)


@pytest.mark.parametrize(
    ("task", "option", "words"),
    [
        ("CartPole-v1", "max_episode_step", ("no option", "did you mean 'max_episode_steps'")),
        ("CartPole-v1", "batch_size", ("no option 'batch_size'",)),
        ("CartPole-v1", "seed", ("no option 'seed'",)),
        ("gymnax:CartPole-v1", "max_steps", ("did you mean 'max_steps_in_episode'",)),
        ("gymnasium:CartPole-v1", "sutton", ("cannot be made", "sutton")),
        ("probe:both", "length", ("length",)),
    ],
)
def test_an_unknown_option_is_refused_by_name(
    task: str, option: str, words: tuple[str, ...]
) -> None:
    message = refusal(task, **{option: 1})
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("task", "option"),
    [
        ("CartPole-v1", "max_episode_steps"),
        ("gymnasium:CartPole-v1", "max_episode_steps"),
        ("gymnax:CartPole-v1", "max_steps_in_episode"),
    ],
)
def test_options_reach_the_simulator(task: str, option: str) -> None:
    env = make(task, **{option: 3})
    with jax.enable_x64(env.spec.needs_float64):
        state, _ = env.reset(jax.random.key(0))
        truncated = []
        for _ in range(3):
            state, step = env.step(state, np.zeros(2, env.spec.action.dtype))
            truncated.append(np.asarray(step.truncated).all())
    assert truncated == [False, False, True]


def test_option_values_are_read_as_bool_int_float_or_text() -> None:
    given = ["a=true", "b=False", "c=3", "d=-2", "e=0.5", "f=1e-4", "g=soft", "h=x=y", "i="]
    read = parse_options(given)
    assert read == {
        "a": True,
        "b": False,
        "c": 3,
        "d": -2,
        "e": 0.5,
        "f": 1e-4,
        "g": "soft",
        "h": "x=y",
        "i": "",
    }
    kinds = [bool, bool, int, int, float, float, str, str, str]
    assert [type(v) for v in read.values()] == kinds


def test_missing_gymnax_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnax", None)
    assert "pip install 'surefoot[gymnax]'" in refusal("gymnax:CartPole-v1")


SOURCE = """
    import gymnasium, numpy as np
    from gymnasium import spaces
    from surefoot.envs.probes import Probe

    class Stone(gymnasium.Env):
        observation_space = spaces.Box(-1, 1, (2,))
        action_space = spaces.Discrete(2)
        made = 0

        def __init__(self, weight=1.0):
            type(self).made += 1
            self.weight = weight

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

        def step(self, action):
            return np.zeros(2, np.float32), self.weight, True, False, {}

    def quarry(weight=2.0):
        return Stone(weight)

    class Sign(Probe):
        def __init__(self, length=1):
            super().__init__(name="sign", length=length)

    probe = Sign()
    nothing = 3

    def wrong():
        return "a stone"

    def needs(weight):
        return Stone(weight)

    gymnasium.register("Stone-v7", entry_point=Stone)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = "stones_of_the_test"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)
    gymnasium.registry.pop("Stone-v7", None)


def first_reward(env: Environment) -> float:
    state, _ = env.reset(jax.random.key(0))
    _, step = env.step(state, np.zeros(env.spec.num_envs, env.spec.action.dtype))
    return float(step.reward[0])


def test_module_attribute_may_be_a_gymnasium_class_and_takes_options(module: str) -> None:
    env = make(f"{module}:Stone", weight=4.0)
    assert type(env) is GymnasiumEnvironment
    assert env.spec.name == f"{module}:Stone"
    assert first_reward(env) == 4.0
    assert sys.modules[module].Stone.made == 2


def test_module_attribute_may_be_a_factory(module: str) -> None:
    assert first_reward(make(f"{module}:quarry")) == 2.0
    assert first_reward(make(f"{module}:quarry", weight=3.0)) == 3.0


def test_module_attribute_may_be_a_single_environment_or_its_class(module: str) -> None:
    for task in (f"{module}:Sign", f"{module}:probe"):
        env = make(task)
        assert type(env) is JaxEnvironment
        assert first_reward(env) == 1.0


def test_instances_of_a_users_class_start_from_different_seeds(module: str) -> None:
    _, step = make(f"{module}:Stone", 3).reset(jax.random.key(0))
    assert len(np.unique(as_groups(step.observation)["observation"], axis=0)) == 3


def test_gymnasiums_own_module_prefix_is_understood(module: str) -> None:
    assert first_reward(make(f"gymnasium:{module}:Stone-v7")) == 1.0
    assert "no_such_module" in refusal("gymnasium:no_such_module:Stone-v7")


def test_unknown_modules_and_attributes_are_named(module: str) -> None:
    assert "there is no module 'no_such_module'" in refusal("no_such_module:Stone")
    assert f"{module} has no 'Ston'; did you mean 'Stone'" in refusal(f"{module}:Ston")


def test_options_that_do_not_fit_are_refused(module: str) -> None:
    assert "colour" in refusal(f"{module}:Stone", colour="grey")
    assert "weight" in refusal(f"{module}:needs")
    assert "length" in refusal(f"{module}:probe", length=3)


def test_what_makes_no_environment_is_refused(module: str) -> None:
    assert "made a str" in refusal(f"{module}:wrong")
    assert "is a int" in refusal(f"{module}:nothing")


def test_an_environment_of_the_right_size_is_taken_as_it_is() -> None:
    env = JaxEnvironment(make_probe("both"), 2)
    assert make(env) is env


def test_an_environment_of_another_size_is_refused_with_both_numbers() -> None:
    message = refusal(JaxEnvironment(make_probe("both"), 3))
    assert re.search(r"holds 3 environments, num_envs is 2", message)


def test_a_made_environment_takes_no_options() -> None:
    assert "env_options" in refusal(JaxEnvironment(make_probe("both"), 2), length=3)
    assert "env_options" in refusal(make_probe("both"), length=3)


def test_a_gymnasium_instance_is_refused_with_advice() -> None:
    message = refusal(gymnasium.make("CartPole-v1"))
    assert "pass its class or a function that makes it" in message


@pytest.mark.parametrize("task", [3, None, [1]])
def test_what_cannot_be_called_is_refused(task: Any) -> None:
    assert f"is a {type(task).__name__}" in refusal(task)


def test_objects_are_named_so_that_no_file_can_name_them() -> None:
    assert task_name("Hopper-v5") == "Hopper-v5"
    assert task_name(make_probe("both")) == "python:both"
    assert task_name(JaxEnvironment(make_probe("both"), 2)) == "python:both"
    assert task_name(GymnasiumEnvironment) == "python:GymnasiumEnvironment"
    assert names_code("python:both")


def test_names_that_import_a_module_of_their_choice_are_known() -> None:
    for task in ("mine:Robot", "folder/mine.py:Robot", "gymnasium:mine:Robot-v0"):
        assert names_code(task)
    for task in (
        "Hopper-v5",
        "robot:Go1Walk",
        "envpool:Hopper-v5",
        "gymnasium:Hopper-v5",
        "probe:both",
    ):
        assert not names_code(task)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("robots/mine.py:Reach", "there is no file 'mine.py' in "),
        ("tests/helper.py:Reach", "did you mean 'helpers.py'"),
        ("tests/helpers.py:TIN", r"tests/helpers.py has no 'TIN'; did you mean 'TINY'"),
        ("robot:Go1Wak", "unknown robot .*'Go1Wak'; did you mean 'Go1Walk'"),
        (":Reach", "not of the form module:attribute"),
        ("gymnasum:Hopper-v5", "did you mean 'gymnasium'"),
    ],
)
def test_a_slip_in_an_import_path_is_explained(task: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_environment(task, 1, seed=np.random.SeedSequence(0))


def test_only_names_outside_the_prefixes_are_import_paths() -> None:
    assert is_import_path("mine:Robot")
    for task in ("Hopper-v5", "envpool:Hopper-v5", "gymnasium:mine:Robot-v0", "probe:both"):
        assert not is_import_path(task)
