"""The arithmetic of the calibration's report, on made-up runs."""

import numpy as np
import pytest

from calibration.fit import counts, grids, share_below, threshold, thresholds
from calibration.judged import evidence_of, judged, lower_bound, resolution_ratio, truth_of, upper_bound
from calibration.report import by_group, confusion, rates, tables, uncertainty
from cryoloom.jobs import verdict
from cryoloom.runs.record import BadRunFolder

from .rows_of_runs import BAD, CASES, GOOD, row, truth

PLAIN = CASES["plain"]


@pytest.mark.parametrize(
    ("share", "reference", "expected"),
    [
        (0.90, 0.95, "right"),
        (0.80, 0.95, "between"),
        (0.40, 0.95, "wrong"),
        (0.50, 0.55, "right"),
        (0.30, 0.40, "between"),  # the true map itself does not reach the floor
        (0.20, 0.40, "wrong"),
    ],
)
def test_a_map_is_right_by_the_share_of_the_search_from_the_truth(share, reference, expected):
    assert truth_of(row(PLAIN, GOOD, truth(share, shell=8.0), truth(reference))) == expected


def test_a_map_as_good_as_the_one_from_the_truth_is_not_wrong_where_no_pose_can_be_found():
    assert truth_of(row(PLAIN, GOOD, truth(0.1, shell=14.0), truth(0.1, shell=15.0))) == "between"


def test_a_mixture_and_noise_are_not_right():
    mixed = row(CASES["mixture"], GOOD, truth(1.0, share_of_all=0.5), truth(1.0, share_of_all=0.5))
    assert truth_of(mixed) == "between"
    assert truth_of(row(CASES["noise"], GOOD, None)) == "wrong"


def test_one_sided_views_need_a_map_that_is_as_good_as_well():
    made = row(CASES["views"], GOOD, truth(0.95, shell=8.0), truth(0.95))
    assert truth_of(made) == "between"
    assert truth_of(row(CASES["views"], GOOD, truth(0.95), truth(0.95))) == "right"


def test_where_the_true_map_is_not_seen_a_map_that_places_little_is_wrong():
    for share, expected in ((0.1, "wrong"), (0.4, "between"), (0.95, "right")):
        made = row(PLAIN, GOOD, truth(share, shell=8.0), truth(0.0))
        made["reference"] = {"status": "not seen"}
        assert truth_of(made) == expected


def test_without_a_reference_only_what_nothing_could_surpass_is_right():
    assert truth_of(row(PLAIN, GOOD, truth(0.92))) == "right"
    assert truth_of(row(PLAIN, GOOD, truth(0.01))) == "between"


def test_rows_are_judged_by_the_verdict_of_today(monkeypatch):
    good = row(PLAIN, GOOD, truth(0.9), truth(0.95))
    assert judged(good).outcome == "converged"
    monkeypatch.setattr(verdict, "CERTAIN", 0.99)
    assert judged(good).outcome == "uncertain"
    ended = judged(row(PLAIN, None, None, truth(0.95)))
    assert (ended.outcome, ended.truth, ended.verdict) == ("not finished", "no map", None)


def test_evidence_of_other_versions_is_read_where_the_verdict_can_do_without_what_is_missing():
    assert evidence_of({"evidence": GOOD | {"no longer used": 1}}, "x").particles == 2000
    assert evidence_of({"evidence": {k: v for k, v in GOOD.items() if k != "likeness"}}, "x").likeness is None
    with pytest.raises(BadRunFolder, match="fitting"):
        evidence_of({"evidence": {k: v for k, v in GOOD.items() if k != "fitting"}}, "x")


def test_the_spread_of_misfits_is_read_from_the_quantiles_of_earlier_runs():
    quantiles = [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert evidence_of({"evidence": GOOD, "particles": {"misfit": quantiles}}, "x").misfit_spread == pytest.approx(
        0.6826, abs=1e-3
    )
    assert evidence_of({"evidence": GOOD}, "x").misfit_spread is None
    stored = {"evidence": GOOD | {"misfit_spread": 2.5}, "particles": {"misfit": quantiles}}
    assert evidence_of(stored, "x").misfit_spread == 2.5


def test_bounds_are_those_of_clopper_and_pearson():
    assert upper_bound(0, 100) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert lower_bound(100, 100) == pytest.approx(0.05 ** (1 / 100))
    assert upper_bound(1, 10) == pytest.approx(0.394, abs=1e-3)
    assert upper_bound(5, 5) == 1.0
    assert lower_bound(0, 5) == 0.0
    assert upper_bound(0, 0) == 1.0


def rows():
    """Three right maps of which two are called converged, and two wrong ones of which one is."""
    return [
        row(PLAIN, GOOD, truth(0.95), truth(0.95)),
        row(CASES["junk"], GOOD, truth(0.9), truth(0.95)),
        row(CASES["views"], BAD, truth(0.9), truth(0.95)),
        row(CASES["noise"], GOOD, None),
        row(CASES["denoised"], BAD, truth(0.01, shell=3.0), truth(0.95)),
        row(CASES["round"], None, None, truth(0.2)),
    ]


def cells(text, start):
    """The cells of the line of a table that starts with a word."""
    line = next(x for x in text.splitlines() if x.startswith(f"| {start} "))
    return [c.strip() for c in line.strip("|").split("|")]


def test_confusion_counts_every_run_once():
    text = confusion([judged(r) for r in rows()])
    assert cells(text, "map")[:4] == ["map", "runs", "converged", "uncertain"]
    assert cells(text, "right")[1:3] == ["3", "2"]
    assert cells(text, "wrong")[1:3] == ["2", "1"]
    assert cells(text, "no map")[1:] == ["1", "0", "0", "0", "0", "1"]


def test_rates_have_their_bounds():
    text = rates([judged(r) for r in rows()])
    assert cells(text, "right maps called converged")[1:3] == ["2 of 3", "0.667"]
    assert cells(text, "wrong maps called converged")[1:] == ["1 of 2", "0.500", "0.025", "0.975"]
    assert cells(text, "converged maps that are wrong")[1] == "1 of 3"


def test_kinds_are_counted_apart():
    text = by_group([judged(r) for r in rows()], "kind")
    assert cells(text, "noise")[1:] == ["1", "", "", "1 of 1", "1.00", "0"]
    assert cells(text, "denoised")[4:6] == ["0 of 1", "0.95"]
    assert cells(text, "round")[-1] == "1"
    assert cells(by_group([judged(r) for r in rows()], "level"), CASES["noise"].level)[0] == CASES["noise"].level


def test_stated_resolution_is_compared_below_four_fifths_of_nyquist():
    ratio = resolution_ratio(judged(row(PLAIN, GOOD, truth(0.95, angstrom=10.0), truth(0.95))))
    assert ratio == pytest.approx(0.8)
    assert resolution_ratio(judged(row(PLAIN, GOOD, truth(0.95, shell=20.0), truth(0.95)))) is None
    # stated far below a true one that lies beyond
    coarse = row(PLAIN, GOOD, truth(0.95, shell=20.0, angstrom=6.0), truth(0.95))
    assert resolution_ratio(judged(coarse)) == pytest.approx(8 / 6)
    assert np.isnan(resolution_ratio(judged(row(PLAIN, GOOD, truth(0.95, angstrom=0.0), truth(0.95)))))
    assert resolution_ratio(judged(row(PLAIN, BAD, truth(0.95), truth(0.95)))) is None


def test_uncertainty_counts_sets_whose_share_is_near_68_percent():
    text = uncertainty([judged(r) for r in rows()])
    assert cells(text, "rotation")[1:3] == ["2 of 2", "2 of 2"]
    assert cells(text, "shift")[1] == "0 of 2"
    assert "shift, images" not in text
    assert "by set: rotation 1.36, 1.36, 1.36." in text


def test_the_page_has_both_halves_and_names_misjudged_runs():
    text = tables(rows(), 400)
    assert "6 of 400 planned runs" in text
    assert "## Report half" in text
    assert "## Fit half" in text
    assert CASES["noise"].id in text.split("## Misjudged runs")[1]
    assert CASES["junk"].id not in text.split("## Misjudged runs")[1]


def test_the_grid_of_a_threshold_changes_it_and_gives_it_back():
    today = verdict.LIKENESS
    with threshold("LIKENESS", 2.0):
        assert verdict.LIKENESS == 2.0
    assert today == verdict.LIKENESS
    assert {"LIKENESS", "BEYOND", "CERTAIN", "FITTING"} <= thresholds().keys()
    with threshold("CERTAIN", 0.99):
        assert counts([judged(r) for r in rows()])[0] == "0 of 3"
    assert "### FITTING" in grids(rows())


def test_shares_are_read_off_the_quantiles():
    quantiles = np.quantile(np.arange(101.0), np.linspace(0, 1, 21)).tolist()
    assert share_below(quantiles, 30) == pytest.approx(0.3)
    assert share_below(quantiles, -1) == 0
    assert share_below(quantiles, 1e9) == 1
