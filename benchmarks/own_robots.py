"""Robots that nobody prepared: from a description to standing, then walking with the documented edits only.

    python benchmarks/own_robots.py [--robots barkour apollo] [--walking-steps 3000000]

`surefoot new-robot` writes the task file, which is trained as it is: the robot is to stand. Then each line
with `# to walk: VALUE` gets that value, nothing else is changed, and the file is trained again. Prints the
diff of the edits and what the policies do in 100 episodes; writes benchmarks/results/own_robots.json. Run
folders stay in --folder.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import time
from pathlib import Path

from common import Results, surefoot

# model as `new-robot` is given it, what it needs to be told, and the class that it writes
ROBOTS = {
    "barkour": (
        "google_barkour_vb/barkour_vb_rev_1_0_head_straight.urdf",
        ["--free-base"],
        "BarkourVb",
    ),
    "apollo": ("apptronik_apollo/apptronik_apollo.xml", [], "ApptronikApollo"),
}
TO_WALK = re.compile(
    r"^(.*= (?:jnp\.array\()?)(?:\[.*?\]|\S+?)(\)?)  # to walk: (\[.*?\]|[\d.]+).*$", re.MULTILINE
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--robots", nargs="+", default=list(ROBOTS), choices=list(ROBOTS))
    parser.add_argument("--standing-steps", type=int, default=500_000)
    parser.add_argument("--walking-steps", type=int, default=3_000_000)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=Path("own_robots"))
    options = parser.parse_args()
    results = Results("own_robots")
    options.folder.mkdir(parents=True, exist_ok=True)
    for robot in options.robots:
        model, flags, name = ROBOTS[robot]
        standing, walking = (options.folder / f"{robot}_{kind}.py" for kind in ("stands", "walks"))
        if not standing.exists():
            surefoot("new-robot", model, *flags, "--no-train", "--out", str(standing))
        before = standing.read_text()
        after = TO_WALK.sub(r"\1\3\2", before)
        walking.write_text(after)
        diff = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
        edits = [line for line in diff if line[0] in "+-" and line[:3] not in ("+++", "---")]
        print("\n".join(edits), flush=True)
        for kind, file, steps in (
            ("stands", standing, options.standing_steps),
            ("walks", walking, options.walking_steps),
        ):
            task, run = f"{file}:{name}", options.folder / f"{robot}-{kind}-{steps}"
            began = time.perf_counter()
            surefoot("train", task, "--total-steps", str(steps), "--run-dir", str(run))
            seconds = time.perf_counter() - began
            judged = ["--episodes", str(options.episodes), "--json"]
            played = json.loads(surefoot("eval", str(run), "--task", task, *judged))
            found = {"steps": steps, "seconds": round(seconds), "edits": edits, "played": played}
            results.save(f"{robot}, {kind}", found)
            print(f"{robot}, {kind}: {seconds:.0f} s, {json.dumps(played)}", flush=True)


if __name__ == "__main__":
    main()
