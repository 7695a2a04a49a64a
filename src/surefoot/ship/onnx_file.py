"""A graph as an ONNX model, its batch axis of any size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from surefoot.errors import UserError
from surefoot.ship.graph import Graph, Node

OPSET, IR_VERSION = 18, 10  # read by onnxruntime from 1.18 on

# ours: ONNX's; what is not here is written out below
OPERATORS = {
    "abs": "Abs",
    "acos": "Acos",
    "add": "Add",
    "and": "And",
    "asin": "Asin",
    "atan": "Atan",
    "ceil": "Ceil",
    "cos": "Cos",
    "cosh": "Cosh",
    "div": "Div",
    "eq": "Equal",
    "exp": "Exp",
    "floor": "Floor",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "not": "Not",
    "or": "Or",
    "pow": "Pow",
    "round": "Round",
    "sign": "Sign",
    "sin": "Sin",
    "sinh": "Sinh",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tan": "Tan",
    "tanh": "Tanh",
}
_REDUCTIONS = {"sum": "ReduceSum", "prod": "ReduceProd", "max": "ReduceMax", "min": "ReduceMin"}


def onnx_model(graph: Graph, about: Mapping[str, Any]) -> bytes:
    """A model as a file's content; `about` goes into its metadata as JSON, under `surefoot`.

    Raises:
        ValueError: the package onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise UserError(
            "writing ONNX needs the package onnx: pip install 'surefoot[export]'"
        ) from None
    writer = _Writer(graph)
    model = writer.model(onnx)
    entry = model.metadata_props.add()
    entry.key, entry.value = "surefoot", json.dumps(about)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


class _Writer:
    """Names of values are `v` and their number."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._helpers: dict[tuple[Any, ...], str] = {}

    def model(self, onnx: Any) -> Any:
        """The whole."""
        self._onnx, graph = onnx, self._graph
        helper = onnx.helper
        inputs, outputs = [], []
        for number, port in enumerate(graph.inputs):
            inputs.append(self._port(port.name, port))
            rows = [port.name, self._ints(-1, _size(port))]
            if port.origin:
                origin = self._helper(np.array(port.origin, np.float64))
                moved = self._make("Sub", [self._make("Reshape", rows), origin])
                self._node("Cast", [moved], f"v{number}", to=self._type(port.inside))
            else:
                self._node("Reshape", rows, f"v{number}")
        first = len(graph.inputs)
        for number, array in enumerate(graph.constants, start=first):
            self._constant(f"v{number}", array)
        for number, node in enumerate(graph.nodes, start=first + len(graph.constants)):
            self._write(node, [f"v{i}" for i in node.reads], f"v{number}")
        batch = self._batch()
        for port, number in zip(graph.outputs, graph.results, strict=True):
            name = f"{port.name}_out" if port.carried else port.name
            outputs.append(self._port(name, port))
            value = f"v{number}"
            if first <= number < first + len(graph.constants):
                # a number that depends on nothing: one for each row
                shape = self._make("Concat", [batch, self._ints(_size(port))], axis=0)
                value = self._make("Expand", [value, shape])
            value = self._make("Cast", [value], to=self._type(port.dtype))
            self._node("Reshape", [value, self._ints(-1, *port.shape)], name)
        made = helper.make_graph(self._nodes, "policy", inputs, outputs, self._constants)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(
            made, opset_imports=[opset], ir_version=IR_VERSION, producer_name="surefoot"
        )

    def _write(self, node: Node, reads: list[str], name: str) -> None:
        op, parameter = node.op, node.parameter
        if op in OPERATORS:
            self._node(OPERATORS[op], reads, name)
        elif op == "take":
            *parts, index = reads
            if len(parts) > 1:
                parts = [self._make("Concat", [self._rows(i) for i in node.reads[:-1]], axis=1)]
            self._node("Gather", [parts[0], index], name, axis=1)
        elif op == "matmul" and parameter == 1:
            self._node("MatMul", reads, name)
        elif op == "matmul":
            k = self._graph.constants[node.reads[1] - len(self._graph.inputs)].shape[0]
            rows = self._make("Reshape", [reads[0], self._ints(-1, parameter, k)])
            product = self._make("MatMul", [rows, reads[1]])
            self._node("Reshape", [product, self._ints(-1, node.size)], name)
        elif op == "reduce":
            kind, n = parameter
            groups = self._make("Reshape", [reads[0], self._ints(-1, node.size, n)])
            if kind in _REDUCTIONS and node.dtype == "bool":
                whole = self._make("Cast", [groups], to=self._type("int32"))
                result = self._make(_REDUCTIONS[kind], [whole, self._ints(-1)], keepdims=0)
                self._node("Cast", [result], name, to=self._type("bool"))
            elif kind in _REDUCTIONS:
                self._node(_REDUCTIONS[kind], [groups, self._ints(-1)], name, keepdims=0)
            else:
                operator = {"argmax": "ArgMax", "argmin": "ArgMin"}[kind]
                self._node(operator, [groups], name, axis=-1, keepdims=0)
        elif op == "cast":
            self._node("Cast", reads, name, to=self._type(parameter))
        elif op == "select":
            which, no, yes = reads
            self._node("Where", [which, yes, no], name)
        elif op == "ne":
            self._node("Not", [self._make("Equal", reads)], name)
        elif op == "is_finite":
            bad = [self._make("IsNaN", reads), self._make("IsInf", reads)]
            self._node("Not", [self._make("Or", bad)], name)
        elif op == "log1p":
            self._node("Log", [self._make("Add", [self._float(1.0), *reads])], name)
        elif op == "expm1":
            self._node("Sub", [self._make("Exp", reads), self._float(1.0)], name)
        elif op == "atan2":
            self._atan2(reads[0], reads[1], name)
        else:
            raise AssertionError(op)

    def _atan2(self, y: str, x: str, name: str) -> None:
        """atan(y / x), turned by pi where x is negative; +-pi / 2 where it is 0."""
        zero = self._float(0.0)
        plain = self._make("Atan", [self._make("Div", [y, x])])
        half = self._make(
            "Where", [self._make("Less", [y, zero]), self._float(-np.pi), self._float(np.pi)]
        )
        behind = self._make(
            "Where", [self._make("Less", [x, zero]), self._make("Add", [plain, half]), plain]
        )
        nothing = self._make(
            "And", [self._make("Equal", [x, zero]), self._make("Equal", [y, zero])]
        )
        self._node("Where", [nothing, zero, behind], name)

    # --- pieces

    def _rows(self, number: int) -> str:
        """A value with its batch axis: a constant has none."""
        name, first = f"v{number}", len(self._graph.inputs)
        if not first <= number < first + len(self._graph.constants):
            return name
        size = self._graph.constants[number - first].size
        return self._make(
            "Expand", [name, self._make("Concat", [self._batch(), self._ints(size)], axis=0)]
        )

    def _batch(self) -> str:
        """How many rows there are, as a vector of one integer."""
        key = ("batch",)
        if key not in self._helpers:
            self._helpers[key] = "batch_size"
            self._node("Shape", ["v0"], "batch_size", start=0, end=1)
        return self._helpers[key]

    def _port(self, name: str, port: Any) -> Any:
        return self._onnx.helper.make_tensor_value_info(
            name, self._type(port.dtype), ["batch", *port.shape]
        )

    def _type(self, dtype: str) -> int:
        return int(self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def _node(self, operator: str, reads: list[str], name: str, **attributes: Any) -> None:
        self._nodes.append(self._onnx.helper.make_node(operator, reads, [name], **attributes))

    def _make(self, operator: str, reads: list[str], **attributes: Any) -> str:
        name = f"t{len(self._nodes)}"
        self._node(operator, reads, name, **attributes)
        return name

    def _constant(self, name: str, array: np.ndarray) -> None:
        self._constants.append(self._onnx.numpy_helper.from_array(array, name))

    def _ints(self, *numbers: int) -> str:
        return self._helper(np.array(numbers, np.int64))

    def _float(self, number: float) -> str:
        return self._helper(np.array([number], np.float32))

    def _helper(self, array: np.ndarray) -> str:
        key = (str(array.dtype), *array.tolist())
        if key not in self._helpers:
            self._helpers[key] = f"k{len(self._helpers)}"
            self._constant(self._helpers[key], array)
        return self._helpers[key]


def _size(port: Any) -> int:
    return int(np.prod(port.shape, dtype=int))
