"""Damaged files through every verb that reads: `python -m tests.faults.fuzz [NUMBER] [--seed S]`.

The verbs run in this process, as `main([...])`, with everything but the training, the playing and the
workers: what reads is the product's own. Each file is damaged in bytes or in what it says; files of a
checkpoint are signed again half of the time, as one would who wants them to be believed.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import io
import json
import math
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jax
import numpy as np
import tomli_w
from tests.helpers import PROBE, TINY

from surefoot import api
from surefoot.agent import Policy, load_policy
from surefoot.cli import bench, options, study
from surefoot.cli.main import main as surefoot
from surefoot.config import Config, validate
from surefoot.envs import make_environment
from surefoot.errors import UserError
from surefoot.files import write_json, write_text
from surefoot.machine import platform_info
from surefoot.pages.charts import Charts, Series
from surefoot.services import run_folder
from surefoot.ship import latency, subjects
from surefoot.ship.export import export
from surefoot.study import executors
from surefoot.study.jobs import EVALUATIONS, RESULT, Job, outcome
from surefoot.study.plan import Study, write_study
from surefoot.study.results import analyse
from surefoot.study.run_study import reported_jobs
from surefoot.training import Hook, Run, Trainer
from surefoot.tune import search
from surefoot.update import make_executors

TASK, CONFIG = PROBE, TINY.replace(checkpoint_every=100)
SPACE = """
learning_rate = {low = 1e-4, high = 1e-2, log = true}
num_epochs = {low = 1, high = 4}
activation = ["tanh", "elu"]

[options]
num_envs = 4
num_steps = 16
num_minibatches = 2
"""
TUNE = ("--trials", "2", "--evaluations", "2", "--episodes", "1", "--total-steps", "200")
MOST_SECONDS, MOST_MIB = 1.0, 200
_DRAWN = 0.03  # share of the reports whose charts are drawn, which takes far longer than reading


# --- damage

ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    "",
    "x",
    "nan",
    "\ud800",
    "a" * 3000,
    [],
    {},
    [[]],
    [None],
]
ODD += [
    2**31,
    2**63,
    2**64,
    -(2**63) - 1,
    1e308,
    -1e308,
    5e-324,
    float("nan"),
    float("inf"),
    -float("inf"),
]
ODD += [
    10**5000 // 7,
    10**12,
    {"": {"a": [1]}},
    ["x", 1, None],
    "../../x",
    "\x1b[2J\x07",
    "1979-05-27",
]
TEXTS = [
    b"",
    b"\xff\xfe",
    b"\x00",
    b"\xef\xbb\xbf",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"a=" + b"[" * 3000,
]
TEXTS += [
    b"a." * 3000 + b"a=1",
    b"9" * 5000,
    b"x = 0x" + b"f" * 9000,
    b"1" * 400 + b".0",
    b"NaN",
    b"-",
]
TEXTS += [
    b"\r",
    b"\n\n{}\n",
    b'{"a": 1, "a": 2}',
    b"task = 'x'\ntask = 'y'\n",
    bytes(range(256)),
    b"null\n",
]


def damaged(content: bytes, name: str, choice: random.Random) -> bytes:
    """A file's content with something wrong in it."""
    if choice.random() < 0.5:
        with contextlib.suppress(ValueError, IndexError, TypeError, OverflowError):
            return _said_otherwise(content, name, choice)
    changed, kind = bytearray(content), choice.randrange(8)
    if kind == 0 and changed:  # a bit that flips
        changed[choice.randrange(len(changed))] ^= 1 << choice.randrange(8)
    elif kind == 1:
        for _ in range(choice.randint(1, 8)):
            changed[choice.randrange(len(changed))] = choice.randrange(256)
    elif kind == 2:
        del changed[choice.randrange(len(changed)) :]
    elif kind == 3:
        changed = changed.rstrip(b"\n")
    elif kind == 4:
        return choice.choice(TEXTS)
    elif kind == 5:
        at = choice.randrange(len(changed))
        changed[at:at] = choice.choice(TEXTS)
    elif kind == 6:  # the beginning, where headers are
        for _ in range(choice.randint(1, 8)):
            changed[choice.randrange(min(len(changed), 400))] = choice.randrange(256)
    else:
        lines = content.splitlines(keepends=True)
        choice.shuffle(lines)
        return b"".join(lines[: choice.randint(0, len(lines))] * choice.randint(1, 2))
    return bytes(changed)


def _said_otherwise(content: bytes, name: str, choice: random.Random) -> bytes:
    """The same syntax with other values, names or numbers of items; ValueError where it has none."""
    if name.endswith(".toml"):
        table = tomllib.loads(content.decode())
        _change(table, choice)
        return tomli_w.dumps(table).encode("utf-8", "surrogatepass")
    if name.endswith(".jsonl"):
        lines = content.splitlines(keepends=True)
        at = choice.randrange(len(lines))
        lines[at] = _said_otherwise(lines[at], "x.json", choice) + b"\n"
        return b"".join(lines)
    value = json.loads(content)
    for _ in range(choice.randint(1, 2)):
        _change(value, choice)
    text = json.dumps(value, ensure_ascii=choice.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def _change(value: Any, choice: random.Random) -> None:
    places = list(_places(value))
    inside, key = choice.choice(places)
    kind = choice.randrange(6)
    if kind == 0:
        del inside[key]
    elif kind == 1 and isinstance(inside, dict):
        inside[str(key) + "x"] = inside.pop(key)
    elif kind == 2 and isinstance(inside[key], (int, float)):
        factor = choice.choice((-1, 0, 2, 1e9, 10**18, 0.1, -1e300))
        inside[key] = type(inside[key])(inside[key] * factor)
    elif kind == 3:
        other, there = choice.choice(places)
        inside[key] = copy.deepcopy(other[there])
    else:
        inside[key] = copy.deepcopy(choice.choice(ODD))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def signed(checkpoint: Path) -> None:
    """Write what a checkpoint's files are into its manifest."""
    file = checkpoint / "manifest.json"
    manifest = json.loads(file.read_bytes())
    for name in manifest["files"]:
        content = (checkpoint / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        manifest["files"][name] = {"size": len(content), "sha256": digest}
    file.write_text(json.dumps(manifest))


# --- what is read


class Failure(Hook):
    """Ends a run with an error, so that it leaves a crash report."""

    def on_iteration(self, state: Any, metrics: Mapping[str, Any]) -> None:
        if state.step > 250:
            raise RuntimeError("on purpose")


def make_run(folder: Path) -> Path:
    """A run folder with all that a run may leave."""
    run = folder / "run"
    with contextlib.suppress(RuntimeError):
        api.train(TASK, config=CONFIG, run_dir=run, progress=False, hooks=[Failure()])
    (run / ".lock").unlink(missing_ok=True)
    return run


def make_study(folder: Path, run: Path) -> Path:
    """A study's folder after its end, with numbers made up."""
    made = folder / "study"
    arms = {"PPO": {}, "no clip": {"surrogate": "ratio"}}
    asked = Study("a study", {TASK: CONFIG}, arms, "PPO", 2, evaluations=3, question="why?")
    made.mkdir()
    write_text(made / "study.toml", write_study(asked))
    results = []
    jobs = reported_jobs(mock.Mock(study=asked), lambda _: False, {})
    for job in jobs:
        played = {"episode_length_mean": 9.0, "success_rate": 0.5, "measure/error": 0.1}
        rows = [
            (100 * k, {"episode_return_mean": float(k + job.seeds[0]), **played})
            for k in range(1, 4)
        ]
        ended = outcome(rows, run / "metrics.jsonl", 3)
        head = {"task": TASK, "arm": job.arm, "learning_rate": 3e-4, "seeds": list(job.seeds)}
        result = {**head, "runs": {str(job.seeds[0]): ended}, "errors": {}}
        (made / job.folder).mkdir(parents=True)
        write_json(made / job.folder / RESULT, result)
        results.append(result)
    write_json(made / "results.json", analyse(asked, results, {}))
    write_json(made / "provenance.json", run_folder.describe(["surefoot"], study="a study"))
    return made


def trained(job: Job, path: Path, *_: Any) -> bool:
    """What a training of a tuning leaves, with numbers made up."""
    rates = [
        (100 * k, {"episode_return_mean": float(k), "episode_length_mean": 9.0}) for k in (1, 2)
    ]
    ended = outcome(rates, path.parent / "run" / "metrics.jsonl", 2)
    head = {"task": job.task, "arm": job.arm, "learning_rate": 3e-4, "seeds": list(job.seeds)}
    (path / job.folder).mkdir(parents=True, exist_ok=True)
    write_json(
        path / job.folder / RESULT, {**head, "runs": {str(job.seeds[0]): ended}, "errors": {}}
    )
    lines = [json.dumps({"step": step, "return": float(step)}) for step in (100, 200)]
    (path / job.folder / EVALUATIONS).write_text("\n".join(lines) + "\n")
    return True


class Readers:
    """Folders to damage, and verbs to read them with.

    Args:
        folder: where to make them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / "work"
        self._plain = folder / "plain"
        self._plain.mkdir()
        run = make_run(self._plain)
        make_study(self._plain, run)
        exported = export(run, output=self._plain / "export", episodes=0).folder
        subject = subjects.from_observations(run, load_policy(run), 0, None)
        self._subject = subject._replace(rows=subject.rows[-4:])
        shutil.copy(run / "config.toml", self._plain / "my.toml")
        shutil.copy(self._plain / "study" / "study.toml", self._plain / "question.toml")
        self._env = make_environment(TASK, CONFIG.num_envs, seed=np.random.SeedSequence(0))
        self._executors = make_executors(CONFIG)
        self._trainer = Trainer(CONFIG, self._env, self._executors)
        self._facts = platform_info()
        (self._plain / "space.toml").write_text(SPACE)
        words = ["tune", TASK, "--space", str(self._plain / "space.toml"), *TUNE]
        with self._light(), contextlib.redirect_stdout(io.StringIO()):
            surefoot([*words, "--run-dir", str(self._plain / "tuning")])  # 1: nobody judges
        tuning = self._plain / "tuning"
        assert (tuning / "best.toml").exists()
        whole = sorted((run / "checkpoints").glob("step-*"))
        of_run = [x for x in run.iterdir() if x.is_file()]
        of_run += [x for step in whole for x in step.iterdir()] + [*run.glob("crash*/report.json")]
        of_study = [x for x in (self._plain / "study").rglob("*") if x.suffix in (".json", ".toml")]
        of_export = [x for x in exported.iterdir() if x.suffix != ".md"]
        of_tuning = [x for x in tuning.rglob("*") if x.suffix in (".toml", ".json", ".jsonl")]
        files = {"run": of_run, "study": of_study, "export": of_export, "tuning": of_tuning}
        files["my.toml"] = [self._plain / "my.toml"]
        files["question.toml"] = [self._plain / "question.toml"]
        files["space.toml"] = [self._plain / "space.toml"]
        verbs = {
            "run": ("resume run", "eval run", "doctor run", "report run", "export run"),
            "export": ("bench-policy export",),
            "study": ("report study", "study study"),
            "my.toml": ("train --config my.toml", "bench X --config my.toml"),
            "question.toml": ("study question.toml",),
            "tuning": ("tune X --space space.toml --run-dir tuning", "report tuning"),
            "space.toml": ("tune X --space space.toml --run-dir new",),
        }
        read = dict.fromkeys(("eval run", "export run"), ("policy", "config.toml"))
        self.places = [
            (verb, file.relative_to(self._plain))
            for kind, those in verbs.items()
            for verb in those
            for file in files[kind]
            if file.name.startswith(read.get(verb, "")) or "safetensors" in file.name
        ]
        self._flags = {
            "export": (
                *["--overwrite", "--episodes", "0", "--forms", "numpy", "--output"],
                str(folder / "made"),
            ),
            "bench-policy": ("--calls", "1"),
            "tune": TUNE,
        }
        self.said: Counter[str] = Counter()
        self.renew()

    def renew(self) -> None:
        """The folders as they were made."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self._plain, self.work)

    def try_one(self, choice: random.Random, most_seconds: float = math.inf) -> list[str]:
        """Damage one file and read it; what was wrong with how that ended."""
        verb, place = choice.choice(self.places)
        file = self.work / place
        content = damaged((self._plain / place).read_bytes(), file.name, choice)
        file.write_bytes(content)
        in_checkpoint = file.parent.name.startswith("step-") and file.name != "manifest.json"
        if in_checkpoint and choice.random() < 0.7:
            signed(file.parent)
            for other in self.work.glob("run/checkpoints/step-*"):  # the one that is read
                if other != file.parent and choice.random() < 0.5:
                    shutil.rmtree(other)
        words = [TASK if w == "X" else w for w in verb.split()]
        words[1:] = [
            str(self.work / w) if w == "new" or (self.work / w).exists() else w for w in words[1:]
        ]
        if words[0] == "report":
            words += ["--output", str(self.folder / "page.html")]
        words += self._flags.get(words[0], ())
        out, err = io.StringIO(), io.StringIO()
        began, wrong = time.process_time(), []
        draws = contextlib.nullcontext() if choice.random() < _DRAWN else _without_drawing()
        light = self._light()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), light, draws:
            try:
                code = surefoot(words)
            except SystemExit as left:
                code = left.code
            except BaseException:
                code = None
                wrong.append(traceback.format_exc())
        took = time.process_time() - began
        said = out.getvalue() + err.getvalue()
        self.said[f"{words[0]}: {code}"] += 1
        if code == 2 and len(err.getvalue().strip().splitlines()) > 3:
            wrong.append(f"more than an error: {said}")
        if "Traceback (most recent call last)" in said:  # which the command catches, and shows
            wrong.append(f"a traceback: {said[-3000:]}")
        if code not in (0, 1, 2, None):
            wrong.append(f"exit code {code}: {said}")
        if took > most_seconds:
            wrong.append(f"{took:.1f} s: {said[:300]}")
        if verb == "resume run" and file.name == "metrics.jsonl":
            wrong += self._lost(content)
        if words[0] in ("resume", "study", "tune") or in_checkpoint:
            self.renew()
        else:
            shutil.copy(self._plain / place, file)
        return [f"{verb}, {place}: {x}\n  file: {content[:600]!r}" for x in wrong]

    def _lost(self, before: bytes) -> list[str]:
        """Whole lines that a resume has left nowhere."""
        kept = b"".join(file.read_bytes() for file in (self.work / "run").rglob("metrics.jsonl"))
        lines = [line for line in before.splitlines(keepends=True) if line.endswith(b"\n")]
        return [f"lost: {line[:100]!r}" for line in lines if line not in kept]

    @contextlib.contextmanager
    def _light(self) -> Iterator[None]:
        """Without what takes long and reads nothing: training, playing, workers, versions."""
        changes = {
            (api, "run_training"): self._started,
            (api, "make_environment"): self._environment,
            (api, "evaluate_policy"): self._played,
            (api, "train"): lambda *_, **__: api.TrainResult(Path(), None, 1, True),  # type: ignore[arg-type]
            (run_folder, "_git"): lambda: None,
            (run_folder, "platform_info"): lambda: self._facts,
            (study, "shares_program"): lambda *_: False,
            (study, "executor_of"): lambda *_: mock.Mock(
                run=lambda *_: iter(()), describe=lambda: "nobody"
            ),
            (search, "_train"): trained,
            (executors, "LocalProcesses"): lambda _: mock.Mock(
                run=lambda *_: iter(()), workers=1, describe=lambda: "nobody"
            ),
            (bench, "measure"): self._measured,
            (subjects, "from_observations"): lambda *_: self._subject,
            (latency, "_call"): lambda _: "0.1\n" * 2,
            (latency, "_WARM_UP"): 1,
            (options, "_own_options"): lambda _: Config(),
        }
        with contextlib.ExitStack() as stack:
            for (where, name), change in changes.items():
                stack.enter_context(mock.patch.object(where, name, change))
            stack.enter_context(
                mock.patch("surefoot.services.checkpoints.platform_info", return_value=self._facts)
            )
            stack.enter_context(mock.patch("surefoot.cli.main.keep_compiled_programs"))
            yield

    def _environment(self, *_: Any, **__: Any) -> Any:
        nothing = {"log_to": print, "close": lambda: None, "read_as": lambda observations: None}
        return SimpleNamespace(spec=self._env.spec, **nothing)

    def _measured(self, *_: Any) -> dict[str, Any]:
        raise UserError("measuring would take a while")

    def _played(self, policy: Policy, *_: Any, **__: Any) -> dict[str, Any]:
        """One action, in place of episodes."""
        seen = {n: np.zeros((1, *s.shape), s.dtype) for n, s in policy.normalizer.groups}
        first = np.ones(1, bool)
        with jax.disable_jit():
            act, _ = policy.act(
                seen, policy.initial_carry(1), first, jax.random.key(0), deterministic=True
            )
        assert np.isfinite(policy.action.widen(act.env_action)).all()
        length = {"episode_return_mean": 0.0, "episode_return_std": 0.0, "episode_length_mean": 1.0}
        return {"episodes": 1, **length, "truncated_share": 0.0}

    def _started(
        self, task: Any, config: Config, *, hooks: Any, resume_point: Any, **_: Any
    ) -> Any:
        """A run that is stopped before its first iteration."""
        config = validate(config)
        trainer = self._trainer
        shape = {name: getattr(CONFIG, name) for name in ("total_steps", "checkpoint_every")}
        if replace(config, **shape) != CONFIG:
            raise UserError("another trainer, which would take a while to make")
        state = resume_point.restore(trainer) if resume_point else trainer.init()
        run = Run(str(task), config, self._env.spec, trainer.agent, trainer.policy, lambda _: None)
        for hook in hooks:
            hook.on_start(run)
        for hook in reversed(hooks):
            hook.on_end(state, trainer.policy(state), finished=False)
        return state, trainer.policy(state)


@contextlib.contextmanager
def _without_drawing() -> Iterator[None]:
    """Charts that look at the numbers they are given, and are not drawn."""

    def curves(_: Charts, series: Sequence[Series], *__: Any, **___: Any) -> str:
        for one in series:
            rows = [x for x in (one.x, one.y, one.low, one.high) if x is not None]
            if not all(x is None or math.isfinite(x) for row in rows for x in row):
                raise ValueError("no number")
            if len({len(row) for row in rows}) > 1:
                raise ValueError("of different lengths")
        return "0"

    changes = {"curves": curves, "forest": lambda *_: "0", "library": lambda _: ""}
    with mock.patch.multiple(Charts, **changes):
        yield


def fuzz(
    number: int, seed: int = 0, *, every: int = 1000, most_seconds: float = MOST_SECONDS
) -> list[str]:
    """Damage so many files; what was wrong, each thing with its file.

    Args:
        number: how many.
        seed: of the damage.
        every: how many between two lines of progress.
        most_seconds: of processor time that reading one may take.
    """
    wrong: list[str] = []
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="faults-", dir=place) as made:
        readers = Readers(Path(made))
        for k in range(20):  # imports and compiles
            readers.try_one(random.Random(-k))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        readers.said.clear()
        for k in range(number):
            case = random.Random(f"{seed}/{k}")
            wrong += [f"case {seed}/{k}: {x}" for x in readers.try_one(case, most_seconds)]
            if (k + 1) % every == 0:
                grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
                print(
                    f"  {k + 1:,} files, {len(wrong)} wrong, {grown:.0f} MiB more; {dict(readers.said)}",
                    flush=True,
                )
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
        if grown > MOST_MIB:
            wrong.append(f"memory grew by {grown:.0f} MiB")
    return wrong


def main() -> int:
    """0 if every file was read or refused as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", nargs="?", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    wrong = fuzz(asked.number, asked.seed)
    for line in wrong[:100]:
        print(line, file=sys.stderr)
    print(f"{asked.number:,} damaged files, {len(wrong)} of them read wrongly")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
