"""Text is read within bounds, or refused with file, line and what is wrong."""

from __future__ import annotations

import json
import os
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from surefoot.errors import UserError
from surefoot.reading import few, read_json, read_json_lines, read_text, toml_table

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


@given(value=st.dictionaries(st.text(), PLAIN, max_size=4))
def test_what_is_sound_is_read_as_it_was_written(
    value: dict, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "sound"
    file.write_text(json.dumps(value))
    assert read_json(file) == value
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(value, ensure_ascii=True).encode() + b"\n{}\n")
    assert [line.value for line in read_json_lines(file, lambda _: None)] == [value, {}]


# what no file of ours holds, as JSON and as TOML write it
TOO_MUCH = {
    "an integer of 65 bits": str(2**63),
    "a negative one": str(-(2**63) - 1),
    "an integer of 5,000 digits": "9" * 5000,
    "a float of 400 digits": "9" * 400 + ".0",
    "a float with a large exponent": "1e999",
    "lists 33 deep": "[" * 33 + "]" * 33,
    "lists 3,000 deep": "[" * 3000 + "]" * 3000,
    "lists that never end": "[" * 3000,
}


@pytest.mark.parametrize("text", TOO_MUCH.values(), ids=TOO_MUCH)
def test_numbers_and_depths_that_no_file_of_ours_has_are_one_error(
    text: str, tmp_path: Path
) -> None:
    file = tmp_path / "f.json"
    file.write_text('{"a": 1,\n"b": ' + text + "}")
    with pytest.raises(UserError, match=r"f\.json is damaged, line \d+: ") as error:
        read_json(file)
    assert len(str(error.value)) < 300
    with pytest.raises(UserError, match=r"^mine\.toml is not valid TOML: ") as error:
        toml_table(f"a = 1\nb = {text}\n", where="mine.toml")
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_json_that_is_none_is_refused_with_its_line(word: str, tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    file.write_text('{"a": 1,\n\n"b": ' + word + "}")
    with pytest.raises(UserError, match=rf"line 3: {word} is no finite number of 64 bits"):
        read_json(file)


def test_toml_tells_its_own_numbers_apart() -> None:
    table = toml_table(f"a = inf\nb = -inf\nc = {2**63 - 1}\nd = 1e308\n", where="t")
    assert table == {"a": float("inf"), "b": -float("inf"), "c": 2**63 - 1, "d": 1e308}
    with pytest.raises(UserError, match=r"line 2: 0xf+\.\.\. \(2,502 characters\) is no finite"):
        toml_table("a = 1\nb = 0x" + "f" * 2500, where="t")
    deep = ".".join("k" * 40)
    with pytest.raises(UserError, match="more than 32 deep"):
        toml_table(f"{deep} = 1", where="t")


@pytest.mark.parametrize(
    "text",
    ["a." * 20_000 + "a = 1", "[" + "a . " * 20_000 + "a]", "x = {" + "'b'." * 20_000 + "b = 1}"],
)
def test_a_key_that_the_parser_would_take_minutes_for_is_refused_at_once(text: str) -> None:
    began = time.process_time()
    with pytest.raises(UserError, match="line 1: a key of very many parts"):
        toml_table(text, where="t")
    assert time.process_time() - began < 1.0


@given(st.text(alphabet="ab.\"'=[]{}\n\t ,#1e-x\\", max_size=60))
def test_any_other_toml_is_what_the_parser_says(text: str) -> None:
    expected: Any = None
    try:
        expected = tomllib.loads(text)
    except ValueError:
        with pytest.raises(UserError, match=r"^f is not valid TOML"):
            toml_table(text, where="f")
    else:
        assert repr(toml_table(text, where="f")) == repr(expected)


@given(value=st.dictionaries(st.text(min_size=1), st.text() | st.integers(-9, 9), max_size=4))
def test_an_editor_s_mark_at_the_beginning_changes_nothing(
    value: dict, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "marked.toml"
    file.write_bytes(b"\xef\xbb\xbf" + tomli_w.dumps(value).encode())
    assert toml_table(read_text(file), where="f") == value


@given(before=st.text(max_size=20), byte=st.sampled_from([0x80, 0xFF, 0xC3]))
def test_a_byte_that_is_not_utf8_is_named_with_its_line(
    before: str, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "odd"
    file.write_bytes(before.encode() + bytes([byte]) + b"\n")
    line = before.count("\n") + 1
    for read in (read_text, read_json):
        with pytest.raises(UserError, match=rf"line {line}: the byte 0x{byte:02x} is not UTF-8"):
            read(file)


def test_a_line_is_damaged_alone_and_named(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_bytes(b'{"a": 1}\n{"a": \xff}\n{"a": 2\n[]\n\n{"a": 3}\n' + b"x" * 2**19)

    def check(row: dict) -> None:
        if row["a"] == 3:
            raise ValueError("three")

    lines = list(read_json_lines(file, check))
    assert b"".join(line.raw for line in lines) == file.read_bytes()
    assert [line.value for line in lines[:6]] == [{"a": 1}, *[None] * 5]
    assert lines[1].fault == f"{file}, line 2 is damaged: the byte 0xff is not UTF-8"
    assert lines[5].fault == f"{file}, line 6 is damaged: three"
    assert all(len(line.raw) <= 2**18 for line in lines)


@pytest.mark.skipif(sys.platform == "win32", reason="files as POSIX has them")
@pytest.mark.parametrize("read", [read_text, read_json, lambda x: list(read_json_lines(x, print))])
def test_what_is_no_file_is_refused_and_never_waited_for(read: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, why in {
        "nothing": "does not exist",
        ".": "is a folder",
        "pipe": "is no ordinary file",
        "loop": "cannot be read",
        "x" * 300: "cannot be read: File name too long",
    }.items():
        with pytest.raises(UserError, match=why):
            read(tmp_path / name)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5000])
def test_many_faults_make_few_sentences(count: int) -> None:
    said = few([f"line {k}" for k in range(count)])
    assert len(said) == min(count, 3)
    assert [text.partition(" (")[0] for text in said] == [f"line {k}" for k in range(len(said))]
    assert said[-1:] == [f"line 2 (and {count - 3:,} more such lines)"] or count <= 3
