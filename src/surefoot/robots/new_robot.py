"""The commented task file for a robot, which `surefoot new-robot` writes."""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from string import Template

import mujoco
import numpy as np

from surefoot.robots.body import Gains
from surefoot.robots.findings import Findings, bare_of, has_ground, short

PHYSICS_S = (0.005, 0.004, 0.0025, 0.002, 0.001)  # to try, all dividing the control step of 0.02 s
_TYPES = ("free", "ball", "slide", "hinge")


def text_of(found: Findings, model: str, physics_s: float, file: str) -> str:
    """The source text of a task's file.

    Args:
        found: what `look` found.
        model: a Python expression for the model.
        physics_s: seconds of a substep.
        file: its name.
    """
    helpers = [*(("installed", "read_spec") if model.startswith("lambda") else ())]
    helpers += ["set_home"] if found.home else []
    words = {
        "name": found.name,
        "file": file,
        "mass": short(float(found.robot.model.body_mass.sum())),
        "model": _wrapped(model),
        "dt": f"{physics_s:g}",
        "imports": f"from surefoot.robots.model import {', '.join(helpers)}\n" if helpers else "",
        "table": "\n".join(_table(found)),
        "constants": "\n".join(_constants(found)),
        "actuation": _actuation(found),
        "action": "an action of 1 moves a joint's target by its scale from home, rad (m of slides)"
        if found.kind == "position"
        else "actions from -1 to 1 are the controls of the model's own actuators, over their ranges",
        "kind": found.effector[0],
        "height": _height_at(found),
        "swing": f"{found.swing_m:g}",
        # short legs take quick steps
        "frequency": f"{1.6 / np.sqrt(max(found.start_m, 5 * found.swing_m) or 1.0):.1f}",
        "scale": 'self.actuation.scale["*"]' if _slides(found) else "self.actuation.scale",
        "episodes": '"episode_s=10.0",' if found.free else "",
        "envs": "128" if found.free else "64",
        "std": "0.4" if found.free else "0.6",
        "edit": textwrap.indent("\n".join(_edit(found)), 8 * " "),
    }
    body = _REACH if not found.free else _STAND.replace("$gait", _GAIT if _has_gait(found) else "")
    return Template(_HEAD + body).substitute(words)


def _has_gait(found: Findings) -> bool:
    return found.kind == "position" and bool(found.strides)


def _table(found: Findings) -> Iterable[str]:
    """The joints, in comments."""
    robot, model = found.robot, found.robot.model
    wide = max(len(name) for name in robot.names["joint"])
    row = f"# {{:<{wide}}}  {{:<5}}  {{:<15}}  {{:>6}}  {{:<14}}  {{}}"
    yield row.format(
        "joint", "type", "range (rad, m)", "home", "axis at home", "driven by"
    ).rstrip()
    for joint, name in enumerate(robot.names["joint"]):
        kind, limited = _TYPES[model.jnt_type[joint]], model.jnt_limited[joint]
        low, high = model.jnt_range[joint]
        scalar = kind in ("hinge", "slide")
        ends = f"{low:.2f} to {high:.2f}" if limited and scalar else "any"
        home = found.home.get(name) if found.home else None
        if home is None:
            home = float(robot.home[model.jnt_qposadr[joint]])
        axis = found.axes[joint] if scalar else ""
        at_home = f"{home + 0.0:.2f}" if scalar else ""
        drive = found.drives.get(name, "nothing of its own" if scalar else "")
        yield row.format(_line(name) or "(no name)", kind, ends, at_home, axis, drive).rstrip()
    sensors = [
        f"{_line(name)} ({mujoco.mjtSensor(int(kind)).name.removeprefix('mjSENS_').lower()})"
        for name, kind in zip(robot.names["sensor"], model.sensor_type, strict=True)
    ]
    said = ", ".join(sensors) or "none; a task may read positions and velocities without"
    yield "#"
    yield from textwrap.wrap(
        f"Sensors: {said}.",
        98,
        initial_indent="# ",
        subsequent_indent="#   ",
        break_long_words=False,
    )


def _constants(found: Findings) -> Iterable[str]:
    """What the class reads."""
    if found.free:
        yield f"TRUNK = {quoted(found.trunk)}  # the body that is to stay upright"
        yield "# guessed: what is lowest in the home pose; geoms, or bodies whose geoms touch the ground"
        yield f"FEET = {_tuple(found.feet)}"
        yield f"START_M = {found.start_m:g}  # height of the trunk, feet just on the ground"
        yield "# guessed: the feet's bodies, and points of them, in m, to be lifted in turns"
        points = {
            name: f"({', '.join(f'{x + 0.0:g}' for x in at)})" for name, at in found.soles.items()
        }
        yield f"SOLES = {_dict(points)}"
        yield f"RHYTHM = {found.rhythm}  # phases of them in a stride"
        if _has_gait(found):
            yield from _legs(found)
    else:
        kind, name = found.effector
        yield f"EFFECTOR = {quoted(name)}  # the {kind} that is to reach the target, guessed: the last one"
        yield "# where targets are drawn, in m: where it gets from poses around the home pose"
        ends = ", ".join(f"({low + 0.0:g}, {high + 0.0:g})" for low, high in found.workspace)
        yield f"WORKSPACE = ({ends})"
        yield f"WIDTH_M = {_width(found):g}  # distance at which a quarter of the reward is left"
    if found.home is not None and found.home:
        yield ""
        guessed = "legs bent a little" if found.free else "zero, or the nearest that ranges allow"
        yield f"# the home pose in rad (m of slides), which the model lacks: {guessed}"
        yield f"HOME = {_dict({name: repr(x) for name, x in found.home.items()})}"
    if found.gains:
        yield ""
        yield from _gains_words(found)
        yield f"GAINS = {_dict({n: f'({g[0]:g}, {g[1]:g}, {g[2]:g})' for n, g in found.gains.items()})}"


def _legs(found: Findings) -> Iterable[str]:
    """What a nominal gait is made of."""
    yield "STANDS = (  # where they are, in m forward and to the left of the trunk"
    yield from (f"    {place}," for place in found.stands)
    yield ")"
    yield "# by joint: its place among the actions, its foot, rad that move that 1 m forward, to the left, up"
    driven = _driven(found)
    rows = {
        name: f"({driven.index(name)}, {foot}, ({', '.join(f'{x:g}' for x in by)}))"
        for name, (foot, by) in found.strides.items()
        if name in driven
    }
    yield f"LEGS = {_dict(rows)}"


def _driven(found: Findings) -> list[str]:
    """Names of the joints that actions drive, in their order."""
    return [n for n in found.robot.names["joint"] if n in found.gains or n in found.drives]


def _slides(found: Findings) -> dict[str, str]:
    """What an action of 1 moves each driven slide by."""
    robot, model = found.robot, found.robot.model
    return {
        name: f"{np.ptp(model.jnt_range[robot.id('joint', name)]) / 2 or 0.1:.2g}"
        for name in _driven(found)
        if model.jnt_type[robot.id("joint", name)] == 2
    }


def _gains_words(found: Findings) -> Iterable[str]:
    yield "# Nm/rad, Nms/rad, Nm of the motors, made up: replace them by the data sheet's"
    if found.free:
        yield "# the largest torque could carry 2.5 robots, unless the model has a limit that is a motor's;"
        yield "# it is there when a joint is 0.4 rad off"
    else:
        yield "# the largest torque could hold 1.5 arms, unless the model has a limit that is a motor's;"
        yield "# it is there when a joint is 0.1 rad off"


def _height_at(found: Findings) -> int:
    """The place in qpos of the trunk's height."""
    model = found.robot.model
    first = model.body_jntadr[found.robot.id("body", found.trunk)]
    return int(model.jnt_qposadr[first]) + 2 if found.free else 0


def _width(found: Findings) -> float:
    return round(float(np.linalg.norm(np.ptp(found.workspace, axis=1))) / 3, 3)


def _actuation(found: Findings) -> str:
    """The expression that says what an action means."""
    if found.kind == "ctrl":
        return 'Actuation(kind="ctrl")'
    slides = _slides(found)
    scale = _dict(slides | {"*": "0.5"}, 2) if slides else "0.5"
    lines = [f"scale={scale},"]
    if found.gains:
        lines += [
            f"{what}={{name: gains[{i}] for name, gains in GAINS.items()}},"
            for i, what in enumerate(Gains._fields)
        ]
        if not found.robot.model.nu:
            lines.insert(0, "joints=tuple(GAINS),")
    return "\n".join(["Actuation(", *(f"        {line}" for line in lines), "    )"])


def _edit(found: Findings) -> Iterable[str]:
    """The lines that change the model."""
    if found.delete_base:
        yield f"for joint in list(spec.body({quoted(found.trunk)}).joints):  # the base is fixed"
        yield "    spec.delete(joint)"
    if found.add_base:
        yield 'spec.body(TRUNK).add_freejoint(name="base")  # without it the base is fixed'
    if bare := bare_of(found.robot, found.gains):
        yield f"# the {' and '.join(bare)} of motors and gears, made up; more armature lets steps be longer"
        yield "for name, (stiffness, damping, _) in GAINS.items():"
        shares = {
            "armature": "armature = 1e-4 * stiffness",
            "damping": "damping[0] = 0.05 * damping",
        }
        yield from (f"    spec.joint(name).{shares[what]}" for what in bare)
    for name in (name for name in found.soles if name not in found.robot.names["body"]):
        yield f"spec.geom({quoted(name)}).parent.name = {quoted(name)}  # SOLES needs one"
    if found.home:
        whose = ", body=TRUNK" if found.others else ""
        yield f"set_home(spec, HOME{f', height_m=START_M{whose}' if found.free else ''})"
    yield from _contacts(found)
    if not has_ground(found.robot):
        yield "spec.worldbody.add_geom("
        yield '    name="floor",'
        yield "    type=mujoco.mjtGeom.mjGEOM_PLANE,"
        yield "    size=[0, 0, 1],"
        yield "    contype=1,"
        yield "    conaffinity=0,"
        yield "    rgba=[0.5, 0.5, 0.5, 1],"
        yield ")"
    if "a light" in found.lacks:
        yield "spec.worldbody.add_light(pos=[0, 0, 4], dir=[0, 0, -1])"
    yield "# pyramidal friction and few iterations: several times faster than MuJoCo's defaults"
    yield "option = spec.option"
    yield "option.cone, option.impratio = mujoco.mjtCone.mjCONE_PYRAMIDAL, 1"
    yield "option.solver = mujoco.mjtSolver.mjSOL_NEWTON"
    if found.robot.model.dof_frictionloss.any():
        yield "option.iterations, option.ls_iterations = 10, 20  # without friction loss 4, 8 would do"
    else:
        yield "option.iterations, option.ls_iterations = 4, 8"
    yield "option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST"


def _contacts(found: Findings) -> Iterable[str]:
    unnamed = "  # nor is it simulated, as nothing asks for it"
    if not found.free:
        yield "# nothing collides, which is faster: delete these lines when it is to touch things"
        yield "for geom in spec.geoms:"
        yield "    geom.contype = geom.conaffinity = 0"
        if found.is_urdf:
            yield '    geom.name = ""' + unnamed
        return
    yield "# feet touch the ground, nothing else touches anything: without the loop all does, and slowly"
    yield "for geom in spec.geoms:"
    if found.others:
        yield f"    if geom.parent.name in {_tuple(found.others)}:  # no part of the robot: as they were"
        yield "        continue"
    yield "    collides = geom.contype or geom.conaffinity"
    yield '    ground = geom.parent.name == "world" and collides'
    yield "    foot = geom.name in FEET or (geom.parent.name in FEET and collides)"
    yield "    geom.contype, geom.conaffinity = int(bool(ground)), int(bool(foot))"
    yield "    if foot:"
    yield "        geom.condim, geom.priority = 3, 1"
    if found.is_urdf:
        yield "    else:"
        yield '        geom.name = ""' + unnamed


def _line(name: str) -> str:
    """A name in a comment, which it must not end."""
    return " ".join(name.split())


def _wrapped(model: str) -> str:
    """The expression for the model, in lines as long as they may be."""
    line = f"    model: Any = {model}"
    if len(line) > 100 and model.startswith("lambda: read_spec("):
        inside = model.removeprefix("lambda: read_spec(").removesuffix(")")
        return f"lambda: read_spec(\n        {inside}\n    )"
    if len(line) > 100 and len(model) <= 92:
        return f"(\n        {model}\n    )"
    return model + ("  # noqa: E501" if len(line) > 110 else "")


def quoted(text: str) -> str:
    """A string of Python."""
    return json.dumps(text, ensure_ascii=False)


def _tuple(names: Sequence[str]) -> str:
    inside = ", ".join(map(quoted, names)) + ("," if len(names) == 1 else "")
    if len(inside) < 88:
        return f"({inside})"
    return "\n".join(["(", *(f"    {quoted(name)}," for name in names), ")"])


def _dict(values: Mapping[str, str], depth: int = 0) -> str:
    pad = 4 * depth * " "
    return "\n".join(["{", *(f"{pad}    {quoted(n)}: {x}," for n, x in values.items()), f"{pad}}}"])


_HEAD = '''\
"""$name: a first task, written by `surefoot new-robot`. It is yours: change what you like.

`surefoot train $file:$name` trains it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import mujoco

from surefoot.config import Config
from surefoot.robots import Actuation, Robot, RobotTask, Start, State, terms
$imports
# The model: $mass kg.
#
$table

$constants


@dataclass(frozen=True)
class $name(RobotTask):
'''


_TRAINING = '''\
    training: ClassVar[Config] = Config(
        total_steps=500_000,  # about a minute; ten times as many are a training
        num_envs=$envs,
        num_steps=32,
        env_options=($episodes),
        actor_hidden=(128, 128),
        critic_hidden=(128, 128),
        activation="elu",
        initial_std=$std,
        min_std=0.1,
        gamma=0.985,
        gae_lambda=0.95,
        learning_rate=1e-3,
        num_epochs=5,
        num_minibatches=8,
        max_grad_norm=1.0,
    )

    def edit(self, spec: mujoco.MjSpec) -> None:
        """What the model lacks, what may touch what, and a solver that is fast enough for training."""
$edit

    def reset(self, robot: Robot, key: jax.Array, level: jax.Array) -> Start:
        """The home pose, its joints a little off."""
        hinges = robot.model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE
        places = robot.model.jnt_qposadr[hinges]
        off = jax.random.uniform(key, places.shape, minval=-0.05, maxval=0.05)
'''


_GAIT = '''\
    def control(self, s: State, action: jax.Array) -> jax.Array:
        """The action, and the nominal gait that it adds to: strides as long as the command asks."""
        phases, (forward, left, turning) = self.phases(s), s.command
        # a foot goes back on the ground and forth in the air: 1 in front, where it lands, -1 behind
        sweep = -jnp.cos(2 * jnp.pi * phases) * 0.25 / self.frequency_hz
        for place, foot, by in LEGS.values():
            x, y = STANDS[foot]
            move = jnp.stack(
                [
                    (forward - turning * y) * sweep[foot],
                    (left + turning * x) * sweep[foot],
                    terms.swing_height(phases[foot], self.swing_m),
                ]
            )
            action = action.at[place].add(jnp.dot(move, jnp.array(by)) / $scale)
        return action

'''


_STAND = (
    '''\
    """It stands upright in its home pose. Its fields are options: `--env-options upright=-2.0`.

    Attributes:
        tracking: weight of moving as the command says, in m/s; here it is to stand still.
        turning: weight of turning as the command says, in rad/s.
        upright: weight of tilting the trunk.
        height: weight of the trunk's squared distance from START_M.
        posture: weight of staying near the home pose.
        gait: weight of keeping to the gait: feet are lifted in turns, and those on the ground stay there.
        action_rate: weight of changes of the action.
        frequency_hz: strides per second.
        swing_m: how high a foot is to be lifted.
    """

    model: Any = $model
    physics_dt_s: float | None = $dt  # a substep: smaller is finer and slower
    command_s: float | None = None  # to walk: 5.0, mean seconds between commands
    reward_floor: float | None = 0.0

    tracking: float = 1.0  # to walk: 2.0
    turning: float = 0.5  # to walk: 1.0
    upright: float = -5.0
    height: float = -20.0
    posture: float = 0.5
    gait: float = 0.5  # to walk: 2.0
    action_rate: float = -0.01

    frequency_hz: float = $frequency
    swing_m: float = $swing

    command_names: ClassVar[tuple[str, ...]] = ("forward m/s", "left m/s", "turning rad/s")

    # $action
    actuation: ClassVar[Actuation] = $actuation
'''
    + _TRAINING
    + '''\
        return Start(jnp.asarray(robot.home).at[places].add(off).at[$height].set(START_M))

    def command(self, key: jax.Array, level: jax.Array) -> jax.Array:
        """[3]: forward and to the left in m/s, turning in rad/s."""
        most = jnp.array([0.0, 0.0, 0.0])  # to walk: [1.0, 0.5, 1.0]
        return most * jax.random.uniform(key, (3,), minval=-1.0)

    def phases(self, s: State) -> jax.Array:
        """[F] of the feet: below 0.5 in the air, above on the ground, where all stay if it is to stand."""
        phases = terms.phases(s.time_s, self.frequency_hz, RHYTHM)
        return jnp.where(terms.norm(s.command) > 0.1, phases, 0.75)

$gait    def soles(self, s: State) -> tuple[jax.Array, jax.Array]:
        """[F, 3] where the feet's soles are, in m, and [F, 3] how they move, in m/s."""
        places, speeds = [], []
        for name, point in SOLES.items():
            foot = s.body(name)
            arm = foot.rotation @ jnp.array(point)
            places.append(foot.position + arm)
            speeds.append(foot.velocity + jnp.cross(foot.angular_velocity, arm))
        return jnp.stack(places), jnp.stack(speeds)

    def observe(self, s: State) -> jax.Array:
        """What the robot senses, the command, and the gait's clock."""
        trunk, joints, angle = s.body(TRUNK), s.joints(), 2 * jnp.pi * self.phases(s)[0]
        return jnp.concatenate(
            [
                trunk.local_velocity,  # a robot has to estimate it
                trunk.local_angular_velocity,
                trunk.gravity,
                s.command,
                joints.qpos - joints.home,
                joints.qvel,
                s.action,
                jnp.stack([jnp.sin(angle), jnp.cos(angle)]),
            ]
        )

    def rewards(self, s: State) -> Mapping[str, Any]:
        """Terms of `surefoot.robots.terms`, by name; their sum is the reward."""
        trunk, joints = s.body(TRUNK), s.joints()
        velocity, turning = trunk.local_velocity, trunk.local_angular_velocity
        places, speeds = self.soles(s)
        return {
            "tracking": self.tracking * terms.tracking(velocity[:2], s.command[:2]),
            "turning": self.turning * terms.tracking(turning[2], s.command[2]),
            "upright": self.upright * terms.tilt(trunk.gravity),
            "height": self.height * terms.height_error(trunk.position[2], START_M),
            "posture": self.posture * terms.posture(joints.qpos, joints.home),
            "gait": self.gait * terms.gait(places[:, 2], speeds, self.phases(s), self.swing_m),
            "action_rate": self.action_rate * terms.action_rate(s.action, s.last_action),
        }

    def metrics(self, s: State) -> Mapping[str, Any]:
        """How far from the command it moves, in m/s an axis and rad/s."""
        trunk = s.body(TRUNK)
        return {
            "linear_error": jnp.mean(jnp.abs(trunk.local_velocity[:2] - s.command[:2])),
            "turning_error": jnp.abs(trunk.local_angular_velocity[2] - s.command[2]),
        }

    def terminated(self, s: State) -> jax.Array:
        """It fell: the trunk tilts by more than 60 degrees."""
        return s.body(TRUNK).up < 0.5
'''
)


_REACH = (
    '''\
    """The effector is to reach a target. Its fields are options: `--env-options near=2.0`.

    Attributes:
        near: weight of being near the target.
        action_rate: weight of changes of the action.
    """

    model: Any = $model
    physics_dt_s: float | None = $dt  # a substep: smaller is finer and slower
    episode_s: float = 4.0

    near: float = 1.0
    action_rate: float = -0.01

    # $action
    actuation: ClassVar[Actuation] = $actuation
'''
    + _TRAINING
    + '''\
        return Start(jnp.asarray(robot.home).at[places].add(off))

    def command(self, key: jax.Array, level: jax.Array) -> jax.Array:
        """[3]: the target, in m."""
        low, high = jnp.array(WORKSPACE).T
        return jax.random.uniform(key, (3,), minval=low, maxval=high)

    def away(self, s: State) -> jax.Array:
        """[3]: from the effector to the target, in m."""
        return s.command - s.$kind(EFFECTOR).position

    def observe(self, s: State) -> jax.Array:
        """Joints, the way to the target, the last action."""
        joints = s.joints()
        return jnp.concatenate(
            [joints.qpos - joints.home, joints.qvel, self.away(s), s.action],
        )

    def rewards(self, s: State) -> Mapping[str, Any]:
        """Terms of `surefoot.robots.terms`, by name; their sum is the reward."""
        return {
            "near": self.near * terms.near(self.away(s), WIDTH_M),
            "action_rate": self.action_rate * terms.action_rate(s.action, s.last_action),
        }

    def metrics(self, s: State) -> Mapping[str, Any]:
        """How far it is; an episode that ends near is a success."""
        distance = terms.norm(self.away(s))
        return {"distance_m": distance, "success": distance < 0.3 * WIDTH_M}
'''
)
