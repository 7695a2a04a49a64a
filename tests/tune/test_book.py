"""The record of trials: who does which, what is put back, what is pruned. Nothing is trained here."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.helpers import PROBE, TINY

from surefoot.errors import UserError
from surefoot.study.plan import FIRST_TUNING_SEED
from surefoot.tune.by_optuna import JOURNAL, Book
from surefoot.tune.plan import Trial, Tuning, best_of, claim_folder
from surefoot.tune.space import Choices, Range

SPACE = {
    "learning_rate": Range(1e-4, 1e-2, log=True),
    "num_epochs": Range(1, 4),
    "activation": Choices(("tanh", "elu")),
}
TUNING = Tuning(PROBE, TINY, SPACE, seeds=2, evaluations=4, episodes=2)


def opened(path: Path, trials: int = 4, tuning: Tuning = TUNING) -> Book:
    claim_folder(path, tuning)
    return Book(tuning, path, trials)


def score(trial: Trial) -> float:
    return 100.0 * trial.options["learning_rate"] + trial.options["num_epochs"]


def done(path: Path, trials: int) -> list[Trial]:
    """All trials, of a process that does what is left of them."""
    with opened(path, trials) as book:
        while (trial := book.ask()) is not None:
            book.complete(trial, score(trial))
        return book.trials()


def test_the_first_trial_is_the_default_and_all_lie_in_the_space(tmp_path: Path) -> None:
    trials = done(tmp_path, 12)
    assert [trial.number for trial in trials] == list(range(12))
    assert TUNING.config(trials[0].options) == TINY
    for trial in trials:
        assert all(trial.options[name] in part for name, part in SPACE.items())
        assert type(trial.options["num_epochs"]) is int
        assert trial.score == pytest.approx(score(trial))
    assert best_of(trials) == max(trials, key=score)


@pytest.mark.parametrize("seed", range(40))
def test_a_record_that_is_damaged_is_read_or_named_with_a_way_out(
    seed: int, tmp_path: Path
) -> None:
    done(tmp_path, 3)
    random, file = np.random.default_rng(seed), tmp_path / JOURNAL
    lines = file.read_bytes().splitlines(keepends=True)
    k, byte, said = int(random.integers(len(lines))), None, ""
    if seed % 2:  # a byte
        line = bytearray(lines[k])
        byte = int(random.choice([0x00, 0xFF, ord("{"), ord("9")]))
        line[random.integers(len(line) - 1)] = byte
        lines[k] = bytes(line)
    else:  # what it says
        row = json.loads(lines[k])
        row[str(random.choice([*row]))] = random.choice([None, -1, 10**9, "x"])
        lines[k] = json.dumps(row, default=int).encode() + b"\n"
    file.write_bytes(b"".join(lines))
    try:
        with opened(tmp_path, 4) as book:
            book.trials()
    except UserError as error:
        said = str(error)
    assert not said or (f"{file}" in said and "choose another --run-dir" in said)
    assert said or byte not in (0x00, 0xFF)


def test_of_equal_scores_the_first_is_the_best(tmp_path: Path) -> None:
    with opened(tmp_path) as book:
        while (trial := book.ask()) is not None:
            book.complete(trial, 500.0)
        best = best_of(book.trials())
    assert best is not None
    assert best.number == 0


def test_a_score_that_none_can_exceed_ends_the_search(tmp_path: Path) -> None:
    tuning = replace(TUNING, task="CartPole-v1")
    with opened(tmp_path, 5, tuning) as book:
        first, second = book.ask(), book.ask()
        assert first is not None
        assert second is not None
        book.complete(first, 499.9)
        third = book.ask()
        assert third is not None
        book.complete(third, 500.0)
        assert book.ask() is None


def test_trials_are_the_same_in_one_piece_and_in_several(tmp_path: Path) -> None:
    whole = done(tmp_path / "whole", 14)
    for trials in (1, 5, 14):
        done(tmp_path / "pieces", trials)
    pieces = done(tmp_path / "pieces", 14)
    assert [t.options for t in pieces] == [t.options for t in whole]
    assert len({str(t.options) for t in whole}) == 14


def test_what_a_process_that_is_gone_has_left_is_put_back_and_nothing_else(tmp_path: Path) -> None:
    gone, here = opened(tmp_path), opened(tmp_path)
    with here:
        with gone:
            first, left = gone.ask(), gone.ask()
            assert first is not None
            assert left is not None
            gone.complete(first, 1.0)
            mine = here.ask()
            assert mine is not None
            assert mine.options != left.options  # who is alive keeps what it does
        again = here.ask()
        assert again is not None
        assert again.options == left.options
        assert again.folder == left.folder  # what its seeds have left is there
        assert here.ask() is not None
        assert here.ask() is None  # four of them, the one that was interrupted aside
        states = [trial.state for trial in here.trials()]
    assert states == ["complete", "interrupted", "running", "running", "running"]


def test_an_interrupted_trial_is_done_again_by_the_same_process(tmp_path: Path) -> None:
    with opened(tmp_path, 1) as book:
        trial = book.ask()
        assert trial is not None
        book.put_back(trial)
        again = book.ask()
        assert again is not None
        assert (again.options, again.folder) == (trial.options, trial.folder)


def test_a_trial_below_the_median_is_pruned(tmp_path: Path) -> None:
    with opened(tmp_path, 7) as book:
        for value in range(5):
            trial = book.ask()
            assert trial is not None
            assert not any(book.tell(trial, place, float(value)) for place in range(4))
            book.complete(trial, float(value))
        bad, good = book.ask(), book.ask()
        assert bad is not None
        assert good is not None
        assert not book.tell(bad, 0, 0.5)  # too early to tell
        assert book.tell(bad, 1, 1.5)
        assert not book.tell(good, 1, 2.5)
        book.end(bad, "pruned", "it is behind")
        found = book.trials()[bad.number]
    assert (found.state, found.score, found.reason) == ("pruned", 1.5, "it is behind")


def test_options_that_do_not_go_together_waste_no_trial(tmp_path: Path) -> None:
    space = {"num_minibatches": Choices((3, 4, 8)), "learning_rate": Range(1e-4, 1e-2)}
    tuning = Tuning(PROBE, TINY, space, seeds=1)
    with opened(tmp_path, 6, tuning) as book:
        while (trial := book.ask()) is not None:
            assert trial.options["num_minibatches"] != 3
            book.complete(trial, 1.0)
        trials = book.trials()
    refused = [trial for trial in trials if trial.state == "refused"]
    assert refused
    assert len(trials) == 6 + len(refused)
    assert all("num_minibatches = 3 does not divide the batch" in t.reason for t in refused)


def test_a_space_of_nothing_that_goes_together_ends_with_the_reason(tmp_path: Path) -> None:
    tuning = Tuning(PROBE, TINY, {"num_minibatches": Choices((3, 5))}, seeds=1)
    with opened(tmp_path, 6, tuning) as book, pytest.raises(UserError, match="does not divide"):
        book.ask()


def test_half_a_line_that_a_power_cut_left_is_no_end(tmp_path: Path) -> None:
    before = done(tmp_path, 3)
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    assert done(tmp_path, 3) == before
    assert len(done(tmp_path, 4)) == 4


def test_the_record_is_lines_of_json(tmp_path: Path) -> None:
    done(tmp_path, 2)
    for line in (tmp_path / JOURNAL).read_text(encoding="utf-8").splitlines():
        assert isinstance(json.loads(line), dict)


def test_importance_finds_what_matters(tmp_path: Path) -> None:
    tuning = Tuning(PROBE, TINY, {**SPACE, "gamma": Range(0.9, 0.99)}, seeds=1)
    for trials in (7, 30):
        with opened(tmp_path, trials, tuning) as book:
            while (trial := book.ask()) is not None:
                book.complete(trial, -abs(trial.options["gamma"] - 0.93))
            shares = book.importance()
        assert bool(shares) == (trials == 30)  # seven are too few
    assert max(shares, key=lambda name: shares[name].estimate) == "gamma"
    assert sum(share.estimate for share in shares.values()) == pytest.approx(1.0)
    assert all(share.low <= share.estimate <= share.high for share in shares.values())


def test_seeds_of_trials_and_of_the_judgment_are_disjoint() -> None:
    trial = Trial(0, {"learning_rate": 1e-3}, "complete", 1.0, "", "trials/0", 1.0)
    judged = TUNING.judgment(trial, 10)
    assert list(TUNING.every_seed()) == [FIRST_TUNING_SEED, FIRST_TUNING_SEED + 1]
    assert set(judged.every_seed).isdisjoint(TUNING.every_seed())
    assert [TUNING.job(trial, seed).seeds for seed in TUNING.every_seed()] == [
        (FIRST_TUNING_SEED,),
        (FIRST_TUNING_SEED + 1,),
    ]
    assert judged.arms == {"default": {}, "tuned": {"learning_rate": 1e-3}}


def test_the_default_is_not_judged_against_itself() -> None:
    options = {name: getattr(TINY, name) for name in SPACE}
    trial = Trial(0, options, "complete", 1.0, "", "trials/0", 1.0)
    assert TUNING.judgment(trial, 3).arms == {"default": {}}


def test_without_the_extra_one_sentence_names_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'surefoot\[tune\]'"):
        opened(tmp_path)


def test_a_database_is_a_record_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    claim_folder(tmp_path / "run", TUNING)
    for trials in (2, 3):
        with Book(TUNING, tmp_path / "run", trials, url) as book:
            while (trial := book.ask()) is not None:
                book.complete(trial, score(trial))
            assert len(book.trials()) == trials
    with pytest.raises(UserError, match="--storage cannot be opened"):
        Book(TUNING, tmp_path / "run", 1, "nonsense")
