"""Environments that authors step themselves: what they hand over is taken, or is one error with a name."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.envs.test_handed_over import HANDED, RAISED
from tests.helpers import TINY

from surefoot.envs import ActionSpec, Environment, EnvSpec, ObservationSpec, SingleEnvironment, Step
from surefoot.envs.guard import Guarded
from surefoot.envs.tasks import make_environment
from surefoot.errors import UserError
from surefoot.training import train

N = 4
SPEC = EnvSpec(
    "fleet",
    N,
    {"arm": ObservationSpec((2,)), "gear": ObservationSpec((1,), (3,), (0,))},
    ActionSpec("discrete", (2,)),
    in_graph=False,
    info=("reward_a",),
)
FIELDS = (*Step._fields[:-1], "arm", "gear", "reward_a", "answer", "raised")


class Fleet(Environment):
    """Steps its environments itself; at one call it hands over something else."""

    def __init__(self, field: str = "", thing: Any = None, at: int = -1, **spec: Any) -> None:
        self.spec = SPEC
        self._wrong, self._calls, self._at = (field, thing), 0, at

    def reset(self, key: jax.Array) -> Any:
        return self._answer()

    def step(self, env_state: Any, action: Any) -> Any:
        return self._answer()

    def _answer(self) -> Any:
        self._calls += 1
        no = np.zeros(N, bool)
        groups = {"arm": np.zeros((N, 2)), "gear": np.zeros((N, 1), int)}
        info = {"reward_a": np.zeros(N)}
        step = Step(groups, np.zeros(N), no, no, ~no, info)
        field, thing = self._wrong
        if self._calls - 1 == self._at:
            if field == "raised":
                raise thing
            if field == "answer":
                return thing
            for inside in (groups, info):
                if field in inside:
                    inside[field] = thing
            if field in Step._fields:
                step = step._replace(**{field: thing})
        return None, step


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FIELDS), HANDED, RAISED, st.integers(0, 2))
def test_whatever_is_handed_over_is_taken_or_named(
    field: str, thing: Any, raised: Any, at: int
) -> None:
    guarded = Guarded(Fleet(field, raised if field == "raised" else thing, at))
    said = None
    try:
        guarded.reset(jax.random.key(0))
        for _ in range(2):
            guarded.step(None, np.zeros(N, int))
    except UserError as error:
        said = str(error)
    where = "reset()" if at == 0 else f"step {at}"
    assert said is None or said.startswith(f"fleet, {where}: ")


@pytest.mark.parametrize(
    ("field", "thing", "says"),
    [
        ("reward", np.zeros(N - 1), r"fleet, step 1: reward has shape \[3\], it must be \[4\]"),
        ("valid", np.zeros(N, int), r"step 1: valid is of int64, it must be bool"),
        ("arm", np.zeros((N, 3)), r"observation 'arm' has shape \[4, 3\], it must be \[4, 2\]"),
        ("gear", np.full((N, 1), 3), r"'gear', environment 0: component \[0\] is 3, none of the 3"),
        ("info", {}, r"info has no 'reward_a', which the spec declares"),
        ("raised", ValueError("mine"), r"(?s)step 1: raised ValueError: mine.*test_guard"),
        ("answer", None, r"must return \(state, Step\), not a NoneType"),
    ],
)
def test_training_names_the_step_and_what_is_wrong(field: str, thing: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        train(Fleet(field, thing, 1), TINY)


class Traced(Fleet):
    """The same inside a program."""

    def __init__(self, step: Any) -> None:
        self.spec = EnvSpec("traced", N, {"arm": ObservationSpec((2,))}, SPEC.action, in_graph=True)
        self._step = step

    def reset(self, key: jax.Array) -> Any:
        flags = [jnp.zeros(N, bool)] * 3
        return jnp.zeros(N), Step({"arm": jnp.zeros((N, 2))}, jnp.zeros(N), *flags, {})

    def step(self, env_state: Any, action: Any) -> Any:
        return self._step(self, env_state)


def branches(env: Traced, state: Any) -> Any:
    return env.reset(state) if state[0] > 0 else None


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (
            lambda env, state: (jnp.zeros(N, int), env.reset(state)[1]),
            r"traced: step\(\) returns int32",
        ),
        (branches, r"(?s)traced: step\(\) cannot.*Python's `if`.*in branches"),
        (
            lambda env, state: (state, env.reset(state)[1]._replace(reward=jnp.zeros(()))),
            r"traced, step\(\): reward has shape \[\], it must be \[4\]",
        ),
    ],
)
def test_inside_a_program_too(step: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        train(Traced(step), TINY)


def test_what_has_no_spec_and_no_name_is_named() -> None:
    class Bare(Fleet):
        def __init__(self) -> None:
            pass

    class Nameless(SingleEnvironment):
        def reset(self, key: Any) -> Any: ...

        def step(self, state: Any, action: Any, key: Any) -> Any: ...

    for task, says in ((Bare(), "Bare.*needs the attribute 'spec'"), (Nameless(), "'name'")):
        with pytest.raises(UserError, match=says):
            make_environment(task, N, seed=np.random.SeedSequence(0))


def test_it_cannot_be_made_anew_one_by_one_and_says_so() -> None:
    with pytest.raises(UserError, match="on_env_failure = 'restart' is for gymnasium:ID"):
        train(Fleet(), TINY.replace(on_env_failure="restart"))
