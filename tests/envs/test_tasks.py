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


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("[0.5, 2.0]", [0.5, 2.0]),
        ('["hip", "knee"]', ["hip", "knee"]),
        ("[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
        ("{stiffness = 20, names = ['a']}", {"stiffness": 20, "names": ["a"]}),
        ('"12"', "12"),
        ("'a, b'", "a, b"),
        ("1_000", 1000),
        ("1979-05-27", "1979-05-27"),
        ("07:32:00", "07:32:00"),
        ("models/leg [2].xml", "models/leg [2].xml"),
        ("a\nb = 2", "a\nb = 2"),
        ("1\nb = 2", "1\nb = 2"),
        ("# x", "# x"),
    ],
)
def test_option_values_are_toml(value: str, read: Any) -> None:
    (found,) = parse_options([f"range={value}"]).values()
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    "value",
    [
        *("[0.5, 2.0", "[hip, knee]", "{a: 1}", '"open', "0.5,2.0", "-1, 1e3"),
        *("[" * 3000, "{a = " * 3000, "[1e999]", "[9223372036854775808]"),  # beyond what is read
    ],
    ids=lambda value: value[:20],
)
def test_a_value_that_only_begins_as_toml_is_refused_with_the_way_to_write_it(value: str) -> None:
    with pytest.raises(ValueError, match=r"env_options: range=") as caught:
        parse_options([f"range={value}"])
    assert value in str(caught.value)
    assert "[" in str(caught.value)


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


class Boom:
    """A class of the user's whose own code raises."""

    def __init__(self, gain: float = 1.0) -> None:
        self.lines = list(None)  # type: ignore[call-overload]


def raises(error: BaseException) -> Any:
    def make() -> gymnasium.Env:
        raise error

    return make


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (Boom, "raised TypeError: 'NoneType' object is not iterable"),
        (raises(ZeroDivisionError("x")), "raised ZeroDivisionError: x"),
        (raises(SystemExit(2)), "raised SystemExit: 2"),
        (raises(OSError("no model")), "raised OSError: no model"),
    ],
)
def test_what_raises_while_it_is_made_is_told_with_the_authors_line_and_not_blamed_on_options(
    task: Any, says: str
) -> None:
    said = refusal(task)
    assert says in said
    assert "test_tasks.py" in said
    assert "options" not in said.partition("\n")[0]


def test_options_that_a_class_does_not_take_are_blamed_on_the_options() -> None:
    said = refusal(Boom, weight=3)
    assert "cannot be made with the options {'weight': 3}" in said
    assert "Traceback" not in said


def test_a_vector_env_and_an_old_gym_env_are_told_the_way_out() -> None:
    vector = gymnasium.make_vec("CartPole-v1", num_envs=2)
    assert "pass what makes one of them" in refusal(vector)
    assert "pass what makes one of them" in refusal(lambda: vector)
    old = type("OldEnv", (), {"__module__": "gym.envs.classic_control"})
    assert "import gymnasium as gym" in refusal(old)
    assert "import gymnasium as gym" in refusal(type("Mine", (old,), {})())


def written(folder: Path, name: str, text: str = "") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        text or "from surefoot.envs.probes import make_probe\nThis = make_probe('both')\n"
    )
    return file


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    before = dict(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - set(before):
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("name", ["test", "this", "antigravity", "json", "turtle", "numpy"])
def test_the_file_beside_the_user_wins_over_pythons_modules(name: str, here: Path) -> None:
    written(here, f"{name}.py")
    other = sys.modules.get(name)
    assert make(f"{name}:This").spec.name == "both"
    if other is not None:
        assert sys.modules[name] is other  # those who use it go on with it


def test_a_module_of_a_package_that_python_finds_elsewhere_is_refused_with_both(here: Path) -> None:
    file = written(here, "json/decoder.py")
    said = refusal("json.decoder:This")
    assert str(file) in said
    assert "json/decoder.py:This" in said
    written(here, "json/leg.py")
    said = refusal("json.leg:This")
    assert "name the file, json/leg.py:" in said


def test_a_module_of_a_folder_of_the_users_own_is_found(here: Path) -> None:
    written(here, "my_legs_of_the_test/leg.py")
    assert make("my_legs_of_the_test.leg:This").spec.name == "both"


@pytest.mark.parametrize(
    "text", ["def x(:", "import nothing_of_this_name", "1 / 0", "raise SystemExit(3)"]
)
@pytest.mark.parametrize("task", ["broken_of_the_test:This", "broken_of_the_test.py:This"])
def test_a_file_that_cannot_be_imported_is_one_error_each_time(
    task: str, text: str, here: Path
) -> None:
    written(here, "broken_of_the_test.py", text)
    first, second = refusal(task), refusal(task)
    assert "broken_of_the_test" in first
    assert first == second
