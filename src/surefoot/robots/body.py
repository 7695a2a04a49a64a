"""A robot's shape in a pose: its feet, how it can stand, how far it reaches, what its motors need."""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import mujoco
import numpy as np

from surefoot.errors import UserError
from surefoot.robots.model import Robot

_SHAPES = mujoco.mjtGeom
GROUND = (_SHAPES.mjGEOM_PLANE, _SHAPES.mjGEOM_HFIELD)
_AXES = {
    tuple(sign * float(name == axis) + 0.0 for name in "xyz"): f"{'-' if sign < 0 else ''}{axis}"
    for axis in "xyz"
    for sign in (1.0, -1.0)
}
_SANE = 20  # a limit of effort beyond so many times the robot's own pull is no motor's


class Gains(NamedTuple):
    """Of a joint's motor: Nm/rad, Nms/rad, Nm (N/m, Ns/m, N of a slide)."""

    stiffness: float
    damping: float
    effort: float


def effort_of(robot: Robot, joint: int) -> float:
    """The largest torque that the model allows a joint's motors; infinite where it says nothing."""
    model, most = robot.model, math.inf
    if model.jnt_actfrclimited[joint]:
        most = min(most, float(np.abs(model.jnt_actfrcrange[joint]).min()) or math.inf)
    for index in np.flatnonzero(model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT):
        if model.actuator_trnid[index, 0] != joint:
            continue
        gear = abs(model.actuator_gear[index, 0])
        if model.actuator_forcelimited[index]:
            most = min(most, gear * float(np.abs(model.actuator_forcerange[index]).min()))
        no_feedback = model.actuator_biastype[index] == mujoco.mjtBias.mjBIAS_NONE
        if no_feedback and model.actuator_ctrllimited[index]:
            gain = gear * abs(model.actuator_gainprm[index, 0])
            most = min(most, gain * float(np.abs(model.actuator_ctrlrange[index]).min()))
    return most


def _quaternion(matrix: np.ndarray) -> np.ndarray:
    found = np.zeros(4)
    mujoco.mju_mat2Quat(found, np.ascontiguousarray(matrix).ravel())
    return found


class Body:
    """A robot's shape in a pose: the home pose, or one to find.

    Args:
        robot: the model.
        trunk: the body that the rest hangs on.
        free: whether it is free.
    """

    def __init__(self, robot: Robot, trunk: str, free: bool) -> None:
        self._robot, self._model, self._free = robot, robot.model, free
        self.data, self._root = mujoco.MjData(robot.model), robot.id("body", trunk)
        model, self.qpos = robot.model, robot.home.copy()
        self.scalars = robot.scalar_joints()
        limited = model.jnt_limited[self.scalars].astype(bool)
        self.at = model.jnt_qposadr[self.scalars]
        low, high = model.jnt_range[self.scalars].T
        self._low, self._high = np.where(limited, low, -np.pi), np.where(limited, high, np.pi)
        self.qpos[self.at] = np.clip(self.qpos[self.at], self._low, self._high)
        # bodies that are fixed to each other move as one, which goes by the first one's number
        self._one = model.body_weldid
        self._above = {
            int(one): int(self._one[model.body_parentid[one]])
            for one in set(self._one.tolist())
            if one
        }
        self.pose()

    def pose(self) -> None:
        """Let all follow from `qpos`."""
        self.data.qpos[:] = self.qpos
        mujoco.mj_kinematics(self._model, self.data)
        mujoco.mj_comPos(self._model, self.data)

    def positions(self) -> dict[str, float]:
        """Of hinges and slides, by name, rounded."""
        names, places = self._robot.names["joint"], zip(self.scalars, self.at, strict=True)
        return {names[j]: round(float(self.qpos[a]), 3) + 0.0 for j, a in places if names[j]}

    def axes(self) -> tuple[str, ...]:
        """Of all joints in the world, in words."""
        rows = self.data.xaxis.round(2) + 0.0
        return tuple(
            _AXES.get(tuple(row), " ".join(f"{x:g}" for x in row)) for row in rows.tolist()
        )

    def leaning(self) -> Iterable[str]:
        """That the trunk's z axis does not point up, where it does not, in words."""
        up = float(self.data.xmat[self._root].reshape(3, 3)[2, 2])
        if self._free and up < 0.9:
            angle = math.degrees(math.acos(up))
            yield (
                f"the trunk's z axis leans by {angle:.0f} degrees in the home pose: what is upright and what "
                "is forward in the file has to be turned by hand"
            )

    # feet

    def _geoms(self) -> dict[int, list[int]]:
        """What can touch the ground, by the bodies that move as one, of the robot alone."""
        model, found = self._model, {}
        mine = model.body_rootid[model.geom_bodyid] == model.body_rootid[self._root]
        touches = (model.geom_contype | model.geom_conaffinity) > 0
        touches[[*model.pair_geom1, *model.pair_geom2]] = True
        # where nothing collides by itself, what is for collisions is in group 3 by custom
        for chosen in (touches, model.geom_group == 3, np.ones(model.ngeom, bool)):
            for geom in np.flatnonzero(chosen & mine).tolist():
                found.setdefault(int(self._one[model.geom_bodyid[geom]]), []).append(geom)
            if found:
                return found
        raise UserError(
            f"{self._robot.name} has no geoms that could touch the ground: give its feet some"
        )

    def bottom(self, geom: int) -> float:
        """Height of a geom's lowest point."""
        model, data, shape = self._model, self.data, self._model.geom_type[geom]
        up, size = data.geom_xmat[geom].reshape(3, 3)[2], model.geom_size[geom]
        if shape == _SHAPES.mjGEOM_MESH:
            mesh = model.geom_dataid[geom]
            at, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
            below = float(-(model.mesh_vert[at : at + count] @ up).min())
        else:
            below = {
                _SHAPES.mjGEOM_SPHERE: size[0],
                _SHAPES.mjGEOM_CAPSULE: size[0] + size[1] * abs(up[2]),
                _SHAPES.mjGEOM_CYLINDER: size[1] * abs(up[2]) + size[0] * math.hypot(*up[:2]),
                _SHAPES.mjGEOM_ELLIPSOID: float(np.linalg.norm(size * up)),
                _SHAPES.mjGEOM_BOX: float(size @ np.abs(up)),
            }.get(_SHAPES(int(shape)), 0.0)
        return float(data.geom_xpos[geom, 2]) - float(below)

    def feet(self) -> dict[int, list[int]]:
        """The ends of limbs that are lowest in the pose: their geoms that are lowest there."""
        geoms = self._geoms()
        inner = {above for one in geoms for above in self._up(one)[1:]}
        bottoms = {
            one: min(map(self.bottom, mine)) for one, mine in geoms.items() if one not in inner
        }
        if (
            min(bottoms.values()) > self.data.subtree_com[self._root, 2]
        ):  # it lies on something else
            bottoms = {one: min(map(self.bottom, mine)) for one, mine in geoms.items()}
        lowest = min(bottoms.values())
        near = 0.15 * (self.data.xpos[self._root, 2] - lowest)
        return {
            one: self.lowest_of(one)
            for one, bottom in bottoms.items()
            if bottom - lowest < max(near, 0.01)
        }

    def lowest_of(self, one: int) -> list[int]:
        """The geoms of what moves as one that are lowest, or that have a name and nearly are."""
        bottoms, names = {g: self.bottom(g) for g in self._geoms()[one]}, self._robot.names["geom"]
        over = {geom: bottom - min(bottoms.values()) for geom, bottom in bottoms.items()}
        for chosen in ({geom for geom, x in over.items() if x < near} for near in (0.005, 0.02)):
            if named := [geom for geom in chosen if names[geom]]:
                return sorted(named)
        return [geom for geom, x in over.items() if x < 0.005]

    def ends(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of hinges' and slides' ranges, by their places."""
        return self._low[joints], self._high[joints]

    def _up(self, one: int) -> list[int]:
        """What moves as one, and what it hangs on, up to the base."""
        chain = [one]
        while self._above.get(chain[-1]):
            chain.append(self._above[chain[-1]])
        return chain

    def foot_names(self) -> tuple[str, ...]:
        """Of geoms, or, where those have none, of their bodies."""
        return tuple(name for geoms in self.feet().values() for name in self._names(geoms))

    def _names(self, geoms: list[int]) -> list[str]:
        """Of a foot's geoms, or, where those have none, of their bodies."""
        names, bodies = self._robot.names, self._model.geom_bodyid[geoms]
        named = [names["geom"][geom] for geom in geoms if names["geom"][geom]]
        if found := named or [
            name for name in dict.fromkeys(names["body"][i] for i in bodies) if name
        ]:
            return found
        x, y, z = np.mean(self.data.geom_xpos[geoms], axis=0)
        raise UserError(
            f"{self._robot.name}: the foot at ({x:.2f}, {y:.2f}, {z:.2f}) m in the home pose "
            "has no name, nor has its body: give one of them a name"
        )

    def soles(self) -> dict[str, tuple[float, float, float]]:
        """Of each foot the body and, in its frame, the middle of what is lowest, in m.

        A body without a name is called as its foot's geom.
        """
        names, found = self._robot.names["body"], {}
        for geoms in self.feet().values():
            body, inside = self._sole_on(geoms)
            found[names[body] or self._names(geoms)[0]] = tuple(np.round(inside, 4).tolist())
        return found

    def stands(self) -> tuple[tuple[float, float], ...]:
        """Where the soles are, forward and to the left of the trunk, in m."""
        places = [self._in_trunk(self._sole(geoms)) for geoms in self.feet().values()]
        return tuple((round(float(x), 3) + 0.0, round(float(y), 3) + 0.0) for x, y, _ in places)

    def strides(self, swing_m: float) -> dict[str, tuple[int, tuple[float, float, float]]]:
        """By hinge of a leg the foot's number, and by how many rad it helps to move that foot 1 m forward, to
        the left, or up, as far as a straight line tells.

        From the sole's Jacobian; upward from the pose in which it is as high as in a stride, as a leg that
        is straight has to bend first. Legs of more than three joints keep their feet level.

        Args:
            swing_m: how high that is.
        """
        names, found = self._robot.names["joint"], {}
        legs = [self.leg(one) for one in self.feet()]
        for foot, (geoms, joints) in enumerate(zip(self.feet().values(), legs, strict=True)):
            own = np.array([j for j in joints if sum(j in leg for leg in legs) == 1], int)
            body, inside = self._sole_on(geoms)
            along = self._solve(self._pull(body, inside, own), np.eye(3)[:, :2])
            up = self._raised(body, inside, own, swing_m) / swing_m
            angles = np.column_stack([along, up]).round(2) + 0.0
            for joint, row in zip(own, angles.tolist(), strict=True):
                if name := names[self.scalars[joint]]:
                    found[name] = (foot, tuple(row))
        return found

    def _pull(self, body: int, inside: np.ndarray, joints: np.ndarray) -> np.ndarray:
        """[3 or 6, J] how joints move a point of a body in the trunk's frame, and turn it, in m a rad."""
        moves, turns = np.zeros((2, 3, self._model.nv))
        point = self.data.xpos[body] + self._local(body) @ inside
        mujoco.mj_jac(self._model, self.data, moves, turns, point, body)
        dofs = self._model.jnt_dofadr[self.scalars[joints]]
        level = 0.1 * turns[:, dofs] if len(joints) > 3 else turns[:0, dofs]
        return np.concatenate([self._local(self._root).T @ moves[:, dofs], level])

    @staticmethod
    def _solve(pull: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Least squares; a joint that hardly helps is left alone."""
        rows, joints = pull.shape
        matrix = np.concatenate([pull, 0.02 * np.eye(joints)])
        target = np.zeros((rows + joints, *asked.shape[1:]))
        target[: len(asked)] = asked
        return np.linalg.lstsq(matrix, target, rcond=None)[0]

    def _raised(
        self, body: int, inside: np.ndarray, joints: np.ndarray, height_m: float
    ) -> np.ndarray:
        """[J] by how much joints turn until a point of a body is that much higher."""
        home, places = self.qpos.copy(), self.at[joints]
        low, high = self.ends(joints)
        before, turned = self.data.xpos[body] + self._local(body) @ inside, self._local(body)
        aim = before + height_m * self._local(self._root)[:, 2]
        self.qpos[places] += 0.1 * ((low + high) / 2 - self.qpos[places])  # out of a singular pose
        for _ in range(50):
            self.pose()
            off = aim - self.data.xpos[body] - self._local(body) @ inside
            away = np.zeros(3)
            mujoco.mju_subQuat(away, _quaternion(turned), _quaternion(self._local(body)))
            asked = np.concatenate(
                [self._local(self._root).T @ off, 0.1 * self._local(body) @ away]
            )
            pull = self._pull(body, inside, joints)
            step = self._solve(pull, asked[: len(pull)])
            self.qpos[places] = np.clip(self.qpos[places] + 0.5 * step, low, high)
        found = self.qpos[places] - home[places]
        self.qpos = home
        self.pose()
        return found

    def _local(self, body: int) -> np.ndarray:
        """A body's frame in the world, its axes in columns."""
        return self.data.xmat[body].reshape(3, 3)

    def _sole(self, geoms: list[int]) -> np.ndarray:
        """The middle of a foot's geoms that are lowest, on their lowest point."""
        point = np.mean(self.data.geom_xpos[geoms], axis=0)
        point[2] = min(map(self.bottom, geoms))
        return point

    def _sole_on(self, geoms: list[int]) -> tuple[int, np.ndarray]:
        """The body of a foot, and where the sole is in its frame."""
        body = int(self._model.geom_bodyid[geoms[0]])
        return body, self._local(body).T @ (self._sole(geoms) - self.data.xpos[body])

    def _in_trunk(self, point: np.ndarray) -> np.ndarray:
        return (point - self.data.xpos[self._root]) @ self._local(self._root)

    def rhythm(self) -> tuple[float, ...]:
        """Phases of the feet in a gait: neighbours on a side, and across, take turns."""
        places = [
            self._in_trunk(np.mean(self.data.geom_xpos[geoms], axis=0))
            for geoms in self.feet().values()
        ]
        left = [place[1] > 0 for place in places]
        ranks = [
            sum(
                other[0] > place[0]
                for other, there in zip(places, left, strict=True)
                if there == side
            )
            for place, side in zip(places, left, strict=True)
        ]
        return tuple(
            float(0.5 * ((rank + side) % 2)) for rank, side in zip(ranks, left, strict=True)
        )

    def start_m(self) -> float:
        """Height of the base with the lowest foot a millimetre over the ground."""
        model = self._model
        grounds = np.flatnonzero((model.geom_bodyid == 0) & np.isin(model.geom_type, GROUND))
        ground = float(model.geom_pos[grounds[0], 2]) if len(grounds) else 0.0
        lowest = min(self.bottom(geom) for geoms in self.feet().values() for geom in geoms)
        return float(self.data.xpos[self._root, 2]) - lowest + ground + 0.001

    def height_m(self) -> float:
        """Of the base above the lowest foot; of the centre of mass, where the base is lower."""
        lowest = min(self.bottom(geom) for geoms in self.feet().values() for geom in geoms)
        height = float(self.data.xpos[self._root, 2]) - lowest
        return height if height > 0 else float(self.data.subtree_com[self._root, 2]) - lowest

    # the pose

    def stand(self) -> None:
        """Take a pose to stand in: legs bent a little, the feet level and around the centre of mass.

        Legs whose joints do not turn forward and back stay as they are.
        """
        legs = [_Leg(self, one) for one in self.feet()] if self._free else []
        if not legs or any(len(leg.pitches) < 2 for leg in legs):
            return
        folded = self.qpos.copy()
        for leg in legs:  # straight down
            leg.reach([*leg.hip[:2], leg.hip[2] - leg.length])
            if not leg.has_ankle:
                leg.look_down()
        straight = self.qpos.copy()
        shorter = 0.08 if len(legs) < 3 else 0.3  # as people and as dogs stand
        length = min(leg.length for leg in legs)
        level = max(leg.hip[2] - leg.length for leg in legs) + shorter * length
        best, least = folded, 0.05 * length
        for forward in (True, False):  # knees as people's, where both are as good
            self.qpos = straight.copy()
            for leg in legs:
                leg.bend(math.acos(1 - shorter), forward=forward)
            for _ in range(3):
                self.pose()
                middle = np.mean([leg.hip[0] for leg in legs])
                shift = self.data.subtree_com[self._root, 0] - middle
                for leg in legs:
                    leg.reach([leg.hip[0] + shift, leg.hip[1], level])
            self.pose()
            off = max(abs(leg.sole()[2] - level) for leg in legs)
            if off < least - 0.01 * length:
                best, least = self.qpos.copy(), off
        self.qpos = best
        self.pose()

    def leg(self, one: int) -> np.ndarray:
        """Places among hinges and slides of the hinges from the base to an end, in this order."""
        bodies = self._one[self._model.jnt_bodyid[self.scalars]]
        hinges = self._model.jnt_type[self.scalars] == mujoco.mjtJoint.mjJNT_HINGE
        hinges &= np.isin(bodies, self._up(one)) & (bodies != self._one[self._root])
        return np.flatnonzero(hinges)

    # motors

    def gains(self, names: Sequence[str]) -> dict[str, Gains]:
        """Of motors that the model does not describe: from masses, lengths, and limits that are sane."""
        robot, model, data = self._robot, self._model, self.data
        if not names:
            return {}
        feet = self.feet() if self._free else {}
        legs = {int(self.scalars[place]) for one in feet for place in self.leg(one)}
        mass, gravity = float(model.body_subtreemass[self._root]), 9.81
        lowest = min((self.bottom(g) for geoms in feet.values() for g in geoms), default=0.0)
        load = mass * gravity * (self.height_m() if feet else 0.0) / max(len(feet), 1)
        tipping = (
            mass * gravity * (float(data.subtree_com[self._root, 2]) - lowest) / max(len(feet), 1)
        )
        mine = model.body_rootid == model.body_rootid[self._root]
        reach = np.linalg.norm(data.xipos[mine] - data.xpos[self._root], axis=1).max()
        found, most = {}, _SANE * mass * gravity * float(reach)
        for name in names:
            joint = robot.id("joint", name)
            carried, slides = self._carried(joint), model.jnt_type[joint] == 2
            arms = np.linalg.norm(data.xipos[carried] - data.xanchor[joint], axis=1)
            arms = np.ones(len(carried)) if slides else arms
            masses = model.body_mass[carried]
            inertia = float(masses @ arms**2 + (model.body_inertia[carried].mean(axis=1).sum()))
            needed = 1.5 * gravity * float(masses @ arms) + 5 * inertia
            needed = 2.5 * load if joint in legs else needed
            effort, stated = needed, effort_of(robot, joint)
            if stated < most:
                effort, needed = stated, min(stated, 3 * needed)
            stiffness = needed / (0.02 if slides else 0.4 if self._free else 0.1)
            if joint in legs and len(feet) <= 2:  # else it tips over its ankles
                stiffness = max(stiffness, 1.5 * tipping)
            damping = max(
                (0.6 if joint in legs else 1.4) * math.sqrt(stiffness * inertia), stiffness / 40
            )
            found[name] = Gains(*(float(f"{x:.2g}") for x in (stiffness, damping, effort)))
        return found

    def _carried(self, joint: int) -> np.ndarray:
        """The bodies that a joint moves."""
        model, first = self._model, int(self._model.jnt_bodyid[joint])
        moved = {first}
        for body in range(first + 1, model.nbody):
            if int(model.body_parentid[body]) in moved:
                moved.add(body)
        return np.array(sorted(moved))

    # what reaches

    def effector(self) -> tuple[str, str]:
        """The last body of the longest chain, or what its fingers are on; a site there, if it has one."""
        moving, names = self._joints_above(), self._robot.names
        inner = set(self._above.values())
        ends = [one for one in moving if one not in inner]
        one = max(ends, key=lambda end: moving[end])
        for above in self._up(one)[1:]:
            branches = [child for child, parent in self._above.items() if parent == above]
            if len(branches) > 1 and moving.get(above, 0) >= 3:
                one = above
                break
        for kind, bodies in (
            ("site", self._model.site_bodyid),
            ("body", np.arange(self._model.nbody)),
        ):
            here = [
                names[kind][i] for i in np.flatnonzero(self._one[bodies] == one) if names[kind][i]
            ]
            if here:
                return kind, here[0 if kind == "site" else -1]
        raise UserError(f"the last body of {self._robot.name} has no name: give it one")

    def _joints_above(self) -> dict[int, int]:
        """How many hinges and slides move what moves as one, of the robot alone."""
        model = self._model
        count = np.bincount(self._one[model.jnt_bodyid[self.scalars]], minlength=model.nbody)
        roots = model.body_rootid
        return {
            one: int(sum(count[above] for above in self._up(one)))
            for one in self._above
            if roots[one] == roots[self._root]
        }

    def workspace(self, effector: tuple[str, str]) -> np.ndarray:
        """[3, 2]: where the effector is in the middle of poses around home, in m."""
        kind, name = effector
        index, rng = self._robot.id(kind, name), np.random.default_rng(0)
        places, home = [], self.qpos.copy()
        most = np.minimum(0.6, 0.4 * (self._high - self._low))
        for _ in range(400):
            moved = home[self.at] + most * rng.uniform(-1, 1, len(most))
            self.qpos[self.at] = np.clip(moved, self._low, self._high)
            self.pose()
            places.append((self.data.site_xpos if kind == "site" else self.data.xpos)[index].copy())
        self.qpos = home
        self.pose()
        low, high = np.percentile(places, (20, 80), axis=0)
        return np.stack([low, np.maximum(high, low + 0.01)], axis=1).round(3)


class _Leg:
    """A limb that is to stand on its end.

    Args:
        body: whose, in a pose.
        one: number of the body at its end.
    """

    def __init__(self, body: Body, one: int) -> None:
        self._body, self._one, self._joints = body, one, body.leg(one)
        data, ids = body.data, body.scalars[self._joints]
        sideways = data.xaxis[ids, 1]
        self.pitches = [
            (j, np.sign(y)) for j, y in zip(self._joints, sideways, strict=True) if abs(y) > 0.7
        ]
        self._at, self._first = body.at[self._joints], body.qpos[body.at[self._joints]].copy()
        self._rolls = 0.02 * (np.abs(sideways) <= 0.7)
        self.has_ankle = len(self._joints) >= 5
        self.look_down()
        self._level = data.geom_xmat[self._geoms[0]].reshape(3, 3)[2].copy()
        sole = self.sole()
        anchors = [data.xanchor[body.scalars[joint]] for joint, _ in self.pitches]
        steps = np.diff([*anchors, sole], axis=0)[:, [0, 2]]
        self.length = float(np.linalg.norm(steps, axis=1).sum())
        self.hip = np.array([anchors[0][0], sole[1], anchors[0][2]]) if anchors else sole

    def look_down(self) -> None:
        """Find anew which geoms are lowest."""
        self._geoms = self._body.lowest_of(self._one)

    def sole(self) -> np.ndarray:
        """[3]: the middle of the lowest points."""
        middle = self._body.data.geom_xpos[self._geoms].mean(axis=0)
        return np.array([*middle[:2], min(map(self._body.bottom, self._geoms))])

    def bend(self, angle: float, *, forward: bool) -> None:
        """Turn hip, knee and ankle of a straight leg, the knee forward or back."""
        body = self._body
        for turn, (joint, sign) in zip((-1.0, 2.0, -1.0), self.pitches, strict=False):
            body.qpos[body.at[joint]] += sign * turn * angle * (1 if forward else -1)
        body.qpos[self._at] = np.clip(body.qpos[self._at], *body.ends(self._joints))

    def reach(self, target: Sequence[float]) -> None:
        """Bring the sole to a place; a foot that an ankle turns stays as level as it was at first."""
        from scipy.optimize import least_squares

        body, (low, high) = self._body, self._body.ends(self._joints)

        def off(angles: np.ndarray) -> np.ndarray:
            body.qpos[self._at] = angles
            body.pose()
            tilt = body.data.geom_xmat[self._geoms[0]].reshape(3, 3)[2] - self._level
            away = (self.sole() - target) / self.length
            return np.concatenate(
                [away, self.has_ankle * tilt, self._rolls * (angles - self._first)]
            )

        start = np.clip(body.qpos[self._at], low, high)
        body.qpos[self._at] = np.clip(
            least_squares(off, start, bounds=(low - 1e-6, high + 1e-6)).x, low, high
        )
        body.pose()
