"""The well-known terms of robots' rewards: plain functions of one environment's numbers.

What is good lies in [0, 1], what is bad is 0 or more and wants a negative weight. Units are m, rad, s, N, Nm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Numbers = Any  # an array, or a number


# what is good ------------------------------------------------------------------------------------


def tracking(actual: Numbers, wanted: Numbers, sigma: float = 0.25) -> jax.Array:
    """How well something is followed.

        exp(-|actual - wanted|^2 / sigma)

    Source: Rudin et al. 2021, arXiv 2109.11978, table 2 (legged_gym's tracking_sigma, 0.25).

    Args:
        actual: [...] such as the velocity over ground in m/s.
        wanted: [...] such as the command.
        sigma: the squared error at which 1/e of the reward remains.
    """
    return jnp.exp(-jnp.sum(jnp.square(actual - wanted)) / sigma)


def near(distance: Numbers, width: float = 0.1) -> jax.Array:
    """How near two points are; it still has a slope far away.

        1 - tanh(distance / width)

    Source: robosuite, the reaching rewards (tanh of the distance).

    Args:
        distance: [] m, or [3] the vector between them.
        width: m, at which a quarter of the reward remains.
    """
    return 1.0 - jnp.tanh(norm(jnp.atleast_1d(distance)) / width)


def posture(qpos: Numbers, home: Numbers, weights: Numbers = 1.0) -> jax.Array:
    """How near joints are to the home pose.

        exp(-sum(weights * (qpos - home)^2))

    Source: MuJoCo Playground, go1/joystick.py, `_reward_pose`.

    Args:
        qpos: [J] joint positions in rad.
        home: [J] those of the home pose.
        weights: [J] or a number, per rad^2.
    """
    return jnp.exp(-jnp.sum(weights * jnp.square(qpos - home)))


def survival() -> jax.Array:
    """1 for every step that does not end the episode for good."""
    return jnp.ones(())


# the trunk ---------------------------------------------------------------------------------------


def tilt(gravity: Numbers) -> jax.Array:
    """How far from upright: the squared sine of the angle.

        gx^2 + gy^2

    Source: Rudin et al. 2021, arXiv 2109.11978 (orientation, on the projected gravity).

    Args:
        gravity: [3] unit vector of gravity in the trunk's frame.
    """
    return jnp.sum(jnp.square(gravity[:2]))


def bounce(velocity: Numbers) -> jax.Array:
    """Squared vertical velocity, m^2/s^2.

    Source: Rudin et al. 2021, arXiv 2109.11978 (linear velocity, z).

    Args:
        velocity: [3] m/s.
    """
    return jnp.square(velocity[2])


def rolling(angular_velocity: Numbers) -> jax.Array:
    """Squared roll and pitch rates, rad^2/s^2.

    Source: Rudin et al. 2021, arXiv 2109.11978 (angular velocity, xy).

    Args:
        angular_velocity: [3] rad/s in the trunk's frame.
    """
    return jnp.sum(jnp.square(angular_velocity[:2]))


def height_error(height: Numbers, target: Numbers) -> jax.Array:
    """Squared distance from a height, m^2.

    Source: legged_gym, `_reward_base_height`.

    Args:
        height: [] m, of the trunk over the ground.
        target: [] m.
    """
    return jnp.square(height - target)


# joints and actions ------------------------------------------------------------------------------


def beyond_limits(qpos: Numbers, lower: Numbers, upper: Numbers, soft: float = 0.95) -> jax.Array:
    """How far joints are beyond a share of their ranges, rad.

        sum(max(0, low - qpos) + max(0, qpos - high)),  low, high = middle -+ soft * half

    Source: legged_gym, `_reward_dof_pos_limits` (soft_dof_pos_limit).

    Args:
        qpos: [J] rad.
        lower: [J] rad, -inf where there is no limit.
        upper: [J] rad, inf where there is no limit.
        soft: share of the range that is free.
    """
    limited = np.isfinite(lower) & np.isfinite(upper)
    bottom, top = np.where(limited, lower, -1.0), np.where(limited, upper, 1.0)
    middle, half = (top + bottom) / 2, soft * (top - bottom) / 2
    beyond = jnp.maximum(jnp.abs(qpos - middle) - half, 0.0)
    return jnp.sum(jnp.where(limited, beyond, 0.0))


def torques(torque: Numbers) -> jax.Array:
    """Squared torques, N^2 m^2.

        sum(torque^2)

    Source: Rudin et al. 2021, arXiv 2109.11978 (joint torques).

    Args:
        torque: [J] Nm.
    """
    return jnp.sum(jnp.square(torque))


def power(torque: Numbers, qvel: Numbers) -> jax.Array:
    """Mechanical power, W, that flows through the joints either way.

        sum(|torque * qvel|)

    Source: MuJoCo Playground, go1/joystick.py, `_cost_energy`.

    Args:
        torque: [J] Nm.
        qvel: [J] rad/s.
    """
    return jnp.sum(jnp.abs(torque * qvel))


def accelerations(qacc: Numbers) -> jax.Array:
    """Squared joint accelerations, rad^2/s^4.

    Source: Rudin et al. 2021, arXiv 2109.11978 (joint acceleration).

    Args:
        qacc: [J] rad/s^2.
    """
    return jnp.sum(jnp.square(qacc))


def action_rate(action: Numbers, last_action: Numbers) -> jax.Array:
    """Squared change of the action.

        sum((action - last_action)^2)

    Source: Rudin et al. 2021, arXiv 2109.11978 (action rate).

    Args:
        action: [A] of this step.
        last_action: [A] of the one before.
    """
    return jnp.sum(jnp.square(action - last_action))


def deviation(qpos: Numbers, home: Numbers, weights: Numbers = 1.0) -> jax.Array:
    """Distance of joints from the home pose, rad; for standing still when nothing is commanded.

        sum(weights * |qpos - home|)

    Source: legged_gym, `_reward_stand_still`.

    Args:
        qpos: [J] rad.
        home: [J] rad.
        weights: [J] or a number.
    """
    return jnp.sum(weights * jnp.abs(qpos - home))


# feet --------------------------------------------------------------------------------------------


class Feet(NamedTuple):
    """What is remembered of feet from step to step, all [F]; keep it in the task's carry.

    Attributes:
        contact: whether they touch the ground.
        air_s: seconds in the air, up to the touch-down where they touched down in this step.
        touched_down: whether they touched down in this step.
    """

    contact: jax.Array
    air_s: jax.Array
    touched_down: jax.Array

    @staticmethod
    def init(count: int) -> Feet:
        """Feet on the ground."""
        on = jnp.ones(count, bool)
        return Feet(on, jnp.zeros(count), ~on)

    def step(self, contact: Numbers, control_dt_s: float) -> Feet:
        """The same a control step later.

        Args:
            contact: [F] whether they touch the ground now.
            control_dt_s: seconds of a control step.
        """
        flown = jnp.where(self.contact, 0.0, self.air_s)
        air_s = jnp.where(contact & self.contact, 0.0, flown + control_dt_s * ~contact)
        return Feet(jnp.asarray(contact), air_s, contact & ~self.contact)


def air_time(feet: Feet, least_s: float = 0.1, most_s: float = 0.5) -> jax.Array:
    """Seconds beyond `least_s` that feet were in the air, paid when they touch down.

        sum(touched_down * (min(air_s, most_s) - least_s))

    Source: legged_gym, `_reward_feet_air_time`; bounds of MuJoCo Playground, g1/joystick.py.

    Args:
        feet: what is remembered of them.
        least_s: shorter steps cost.
        most_s: longer ones pay no more.
    """
    return jnp.sum((jnp.minimum(feet.air_s, most_s) - least_s) * feet.touched_down)


def clearance(heights: Numbers, velocities: Numbers, target: float) -> jax.Array:
    """Distance from the swing height, of feet as they move, m^2/s.

        sum(|height - target| * |velocity_xy|)

    Source: MuJoCo Playground, go1/joystick.py, `_cost_feet_clearance`.

    Args:
        heights: [F] m, over the ground.
        velocities: [F, 3] m/s.
        target: m.
    """
    speed = norm(velocities[:, :2])
    return jnp.sum(jnp.abs(heights - target) * speed)


def slip(velocities: Numbers, contact: Numbers) -> jax.Array:
    """Squared speed over ground of feet that touch it, m^2/s^2.

        sum(contact * |velocity_xy|^2)

    Source: MuJoCo Playground, go1/joystick.py, `_cost_feet_slip`.

    Args:
        velocities: [F, 3] m/s.
        contact: [F] whether they touch the ground.
    """
    return jnp.sum(jnp.sum(jnp.square(velocities[:, :2]), axis=1) * contact)


def landing(velocities: Numbers, feet: Feet) -> jax.Array:
    """Squared vertical speed of feet that touch down, m^2/s^2.

    Source: ours; it says what terms on contact forces say without reading contacts' forces.

    Args:
        velocities: [F, 3] m/s, of the step before the touch-down.
        feet: what is remembered of them.
    """
    return jnp.sum(jnp.square(velocities[:, 2]) * feet.touched_down)


# gaits -------------------------------------------------------------------------------------------


def phases(time_s: Numbers, frequency_hz: float, offsets: Sequence[float]) -> jax.Array:
    """Phases of legs in [0, 1): the first half is swing, the second is stance.

        frac(frequency * time + offset)

    Source: Siekmann et al. 2020, arXiv 2011.01387 (periodic rewards by phase).

    Args:
        time_s: [] seconds.
        frequency_hz: strides per second.
        offsets: [F] of the legs; a trot of front right, front left, rear right, rear left is 0, 1/2, 1/2, 0.
    """
    return jnp.mod(frequency_hz * time_s + jnp.asarray(offsets), 1.0)


def swing_height(phase: Numbers, height: float) -> jax.Array:
    """Height of a foot over the ground that belongs to a phase.

        height * sin^2(2 pi phase) in the first half, 0 in the second

    Args:
        phase: [...] in [0, 1).
        height: m, in the middle of the swing.
    """
    return height * jnp.where(phase < 0.5, jnp.square(jnp.sin(2 * jnp.pi * phase)), 0.0)


def gait(
    heights: Numbers,
    velocities: Numbers,
    phase: Numbers,
    height: float,
    *,
    lift_sigma: float = 0.001,
    slide_sigma: float = 0.25,
) -> jax.Array:
    """How well feet keep to a gait: lifted as their phase says, and still where they are to stand.

        mean(exp(-(heights - swing_height(phase))^2 / lift_sigma - stance * |velocity_xy|^2 / slide_sigma))

    Source: after MuJoCo Playground, g1/joystick.py, `_reward_feet_phase`; for each foot by itself, so that
    one foot that is right is worth something, and with the second term.

    Args:
        heights: [F] m, over the ground.
        velocities: [F, 3] m/s.
        phase: [F] in [0, 1).
        height: m, in the middle of the swing.
        lift_sigma: m^2, at which 1/e remains.
        slide_sigma: m^2/s^2, likewise.
    """
    lifted = jnp.square(heights - swing_height(phase, height)) / lift_sigma
    sliding = (phase >= 0.5) * jnp.sum(jnp.square(velocities[:, :2]), axis=1) / slide_sigma
    return jnp.mean(jnp.exp(-lifted - sliding))


# orientation -------------------------------------------------------------------------------------


def angle_between(rotation: Numbers, other: Numbers) -> jax.Array:
    """Angle by which one orientation has to be turned to become another, rad in [0, pi].

        2 asin(|R1 - R2|_F / sqrt(8))

    Source: Huynh 2009, "Metrics for 3D rotations", the chordal distance as an angle.

    Args:
        rotation: [3, 3].
        other: [3, 3].
    """
    chord = norm((rotation - other).reshape(-1)) / jnp.sqrt(8.0)
    return 2.0 * jnp.arcsin(jnp.clip(chord, 0.0, 1.0))


def alignment(axis: Numbers, other: Numbers) -> jax.Array:
    """How well two directions agree: the cosine between them, -1 to 1.

    Args:
        axis: [3] unit vector.
        other: [3] unit vector.
    """
    return jnp.sum(axis * other)


def norm(vectors: Numbers) -> jax.Array:
    """Lengths of vectors [..., D]; the slope at 0 is 0 rather than NaN."""
    squares = jnp.sum(jnp.square(vectors), axis=-1)
    safe = jnp.where(squares > 0, squares, 1.0)
    return jnp.where(squares > 0, jnp.sqrt(safe), 0.0)
