"""What exact overlap gains over running in turn, and that it changes no byte.

    python benchmarks/overlap.py --repeats 3

Both run in turn, each in a process of its own with the same seed; policies and metrics (times aside) are
compared by their SHA-256. Writes benchmarks/results/overlap.json.
"""

from __future__ import annotations

import argparse

from common import OURS, Results, run_side, spread

CASES = {
    "HalfCheetah-v5 8x256": "--num-envs 8 --num-steps 256 --minibatch 64 --iterations 60",
    "HalfCheetah-v5 64x128": "--num-envs 64 --num-steps 128 --minibatch 64 --iterations 20",
    "Hopper-v5 8x256": "--task Hopper-v5 --num-envs 8 --num-steps 256 --minibatch 64 --iterations 60",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    results = Results("overlap")
    for case in options.cases:
        runs: dict[str, list] = {"off": [], "exact": []}
        for repeat in range(options.repeats):
            for overlap, done in runs.items():
                arguments = [*CASES[case].split(), "--overlap", overlap, "--seed", str(repeat)]
                done.append(run_side(OURS, ["of_surefoot.py"], arguments))
        pairs = list(zip(runs["off"], runs["exact"], strict=True))
        same = all(a[name] == b[name] for a, b in pairs for name in ("metrics", "policy"))
        results.save(case, {"setting": CASES[case], "runs": runs, "same_bytes": same})
        print(case)
        for overlap, done in runs.items():
            print(f"  {overlap:<6} {spread((r['rate'] for r in done), ',.0f')} steps/s")
        print(f"  ratio  {spread((b['rate'] / a['rate'] for a, b in pairs), '.2f')}")
        print(f"  {'the same bytes' if same else 'DIFFERENT BYTES'}", flush=True)


if __name__ == "__main__":
    main()
