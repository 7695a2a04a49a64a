"""A graph as C99: `policy.h` and `policy.c`, without allocation, for microcontrollers and C++ programs."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from surefoot.deploy import Port
from surefoot.errors import UserError
from surefoot.ship.graph import Graph, Node

HEADER, SOURCE = "policy.h", "policy.c"
TOLERANCE = 1e-4  # of the actions that the test vectors give, relative above 1
_RUNS = 12  # pieces that are copied one by one; more of them through a table of places
_TYPES = {"float32": "float", "float64": "float", "bool": "unsigned char"}

# on a and b, each an element
EXPRESSIONS = {
    "abs": "{a} < 0 ? -{a} : {a}",
    "acos": "acosf({a})",
    "add": "{a} + {b}",
    "and": "{a} & {b}",
    "asin": "asinf({a})",
    "atan": "atanf({a})",
    "atan2": "atan2f({a}, {b})",
    "ceil": "ceilf({a})",
    "cos": "cosf({a})",
    "cosh": "coshf({a})",
    "div": "{a} / {b}",
    "eq": "{a} == {b}",
    "exp": "expf({a})",
    "expm1": "expm1f({a})",
    "floor": "floorf({a})",
    "ge": "{a} >= {b}",
    "gt": "{a} > {b}",
    "is_finite": "isfinite({a}) != 0",
    "le": "{a} <= {b}",
    "log": "logf({a})",
    "log1p": "log1pf({a})",
    "logistic": "1.0f / (1.0f + expf(-{a}))",
    "lt": "{a} < {b}",
    "max": "{a} > {b} || {a} != {a} ? {a} : {b}",
    "min": "{a} < {b} || {a} != {a} ? {a} : {b}",
    "mul": "{a} * {b}",
    "ne": "{a} != {b}",
    "neg": "-{a}",
    "not": "!{a}",
    "or": "{a} | {b}",
    "pow": "powf({a}, {b})",
    "round": "rintf({a})",
    "select": "{a} ? {c} : {b}",
    "sign": "({a} > 0) - ({a} < 0)",
    "sin": "sinf({a})",
    "sinh": "sinhf({a})",
    "sqrt": "sqrtf({a})",
    "sub": "{a} - {b}",
    "tan": "tanf({a})",
    "tanh": "tanhf({a})",
}


def c_files(
    graph: Graph,
    tests: Sequence[tuple[Mapping[str, np.ndarray], np.ndarray]],
    notes: Sequence[str],
) -> dict[str, str]:
    """The text of policy.h and policy.c, by name.

    Args:
        graph: what it does.
        tests: observations by group, one after the other from a reset on, each with its action; compiled in
            with POLICY_TEST defined.
        notes: lines for the top of the header.
    """
    return {HEADER: _header(graph, notes), SOURCE: _source(graph, tests)}


class Parts(NamedTuple):
    """What `policy_act` is called with: each a name, a type of C, and how many numbers.

    Attributes:
        groups: the observations.
        action: the action.
        remembers: whether there is a `policy_memory` between them.
    """

    groups: list[tuple[str, str, int]]
    action: tuple[str, str, int]
    remembers: bool

    @classmethod
    def of(cls, program: Mapping[str, Any]) -> Parts:
        """Of a program as policy.json describes it."""
        ports = [[Port(**port) for port in program[which]] for which in ("inputs", "outputs")]
        parts = [[(_name(p), _given(p), _size(p)) for p in some if not p.carried] for some in ports]
        return cls(parts[0], parts[1][0], any(port.carried for port in ports[0]))


class Compiled:
    """policy.c of a folder, compiled here, called as `surefoot.deploy.Policy` is, one observation at a time.

    Args:
        folder: that holds it.
        graph: what it does.
        scratch: a folder for the library.

    Raises:
        ValueError: it does not compile, with what the compiler said.
    """

    def __init__(self, folder: Path, graph: Graph, scratch: Path) -> None:
        library = scratch / "policy.so"
        command = [compiler() or "cc", "-std=c99", "-O3", "-DPOLICY_TEST", "-shared", "-fPIC"]
        done = subprocess.run(
            [*command, "-o", str(library), str(folder / SOURCE), "-lm"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise UserError(f"{folder / SOURCE} does not compile: {done.stderr.strip()}")
        self._library = ctypes.CDLL(str(library))
        self._groups, carried, self._action = _parts(graph)
        self._memory = np.zeros(sum(map(_size, carried)), np.float32) if carried else None

    def test(self) -> bool:
        """Whether its own test vectors come out as they are to."""
        return self._library.policy_test() == 0

    def reset(self) -> None:
        """Begin a new episode."""
        if self._memory is not None:
            self._memory[:] = 0

    def __call__(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """The action for one observation."""
        kinds = {"float": np.float32, "int32_t": np.int32, "unsigned char": np.uint8}
        action = np.zeros(self._action.shape, kinds[_type(self._action.dtype)])
        given = [np.ascontiguousarray(observation[p.name], p.dtype) for p in self._groups]
        memory = [] if self._memory is None else [self._memory]
        self._library.policy_act(
            *(ctypes.c_void_p(x.ctypes.data) for x in (*given, *memory, action))
        )
        return action.astype(self._action.dtype)


def compiler() -> str | None:
    """The C compiler of this machine, if there is one."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def _header(graph: Graph, notes: Sequence[str]) -> str:
    about = "\n".join(f" * {note.replace('*/', '* /')}".rstrip() for note in notes)
    groups, carried, action = _parts(graph)
    sizes = [f"#define POLICY_{_name(p).upper()}_SIZE {_size(p)}" for p in (*groups, action)]
    fields = "\n".join(f"  {_type(p.dtype)} {_name(p)}[{_size(p)}];" for p in carried)
    memory = ""
    if carried:
        memory = f"""
/* What the policy remembers from call to call. */
typedef struct {{
{fields}
}} policy_memory;

/* Call it where an episode begins. */
void policy_reset(policy_memory *memory);
"""
    lines = "\n".join(sizes)
    return f"""/*
{about}
 */
#ifndef SUREFOOT_POLICY_H
#define SUREFOOT_POLICY_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

{lines}
{memory}
/* The action for raw observations, in the environment's own units. */
{_signature(graph)};

#ifdef POLICY_TEST
/* 0 where this build gives the actions that were exported. */
int policy_test(void);
#endif

#ifdef __cplusplus
}}
#endif
#endif
"""


def _source(graph: Graph, tests: Sequence[tuple[Mapping[str, np.ndarray], np.ndarray]]) -> str:
    groups, carried, action = _parts(graph)
    first = len(graph.inputs)
    lines = [
        f'#include "{HEADER}"',
        "",
        "#include <math.h>",
        "#include <string.h>",
        "",
    ]
    for number, array in enumerate(graph.constants, start=first):
        lines.append(_array(f"v{number}", array))
    if carried:
        lines += [
            "",
            "void policy_reset(policy_memory *memory) { memset(memory, 0, sizeof *memory); }",
        ]
    lines += ["", f"{_signature(graph)} {{"]
    for number, port in enumerate(graph.inputs):
        source = f"memory->{_name(port)}" if port.carried else _name(port)
        if port.origin:
            origin = ", ".join(f"{x!r}" for x in port.origin)
            lines.append(f"  static const double o{number}[{_size(port)}] = {{{origin}}};")
            lines.append(f"  float v{number}[{_size(port)}];")
            lines.append(
                f"  for (int i = 0; i < {_size(port)}; ++i) "
                f"v{number}[i] = (float)({source}[i] - o{number}[i]);"
            )
            continue
        lines.append(f"  const {_type(port.dtype)} *v{number} = {source};")
    start = first + len(graph.constants)
    sizes = {i: _size(port) for i, port in enumerate(graph.inputs)}
    sizes |= {first + i: array.size for i, array in enumerate(graph.constants)}
    sizes |= {start + i: node.size for i, node in enumerate(graph.nodes)}
    types = {i: _type(port.inside) for i, port in enumerate(graph.inputs)}
    types |= {first + i: _type(str(array.dtype)) for i, array in enumerate(graph.constants)}
    types |= {start + i: _type(node.dtype) for i, node in enumerate(graph.nodes)}
    for number, node in enumerate(graph.nodes, start=start):
        lines.append(f"  {types[number]} v{number}[{max(node.size, 1)}];")
        lines += [f"  {line}" for line in _statements(graph, node, f"v{number}", sizes, types)]
    for port, number in zip(graph.outputs, graph.results, strict=True):
        target = f"memory->{_name(port)}" if port.carried else _name(port)
        element = f"v{number}[{'0' if sizes[number] == 1 else 'i'}]"
        lines.append(f"  for (int i = 0; i < {_size(port)}; ++i) {target}[i] = {element};")
    lines += ["}", ""]
    return "\n".join(lines) + _test(groups, carried, action, tests)


def _statements(
    graph: Graph, node: Node, name: str, sizes: Mapping[int, int], types: Mapping[int, str]
) -> list[str]:
    op, reads, size = node.op, node.reads, node.size
    if op == "take":
        return _copies(graph, node, name, sizes)
    if op == "matmul":
        k, m = graph.constants[reads[1] - len(graph.inputs)].shape
        x, w, rows = f"v{reads[0]}", f"v{reads[1]}", node.parameter
        return [
            f"memset({name}, 0, sizeof {name});",
            f"for (int r = 0; r < {rows}; ++r)",
            f"  for (int i = 0; i < {k}; ++i)",
            f"    for (int j = 0; j < {m}; ++j)",
            f"      {name}[r * {m} + j] += {x}[r * {k} + i] * {w}[i * {m} + j];",
        ]
    if op == "reduce":
        return _reduction(node, name, f"v{reads[0]}", types[reads[0]])
    parts = [f"v{i}[0]" if sizes[i] == 1 else f"v{i}[i]" for i in reads]
    if op == "cast":
        cast = f"({_type(node.parameter)}){parts[0]}"
        expression = f"{parts[0]} != 0" if node.parameter == "bool" else cast
    else:
        expression = EXPRESSIONS[op].format(**dict(zip("abc", parts, strict=False)))
    return [f"for (int i = 0; i < {size}; ++i) {name}[i] = {expression};"]


def _copies(graph: Graph, node: Node, name: str, sizes: Mapping[int, int]) -> list[str]:
    *parts, last = node.reads
    index = graph.constants[last - len(graph.inputs)]
    breaks = np.flatnonzero(np.diff(index) != 1) + 1
    starts = np.cumsum([0, *(sizes[i] for i in parts)])
    # a run that goes on into the next part is cut there
    cuts = sorted({0, *breaks.tolist(), *np.flatnonzero(np.isin(index, starts)).tolist()})
    lines = []
    if len(cuts) <= _RUNS:
        for at, end in zip(cuts, [*cuts[1:], len(index)], strict=True):
            part = int(np.searchsorted(starts, index[at], side="right")) - 1
            source = f"v{parts[part]} + {index[at] - starts[part]}"
            lines.append(f"memcpy({name} + {at}, {source}, {end - at} * sizeof *{name});")
        return lines
    source = f"v{parts[0]}"
    if len(parts) > 1:
        source = f"{name}_parts"
        lines.append(f"{_type(node.dtype)} {source}[{starts[-1]}];")
        for part, at in zip(parts, starts, strict=False):
            lines.append(f"memcpy({source} + {at}, v{part}, {sizes[part]} * sizeof *{source});")
    return [*lines, f"for (int i = 0; i < {node.size}; ++i) {name}[i] = {source}[v{last}[i]];"]


def _reduction(node: Node, name: str, x: str, kind: str) -> list[str]:
    reduction, n = node.parameter
    first, better = f"{x}[g * {n}]", {"max": ">", "min": "<"}
    head = f"for (int g = 0; g < {node.size}; ++g) {{"
    if reduction in ("sum", "prod"):
        sign = {"sum": "+", "prod": "*"}[reduction]
        body = (
            f"{kind} whole = {first}; for (int i = 1; i < {n}; ++i) whole {sign}= {x}[g * {n} + i];"
        )
        return [f"{head} {body} {name}[g] = whole; }}"]
    sign = better[reduction.removeprefix("arg")]
    best = f"{x}[g * {n} + best]"
    return [
        f"{head} int best = 0;",
        f"  for (int i = 1; i < {n}; ++i) if ({x}[g * {n} + i] {sign} {best}) best = i;",
        f"  {name}[g] = {'best' if reduction.startswith('arg') else best}; }}",
    ]


def _test(
    groups: Sequence[Port],
    carried: Sequence[Port],
    action: Port,
    tests: Sequence[tuple[Mapping[str, np.ndarray], np.ndarray]],
) -> str:
    lines = ["", "#ifdef POLICY_TEST", "int policy_test(void) {"]
    for port in groups:
        rows = np.stack([given[port.name].reshape(-1).astype(port.dtype) for given, _ in tests])
        lines.append("  " + _array(f"given_{_name(port)}", rows, _given(port)))
    wanted = np.stack([np.asarray(want, np.float64).reshape(-1) for _, want in tests])
    lines.append("  " + _array("wanted", wanted))
    memory = ["memory"] if carried else []
    if carried:
        lines += ["  policy_memory memory;", "  policy_reset(&memory);"]
    given = [f"given_{_name(port)} + t * {_size(port)}" for port in groups]
    call = ", ".join([*given, *(f"&{name}" for name in memory), "action"])
    lines += [
        f"  {_type(action.dtype)} action[{_size(action)}];",
        f"  for (int t = 0; t < {len(tests)}; ++t) {{",
        f"    policy_act({call});",
        f"    for (int i = 0; i < {_size(action)}; ++i) {{",
        f"      const float want = wanted[t * {_size(action)} + i];",
        f"      if (!(fabsf((float)action[i] - want) <= {TOLERANCE}f * (1.0f + fabsf(want)))) return t + 1;",
        "    }",
        "  }",
        "  return 0;",
        "}",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def _signature(graph: Graph) -> str:
    groups, carried, action = _parts(graph)
    given = [f"const {_given(p)} {_name(p)}[{_size(p)}]" for p in groups]
    memory = ["policy_memory *memory"] if carried else []
    result = f"{_type(action.dtype)} {_name(action)}[{_size(action)}]"
    return f"void policy_act({', '.join([*given, *memory, result])})"


def _parts(graph: Graph) -> tuple[list[Port], list[Port], Port]:
    groups = [port for port in graph.inputs if not port.carried]
    carried = [port for port in graph.inputs if port.carried]
    return groups, carried, next(port for port in graph.outputs if not port.carried)


def _given(port: Port) -> str:
    """The type of an observation's numbers: what an origin is subtracted from has 64 bits."""
    return "double" if port.origin else _type(port.dtype)


def _array(name: str, array: np.ndarray, kind: str = "") -> str:
    kind = kind or _type(str(array.dtype))
    numbers = [_number(x) for x in array.reshape(-1).tolist()]
    if kind == "double":
        numbers = [repr(x) for x in array.reshape(-1).tolist()]
    elif kind != "float":
        numbers = [str(int(x)) for x in array.reshape(-1).tolist()]
    lines = [", ".join(numbers[i : i + 12]) for i in range(0, len(numbers), 12)]
    return f"static const {kind} {name}[{max(array.size, 1)}] = {{{(',' + chr(10)).join(lines)}}};"


def _number(x: float) -> str:
    """A float of C that reads back as the same float32."""
    if np.isnan(x):
        return "NAN"
    if np.isinf(x):
        return "INFINITY" if x > 0 else "-INFINITY"
    text = np.format_float_scientific(np.float32(x), unique=True, trim="0")
    return f"{text}f"


def _type(dtype: str) -> str:
    return _TYPES.get(dtype, "int32_t")


def _size(port: Port) -> int:
    return int(np.prod(port.shape, dtype=int))


def _name(port: Port) -> str:
    """A port's name as one of C."""
    return re.sub(r"\W", "_", port.name)
