"""Options: what is accepted, and that a file gives back what was written."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from annotated_types import Interval
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.helpers import described

from surefoot.cli.arguments import whole_number
from surefoot.cli.options import read_with_options
from surefoot.cli.train import Arguments, parse
from surefoot.config import (
    SECTIONS,
    Config,
    bare,
    fixed_options,
    from_mapping,
    in_words,
    option_names,
    range_of,
    validate,
)
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
@example(task="[\n", option="key=[\n1,\n]", gamma=0, clip=0.2, target=None, hidden=[])
@settings(max_examples=100)
def test_a_file_gives_back_what_was_written(task, option, gamma, clip, target, hidden) -> None:
    config = Config(
        env_options=(option,),
        gamma=gamma,
        clip_epsilon=clip,
        target_kl=target,
        critic_hidden=tuple(hidden),
    )
    text = to_toml(config, task=task)
    lines = text.removesuffix("\n").split("\n")
    assert [line.split(" = ")[0] for line in lines] == ["task", *option_names()]
    options = parse_toml(text, where="file")
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
        ({"shared_trunk": True, "critic_epochs": 3}, "critic_epochs has no effect"),
        ({"recompute_advantages": True, "critic_epochs": 15}, "no multiple of num_epochs = 10"),
        ({"value_loss": "hl_gauss", "value_clip_epsilon": 0.2}, "clips squared errors"),
        ({"value_loss": "hl_gauss", "normalize_values": True}, "is for squared errors"),
        ({"gsde": True, "noise_color": 0.5}, "gsde and noise_color both say"),
        ({"gsde": True, "state_dependent_std": True}, "gsde and state_dependent_std both say"),
        ({"gsde": True, "symmetry": "average"}, "may be augment or off"),
        ({"memory": "gru", "symmetry": "average"}, "take symmetry = 'off' or memory = 'off'"),
        ({"gsde": True, "actor_hidden": ()}, "at least one layer in actor_hidden"),
        ({"num_envs": 3, "num_steps": 5}, r"3 \* 5 = 15; near divisors: 3, 5, 15"),
        ({"num_minibatches": 2048}, "one row to each minibatch"),
        (
            {"overlap": "full", "lag_correction": "vtrace", "advantage_estimator": "td"},
            "'vtrace' corrects gae, not 'td'",
        ),
        (
            {"stop_at_return": 9.0},
            "stop_at_return = 9.0 needs eval_every, such as eval_every = 50000",
        ),
        ({"stop_at_success": 0.5}, "stop_at_success = 0.5 needs eval_every"),
        ({"best_by": "success"}, "best_by = 'success' needs eval_every"),
        ({"from_critic": True}, "from_critic needs from_run"),
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


# --- what every option has

OPTIONS = {field.name: field for field in dataclasses.fields(Config)}
TYPES = get_type_hints(Config, include_extras=True)
RANGES = {name: found for name in OPTIONS if (found := range_of(TYPES[name]))}
TEXTS = {name: text for section in SECTIONS for name, text in described(section).items()}


def holds(hint: Any, *kinds: type) -> bool:
    """Whether a type is one of some, or one of them with a range, or perhaps none."""
    return hint in kinds or any(holds(arg, *kinds) for arg in get_args(hint))


def test_options_are_those_of_the_sections_in_their_order_and_no_name_is_in_two() -> None:
    names = [field.name for section in SECTIONS for field in dataclasses.fields(section)]
    assert len(set(names)) == len(names)
    assert option_names() == list(OPTIONS) == names
    assert all(name.isidentifier() and name == name.lower() for name in names)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_config_is_every_section_with_its_defaults(section: type) -> None:
    assert isinstance(Config(), section)
    alone = section()
    assert all(
        getattr(Config(), f.name) == getattr(alone, f.name) for f in dataclasses.fields(alone)
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(alone, dataclasses.fields(alone)[0].name, None)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_says_what_it_means_and_where_its_default_comes_from(name: str) -> None:
    meaning, source = TEXTS[name]
    assert len(meaning.split()) >= 2
    assert len(source) >= 2
    # a choice of ours says why
    assert source != "choice"


def test_help_says_what_the_fields_say(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        parse(["--help"])
    shown = " ".join(re.sub(r"[^\x20-\x7e\n]", "", capsys.readouterr().out).split())
    for name, (meaning, source) in TEXTS.items():
        assert f"--{name.replace('_', '-')}" in shown
        assert f"{meaning} [{source}]" in shown, name
    for name, interval in RANGES.items():
        assert f"range: {in_words(interval)})" in shown, name
    for section in SECTIONS:
        assert (
            f"{(section.__doc__ or '').partition(':')[0].lower().replace(' ', '-')} options"
            in shown
        )


@pytest.mark.parametrize("name", OPTIONS)
def test_every_number_has_a_range_and_nothing_else_has(name: str) -> None:
    hint = bare(TYPES[name])
    is_list = get_origin(hint) is tuple
    assert (name in RANGES) == (holds(hint, int, float) and not is_list)
    is_choice = get_origin(hint) is Literal
    assert is_choice or is_list or holds(hint, int, float, bool, str)


def beyond(name: str, interval: Interval) -> list[float]:
    """The numbers next to a range that are not in it."""
    whole = holds(TYPES[name], int)
    below = interval.gt if interval.gt is not None else interval.ge
    above = interval.lt if interval.lt is not None else interval.le
    outside = []
    for bound, is_open, to in (
        (below, interval.gt is not None, -math.inf),
        (above, interval.lt is not None, math.inf),
    ):
        if is_open:
            outside.append(bound)
        elif math.isfinite(bound):
            step = 1 if to > 0 else -1
            outside.append(bound + step if whole else math.nextafter(bound, to))
    return outside


@pytest.mark.parametrize("name", RANGES)
def test_a_number_just_outside_its_range_is_refused_with_the_range(name: str) -> None:
    outside = beyond(name, RANGES[name])
    assert outside
    for number in outside:
        with pytest.raises(ValueError, match=f"{name} = .* is out of range") as error:
            validate(Config().replace(**{name: number}))
        assert in_words(RANGES[name]) in str(error.value)


def test_a_range_is_found_inside_an_optional_and_is_written_as_mathematics_writes_it() -> None:
    assert range_of(TYPES["gamma"]) == Interval(ge=0, le=1)
    assert in_words(RANGES["gamma"]) == "[0, 1]"
    assert in_words(RANGES["target_kl"]) == "(0, inf)"  # or None
    assert in_words(RANGES["clip_epsilon"]) == "(0, inf]"
    assert in_words(RANGES["value_coef"]) == "[0, inf)"
    assert in_words(RANGES["entropy_coef"]) == "(-inf, inf)"
    for hint in (bool, str, int, None, Literal["a"], tuple[int, ...]):
        assert range_of(hint) is None


def test_options_import_little_so_that_the_command_line_has_its_help_at_once() -> None:
    script = (
        "import sys; before = set(sys.modules); import surefoot.config;"
        "new = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(*sorted(new - set(sys.stdlib_module_names)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    # the second is what the first imports where it is there
    known = {"annotated_types", "typing_extensions", "surefoot"}
    assert {"surefoot"} <= {*found.stdout.split()} <= known, found.stderr


@pytest.mark.parametrize(("written", "number"), [(1e6, 1_000_000), (2e3, 2000), (10.0, 10)])
def test_a_whole_number_may_be_written_with_an_exponent(written: float, number: int) -> None:
    read = from_mapping({"total_steps": written}).total_steps
    assert (read, type(read)) == (number, int)
    assert whole_number(f"{written:.0e}") == number


@pytest.mark.parametrize("written", ["1.5", "1e-3", "1.55e1", "x", "inf", "nan", "1e999", ""])
def test_what_is_no_whole_number_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        whole_number(written)


def test_the_command_line_takes_whole_numbers_with_an_exponent() -> None:
    _, config = read_with_options(Arguments, "train", ["probe:both", "--total-steps", "2.5e6"])
    assert config.total_steps == 2_500_000
    with pytest.raises(SystemExit):
        read_with_options(Arguments, "train", ["probe:both", "--total-steps", "2.5"])


# numbers of two runs may differ in these, and one run goes on with others: networks, streams and records fit
MAY_CHANGE = {
    *("total_steps", "num_steps", "env_options", "env_workers", "env_timeout", "on_env_failure"),
    *(
        "lag_correction",
        "min_std",
        "memory_minibatches",
        "bptt_steps",
        "observation_clip",
        "reward_clip",
    ),
    *("advantage_estimator", "gamma", "gae_lambda", "advantage_normalization", "min_advantage_std"),
    *("recompute_advantages", "surrogate", "clip_epsilon", "value_clip_epsilon", "value_coef"),
    *("entropy_coef", "num_epochs", "num_minibatches", "shuffle_each_epoch", "learning_rate"),
    *("critic_learning_rate", "learning_rate_schedule", "desired_kl", "target_kl", "max_grad_norm"),
    "critic_epochs",
    *(
        "adam_epsilon",
        "restart_adam",
        "outer_step",
        "max_refused_updates",
        "max_kl",
        "cg_steps",
        "cg_damping",
        "line_search_steps",
    ),
    "gsde_steps",
    *("checkpoint_every", "keep_checkpoints", "exact_resume", "video_every", "log"),
    *("eval_every", "eval_episodes", "best_by", "stop_at_return", "stop_at_success"),
}


def test_an_option_stays_for_a_whole_run_with_a_reason_or_is_one_that_may_change() -> None:
    fixed = fixed_options()
    assert set(fixed) | MAY_CHANGE == set(OPTIONS)
    assert not set(fixed) & MAY_CHANGE
    assert all(len(why.split()) > 5 for why in fixed.values())
