"""From a policy's actions to MuJoCo's controls: positions, velocities or torques of joints."""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from surefoot.envs.contract import ActionSpec
from surefoot.errors import UserError, check_names, near_matches
from surefoot.robots.model import Robot, matching
from surefoot.robots.sensing import check_delay

ByName = float | Mapping[str, float]
Kind = Literal["position", "velocity", "torque", "ctrl"]
_BY_NAME = ("scale", "offset", "stiffness", "damping", "effort")
_DYNAMICS = mujoco.mjtDyn
# of a hinge or slide they are the same
ON_JOINTS = (mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT)


class Delayed(NamedTuple):
    """What a controller remembers, None where it has no use for it.

    Attributes:
        actions: the newest, oldest first [K, A].
        delay: control steps by which they are heard late.
        smooth: [A] what was heard last.
    """

    actions: jax.Array | None
    delay: jax.Array | None
    smooth: jax.Array | None


@dataclass(frozen=True)
class Actuation:
    """How actions drive a robot.

    With `position` an action moves the targets of the joints around the home pose, `home + scale * action`;
    with `velocity` and `torque` it is `offset + scale * action`, in rad/s and Nm (m/s and N of a slide). With
    `ctrl` the model's actuators get it as it is, mapped from [-1, 1] onto their ranges. Controls end at
    `ctrlrange` and, as targets, at the joints' ranges; forces at the actuators' own limits.

    Tables are by joint: by its name, or by a pattern in which `*` and `?` stand for anything; a name that is
    just so comes before patterns, and of patterns the first.

    Attributes:
        kind: what an action means.
        joints: names or patterns of the joints that are driven.
        scale: of an action, for all joints or by name; 1 of a joint that no name matches.
        offset: what an action of 0 asks for, for all joints or by name; none: the home pose, or 0.
        stiffness: Nm/rad of position control, for all joints or by name, in place of whatever drove them;
            none: the model's actuators stay, which have to be of this kind.
        damping: Nms/rad of position and velocity control, likewise.
        effort: largest torque, for all joints or by name; none: the model's limit.
        delay_steps: fewest and most control steps until an action is heard, drawn for each episode.
        smoothing: share of the control before that remains in the next, in [0, 1): a low-pass filter.
        bound: actions beyond +-bound are clipped.
        others: names of further actuators, such as a tendon's: an action from -1 to 1 spans the range of
            each, behind the actions of the joints.
    """

    kind: Kind = "position"
    joints: str | tuple[str, ...] = "*"
    scale: ByName = 0.5
    offset: ByName | None = None
    stiffness: ByName | None = None
    damping: ByName | None = None
    effort: ByName | None = None
    delay_steps: tuple[int, int] = (0, 0)
    smoothing: float = 0.0
    bound: float = math.inf
    others: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_names([self.kind], get_args(Kind), what="kind of actuation:")
        check_delay(self.delay_steps, "actuation")
        if not 0 <= self.smoothing < 1:
            raise UserError(f"actuation: smoothing = {self.smoothing}: it must be in [0, 1)")
        if not self.bound > 0:
            raise UserError(f"actuation: bound = {self.bound}: it must be above 0")
        for name in _BY_NAME:
            value = getattr(self, name)
            numbers = [*value.values()] if isinstance(value, Mapping) else [value]
            if not all(
                isinstance(x, (int, float, np.number)) for x in numbers if value is not None
            ):
                raise UserError(
                    f"actuation: {name} = {value!r}: it must be one number for all joints, or a dict of "
                    "numbers by joint"
                )

    def _check_read(self) -> None:
        """Raise ValueError for options that this kind does not read."""
        if self.kind == "ctrl":
            unread = [
                field.name
                for field in fields(self)
                if field.name not in ("kind", "delay_steps", "smoothing")
                and getattr(self, field.name) != field.default
            ]
            if unread:
                raise UserError(
                    "actuation: kind = 'ctrl' hands actions to the model's actuators as they are: leave out "
                    f"{' and '.join(unread)}, or choose another kind"
                )
        unread = {
            "position": () if self.stiffness is not None else ("damping",),
            "velocity": ("stiffness",),
            "torque": ("stiffness", "damping"),
            "ctrl": (),
        }[self.kind]
        for name in unread:
            if getattr(self, name) is not None:
                hint = "give stiffness too" if self.kind == "position" else "leave it out"
                raise UserError(
                    f"actuation: {name} does not count with kind = {self.kind!r}"
                    f"{' and no stiffness' if self.kind == 'position' else ''}: {hint}"
                )

    def prepare(self, spec: mujoco.MjSpec, name: str) -> None:
        """Give driven joints of a spec actuators of this kind, where gains ask for it or none are there."""
        self._check_read()
        if self.kind == "ctrl":
            if not spec.actuators:
                raise UserError(f"{name} has no actuators to control: choose another kind")
            return
        driven: dict[str, list[Any]] = {}
        for actuator in spec.actuators:
            if actuator.trntype in ON_JOINTS:
                driven.setdefault(actuator.target, []).append(actuator)
        known = [joint.name for joint in spec.joints]
        scalar = (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE)
        patterns = (self.joints,) if isinstance(self.joints, str) else self.joints
        for pattern in patterns:
            if not matching(known, pattern):
                raise UserError(
                    f"actuation: {name} has no joint that matches {pattern!r}{near_matches(pattern, known)}"
                )
        gains = {"position": self.stiffness, "velocity": self.damping, "torque": 1.0}[self.kind]
        needed = "stiffness and damping" if self.kind == "position" else "damping"
        chosen = {known[i] for pattern in patterns for i in matching(known, pattern)}
        for joint in spec.joints:
            if joint.type not in scalar or joint.name not in chosen:
                continue
            own = math.isnan(by_name(gains, joint.name, math.nan))
            drivers = driven.get(joint.name, [])
            if not drivers:
                if own:
                    if driven and self.joints == "*":
                        continue  # a joint that the model leaves passive
                    raise UserError(
                        f"actuation: the joint {joint.name!r} of {name} has no actuator; give {needed}, and "
                        "it gets one"
                    )
                if not joint.name:
                    raise UserError(
                        f"actuation: a joint of the body {joint.parent.name!r} of {name} is to get an "
                        "actuator and has no name: give it one, or say which joints are driven"
                    )
                added = spec.add_actuator(
                    name=joint.name, target=joint.name, trntype=mujoco.mjtTrn.mjTRN_JOINT
                )
                drivers = [added]
            if own or (len(drivers) > 1 and self.kind == "torque"):  # which dampers work against
                actuator = self._driver(drivers, joint.name, name, needed)
            else:
                actuator, *others = drivers
                for other in others:
                    spec.delete(other)
            _leave_gear_out(actuator)
            if not own:
                self._tune(actuator, joint.name)
            effort = by_name(self.effort, joint.name, math.inf)
            if math.isfinite(effort):
                actuator.forcerange = (-effort, effort)
                actuator.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE

    def _driver(self, drivers: list[Any], joint: str, name: str, needed: str) -> Any:
        """The one of a joint's actuators that takes what actions mean; others may damp it."""
        kinds = [kind_of(actuator) for actuator in drivers]
        if kinds.count(self.kind) == 1 and {*kinds} <= {self.kind, "velocity", "torque"}:
            return drivers[kinds.index(self.kind)]
        if len(drivers) == 1:
            raise UserError(
                f"actuation: the actuator of joint {joint!r} of {name} takes no {self.kind}; give {needed}, "
                "and it does, or choose another kind"
            )
        said = ", ".join(
            f"{kind or 'another'} ({a.name})" for kind, a in zip(kinds, drivers, strict=True)
        )
        way = f"give {needed}, and one that takes a {self.kind} stands in their place, or "
        raise UserError(
            f"actuation: joint {joint!r} of {name} has {len(drivers)} actuators: {said}; "
            f"{way if self.kind != 'torque' else ''}leave one in the model"
        )

    def _tune(self, actuator: Any, joint: str) -> None:
        """Set gains of one actuator; what limited its torque goes on to."""
        before, limited = kind_of(actuator), mujoco.mjtLimited
        if before == "torque" and _is_limited(actuator.ctrllimited, actuator.ctrlrange):
            torques = np.sort(actuator.gainprm[0] * actuator.ctrlrange)
            if _is_limited(actuator.forcelimited, actuator.forcerange):
                torques = np.clip(torques, *actuator.forcerange)
            actuator.forcerange, actuator.forcelimited = torques, limited.mjLIMITED_TRUE
        if before != self.kind or before == "torque":  # a range of what is no longer asked for
            actuator.ctrllimited, actuator.ctrlrange = limited.mjLIMITED_FALSE, (0.0, 0.0)
            actuator.inheritrange = 0.0
        stiffness, damping = (by_name(x, joint, 0.0) for x in (self.stiffness, self.damping))
        gain, bias = {
            "position": (stiffness, (0.0, -stiffness, -damping)),
            "velocity": (damping, (0.0, 0.0, -damping)),
            "torque": (1.0, (0.0, 0.0, 0.0)),
        }[self.kind]
        actuator.gaintype = mujoco.mjtGain.mjGAIN_FIXED
        actuator.biastype = mujoco.mjtBias.mjBIAS_AFFINE
        actuator.gainprm[:3] = (gain, 0.0, 0.0)
        actuator.biasprm[:3] = bias
        actuator.dyntype = mujoco.mjtDyn.mjDYN_NONE
        actuator.actlimited, actuator.actrange = limited.mjLIMITED_FALSE, (0.0, 0.0)

    def on(self, robot: Robot) -> Controls:
        """The same for a compiled model."""
        return Controls(self, robot)


class Controls:
    """Actions of one robot, as `Actuation` says.

    Args:
        options: how it is driven.
        robot: the model.

    Attributes:
        spec: the actions.
        joints: numbers of the driven joints, in the order of the actions; empty for `ctrl`.
        actuators: numbers of the actuators that drive them.
        scale: [A] of the driven joints.
        offset: [A] what an action of 0 asks of them.
        others: numbers of the further actuators that actions drive.
    """

    def __init__(self, options: Actuation, robot: Robot) -> None:
        self._options, model = options, robot.model
        limited = model.actuator_ctrllimited.astype(bool)
        self._low = np.where(limited, model.actuator_ctrlrange[:, 0], -np.inf)
        self._high = np.where(limited, model.actuator_ctrlrange[:, 1], np.inf)
        self._home, self._home_act, self._model = robot.home_ctrl, robot.home_act, model
        if options.kind == "ctrl":
            self.joints = self.actuators = np.array([], int)
            low, high = (tuple(map(float, x)) for x in (self._low, self._high))
            self.spec = ActionSpec("continuous", (model.nu,), low, high, (model.nu,))
            return
        on_joints = np.flatnonzero(np.isin(model.actuator_trntype, ON_JOINTS))
        by_joint: dict[int, int] = {}
        for i in sorted(on_joints, key=lambda i: kind_of(model.actuator(i)) != options.kind):
            by_joint.setdefault(int(model.actuator_trnid[i, 0]), int(i))
        joints = robot.scalar_joints(options.joints)
        self.joints = np.array([joint for joint in joints if joint in by_joint], int)
        if not len(self.joints):
            raise UserError(f"{robot.name}: no actuator drives a joint of {options.joints!r}")
        self.actuators = np.array([by_joint[joint] for joint in self.joints])
        names = [robot.names["joint"][joint] for joint in self.joints]
        for option in _BY_NAME:
            if isinstance(table := getattr(options, option), Mapping):
                for pattern in table:
                    if not matching(names, pattern):
                        raise UserError(
                            f"actuation: {option} names {pattern!r}, which is no driven joint of "
                            f"{robot.name}{near_matches(pattern, names)}"
                        )
        self.scale = np.array([by_name(options.scale, name, 1.0) for name in names])
        positions = robot.home[model.jnt_qposadr[self.joints]]
        start = positions if options.kind == "position" else np.zeros(len(names))
        if options.offset is None:
            self.offset = start
        else:
            self.offset = np.array(
                [by_name(options.offset, n, x) for n, x in zip(names, start, strict=True)]
            )
        if options.kind == "position":
            ranged = model.jnt_limited[self.joints].astype(bool)
            for sign, bounds in ((1, self._low), (-1, self._high)):
                edge = model.jnt_range[self.joints, 0 if sign > 0 else 1]
                place = self.actuators
                inner = sign * np.maximum(sign * bounds[place], sign * edge)
                bounds[place] = np.where(ranged, inner, bounds[place])
        self.others = np.array([], int)
        if options.others:
            self.others = robot.ids("actuator", options.others)
            ranged = np.isfinite(self._low) & np.isfinite(self._high)
            if bad := [int(i) for i in self.others if i in self.actuators or not ranged[i]]:
                name = robot.names["actuator"][bad[0]]
                raise UserError(
                    f"actuation: others names the actuator {name!r}, which drives a joint already or has no "
                    "range that actions from -1 to 1 could span"
                )
        size = len(names) + len(self.others)
        self.spec = ActionSpec(
            "continuous", (size,), (-math.inf,) * size, (math.inf,) * size, (size,)
        )

    def init(self, key: jax.Array) -> Delayed:
        """What is remembered where an episode begins."""
        low, high = self._options.delay_steps
        rest = jnp.asarray(self._rest_action(), jnp.float32)
        return Delayed(
            jnp.tile(rest, (high + 1, 1)) if high else None,
            jax.random.randint(key, (), low, high + 1) if high else None,
            rest if self._options.smoothing else None,
        )

    def hear(self, memory: Delayed, action: jax.Array) -> tuple[Delayed, jax.Array]:
        """The action that the robot hears, within its bound, late and smooth."""
        if math.isfinite(self._options.bound):
            action = jnp.clip(action, -self._options.bound, self._options.bound)
        if memory.actions is not None and memory.delay is not None:
            actions = jnp.concatenate([memory.actions[1:], action[None]])
            memory, action = memory._replace(actions=actions), actions[-1 - memory.delay]
        if memory.smooth is not None:
            share = self._options.smoothing
            action = share * memory.smooth + (1 - share) * action
            memory = memory._replace(smooth=action)
        return memory, action

    def ctrl(self, action: jax.Array) -> jax.Array:
        """MuJoCo's controls [nu] for an action that was heard."""
        if self._options.kind == "ctrl":
            return action
        count = len(self.joints)
        ctrl = self.ctrl_of(self.offset + self.scale * action[:count])
        if len(self.others):
            low, high = self._low[self.others], self._high[self.others]
            share = jnp.clip(action[count:], -1.0, 1.0) / 2 + 0.5
            ctrl = ctrl.at[self.others].set(low + share * (high - low))
        return ctrl

    def bounds(self, actuator: int) -> tuple[float | None, float | None]:
        """Where the controls of an actuator end; none: nowhere."""
        ends = (float(self._low[actuator]), float(self._high[actuator]))
        low, high = (end if math.isfinite(end) else None for end in ends)
        return low, high

    def _rest_action(self) -> np.ndarray:
        """[A] the action that asks for `rest`."""
        if self._options.kind == "ctrl":
            return np.clip(self._home, self._low, self._high)
        low, high = self._low[self.others], self._high[self.others]
        return np.concatenate(
            [np.zeros(len(self.joints)), 2 * (self._home[self.others] - low) / (high - low) - 1]
        )

    @property
    def rest(self) -> jax.Array:
        """MuJoCo's controls [nu] where nothing was asked for yet."""
        if self._options.kind == "ctrl":
            return jnp.asarray(self._home)
        return self.ctrl_of(self.offset)

    def settled(self, ctrl: Any) -> jax.Array:
        """Activations [na] of actuators that have some, such as filters, where controls [nu] held for long.

        They are the home keyframe's where it has any.
        """
        model, act = self._model, jnp.asarray(self._home_act)
        if self._home_act.any():
            return act
        settles = (_DYNAMICS.mjDYN_FILTER, _DYNAMICS.mjDYN_FILTEREXACT, _DYNAMICS.mjDYN_MUSCLE)
        follow = np.flatnonzero(np.isin(model.actuator_dyntype, settles))
        last = model.actuator_actadr + model.actuator_actnum - 1
        limited = model.actuator_actlimited[follow].astype(bool)
        low, high = np.where(limited, model.actuator_actrange[follow].T, [[-np.inf], [np.inf]])
        return act.at[last[follow]].set(jnp.clip(jnp.asarray(ctrl)[follow], low, high))

    def ctrl_of(self, targets: Any) -> jax.Array:
        """MuJoCo's controls [nu] for targets of the driven joints, within their ranges."""
        ctrl = jnp.asarray(self._home, jnp.result_type(targets)).at[self.actuators].set(targets)
        return jnp.clip(ctrl, self._low, self._high)


def kind_of(actuator: Any) -> str:
    """What an actuator of a spec takes; empty where it is none of the kinds."""
    fixed = actuator.gaintype == mujoco.mjtGain.mjGAIN_FIXED and actuator.gainprm[0] != 0
    if fixed and actuator.biastype == mujoco.mjtBias.mjBIAS_NONE:
        return "torque" if actuator.dyntype == mujoco.mjtDyn.mjDYN_NONE else ""
    if not fixed or actuator.biastype != mujoco.mjtBias.mjBIAS_AFFINE:
        return ""
    if actuator.dyntype == mujoco.mjtDyn.mjDYN_INTEGRATOR:
        return ""
    if actuator.biasprm[1]:
        return "position"
    return "velocity" if actuator.biasprm[2] else "torque"


def _is_limited(limited: Any, ends: Any) -> bool:
    automatic = limited == mujoco.mjtLimited.mjLIMITED_AUTO
    return ends[0] < ends[1] if automatic else limited == mujoco.mjtLimited.mjLIMITED_TRUE


def _leave_gear_out(actuator: Any) -> None:
    """Give an actuator of a spec controls, gains and limits in its joint's own units."""
    gear = actuator.gear[0]
    if gear in (0.0, 1.0):
        return
    for name, scale in (("ctrlrange", 1 / gear), ("actrange", 1 / gear), ("forcerange", gear)):
        setattr(actuator, name, np.sort(scale * np.asarray(getattr(actuator, name))))
    # a damping ratio, which MuJoCo turns into a damping as it compiles, is the same with any gear
    is_ratio = actuator.biasprm[2] > 0 and actuator.gainprm[0] == -actuator.biasprm[1]
    actuator.gainprm[0] *= gear**2
    actuator.biasprm[:3] *= (gear, gear**2, 1.0 if is_ratio else gear**2)
    actuator.gear = (1.0, *np.zeros(5))


def by_name(values: ByName | None, name: str, default: float) -> float:
    """A number for all, or that of the name, else of the first pattern which it fits."""
    if values is None:
        return default
    if not isinstance(values, Mapping):
        return float(values)
    if name in values:
        return float(values[name])
    return next((float(x) for p, x in values.items() if matching([name], p)), default)
