"""What of a model is there to be looked at: left out where it is stepped, made up for where it is shown."""

# MuJoCo's names come from an extension without types
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from pathlib import Path

import mujoco

_SKY, _TILES = "surefoot sky", "surefoot tiles"
_TILE_M = 0.5
_SENSORS = mujoco.mjtSensor
_SEEING = (  # geoms that collide with nothing
    *(_SENSORS.mjSENS_RANGEFINDER, _SENSORS.mjSENS_GEOMDIST, _SENSORS.mjSENS_GEOMNORMAL),
    *(_SENSORS.mjSENS_GEOMFROMTO, _SENSORS.mjSENS_TACTILE),
    *(_SENSORS.mjSENS_PLUGIN, _SENSORS.mjSENS_USER),
)


def leave_out_looks(spec: mujoco.MjSpec) -> None:
    """Delete geoms that collide with nothing, weigh nothing and have no name, and meshes nobody needs then.

    Their places are calculated in every step, which takes 11% of Go1's pace; the robot moves as before. Where
    a sensor may see them, a fluid feels them or masses come from them, they stay.
    """
    ranged = any(sensor.type in _SEEING for sensor in spec.sensors)
    weighed = spec.compiler.inertiafromgeom == mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_TRUE
    if ranged or weighed or spec.option.density or spec.option.viscosity:
        return
    for geom in list(spec.geoms):
        body = geom.parent
        weightless = body.explicitinertial or body.name == "world"
        if not geom.name and not geom.contype and not geom.conaffinity and weightless:
            spec.delete(geom)
    needed = {geom.meshname for geom in spec.geoms}
    for mesh in list(spec.meshes):
        if (mesh.name or Path(mesh.file).stem) not in needed:
            spec.delete(mesh)


def dress(spec: mujoco.MjSpec) -> bool:
    """Give a model a sky, a light and tiles on its bare floors, where it has none; it moves as before.

    Returns:
        Whether there was a bare floor: nobody has lit it to be looked at.
    """
    kinds = mujoco.mjtTexture
    if not any(texture.type == kinds.mjTEXTURE_SKYBOX for texture in spec.textures):
        spec.add_texture(
            name=_SKY,
            type=kinds.mjTEXTURE_SKYBOX,
            builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
            rgb1=[0.45, 0.60, 0.78],
            rgb2=[0.86, 0.90, 0.94],
            width=256,
            height=1536,
        )
    if not spec.lights:
        spec.worldbody.add_light(
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
            pos=[0, 0, 4],
            dir=[-0.5, 0.6, -1],
            diffuse=[0.8, 0.8, 0.8],
        )
    grounds = (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_HFIELD)
    bare = [g for g in spec.geoms if g.type in grounds and not g.material]
    if not bare:
        return False
    spec.add_texture(
        name=_TILES,
        type=kinds.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=[0.80, 0.82, 0.84],
        rgb2=[0.66, 0.69, 0.72],
        width=256,
        height=256,
    )
    material = spec.add_material(name=_TILES, texuniform=True, texrepeat=[1 / _TILE_M] * 2)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = _TILES
    for geom in bare:
        geom.material, geom.rgba = _TILES, [1, 1, 1, 1]
    return True
