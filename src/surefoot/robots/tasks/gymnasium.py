"""Gymnasium's MuJoCo tasks (v5) as robots' tasks, step by step the same numbers (1e-6)."""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco.batch import Batch

from surefoot.robots.actuation import Actuation
from surefoot.robots.model import Robot, installed
from surefoot.robots.state import State
from surefoot.robots.task import RobotTask, Start


@dataclass(frozen=True)
class Runner(RobotTask):
    """What the tasks share: run forward, with little effort.

    Attributes:
        forward: weight of the speed in m/s.
        ctrl: weight of the squared actions.
        reset_noise: scale of the noise in the first positions and velocities.
    """

    forward: float = 1.0
    ctrl: float = 1e-3
    reset_noise: float = 5e-3

    actuation: ClassVar[Actuation] = Actuation(kind="ctrl")
    float64: ClassVar[bool] = True
    stale: ClassVar[bool] = True
    normal: ClassVar[bool] = False  # whether the noise of velocities is, else it is uniform

    def reset(self, robot: Robot, key: jax.Array, level: jax.Array) -> Start:
        """The model's pose with noise; the carry is the place before the step."""
        to_qpos, to_qvel = jax.random.split(key)
        model, noise = robot.model, self.reset_noise
        qpos = model.qpos0 + jax.random.uniform(to_qpos, (model.nq,), minval=-noise, maxval=noise)
        if self.normal:
            qvel = noise * jax.random.normal(to_qvel, (model.nv,))
        else:
            qvel = jax.random.uniform(to_qvel, (model.nv,), minval=-noise, maxval=noise)
        return Start(qpos, qvel, carry={"before": qpos[0], "now": qpos[0]})

    def place(self, s: State) -> jax.Array:
        """How far it is, in m."""
        return s.qpos[0]

    def remember(self, s: State) -> Any:
        """Where it was before the step, and where it is."""
        return {"before": s.carry["now"], "now": self.place(s)}

    def speed(self, s: State) -> jax.Array:
        """Forward, in m/s."""
        return (s.carry["now"] - s.carry["before"]) / self.control_dt_s

    def observe(self, s: State) -> Any:
        """Positions without the first, and velocities."""
        return jnp.concatenate([s.qpos[1:], s.qvel])

    def rewards(self, s: State) -> Mapping[str, Any]:
        """Speed minus the cost of control."""
        return {
            "forward": self.forward * self.speed(s),
            "ctrl": -self.ctrl * jnp.sum(s.action**2),
        }


@dataclass(frozen=True)
class HalfCheetah(Runner):
    """Gymnasium's HalfCheetah-v5: run forward."""

    model: Any = lambda: read_installed("half_cheetah.xml")
    control_dt_s: float = 0.05
    episode_s: float = 50.0
    ctrl: float = 0.1
    reset_noise: float = 0.1

    normal: ClassVar[bool] = True


@dataclass(frozen=True)
class Upright(Runner):
    """Run forward without falling.

    Attributes:
        healthy: reward of a step after which it is upright.
        end_unhealthy: whether the episode ends where it is not.
        z_range: heights in m at which it is.
    """

    healthy: float = 1.0
    end_unhealthy: bool = True
    z_range: tuple[float, float] = (-math.inf, math.inf)

    def upright(self, s: State) -> jax.Array:
        """Whether it is, bool."""
        return within(s.qpos[2], self.z_range)

    def rewards(self, s: State) -> Mapping[str, Any]:
        """Speed and being upright, minus the cost of control."""
        return {**super().rewards(s), "healthy": self.healthy * self.upright(s)}

    def terminated(self, s: State) -> Any:
        """It fell."""
        return self.end_unhealthy & ~self.upright(s)


@dataclass(frozen=True)
class Walker2d(Upright):
    """Gymnasium's Walker2d-v5: two legs in a plane.

    Attributes:
        angle_range: pitches in rad at which it is upright.
    """

    model: Any = lambda: read_installed("walker2d_v5.xml")
    control_dt_s: float = 0.008
    episode_s: float = 8.0
    z_range: tuple[float, float] = (0.8, 2.0)
    angle_range: tuple[float, float] = (-1.0, 1.0)

    def upright(self, s: State) -> jax.Array:
        """By height and pitch."""
        return within(s.qpos[1], self.z_range) & within(s.qpos[2], self.angle_range)

    def observe(self, s: State) -> Any:
        """Positions without the first, and velocities up to 10."""
        return jnp.concatenate([s.qpos[1:], jnp.clip(s.qvel, -10.0, 10.0)])


@dataclass(frozen=True)
class Hopper(Walker2d):
    """Gymnasium's Hopper-v5: one leg in a plane.

    Attributes:
        state_range: where angles and velocities have to be.
    """

    model: Any = lambda: read_installed("hopper.xml")
    z_range: tuple[float, float] = (0.7, math.inf)
    angle_range: tuple[float, float] = (-0.2, 0.2)
    state_range: tuple[float, float] = (-100.0, 100.0)

    def upright(self, s: State) -> jax.Array:
        """By height and pitch, and as long as nothing is beyond bounds."""
        state = jnp.concatenate([s.qpos[2:], s.qvel])
        return super().upright(s) & jnp.all(within(state, self.state_range))


class ForcesAfter(Batch):
    """A batch whose `cfrc_ext` is what Gymnasium sees: calculated after a step, and 0 before the first.

    MuJoCo calculates it for sensors alone, at the beginning of a substep. Gymnasium asks for it at the end,
    when the last stage of the RK4 integrator left contacts a substep later. Contacts are kept in an MjData of
    every simulation's own, which costs 0.2 MB each; asking costs about 20 us each, on one thread.

    Args:
        model: of the robot.
        nsim: how many simulations.
        nthread: of the engine.
    """

    def __init__(self, model: mujoco.MjModel, nsim: int, nthread: int = 0) -> None:
        super().__init__(model, nsim, nthread, persistent=True)
        self._asked = mujoco.MjData(model)
        self._forces = np.zeros((nsim, model.nbody, 6))

    def bind(self, name: str) -> np.ndarray:
        """The forces, or what the batch has."""
        return self._forces if name == "cfrc_ext" else super().bind(name)

    def reset(self, ids: Any = None, *arguments: Any, **options: Any) -> None:
        """Forget them too."""
        super().reset(ids, *arguments, **options)
        self._forces[... if ids is None else ids] = 0.0

    def step(self, ids: Any = None, nstep: int = 1, stage: int = 0) -> None:
        """Step, and ask for them before anything else is calculated anew."""
        try:
            super().step(ids, nstep)
        finally:  # of the others, where some broke down
            for sim in range(self.nsim) if ids is None else ids:
                data = self.get_data(int(sim), self._asked)
                mujoco.mj_rnePostConstraint(self.model, data)
                self._forces[sim] = data.cfrc_ext
        if stage:
            self.forward(ids, stage)


@dataclass(frozen=True)
class Ant(Upright):
    """Gymnasium's Ant-v5: four legs.

    Attributes:
        contact: weight of the squared contact forces.
        contact_range: contact forces in N and Nm are clipped to it.
    """

    model: Any = lambda: read_installed("ant.xml")
    control_dt_s: float = 0.05
    episode_s: float = 50.0
    ctrl: float = 0.5
    reset_noise: float = 0.1
    z_range: tuple[float, float] = (0.2, 1.0)
    contact: float = 5e-4
    contact_range: tuple[float, float] = (-1.0, 1.0)

    engine: ClassVar[type[Batch]] = ForcesAfter
    normal: ClassVar[bool] = True

    def place(self, s: State) -> jax.Array:
        """Of the torso."""
        return s.xpos[1, 0]

    def upright(self, s: State) -> jax.Array:
        """By height, including the ends of the range."""
        low, high = self.z_range
        return (s.qpos[2] >= low) & (s.qpos[2] <= high)

    def forces(self, s: State) -> jax.Array:
        """Of contacts on all bodies, [nbody, 6]."""
        return jnp.clip(s.cfrc_ext, *self.contact_range)

    def observe(self, s: State) -> Any:
        """Positions without the first two, velocities, and contact forces."""
        return jnp.concatenate([s.qpos[2:], s.qvel, self.forces(s)[1:].ravel()])

    def rewards(self, s: State) -> Mapping[str, Any]:
        """Speed and being upright, minus the costs of control and contact."""
        return {**super().rewards(s), "contact": -self.contact * jnp.sum(self.forces(s) ** 2)}


@dataclass(frozen=True)
class Humanoid(Upright):
    """Gymnasium's Humanoid-v5: two legs and arms. Its speed is that of the centre of mass.

    Attributes:
        contact: weight of the squared contact forces.
        contact_range: the cost of contact is clipped to it.
    """

    model: Any = lambda: read_installed("humanoid.xml")
    control_dt_s: float = 0.015
    episode_s: float = 15.0
    forward: float = 1.25
    ctrl: float = 0.1
    healthy: float = 5.0
    reset_noise: float = 1e-2
    z_range: tuple[float, float] = (1.0, 2.0)
    contact: float = 5e-7
    contact_range: tuple[float, float] = (-math.inf, 10.0)

    engine: ClassVar[type[Batch]] = ForcesAfter

    def edit(self, spec: mujoco.MjSpec) -> None:
        """Room for the place before the step: the first follows from the pose, and is unknown in `reset`."""
        spec.nuserdata = 1

    def place(self, s: State) -> jax.Array:
        """Of the centre of mass."""
        return s.subtree_com[0, 0]

    def events(self, s: State, key: jax.Array) -> Mapping[str, Any]:
        """The place before the step is kept."""
        return {"userdata": self.place(s)[None]}

    def speed(self, s: State) -> jax.Array:
        """Of the centre of mass, in m/s."""
        return (self.place(s) - s.userdata[0]) / self.control_dt_s

    def observe(self, s: State) -> Any:
        """Positions without the first two, velocities, inertias, torques, and contact forces."""
        bodies = s.cinert[1:].ravel(), s.cvel[1:].ravel()
        forces = s.qfrc_actuator[6:], s.cfrc_ext[1:].ravel()
        return jnp.concatenate([s.qpos[2:], s.qvel, *bodies, *forces])

    def rewards(self, s: State) -> Mapping[str, Any]:
        """Speed and being upright, minus the costs of control and contact."""
        cost = self.contact * jnp.sum(s.cfrc_ext**2)
        return {**super().rewards(s), "contact": -jnp.clip(cost, *self.contact_range)}


def within(x: jax.Array, bounds: tuple[float, float]) -> jax.Array:
    """Whether numbers are between bounds, without these."""
    return (bounds[0] < x) & (x < bounds[1])


def read_installed(name: str) -> Any:
    """A model that comes with Gymnasium."""
    from surefoot.robots.model import read_spec

    return read_spec(installed(name))
