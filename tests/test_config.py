"""Options: what is accepted, and that a file gives back what was written."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.config import Config, from_mapping, option_names, validate
from surefoot.config_file import parse_toml, to_toml
from surefoot.errors import near_matches


def test_defaults_are_valid() -> None:
    assert validate(Config()) == Config()


@given(
    task=st.text(min_size=1),
    option=st.text().map(lambda text: f"key={text}"),
    gamma=st.floats(0, 1),
    clip=st.sampled_from([0.2, math.inf]),
    target=st.one_of(st.none(), st.floats(1e-6, 1e3)),
    hidden=st.lists(st.integers(1, 512), max_size=3),
)
@settings(max_examples=100)
def test_a_file_gives_back_what_was_written(task, option, gamma, clip, target, hidden) -> None:
    config = Config(
        env_options=(option,),
        gamma=gamma,
        clip_epsilon=clip,
        target_kl=target,
        critic_hidden=tuple(hidden),
    )
    options = parse_toml(to_toml(config, task=task), where="file")
    assert options.pop("task") == task
    assert set(options) == set(option_names())
    assert from_mapping(options) == config


@pytest.mark.parametrize("name", option_names())
def test_every_option_misspelt_by_one_letter_gets_its_name_suggested(name: str) -> None:
    wrong = name[:3] + name[4:] if len(name) > 4 else name + "s"
    with pytest.raises(ValueError, match=f"unknown option '{wrong}'.*did you mean.*'{name}'"):
        Config().replace(**{wrong: 1})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": 1.01}, r"gamma = 1.01 is out of range: it must be in \[0, 1\]"),
        ({"gamma": math.nan}, "gamma = nan is not a number"),
        ({"num_envs": 0}, r"num_envs = 0 is out of range: it must be in \[1, 1000000\]"),
        ({"learning_rate": 0.0}, r"must be in \(0, inf\)"),
        ({"observation_clip": -1.0}, r"must be in \(0, inf\]"),
        ({"seed": -1}, "seed = -1 is out of range"),
        ({"initial_std": 0.005}, "must lie above min_std = 0.01"),
        ({"actor_hidden": (64, 0)}, "every width must be at least 1"),
        ({"shared_trunk": True, "actor_hidden": ()}, "needs at least one layer"),
        ({"joint_loss": True, "critic_learning_rate": 1e-3}, "has no effect"),
        ({"num_envs": 3, "num_steps": 5}, r"3 \* 5 = 15; near divisors: 3, 5, 15"),
        ({"num_minibatches": 2048}, "one row to each minibatch"),
        ({"surrogate": "kl_penalty", "recompute_advantages": True}, "choose one of them"),
        (
            {"overlap": "full", "lag_correction": "vtrace", "advantage_estimator": "td"},
            "'vtrace' corrects gae, not 'td'",
        ),
        ({"env_options": ("noise",)}, "'noise' is not of the form KEY=VALUE"),
        ({"activation": "gelu"}, "not one of tanh, elu, relu, swish.*did you mean 'elu'"),
        ({"normalize_observations": 1}, "must be bool, not int"),
    ],
)
def test_what_cannot_be_right_is_refused_with_the_numbers(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        validate(dataclasses.replace(Config(), **options))


def test_divisors_of_a_huge_batch_are_found_at_once() -> None:
    with pytest.raises(ValueError, match="near divisors"):
        validate(Config(num_envs=1_000_000, num_steps=1_000_000, num_minibatches=7))


def test_near_matches_ignore_case_and_know_parts() -> None:
    assert "'CartPole-v1'" in near_matches("cartpole-V1", ["CartPole-v1", "Ant-v5"])
    assert "'Go1JoystickFlatTerrain-v1'" in near_matches("Go1", ["Go1JoystickFlatTerrain-v1"])
    assert near_matches("zzz", ["Ant-v5"]) == ""
