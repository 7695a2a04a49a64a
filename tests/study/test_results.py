"""From scores to what they show: seeds are paired by number, whichever failed."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from tests.study.helpers import Scores, analysed

from surefoot.study.results import _PAPER, to_csv

SEEDS = 6
failed = some.sets(some.integers(0, SEEDS - 1), max_size=SEEDS - 2)


def shifted(arms: tuple[str, ...], failures: list[set[int]], *, tasks: int = 1) -> Scores:
    """Every seed has luck of its own, ten times as much from one to the next; arm k has 5 k more of it."""
    return {
        f"Hopper-v{2 + t}": {
            arm: {s: (1 + t) * 10.0**s + 5.0 * k for s in range(SEEDS) if s not in gone}
            for k, (arm, gone) in enumerate(zip(arms, failures, strict=True))
        }
        for t in range(tasks)
    }


@settings(max_examples=25)
@given(some.lists(failed, min_size=3, max_size=3))
def test_runs_are_compared_seed_by_seed_whichever_failed(failures: list[set[int]]) -> None:
    found = analysed(shifted(("a", "b", "c"), failures), seeds=SEEDS)["tasks"]["Hopper-v2"]
    for k, arm in enumerate("bc", start=1):
        common = set(range(SEEDS)) - failures[0] - failures[k]
        if len(common) < 2:
            assert f"{len(common)} pair(s)" in found[arm]["sentence"]
            continue
        assert found[arm]["pairs"] == len(common)
        unit = np.mean([10.0**seed for seed in common])
        assert found[arm]["difference"]["estimate"] == pytest.approx(5.0 * k)
        assert found[arm]["relative"]["estimate"] == pytest.approx(5.0 * k / unit)
        assert found[arm]["failed"] == len(failures[k])


def test_how_many_seeds_it_takes_is_said_where_a_spread_was_seen() -> None:
    base = {seed: 100.0 + seed for seed in range(SEEDS)}
    alike = {seed: score + 8.0 for seed, score in base.items()}
    apart = {seed: score + 8.0 * (-1) ** seed for seed, score in base.items()}
    scores = {"Hopper-v5": {"base": base, "alike": alike, "apart": apart}}
    found = analysed(scores, seeds=SEEDS)["tasks"]["Hopper-v5"]
    assert "To show" not in found["alike"]["sentence"]
    assert found["alike"]["seeds_to_show_10_percent"] is None
    assert "To show a difference of 10% takes 8 seeds" in found["apart"]["sentence"]


@settings(max_examples=25)
@given(some.lists(failed, min_size=2, max_size=2))
def test_over_all_tasks_too(failures: list[set[int]]) -> None:
    found = analysed(shifted(("a", "b"), failures, tasks=2), seeds=SEEDS)["across_tasks"]["arms"]
    common = set(range(SEEDS)) - failures[0] - failures[1]
    assert ("b" in found) == (len(common) >= 2)
    if "b" not in found:
        return
    units = [
        np.mean([(1 + t) * 10.0**s for s in range(SEEDS) if s not in failures[0]]) for t in (0, 1)
    ]
    assert found["b"]["difference"]["estimate"] == pytest.approx(np.mean([5.0 / x for x in units]))
    # the arm's own mean is of the seeds that are paired, in units of the baseline's
    mine = [[(1 + t) * 10.0**s + 5.0 for s in common] for t in (0, 1)]
    expected = np.mean([np.mean(x) / unit for x, unit in zip(mine, units, strict=True)])
    assert found["b"]["mean"]["estimate"] == pytest.approx(expected)
    assert f"{len(common)} seeds" in found["b"]["sentence"]


@settings(max_examples=25)
@given(some.lists(failed, min_size=4, max_size=4))
def test_the_gaps_of_the_paper_are_of_seeds_that_all_its_arms_have(
    failures: list[set[int]],
) -> None:
    gaps = analysed(shifted(_PAPER, failures), seeds=SEEDS)["gaps"]
    common = set(range(SEEDS)) - set.union(*failures)
    assert bool(gaps) == (len(common) >= 2)
    for found in gaps.values():  # PPO, PPO-M, TRPO and TRPO+ have 0, 5, 10 and 15 more
        assert found["AAI"]["estimate"] == pytest.approx(15.0)
        assert found["ACLI"]["estimate"] == pytest.approx(5.0)


def test_what_was_measured_beside_the_return_is_told_as_the_scores_are() -> None:
    found = analysed({"t": {"a": {0: 1.0, 1: 3.0}, "b": {0: 1.0, 1: 1.0}}}, measures=True)
    of_arm = found["tasks"]["t"]["a"]["measures"]["measure/error"]  # at its end what was scored
    assert (of_arm["estimate"], of_arm["curve"]) == (2.0, [0.0, 2.0])
    without = analysed({"t": {"a": {0: 1.0, 1: 3.0}, "b": {0: 1.0, 1: 1.0}}})
    assert without["tasks"]["t"]["a"]["measures"] == {}


def test_no_name_in_the_csv_is_a_formula() -> None:
    run = {"steps": [10], "returns": [-1.5], "final": -1.5}
    head = {"learning_rate": 1e-3, "seeds": [0, 1]}
    for sign in "=+-@":
        name = f"{sign}1+1"
        job = {"task": name, "arm": f" {name}", "runs": {"0": run}, "errors": {"1": name}, **head}
        lines = list(csv.reader(io.StringIO(to_csv([job]))))
        assert lines[1][:2] == [f"'{name}", f"' {name}"]
        assert lines[1][5] == "-1.5"  # a number stays one
        assert lines[2][7] == f"'{name}"
