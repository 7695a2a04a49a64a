"""Runs an exported policy: NumPy alone is needed, neither JAX nor the rest of Surefoot.

    from surefoot.deploy import load

    policy = load("runs/walk/export")      # policy.json and policy.npz, or policy.onnx through onnxruntime
    action = policy(observation)           # as the environment gives it -> as the environment takes it

`Controller` is a loop at a fixed rate around it, for robots: it checks what comes in and falls back on a
safe action. An exported policy is a short list of operations on flat vectors (`OPERATIONS`), so that it can
be read and ported.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
import zipfile
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
DESCRIPTION, NUMBERS, ONNX = "policy.json", "policy.npz", "policy.onnx"


def _logistic(x: np.ndarray) -> np.ndarray:
    half = np.asarray(0.5, x.dtype)
    return half * np.tanh(half * x) + half


# elementwise, on float32 but where the name says otherwise
OPERATIONS: dict[str, Callable[..., np.ndarray]] = {
    "abs": np.abs,
    "acos": np.arccos,
    "add": np.add,
    "and": np.bitwise_and,
    "asin": np.arcsin,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "ceil": np.ceil,
    "cos": np.cos,
    "cosh": np.cosh,
    "div": np.divide,
    "eq": np.equal,
    "exp": np.exp,
    "expm1": np.expm1,
    "floor": np.floor,
    "ge": np.greater_equal,
    "gt": np.greater,
    "is_finite": np.isfinite,
    "le": np.less_equal,
    "log": np.log,
    "log1p": np.log1p,
    "logistic": _logistic,
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "not": np.logical_not,
    "or": np.bitwise_or,
    "pow": np.power,
    "round": np.rint,
    "select": lambda which, no, yes: np.where(which, yes, no),
    "sign": np.sign,
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "sub": np.subtract,
    "tan": np.tan,
    "tanh": np.tanh,
}
REDUCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "sum": np.sum,
    "prod": np.prod,
    "max": np.max,
    "min": np.min,
    "argmax": np.argmax,
    "argmin": np.argmin,
}


class Policy:
    """An exported policy. It remembers from call to call, where it has memory, until `reset`.

    Args:
        folder: that holds policy.json and policy.npz, or policy.onnx.
        onnx: run policy.onnx through onnxruntime (a package of its own) instead of NumPy.

    Attributes:
        about: what policy.json says: `observations`, `action`, `task` and, for robots, `robot`.
        groups: the observations that it reads.

    Raises:
        ValueError: a file is missing, damaged, or of another version.
    """

    def __init__(self, folder: str | Path, *, onnx: bool = False) -> None:
        path = Path(folder)
        if path.suffix in (".onnx", ".json"):
            path, onnx = path.parent, path.suffix == ".onnx"
        self.about = load_about(path)
        program = self.about["program"]
        self._inputs = [Port(**port) for port in program["inputs"]]
        self._outputs = [Port(**port) for port in program["outputs"]]
        self.groups = [port for port in self._inputs if not port.carried]
        self._run = _onnx_session(path / ONNX) if onnx else Program(program, _load(path / NUMBERS))
        self._carry: dict[str, np.ndarray] = {}

    def reset(self) -> None:
        """Begin a new episode: what was seen before is forgotten."""
        self._carry = {}

    def __call__(self, observation: np.ndarray | Mapping[str, np.ndarray]) -> np.ndarray:
        """Choose the action: the most likely one.

        Args:
            observation: as the environment gives it, one or a batch with a leading axis; a mapping of groups
                where the task has several.

        Returns:
            The action in the environment's own bounds, shape and dtype; a batch for a batch.

        Raises:
            ValueError: a group is missing or has another shape, with both.
        """
        given = observation if isinstance(observation, Mapping) else None
        if given is None and len(self.groups) != 1:
            raise ValueError(f"this policy reads the groups {[port.name for port in self.groups]}")
        values, counts = {}, set()
        for port in self.groups:
            if given is not None and port.name not in given:
                raise ValueError(f"observation group {port.name!r} is missing; got {list(given)}")
            array = np.asarray(observation if given is None else given[port.name])
            single = array.shape == port.shape
            if not single and array.shape[1:] != port.shape:
                raise ValueError(
                    f"observation {port.name!r} has shape {array.shape}, need {port.shape} or a batch of it"
                )
            batch = array[None] if single else array
            values[port.name] = batch.astype(port.dtype, copy=False)
            counts.add((single, len(batch)))
        if len(counts) != 1:
            raise ValueError("observation groups come in different batches")
        single, count = counts.pop()
        for port in self._inputs:
            if port.carried:
                carried = self._carry.get(port.name)
                if carried is None:
                    carried = np.zeros((count, *port.shape), port.dtype)
                elif len(carried) != count:
                    raise ValueError(
                        f"{count} observations, {len(carried)} before them: call reset() first"
                    )
                values[port.name] = carried
        results = self._run(values)
        self._carry = {port.name: results[port.name] for port in self._outputs if port.carried}
        action = results["action"]
        return action[0] if single else action


def load(folder: str | Path, *, onnx: bool = False) -> Policy:
    """The policy that `surefoot export` wrote into a folder, see `Policy`."""
    return Policy(folder, onnx=onnx)


@dataclass(frozen=True)
class Port:
    """What goes into a policy, or comes out of it.

    Attributes:
        name: of the observation group, `action`, or what is carried from call to call.
        shape: of one.
        dtype: of its numbers.
        carried: whether what comes out goes into the next call under the same name.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    carried: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))


class Program:
    """Operations on flat vectors, in NumPy; a leading axis is the batch.

    Values are numbered: inputs, then constants, then what each node makes. A node is an operation, the
    values it reads, and a parameter: `take` picks numbers (the last value says which) of the others put
    together, `matmul` multiplies so many rows by a matrix, `reduce` (kind, n) brings n numbers each down to
    one, `cast` goes to a dtype; all others are elementwise, see `OPERATIONS`.

    Args:
        program: `inputs`, `nodes` and `outputs`.
        constants: by number.
    """

    def __init__(self, program: Mapping[str, Any], constants: list[np.ndarray]) -> None:
        self._inputs = [Port(**port) for port in program["inputs"]]
        ports = (Port(**port) for port in program["outputs"])
        self._outputs = list(zip(ports, program["results"], strict=True))
        first = len(self._inputs)
        self._constants = dict(enumerate(constants, start=first))
        self._start = first + len(constants)
        self._steps = [_step(*node) for node in program["nodes"]]

    def __call__(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Batches [B, *shape] by input -> batches by output."""
        count = len(next(iter(values.values())))
        table: dict[int, np.ndarray] = dict(self._constants)
        for number, port in enumerate(self._inputs):
            table[number] = values[port.name].reshape(count, -1)
        # infinite and huge numbers are dealt with further on, as the network does
        with np.errstate(all="ignore"):
            for number, (run, reads) in enumerate(self._steps, start=self._start):
                table[number] = run(*[table[i] for i in reads])
        return {
            port.name: np.broadcast_to(table[value], (count, math.prod(port.shape)))
            .reshape(count, *port.shape)
            .astype(port.dtype)
            for port, value in self._outputs
        }


def _step(op: str, reads: list[int], parameter: Any) -> tuple[Callable[..., Any], list[int]]:
    """What a node does."""
    if op == "take":
        return _take, reads
    if op == "matmul":
        return lambda x, matrix: _matmul(x, matrix, parameter), reads
    if op == "reduce":
        reduction, n = REDUCTIONS[parameter[0]], parameter[1]
        return lambda x: reduction(x.reshape(*x.shape[:-1], -1, n), axis=-1), reads
    if op == "cast":
        return lambda x: x.astype(parameter), reads
    return OPERATIONS[op], reads


def _take(*values: np.ndarray) -> np.ndarray:
    *parts, index = values
    if len(parts) == 1:
        return parts[0][..., index]
    count = max(len(part) for part in parts if part.ndim == 2)
    rows = [part if part.ndim == 2 else np.broadcast_to(part, (count, len(part))) for part in parts]
    return np.concatenate(rows, axis=1)[:, index]


def _matmul(x: np.ndarray, matrix: np.ndarray, rows: int) -> np.ndarray:
    if rows == 1:
        return x @ matrix
    return (x.reshape(-1, rows, matrix.shape[0]) @ matrix).reshape(len(x), -1)


def load_about(folder: Path) -> dict[str, Any]:
    """What policy.json of an export says.

    Raises:
        ValueError: it is not there, damaged, or of another version.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ValueError(f"there is no {path}; `surefoot export RUN` writes it")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        version = about["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if version != FORMAT:
        raise ValueError(f"{path}: format {version}, this version reads {FORMAT}; export it again")
    return about


def _load(path: Path) -> list[np.ndarray]:
    if not path.is_file():
        raise ValueError(f"there is no {path}; `surefoot export RUN` writes it")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[f"c{i}"] for i in range(len(arrays.files))]
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _onnx_session(path: Path) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    try:
        import onnxruntime
    except ImportError:
        raise ValueError("running policy.onnx needs the package onnxruntime") from None
    if not path.is_file():
        raise ValueError(f"there is no {path}; `surefoot export RUN` writes it")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        results = dict(zip(names, session.run(names, dict(values)), strict=True))
        return {name.removesuffix("_out"): np.asarray(value) for name, value in results.items()}

    return run


# --- at a fixed rate


@dataclass
class Latency:
    """Seconds that calls took, the newest 100,000 of them, and how many came too late."""

    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=100_000))
    late: int = 0

    def percentile(self, share: float) -> float:
        """Seconds that this share of the calls stayed below, such as 0.99; NaN without any."""
        return float(np.quantile(self.seconds, share)) if self.seconds else math.nan


class Controller:
    """Calls a policy at a fixed rate, and falls back on a safe action where what it reads cannot be trusted.

    Args:
        policy: what acts.
        period_s: seconds between actions; that of training stands in `policy.about["robot"]`.
        safe: the action where an observation is not finite, out of range or too old, such as holding still.
        low: smallest numbers that an observation can have, by group; others are not trusted.
        high: largest ones.
        oldest_s: seconds after which an observation is too old.

    Attributes:
        latency: of the policy's calls.
        refused: how often the safe action was taken, by reason.
    """

    def __init__(
        self,
        policy: Policy,
        period_s: float,
        safe: np.ndarray,
        *,
        low: Mapping[str, Any] | None = None,
        high: Mapping[str, Any] | None = None,
        oldest_s: float = math.inf,
    ) -> None:
        if not period_s > 0:
            raise ValueError(f"period_s = {period_s}: it must be above 0")
        self.policy, self.period_s, self.oldest_s = policy, period_s, oldest_s
        self._safe, self._low, self._high = np.asarray(safe), low or {}, high or {}
        self.latency = Latency()
        self.refused: dict[str, int] = {}

    def act(self, observation: Mapping[str, np.ndarray], age_s: float = 0.0) -> np.ndarray:
        """The action for groups of numbers that were measured `age_s` seconds ago."""
        if reason := self._doubt(observation, age_s):
            return self._instead(reason)
        began = time.perf_counter()
        action = self.policy(observation)
        self.latency.seconds.append(time.perf_counter() - began)
        if np.all(np.isfinite(action)):
            return action
        return self._instead("the action is not finite")

    def _instead(self, reason: str) -> np.ndarray:
        self.refused[reason] = self.refused.get(reason, 0) + 1
        return self._safe.copy()

    def _doubt(self, observation: Mapping[str, np.ndarray], age_s: float) -> str:
        if not age_s <= self.oldest_s:
            return "too old"
        for name, array in observation.items():
            if not np.all(np.isfinite(array)):
                return f"{name} is not finite"
            below, above = self._low.get(name, -np.inf), self._high.get(name, np.inf)
            if np.any(np.asarray(array) < below) or np.any(np.asarray(array) > above):
                return f"{name} is out of range"
        return ""

    def run(
        self,
        read: Callable[[], tuple[Mapping[str, np.ndarray], float]],
        write: Callable[[np.ndarray], None],
        *,
        steps: int | None = None,
    ) -> None:
        """Read, act and write at the fixed rate; a step that comes too late is counted and not made up for.

        Args:
            read: gives observation groups and their age in seconds.
            write: takes an action.
            steps: how many; none: until `KeyboardInterrupt`. The safe action is written at the end, whatever
                ended it.
        """
        due, done = time.perf_counter(), 0
        try:
            with contextlib.suppress(KeyboardInterrupt):
                while steps is None or done < steps:
                    write(self.act(*read()))
                    done, due = done + 1, due + self.period_s
                    if (left := due - time.perf_counter()) > 0:
                        time.sleep(left)
                    else:
                        self.latency.late += 1
                        due = time.perf_counter()
        finally:
            write(self._safe.copy())
