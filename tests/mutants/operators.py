"""Small changes of a program, one at a time, that its tests should notice.

Our own and not a library's: the known ones fork a process that holds JAX's threads, or bring a database
along, and none knows `jnp.where`, which is where a masked computation goes wrong.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

_BINARY: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_COMPARED: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_CALLED = {
    "minimum": "maximum",
    "maximum": "minimum",
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "sum": "mean",
    "zeros_like": "ones_like",
    "ones_like": "zeros_like",
    "zeros": "ones",
    "ones": "zeros",
    "argmax": "argmin",
    "argmin": "argmax",
    "expm1": "exp",
    "log1p": "log",
    "cummax": "cummin",
}


class Mutation(NamedTuple):
    """One change.

    Attributes:
        name: "LINE: what".
        make: makes the whole changed source.
        where: the function or class that it is in, as code without comments, and its place there: what stays
            the same while the rest of the file is edited.
    """

    name: str
    make: Callable[[], str]
    where: str


def mutations(source: str) -> Iterator[Mutation]:
    """Each change of a source; one is made when it is asked for.

    Docstrings, annotations and messages are left alone, and what checks rather than computes: assertions,
    the `strict` of a zip, the `frozen` of a dataclass, the `static` of a module's field (jit refuses others).
    """
    tree = ast.parse(source)
    lines = source.splitlines()
    told: Counter[str] = Counter()
    left_alone = _left_alone(tree)
    places = {
        id(node): (text, place)
        for top, text in [(top, ast.unparse(top)) for top in tree.body]
        for place, node in enumerate(_nodes(top))
    }
    for index, node in enumerate(_nodes(tree)):
        if id(node) in left_alone:
            continue
        for number, (what, _) in enumerate(_changes(node)):
            if isinstance(node, ast.Constant):  # it says little without its line
                what += f" in {lines[node.lineno - 1].strip()[:80]}"
            told[what] += 1
            if told[what] > 1:
                what += f" ({told[what]})"
            text, place = places[id(node)]
            where = f"{place} {number} {text}"
            yield Mutation(
                f"{node.lineno}: {what}", partial(_changed, source, index, number), where
            )


def _changed(source: str, index: int, number: int) -> str:
    """The source with one of the changes that are possible at a node."""
    tree = ast.parse(source)
    node = _nodes(tree)[index]
    _, change = list(_changes(node))[number]
    change(node)
    return ast.unparse(ast.fix_missing_locations(tree))


def _nodes(tree: ast.AST) -> list[Any]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.expr | ast.stmt)]


def _left_alone(tree: ast.AST) -> set[int]:
    """Nodes that say or check something rather than compute it."""
    roots: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            roots += [
                a.annotation for a in ast.walk(node.args) if isinstance(a, ast.arg) and a.annotation
            ]
            roots += [node.returns] if node.returns else []
        elif isinstance(node, ast.AnnAssign):
            roots.append(node.annotation)
        elif isinstance(node, ast.keyword) and node.arg in ("strict", "frozen", "static"):
            roots.append(node.value)
        elif isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
            roots.append(node)
    return {id(inner) for root in roots for inner in ast.walk(root)}


def _changes(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """What may be changed at a node: a name, and what changes the node of a tree of its own."""
    text = ast.unparse(node).split("\n")[0][:70] if isinstance(node, ast.expr) else ""
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        other = _BINARY[type(node.op)]
        yield f"{text} -> {other.__name__}", lambda n: setattr(n, "op", other())
    elif isinstance(node, ast.Compare) and len(node.ops) >= 1:
        for place, op in enumerate(node.ops):
            for other in _COMPARED.get(type(op), ()):
                yield (
                    f"{text} -> {other.__name__}" + (f" at {place}" if len(node.ops) > 1 else ""),
                    lambda n, place=place, other=other: n.ops.__setitem__(place, other()),
                )
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield f"{text} -> without {type(node.op).__name__}", _become_operand
    elif isinstance(node, ast.BoolOp):
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield f"{text} -> {other.__name__}", lambda n: setattr(n, "op", other())
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        more = node.value + 1
        yield f"{text} -> {more}", lambda n: setattr(n, "value", more)
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield f"{text} -> {not node.value}", lambda n: setattr(n, "value", not n.value)
    elif isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if called == "where" and len(node.args) == 3:
            yield f"{text} -> the other choice", _swap_choices
        elif called == "stop_gradient":
            yield f"{text} -> with its gradient", _become_argument
        elif called == "clip" and len(node.args) == 3:
            yield f"{text} -> not clipped", _become_argument
        elif called in ("square", "sqrt", "log", "exp", "abs") and len(node.args) == 1:
            yield f"{text} -> its argument", _become_argument
        elif called in _CALLED:
            yield f"{text} -> {_CALLED[called]}", lambda n: setattr(n.func, "attr", _CALLED[called])


def _swap_choices(node: Any) -> None:
    node.args[1], node.args[2] = node.args[2], node.args[1]


def _become(node: Any, other: ast.expr) -> None:
    """The node is the other from here on."""
    node.__class__ = other.__class__
    node.__dict__ = other.__dict__


def _become_operand(node: Any) -> None:
    _become(node, node.operand)


def _become_argument(node: Any) -> None:
    _become(node, node.args[0])
