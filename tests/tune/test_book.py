"""The record of trials: who does which, what is put back, what is pruned. Nothing is trained here."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers import PROBE, TINY

from surefoot.errors import UserError
from surefoot.study.plan import FIRST_TUNING_SEED
from surefoot.tune.by_optuna import JOURNAL, Book, check_storage
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


@pytest.mark.parametrize("is_put_back", [False, True])
def test_of_equal_scores_the_default_is_the_best(is_put_back: bool, tmp_path: Path) -> None:
    with opened(tmp_path) as book:
        if is_put_back:  # then another trial comes to its end before it
            default, other = book.ask(), book.ask()
            assert default is not None
            assert other is not None
            book.put_back(default)
            book.complete(other, 500.0)
        while (trial := book.ask()) is not None:
            book.complete(trial, 500.0)
        best = best_of(book.trials())
    assert best is not None
    assert best.is_default
    assert TUNING.config(best.options) == TINY
    assert (best.number == 0) != is_put_back


def told(book: Book, trial: Trial | None, returns: list[float]) -> Trial:
    """A trial of two seeds that came to its end with these returns of each seed."""
    assert trial is not None
    for place, value in enumerate([*returns, *returns]):
        book.tell(trial, place, value)
    book.complete(trial, returns[-1])
    return trial


def test_a_score_that_none_can_exceed_ends_the_search_if_it_lasts(tmp_path: Path) -> None:
    with opened(tmp_path, 9, replace(TUNING, task="CartPole-v1")) as book:
        told(book, book.ask(), [500.0, 500.0, 500.0, 499.9])
        told(book, book.ask(), [100.0, 300.0, 499.0, 500.0])  # lucky, at its end
        book.complete(book.ask(), 500.0)  # nobody knows what was before
        assert book.why_ended == ""
        last = told(book, book.ask(), [100.0, 300.0, 500.0, 500.0])
        assert book.ask() is None
        assert f"trial {last.number} returned 500, the most" in book.why_ended


@pytest.mark.parametrize("seed", range(5))
def test_a_small_space_is_tried_once_and_then_over(seed: int, tmp_path: Path) -> None:
    space = {"num_epochs": Range(1, 3), "num_minibatches": Choices((2, 3, 4))}  # 3 is refused
    tuning = Tuning(PROBE, TINY, space, seeds=1, sampler_seed=seed)
    with opened(tmp_path, 50, tuning) as book:
        while (trial := book.ask()) is not None:
            book.complete(trial, 1.0)
        assert book.why_ended == "all 9 combinations of the space have been tried"
        trials = book.trials()
    states = [trial.state for trial in trials if trial.state != "repeated"]
    assert sorted(states) == ["complete"] * 6 + ["refused"] * 3
    tried = [str(trial.options) for trial in trials if trial.was_tried]
    assert len(set(tried)) == len(tried) == 9


def test_where_little_goes_together_what_was_found_is_kept(tmp_path: Path) -> None:
    space = {"num_minibatches": Range(5, 10**5), "gamma": Range(0.9, 0.99)}
    tuning = Tuning(PROBE, TINY.replace(num_minibatches=8), space, seeds=1)
    with opened(tmp_path, 50, tuning) as book:
        while (trial := book.ask()) is not None:
            book.complete(trial, 1.0)
        assert "50 combinations in a row were refused" in book.why_ended
        assert best_of(book.trials()) is not None


def test_a_batch_beyond_the_budget_is_refused(tmp_path: Path) -> None:
    space = {"num_steps": Choices((16, 4096))}
    with opened(tmp_path, 9, Tuning(PROBE, TINY, space, seeds=1)) as book:
        while (trial := book.ask()) is not None:
            assert trial.options["num_steps"] == 16
            book.complete(trial, 1.0)
        (refused,) = [trial for trial in book.trials() if trial.state == "refused"]
    assert "16,384 steps is more than the budget, --total-steps" in refused.reason


def test_trials_are_the_same_in_one_piece_and_in_several(tmp_path: Path) -> None:
    whole = done(tmp_path / "whole", 14)
    for trials in (1, 5, 14):
        done(tmp_path / "pieces", trials)
    pieces = done(tmp_path / "pieces", 14)
    assert [t.options for t in pieces] == [t.options for t in whole]
    assert len({str(t.options) for t in whole}) == 14


@pytest.mark.parametrize("place", [0, 1, 6, 9])
def test_an_interruption_changes_no_trial(place: int, tmp_path: Path) -> None:
    whole = done(tmp_path / "whole", 10)
    with opened(tmp_path / "cut", 10) as book:
        while (trial := book.ask()) is not None:
            if len(book.trials()) == place + 1:
                book.put_back(trial)
            else:
                book.complete(trial, score(trial))
        trials = book.trials()
    assert [t.state for t in trials].count("interrupted") == 1
    assert [t.options for t in trials if t.state == "complete"] == [t.options for t in whole]


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


@pytest.mark.extended
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
    trial = Trial(0, {"learning_rate": 1e-3}, False, "complete", 1.0, "", "trials/0", 1.0)
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
    trial = Trial(0, options, True, "complete", 1.0, "", "trials/0", 1.0)
    assert TUNING.judgment(trial, 3).arms == {"default": {}}


def test_without_the_extra_one_sentence_names_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'surefoot\[tune\]'"):
        opened(tmp_path)


def test_a_record_that_has_lost_what_was_trained_is_refused(tmp_path: Path) -> None:
    done(tmp_path, 3)
    (tmp_path / "trials" / "0").mkdir(parents=True)
    for damage in (lambda file: file.write_bytes(b""), Path.unlink):
        damage(tmp_path / JOURNAL)
        with pytest.raises(UserError, match="holds no trial of this folder"):
            opened(tmp_path)


def test_no_trial_begins_in_what_another_has_left(tmp_path: Path) -> None:
    with opened(tmp_path) as book:
        (tmp_path / "trials" / "0").mkdir(parents=True)
        (tmp_path / "trials" / "0-1").mkdir()
        first, second = book.ask(), book.ask()
        assert first is not None
        assert second is not None
        assert (first.folder, second.folder) == ("trials/0-2", "trials/1")


def test_a_crash_between_putting_back_and_ending_puts_back_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as book:
        trial = book.ask()
        assert trial is not None

        def crash(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(book._study, "tell", crash)
            with pytest.raises(KeyboardInterrupt):
                book.put_back(trial)
        book.put_back(trial)
        folders = [t.folder for t in book.trials() if t.state == "waiting"]
    assert folders == [trial.folder]


def test_folders_share_a_database_and_no_trial(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    for name in ("one", "two"):
        claim_folder(tmp_path / name, TUNING)
    with (
        Book(TUNING, tmp_path / "one", 3, url) as one,
        Book(TUNING, tmp_path / "two", 3, url) as two,
    ):
        mine = one.ask()
        assert mine is not None
        assert two.trials() == []
        theirs = two.ask()
        assert theirs is not None
        assert theirs.is_default
        two.complete(theirs, 1.0)
        one.complete(mine, 2.0)
        assert [trial.score for trial in one.trials()] == [2.0]
        with Book(TUNING, tmp_path / "one", 3, url) as again:
            assert [trial.score for trial in again.trials()] == [2.0]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite+pysqlite://", "", "x"])
def test_a_database_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="--storage"):
        check_storage(url)


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
