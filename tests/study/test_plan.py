"""What a study may ask for, and what is refused before anything is trained."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from surefoot.cli.presets import PRESETS
from surefoot.config import Config
from surefoot.errors import UserError
from surefoot.study.plan import Study, check, parse_study, write_study
from surefoot.study.presets import STUDIES, study_preset

TEXT = """
seeds = 3
baseline = "clip"
tasks = ["Hopper-v5"]

[options]
num_envs = 8

[arms.clip]

[arms."no clip"]
clip_epsilon = inf
value_clip_epsilon = "none"
"""


def parse(text: str = TEXT) -> Study:
    return parse_study(text, where="my.toml", presets=PRESETS)[0]


def refused(text: str = TEXT, **changes) -> str:
    with pytest.raises(UserError) as error:
        check(replace(parse(text), **changes))
    return str(error.value)


def test_a_study_is_read_from_toml() -> None:
    study = check(parse())
    assert study.config("Hopper-v5", "clip") == Config(num_envs=8)
    assert study.config("Hopper-v5", "no clip") == Config(num_envs=8, clip_epsilon=math.inf)
    assert (study.seeds, study.baseline, study.name) == (3, "clip", "my")


def test_a_task_may_start_from_a_preset() -> None:
    text = (
        TEXT.replace('tasks = ["Hopper-v5"]', "") + '[tasks."Go1"]\npreset = "go1"\ngamma = 0.9\n'
    )
    assert parse(text).tasks["Go1"] == PRESETS["go1"]().replace(num_envs=8, gamma=0.9)


@pytest.mark.parametrize("name", STUDIES)
def test_a_preset_is_a_study_and_its_text_reads_back(name: str) -> None:
    preset = study_preset(name)
    tasks = {"Hopper-v5": Config(), "Go1JoystickFlatTerrain-v1": PRESETS["go1"]()}
    study = check(Study(name, tasks, preset.arms, preset.baseline, 10, question=preset.question))
    again = check(parse_study(write_study(study), where="study.toml", presets=PRESETS)[0])
    assert again == study
    assert again.question == study.question
    for task in tasks:
        for arm in study.arms:
            assert again.config(task, arm) == study.config(task, arm)


def test_names_may_hold_what_toml_is_made_of() -> None:
    name = "a \"b\".c\n[d]\n= ''' # \\"
    arms = {name: {"clip_epsilon": math.inf, "target_kl": None, "actor_hidden": (8, 8)}, "b": {}}
    tasks = {name: Config(env_options=(f"a={name}",))}
    study = check(Study(name, tasks, arms, name, 2, question=name))
    again = check(parse_study(write_study(study), where="study.toml", presets=PRESETS)[0])
    assert (again.name, again.question, again.tasks) == (name, name, tasks)
    assert [again.config(name, arm) for arm in arms] == [study.config(name, arm) for arm in arms]


def test_the_arms_of_the_paper_are_as_its_table_says() -> None:
    arms = study_preset("implementation-matters").arms
    first = ("value_clip_epsilon", "scale_rewards", "orthogonal_init", "learning_rate_schedule")
    second = ("normalize_observations", "activation", "max_grad_norm")
    of = {arm: Config().replace(**options) for arm, options in arms.items()}
    for name in first:
        assert getattr(of["PPO"], name) == getattr(of["PPO-NoClip"], name)
        assert getattr(of["PPO"], name) == getattr(of["TRPO+"], name)
        assert getattr(of["PPO-M"], name) == getattr(of["TRPO"], name) != getattr(of["PPO"], name)
    for name in second:
        assert len({getattr(of[arm], name) for arm in ("PPO", "PPO-M", "PPO-NoClip", "TRPO+")}) == 1
        assert getattr(of["TRPO"], name) != getattr(of["PPO"], name)
    assert [of[arm].algorithm for arm in arms] == ["ppo", "ppo", "ppo", "trpo", "trpo"]
    assert of["PPO-NoClip"].clip_epsilon == math.inf


def test_every_stabilizer_is_switched_alone_and_alone_left_out() -> None:
    arms = study_preset("code-level").arms
    bare, default = Config().replace(**arms["bare"]), Config()
    for name in [arm.removeprefix("bare + ") for arm in arms if arm.startswith("bare + ")]:
        out = default.replace(**arms[f"without {name}"])
        alone = default.replace(**arms[f"bare + {name}"])
        changed = {k for k in arms["bare"] if getattr(out, k) != getattr(default, k)}
        assert changed
        assert changed == {k for k in arms["bare"] if getattr(alone, k) != getattr(bare, k)}


def test_an_unknown_arm_option_gets_a_suggestion() -> None:
    said = refused(TEXT.replace("clip_epsilon = inf", "clip_epsilom = inf"))
    assert "arm 'no clip'" in said
    assert "did you mean 'clip_epsilon'" in said


def test_an_arms_bad_value_names_arm_and_task() -> None:
    said = refused(TEXT.replace("clip_epsilon = inf", "clip_epsilon = -1.0"))
    assert "arm 'no clip' on Hopper-v5: clip_epsilon = -1.0 is out of range" in said


@pytest.mark.parametrize("seeds", [0, 1, -3])
def test_too_few_seeds_are_refused(seeds: int) -> None:
    assert f"seeds = {seeds}: an interval needs at least 2 seeds" in refused(seeds=seeds)


def test_seeds_begin_where_asked_and_never_among_those_that_are_tuned_on() -> None:
    study = check(parse("first_seed = 7\n" + TEXT))
    assert [*study.every_seed] == [7, 8, 9]
    assert [*parse().every_seed] == [0, 1, 2]
    assert parse(write_study(study)).every_seed == study.every_seed
    assert "first_seed = -1 must be in" in refused(first_seed=-1)
    for first in (1_000_000 - 2, 1_000_001):
        check(replace(parse(), first_seed=first))
        assert "1000000 to 1000001, which must not" in refused(first_seed=first, tune_lr=2)
    check(replace(parse(), first_seed=1_000_002, tune_lr=2))


def test_equal_arms_are_refused() -> None:
    said = refused(TEXT.replace("clip_epsilon = inf", "clip_epsilon = 0.2"))
    assert "arms 'clip' and 'no clip' have the same options" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": {}}, "at least one task"),
        ({"arms": {"clip": {}}}, "at least 2 arms"),
        ({"baseline": "clp"}, "did you mean 'clip'"),
        ({"tune_lr": 1}, "at least 2 learning rates"),
        ({"evaluations": 0}, "evaluations = 0"),
        ({"arms": {"clip": {}, "b": {"seed": 3}}}, "sets seed"),
        ({"arms": {"clip": {}, "b": {"total_steps": 3}}}, "sets total_steps"),
        ({"arms": {"clip": {}, "b": {"env_options": ["a=1"]}}}, "sets a=1 of the task"),
        ({"tasks": {"Hopper-v5": Config(seed=3)}}, "sets seed = 3"),
        ({"arms": {"clip": {}, "cl/ip": {}, "cl ip": {"gamma": 0.9}}}, "needs a name"),
        ({"arms": {"clip": {}, "???": {"gamma": 0.9}}}, "needs a name"),
    ],
)
def test_what_cannot_be_answered_is_refused(changes: dict, said: str) -> None:
    assert said in refused(**changes)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds = 3", "seds = 3", "did you mean 'seeds'"),
        ("seeds = 3", "seeds = 'many'", "seeds in my.toml must be int"),
        ("seeds = 3", "seeds = true", "seeds in my.toml must be int"),
        ("seeds = 3", "seeds =", "not valid TOML"),
        ('["Hopper-v5"]', '["my_module:Env"]', "no import path is taken from a file"),
        ('["Hopper-v5"]', "[1]", "tasks in my.toml must be tables"),
        (TEXT, "arms = 3", "arms in my.toml must be tables"),
        ("num_envs = 8", "num_env = 8", "task 'Hopper-v5': unknown option 'num_env'; did you mean"),
        ('tasks = ["Hopper-v5"]', "as_it_comes = 1", "as_it_comes in my.toml must be bool"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused(old: str, new: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        parse(TEXT.replace(old, new))
    assert said in str(error.value)


def test_learning_rates_are_the_arms_own_times_powers_of_three() -> None:
    from dataclasses import replace

    study = replace(parse(), tune_lr=3)
    rates = study.learning_rates(Config(learning_rate=3e-4))
    assert [round(rate / 3e-4, 6) for rate in rates] == [round(1 / 3, 6), 1.0, 3.0]
    two = replace(parse(), tune_lr=2).learning_rates(Config(learning_rate=3e-4))
    assert [round(rate / 3e-4, 6) for rate in two] == [round(1 / 3, 6), 1.0]


def test_a_task_that_the_user_named_may_be_code_and_has_the_files_options() -> None:
    text = TEXT.replace("Hopper-v5", "my_module:Env")
    study, shared = parse_study(text, where="my.toml", presets=PRESETS, asked=["my_module:Env"])
    assert list(study.tasks) == ["my_module:Env"]
    assert shared == {"num_envs": 8}


def test_bounds_of_returns_are_read_and_written() -> None:
    study = check(parse(TEXT + "[bounds]\nHopper-v5 = [-1, inf]\n"))
    assert study.bounds == {"Hopper-v5": (-1.0, math.inf)}
    assert parse(write_study(study)).bounds == study.bounds
    assert study == parse()  # they change no run


@pytest.mark.parametrize("value", ["5", "[1]", "[2, 1]", "[1, 1]", '["a", "b"]', "[nan, 1]"])
def test_bounds_that_cannot_be_are_refused(value: str) -> None:
    assert "must be [LEAST, MOST]" in refused(TEXT + f"[bounds]\nHopper-v5 = {value}\n")


def test_bounds_are_of_tasks_of_the_study() -> None:
    assert "'Hopper-v5'" in refused(TEXT + "[bounds]\nHoper-v5 = [0, 1]\n")
    assert "must be [LEAST, MOST]" in refused("bounds = 5\n" + TEXT)


def test_an_arm_changes_the_task_options_that_leave_the_reward() -> None:
    text = TEXT.replace("seeds = 3", 'seeds = 3\narm_env_options = ["b", "c"]')
    text = text.replace("num_envs = 8", 'env_options = ["a=1", "b=2"]')
    study = check(parse(text + 'env_options = ["b=3", "c=4"]\n'))
    assert study.config("Hopper-v5", "clip").env_options == ("a=1", "b=2")
    assert study.config("Hopper-v5", "no clip").env_options == ("a=1", "b=3", "c=4")
    assert parse_study(write_study(study), where="my.toml", presets=PRESETS)[0] == study
    assert "arm 'no clip' sets a=2 of the task" in refused(text + 'env_options = ["a=2"]\n')
    assert "arm_env_options in my.toml must be list" in refused(text.replace('["b", "c"]', "[1]"))
