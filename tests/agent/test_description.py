"""What policy.json says of a policy, and how what cannot be one is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from surefoot.agent import NormalizerSpec, PolicySpec, from_json, to_json
from surefoot.envs import ActionSpec, ObservationSpec
from surefoot.networks import MemorySpec, PolicyHead, TorsoSpec

INF = float("inf")
SPEC = PolicySpec(
    observations={
        "state": ObservationSpec((3,)),
        "legs": ObservationSpec((2,), choices=(2, 3), starts=(0, -1)),
        "phase": ObservationSpec((), choices=(4,), starts=(7,)),
    },
    torso=TorsoSpec(("legs", "state", "phase"), 12, (8, 4), "elu"),
    head=PolicyHead("beta", (2,), state_dependent_std=False, min_std=0.125),
    action=ActionSpec("continuous", (2,), (-INF, -1.0), (INF, 2.5), (2, 1), "float64"),
    normalizer=NormalizerSpec(True, INF),
)
SHIFTED = dataclasses.replace(
    SPEC,
    action=ActionSpec("multi_discrete", (2, 3), shape=(2,), dtype="int64", start=(4, -1)),
    head=PolicyHead("multi_discrete", (2, 3)),
)
REMEMBERS = dataclasses.replace(
    SPEC, torso=dataclasses.replace(SPEC.torso, memory=MemorySpec("lstm", 8, 2, bptt_steps=16))
)
SIMPLE = dataclasses.replace(
    SPEC, action=ActionSpec("discrete", (3,), start=-2), head=PolicyHead("discrete", (3,))
)


def written(spec: Any = SPEC) -> Any:
    """As a file holds it: JSON proper, which has no infinity and no NaN."""
    return json.loads(json.dumps(to_json(spec), allow_nan=False))


SPECS = {"inf": SPEC, "starts": SHIFTED, "start": SIMPLE, "memory": REMEMBERS}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_policys_spec_comes_back_from_json_as_it_was(spec: PolicySpec) -> None:
    again = from_json(PolicySpec, written(spec))
    assert again == spec
    assert list(again.observations) == list(spec.observations)


def test_what_is_written_are_the_fields_by_name() -> None:
    described = written()
    assert list(described) == ["observations", "torso", "head", "action", "normalizer", "symmetry"]
    assert described["observations"]["legs"] == {
        "shape": [2],
        "choices": [2, 3],
        "starts": [0, -1],
        "origin": None,
    }
    assert described["action"]["low"] == ["-inf", -1.0]
    assert described["action"]["high"] == ["inf", 2.5]
    assert described["normalizer"] == {"enabled": True, "clip": "inf", "reflections": None}


MISTAKES: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "no mapping": (("torso",), [1], "PolicySpec.torso = [1]"),
    "no list": (("head", "sizes"), 2, "PolicySpec.head.sizes = 2"),
    "a text among integers": (("torso", "hidden"), [8, "4"], "PolicySpec.torso.hidden = '4'"),
    "a float for an integer": (("torso", "size_in"), 12.0, "PolicySpec.torso.size_in = 12.0"),
    "a bool for an integer": (("torso", "size_in"), True, "PolicySpec.torso.size_in = True"),
    "an integer for a bool": (("normalizer", "enabled"), 1, "PolicySpec.normalizer.enabled = 1"),
    "a text for a number": (("head", "min_std"), "0.1", "PolicySpec.head.min_std = '0.1'"),
    "a bool for a number": (("head", "min_std"), True, "PolicySpec.head.min_std = True"),
    "no number": (("normalizer", "clip"), float("nan"), "PolicySpec.normalizer.clip = nan"),
    "nan as a text": (("normalizer", "clip"), "nan", "PolicySpec.normalizer.clip = 'nan'"),
    "nothing": (("action", "dtype"), None, "PolicySpec.action.dtype = None"),
    "another kind": (("action", "kind"), "binary", "PolicySpec.action.kind = 'binary'"),
    "neither of two": (("action", "start"), "0", "PolicySpec.action.start = '0'"),
    "a group that is none": (
        ("observations", "legs"),
        [2],
        "PolicySpec.observations.legs = [2]",
    ),
    "a memory of another kind": (
        ("torso", "memory"),
        {"kind": "rnn", "size": 8, "layers": 1, "bptt_steps": None},
        "PolicySpec.torso.memory = {'kind': 'rnn', 'size': 8, 'layers': 1, 'bptt_steps': None}",
    ),
    "inside a group": (
        ("observations", "legs", "shape"),
        "2",
        "PolicySpec.observations.legs.shape = '2'",
    ),
    "groups as a list": (("observations",), [], "PolicySpec.observations = []"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_field_of_another_type_is_refused_with_its_place(mistake: str) -> None:
    place, value, words = MISTAKES[mistake]
    described = written()
    inner = described
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    with pytest.raises(ValueError, match=r"^PolicySpec") as error:
        from_json(PolicySpec, described)
    assert str(error.value) == words


@pytest.mark.parametrize(
    ("place", "where"),
    [((), "PolicySpec"), (("head",), "PolicySpec.head"), (("observations", "legs"), "legs")],
    ids=str,
)
def test_a_field_that_is_missing_or_unknown_is_refused_with_its_place(
    place: tuple[str, ...], where: str
) -> None:
    def inner(described: Any) -> Any:
        for name in place:
            described = described[name]
        return described

    for name in inner(written()):
        lacking = written()
        del inner(lacking)[name]
        if name in (
            "symmetry",
            "origin",
            "layer_norm",
            "residual",
            "bins",
            "gsde",
        ):  # as of before there was any
            assert from_json(PolicySpec, lacking) == SPEC
            continue
        if name == "state_dependent_std":
            assert not from_json(PolicySpec, lacking).head.state_dependent_std
            continue
        with pytest.raises(ValueError, match=rf"{where}: '{name}' is missing"):
            from_json(PolicySpec, lacking)
    more = written()
    inner(more)["memory"] = 3
    with pytest.raises(ValueError, match=rf"{where}: 'memory' is unknown"):
        from_json(PolicySpec, more)


def test_whole_numbers_of_json_are_read_as_the_floats_they_stand_for() -> None:
    described = written()
    described["normalizer"]["clip"] = 10
    described["action"]["low"] = [-1, "-inf"]
    spec = from_json(PolicySpec, described)
    assert type(spec.normalizer.clip) is float
    assert spec.action.low == (-1.0, -INF)
    # bounds of 64-bit integers are kept as they are
    assert type(spec.action.low[0]) is int


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A whole number, and a text that looks like one."""

    whole: int
    text: str = "9223372036854775808"


@pytest.mark.parametrize("number", [2**63, 2**63 + 1, 10**19, 2**64 - 1])
def test_integers_that_only_unsigned_64_bits_hold_are_written_as_text(number: int) -> None:
    spec = Numbers(number, str(number))
    assert to_json(spec) == {"whole": str(number), "text": str(number)}
    assert from_json(Numbers, to_json(spec)) == spec


@pytest.mark.parametrize("number", [0, -1, 2**63 - 1, -(2**63)])
def test_other_integers_are_written_as_they_are(number: int) -> None:
    assert to_json(Numbers(number))["whole"] == number
    assert from_json(Numbers, to_json(Numbers(number))) == Numbers(number)
    with pytest.raises(ValueError, match=r"Numbers.whole = '"):
        from_json(Numbers, {"whole": str(number), "text": ""})


@pytest.mark.parametrize("text", [str(2**64), "9" * 20, "9" * 18, "1e19", "+9223372036854775808"])
def test_a_text_that_is_no_such_integer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"Numbers.whole = '"):
        from_json(Numbers, {"whole": text, "text": ""})


@pytest.mark.parametrize("value", [None, 3])
def test_what_may_be_none_is_read_as_it_is(value: int | None) -> None:
    memory = dataclasses.replace(REMEMBERS.torso.memory, bptt_steps=value)
    assert from_json(MemorySpec, to_json(memory)) == memory


def test_reading_changes_nothing_of_what_it_reads() -> None:
    described = written()
    before = copy.deepcopy(described)
    from_json(PolicySpec, described)
    assert described == before


@dataclasses.dataclass(frozen=True)
class Memory:
    """A network to come: every type of field that a description may have."""

    kind: Literal["gru", "lstm"]
    gates: tuple[int, str]
    size: int | None
    scale: float | tuple[float, ...]
    names: Mapping[str, float]
    layers: tuple[TorsoSpec, ...]


def test_a_new_network_is_described_by_its_own_field_types() -> None:
    layers = (TorsoSpec(("a",), 1, (), "tanh"), TorsoSpec(("b", "c"), 2, (3,), "elu"))
    for memory in (
        Memory("gru", (1, "x"), None, 2.0, {}, ()),
        Memory("lstm", (2, "y"), 3, (1.0, -INF), {"a": INF, "b": 0.5}, layers),
    ):
        assert from_json(Memory, written(memory)) == memory
    described = written(Memory("gru", (1, "x"), None, 2.0, {}, layers))
    for name, value in (
        ("gates", [1]),
        ("gates", [1, "x", "y"]),
        ("size", "3"),
        ("scale", [1.0, "x"]),
        ("kind", ["gru"]),
    ):
        with pytest.raises(ValueError, match=rf"^Memory\.{name} = "):
            from_json(Memory, described | {name: value})
    described["layers"][1]["hidden"] = [1.5]
    with pytest.raises(ValueError, match=r"^Memory\.layers\.hidden = 1\.5"):
        from_json(Memory, described)
