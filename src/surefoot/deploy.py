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
import hashlib
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
_DTYPES = ("bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)))
_DTYPES += ("float16", "float32", "float64")
_MOST_TEXT, _MOST_NUMBERS = 2**23, 2**20  # bytes of policy.json; numbers of an observation group
_HEADER = 10_000  # bytes of what an array's header may have


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
        self._inputs, self._outputs = ports_of(program)
        self.groups = [port for port in self._inputs if not port.carried]
        verify(path, self.about, ONNX if onnx else NUMBERS)
        self._run = _onnx_session(path / ONNX) if onnx else _program(path, program)
        self._carry: dict[str, np.ndarray] = {}
        self._try_out(path / (ONNX if onnx else NUMBERS))

    def _try_out(self, path: Path) -> None:
        """Call it once: what does not fit together is said here, and not by a robot on its way."""
        zeros = {port.name: np.zeros((1, *port.shape), port.dtype) for port in self._inputs}
        try:
            made = self._run(zeros)
            for port in self._outputs:
                if made[port.name].shape != (1, *port.shape):
                    raise ValueError(f"{port.name} has another shape than {port.shape}")
        except Exception as error:  # of NumPy or onnxruntime
            raise ValueError(f"{path} and {DESCRIPTION} do not fit together: {error!r}") from None

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
        origin: what is subtracted from its numbers in float64, before they become float32; empty: nothing.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    carried: bool = False
    origin: tuple[float, ...] = ()

    @property
    def inside(self) -> str:
        """The dtype that the operations read."""
        return "float32" if self.origin else self.dtype

    def read(self, batch: np.ndarray) -> np.ndarray:
        """What comes in [B, *shape], as flat rows for the operations."""
        rows = batch.reshape(len(batch), -1)
        return (rows - np.asarray(self.origin)).astype(self.inside) if self.origin else rows

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        object.__setattr__(self, "origin", tuple(map(float, self.origin)))
        if self.origin and (self.dtype != "float64" or len(self.origin) != math.prod(self.shape)):
            raise ValueError(f"{len(self.origin)} origins of {self.name!r}")
        sizes = all(type(n) is int and 0 <= n <= _MOST_NUMBERS for n in self.shape)
        if not sizes or not math.prod(self.shape) <= _MOST_NUMBERS:
            raise ValueError(f"the shape {self.shape} of {self.name!r}")
        if not isinstance(self.name, str) or self.dtype not in _DTYPES:
            raise ValueError(f"{self.name!r} of dtype {self.dtype!r}")


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
        self._inputs, outputs = ports_of(program)
        self._outputs = list(zip(outputs, program["results"], strict=True))
        first = len(self._inputs)
        self._constants = dict(enumerate(constants, start=first))
        self._start = first + len(constants)
        self._steps = [_step(*node) for node in program["nodes"]]
        for number, (_, reads) in enumerate(self._steps, start=self._start):
            if not all(type(i) is int and 0 <= i < number for i in reads):
                raise ValueError(f"the operation that makes value {number} reads {reads}")

    def __call__(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Batches [B, *shape] by input -> batches by output."""
        count = len(next(iter(values.values())))
        table: dict[int, np.ndarray] = dict(self._constants)
        for number, port in enumerate(self._inputs):
            table[number] = port.read(values[port.name])
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
    if op == "cast" and parameter in _DTYPES:
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
        with path.open("rb") as file:
            content = file.read(_MOST_TEXT + 1)
        if len(content) > _MOST_TEXT:
            raise ValueError(f"more than {_MOST_TEXT:,} bytes")
        about = json.loads(content)
        if about["format"] == FORMAT:
            ports_of(about["program"])
            return about
        version = str(about["format"])[:40]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, error) from None
    raise ValueError(f"{path}: format {version}, this version reads {FORMAT}; export it again")


def ports_of(program: Mapping[str, Any]) -> tuple[list[Port], list[Port]]:
    """What goes into a program and comes out of it, as policy.json says it."""
    inputs, outputs = ([Port(**port) for port in program[which]] for which in ("inputs", "outputs"))
    for ports in (inputs, outputs):
        names = [port.name for port in ports]
        if len(set(names)) != len(names) or not any(not port.carried for port in ports):
            raise ValueError(f"inputs or outputs {names}")
    carried = [{(p.name, p.shape, p.dtype) for p in x if p.carried} for x in (inputs, outputs)]
    if [port.name for port in outputs if not port.carried] != ["action"] or carried[0] != carried[
        1
    ]:
        raise ValueError(f"outputs {[port.name for port in outputs]}")
    return inputs, outputs


def verify(folder: Path, about: Mapping[str, Any], name: str) -> None:
    """Compare a file of an export with what policy.json says of it, where it says something.

    Raises:
        ValueError: it is not there, or other bytes.
    """
    path = folder / name
    if not path.is_file():
        raise ValueError(f"there is no {path}; `surefoot export RUN` writes it")
    files = about.get("files")
    if not isinstance(files, dict) or name not in files:
        return
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != files[name]:
            raise ValueError(
                f"{path} is damaged: it is not what {DESCRIPTION} says of it; export it again"
            )


def _damaged(path: Path, error: Exception) -> ValueError:
    missing = f"there is no {error}" if isinstance(error, KeyError) else str(error)
    return ValueError(f"{path} is damaged: {missing[:200]}")


def _program(folder: Path, program: Mapping[str, Any]) -> Program:
    constants = _load(folder / NUMBERS)
    try:
        return Program(program, constants)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder / DESCRIPTION, error) from None


def _load(path: Path) -> list[np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            return [_array(archive, f"c{i}.npy") for i in range(len(names))]
    except (
        ValueError,
        KeyError,
        OSError,
        EOFError,
        NotImplementedError,
        zipfile.BadZipFile,
    ) as error:
        raise _damaged(path, error) from None


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of the archive; nothing is allocated for one that says that it is larger than it is."""
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise ValueError(f"{name} is packed or locked")
    with archive.open(entry) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} has another format")
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=_HEADER)
        content = file.read()  # and with that its checksum
    if str(dtype) not in _DTYPES or len(shape) > 2:
        raise ValueError(f"{name} is {dtype} {shape}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if by_column else "C").copy("K")


def _onnx_session(path: Path) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    try:
        import onnxruntime
    except ImportError:
        raise ValueError("running policy.onnx needs the package onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # each kind of damage has a class of its own there
        raise _damaged(path, error) from None
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
