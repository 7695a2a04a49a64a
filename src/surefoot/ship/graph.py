"""A function of JAX as a short list of operations on flat vectors, which NumPy, ONNX and C all know.

JAX traces the function; what only moves numbers about (slices, transposes, gathers by known indices, ...)
becomes one `take`, found by moving the numbers' places instead; what depends on nothing is calculated here.
So anything written with jax.numpy can be exported, such as a robot's own observations, as long as it has no
loops, random numbers or indices that are calculated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from surefoot.deploy import OPERATIONS, Port
from surefoot.errors import UserError

# what only moves numbers about: which operands hold them; the others are indices
_MOVES = {
    **dict.fromkeys(
        ("broadcast_in_dim", "concatenate", "copy", "copy_p", "expand_dims"), slice(None)
    ),
    **dict.fromkeys(("pad", "reshape", "rev", "slice", "split"), slice(None)),
    **dict.fromkeys(("squeeze", "stack", "tile", "transpose"), slice(None)),
    **dict.fromkeys(("dynamic_slice", "gather"), slice(0, 1)),
    "dynamic_update_slice": slice(0, 2),
    "scatter": slice(0, None, 2),
}
_ELEMENTWISE = {
    *OPERATIONS,
    "clamp",
    "convert_element_type",
    "integer_pow",
    "rem",
    "rsqrt",
    "select_n",
}
_ELEMENTWISE |= {"square", "stop_gradient"}
# what leaves the other operand as it is: on either side, or on the right alone
_NEUTRAL = {"add": 0.0, "mul": 1.0, "max": -math.inf, "min": math.inf, "and": True, "or": False}
_NEUTRAL_RIGHT = {"sub": 0.0, "div": 1.0}
_ABSORBING = {"and": False, "or": True}
_REDUCTIONS = {
    "reduce_sum": "sum",
    "reduce_prod": "prod",
    "reduce_max": "max",
    "reduce_min": "min",
    "reduce_and": "min",
    "reduce_or": "max",
    "argmax": "argmax",
    "argmin": "argmin",
}


class Node(NamedTuple):
    """An operation: see `surefoot.deploy.Program`."""

    op: str
    reads: tuple[int, ...]
    parameter: Any
    size: int
    dtype: str


class Graph(NamedTuple):
    """What a function does.

    Attributes:
        inputs: what goes in; values 0, 1, ...
        constants: the values behind them, flat but for matrices.
        nodes: the values behind those.
        outputs: what comes out.
        results: the value of each output.
    """

    inputs: tuple[Port, ...]
    constants: tuple[np.ndarray, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Port, ...]
    results: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """All but the constants, as `surefoot.deploy.Program` reads it."""
        return {
            "inputs": [asdict(port) for port in self.inputs],
            "outputs": [asdict(port) for port in self.outputs],
            "nodes": [[node.op, list(node.reads), node.parameter] for node in self.nodes],
            "results": list(self.results),
        }


@dataclass(frozen=True)
class _Value:
    """A value that is only known when the function runs."""

    number: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        return math.prod(self.shape)


_Operand = _Value | np.ndarray


def trace(
    function: Callable[[Mapping[str, jax.Array]], Mapping[str, jax.Array]],
    inputs: Sequence[Port],
    carried: Sequence[str] = (),
) -> Graph:
    """The operations of a function.

    Args:
        function: of arrays by input name; gives arrays by output name.
        inputs: what it reads.
        carried: outputs that go into the next call.

    Raises:
        ValueError: the function does something that cannot be exported, with the operation.
    """
    names = [port.name for port in inputs]

    def outputs_of(*arrays: jax.Array) -> Mapping[str, jax.Array]:
        return function(dict(zip(names, arrays, strict=True)))

    shapes = [jax.ShapeDtypeStruct(port.shape, port.inside) for port in inputs]
    made = jax.eval_shape(outputs_of, *shapes)

    def flat(*arrays: jax.Array) -> list[jax.Array]:
        found = outputs_of(*arrays)
        return [jnp.asarray(found[name]) for name in made]

    jaxpr = jax.make_jaxpr(flat)(*shapes)
    tracer = _Tracer(inputs)
    given = [_Value(i, port.shape, np.dtype(port.inside)) for i, port in enumerate(inputs)]
    results = tracer.walk(jaxpr.jaxpr, [np.asarray(x) for x in jaxpr.consts], given)
    outputs = tuple(Port(name, x.shape, str(x.dtype), name in carried) for name, x in made.items())
    return tracer.finish(outputs, [tracer.number(x) for x in results])


@dataclass
class _Tracer:
    """Builds a graph; numbers of constants are negative until it is finished."""

    inputs: Sequence[Port]
    constants: list[np.ndarray] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    _known: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def walk(
        self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[_Operand]
    ) -> list[_Operand]:
        """The results of a jaxpr."""
        table: dict[Any, _Operand] = {}

        def read(var: Any) -> _Operand:
            return np.asarray(var.val) if isinstance(var, jax.extend.core.Literal) else table[var]

        table.update(zip(jaxpr.constvars, consts, strict=True))
        table.update(zip(jaxpr.invars, arguments, strict=True))
        needed, equations = {*map(id, jaxpr.outvars)}, []
        for equation in reversed(jaxpr.eqns):
            if needed & {*map(id, equation.outvars)}:
                needed |= {*map(id, equation.invars)}
                equations.append(equation)
        for equation in reversed(equations):
            operands = [read(var) for var in equation.invars]
            results = self.apply(equation.primitive, equation.params, operands, equation.outvars)
            table.update(zip(equation.outvars, results, strict=True))
        return [read(var) for var in jaxpr.outvars]

    def apply(
        self,
        primitive: Any,
        params: Mapping[str, Any],
        operands: list[_Operand],
        outs: Sequence[Any],
    ) -> list[_Operand]:
        """The results of one operation of JAX."""
        inner = params.get("jaxpr") or params.get("call_jaxpr")
        name = primitive.name
        if inner is not None and name not in ("scan", "while", "cond"):
            closed = hasattr(inner, "jaxpr")
            consts = [np.asarray(x) for x in inner.consts] if closed else []
            return self.walk(inner.jaxpr if closed else inner, consts, operands)
        if any(jnp.issubdtype(out.aval.dtype, jax.dtypes.prng_key) for out in outs) and any(
            isinstance(x, _Value) for x in operands
        ):
            raise _cannot("random numbers")
        if not any(isinstance(x, _Value) for x in operands):
            results = primitive.bind(*operands, **params)
            results = results if primitive.multiple_results else [results]
            keys = jax.dtypes.prng_key
            return [x if jnp.issubdtype(x.dtype, keys) else np.asarray(x) for x in results]
        if name == "select_n" and isinstance(operands[0], np.ndarray):
            return self._move(primitive, params, operands, data=slice(1, None))
        if name in _MOVES:
            return self._move(primitive, params, operands, data=_MOVES[name])
        out = outs[0].aval
        shape, dtype = tuple(out.shape), np.dtype(out.dtype)
        if name in _REDUCTIONS:
            return [self._reduce(_REDUCTIONS[name], operands[0], params["axes"], shape, dtype)]
        if name == "dot_general":
            left, right = operands
            return [self._dot(left, right, params["dimension_numbers"], shape, dtype)]
        if name == "cumsum":
            return [self._cumsum(operands[0], params["axis"], params["reverse"], shape, dtype)]
        return [self._elementwise(name, params, operands, dtype, shape)]

    def _elementwise(
        self,
        name: str,
        params: Mapping[str, Any],
        operands: list[_Operand],
        dtype: np.dtype,
        shape: tuple[int, ...],
    ) -> _Operand:
        if name not in _ELEMENTWISE:
            raise _cannot(name)
        operands = [self._spread(x, shape) for x in operands]
        if name == "clamp":
            low, x, high = operands
            raised = self._elementwise("max", params, [x, low], dtype, shape)
            return self._elementwise("min", params, [raised, high], dtype, shape)
        if len(operands) == 2:
            for x, other, x_is_right in ((*operands, False), (*reversed(operands), True)):
                if not isinstance(other, np.ndarray) or x.shape != shape:
                    continue
                if name in _ABSORBING and np.all(other == _ABSORBING[name]):
                    return np.full(shape, _ABSORBING[name])
                neutral = _NEUTRAL.get(name, _NEUTRAL_RIGHT.get(name) if not x_is_right else None)
                if neutral is not None and np.all(other == neutral):
                    return x
        return _Value(self._node_of(name, params, operands, dtype, math.prod(shape)), shape, dtype)

    def _spread(self, x: _Operand, shape: tuple[int, ...]) -> _Operand:
        """A value as an array of a shape; one number alone stands for a vector of it."""
        if x.shape == shape or x.size == 1:
            return x
        return self._take([x], np.broadcast_to(np.arange(x.size).reshape(x.shape), shape))

    def _node_of(
        self,
        name: str,
        params: Mapping[str, Any],
        operands: list[_Operand],
        dtype: np.dtype,
        size: int,
    ) -> int:
        reads = [self.number(x) for x in operands]

        def node(op: str, *reads: int, parameter: Any = None, dtype: Any = dtype) -> int:
            return self.add(op, reads, parameter, size, dtype)

        def constant(x: float) -> int:
            return self.constant(np.full(1, x, dtype))

        if name == "select_n":
            if len(reads) != 3:
                raise _cannot(name)
            return node("select", *reads)
        if name == "convert_element_type":
            return node("cast", *reads, parameter=str(dtype))
        if name in ("square", "integer_pow"):
            power = params.get("y", 2)
            if power == 2:
                return node("mul", reads[0], reads[0])
            return node("pow", reads[0], constant(power))
        if name == "rsqrt":
            return node("div", constant(1.0), node("sqrt", *reads))
        if name == "stop_gradient":
            return reads[0]
        if name == "round" and params["rounding_method"] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
            raise _cannot("round away from zero")
        if name == "rem" or (name == "div" and dtype.kind in "iu"):
            # towards 0, as C's fmod and its division of integers
            parts = [node("cast", x, parameter="float32", dtype="float32") for x in reads]
            ratio = node("div", *parts, dtype="float32")
            size_of = node("floor", node("abs", ratio, dtype="float32"), dtype="float32")
            whole = node("mul", node("sign", ratio, dtype="float32"), size_of, dtype="float32")
            whole = node("cast", whole, parameter=str(dtype))
            return whole if name == "div" else node("sub", reads[0], node("mul", whole, reads[1]))
        if name == "not" and operands[0].dtype != bool:
            raise _cannot("not of integers")
        return node(name, *reads)

    def _move(
        self, primitive: Any, params: Mapping[str, Any], operands: list[_Operand], data: slice
    ) -> list[_Operand]:
        """One that only moves numbers about: it is applied to their places."""
        chosen = range(len(operands))[data]
        if any(isinstance(x, _Value) for i, x in enumerate(operands) if i not in chosen):
            raise _cannot(f"{primitive.name} by an index that is calculated")
        moved, first = list(operands), 0
        for i in chosen:
            x = operands[i]
            places = first + np.arange(x.size, dtype=np.int32).reshape(x.shape)
            moved[i], first = places, first + x.size
        own = dict(params)
        if primitive.name in ("gather", "scatter"):
            own |= {"fill_value": None} if "fill_value" in params else {}
        results = primitive.bind(*map(jnp.asarray, moved), **own)
        results = results if primitive.multiple_results else [results]
        parts = [operands[i] for i in chosen]
        return [self._take(parts, np.asarray(x)) for x in results]

    def _take(self, parts: Sequence[_Operand], index: np.ndarray) -> _Operand:
        """Numbers of some vectors put together, as an array of the index's shape."""
        places, bases, first = [], {}, 0
        for part in parts:
            number = self.number(part)
            node = self._node(number)
            # of what was taken itself its own index is followed
            inner, own = (number,), np.arange(part.size)
            if node is not None and node.op == "take":
                inner, own = node.reads[:-1], self.constants[-node.reads[-1] - 1]
            spread = []
            for base in inner:
                if base not in bases:
                    bases[base], first = first, first + self._size(base)
                spread.append(bases[base] + np.arange(self._size(base)))
            places.append(np.concatenate(spread)[own])
        whole = np.concatenate(places)
        if index.size and not 0 <= index.min() <= index.max() < len(whole):
            raise _cannot("an index beyond the end")
        flat = whole[index.reshape(-1)]
        # only what is read goes in
        kept, moved, first = [], np.zeros(len(flat), np.int32), 0
        for base, start in bases.items():
            size = self._size(base)
            inside = (flat >= start) & (flat < start + size)
            if np.any(inside):
                moved[inside] = flat[inside] - start + first
                kept.append(base)
                first += size
        if all(base < 0 for base in kept):
            known = [self.constants[-base - 1] for base in kept]
            dtype = np.asarray(parts[0]).dtype if not kept else known[0].dtype
            return np.concatenate([*known, np.zeros(0, dtype)])[moved].reshape(index.shape)
        dtype = next(x.dtype for x in parts if isinstance(x, _Value))
        stays = len(kept) == 1 and len(moved) == first and np.array_equal(moved, np.arange(first))
        number = kept[0]
        if not stays:
            number = self.add("take", (*kept, self.constant(moved)), None, len(moved), dtype)
        return _Value(number, index.shape, dtype)

    def _size(self, number: int) -> int:
        if number < 0:
            return self.constants[-number - 1].size
        node = self._node(number)
        return math.prod(self.inputs[number].shape) if node is None else node.size

    def _reduce(
        self, kind: str, x: _Operand, axes: Sequence[int], shape: tuple[int, ...], dtype: np.dtype
    ) -> _Value:
        kept = [axis for axis in range(len(x.shape)) if axis not in axes]
        n = math.prod(x.shape[axis] for axis in axes)
        order = np.arange(x.size).reshape(x.shape).transpose(*kept, *axes).reshape(-1)
        number = self.number(self._take([x], order))
        if n > 1 or kind.startswith("arg"):
            number = self.add("reduce", (number,), [kind, n], math.prod(shape), dtype)
        if kind.startswith("arg"):
            number = self.add("cast", (number,), str(dtype), math.prod(shape), dtype)
        return _Value(number, shape, dtype)

    def _dot(
        self, left: _Operand, right: _Operand, numbers: Any, shape: tuple[int, ...], dtype: Any
    ) -> _Value:
        """Products of matrices, [b, i, k] and [b, k, j] -> [b, i, j]."""
        (left_in, right_in), (left_batch, right_batch) = numbers

        def order(x: _Operand, batch: Any, inner: Any, *, last: bool) -> tuple[_Operand, int]:
            free = [a for a in range(len(x.shape)) if a not in (*batch, *inner)]
            axes = [*batch, *free, *inner] if last else [*batch, *inner, *free]
            places = np.arange(x.size).reshape(x.shape).transpose(axes)
            return self._take([x], places), math.prod(x.shape[a] for a in free)

        rows, i = order(left, left_batch, left_in, last=True)
        columns, j = order(right, right_batch, right_in, last=False)
        k = math.prod(left.shape[a] for a in left_in)
        b = math.prod(left.shape[a] for a in left_batch)
        if b == 1 and isinstance(columns, np.ndarray):
            number = self.add(
                "matmul",
                (self.number(rows), self.constant(columns.reshape(k, j), flat=False)),
                i,
                i * j,
                dtype,
            )
            return _Value(number, shape, dtype)
        if b == 1 and j == 1 and isinstance(rows, np.ndarray):
            matrix = self.constant(rows.reshape(i, k).T.copy(), flat=False)
            return _Value(
                self.add("matmul", (self.number(columns), matrix), 1, i, dtype), shape, dtype
            )
        place_b, place_i, place_j, place_k = np.indices((b, i, j, k))
        from_left = ((place_b * i + place_i) * k + place_k).reshape(-1)
        from_right = ((place_b * k + place_k) * j + place_j).reshape(-1)
        pairs = [
            self.number(self._take([x], index))
            for x, index in ((rows, from_left), (columns, from_right))
        ]
        product = self.add("mul", tuple(pairs), None, b * i * j * k, dtype)
        number = self.add("reduce", (product,), ["sum", k], b * i * j, dtype)
        return _Value(number, shape, dtype)

    def _cumsum(
        self, x: _Operand, axis: int, reverse: bool, shape: tuple[int, ...], dtype: Any
    ) -> _Value:
        n = x.shape[axis]
        moved = np.moveaxis(np.arange(x.size).reshape(x.shape), axis, -1)
        triangle = np.tri(n, dtype=dtype) if reverse else np.tri(n, dtype=dtype).T
        rows = self.number(self._take([x], moved.reshape(-1)))
        matrix = self.constant(np.ascontiguousarray(triangle), flat=False)
        sums = self.add("matmul", (rows, matrix), x.size // n, x.size, dtype)
        back = np.moveaxis(np.arange(x.size).reshape(moved.shape), -1, axis).reshape(-1)
        return _Value(self.number(self._take([_Value(sums, shape, dtype)], back)), shape, dtype)

    # --- values

    def number(self, x: _Operand) -> int:
        """Of a value."""
        return x.number if isinstance(x, _Value) else self.constant(np.asarray(x))

    def constant(self, array: np.ndarray, *, flat: bool = True) -> int:
        """The number of a constant; one number alone stands for a vector of it."""
        array = array.reshape(-1) if flat else array
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        elif array.dtype.kind in "iu":
            array = array.astype(np.int32)
        key = (array.shape, str(array.dtype), array.tobytes())
        if key not in self._known:
            self.constants.append(array)
            self._known[key] = -len(self.constants)
        return self._known[key]

    def add(self, op: str, reads: Sequence[int], parameter: Any, size: int, dtype: Any) -> int:
        """The number of a node; one that is there already is not made again."""
        node = Node(op, tuple(reads), parameter, size, str(np.dtype(dtype)))
        key = (op, node.reads, str(parameter), size, node.dtype)
        if key not in self._known:
            self._known[key] = len(self.inputs) + len(self.nodes)
            self.nodes.append(node)
        return self._known[key]

    def _node(self, number: int) -> Node | None:
        first = len(self.inputs)
        return self.nodes[number - first] if number >= first else None

    def finish(self, outputs: tuple[Port, ...], results: list[int]) -> Graph:
        """The graph of what the results need."""
        first = len(self.inputs)
        needed = {*results}
        for place in reversed(range(len(self.nodes))):
            if first + place in needed:
                needed |= {*self.nodes[place].reads}
        constants = sorted((n for n in needed if n < 0), reverse=True)
        kept = [place for place in range(len(self.nodes)) if first + place in needed]
        table = {i: i for i in range(first)}
        table |= {n: first + i for i, n in enumerate(constants)}
        start = first + len(constants)
        table |= {first + place: start + i for i, place in enumerate(kept)}
        nodes = tuple(
            self.nodes[place]._replace(reads=tuple(table[n] for n in self.nodes[place].reads))
            for place in kept
        )
        arrays = tuple(self.constants[-n - 1] for n in constants)
        return Graph(tuple(self.inputs), arrays, nodes, outputs, tuple(table[n] for n in results))


def _cannot(what: str) -> UserError:
    return UserError(
        f"it cannot be exported: JAX's {what!r} has no counterpart in ONNX, C and NumPy here; known are "
        "elementwise functions, slices, reductions and matrix products, without loops or random numbers"
    )
