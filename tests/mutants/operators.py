"""Small changes of a program, one at a time, that its tests should notice.

Our own and not a library's: the known ones fork a process that holds JAX's threads, or bring a database
along, and none knows `jnp.where`, which is where a masked computation goes wrong.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

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


def mutations(source: str) -> Iterator[tuple[str, str]]:
    """Each change as ("LINE: what", the whole changed source).

    Docstrings, annotations, defaults of parameters that tests pin by name, and messages are left alone.
    """
    tree = ast.parse(source)
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.expr | ast.stmt)]
    lines = source.splitlines()
    told: Counter[str] = Counter()
    left_alone = _annotations(tree)
    for index, node in enumerate(nodes):
        if id(node) in left_alone:
            continue
        for what, change in _changes(node):
            changed = copy.deepcopy(tree)
            twin = [n for n in ast.walk(changed) if isinstance(n, ast.expr | ast.stmt)][index]
            change(twin)
            if isinstance(node, ast.Constant):  # it says little without its line
                what += f" in {lines[node.lineno - 1].strip()[:80]}"
            told[what] += 1
            if told[what] > 1:
                what += f" ({told[what]})"
            yield f"{node.lineno}: {what}", ast.unparse(ast.fix_missing_locations(changed))


def _annotations(tree: ast.AST) -> set[int]:
    """Nodes that say something rather than compute it."""
    roots: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            roots += [
                a.annotation for a in ast.walk(node.args) if isinstance(a, ast.arg) and a.annotation
            ]
            roots += [node.returns] if node.returns else []
        elif isinstance(node, ast.AnnAssign):
            roots.append(node.annotation)
        elif isinstance(node, ast.Raise | ast.JoinedStr):
            roots.append(node)
    return {id(inner) for root in roots for inner in ast.walk(root)}


def _changes(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """What may be changed at a node: a name, and what changes its twin in a copy."""
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
