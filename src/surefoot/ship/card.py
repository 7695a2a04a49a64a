"""The model card of an exported policy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

CARD = "README.md"
_FORMS = {
    "numpy": "`policy.json`, `policy.npz`: NumPy, through `surefoot.deploy`",
    "onnx": "`policy.onnx`: ONNX, any batch size",
    "c": "`policy.c`, `policy.h`: C99, without allocation",
}


def card(about: Mapping[str, Any], differences: Mapping[str, float | None]) -> str:
    """Markdown with front matter.

    Args:
        about: what policy.json says.
        differences: to the policy's own actions, by form.
    """
    front = {
        "license": about["license"] or "unknown",
        "library_name": "surefoot",
        "tags": ["reinforcement-learning", "robotics", "PPO"],
        "task": about["task"],
    }
    lines = ["---", *(f"{name}: {json.dumps(value)}" for name, value in front.items()), "---", ""]
    lines += [
        f"# A policy for {about['task']}",
        "",
        f"Trained with Surefoot {about['surefoot']} for {about['step']:,} steps.",
        "",
        "## What it is worth",
        "",
        *_evaluation(about["evaluation"]),
        "",
        "## What goes in and comes out",
        "",
        "| | shape | numbers |",
        "|---|---|---|",
    ]
    for group in about["observations"]:
        kind = "integers" if group["choices"] else "float32"
        lines.append(f"| observation `{group['name']}` | {tuple(group['shape'])} | {kind} |")
    action = about["action"]
    lines.append(f"| action | {tuple(action['shape'])} | {action['kind']}, {action['dtype']} |")
    if robot := about["robot"]:
        lines += ["", *_robot(robot, whole=action["kind"] == "controls")]
    lines += ["", "## Files", ""]
    lines += [f"- {_FORMS[form]}{_compared(x)}" for form, x in differences.items()]
    lines += [
        "",
        "## Limits",
        "",
        "It was trained in a simulator, on the task above alone. Numbers that are not finite are read as 0, "
        "and normalized observations are clipped: far from what it was trained on its actions mean little. "
        "Try it with the robot held, and with an emergency stop.",
        "",
    ]
    return "\n".join(lines)


def _evaluation(result: Mapping[str, Any]) -> list[str]:
    if not result:
        return ["It was not played."]
    lines = [
        f"{result['episodes']} episodes, the most likely action in each step:",
        "",
        "| | |",
        "|---|---|",
        f"| return | {result['episode_return_mean']:.2f} +- {result['episode_return_std']:.2f} |",
        f"| length | {result['episode_length_mean']:.0f} steps |",
        f"| to the time limit | {result['truncated_share']:.0%} |",
    ]
    if "success_rate" in result:
        lines.append(f"| success | {result['success_rate']:.0%} |")
    names = [name for name in result if name.startswith("measure/")]
    return [*lines, *(f"| {name.partition('/')[2]} | {result[name]:.4f} |" for name in names)]


def _robot(robot: Mapping[str, Any], *, whole: bool) -> list[str]:
    def shown(x: Any) -> str:
        return "" if x is None else f"{x:.4g}"

    columns = ("scale", "offset", "low", "high", "stiffness", "damping", "effort", "home")
    means = "the target of a joint is `offset + scale * action`, within `low` and `high`"
    if whole:
        means = "the numbers are what the actuators are told"
    lines = [
        f"An action every {robot['control_period_s']:g} s, {robot['kind']} control: {means}.",
        "",
        f"| action | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row in robot["actions"]:
        name = row.get("joint") or row["actuator"]
        lines.append(f"| `{name}` | " + " | ".join(shown(row.get(c)) for c in columns) + " |")
    return lines


def _compared(difference: float | None) -> str:
    if difference is None:
        return " (not compared: there is no C compiler here)"
    return f" (differs by at most {difference:.1e})"
