"""Use of a task's mirror image: an equivariant actor, and mirror images of what was collected."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import TINY, Recorder

import surefoot
from surefoot.config import validate
from surefoot.envs import ActionSpec, EnvSpec, ObservationSpec, Symmetry
from surefoot.errors import UserError
from surefoot.functional import Reflection
from surefoot.robots.tasks.quadrupeds import Go1Walk
from surefoot.training import train


@pytest.mark.extended
@pytest.mark.parametrize("std", [False, True], ids=["free std", "std by state"])
def test_an_averaged_actor_is_exactly_equivariant_also_when_loaded(
    std: bool, tmp_path: Path
) -> None:
    config = TINY.replace(symmetry="average", state_dependent_std=std, policy_output_scale=1.0)
    surefoot.train(Go1Walk(), config=config, run_dir=tmp_path / "r", progress=False)
    loaded = surefoot.load_policy(tmp_path / "r")
    symmetry = loaded.policy.actor.symmetry
    assert symmetry is not None
    rows = jax.random.normal(jax.random.key(0), (5, 50))
    images = dict(symmetry.inputs)["observation"](rows)

    def distribution(x):
        inputs = loaded.policy.normalizer({"observation": x})
        return loaded.policy.actor.step(inputs, (), jnp.zeros(5, bool))[0]

    mine, theirs = distribution(rows), distribution(images)
    assert np.abs(mine.mean).max() > 0.1
    np.testing.assert_allclose(symmetry.action(mine.mean), theirs.mean, atol=1e-6)
    np.testing.assert_allclose(symmetry.action.unsigned(mine.std), theirs.std, atol=1e-6)


@pytest.mark.extended
@pytest.mark.parametrize("options", [{}, {"gsde": True}], ids=str)
def test_mirror_images_are_learned_from_as_well(options: dict) -> None:
    heard = {}
    for mode in ("off", "augment"):
        heard[mode] = Recorder()
        train(Go1Walk(), TINY.replace(symmetry=mode, **options), hooks=[heard[mode]])
    first = {mode: x.rows[0] for mode, x in heard.items()}
    # the same was collected, another update came of it
    assert first["off"]["reward/tracking"] == first["augment"]["reward/tracking"]
    assert first["off"]["loss/policy"] != first["augment"]["loss/policy"]
    assert first["augment"]["policy/first_ratio_error"] < 1e-4


def spec(symmetry: Symmetry | None) -> EnvSpec:
    action = ActionSpec("continuous", (1,), (-1.0,), (1.0,), (1,))
    groups = {"observation": ObservationSpec((1,))}
    return EnvSpec("a task", 1, groups, action, in_graph=False, symmetry=symmetry)


@pytest.mark.parametrize(
    ("task", "options", "says"),
    [
        (
            None,
            {"symmetry": "average"},
            "does not say what its mirror image is .*; take symmetry = 'off'",
        ),
        (
            "known",
            {"symmetry": "augment", "distribution": "beta"},
            "not for beta; take symmetry = 'off'",
        ),
    ],
)
def test_what_has_no_mirror_image_is_refused(task: str | None, options: dict, says: str) -> None:
    from surefoot.agent import make_agent

    flip = Reflection((0,), (-1.0,))
    known = Symmetry({"observation": flip}, flip) if task else None
    with pytest.raises(UserError, match=says):
        make_agent(TINY.replace(**options), spec(known))


def test_symmetry_and_memory_are_refused_together() -> None:
    with pytest.raises(UserError, match="symmetry = 'average' with memory = 'gru'"):
        validate(TINY.replace(symmetry="average", memory="gru"))
