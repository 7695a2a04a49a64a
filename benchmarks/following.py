"""What following a run costs: pace of training with each logger, evaluations and videos, over that without.

    python benchmarks/following.py
    python benchmarks/following.py --repeats 1 --total-steps 60000 --settings tensorboard eval

Runs in processes of their own, settings alternated, each compared with the run without of its own round.
Asked: within 2% for loggers, within 5% plus their own steps for evaluations and videos. Writes
benchmarks/results/following.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import Results, spread

from surefoot.config import option_names

LOGGERS = ("tensorboard", "wandb", "mlflow", "trackio")
SETTINGS: dict[str, tuple[str, ...]] = {
    **{name: ("--log", name) for name in LOGGERS},
    "all loggers": ("--log", *LOGGERS),
    "eval": ("--eval-every", "100000", "--eval-episodes", "5"),
}
if "video_every" in option_names():
    SETTINGS["video"] = ("--video-every", "100000")
ASKED = dict.fromkeys(SETTINGS, 0.98) | {"eval": 0.95, "video": 0.95}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="HalfCheetah-v5")
    parser.add_argument("--total-steps", type=int, default=400_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    options = parser.parse_args()
    results = Results("following")
    paces: dict[str, list[float]] = {name: [] for name in ("without", *options.settings)}
    with tempfile.TemporaryDirectory() as folder:
        for k in range(options.repeats):
            order = list(paces)[k % len(paces) :] + list(paces)[: k % len(paces)]
            for name in order:
                flags = () if name == "without" else SETTINGS[name]
                run = Path(folder) / f"{name}-{k}".replace(" ", "-")
                paces[name].append(pace(run, options.task, options.total_steps, flags))
                print(f"round {k + 1}, {name}: {paces[name][-1]:,.0f} steps/s", flush=True)
    for name in options.settings:
        ratios = [a / b for a, b in zip(paces[name], paces["without"], strict=True)]
        print(f"{name}: pace {spread(ratios, '.3f')} of that without, asked {ASKED[name]}")
        results.save(
            f"{options.task}/{name}",
            {
                "ratios": ratios,
                "paces": paces[name],
                "without": paces["without"],
                "asked": ASKED[name],
                "total_steps": options.total_steps,
            },
        )


def pace(run: Path, task: str, steps: int, flags: tuple[str, ...]) -> float:
    """Steps per second after the first iteration, which compiles; evaluations' own seconds left out."""
    command = [sys.executable, "-m", "surefoot", "train", task, "--total-steps", str(steps)]
    environment = os.environ | {
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": f"sqlite:///{run.parent}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TRACKIO_DIR": str(run.parent / "trackio"),
    }
    subprocess.run(
        [*command, "--run-dir", str(run), *flags],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    own = sum(row.get("time/evaluation_s", 0.0) for row in rows[1:])
    seconds = rows[-1]["wall_time_s"] - rows[0]["wall_time_s"] - own
    return (rows[-1]["step"] - rows[0]["step"]) / seconds


if __name__ == "__main__":
    main()
