"""A fingerprint of the user's own code that makes a task: by it a resumed run knows whether it is the same.

It covers the files that define a class, function or object, the user's own files that they import, and what
they were given: arguments, defaults, closures, fields. What they read while they run, such as a file of
numbers, it does not. Nothing is imported for it.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import jax
import numpy as np

_LIBRARIES = {"surefoot", "jax", "equinox", "numpy", "gymnasium", "gymnax"}  # known by version
_INSTALLED = {"site-packages", "dist-packages"}
_STANDARD = Path(sysconfig.get_path("stdlib")).resolve()


_PLAIN = (bool, int, float, str, tuple)
_MAKERS = (type, FunctionType, MethodType, functools.partial)


def source_fingerprint(task: Any) -> str | None:
    """Of a class, function or object that is or makes an environment: 12 hexadecimal digits.

    Returns:
        The fingerprint; None where all code is that of libraries whose versions are known.
    """
    found = _Found()
    found.add(task)
    found.add(getattr(task, "__dict__", {}) if not isinstance(task, _MAKERS) else None)
    if not found.sources:
        return None
    content = [*sorted(found.sources), *(value.encode() for value in found.values)]
    return hashlib.sha256(b"\0".join(content)).hexdigest()[:12]


def said(value: Any) -> str:
    """A value in short, the same in every process as long as it is the same."""
    plain = (bool, int, float, str)
    parts = value if isinstance(value, tuple) else (value,)
    if all(part is None or type(part) in plain for part in parts):
        return repr(value)
    found = _Found()
    found.add(value)
    if not isinstance(value, _MAKERS):
        found.add(getattr(value, "__dict__", None))
    content = [*sorted(found.sources), *(part.encode() for part in found.values)]
    return hashlib.sha256(b"\0".join(content)).hexdigest()


class _Found:
    """What a task is made of.

    Attributes:
        sources: digests of its code.
        values: what it was given, as text, in order.
    """

    def __init__(self) -> None:
        self.sources: set[bytes] = set()
        self.values: list[str] = []
        self._seen: set[Any] = set()

    def add(self, thing: Any) -> None:
        """Add a value, a function or a class with all that it needs; of other objects the class alone."""
        match thing:
            case None | bool() | int() | float() | complex() | str() | bytes():
                self.values.append(repr(thing))
            case np.ndarray() | np.generic() | jax.Array():
                self.values.append(hashlib.sha256(np.asarray(thing).tobytes()).hexdigest())
            case tuple() | list():
                self.values.append(f"{len(thing)} in order")
                for part in thing:
                    self.add(part)
            case set() | frozenset():
                self.values += [f"{len(thing)} in a set", *sorted(map(repr, thing))]
            case Mapping():
                self.values.append(f"{len(thing)} by name")
                for key in sorted(thing, key=repr):
                    self.values.append(repr(key))
                    self.add(thing[key])
            case functools.partial():
                self.add((thing.func, thing.args, thing.keywords))
            case MethodType():
                self.add((thing.__self__, thing.__func__))
            case ModuleType():
                self._add_file(vars(thing))
            case FunctionType() if thing in self._seen:
                pass
            case FunctionType():
                self._seen.add(thing)
                # a file has many functions and classes, and many that have no name of their own
                self.values += [thing.__qualname__, *_code(thing.__code__)]
                self._add_code(thing)
                self.add((thing.__defaults__, thing.__kwdefaults__))
                for cell in thing.__closure__ or ():
                    with contextlib.suppress(ValueError):  # nothing in it yet
                        self.add(cell.cell_contents)
            case type():
                self.values.append(thing.__qualname__)
                for kind in thing.__mro__:
                    self._add_class(kind)
            case object(__wrapped__=FunctionType() as function):  # as `jax.jit` leaves it
                self.add(function)
            case _:
                self.add(type(thing))

    def _add_class(self, kind: type) -> None:
        if kind in self._seen:
            return
        self._seen.add(kind)
        module = sys.modules.get(kind.__module__)
        if not self._add_file(vars(module) if module else {}):
            plain = {n: x for n, x in vars(kind).items() if isinstance(x, _PLAIN) and n[0] != "_"}
            self.add(plain)
        for part in vars(kind).values():
            if isinstance(part, FunctionType):  # whose module need not be the one of that name
                self._add_code(part)

    def _add_code(self, function: FunctionType) -> None:
        """The file of a function; where it has none, as in a notebook, what it does and what it reads."""
        scope = function.__globals__
        if not self._add_file(scope):
            text = [*_code(function.__code__)]
            self.sources.add(hashlib.sha256("\n".join(text).encode()).digest())
            for name in _names(function.__code__):
                if name in scope:
                    self.add(scope[name])

    def _add_file(self, scope: Mapping[str, Any]) -> bool:
        """Whether the code of a module is known: that of a library, or added now."""
        name, file = str(scope.get("__name__")), scope.get("__file__")
        if name.partition(".")[0] in {*_LIBRARIES, *sys.builtin_module_names}:
            return True
        if file is None or not (path := Path(file).resolve()).is_file():
            return False
        self._follow(path, name, scope.get("__package__") or "", defines=True)
        return True

    def _follow(self, file: Path, name: str, package: str, *, defines: bool = False) -> None:
        """Add a file, and what it imports; of what is installed only the files that define the task."""
        installed = bool(_INSTALLED & {*file.parts})
        known = file in self._seen or (not installed and file.is_relative_to(_STANDARD))
        if known or (installed and not defines) or name.partition(".")[0] in _LIBRARIES:
            return
        self._seen.add(file)
        loaded = getattr(sys.modules.get(name), "__spec__", None)
        source = _as_loaded(file, id(loaded))
        self.sources.add(hashlib.sha256(source).digest())
        for spec in () if installed else _imports(source, package):
            if spec.origin is not None and spec.origin.endswith(".py"):
                self._follow(Path(spec.origin).resolve(), spec.name, spec.parent or "")


@functools.cache
def _as_loaded(file: Path, loaded: int) -> bytes:
    """A file as it was when first asked for: what is edited later does not run until it is reloaded."""
    return file.read_bytes()


def _imports(source: bytes, package: str) -> Iterator[Any]:
    """Specs of the modules that a source imports, and of the packages around them."""
    with contextlib.suppress(SyntaxError, ValueError):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield from _specs(alias.name)
            elif isinstance(node, ast.ImportFrom):
                with contextlib.suppress(ImportError):
                    base = importlib.util.resolve_name(
                        "." * node.level + (node.module or ""), package
                    )
                    for alias in node.names:
                        yield from _specs(f"{base}.{alias.name}")


def _specs(name: str) -> Iterator[Any]:
    """Of a dotted name, as far as it is one of modules."""
    parts, places = name.split("."), None
    for count in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:count]), places)
        if spec is None:
            return
        yield spec
        if (places := spec.submodule_search_locations) is None:
            return


def _names(code: CodeType) -> Iterator[str]:
    """What a function, and those within it, look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _code(code: CodeType) -> Iterator[str]:
    """Of a function that has no file, what it does."""
    yield code.co_code.hex()
    yield repr(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        elif isinstance(constant, frozenset):
            yield repr(sorted(map(repr, constant)))
        else:
            yield repr(constant)
