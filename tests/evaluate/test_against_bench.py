"""The same numbers as an independent scorer gives, on the same inputs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cryoloom.cli.evaluate import scores_as_json
from cryoloom.evaluate.map_error import score_map
from cryoloom.evaluate.pose_error import score_poses
from cryoloom.evaluate.pose_table import read_poses
from cryoloom.maps.io import read_map

from .estimates import Case, make

CASES = {
    "plain": Case(),
    "mirrored": Case(hand=True, turn=(-2.0, 0.3, 1.9)),
    "odd box": Case(box=33, estimate_box=33, hand=True, junk=0.0),
    "coarser map": Case(estimate_box=26, wrong=0.3, dropped=0.0),
    "symmetric": Case(symmetry="D3", box=36, estimate_box=36, jitter_degrees=4.0),
}
SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import evaluate
out = {}
for name, folder, symmetry in json.loads(sys.argv[2]):
    files = [f"{folder}/{n}" for n in ("truth.star", "est.star", "truth_001.mrc", "est.mrc")]
    out[name] = evaluate.evaluate(*files, symmetry=symmetry)
print(json.dumps(out))
"""
TOLERANCE = {
    "rotation_median_deg": 0.02, "rotation_mean_deg": 0.02, "rotation_frac_below_5deg": 0.005,
    "rotation_frac_below_10deg": 0.005, "shift_median_px": 0.01, "shift_p90_px": 0.02, "fsc0.5_shell": 0.1,
    "fsc0.143_shell": 0.1, "fsc_area": 0.005, "junk_auc": 1e-9,
}  # fmt: skip


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict, dict]]:
    bench = Path(__file__).resolve().parents[3] / "shared" / "bench"
    if not (bench / "evaluate.py").is_file():
        pytest.skip("the independent scorer ../shared/bench/evaluate.py is absent")
    root = tmp_path_factory.mktemp("cases")
    jobs, ours = [], {}
    for i, (name, case) in enumerate(CASES.items()):
        folder = root / str(i)
        make(case, folder, seed=i)
        jobs.append((name, str(folder), case.symmetry))
        poses = score_poses(read_poses(folder / "truth.star"), read_poses(folder / "est.star"), case.symmetry)
        maps = (read_map(folder / "truth_001.mrc"), read_map(folder / "est.mrc"))
        ours[name] = scores_as_json(poses, score_map(*maps, poses.frame, symmetry=case.symmetry))
    command = [sys.executable, "-c", SCRIPT, str(bench), json.dumps(jobs)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    theirs = json.loads(result.stdout)
    return {name: (ours[name], theirs[name]) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_scores_agree(both: dict[str, tuple[dict, dict]], name: str) -> None:
    ours, theirs = both[name]
    assert set(ours) == set(theirs)
    assert (ours["hand"], ours["particles"], ours["of"]) == (theirs["hand"], theirs["particles"], theirs["of"])
    assert ours["hand"] == CASES[name].hand
    for key, tolerance in TOLERANCE.items():
        if key in theirs:
            assert ours[key] == pytest.approx(theirs[key], abs=tolerance), key
    assert len(ours["fsc"]) == len(theirs["fsc"])
