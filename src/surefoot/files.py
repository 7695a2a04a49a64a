"""Files that survive: written whole or not at all, numbers and text only (`reading` reads the text).

A folder of files that belong together is written beside its place and moved there when it is complete:
whoever looks, even after a power cut, finds all of it or nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.numpy import load, save

from surefoot.errors import UserError
from surefoot.reading import read_bytes

LOCK = ".lock"
_STAGING = ".tmp-"
_HEADER, _HEADER_PER_ARRAY = 2**16, 2**10  # bytes of a safetensors header at most


def check_writable(folder: Path, *, what: str) -> None:
    """Raise ValueError if files cannot be written in a folder, or it cannot be made.

    Permissions do not tell: the user may be root, the file system read-only or full.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise UserError(f"{what} {str(folder)!r} cannot be made: {str(existing)!r} is a file")
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"0")
    except OSError as error:
        raise UserError(
            f"{what} {str(folder)!r} cannot be made: {existing} is not writable ({error.strerror})"
        ) from error


def hold(folder: Path, *, doing: str) -> FileLock:
    """Hold a folder for this process alone, until the lock is released.

    Raises:
        ValueError: another process holds it, named by what it is `doing`.
    """
    lock = FileLock(folder / LOCK)
    try:
        return lock.acquire(timeout=0).lock
    except Timeout:
        raise UserError(f"another process is {doing} in {str(folder)!r}") from None


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a power cut, finds the old one or the new one, never half."""
    staging = path.with_name(f"{_STAGING}{uuid.uuid4().hex}")
    try:
        with staging.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON as `write_bytes` does; numbers must be finite."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `path` at the end of the block, or vanishes if it failed.

    Its files must have been written by this module, whose writes are on the disk when they return.
    """
    staging = path.with_name(f"{_STAGING}{uuid.uuid4().hex}")
    staging.mkdir()
    try:
        yield staging
        _sync_folder(staging)
        staging.replace(path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def whole_files(folder: Path, *, key: str) -> Iterator[Path]:
    """A folder to write into, whose files then take their places in `folder`, the one named `key` last.

    What has their places goes then, `key` first: where `key` is, the others are those it was written with.
    """
    staging = new_staging(folder)
    try:
        yield staging
        (folder / key).unlink(missing_ok=True)
        for file in sorted(staging.iterdir(), key=lambda file: file.name == key):
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _sync_folder(folder)


def new_folder(path: Path) -> Path:
    """Make a folder; where its name is taken, NAME-2 or, of NAME-N, one more than the largest N."""
    pattern = rf"{re.escape(path.name)}(?:-(\d{{1,9}}))?"
    found = [re.fullmatch(pattern, entry.name) for entry in path.parent.iterdir()]
    largest = max((int(match[1] or 1) for match in found if match), default=0)
    for number in itertools.count(largest + 1):
        place = path if number == 1 else path.with_name(f"{path.name}-{number}")
        with contextlib.suppress(FileExistsError):
            place.mkdir()
            return place
    raise AssertionError


def new_staging(folder: Path) -> Path:
    """A new folder in a folder, which `remove_staging` removes."""
    staging = folder / f"{_STAGING}{uuid.uuid4().hex}"
    staging.mkdir()
    return staging


def remove_staging(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder."""
    for left in folder.iterdir():
        if not _is_staging(left.name):
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder as far as the system lets it; whoever looks finds all of it or nothing."""
    staging = path.with_name(f"{_STAGING}{uuid.uuid4().hex}")
    with contextlib.suppress(OSError):
        path.replace(staging)
        shutil.rmtree(staging, ignore_errors=True)


def contents(folder: Path) -> list[str]:
    """Names in a folder, but for its lock and what `remove_staging` removes; none where it is not there."""
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if name != LOCK and not _is_staging(name)]


def _is_staging(name: str) -> bool:
    return re.fullmatch(f"{re.escape(_STAGING)}[0-9a-f]{{32}}", name) is not None


def checksum(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": file.tell(), "sha256": digest}


def save_arrays(path: Path, tree: Any) -> dict[str, Any]:
    """Write the arrays of a tree as safetensors, each under its place in it.

    Returns:
        dtype and shape of each, by name.
    """
    leaves, _ = jax.tree.flatten_with_path(tree)
    arrays = {_name(where): _to_numpy(leaf) for where, leaf in leaves}
    write_bytes(path, save(arrays))
    return {name: [str(x.dtype), list(x.shape)] for name, x in arrays.items()}


class MisfitError(UserError):
    """A file is sound, and holds other arrays than are asked for."""


def load_arrays(path: Path, template: Any, *, most: int | None = None) -> Any:
    """A tree like the template, with the numbers of a file that `save_arrays` wrote.

    Args:
        path: the file.
        template: a tree of arrays (of which only shape and dtype count) and plain integers.
        most: bytes of a file that holds more than the template, which is left alone; None: it does not.

    Raises:
        ValueError: the file is damaged or too large.
        MisfitError: it holds other arrays; with the first difference.
    """
    leaves, structure = jax.tree.flatten_with_path(template)
    wanted = {_name(where): leaf for where, leaf in leaves}
    expected = {name: _described(leaf) for name, leaf in wanted.items()}
    needed = _HEADER + sum(
        _HEADER_PER_ARRAY + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        for dtype, shape in expected.values()
    )
    content = read_bytes(path, most=needed if most is None else most)
    try:
        arrays = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if most is not None:
        arrays = {name: array for name, array in arrays.items() if name in wanted}
    if set(arrays) != set(wanted):
        odd = sorted(set(arrays) ^ set(wanted))[0]
        state = "is not part of this run" if odd in arrays else "is missing"
        raise MisfitError(f"{path} does not fit: {odd!r} {state}")
    for name, (dtype, shape) in expected.items():
        found = arrays[name]
        if (found.dtype, found.shape) != (dtype, shape):
            raise MisfitError(
                f"{path} does not fit: {name} is {found.dtype}{found.shape}, need {dtype}{shape}"
            )
    return jax.tree.unflatten(
        structure, [_like(leaf, arrays[name]) for name, leaf in wanted.items()]
    )


def _sync_folder(path: Path) -> None:
    """Put a folder's entries on the disk, where the system can do that."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _name(where: tuple[Any, ...]) -> str:
    """`.actor.body.layers[0].weight` -> `actor.body.layers.0.weight`."""
    parts = [getattr(p, "name", getattr(p, "key", getattr(p, "idx", None))) for p in where]
    return ".".join(str(part) for part in parts)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_numpy(leaf: Any) -> np.ndarray:
    """A leaf in the machine's byte order, without gaps; random keys as their bits."""
    return np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf, order="C")


def _described(leaf: Any) -> tuple[np.dtype, tuple[int, ...]]:
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    elif not isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        leaf = np.asarray(leaf)
    return np.dtype(leaf.dtype), tuple(leaf.shape)


def _like(leaf: Any, array: np.ndarray) -> Any:
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
    if isinstance(leaf, np.ndarray):
        return array
    if not isinstance(leaf, jax.Array):
        return array.item()
    with jax.enable_x64(array.dtype.itemsize == 8):  # what is 64 bits wide stays so
        return jnp.asarray(array)
