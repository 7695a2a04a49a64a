"""Spaces: what a file may say, and what is refused before anything is trained."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from tests.test_docs import blocks

from surefoot.config import Config, from_mapping, option_names, typed
from surefoot.envs.tasks import own_options
from surefoot.errors import UserError
from surefoot.robots.tasks import TASKS
from surefoot.tune.space import (
    SPACES,
    Choices,
    Range,
    contains,
    not_tuned,
    parse_space,
    shipped_space,
)


def error(text: str) -> str:
    with pytest.raises(UserError) as refused:
        parse_space(text, where="space.toml")
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_file_says_ranges_choices_and_what_all_share() -> None:
    text = """
    learning_rate = {low = 1e-4, high = 1e-2, log = true}
    num_epochs = {low = 3, high = 10}
    target_kl = ["none", 0.01]
    actor_hidden = [[64, 64], [128, 128]]
    [options]
    num_envs = 8
    """
    space, shared = parse_space(text, where="space.toml")
    assert space == {
        "learning_rate": Range(1e-4, 1e-2, log=True),
        "num_epochs": Range(3, 10),
        "target_kl": Choices((None, 0.01)),
        "actor_hidden": Choices(((64, 64), (128, 128))),
    }
    assert shared == {"num_envs": 8}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "names no option"),
        ("learning_rat = [1e-3, 1e-4]", "did you mean 'learning_rate'"),
        ("gamma = [0.9, 1.9]", "gamma = 1.9 is out of range: it must be in [0, 1]"),
        ("gamma = [0.9]", "at least 2 values"),
        ("gamma = [0.9, 0.9]", "twice"),
        ("gamma = 0.9", "must be a list of choices"),
        ("num_epochs = {low = 1.5, high = 9}", "num_epochs = 1.5 must be int, not float"),
        ("gamma = {low = 0.9, hihg = 0.99}", "did you mean 'high'"),
        ("gamma = {low = 0.9}", "gamma has no high"),
        ("gamma = {low = 0.99, high = 0.9}", "low = 0.99 of gamma must lie below high = 0.9"),
        ("gamma = {low = 0.9, high = 0.99, log = 1}", "must be true or false, not 1"),
        ("entropy_coef = {low = 0.0, high = 0.1, log = true}", "must be above 0 with log"),
        ("clip_epsilon = {low = 0.1, high = inf}", "give a list of choices"),
        ("activation = {low = 'elu', high = 'tanh'}", "give a list of choices"),
        ("shared_trunk = {low = false, high = true}", "give a list of choices"),
        ("activation = ['elu', 'tan']", "did you mean 'tanh'"),
        ("seed = [0, 1]", "seed in space.toml cannot be tuned: every trial is judged on the same"),
        ("total_steps = [100, 200]", "the same budget, --total-steps"),
        ("log = [['wandb'], []]", "it changes nothing that is learned"),
        ("env_options = [['a=1'], []]", "scores of other tasks"),
        ("gamma = [0.9, 0.99]\n[options]\nnum_env = 3", "did you mean 'num_envs'"),
        ("gamma = [0.9, 0.99]\n[options]\nseed = 3", "judged on the same seeds"),
        ("options = 3\ngamma = [0.9, 0.99]", "must be a table"),
        ("gamma = [", "is not valid TOML"),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(text: str, told: str) -> None:
    assert told in error(text)


scalars = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans(), st.text(max_size=8)
)
ranges = st.dictionaries(st.sampled_from(["low", "high", "log", "step"]), scalars, max_size=4)
values = st.one_of(scalars, ranges, st.lists(st.one_of(scalars, st.lists(scalars, max_size=2))))
names = st.one_of(st.sampled_from([*option_names(), "options"]), st.text(min_size=1, max_size=8))


@given(st.dictionaries(names, values, max_size=3))
def test_any_file_is_a_space_of_valid_values_or_one_sentence(table: dict[str, Any]) -> None:
    try:
        space, _ = parse_space(tomli_w.dumps(table), where="space.toml")
    except UserError:
        return
    for name, part in space.items():
        assert name not in not_tuned()
        ends = part.values if isinstance(part, Choices) else (part.low, part.high)
        assert len(set(ends)) >= 2
        assert all(typed(name, value) == value for value in ends)


def test_reasons_are_of_options_there_are() -> None:
    assert set(not_tuned()) < set(option_names())
    for space in SPACES.values():
        assert not set(space) & set(not_tuned())


def test_shipped_spaces_are_chosen_by_the_task() -> None:
    assert shipped_space("robot:Go1Walk", "continuous") == "robots"
    assert shipped_space("Hopper-v5", "continuous") == "continuous"
    assert {shipped_space("x", kind) for kind in ("discrete", "multi_discrete", "binary")} == {
        "discrete"
    }


def test_shipped_spaces_hold_the_defaults() -> None:
    assert contains(SPACES["continuous"], Config())
    assert contains(SPACES["discrete"], Config())
    for name in TASKS:
        task = f"robot:{name}"
        assert contains(SPACES["robots"], own_options(task)), task


@pytest.mark.parametrize("kind", SPACES)
def test_no_combination_of_a_shipped_space_is_refused(kind: str) -> None:
    space = SPACES[kind]
    bases = [Config()]
    if kind == "robots":
        bases = list({own_options(f"robot:{name}") for name in TASKS})
    ends = {
        name: part.values if isinstance(part, Choices) else (part.low, part.high)
        for name, part in space.items()
    }
    together = ("num_steps", "num_minibatches")  # what validate may refuse of two
    for base in bases:
        for name in space.keys() - set(together):
            for value in ends[name]:
                from_mapping({name: value}, base=base)
        for pair in itertools.product(*(ends[name] for name in together)):
            from_mapping(dict(zip(together, pair, strict=True)), base=base)


def test_the_space_that_the_documentation_shows_is_one() -> None:
    shown = [block.text for block in blocks("toml") if block.page == "docs/tuning.md"]
    assert len(shown) == 1
    assert parse_space(shown[0], where="docs/tuning.md")[0]
