"""What the calibration reads from outside: how a command ended, starts, errors compared with stated ones."""

import json

import numpy as np
import pandas as pd
import pytest

from bench import Measured
from calibration.comparison import calibration_of_errors
from calibration.measure import metrics_of, starts, status


@pytest.mark.parametrize(
    ("returncode", "cpu_s", "expected"),
    [(0, 30.0, "finished"), (-9, 399.0, "not finished"), (-9, 330.0, "error"), (1, 400.0, "error")],
)
def test_a_run_is_not_finished_only_if_the_limit_stopped_it(returncode, cpu_s, expected):
    assert status(Measured(returncode, cpu_s, cpu_s, 0, False), 400) == expected


def test_starts_are_read_from_a_log_that_ends_within_a_line(tmp_path):
    lines = [
        {"metrics": {"evidence": -1.0}},
        {"metrics": {"evidence": -1.0, "start_evidence": -2.0}},
        {"metrics": {"start_evidence": -3.0, "likeness_to_0": 0.4}},
        {"metrics": {"shell": 9.0}, "stage": "refine"},
    ]
    lines = [{"stage": "abinit", "resolution_angstrom": 20.0} | line for line in lines]
    whole = "".join(json.dumps(x) + "\n" for x in lines)
    (tmp_path / "metrics.jsonl").write_text(whole + '{"metrics": {"start_ev')
    first, second = {"start_evidence": -2.0}, {"start_evidence": -3.0, "likeness_to_0": 0.4}
    assert starts(tmp_path) == [x | {"resolution_angstrom": 20.0} for x in (first, second)]
    assert metrics_of(tmp_path, "refine") == [{"shell": 9.0, "resolution_angstrom": 20.0}]
    assert starts(tmp_path / "none") == []


def test_shares_within_the_stated_error_count_lost_images_only_among_all():
    degrees, shift = np.array([1.0, 3.0, 2.0, 90.0]), np.array([0.5, 0.5, 2.0, 9.0])
    table = pd.DataFrame({"cryoloomAngularErrorDegrees": [2.0] * 4, "cryoloomShiftErrorAngst": [1.0] * 4})
    found = calibration_of_errors(degrees, shift, table)
    assert found["rotation_within_sd"] == 0.5
    assert found["rotation_within_sd_placed"] == pytest.approx(2 / 3)
    assert found["shift_within_sd"] == 0.5
    assert found["rotation_ratio"][0] == 0.5
    assert found["rotation_ratio"][-1] == 1.5
    lost = calibration_of_errors(np.array([90.0]), np.array([9.0]), table[:1])
    assert lost["rotation_within_sd_placed"] is None
