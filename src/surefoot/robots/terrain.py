"""Ground that gets harder: a grid of patches in one heightfield, its rows levels, its columns kinds.

The grid lies around the world's origin, levels along x, kinds along y. Every patch has a flat platform in its
middle, where an episode begins, and is 0 m high at its edge, so that patches meet and all around is flat.
"""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from surefoot.errors import UserError, check_names

KINDS = ("flat", "rough", "slope_up", "slope_down", "stairs_up", "stairs_down")
_BUMP_M = 0.2  # between the bumps of rough ground
_BELOW_M = 1.0  # of solid ground under the lowest point
_MOST_POINTS = 4_000_000


@dataclass(frozen=True)
class Terrain:
    """Ground for a legged robot; add it in a task's `edit`, begin at `spawn`, subtract `height` from heights.

    `up` and `down` are where the robot has to go from the middle of a patch: `stairs_up` begin in a pit, as
    legged_gym's stairs up and Isaac Lab's inverted pyramids do, `stairs_down` on a pyramid. A riser is a
    cell wide, for a heightfield has no vertical walls. Share out kinds by naming some more than once.

    Source: Rudin et al. 2021, arXiv 2109.11978, and legged_gym's terrain: the kinds, patches of 8 m in 10
    levels, the steepest slope, rough ground of +-0.05 m in bumps of 0.2 m, treads of 0.3 m in cells of 0.1 m.

    Attributes:
        kinds: of ground, a column of patches each, out of `KINDS`.
        levels: rows of patches; level 0 has 1 / `levels` of the last one's heights.
        patch_m: side of a patch.
        platform_m: side of the flat middle of a patch, which may be larger where that fits treads and cells.
        border_m: width of the flat ground around the grid; beyond it there is nothing to stand on.
        resolution_m: side of a cell; other lengths over ground are multiples of it.
        rough_m: rough ground is up to this much above and below 0 at the last level.
        slope: rise over run of slopes at the last level.
        step_m: height of stairs' steps at the last level.
        tread_m: depth of stairs' steps.
        seed: of the rough ground.

    Raises:
        ValueError: a kind that is not known, or numbers that fit no grid.
    """

    kinds: tuple[str, ...] = KINDS
    levels: int = 10
    patch_m: float = 8.0
    platform_m: float = 2.0
    border_m: float = 10.0
    resolution_m: float = 0.1
    rough_m: float = 0.05
    slope: float = 0.4
    step_m: float = 0.2
    tread_m: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.kinds, str) or not self.kinds:
            raise UserError(
                f"Terrain: kinds = {self.kinds!r}: it must be a tuple such as ('rough', 'stairs_up')"
            )
        check_names(self.kinds, KINDS, what="kind of terrain")
        object.__setattr__(self, "kinds", tuple(self.kinds))
        for name in ("levels", "resolution_m", "patch_m", "platform_m", "tread_m"):
            self._check(name, getattr(self, name) > 0, "more than 0")
        for name in ("border_m", "rough_m", "slope", "step_m", "seed"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        for name in ("levels", "seed"):
            whole = int(getattr(self, name))
            self._check(name, whole == getattr(self, name), "a whole number")
            object.__setattr__(self, name, whole)
        for name in ("patch_m", "platform_m", "tread_m", "border_m"):
            self._check_multiple(name)
        if self._slope_cells < self._count(self.tread_m):
            least = self.platform_m + 2 * self.tread_m
            raise UserError(
                f"Terrain: patch_m = {self.patch_m:g} is too small for a platform of {self.platform_m:g} m "
                f"and a tread of {self.tread_m:g} m all around: take {least:g} or more"
            )
        points = math.prod(n + 2 * self._count(self.border_m) + 1 for n in self._cells)
        if points > _MOST_POINTS:
            raise UserError(
                f"Terrain: {points:,} points are more than {_MOST_POINTS:,}: take a larger resolution_m than "
                f"{self.resolution_m:g}, or smaller or fewer patches, or a narrower border"
            )

    # the heightfield -----------------------------------------------------------------------------

    @functools.cached_property
    def heights(self) -> np.ndarray:
        """Heights of the grid's points in m, float32 [points along x, points along y], without the border."""
        patch = self._count(self.patch_m)
        heights = np.zeros([n + 1 for n in self._cells], np.float32)
        for row in range(self.levels):
            for column in range(len(self.kinds)):
                x, y = row * patch, column * patch
                heights[x : x + patch + 1, y : y + patch + 1] = self._patch(row, column)
        heights.flags.writeable = False
        return heights

    def add_to(self, spec: mujoco.MjSpec, name: str = "floor", **geom: Any) -> Any:
        """Give a model this ground: one heightfield, and one geom in the world's frame.

        Args:
            spec: the model.
            name: of the heightfield and of the geom.
            geom: what else MuJoCo is to know of the geom, such as `contype`, `friction` or `rgba`.

        Returns:
            The geom, an `MjsGeom`.

        Raises:
            ValueError: the model has a geom of that name.
        """
        if spec.geom(name) is not None:
            raise UserError(
                f"Terrain: the model has a geom {name!r} already: delete it, or give another name"
            )
        heights = np.pad(self.heights, self._count(self.border_m))
        sides = [(n - 1) * self.resolution_m for n in heights.shape]
        lowest, highest = float(heights.min()), float(heights.max())
        # MuJoCo's rows go along y; it scales the heights to [0, 1], and refuses a range of 0
        spec.add_hfield(
            name=name,
            nrow=heights.shape[1],
            ncol=heights.shape[0],
            size=[sides[0] / 2, sides[1] / 2, highest - lowest or 1.0, _BELOW_M],
            userdata=heights.T.ravel(),
        )
        return spec.worldbody.add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_HFIELD,
            hfieldname=name,
            pos=[0, 0, lowest],
            **geom,
        )

    # for a task's functions ----------------------------------------------------------------------

    def height(self, xy: Any) -> jax.Array:
        """Height of the ground in m, [...]: 0 beyond the grid.

        MuJoCo halves a cell along the diagonal from its least x and y to its greatest, for contacts and for
        rays. This follows the same triangles, so it is off by float32's rounding alone.

        Args:
            xy: [..., 2] m, in the world's frame.
        """
        cells = np.array(self._cells)
        at = jnp.clip(jnp.asarray(xy) / self.resolution_m + cells / 2, 0, cells)
        corner = jnp.floor(at).astype(jnp.int32)
        within = at - corner  # 0 at the last points, so that none beyond them counts
        along_x = (within[..., 0] > within[..., 1]).astype(jnp.int32)
        third = corner + jnp.stack([along_x, 1 - along_x], axis=-1)
        low, mid, high = (self._height_at(point) for point in (corner, third, corner + 1))
        least, most = jnp.min(within, axis=-1), jnp.max(within, axis=-1)
        return (1 - most) * low + (most - least) * mid + least * high

    def inside(self, xy: Any) -> jax.Array:
        """Whether there is ground, [...] bool: the grid and its border.

        Args:
            xy: [..., 2] m, in the world's frame.
        """
        half = np.array(self._cells) * self.resolution_m / 2 + self.border_m
        return jnp.all(jnp.abs(jnp.asarray(xy)) <= half, axis=-1)

    def spawn(self, key: jax.Array, level: Any) -> jax.Array:
        """A place to begin at, [3] m: on the ground, in the middle of a patch of any kind.

        Args:
            key: random key.
            level: of the curriculum, a number; the patch's is its floor, and no less than 0 or more than the
                last one.
        """
        row = jnp.clip(jnp.floor(level), 0, self.levels - 1)
        column = jax.random.randint(key, (), 0, len(self.kinds))
        grid = np.array([self.levels, len(self.kinds)])
        xy = (jnp.stack([row, column]) + 0.5 - grid / 2) * self.patch_m
        return jnp.append(xy, self.height(xy))

    def next_level(self, key: jax.Array, level: Any, walked_m: Any, commanded_m: Any) -> jax.Array:
        """The level after an episode: one up, one down or the same; beyond the last one a random one.

        Up where the robot got further than half a patch, else down where it got less than half as far as it
        was told to.

        Source: legged_gym, `_update_terrain_curriculum`.

        Args:
            key: random key.
            level: [] of this episode.
            walked_m: [] between where the robot is and where it began.
            commanded_m: [] how far it was to go: the commanded speed times the length of an episode, also of
                one that ended early.
        """
        up = jnp.asarray(walked_m) > self.patch_m / 2
        down = ~up & (jnp.asarray(walked_m) < 0.5 * jnp.asarray(commanded_m))
        after = jnp.maximum(jnp.floor(level) + up - down, 0)
        anywhere = jax.random.randint(key, (), 0, self.levels)
        return jnp.where(after >= self.levels, anywhere, after).astype(jnp.float32)

    # ---------------------------------------------------------------------------------------------

    def _height_at(self, point: jax.Array) -> jax.Array:
        # always the same array, which a compiled program holds once
        return jnp.asarray(self.heights)[point[..., 0], point[..., 1]]

    def _patch(self, row: int, column: int) -> np.ndarray:
        """Heights of a patch, its edges included, [cells + 1, cells + 1]."""
        kind, share = self.kinds[column], (row + 1) / self.levels
        cells, tread = self._count(self.patch_m), self._count(self.tread_m)
        to_edge = np.minimum(np.arange(cells + 1), cells - np.arange(cells + 1))
        to_edge = np.minimum.outer(to_edge, to_edge)  # cells to the nearest edge
        risen = np.minimum(to_edge, self._slope_cells)  # no more on the platform
        middle = 1 if kind.endswith("down") else -1
        if kind == "rough":
            bumps = self._bumps(np.random.default_rng((self.seed, row, column)))
            fade = np.minimum(to_edge, self._slope_cells - risen) * self.resolution_m / _BUMP_M
            return share * self.rough_m * bumps * np.minimum(fade, 1)
        if kind.startswith("slope"):
            return middle * share * self.slope * self.resolution_m * risen
        if kind.startswith("stairs"):
            return middle * share * self.step_m * (risen // tread)
        return np.zeros_like(to_edge)

    def _bumps(self, rng: np.random.Generator) -> np.ndarray:
        """Random heights in [-1, 1] every `_BUMP_M`, and straight lines between, [cells + 1, cells + 1]."""
        at = np.arange(self._count(self.patch_m) + 1) * self.resolution_m / _BUMP_M
        knots = np.arange(math.ceil(at[-1]) + 1)
        weights = np.maximum(0, 1 - np.abs(np.subtract.outer(at, knots)))
        return weights @ rng.uniform(-1, 1, (len(knots), len(knots))) @ weights.T

    @property
    def _cells(self) -> tuple[int, int]:
        """Cells of the grid along x and y."""
        patch = self._count(self.patch_m)
        return self.levels * patch, len(self.kinds) * patch

    @property
    def _slope_cells(self) -> int:
        """Cells between a patch's edge and its platform."""
        return (self._count(self.patch_m) - self._count(self.platform_m)) // 2

    def _count(self, length_m: float) -> int:
        """Cells in a length."""
        return round(length_m / self.resolution_m)

    def _check(self, name: str, holds: bool, wanted: str) -> None:
        value = getattr(self, name)
        if not (holds and math.isfinite(value)):
            raise UserError(f"Terrain: {name} = {value:g}: it must be {wanted}")

    def _check_multiple(self, name: str) -> None:
        value, step = getattr(self, name), self.resolution_m
        count = self._count(value)
        if not math.isclose(count * step, value, rel_tol=1e-6):
            raise UserError(
                f"Terrain: {name} = {value:g} is no multiple of resolution_m = {step:g}; "
                f"{max(count, 1) * step:g} would be"
            )
