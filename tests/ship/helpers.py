"""Functions of JAX in all three forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
import onnxruntime

from surefoot.deploy import Port, Program
from surefoot.ship.c_file import Compiled, c_files
from surefoot.ship.graph import Graph, trace
from surefoot.ship.onnx_file import onnx_model

Function = Callable[[Mapping[str, jax.Array]], Mapping[str, jax.Array]]
Arrays = Mapping[str, np.ndarray]


def traced(function: Callable[..., jax.Array], given: Arrays) -> Graph:
    """The graph of a function of arrays [B, ...] for one row each; what comes out is called `action`."""
    ports = [Port(name, x.shape[1:], str(x.dtype)) for name, x in given.items()]
    return trace(lambda rows: {"action": function(**rows)}, ports)


def in_every_form(graph: Graph, given: Arrays, folder: Path) -> dict[str, np.ndarray]:
    """What a graph makes of rows, by form."""
    (folder / "policy.onnx").write_bytes(onnx_model(graph, {}))
    session = onnxruntime.InferenceSession(str(folder / "policy.onnx"))
    (onnx,) = session.run(["action"], dict(given))
    count = len(next(iter(given.values())))
    rows = [{name: x[i] for name, x in given.items()} for i in range(count)]
    tests = [(rows[0], np.asarray(onnx)[0])]
    for name, text in c_files(graph, tests, ["one", "*/ two"]).items():
        (folder / name).write_text(text)
    compiled = Compiled(folder, graph, folder)
    assert compiled.test()
    return {
        "numpy": Program(graph.to_json(), list(graph.constants))(given)["action"],
        "onnx": np.asarray(onnx),
        "c": np.stack([compiled(row) for row in rows]),
    }
