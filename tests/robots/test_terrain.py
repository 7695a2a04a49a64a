"""Terrain: heights that MuJoCo agrees with, platforms to begin on, levels that get harder, clear errors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from surefoot.errors import UserError
from surefoot.robots import Actuation, Robot, RobotEnvironment, RobotTask, Start, State
from surefoot.robots.terrain import KINDS, Terrain

# 2 levels by 3 kinds, 6 m along x by 9 m along y, so that no two directions are alike
SMALL = Terrain(
    kinds=("stairs_up", "rough", "slope_down"),
    levels=2,
    patch_m=3.0,
    platform_m=1.0,
    border_m=1.0,
    rough_m=0.1,
    tread_m=0.2,
)
# where patches have their middles, and how high those are; there are 5 treads and 1 m of slope
MIDDLES = {
    (-1.5, -3.0): -0.5,
    (1.5, -3.0): -1.0,
    (-1.5, 0.0): 0.0,
    (1.5, 0.0): 0.0,
    (-1.5, 3.0): 0.2,
    (1.5, 3.0): 0.4,
}
height, inside = jax.jit(SMALL.height), jax.jit(SMALL.inside)
spawn = jax.jit(jax.vmap(SMALL.spawn, in_axes=(0, None)))
next_level = jax.jit(Terrain().next_level)


def patches(terrain: Terrain) -> np.ndarray:
    """Heights of every patch with its edges, [levels, kinds, points, points]."""
    cells = round(terrain.patch_m / terrain.resolution_m)
    windows = np.lib.stride_tricks.sliding_window_view(terrain.heights, (cells + 1, cells + 1))
    return windows[::cells, ::cells]


def steepest(heights: np.ndarray) -> float:
    """The largest difference of neighbours along x or y, m."""
    return max(np.abs(np.diff(heights, axis=axis)).max() for axis in (0, 1))


def compiled(terrain: Terrain, balls: Any = ()) -> tuple[Any, Any]:
    """A model of the terrain with small balls at places [3] m."""
    spec = mujoco.MjSpec()
    terrain.add_to(spec)
    for place in balls:
        body = spec.worldbody.add_body(pos=place)
        body.add_freejoint()
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.03, 0, 0])
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def by_ray(model: Any, data: Any, xy: np.ndarray) -> float:
    """Height of the ground at a point, NaN where there is none."""
    down, geom = np.array([0.0, 0.0, -1.0]), np.zeros(1, np.int32)
    distance = mujoco.mj_ray(model, data, np.array([*xy, 5.0]), down, None, 1, -1, geom)
    return 5.0 - distance if distance >= 0 else np.nan


# heights -----------------------------------------------------------------------------------------


def test_equal_terrains_are_equal_and_the_seed_decides_the_rough_ground_alone() -> None:
    same, other = dataclasses.replace(SMALL), dataclasses.replace(SMALL, seed=1)
    np.testing.assert_array_equal(same.heights, SMALL.heights)
    differs = (patches(other) != patches(SMALL)).any(axis=(2, 3))
    np.testing.assert_array_equal(differs, [[False, True, False]] * 2)


def test_rough_patches_are_no_copies_of_each_other() -> None:
    rough = patches(dataclasses.replace(SMALL, kinds=("rough", "rough")))
    shapes = (rough / np.abs(rough).max(axis=(2, 3), keepdims=True)).reshape(4, -1)
    assert len(np.unique(shapes, axis=0)) == 4
    np.testing.assert_array_less(np.corrcoef(shapes) - np.eye(4), 0.3)


@pytest.mark.parametrize(
    ("kind", "middle", "steepness"),
    [
        ("flat", 0.0, 0.0),
        ("slope_up", -0.4, 0.04),
        ("slope_down", 0.4, 0.04),
        ("stairs_up", -1.0, 0.2),
        ("stairs_down", 1.0, 0.2),
    ],
)
def test_kinds_are_what_their_names_say_at_the_last_level(
    kind: str, middle: float, steepness: float
) -> None:
    heights = patches(dataclasses.replace(SMALL, kinds=(kind,)))[-1, 0]
    np.testing.assert_allclose(heights[15, 15], middle, atol=1e-6)
    np.testing.assert_allclose(steepest(heights), steepness, atol=1e-6)
    np.testing.assert_array_equal(heights, heights.T)
    np.testing.assert_array_equal(heights, heights[::-1])
    # nothing but up, or nothing but down, on the way out
    assert len(np.unique(np.sign(np.diff(heights[15:, 15])))) <= 2


def test_treads_are_as_deep_as_they_are_said_to_be() -> None:
    stairs = patches(SMALL)[-1, 0][:, 15]
    risers = np.flatnonzero(np.diff(stairs))[:5]
    np.testing.assert_array_equal(np.diff(risers), 2)
    odd = Terrain(kinds=("stairs_up",), levels=1, border_m=0.0)  # 3 m for treads of 0.3 m
    assert len(np.unique(odd.heights)) == 11


def test_rough_ground_keeps_to_its_height_and_lies_on_both_sides() -> None:
    rough = patches(SMALL)[-1, 1]
    assert 0.06 < rough.max() <= 0.1
    assert -0.1 <= rough.min() < -0.06
    # lines between bumps of 0.2 m: every other point is the mean of its neighbours
    row = rough[4, 4:27:2]
    assert (row != 0).all()
    np.testing.assert_allclose(rough[4, 5:26:2], (row[1:] + row[:-1]) / 2, atol=1e-7)


def test_levels_get_harder_in_equal_steps_up_to_what_was_asked_for() -> None:
    terrain = dataclasses.replace(SMALL, kinds=KINDS, levels=4)
    hardness = np.array([[steepest(patch) for patch in row] for row in patches(terrain)])
    np.testing.assert_array_equal(hardness[:, 0], 0)
    assert (np.diff(hardness[:, 1]) > 0).all()
    np.testing.assert_allclose(hardness[:, 2:], [[0.01, 0.01, 0.05, 0.05]] * np.c_[1:5], atol=1e-6)


def test_patches_meet_at_0_and_have_flat_middles() -> None:
    terrain = dataclasses.replace(SMALL, kinds=KINDS, rough_m=0.5)
    for patch in patches(terrain).reshape(-1, 31, 31):
        edges = [patch[0], patch[-1], patch[:, 0], patch[:, -1]]
        np.testing.assert_array_equal(edges, 0)
        platform = patch[10:21, 10:21]
        np.testing.assert_array_equal(platform, platform[0, 0])


# what MuJoCo makes of them -----------------------------------------------------------------------


def test_heights_are_those_of_mujocos_triangles_everywhere() -> None:
    model, data = compiled(SMALL)
    points = np.random.default_rng(0).uniform((-4.2, -5.7), (4.2, 5.7), (400, 2))
    rays = np.array([by_ray(model, data, xy) for xy in points])
    on_ground = np.asarray(inside(points))
    np.testing.assert_array_equal(on_ground, np.isfinite(rays))
    assert 10 < (~on_ground).sum() < 100
    # float32 places points to 1e-6 m, on risers of 63 degrees
    np.testing.assert_allclose(height(points)[on_ground], rays[on_ground], atol=1e-5)
    assert np.std(rays[on_ground]) > 0.1


def test_heights_come_in_the_shape_of_the_points_and_also_in_64_bits() -> None:
    points = np.array(list(MIDDLES)).reshape(2, 3, 2)
    expected = np.reshape(list(MIDDLES.values()), (2, 3))
    np.testing.assert_allclose(height(points), expected, atol=1e-6)
    np.testing.assert_array_equal(height(np.array([[50.0, -3.0], [3.0, 4.5]])), 0)
    with jax.enable_x64(True):
        np.testing.assert_allclose(height(points), expected, atol=1e-6)


def test_balls_come_to_rest_on_the_middles_and_on_the_border() -> None:
    places = MIDDLES | {(3.6, 5.1): 0.0}
    model, data = compiled(SMALL, [(x, y, z + 0.04) for (x, y), z in places.items()])
    mujoco.mj_step(model, data, 200)
    rest = data.qpos.reshape(-1, 7)
    np.testing.assert_allclose(rest[:, :2], list(places), atol=1e-3)
    np.testing.assert_allclose(rest[:, 2], np.array(list(places.values())) + 0.03, atol=1e-3)


def test_the_geom_is_as_told_and_flat_ground_compiles() -> None:
    spec = mujoco.MjSpec()
    Terrain(kinds=("flat",), levels=1).add_to(spec, "ground", contype=2, friction=[0.4, 0, 0])
    model = spec.compile()
    geom = model.geom("ground")
    assert (geom.contype, geom.conaffinity, geom.friction[0]) == (2, 1, 0.4)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    assert by_ray(model, data, np.array([1.0, 2.0])) == pytest.approx(0.0, abs=1e-9)


def test_a_program_holds_the_heights_once() -> None:
    points = jax.ShapeDtypeStruct((4, 2), np.float32)
    program = jax.make_jaxpr(lambda xy: SMALL.height(xy) + SMALL.height(xy + 1))(points)
    large = [x for x in program.consts if np.size(x) > 10]
    assert SMALL.heights.dtype == np.float32
    assert [(x.shape, x.dtype) for x in large] == [(SMALL.heights.shape, np.float32)]


# levels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "x"), [(0.0, -1.5), (0.9, -1.5), (1.0, 1.5), (1.7, 1.5), (9.0, 1.5), (-2.0, -1.5)]
)
def test_an_episode_begins_in_the_middle_of_a_patch_of_its_level(level: float, x: float) -> None:
    places = np.asarray(spawn(jax.random.split(jax.random.key(0), 60), level))
    assert set(places[:, 0]) == {x}
    kinds, counts = np.unique(places[:, 1], return_counts=True)
    np.testing.assert_array_equal(kinds, [-3, 0, 3])
    assert counts.min() > 8
    expected = [MIDDLES[x, y] for y in places[:, 1].tolist()]
    np.testing.assert_allclose(places[:, 2], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("level", "walked_m", "commanded_m", "after"),
    [
        (3.0, 4.1, 5.0, 4),  # beyond half a patch of 8 m
        (3.0, 3.9, 5.0, 3),
        (3.0, 2.4, 5.0, 2),  # less than half as far as commanded
        (3.0, 2.6, 5.0, 3),
        (3.0, 4.1, 20.0, 4),  # both: up
        (3.0, 0.0, 0.0, 3),  # it was told to stand
        (3.9, 4.1, 5.0, 4),
        (0.0, 0.0, 5.0, 0),
        (8.0, 9.0, 5.0, 9),
        (9.0, 3.9, 5.0, 9),
        (9.0, 0.0, 5.0, 8),
    ],
)
def test_levels_follow_how_far_the_robot_got(
    level: float, walked_m: float, commanded_m: float, after: float
) -> None:
    assert next_level(jax.random.key(0), level, walked_m, commanded_m) == after


def test_who_is_through_with_the_last_level_goes_on_at_any() -> None:
    keys = jax.random.split(jax.random.key(0), 200)
    of_three = jax.jit(jax.vmap(Terrain(levels=3).next_level, in_axes=(0, None, None, None)))
    after = of_three(keys, 2.0, 5.0, 5.0)
    levels, counts = np.unique(after, return_counts=True)
    np.testing.assert_array_equal(levels, [0, 1, 2])
    assert counts.min() > 40


BALL = """
<mujoco><worldbody><body name="ball" gravcomp="1"><freejoint name="free"/><geom size=".1"/></body></worldbody>
<actuator><motor joint="free"/></actuator></mujoco>
"""


@dataclass(frozen=True)
class Ball(RobotTask):
    """A ball that flies off along x, 2 m an episode."""

    model: Any = lambda: mujoco.MjSpec.from_string(BALL)
    episode_s: float = 0.1

    actuation: ClassVar[Actuation] = Actuation(kind="ctrl")

    def edit(self, spec: mujoco.MjSpec) -> None:
        SMALL.add_to(spec)

    def reset(self, robot: Robot, key: jax.Array, level: jax.Array) -> Start:
        place = SMALL.spawn(key, level) + jnp.array([0.0, 0.0, 1.5])
        qpos = jnp.append(place, jnp.array([1.0, 0.0, 0.0, 0.0]))
        return Start(qpos, jnp.zeros(6).at[0].set(20.0), carry=place)

    def observe(self, s: State) -> Any:
        place = s.body("ball").position
        return jnp.append(place, place[2] - SMALL.height(place[:2]))

    def rewards(self, s: State) -> Any:
        return {}

    def next_level(self, s: State) -> Any:
        walked_m = jnp.linalg.norm(s.body("ball").position[:2] - s.carry[:2])
        return SMALL.next_level(s.key, s.level, walked_m, 2.0)


def test_a_task_that_gets_far_begins_again_a_level_up() -> None:
    env = RobotEnvironment(Ball(), 4, threads=1)
    state, first = env.reset(jax.random.key(0))
    for _ in range(6):
        state, step = env.step(state, np.zeros((4, 1), np.float32))
    for begun, x in ((first, -1.5), (step, 1.5)):
        places = np.asarray(begun.observation["observation"])
        np.testing.assert_allclose(places[:, 0], x, atol=1e-6)
        np.testing.assert_allclose(places[:, 3], 1.5, atol=1e-6)
    assert len(np.unique(places[:, 2])) > 1  # of several kinds
    env.close()


# mistakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kinds": ("stair_up",)}, r"unknown kind of terrain 'stair_up'; did you mean 'stairs_up'"),
        (
            {"kinds": "rough"},
            r"kinds = 'rough': it must be a tuple such as \('rough', 'stairs_up'\)",
        ),
        ({"kinds": ()}, r"kinds = \(\): it must be a tuple"),
        ({"levels": 0}, "levels = 0: it must be more than 0"),
        ({"levels": 2.5}, "levels = 2.5: it must be a whole number"),
        ({"levels": float("inf")}, "levels = inf: it must be more than 0"),
        ({"resolution_m": -0.1}, "resolution_m = -0.1: it must be more than 0"),
        ({"tread_m": 0.0}, "tread_m = 0: it must be more than 0"),
        ({"step_m": -0.1}, "step_m = -0.1: it must be 0 or more"),
        ({"slope": float("nan")}, "slope = nan: it must be 0 or more"),
        ({"seed": -1}, "seed = -1: it must be 0 or more"),
        ({"patch_m": 8.04}, "patch_m = 8.04 is no multiple of resolution_m = 0.1; 8 would be"),
        ({"tread_m": 0.31}, "tread_m = 0.31 is no multiple of resolution_m = 0.1; 0.3 would be"),
        ({"tread_m": 0.04}, "tread_m = 0.04 is no multiple of resolution_m = 0.1; 0.1 would be"),
        (
            {"patch_m": 2.4},
            "patch_m = 2.4 is too small for a platform of 2 m and a tread of 0.3 m all around: take 2.6",
        ),
        (
            {"resolution_m": 0.02},
            "17,008,401 points are more than 4,000,000: take a larger resolution_m than 0.02",
        ),
    ],
)
def test_numbers_that_fit_no_grid_are_named(changes: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Terrain(**changes)


def test_the_smallest_patch_that_is_advised_is_taken() -> None:
    assert len(np.unique(Terrain(kinds=("stairs_up",), levels=1, patch_m=2.6).heights)) == 2


def test_a_floor_that_is_there_already_is_named() -> None:
    spec = mujoco.MjSpec()
    spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1])
    with pytest.raises(UserError, match="the model has a geom 'floor' already: delete it, or"):
        SMALL.add_to(spec)
