"""Where programs run, in what order, and what becomes of what they raise."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefoot.config import Config
from surefoot.update.executors import (
    Executor,
    Executors,
    Serial,
    Thread,
    make_executors,
    resolve,
)


@pytest.fixture
def thread() -> Iterator[Thread]:
    executor = Thread("test")
    yield executor
    executor.close()


@pytest.fixture(params=["serial", "thread"])
def either(request: pytest.FixtureRequest) -> Iterator[Executor]:
    executor = Serial() if request.param == "serial" else Thread("test")
    yield executor
    executor.close()


def fails() -> Any:
    raise RuntimeError("no memory")


def finished(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def test_resolving_puts_results_in_the_place_of_their_futures() -> None:
    tree = {"a": (finished(1), 2), "b": [finished({"c": 3})], "d": None}
    assert resolve(tree) == {"a": (1, 2), "b": [{"c": 3}], "d": None}
    rows = jnp.arange(3)
    assert resolve((rows, 5.0)) == (rows, 5.0)


def test_resolving_raises_what_a_program_raised() -> None:
    failed: Future[Any] = Future()
    failed.set_exception(RuntimeError("no memory"))
    with pytest.raises(RuntimeError, match="no memory"):
        resolve({"a": [finished(1), failed]})


def test_in_turn_a_program_has_run_on_the_callers_thread_when_it_is_submitted() -> None:
    ran = []
    result = Serial().submit(lambda x: ran.append(threading.current_thread()) or x + 1, 2)
    assert result == 3
    assert ran == [threading.current_thread()]


def test_a_program_waits_for_the_futures_among_its_arguments(either: Executor) -> None:
    result = either.submit(lambda x, rest: x + rest["y"][0], finished(1), {"y": [finished(2)]})
    assert resolve(result) == 3


def test_beside_its_caller_a_thread_keeps_the_order_of_its_programs(thread: Thread) -> None:
    gate, order = threading.Event(), []

    def slow() -> int:
        assert gate.wait(60)
        order.append("first")
        return 20

    thread.submit(slow)
    second = thread.submit(lambda: order.append("second") or 21)
    order.append("caller")  # in turn, `slow` would still be waiting for the line after this
    gate.set()
    assert resolve({"a": (second, 3)}) == {"a": (21, 3)}
    assert order == ["caller", "first", "second"]


def test_programs_run_on_a_thread_of_its_own_by_its_name(thread: Thread) -> None:
    names = {resolve(thread.submit(lambda: threading.current_thread().name)) for _ in range(3)}
    assert names == {"surefoot-test_0"}


def test_parts_are_the_results_in_their_order(either: Executor) -> None:
    parts = either.submit(lambda: ("a", {"b": 2}, [3]), parts=3)
    assert isinstance(parts, tuple)
    assert len(parts) == 3
    assert resolve(parts) == ("a", {"b": 2}, [3])


def test_without_parts_a_tuple_is_one_result(either: Executor) -> None:
    assert resolve(either.submit(lambda: (1, 2))) == (1, 2)


def test_a_part_may_go_on_into_the_next_program_while_the_whole_is_in_the_making(
    thread: Thread,
) -> None:
    gate = threading.Event()
    first, second = thread.submit(lambda: (gate.wait(60), 7), parts=2)
    assert not first.done()
    assert not second.done()
    after = thread.submit(lambda a, b: (a, b), first, second)
    gate.set()
    assert resolve(after) == (True, 7)


def test_what_a_thread_raises_is_raised_where_the_result_is_used(thread: Thread) -> None:
    failed = thread.submit(fails)
    parts = thread.submit(fails, parts=2)
    for result in (failed, [failed], *parts):
        with pytest.raises(RuntimeError, match="no memory"):
            resolve(result)
    with pytest.raises(RuntimeError, match="no memory"):
        Serial().submit(lambda x: x, parts[1])
    passed_on = thread.submit(lambda x: x, parts[0], parts=1)
    with pytest.raises(RuntimeError, match="no memory"):
        resolve(passed_on)
    assert resolve(thread.submit(lambda: 1)) == 1  # it goes on


def test_in_turn_what_a_program_raises_is_raised_at_once() -> None:
    with pytest.raises(RuntimeError, match="no memory"):
        Serial().submit(fails, parts=2)


def test_closing_waits_for_what_was_submitted_and_ends_the_thread() -> None:
    before, executor, gate = threading.active_count(), Thread("test"), threading.Event()
    result = executor.submit(lambda: gate.wait(60) and "done")
    threading.Timer(0.05, gate.set).start()
    executor.close()
    assert result.done()
    assert result.result() == "done"
    for other in threading.enumerate():
        if isinstance(other, threading.Timer):
            other.join()
    assert threading.active_count() == before
    Serial().close()


def test_a_result_of_a_thread_is_computed_and_not_merely_dispatched(thread: Thread) -> None:
    """A future that is done holds numbers: whoever measures time measures the program's."""
    waited = []
    original = jax.block_until_ready

    def noting(tree: Any) -> Any:
        waited.append(threading.current_thread().name)
        return original(tree)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "block_until_ready", noting)
        result = resolve(thread.submit(lambda x: x * 2, jnp.arange(3)))
    np.testing.assert_array_equal(result, [0, 2, 4])
    assert waited == ["surefoot-test_0"]


@pytest.mark.parametrize(
    ("options", "main", "critic"),
    [
        ({"overlap": "off"}, Serial, Serial),
        ({"overlap": "exact"}, Serial, Thread),
        ({"overlap": "full"}, Thread, Thread),
        ({"overlap": "full", "max_lag": 0}, Thread, Thread),
        # one program, which acting needs
        ({"overlap": "exact", "joint_loss": True}, Serial, Serial),
        ({"overlap": "exact", "shared_trunk": True}, Serial, Serial),
        ({"overlap": "exact", "recompute_advantages": True}, Serial, Serial),
        ({"overlap": "full", "joint_loss": True}, Thread, Thread),
    ],
    ids=str,
)
def test_overlap_says_who_has_a_thread(options: dict, main: type, critic: type) -> None:
    made = make_executors(Config(**options))
    assert (type(made.main), type(made.critic)) == (main, critic)
    assert made.main is not made.critic
    names = [resolve(x.submit(lambda: threading.current_thread().name)) for x in made]
    own = threading.current_thread().name
    expected = {Serial: (own, own), Thread: ("surefoot-actor_0", "surefoot-critic_0")}
    assert names == [expected[main][0], expected[critic][1]]
    made.close()


def test_closing_executors_closes_both() -> None:
    closed = []

    class Noting(Serial):
        def close(self) -> None:
            closed.append(self)

    pair = Executors(Noting(), Noting())
    pair.close()
    assert closed == [pair.main, pair.critic]
