"""Terms of robots' rewards: numbers by hand, slow loops of their equations, and their edges."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from surefoot.robots import terms
from surefoot.robots.terms import Feet

laws = settings(max_examples=25)
seeds = st.integers(0, 2**32 - 1)
JOINTS, FEET = 5, 4  # the same shapes throughout: JAX compiles every operation once


def close(actual, expected, **tolerance):
    np.testing.assert_allclose(actual, expected, **({"rtol": 2e-5, "atol": 1e-6} | tolerance))


def turned(axis, angle):
    """The rotation by an angle around an axis: I + sin K + (1 - cos) K^2."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


# by hand -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (
            lambda: terms.tracking(jnp.array([0.3, 0.4]), jnp.zeros(2)),
            math.exp(-1),
        ),  # |e|^2 = sigma = 1/4
        (lambda: terms.tracking(jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0]), 4.0), math.exp(-1)),
        (lambda: terms.near(jnp.array([0.0, 0.06, 0.08])), 2 / (math.e**2 + 1)),  # a width away
        (lambda: terms.near(0.1), 2 / (math.e**2 + 1)),
        (lambda: terms.posture(jnp.array([0.5, 1.0]), jnp.array([0.0, 2.0])), math.exp(-1.25)),
        (
            lambda: terms.posture(jnp.array([0.5, 1.0]), jnp.zeros(2), jnp.array([8.0, 0.0])),
            math.exp(-2),
        ),
        (lambda: terms.survival(), 1.0),
        (lambda: terms.tilt(jnp.array([0.6, 0.0, -0.8])), 0.36),
        (lambda: terms.bounce(jnp.array([9.0, 9.0, -0.5])), 0.25),
        (lambda: terms.rolling(jnp.array([3.0, -4.0, 9.0])), 25.0),
        (lambda: terms.height_error(0.3, 0.5), 0.04),
        (lambda: terms.torques(jnp.array([3.0, -4.0])), 25.0),
        (lambda: terms.power(jnp.array([3.0, -4.0]), jnp.array([-2.0, -1.0])), 10.0),
        (lambda: terms.accelerations(jnp.array([1.0, -2.0])), 5.0),
        (lambda: terms.action_rate(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])), 5.0),
        (lambda: terms.deviation(jnp.array([1.0, -2.0]), jnp.array([0.5, 0.0])), 2.5),
        (lambda: terms.deviation(jnp.array([1.0, -2.0]), jnp.zeros(2), jnp.array([3.0, 0.5])), 4.0),
        # half of [-1, 3] is [0, 2]: 0.5 below, 0.25 above; the middle joint is free
        (
            lambda: terms.beyond_limits(
                jnp.array([-0.5, 1.0, 2.25]), np.full(3, -1.0), np.full(3, 3.0), soft=0.5
            ),
            0.75,
        ),
        (lambda: terms.alignment(jnp.array([0.6, 0.8, 0.0]), jnp.array([0.0, -1.0, 0.0])), -0.8),
    ],
)
def test_terms_by_hand(term, expected):
    close(term(), expected)


def test_terms_of_feet_by_hand():
    velocities = jnp.array([[3.0, 4.0, 9.0], [0.0, 0.0, -2.0], [1.0, 0.0, 5.0], [0.0, 2.0, 0.0]])
    heights = jnp.array([0.1, 0.3, 0.0, 0.06])
    contact = jnp.array([True, True, False, True])
    close(terms.clearance(heights, velocities, 0.06), 0.04 * 5 + 0.06 * 1)
    close(terms.slip(velocities, contact), 25.0 + 4.0)
    feet = Feet(contact, jnp.zeros(FEET), jnp.array([False, True, True, False]))
    close(terms.landing(velocities, feet), 4.0 + 25.0)


# slow readable loops -----------------------------------------------------------------------------


@laws
@given(seeds)
def test_sums_over_joints_are_those_of_a_loop(seed):
    rng = np.random.default_rng(seed)
    qpos, home, qvel, torque = rng.normal(size=(4, JOINTS)).astype(np.float32)
    weights = rng.uniform(0, 3, JOINTS).astype(np.float32)
    lower, upper = np.sort(rng.normal(size=(2, JOINTS)), axis=0).astype(np.float32)
    free = rng.random(JOINTS) < 0.3
    lower[free], upper[free] = -np.inf, np.inf
    soft, kept = rng.uniform(0.2, 1.0), 1.0
    beyond = off = squares = flow = 0.0
    for j in range(JOINTS):
        kept *= math.exp(-weights[j] * (qpos[j] - home[j]) ** 2)
        off += weights[j] * abs(qpos[j] - home[j])
        squares += float(torque[j]) ** 2
        flow += abs(float(torque[j]) * qvel[j])
        if not free[j]:
            share = (1 - soft) / 2 * (upper[j] - lower[j])  # of the range, at either end
            beyond += max(0.0, lower[j] + share - qpos[j]) + max(0.0, qpos[j] - upper[j] + share)
    close(terms.posture(qpos, home, weights), kept)
    close(terms.deviation(qpos, home, weights), off)
    close(terms.torques(torque), squares)
    close(terms.accelerations(torque), squares)
    close(terms.power(torque, qvel), flow)
    close(terms.beyond_limits(jnp.asarray(qpos), lower, upper, soft), beyond, atol=5e-6)


@laws
@given(seeds)
def test_sums_over_feet_are_those_of_a_loop(seed):
    rng = np.random.default_rng(seed)
    velocities = rng.normal(size=(FEET, 3)).astype(np.float32)
    heights, phase = rng.uniform(0, 0.1, FEET), rng.random(FEET)
    contact, touched = rng.random((2, FEET)) < 0.5
    swing = slipped = landed = kept = 0.0
    for f in range(FEET):
        x, y, z = map(float, velocities[f])
        swing += abs(heights[f] - 0.05) * math.hypot(x, y)
        slipped += x * x + y * y if contact[f] else 0.0
        landed += z * z if touched[f] else 0.0
        if phase[f] < 0.5:  # (1 - cos) / 2 rises and falls once in the first half
            off, slid = heights[f] - 0.05 * (1 - math.cos(4 * math.pi * phase[f])) / 2, 0.0
        else:
            off, slid = heights[f], x * x + y * y
        kept += math.exp(-off * off / 0.01 - slid / 0.3) / FEET
    close(terms.clearance(heights, velocities, 0.05), swing)
    close(terms.slip(velocities, contact), slipped)
    close(terms.landing(velocities, Feet(contact, np.zeros(FEET), touched)), landed)
    sigmas = {"lift_sigma": 0.01, "slide_sigma": 0.3}
    gait = terms.gait(jnp.asarray(heights), velocities, jnp.asarray(phase), 0.05, **sigmas)
    close(gait, kept, rtol=1e-4)


@laws
@given(seed=seeds, angle=st.floats(0, math.pi))
def test_tilt_is_the_squared_sine_of_the_angle_from_upright_wherever_the_trunk_heads(seed, angle):
    heading, direction = np.random.default_rng(seed).uniform(-math.pi, math.pi, 2)
    axis = (math.cos(direction), math.sin(direction), 0.0)  # level
    trunk = turned(axis, angle) @ turned((0, 0, 1), heading)
    close(terms.tilt(jnp.asarray(trunk.T @ [0, 0, -1])), math.sin(angle) ** 2)


@laws
@given(seeds)
def test_what_is_good_is_best_where_it_should_be_and_falls_with_distance(seed):
    rng = np.random.default_rng(seed)
    wanted, direction = rng.normal(size=(2, 3)).astype(np.float32)
    for term in (
        lambda x: terms.tracking(wanted + x * direction, wanted),
        lambda x: terms.posture(wanted + x * direction, wanted),
        lambda x: terms.near(x * direction),
    ):
        best, nearer, farther = (float(term(x)) for x in (0.0, 0.1, 0.2))
        assert best == 1.0
        assert 0.0 < farther < nearer < best


# joints without limits, and slopes ---------------------------------------------------------------


def test_joints_without_limits_are_never_beyond_them():
    none = np.full(JOINTS, np.inf)
    far = jnp.linspace(-1e6, 1e6, JOINTS)
    value, slope = jax.value_and_grad(terms.beyond_limits)(far, -none, none)
    assert value == 0.0
    np.testing.assert_array_equal(slope, 0.0)
    lower, upper = -none, none.copy()
    lower[1], upper[1] = -1.0, 1.0  # one that has them, beside
    value, slope = jax.value_and_grad(terms.beyond_limits)(far / 2.5e5, lower, upper)
    close(value, 2.0 - 0.95)
    np.testing.assert_array_equal(slope, [0, -1, 0, 0, 0])


def test_a_range_is_free_to_its_soft_ends_and_all_of_it_where_soft_is_1():
    ends = np.array([-2.0, 4.0])
    for qpos, soft, expected in ((1 - 0.9 * 3, 0.9, 0.0), (4.0, 1.0, 0.0), (4.5, 1.0, 0.5)):
        close(terms.beyond_limits(jnp.array([qpos]), ends[:1], ends[1:], soft), expected)


def test_lengths_have_a_slope_at_zero_and_it_is_zero():
    length, slope = jax.value_and_grad(terms.norm)(jnp.zeros(3))
    assert length == 0.0
    np.testing.assert_array_equal(slope, 0.0)
    close(jax.grad(terms.norm)(jnp.array([3.0, 0.0, -4.0])), [0.6, 0.0, -0.8])
    rows = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    close(terms.norm(rows), [5.0, 0.0])
    slopes = jax.grad(lambda x: terms.norm(x).sum())(rows)  # one row of zeros spoils no other
    close(slopes, [[0.6, 0.8], [0.0, 0.0]])


@pytest.mark.parametrize("at", [0.0, np.zeros(3, np.float32)])
def test_nearness_has_a_slope_everywhere(at):
    value, slope = jax.value_and_grad(terms.near)(at)
    assert value == 1.0
    np.testing.assert_array_equal(slope, np.zeros_like(at))
    far = jax.grad(terms.near)(at + 0.3)
    assert (np.asarray(far) < 0).all()  # still felt three widths away


def test_feet_at_rest_and_orientations_that_agree_have_slopes_too():
    heights, still = jnp.full(FEET, 0.02), jnp.zeros((FEET, 3))
    slope = jax.grad(lambda v: terms.clearance(heights, v, 0.05))(still)
    np.testing.assert_array_equal(slope, 0.0)
    slope = jax.grad(terms.angle_between)(jnp.eye(3), jnp.eye(3))
    np.testing.assert_array_equal(slope, 0.0)


# feet that touch down and lift off ---------------------------------------------------------------

DT = 0.02


def played(contacts):
    """What is remembered after each step of [T, F] contacts."""
    step = jax.jit(lambda feet, contact: feet.step(contact, DT))
    feet, rows = Feet.init(len(contacts[0])), []
    for contact in contacts:
        feet = step(feet, jnp.asarray(contact))
        rows.append(jax.tree.map(np.asarray, feet))
    return rows


@pytest.mark.parametrize(
    ("contacts", "air_steps", "touched"),
    [
        ("####", "0000", "...."),  # stands
        ("..##", "1220", "..#."),  # lifts off at once, lands, stands
        ("#..#", "0122", "...#"),
        ("#.#.#.", "011111", "..#.#."),  # every flight counts for itself
        ("...", "123", "..."),  # still flying
        ("..#.##", "122110", "..#.#."),
    ],
)
def test_feet_by_hand(contacts, air_steps, touched):
    rows = played([[mark == "#"] for mark in contacts])
    close([row.air_s[0] for row in rows], [DT * int(steps) for steps in air_steps])
    assert "".join(".#"[int(row.touched_down[0])] for row in rows) == touched
    assert "".join(".#"[int(row.contact[0])] for row in rows) == contacts


@laws
@given(seed=seeds)
def test_feet_are_counted_each_for_itself_and_paid_for_where_they_land(seed):
    rng = np.random.default_rng(seed)
    contacts = rng.random((12, FEET)) < rng.uniform(0.1, 0.9)
    rows = played(contacts)
    for t, row in enumerate(rows):
        paid = 0.0
        for f in range(FEET):
            history = "#" + "".join(".#"[int(on)] for on in contacts[: t + 1, f])
            landed = history.endswith(".#")
            flight = history[:-1] if landed else history
            steps = len(flight) - len(flight.rstrip("."))
            assert bool(row.touched_down[f]) == landed
            close(row.air_s[f], DT * steps)
            paid += min(DT * steps, 0.08) - 0.03 if landed else 0.0
        close(terms.air_time(Feet(*row), least_s=0.03, most_s=0.08), paid)


def test_air_time_pays_at_touch_down_alone_up_to_a_bound_and_short_steps_cost():
    air_s = jnp.array([0.3, 0.9, 0.04, 0.3])
    for landed, expected in (
        ((0, 0, 0, 0), 0.0),
        ((1, 0, 0, 0), 0.2),
        ((0, 1, 0, 0), 0.4),
        ((0, 0, 1, 0), -0.06),
        ((1, 1, 1, 1), 0.74),
    ):
        close(terms.air_time(Feet(jnp.ones(FEET), air_s, jnp.array(landed, bool))), expected)


# gaits -------------------------------------------------------------------------------------------


def test_phases_count_strides_from_the_offsets():
    trot = (0.0, 0.5, 0.5, 0.0)
    np.testing.assert_array_equal(terms.phases(0.0, 2.0, trot), trot)
    np.testing.assert_array_equal(terms.phases(0.25, 2.0, trot), (0.5, 0.0, 0.0, 0.5))
    np.testing.assert_array_equal(terms.phases(3.0, 2.0, trot), trot)  # whole strides
    close(terms.phases(0.6, 2.0, trot), (0.2, 0.7, 0.7, 0.2))


@laws
@given(time_s=st.floats(0, 20, width=32), offset=st.floats(0, 1, exclude_max=True, width=32))
@example(time_s=0.0, offset=0.0)
@example(time_s=0.5, offset=0.5)
def test_phases_are_below_1(time_s, offset):
    (phase,) = np.asarray(terms.phases(time_s, 2.0, (offset,)))
    assert 0.0 <= phase < 1.0
    turns = (2.0 * time_s + offset - phase) % 1.0
    assert min(turns, 1.0 - turns) < 1e-5


@pytest.mark.parametrize(
    ("phase", "height"),
    [(0.0, 0.0), (0.125, 0.03), (0.25, 0.06), (0.375, 0.03), (0.5, 0.0), (0.75, 0.0), (1.0, 0.0)],
)
def test_a_foot_is_lifted_in_the_first_half_and_highest_in_its_middle(phase, height):
    close(terms.swing_height(jnp.asarray(phase), 0.06), height, atol=1e-9)


def test_stance_begins_at_exactly_half_and_feet_in_stance_are_to_stand():
    moving = jnp.tile(jnp.array([1.0, 0.0, 5.0]), (FEET, 1))  # vertical speed counts nothing
    ground = jnp.zeros(FEET)
    for phase, standing in ((0.0, 0), (0.5, 1), (np.nextafter(np.float32(0.5), 0), 0), (1.0, 1)):
        phases = jnp.full(FEET, 0.0).at[1].set(phase)
        kept = 1 - standing / FEET * (1 - math.exp(-1 / 0.25))
        close(terms.gait(ground, moving, phases, 0.06), kept, atol=1e-6)
    on_time = terms.swing_height(jnp.array([0.0, 0.25, 0.5, 0.75]), 0.06)
    still = jnp.zeros((FEET, 3))
    assert terms.gait(on_time, still, jnp.array([0.0, 0.25, 0.5, 0.75]), 0.06) == 1.0
    late = on_time.at[1].add(-math.sqrt(0.001))
    kept = 1 - (1 - math.exp(-1)) / FEET
    close(terms.gait(late, still, jnp.array([0.0, 0.25, 0.5, 0.75]), 0.06), kept, rtol=1e-4)


# orientation -------------------------------------------------------------------------------------


@laws
@given(seed=seeds, angle=st.floats(0, math.pi))
@example(seed=0, angle=0.0)
@example(seed=1, angle=math.pi / 2)
@example(seed=2, angle=math.pi)
@example(seed=3, angle=1e-3)
def test_the_angle_between_orientations_is_that_of_the_turn(seed, angle):
    rng = np.random.default_rng(seed)
    start = turned(rng.normal(size=3), rng.uniform(0, math.pi))
    end = turned(rng.normal(size=3), angle) @ start
    there, back = terms.angle_between(start, end), terms.angle_between(end, start)
    # an arcsine in 32 bits: chords of nearly 1 say little of the angle
    tolerance = 2e-3 if angle > 3.0 else 2e-6 / math.cos(angle / 2)
    close(there, angle, atol=tolerance)
    assert there == back
    assert 0.0 <= there <= np.float32(math.pi)


def test_half_turns_around_the_axes_are_exactly_pi():
    for diagonal in ((1, -1, -1), (-1, 1, -1), (-1, -1, 1)):
        for rounded in (
            1.0,
            1.0 + 1e-6,
        ):  # what 32 bits make of a rotation may be a little too long
            angle = terms.angle_between(rounded * np.eye(3), rounded * np.diag(diagonal))
            close(angle, math.pi)
    assert terms.angle_between(np.eye(3), np.eye(3)) == 0.0


@laws
@given(seed=seeds, angle=st.floats(0, math.pi))
def test_alignment_is_the_cosine(seed, angle):
    rng = np.random.default_rng(seed)
    axis = turned(rng.normal(size=3), 1.0)[0]
    around = np.cross(axis, rng.normal(size=3))
    close(terms.alignment(axis, turned(around, angle) @ axis), math.cos(angle), atol=2e-6)


# in a task ---------------------------------------------------------------------------------------


def test_terms_are_scalars_of_one_environment_under_vmap_and_jit():
    rng = np.random.default_rng(0)
    count = 3
    vectors, others = rng.normal(size=(2, count, 3)).astype(np.float32)
    feet = rng.normal(size=(count, FEET, 3)).astype(np.float32)
    heights = rng.random((count, FEET)).astype(np.float32)

    def every(a, b, v, h):
        on = Feet.init(FEET).step(h > 0.5, DT)
        phase = terms.phases(h[0], 2.0, (0.0, 0.5, 0.5, 0.0))
        return {
            "tracking": terms.tracking(a, b),
            "near": terms.near(a),
            "posture": terms.posture(a, b),
            "beyond": terms.beyond_limits(a, np.full(3, -1.0), np.full(3, 1.0)),
            "clearance": terms.clearance(h, v, 0.1),
            "slip": terms.slip(v, on.contact),
            "air": terms.air_time(on),
            "landing": terms.landing(v, on),
            "gait": terms.gait(h, v, phase, 0.1, lift_sigma=1.0),
            "alignment": terms.alignment(a, b),
        }

    together = jax.jit(jax.vmap(every))(vectors, others, feet, heights)
    for i in range(count):
        alone = every(vectors[i], others[i], feet[i], heights[i])
        for name, x in alone.items():
            assert x.shape == (), name
            assert together[name].dtype == np.float32, name
            close(together[name][i], x, err_msg=name)
