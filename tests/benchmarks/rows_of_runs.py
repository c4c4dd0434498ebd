"""Rows of made-up runs, as the calibration stores them."""

from calibration.plan import Case, plan

CASES = {c.kind: c for c in plan()}

GOOD = {
    "particles": 2000,
    "starts": 2,
    "agreeing": 2,
    "likeness": 0.95,
    "strength": 40.0,
    "shell": 18.0,
    "resolution_angstrom": 8.0,
    "resolution_half_angstrom": 9.0,
    "common_shell": 8,
    "nyquist_shell": 24,
    "certain": 0.95,
    "fitting": 0.97,
    "mean_score": 110.0,
    "expected_score": 110.0,
    "components": 0,
    "component_gain": 0.0,
    "settled": True,
    "coverage": 0.99,
    "missing_share": 0.0,
    "missing_axis": [0.0, 0.0, 0.0],
    "single_view_share": None,
    "best_direction_angstrom": 7.5,
    "worst_direction_angstrom": 8.5,
    "directional_resolution_angstrom": [],
    "symmetry": "C1",
    "symmetry_score": None,
    "b_factor_angstrom2": 200.0,
    "b_factor_note": "",
}
BAD = GOOD | {"likeness": 0.35, "shell": 9.0, "certain": 0.1}


def truth(share: float, share_of_all: float | None = None, shell: float = 15.0, angstrom: float = 8.2) -> dict:
    """Scores of a run that places a share of the images."""
    return {
        "share": share,
        "share_of_all": share if share_of_all is None else share_of_all,
        "placed": round(1000 * share),
        "of": 1000,
        "fsc0.5_shell": shell,
        "own_mask_fsc0.5_shell": shell,
        "own_mask_fsc0.5_angstrom": angstrom,
        "box": 48,
        "rotation_within_sd": 0.66,
        "rotation_within_sd_placed": 0.68,
        "rotation_ratio": [0.0, 0.5, 1.0, 1.5, 2.0],
        "shift_within_sd": 0.5,
        "shift_within_sd_placed": None,
        "shift_ratio": None,
    }


def row(case: Case, evidence: dict | None, scores: dict | None, reference: dict | None = None) -> dict:
    """A row; without evidence the run has not finished."""
    run = {"status": "not finished" if evidence is None else "finished", "cpu_s": 40.0, "peak_rss_bytes": 2**30}
    if evidence is not None:
        run |= {"evidence": evidence, "particles": {"misfit": [-1.0, 0.0, 1.0, 2.0, 5.0], "probability": [0.2, 1.0]}}
    if scores is not None:
        run["truth"] = scores
    out = {"case": case.to_json(), "commit": "abc", "machine": "2-core", "run": run}
    if reference is not None:
        out["reference"] = {"status": "finished", "cpu_s": 20.0, "evidence": GOOD, "truth": reference}
    return out
