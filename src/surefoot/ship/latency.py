"""How long an exported policy takes for an action, in each of its forms, on one core."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from surefoot import deploy
from surefoot.errors import UserError
from surefoot.ship.c_file import SOURCE, Parts, compiler

PERCENTILES = (0.5, 0.99, 0.999)
_WARM_UP = 200

_HARNESS = """
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "policy.h"
static double now(void) {{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}}
int main(void) {{
  {variables}
  for (int k = 0; k < {calls}; ++k) {{
    {fill}
    const double began = now();
    policy_act({arguments});
    printf("%.9f\\n", now() - began);
  }}
  return 0;
}}
"""


def latency(folder: Path, calls: int = 5000) -> dict[str, list[float]]:
    """Seconds at `PERCENTILES` of the calls, by form.

    Raises:
        ValueError: the folder holds no export.
    """
    found: dict[str, np.ndarray] = {}
    forms = {"numpy": deploy.NUMBERS, "onnx": deploy.ONNX, "c": SOURCE}
    there = [form for form, file in forms.items() if (folder / file).is_file()]
    with _on_one_core():
        for form in there:
            if form != "c":
                found[form] = _of_python(_loaded(folder, onnx=form == "onnx"), calls)
            elif compiler():
                found[form] = _of_c(folder, calls)
    if not found:
        raise UserError(f"{folder} holds no exported policy; `surefoot export RUN` writes one")
    return {
        form: np.quantile(seconds[_WARM_UP:], PERCENTILES).tolist()
        for form, seconds in found.items()
    }


def _loaded(folder: Path, *, onnx: bool) -> deploy.Policy:
    try:
        return deploy.load(folder, onnx=onnx)
    except ValueError as error:
        raise UserError(str(error)) from None


def _of_python(policy: deploy.Policy, calls: int) -> np.ndarray:
    random, seconds = np.random.default_rng(0), []
    for _ in range(_WARM_UP + calls):
        seen = {
            port.name: random.integers(0, 2, port.shape).astype(port.dtype)
            for port in policy.groups
        }
        began = time.perf_counter()
        policy(seen)
        seconds.append(time.perf_counter() - began)
    return np.array(seconds)


def _of_c(folder: Path, calls: int) -> np.ndarray:
    try:
        about = deploy.load_about(folder)
        deploy.verify(folder, about, SOURCE)
        parts = Parts.of(about["program"])
    except ValueError as error:
        raise UserError(str(error)) from None
    fill = [
        f"for (int i = 0; i < {size}; ++i) {name}[i] = ({kind})(rand() % 2);"
        for name, kind, size in parts.groups
    ]
    variables = [f"{kind} {name}[{size}];" for name, kind, size in (*parts.groups, parts.action)]
    names = [name for name, _, _ in parts.groups]
    if parts.remembers:
        variables.append("policy_memory memory; policy_reset(&memory);")
        names.append("&memory")
    text = _HARNESS.format(
        variables="\n  ".join(variables),
        fill="\n    ".join(fill),
        arguments=", ".join([*names, parts.action[0]]),
        calls=_WARM_UP + calls,
    )
    with tempfile.TemporaryDirectory() as scratch:
        main, program = Path(scratch) / "main.c", Path(scratch) / "main"
        main.write_text(text, encoding="utf-8")
        command = [compiler() or "cc", "-std=c99", "-O3", f"-I{folder}", str(main)]
        _call([*command, str(folder / SOURCE), "-o", str(program), "-lm"])
        return np.array(_call([str(program)]).split(), float)


def _call(command: list[str]) -> str:
    """What a program writes; one that fails is the export's fault, or the compiler's."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().partition("\n")[0] or f"exit code {done.returncode}"
        raise UserError(f"{SOURCE} cannot be compiled and run: {said}; export it again")
    return done.stdout


@contextlib.contextmanager
def _on_one_core() -> Iterator[None]:
    """Where the system lets a process choose."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
