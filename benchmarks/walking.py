"""Errors and falls against seconds of training: robot:Go1Walk beside EnvPool's Go1 with preset go1.

    python benchmarks/walking.py [--sides NAME ...] [--seeds 5] [--episodes 300]

The deterministic policies of a run's checkpoints are judged on the task as it comes, over episodes of 20 s:
commands of up to 1.5 m/s forward, 0.8 m/s sideways and 1.2 rad/s, as both tasks draw them. Seconds are those
of training, with compilation, without judging. Writes benchmarks/results/walking.json; runs that are there
already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import OURS, Results

from surefoot.agent import load_policy
from surefoot.envs import make_environment
from surefoot.training import EpisodeStatistics, play, to_key

POINTS = 8
# name: task, steps, arguments of `surefoot train`
SIDES = {
    "Go1Walk": ("robot:Go1Walk", 1_300_000, []),
    "EnvPool, preset go1": ("Go1JoystickFlatTerrain-v1", 4_000_000, ["--preset", "go1"]),
}


class TrackingError:
    """Mean absolute difference between commanded and true velocity of a Go1.

    Reads the observation as MuJoCo Playground's go1 joystick task lays it out (EnvPool's is a port):
    `state[45:48]` the command (forward m/s, sideways m/s, turn rad/s); in `privileged_state`, which
    starts with `state`, [48:51] the true angular and [57:60] the true linear velocity of the body.
    """

    def __init__(self) -> None:
        self._linear = self._angular = 0.0
        self._steps = 0

    def add(self, observations: Any, counted: Any) -> None:
        """Account for the states that the counted steps led to."""
        import numpy as np

        before, after = observations["state"][:-1], observations["privileged_state"][1:]
        command = before[..., 45:48]
        linear = np.abs(command[..., :2] - after[..., 57:59]).mean(-1)
        angular = np.abs(command[..., 2] - after[..., 50])
        self._linear += float(linear[counted].sum(dtype=np.float64))
        self._angular += float(angular[counted].sum(dtype=np.float64))
        self._steps += int(counted.sum())

    def summary(self) -> dict[str, float]:
        """The two errors."""
        return {
            "linear_velocity_error": self._linear / self._steps,
            "angular_velocity_error": self._angular / self._steps,
        }


def one_run(side: str, seed: int, episodes: int) -> list[dict[str, float]]:
    """A row for each checkpoint: steps, seconds, errors and falls."""
    task, steps, arguments = SIDES[side]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        every = steps // POINTS
        command = [str(OURS), "-m", "surefoot", "train", task, *arguments, "--run-dir", str(folder)]
        command += ["--seed", str(seed), "--total-steps", str(steps), "--keep-checkpoints", "100"]
        command += ["--checkpoint-every", str(every)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        judged = []
        for checkpoint in [*sorted(folder.glob("checkpoints/step-*")), folder]:
            step = json.loads((checkpoint / "policy.json").read_text())["step"]
            seconds = max(row["wall_time_s"] for row in rows if row["step"] <= step)
            if not judged or judged[-1]["step"] < step:
                row = {"step": step, "seconds": seconds}
                judged.append(row | judge(checkpoint, task, episodes))
        return judged


def judge(folder: Path, task: str, episodes: int) -> dict[str, float]:
    """Mean absolute errors per axis, and the share of episodes with a fall."""
    policy = load_policy(folder).policy
    env = make_environment(task, 20, seed=np.random.SeedSequence(7))
    statistics, tracking = EpisodeStatistics(), TrackingError()
    for played in play(policy, env, episodes, key=to_key(np.random.SeedSequence(8))):
        statistics.add(played)
        if not task.startswith("robot:"):
            tracking.add(played.rollout.observations, played.counted)
    env.close()
    found = statistics.summary()
    if task.startswith("robot:"):
        errors = {
            "linear": found["measure/linear_error"],
            "turning": found["measure/turning_error"],
        }
    else:
        both = tracking.summary()
        errors = {
            "linear": both["linear_velocity_error"],
            "turning": both["angular_velocity_error"],
        }
    return errors | {"falls": 1 - found["truncated_share"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=300)
    options = parser.parse_args()
    results = Results("walking")
    for seed in range(options.seeds):
        for side in options.sides:
            runs: dict[str, Any] = results.cases.get(side, {})
            if str(seed) not in runs:
                runs[str(seed)] = one_run(side, seed, options.episodes)
                results.save(side, runs)
            for row in runs[str(seed)]:
                print(
                    f"{side} seed {seed}: {row['step']:>9,} steps {row['seconds']:6.0f} s: "
                    f"{row['linear']:.3f} m/s, {row['turning']:.3f} rad/s, {row['falls']:.1%} fall",
                    flush=True,
                )


if __name__ == "__main__":
    main()
