"""What authors of tasks get wrong is told in one line, with the place, before a step is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from tests.robots.test_environment import POLE, Pole

from surefoot.config import Config
from surefoot.envs.tasks import make_environment, own_options, robot_task
from surefoot.errors import UserError
from surefoot.robots import Actuation, RobotEnvironment, RobotTask, Sensing, Start
from surefoot.robots.environment import fingerprint
from surefoot.robots.symmetry import Mirror

# what each method must not return, and what of it is said
NOTHING = "nothing \\(is `return` missing"
ODD: dict[str, list[tuple[Any, str]]] = {
    "reset": [(None, NOTHING), (jnp.zeros(1), "float32 of shape \\(1,\\)")],
    "command": [(None, NOTHING), ("fast", "a str")],
    "control": [(None, NOTHING), (jnp.zeros(2), "float32 of shape \\(2,\\)"), (0.0, "a float")],
    "remember": [(None, NOTHING), (jnp.zeros(2), "an array of shape"), ({"a": 0.0}, "began with")],
    "observe": [(None, NOTHING), ([0.0, 1.0], "a list"), ({"state": None}, NOTHING)],
    "rewards": [(None, NOTHING), (jnp.zeros(()), "float32 of shape"), ({"near": None}, NOTHING)],
    "terminated": [
        (None, NOTHING),
        (jnp.zeros(()), "float32"),
        (jnp.zeros(2, bool), "bool of shape"),
    ],
    "metrics": [(None, NOTHING), ({"far": jnp.zeros(3)}, "far has shape \\(3,\\)")],
    "events": [(None, NOTHING), ({"qvel": None}, NOTHING)],
    "randomize": [(None, NOTHING), ({"body_mass": "heavy"}, "a str")],
    "next_level": [(None, NOTHING), (jnp.ones(3), "float32 of shape \\(3,\\)")],
}


@pytest.mark.parametrize(
    ("method", "value", "says"), [(m, value, says) for m, odd in ODD.items() for value, says in odd]
)
def test_what_a_method_returns_is_told_with_its_place(method: str, value: Any, says: str) -> None:
    def wrong(self: Any, *arguments: Any) -> Any:
        return value

    task = type("Wrong", (Pole,), {method: wrong})()
    place = f"Wrong.{method}\\(\\) \\({__file__}:{inspect.getsourcelines(wrong)[1]}\\)"
    with pytest.raises(UserError, match=f"^{place}.*{says}"):
        RobotEnvironment(task, 1)


def test_every_method_that_is_traced_is_among_them() -> None:
    hooks = {n for n, x in vars(RobotTask).items() if inspect.isfunction(x) and n[0] != "_"}
    others = {"edit", "mirrored", "reflect", "replace", "practised", "overrides"}
    assert {*ODD} == hooks - others


@pytest.mark.parametrize(
    ("look", "says"),
    [
        (lambda s: s.body("amr").position, "has no body 'amr'; did you mean 'arm'"),
        (lambda s: s.sensor("gyro"), "has no sensor 'gyro'"),
        (lambda s: s.joints("k*").qpos, "has no joint that matches 'k\\*'"),
        (lambda s: s.joint("hip").qpso, "no attribute 'qpso'; did you mean 'qpos'"),
        (lambda s: s.qpos[0] + [1.0], "unsupported operand"),
    ],
)
def test_a_mistake_within_a_method_is_told_with_its_line(
    look: Callable[..., Any], says: str
) -> None:
    class Looks(Pole):
        def observe(self, s: Any) -> Any:
            return {"state": jnp.atleast_1d(look(s))}

    line = inspect.getsourcelines(look)[1]
    with pytest.raises(UserError, match=says) as told:
        RobotEnvironment(Looks(), 1)
    assert f"({__file__}:{line})" in str(told.value)


def test_lines_are_told_of_files_below_folders_that_are_called_as_ours(tmp_path: Path) -> None:
    folder = tmp_path / "surefoot/robots"
    folder.mkdir(parents=True)
    file = folder / "deep.py"
    file.write_text(
        "from tests.robots.test_environment import Pole\n\n\nclass Deep(Pole):\n"
        "    def observe(self, s):\n        return s.nothing\n"
    )
    with pytest.raises(UserError, match=f"{file}:6"):
        make_environment(f"{file}:Deep", 1, seed=np.random.SeedSequence(0))


def test_what_a_function_keeps_for_the_next_call_belongs_in_the_carry() -> None:
    kept = []

    class Keeps(Pole):
        def rewards(self, s: Any) -> Any:
            kept.append(s.qpos[0])
            return {"moved": s.qpos[0] - kept[-2] if len(kept) > 1 else s.qpos[0]}

    with pytest.raises(UserError, match=r"Keeps.* keeps a number of one call for the next.* carry"):
        RobotEnvironment(Keeps(), 1).reset(jax.random.key(0))


# the class


def has(**given: Any) -> Pole:
    return type("Own", (Pole,), given)()


@dataclass(frozen=True)
class Bare(RobotTask):
    """Nothing of its own."""

    model: Any = Pole.model


@pytest.mark.parametrize(
    "name", ["terminate", "randomise", "practise", "reward", "event", "observes"]
)
def test_names_that_are_nearly_those_of_methods_are_told(name: str) -> None:
    def method(self: Any, *arguments: Any) -> Any:
        return {}

    meant = {"randomise": "randomize", "practise": "practice", "terminate": "terminated"}
    task = type("Own", (Bare,), {name: method})()
    with pytest.raises(UserError, match=f"Own has '{name}', .* mean '{meant.get(name, name[:5])}"):
        RobotEnvironment(task, 1)


def test_helpers_of_ones_own_may_be_called_nearly_so() -> None:
    class Helped(Pole):
        def terminate(self, s: Any) -> Any:
            return s.qpos[0] > 1

        def terminated(self, s: Any) -> Any:
            return self.terminate(s)

        def reward(self, s: Any) -> Any:
            return s.qpos[0]

        def metrics(self, s: Any) -> Any:
            return {"own": self.reward(s)}

    RobotEnvironment(Helped(), 1)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"actuation": "position"}, "actuation = 'position', it must be a Actuation"),
        ({"training": {}}, "training = {}, it must be a Config"),
        ({"sensing": Sensing()}, "it must be a dict"),
        ({"sensing": {"state": 0.1}}, r"sensing\['state'\] = 0.1, it must be a Sensing"),
        (
            {"sensing": {"state": Sensing(noise=(0.1, 0.2))}},
            r"noise of the group 'state' .* \(2,\).* 3",
        ),
        ({"practice": {"episode": 3.0}}, "'episode'; did you mean 'episode_s'"),
        ({"mirror": (("FR", "FL"),)}, "it must be a Mirror"),
        ({"near": np.zeros(3)}, r"near = an array of shape \(3,\), but its default stays 1.0"),
        ({"episode_s": 0.001}, "dataclass"),
        (
            {"edit": lambda self, spec: spec.copy()},
            r"edit\(\) .* returns something: .* change `spec`",
        ),
        ({"rewards": lambda self, s: {"success": 1.0}}, "no term may be called 'success'"),
    ],
)
def test_what_a_class_says_is_checked(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        RobotEnvironment(has(**given), 1)


def test_an_episode_is_a_control_step_at_least() -> None:
    with pytest.raises(
        UserError, match=r"episode_s = 0.001 is less than one control step of 0.02 s"
    ):
        RobotEnvironment(Pole(episode_s=0.001), 1)


@pytest.mark.parametrize("swap", ["FR", ("FR", "FL"), (("FR",),), ((1, 2),), (("", "FL"),)])
def test_a_mirror_is_pairs_of_parts_of_names(swap: Any) -> None:
    with pytest.raises(UserError, match="it must be pairs of parts of names"):
        Mirror(swap)


def test_a_model_that_cannot_be_used_is_told_with_its_line() -> None:
    def raises() -> Any:
        return 1 / 0

    line = inspect.getsourcelines(raises)[1] + 1
    with pytest.raises(UserError, match=rf"Pole.model \({__file__}:{line}\): division by zero"):
        RobotEnvironment(Pole(model=raises), 1)
    with pytest.raises(UserError, match=r"model is text of XML: give mujoco\.MjSpec\.from_string"):
        RobotEnvironment(Pole(model=POLE), 1)
    compiled: Any = mujoco.MjModel.from_xml_string(POLE)
    with pytest.raises(
        UserError, match=r"model is a MjModel: .* a mujoco\.MjSpec, which can be edited"
    ):
        RobotEnvironment(Pole(model=compiled), 1)
    for flag, says in (
        ('<option><flag sleep="enable"/></option>', "does not step many copies of it: sleep"),
        ('<size memory="1K"/>', "an episode cannot begin: .*out of memory"),
    ):
        # in the floor, so that there are contacts to be solved
        text = POLE.replace("<worldbody>", f"{flag}<worldbody>").replace("0 0 1", "0 0 .3")
        spec = mujoco.MjSpec.from_string(text)
        with pytest.raises(UserError, match=says) as told:
            RobotEnvironment(Pole(model=spec), 1).reset(jax.random.key(0))
        assert "\n" not in str(told.value)


# starts


@pytest.mark.extended
@pytest.mark.parametrize("odd", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("what", ["qpos", "qvel", "body_mass"])
def test_a_start_that_is_not_finite_is_drawn_again_and_told(odd: float, what: str) -> None:
    class Odd(Pole):
        share: Any = 0.5

        def reset(self, robot: Any, key: jax.Array, level: jax.Array) -> Start:
            number = jnp.where(jax.random.bernoulli(key, self.share), odd, 0.25)
            return Start(**{what: number[None]} if what[0] == "q" else {}, carry=jnp.zeros(()))

        def randomize(self, robot: Any, key: jax.Array) -> Any:
            draw = jnp.where(jax.random.bernoulli(key, self.share), odd, 2.0)
            return {"body_mass": robot.model.body_mass * (1.0 if what[0] == "q" else draw)} | (
                {} if what[0] != "q" else {"dof_damping": jax.random.uniform(key, (1,))}
            )

    if what[0] == "q":  # a mass that never differs is refused
        Odd.randomize = lambda self, robot, key: {"dof_damping": jax.random.uniform(key, (1,))}
    said: list[str] = []
    env = RobotEnvironment(Odd(), 64)
    env.log_to(said.append)
    (_, physics), step = env.reset(jax.random.key(0))
    assert np.isfinite(step.observation["state"]).all()
    if what[0] == "q":
        np.testing.assert_array_equal(physics.rows[:, 1 if what == "qpos" else 2], 0.25)
    else:
        np.testing.assert_allclose(physics.model["body_mass"][:, 1], 2.0)
    method = "reset" if what[0] == "q" else "randomize"
    assert f"{what} of Odd.{method}() ({__file__}:" in said[0]
    assert "is not finite; drawn again" in said[0]
    assert 3 <= len(said) <= 8
    Odd.share = 1.0
    with pytest.raises(UserError, match=rf"environment 0: {what} of .* not finite, 8 times"):
        RobotEnvironment(Odd(), 2).reset(jax.random.key(0))


def test_a_randomization_that_is_rare_is_one() -> None:
    class Rare(Pole):
        share: Any = 0.05

        def randomize(self, robot: Any, key: jax.Array) -> Any:
            rare = jax.random.bernoulli(key, self.share)
            return {"body_mass": robot.model.body_mass * jnp.where(rare, 2.0, 1.0)}

    RobotEnvironment(Rare(), 1)
    Rare.share = 0.0
    with pytest.raises(UserError, match="body_mass never differs"):
        RobotEnvironment(Rare(), 1)


# the fingerprint


def with_field(value: Any) -> Pole:
    kind = make_dataclass("With", [("reference", Any, None)], bases=(Pole,), frozen=True)
    return kind(reference=value)


class Thing:
    """Whose text has an address."""

    def __init__(self, number: int) -> None:
        self.number = number


def test_the_fingerprint_is_that_of_the_fields_values() -> None:
    def motion(at: int) -> Any:
        return np.eye(1, 2000, at)

    for make in (motion, lambda n: jnp.asarray(motion(n)), Thing, lambda n: {"a": Thing(n)}):
        assert fingerprint(with_field(make(7))) == fingerprint(with_field(make(7)))
        if make is not None and not isinstance(make(7), dict):
            assert fingerprint(with_field(make(7))) != fingerprint(with_field(make(8)))
    scale = [lambda x, by=by: x * by for by in (2.0, 2.0, 3.0)]
    first, same, other = (fingerprint(with_field(f)) for f in scale)
    assert first == same != other


# functions that make tasks


@dataclass(frozen=True)
class Tuned(Pole):
    """With options of its own."""

    training = Config(num_envs=3, gamma=0.9)


def makes_tuned(near: float = 1.0) -> Tuned:
    """A task, made."""
    return Tuned(near=near)


def test_the_options_of_a_task_that_a_function_makes_count() -> None:
    for task in (makes_tuned, f"{__file__}:makes_tuned"):
        assert own_options(task).num_envs == 3
        assert robot_task(task, {"near": 2.0}).near == 2.0


def test_an_option_comes_before_what_the_edit_says() -> None:
    class Fine(Pole):
        def edit(self, spec: Any) -> None:
            spec.option.timestep = 0.01

    for seconds, step in ((None, 0.01), (0.002, 0.002)):
        env = RobotEnvironment(Fine(physics_dt_s=seconds), 1)
        assert env.robot.model.opt.timestep == step


def test_a_file_without_a_name_tells_what_is_in_it(tmp_path: Path) -> None:
    file = tmp_path / "reach.py"
    file.write_text("class Reach: ...\ndef make(): ...\ndef _own(): ...\n")
    with pytest.raises(UserError, match=rf"of the file: {file}:Reach or {file}:make$"):
        robot_task(str(file))
    with pytest.raises(UserError, match=r"no file 'reech.py' in .*; did you mean 'reach.py'"):
        robot_task(str(tmp_path / "reech.py"))


def test_a_model_is_looked_for_beside_the_class_that_names_it(tmp_path: Path) -> None:
    for folder in ("base", "sub"):
        (tmp_path / folder).mkdir()
    (tmp_path / "base/own.xml").write_text(POLE)
    (tmp_path / "base/of_base.py").write_text(
        "from tests.robots.test_environment import Pole\n\n\nclass Base(Pole):\n    model = 'own.xml'\n"
    )
    (tmp_path / "sub/of_sub.py").write_text(
        f"import sys\nsys.path.append({str(tmp_path / 'base')!r})\nfrom of_base import Base\n"
        "from dataclasses import dataclass\nfrom typing import Any\n\n\n@dataclass(frozen=True)\n"
        "class Sub(Base):\n    model: Any = 'own.xml'\n"
    )
    make_environment(f"{tmp_path / 'sub/of_sub.py'}:Sub", 1, seed=np.random.SeedSequence(0)).close()


def test_actuations_options_are_checked() -> None:
    for options, says in (
        ({"kind": "postion"}, "unknown kind of actuation: 'postion'; did you mean 'position'"),
        ({"scale": [0.5, 0.5]}, r"scale = \[0.5, 0.5\]: it must be one number"),
        ({"stiffness": {"hip": "hard"}}, "stiffness = .*: it must be one number"),
        ({"delay_steps": 2}, r"actuation: delay_steps = 2: it must be \(fewest, most\)"),
        ({"bound": -1.0}, "bound = -1.0: it must be above 0"),
    ):
        with pytest.raises(UserError, match=says):
            Actuation(**options)
    with pytest.raises(UserError, match=r"sensing: delay_steps = 2: it must be \(fewest, most\)"):
        Sensing(delay_steps=2)  # pyright: ignore[reportArgumentType]
