"""What a robot's controller has to know of a task, as plain numbers and names."""

from __future__ import annotations

import math
from typing import Any

from surefoot.robots.body import effort_of
from surefoot.robots.environment import compiled
from surefoot.robots.task import RobotTask


def contract_of(task: RobotTask) -> dict[str, Any]:
    """How actions drive the robot of a task: what `policy.json` holds under `robot`.

    Returns:
        `control_period_s`, `kind` of control, `smoothing`, and for every action in its order: the name of its
        joint or actuator, and for joints the `scale` and `offset` of the target, its lowest and highest
        value, `stiffness` and `damping` (position and velocity control), the largest `effort`, and the `home`
        position; units are rad or m, Nm or N.
    """
    robot = compiled(task)
    model, controls = robot.model, task.actuation.on(robot)
    rows: list[dict[str, Any]] = []
    for place, (joint, index) in enumerate(zip(controls.joints, controls.actuators, strict=True)):
        stiffness, damping = -model.actuator_biasprm[index, 1:3]
        effort = effort_of(robot, int(joint))
        low, high = controls.bounds(index)
        rows.append(
            {
                "joint": robot.names["joint"][joint],
                "scale": float(controls.scale[place]),
                "offset": float(controls.offset[place]),
                "low": low,
                "high": high,
                "stiffness": float(stiffness),
                "damping": float(damping),
                "effort": effort if math.isfinite(effort) else None,
                "home": float(robot.home[model.jnt_qposadr[joint]]),
            }
        )
    others = range(model.nu) if task.actuation.kind == "ctrl" else controls.others
    for index in others:
        low, high = controls.bounds(int(index))
        rows.append({"actuator": robot.names["actuator"][index], "low": low, "high": high})
    return {
        "control_period_s": task.control_dt_s,
        "kind": task.actuation.kind,
        "smoothing": task.actuation.smoothing,
        "actions": rows,
    }
