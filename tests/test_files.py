"""Files are written whole or not at all, and read within bounds."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from surefoot import files, reading
from surefoot.errors import UserError


class Pair(NamedTuple):
    weight: jax.Array
    count: int


TREE = {"net": Pair(jnp.arange(6.0).reshape(2, 3) / 7, 7), "key": jax.random.key(3), "none": None}


class Disk:
    """What a power cut would leave: of each file, the bytes that were there at its last fsync."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: dict[int, int] = {}
        self.renames: list[tuple[str, list[str]]] = []
        fsync, replace = os.fsync, Path.replace

        def note_sync(handle: int) -> None:
            fsync(handle)
            status = os.fstat(handle)
            self.synced[status.st_ino] = status.st_size

        def note_rename(path: Path, target: Path) -> Path:
            lost = [str(p) for p in [path, *path.rglob("*")] if not self.is_safe(p)]
            self.renames.append((Path(target).name, lost))
            return replace(path, target)

        monkeypatch.setattr(os, "fsync", note_sync)
        monkeypatch.setattr(Path, "replace", note_rename)

    def is_safe(self, path: Path) -> bool:
        status = path.stat()
        if path.is_dir():
            return status.st_ino in self.synced
        return self.synced.get(status.st_ino) == status.st_size


def test_nothing_takes_its_place_before_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    with files.whole_folder(tmp_path / "made") as folder:
        files.save_arrays(folder / "a.safetensors", TREE)
        files.write_json(folder / "b.json", {"x": 1})
    assert [name for name, _ in disk.renames] == ["a.safetensors", "b.json", "made"]
    assert all(lost == [] for _, lost in disk.renames)
    assert disk.is_safe(tmp_path)  # the new entry itself


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "f.json"
    files.write_json(file, {"x": 1})

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(file, {"x": 2})
    assert json.loads(file.read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]


def test_a_folder_that_fails_halfway_is_not_there(tmp_path: Path) -> None:
    def half() -> None:
        with files.whole_folder(tmp_path / "made") as folder:
            files.write_text(folder / "a", "x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    left = [f".tmp-{uuid.uuid4().hex}" for _ in range(3)]
    (tmp_path / "kept").mkdir()
    (tmp_path / left[0]).mkdir()
    (tmp_path / left[0] / "x").touch()
    (tmp_path / left[1]).touch()
    (tmp_path / left[2]).symlink_to("kept")
    own = [".tmp-notes", ".tmp-" + "g" * 32, "a.tmp-" + "0" * 32]  # the user's
    for name in own:
        (tmp_path / name).touch()
    (tmp_path / files.LOCK).touch()
    assert files.contents(tmp_path) == sorted([*own, "kept"])
    files.remove_staging(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*own, "kept", files.LOCK])
    assert files.contents(tmp_path / "none") == []


@given(
    numbers=st.lists(st.integers(0, 10**9 - 3), max_size=5),
    others=st.lists(st.sampled_from(["a", "a-x", "a--3", "b-7", "a-7x", "aa-9", "a-1e3", "a-+4"])),
)
def test_a_new_folder_takes_nothings_place_and_has_a_larger_number_than_any_there_is(
    numbers: list[int], others: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("numbered")
    for name in (there := {*others, *(f"a-{n}" for n in numbers)}):
        (folder / name).symlink_to("nowhere")  # there, though it does not exist
    first = 1 + max([*numbers, "a" in others, 0])
    expected = ["a" if n == 1 else f"a-{n}" for n in (first, first + 1)]
    made = [files.new_folder(folder / "a") for _ in range(2)]
    assert [x.name for x in made] == expected
    assert all(x.is_dir() for x in made)
    assert {x.name for x in folder.iterdir() if x.is_symlink()} == there


def test_a_new_folder_goes_by_what_the_file_system_calls_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made by another process meanwhile, or of the same name but for its capitals."""
    mkdir, taken = Path.mkdir, {"crash", "crash-2"}
    monkeypatch.setattr(
        Path,
        "mkdir",
        lambda p: mkdir(tmp_path if p.name in taken else p),  # FileExistsError
    )
    assert files.new_folder(tmp_path / "crash").name == "crash-3"


def test_a_tree_comes_back_bit_by_bit(tmp_path: Path) -> None:
    shapes = files.save_arrays(tmp_path / "t.safetensors", TREE)
    assert shapes["net.weight"] == ["float32", [2, 3]]
    assert set(shapes) == {"net.weight", "net.count", "key"}
    back = files.load_arrays(tmp_path / "t.safetensors", TREE)
    np.testing.assert_array_equal(back["net"].weight, TREE["net"].weight)
    assert back["net"].count == 7
    assert type(back["net"].count) is int
    assert jax.random.bits(back["key"]) == jax.random.bits(TREE["key"])


def test_a_file_can_be_written_over_while_its_arrays_are_in_use(tmp_path: Path) -> None:
    # safetensors #762: arrays that were read lazily became zeros
    file = tmp_path / "t.safetensors"
    files.save_arrays(file, {"x": jnp.arange(1000.0)})
    first = files.load_arrays(file, {"x": jnp.zeros(1000)})["x"]
    files.save_arrays(file, {"x": first + 1})
    np.testing.assert_array_equal(first, np.arange(1000.0))
    again = files.load_arrays(file, {"x": jnp.zeros(1000)})["x"]
    np.testing.assert_array_equal(again, np.arange(1000.0) + 1)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"x": np.zeros(3, np.float32)}, "'extra' is missing"),
        ({"x": np.zeros(3, np.float32), "extra": np.zeros(1), "y": np.zeros(1)}, "'y' is not part"),
        ({"x": np.zeros(4, np.float32), "extra": np.zeros(1)}, r"x is float32\(4,\), need float32"),
        ({"x": np.zeros(3, np.float64), "extra": np.zeros(1)}, r"x is float64\(3,\), need float32"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, content: dict, says: str) -> None:
    file = tmp_path / "t.safetensors"
    file.write_bytes(save(content))
    with pytest.raises(UserError, match=says):
        files.load_arrays(file, {"x": jnp.zeros(3), "extra": np.zeros(1)})


def test_a_file_larger_than_its_arrays_is_not_even_opened(tmp_path: Path) -> None:
    file = tmp_path / "t.safetensors"
    with file.open("wb") as opened:
        opened.truncate(2**40)  # a terabyte of nothing, which takes no room
    with pytest.raises(UserError, match=r"1,099,511,627,776 bytes, more than"):
        files.load_arrays(file, {"x": jnp.zeros(3)})
    with pytest.raises(UserError, match=r"1,099,511,627,776 bytes, more than"):
        reading.read_json(file)


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        reading.read_json(tmp_path / "f.json")
    with pytest.raises(UserError, match="does not exist"):
        files.load_arrays(tmp_path / "f.safetensors", {})


GOOD = save({"x": np.arange(3, dtype=np.float32), "y": np.ones((2, 2), np.float32)})


@settings(max_examples=300)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, len(GOOD)),
    tail=st.binary(max_size=20),
)
def test_whatever_a_header_says_reading_ends_in_numbers_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list, cut: int, tail: bytes
) -> None:
    content = bytearray(GOOD)
    for place, byte in changes:
        content[place] = byte
    file = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    file.write_bytes(bytes(content[:cut]) + tail)
    try:
        back = files.load_arrays(file, {"x": jnp.zeros(3), "y": jnp.zeros((2, 2))})
    except UserError:
        return
    assert {name: x.shape for name, x in back.items()} == {"x": (3,), "y": (2, 2)}


def test_numbers_of_64_bits_stay_so(tmp_path: Path) -> None:
    with jax.enable_x64(True):
        tree = {
            "position": jnp.array([1.0 + 2.0**-45], "float64"),
            "ticks": jnp.array(2**40, "int64"),
        }
    files.save_arrays(tmp_path / "t.safetensors", tree)
    back = files.load_arrays(tmp_path / "t.safetensors", tree)
    for name, x in tree.items():
        assert back[name].dtype == x.dtype
        assert np.asarray(back[name]).tolist() == np.asarray(x).tolist()
