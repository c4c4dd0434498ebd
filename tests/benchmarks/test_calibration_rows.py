"""The results file of the calibration: resumed, cut off, shared."""

import multiprocessing

import pytest

from calibration.plan import plan
from calibration.rows import append, claimed, missing, read

from .rows_of_runs import GOOD, row, truth

CASES = plan()[:5]


def test_what_has_a_row_is_not_run_again(tmp_path):
    path = tmp_path / "results.jsonl"
    assert missing(CASES, path) == CASES
    append(path, row(CASES[0], GOOD, truth(1.0)))
    append(path, row(CASES[3], None, None))
    assert missing(CASES, path) == [CASES[1], CASES[2], CASES[4]]
    assert read(path)[CASES[0].id]["run"]["evidence"]["likeness"] == 0.95


def test_a_case_that_has_changed_is_run_again_and_its_newest_row_counts(tmp_path):
    path = tmp_path / "results.jsonl"
    old = row(CASES[0], GOOD, truth(1.0))
    old["case"]["images"] += 1
    append(path, old)
    assert missing(CASES, path) == CASES
    append(path, row(CASES[0], GOOD, truth(0.5)))
    assert read(path)[CASES[0].id]["run"]["truth"]["share"] == 0.5
    assert CASES[0] not in missing(CASES, path)


def test_a_row_of_another_program_is_made_again(tmp_path):
    path = tmp_path / "results.jsonl"
    append(path, row(CASES[0], GOOD, truth(1.0)) | {"program": "old"})
    assert CASES[0] not in missing(CASES, path, {"old", "new"})
    assert CASES[0] in missing(CASES, path, {"new"})


def test_a_line_that_was_cut_off_is_made_again_and_removed(tmp_path):
    path = tmp_path / "results.jsonl"
    append(path, row(CASES[0], GOOD, truth(1.0)))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:100])
    assert CASES[1] in missing(CASES, path)
    assert list(read(path)) == [CASES[0].id]
    append(path, row(CASES[1], GOOD, truth(1.0)))
    assert list(read(path)) == [CASES[0].id, CASES[1].id]


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text("{}\n")
    with pytest.raises(SystemExit, match=r"results\.jsonl, line 1"):
        read(path)


def _claim(folder, found):
    with claimed(CASES[0], folder) as mine:
        found.put(mine)


def test_a_case_is_claimed_by_one_process_at_a_time(tmp_path):
    context = multiprocessing.get_context("fork")
    found = context.SimpleQueue()
    with claimed(CASES[0], tmp_path) as mine:
        assert mine
        other = context.Process(target=_claim, args=(tmp_path, found))
        other.start()
        other.join()
        assert found.get() is False
    _claim(tmp_path, found)
    assert found.get() is True
