"""In which order hooks hear of a run, and that each of them is ended whatever happens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from surefoot.training import Hook
from surefoot.training.hooks import Listeners

RUN: Any = SimpleNamespace(
    policy=lambda state: f"policy of step {state.step}", config=SimpleNamespace(total_steps=10)
)


class Named(Hook):
    """Writes down what it hears; fails at the events that it is told to."""

    def __init__(self, name: str, heard: list[Any], *fails: str) -> None:
        self.name, self.heard, self.fails = name, heard, fails

    def hear(self, event: str, *details: Any) -> None:
        self.heard.append((self.name, event, *details))
        if event in self.fails:
            raise OSError(f"{self.name} cannot {event}")

    def on_start(self, run: Any) -> None:
        assert run is RUN
        self.hear("start")

    def on_iteration(self, state: Any, metrics: Any) -> None:
        self.hear("iteration", state.step, metrics["loss"])

    def on_log(self, text: str) -> None:
        self.hear("log", text)

    def on_failure(self, state: Any, error: Exception) -> None:
        self.hear("failure", state.step, str(error))

    def on_end(self, state: Any, policy: Any, *, finished: bool) -> None:
        assert policy == f"policy of step {state.step}"
        self.hear("end", state.step, finished)


def during(
    *fails: tuple[str, str], last: int = 10, block: BaseException | None = None
) -> list[Any]:
    """What hooks a, b and c hear of a run that ends at a step, or with an error of the block."""
    heard: list[Any] = []
    hooks = [Named(x, heard, *(event for name, event in fails if name == x)) for x in "abc"]
    now = SimpleNamespace(step=0)
    try:
        with Listeners(hooks).during(RUN, lambda: now):
            now = SimpleNamespace(step=last)
            if block:
                raise block
    except BaseException as error:
        heard.append(error)
    return heard


def test_hooks_start_in_order_and_end_in_reverse_with_the_newest_state() -> None:
    assert during() == [
        *[(name, "start") for name in "abc"],
        *[(name, "end", 10, True) for name in "cba"],
    ]


@pytest.mark.parametrize(("last", "finished"), [(9, False), (10, True), (11, True)])
def test_a_run_is_finished_where_all_its_steps_are_done(last: int, finished: bool) -> None:
    assert during(last=last)[-1] == ("a", "end", last, finished)


def test_a_failure_is_told_to_all_before_any_is_ended_and_goes_on_to_the_caller() -> None:
    error = ValueError("diverged")
    assert during(last=4, block=error) == [
        *[(name, "start") for name in "abc"],
        *[(name, "failure", 4, "diverged") for name in "abc"],
        *[(name, "end", 4, False) for name in "cba"],
        error,
    ]


def test_an_interruption_is_no_failure_and_ends_the_hooks() -> None:
    error = KeyboardInterrupt()
    assert during(last=4, block=error)[3:] == [
        *[(name, "end", 4, False) for name in "cba"],
        error,
    ]


def test_a_hook_that_fails_to_start_is_not_ended_and_those_before_it_are() -> None:
    *heard, error = during(("b", "start"))
    assert heard == [("a", "start"), ("b", "start"), ("a", "end", 0, False)]
    assert str(error) == "b cannot start"


@pytest.mark.parametrize("failing", ["a", "b", "c", "ac", "abc"])
def test_every_hook_is_ended_even_if_anothers_end_fails(failing: str) -> None:
    *heard, error = during(*[(name, "end") for name in failing])
    assert heard[3:] == [(name, "end", 10, True) for name in "cba"]
    assert str(error) == f"{failing[0]} cannot end"  # the last one to fail


def test_every_hook_is_ended_even_if_one_cannot_bear_the_failure() -> None:
    *heard, error = during(("b", "failure"), last=4, block=ValueError("diverged"))
    assert heard[3:] == [
        ("a", "failure", 4, "diverged"),
        ("b", "failure", 4, "diverged"),
        *[(name, "end", 4, False) for name in "cba"],
    ]
    assert str(error) == "b cannot failure"
    assert str(error.__context__) == "diverged"  # which is not lost


def test_iterations_and_words_are_heard_in_order() -> None:
    heard: list[Any] = []
    listeners = Listeners([Named(name, heard) for name in "ab"])
    state: Any = SimpleNamespace(step=7)
    listeners.on_iteration(state, {"loss": 0.5})
    listeners.log("slow")
    assert heard == [
        *[(name, "iteration", 7, 0.5) for name in "ab"],
        *[(name, "log", "slow") for name in "ab"],
    ]


def test_a_hook_that_overrides_nothing_hears_everything_and_does_nothing() -> None:
    state: Any = SimpleNamespace(step=10)
    listeners = Listeners([Hook()])

    def whole_run() -> None:
        with listeners.during(RUN, lambda: state):
            listeners.on_iteration(state, {})
            listeners.log("slow")
            raise ValueError("diverged")

    with pytest.raises(ValueError, match="diverged"):
        whole_run()
