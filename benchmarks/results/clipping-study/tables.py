"""Markdown of docs/is-clipping-working.md from a study's results.json (and go1-played)."""

import json
import statistics as s
import sys
from pathlib import Path

found = json.loads(Path(sys.argv[1]).read_text())
HERE = Path(__file__).parent


def num(x, digits):
    return f"{x['estimate']:.{digits}f} [{x['low']:.{digits}f}, {x['high']:.{digits}f}]"


for task, arms in found["tasks"].items():
    digits = 0 if max(a["mean"]["estimate"] for a in arms.values()) > 100 else 1
    print(
        f"\n| {task} | mean | IQM | against clip | verdict | P(better run) |\n|---|---|---|---|---|---|"
    )
    for arm, r in arms.items():
        row = [arm, num(r["mean"], digits), f"{r['iqm']['estimate']:.{digits}f}"]
        if "verdict" in r:
            rel = [f"{r['relative'][k]:+.0%}" for k in ("estimate", "low", "high")]
            row += [f"{rel[0]} [{rel[1]}, {rel[2]}]", r["verdict"]]
            row += [f"{r['probability_of_improvement']['estimate']:.2f}"]
        else:
            row += ["", "", ""]
        print("| " + " | ".join(row) + " |")
for task, arms in found["tasks"].items():
    print(
        f"\n| {task} | KL | held-out KL | largest ratio | minibatch steps taken | entropy | gradient norm |"
    )
    print("|---|---|---|---|---|---|---|")
    for arm, r in arms.items():
        d = {k: [x for x in v if x is not None] for k, v in r["diagnostics"].items()}
        entropy = d["policy/entropy"]
        row = [
            arm,
            f"{s.mean(d['policy/approx_kl']):.3f}",
            f"{s.mean(d['policy/held_out_kl']):.3f}",
            f"{max(d['policy/ratio_max']):,.0f}",
            f"{s.mean(d['optim/step_fraction']):.0%}",
            f"{entropy[0]:.1f} to {entropy[-1]:.1f}",
            f"{s.median(d['optim/grad_norm']):,.1f}",
        ]
        print("| " + " | ".join(row) + " |")
print("\nseeds needed for 10%:")
for task, arms in found["tasks"].items():
    print(task, {a: r.get("seeds_to_show_10_percent") for a, r in arms.items()})
for arm in found["across_tasks"].get("arms", {}).values():
    print(arm.get("sentence"))
print("failed", found["failed"])
played = {}
for file in sorted((HERE / "go1-played").glob("*.json")):
    arm = file.stem.split("-seed-")[0]
    played.setdefault(arm, []).append(json.loads(file.read_text()))
print("\n| Go1 | linear tracking per step | angular | episode length | return | policies |")


def each(runs, name, digits):
    v = [r[name] for r in runs]
    return f"{min(v):.{digits}f} to {max(v):.{digits}f}"


for arm, runs in played.items():
    row = [
        arm,
        each(runs, "reward/tracking_lin_vel", 2),
        each(runs, "reward/tracking_ang_vel", 2),
        each(runs, "episode_length_mean", 0),
        each(runs, "episode_return_mean", 1),
        str(len(runs)),
    ]
    print("| " + " | ".join(row) + " |")
