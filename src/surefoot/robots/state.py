"""What a task's functions see of one environment, by name; what they read is noted as they are traced.

Numbers are jax arrays of one environment; positions are in m, angles in rad, velocities in m/s and rad/s, in
the world's frame unless a name says `local`, forces in N, torques in Nm.
"""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco import batch
from mujoco.batch import DATA_FIELDS

from surefoot.errors import UserError, near_matches
from surefoot.robots.model import Robot

_SENSORS = mujoco.mjtSensor
_OBJECTS = mujoco.mjtObj
_FRAMES = {
    "body": ("xpos", "xmat"),
    "geom": ("geom_xpos", "geom_xmat"),
    "site": ("site_xpos", "site_xmat"),
}


class Added(NamedTuple):
    """A sensor that a function reads and the model has to be given."""

    name: str
    type: int
    object_type: int
    object_name: str
    size: int
    parameters: tuple[int, ...] = ()

    def add_to(self, spec: mujoco.MjSpec) -> None:
        """Give it to a spec."""
        sensor = spec.add_sensor(
            name=self.name, type=self.type, objtype=self.object_type, objname=self.object_name
        )
        if self.parameters:
            sensor.intprm[: len(self.parameters)] = self.parameters


# what the engine calculates for sensors alone: reading it brings one along
_SUBTREE = (Added("for subtrees", _SENSORS.mjSENS_SUBTREELINVEL, _OBJECTS.mjOBJ_BODY, "world", 3),)
_BODY_FORCES = (Added("for forces", _SENSORS.mjSENS_FRAMELINACC, _OBJECTS.mjOBJ_XBODY, "world", 3),)
_ENERGY = (
    Added("for potential energy", _SENSORS.mjSENS_E_POTENTIAL, _OBJECTS.mjOBJ_UNKNOWN, "", 1),
    Added("for kinetic energy", _SENSORS.mjSENS_E_KINETIC, _OBJECTS.mjOBJ_UNKNOWN, "", 1),
)
_ON_DEMAND = {
    **dict.fromkeys(("subtree_linvel", "subtree_angmom"), _SUBTREE),
    **dict.fromkeys(("cacc", "cfrc_int", "cfrc_ext"), _BODY_FORCES),
    "energy": _ENERGY,
}
_FIELDS = frozenset(DATA_FIELDS) - {"qfrc_inverse", "solver_fwdinv"}  # no step calculates those


class Reads:
    """The fields of MuJoCo's data that functions read, and the sensors that they need.

    Args:
        robot: whose they are.

    Attributes:
        fields: names of the fields.
        sensors: sensors to add, by name.
    """

    def __init__(self, robot: Robot) -> None:
        self._data = mujoco.MjData(robot.model)
        self.fields: set[str] = set()
        self.sensors: dict[str, Added] = {}

    def shape(self, field: str) -> tuple[int, ...]:
        """Of a field in one environment."""
        return np.shape(getattr(self._data, field))

    def __getitem__(self, field: str) -> jax.Array:
        """Note the field, and stand in for it."""
        self.fields.add(field)
        return jnp.zeros(self.shape(field))


class Episode(NamedTuple):
    """What lasts of an environment's episode from one step to the next, beside the physics.

    Attributes:
        key: its random stream.
        steps: control steps so far.
        level: of the curriculum.
        command: what is asked of the robot.
        carry: what the task remembers.
        action: the last action, as the policy gave it.
        last_action: the one before.
        control: what the controller remembers.
        sensing: what the sensors remember, by observation group.
    """

    key: jax.Array
    steps: jax.Array
    level: jax.Array
    command: Any
    carry: Any
    action: jax.Array
    last_action: jax.Array
    control: Any
    sensing: Any


class State:
    """One environment after a control step. Any field of MuJoCo's `MjData` is an attribute, as `s.qpos`.

    Args:
        robot: the model and its names.
        fields: what was read of the engine, by field, or a `Reads` that notes it.
        episode: what lasts.
        control_dt_s: seconds of a control step.

    Attributes:
        robot: the model and its names.
        command: what is asked of the robot.
        carry: what the task remembers.
        action: the last action.
        last_action: the one before.
        level: of the curriculum.
    """

    def __init__(
        self,
        robot: Robot,
        fields: Mapping[str, jax.Array] | Reads,
        episode: Episode,
        control_dt_s: float,
    ) -> None:
        self.robot, self._fields, self._episode = robot, fields, episode
        self.control_dt_s = control_dt_s
        self.command, self.carry = episode.command, episode.carry
        self.action, self.last_action = episode.action, episode.last_action
        self.level = episode.level

    @property
    def time_s(self) -> jax.Array:
        """Seconds since the episode began."""
        return self._episode.steps * self.control_dt_s

    @property
    def key(self) -> jax.Array:
        """A random key of this step's own; `control` gets that of the observation it acts on."""
        return jax.random.fold_in(self.step_key, 0)

    @property
    def step_key(self) -> jax.Array:
        """What the environment draws from in this step."""
        return jax.random.fold_in(self._episode.key, self._episode.steps)

    def __getattr__(self, name: str) -> jax.Array:
        """A field of `MjData`."""
        if name.startswith("_") or name not in _FIELDS:
            own = (n for n in (*dir(type(self)), *vars(self)) if not n.startswith("_"))
            known = [*_FIELDS, *own]
            raise AttributeError(f"the state has no {name!r}{near_matches(name, known)}")
        for sensor in _ON_DEMAND.get(name, ()):
            self.added(sensor)
        return self._fields[name]

    def joint(self, name: str) -> Joints:
        """A joint: its numbers alone for a hinge or slide, arrays for a ball or free joint."""
        joint = self.robot.id("joint", name)
        places, speeds = self.robot.joint_slices(joint)
        if places.stop - places.start == 1:
            return Joints(self, joint, places.start, speeds.start)
        return Joints(self, joint, places, speeds)

    def joints(self, patterns: str | Iterable[str] = "*") -> Joints:
        """All hinges and slides whose names match, as vectors in the model's order."""
        ids, model = self.robot.scalar_joints(patterns), self.robot.model
        return Joints(self, ids, model.jnt_qposadr[ids], model.jnt_dofadr[ids])

    def body(self, name: str) -> Frame:
        """A body's frame."""
        return Frame(self, "body", name)

    def site(self, name: str) -> Frame:
        """A site's frame."""
        return Frame(self, "site", name)

    def geom(self, name: str) -> Frame:
        """A geom's frame."""
        return Frame(self, "geom", name)

    def sensor(self, name: str) -> jax.Array:
        """A sensor of the model: its numbers."""
        index = self.robot.id("sensor", name)
        at, size = self.robot.model.sensor_adr[index], self.robot.model.sensor_dim[index]
        return self._fields["sensordata"][at : at + size]

    def contact(self, name: str, kind: str = "") -> Contact:
        """What touches a geom, or any geom of a body.

        Args:
            name: of the geom or body.
            kind: `geom` or `body`, where both are called so.
        """
        kinds = [kind] if kind in ("geom", "body") else ["geom", "body"]
        found = [kind for kind in kinds if name and name in self.robot.names[kind]]
        if len(found) > 1:
            model, body = self.robot.model, self.robot.id("body", name)
            first, count = int(model.body_geomadr[body]), int(model.body_geomnum[body])
            geoms = np.arange(first, first + count)
            collide = geoms[(model.geom_contype | model.geom_conaffinity)[geoms] != 0]
            if {*collide.tolist()} != {self.robot.id("geom", name)}:
                raise UserError(
                    f"{self.robot.name} has a geom and a body {name!r}, whose geoms are others: say "
                    f"contact({name!r}, 'geom') or contact({name!r}, 'body')"
                )
        if found:
            return Contact(self, found[0], name)
        known = filter(None, (*self.robot.names["geom"], *self.robot.names["body"]))
        raise UserError(
            f"{self.robot.name} has no geom or body {name!r}{near_matches(name, known)}"
        )

    def actuator(self, name: str) -> Actuator:
        """An actuator."""
        return Actuator(self, self.robot.id("actuator", name))

    def added(self, sensor: Added) -> jax.Array:
        """The numbers of a sensor that the model is given where it lacks it."""
        if sensor.name in self.robot.names["sensor"]:
            return self.sensor(sensor.name)
        assert isinstance(self._fields, Reads)
        self._fields["sensordata"]
        self._fields.sensors[sensor.name] = sensor
        return jnp.zeros(sensor.size)


class Joints:
    """One joint of a state, or several hinges and slides.

    Args:
        state: whose.
        ids: numbers in the model: one, or an array.
        places: of their numbers in qpos.
        speeds: of their numbers in qvel.

    Attributes:
        home: their positions in the home pose.
        lower: ends of their ranges, -inf where there is none.
        upper: likewise, inf.
    """

    def __init__(self, state: State, ids: Any, places: Any, speeds: Any) -> None:
        model = state.robot.model
        self._state, self._places, self._speeds = state, places, speeds
        self.home = state.robot.home[places]
        self.lower = np.where(model.jnt_limited[ids], model.jnt_range[ids, 0], -np.inf)
        self.upper = np.where(model.jnt_limited[ids], model.jnt_range[ids, 1], np.inf)

    @property
    def qpos(self) -> jax.Array:
        """Positions: rad or m; a quaternion (w first) of a ball; position and quaternion of a free joint."""
        return self._state.qpos[self._places]

    @property
    def qvel(self) -> jax.Array:
        """Velocities; of a free joint linear in the world's frame, then angular in the body's."""
        return self._state.qvel[self._speeds]

    @property
    def qacc(self) -> jax.Array:
        """Accelerations, in the substep before."""
        return self._state.qacc[self._speeds]

    @property
    def torque(self) -> jax.Array:
        """What all actuators together do to them, in the substep before."""
        return self._state.qfrc_actuator[self._speeds]


class Frame:
    """Position, orientation and velocity of a body, site or geom.

    Args:
        state: whose.
        kind: `body`, `site` or `geom`.
        name: of the object.
    """

    def __init__(self, state: State, kind: str, name: str) -> None:
        self._state, self._kind, self._name = state, kind, name
        self._id = state.robot.id(kind, name)

    @property
    def position(self) -> jax.Array:
        """[3]."""
        return getattr(self._state, _FRAMES[self._kind][0])[self._id]

    @property
    def rotation(self) -> jax.Array:
        """[3, 3]: turns the frame's vectors into the world's."""
        return getattr(self._state, _FRAMES[self._kind][1])[self._id].reshape(3, 3)

    @property
    def velocity(self) -> jax.Array:
        """[3], of the frame's origin."""
        s, body = self._state, self._body
        root = s.robot.model.body_rootid[body]
        # of the point that is now at the root's centre
        turning, moving = s.cvel[body, :3], s.cvel[body, 3:]
        return moving + jnp.cross(turning, self.position - s.subtree_com[root])

    @property
    def angular_velocity(self) -> jax.Array:
        """[3]."""
        return self._state.cvel[self._body, :3]

    @property
    def local_velocity(self) -> jax.Array:
        """[3], of the frame's origin, in the frame."""
        return self.velocity @ self.rotation

    @property
    def local_angular_velocity(self) -> jax.Array:
        """[3], in the frame: what a gyroscope there measures."""
        return self.angular_velocity @ self.rotation

    @property
    def gravity(self) -> jax.Array:
        """[3], the direction in which gravity pulls, in the frame: (0, 0, -1) where it is upright."""
        return -self.rotation[2]

    @property
    def up(self) -> jax.Array:
        """How upright: the cosine between the frame's z axis and the world's."""
        return self.rotation[2, 2]

    @property
    def _body(self) -> int:
        model = self._state.robot.model
        if self._kind == "body":
            return self._id
        return int(getattr(model, f"{self._kind}_bodyid")[self._id])


class Contact:
    """What touches a geom, or any geom of a body, in the substep before.

    Args:
        state: whose.
        kind: `body` or `geom`.
        name: of the object.
    """

    def __init__(self, state: State, kind: str, name: str) -> None:
        bits = (1 << 0) | (1 << 1)  # mjCONDATA_FOUND, mjCONDATA_FORCE
        reduce = 3  # the net force, in the world's frame
        object_type = _OBJECTS.mjOBJ_GEOM if kind == "geom" else _OBJECTS.mjOBJ_BODY
        sensor = Added(
            f"contact of {kind} {name}",
            _SENSORS.mjSENS_CONTACT,
            object_type,
            name,
            4,
            (bits, reduce, 1),
        )
        self._data = state.added(sensor)

    @property
    def found(self) -> jax.Array:
        """Whether anything touches it, bool."""
        return self._data[0] > 0

    @property
    def force(self) -> jax.Array:
        """[3], on it."""
        return -self._data[1:4]  # the sensor's is what it does to the others


class Actuator(NamedTuple):
    """An actuator of a state."""

    state: State
    id: int

    @property
    def force(self) -> jax.Array:
        """What it applies, in the substep before."""
        return self.state.actuator_force[self.id]

    @property
    def ctrl(self) -> jax.Array:
        """What it is told."""
        return self.state.ctrl[self.id]


def stage_of(robot: Robot, fields: Iterable[str]) -> int:
    """How far the engine has to calculate after the last substep, so that the fields are those of now.

    State fields always are; what follows from accelerations and forces is that of the last substep by nature.
    """
    needed, lasting = {_STAGES.mjSTAGE_NONE}, {*_OF_ACCELERATION, *batch._STATE_FIELDS}
    for field in fields:
        if field == "sensordata":
            stages = {_STAGES(int(stage)) for stage in robot.model.sensor_needstage}
            needed |= stages - {_STAGES.mjSTAGE_ACC}
        elif field not in lasting:
            of_position = field in _OF_POSITION
            needed.add(_STAGES.mjSTAGE_POS if of_position else _STAGES.mjSTAGE_VEL)
    return max(int(stage) for stage in needed)


_STAGES = mujoco.mjtStage
_OF_POSITION = (
    *("xpos", "xquat", "xmat", "xipos", "ximat", "xanchor", "xaxis", "geom_xpos", "geom_xmat"),
    *("site_xpos", "site_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir", "subtree_com"),
    *("ten_length", "actuator_length"),
)
_OF_ACCELERATION = (
    *("qacc", "actuator_force", "qfrc_actuator", "qfrc_constraint", "qfrc_smooth"),
    *("qacc_smooth", "cacc", "cfrc_int", "cfrc_ext", "act_dot"),
)
