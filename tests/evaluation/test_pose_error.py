"""Pose errors of estimates whose error is known, and files that can't be matched."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoloom.evaluation.pose_error import area_under_curve, score_poses
from cryoloom.evaluation.pose_table import PoseTable, match_rows, read_poses
from cryoloom.particles.errors import BadInput

N, PIXEL = 500, 2.5


def _truth() -> PoseTable:
    rng = np.random.default_rng(8)
    images = tuple((i + 1, ("set", "particles.mrcs")) for i in range(N))
    R = Rotation.random(N, random_state=2).as_matrix()
    t = rng.normal(0, 4, (N, 2))
    return PoseTable(
        path=Path("truth.star"),
        images=images,
        R=R,
        t_angstrom=t,
        pixel_size=np.full(N, PIXEL),
        state=np.ones(N, np.int64),
        score=None,
    )


def _moved(truth: PoseTable, hand: bool, angle_degrees: float = 0.0) -> PoseTable:
    """The same poses in another frame (and hand), each then turned by exactly that angle about a random axis."""
    rng = np.random.default_rng(9)
    Q, offset = Rotation.from_rotvec([0.3, 2.0, -0.8]).as_matrix(), np.array([4.0, -7.0, 3.0])
    axis = rng.standard_normal((N, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    R = Q.T @ truth.R @ Rotation.from_rotvec(np.radians(angle_degrees) * axis).as_matrix()
    t = truth.t_angstrom - (R.transpose(0, 2, 1) @ offset)[:, :2]
    R = R * np.array([-1.0, -1.0, 1.0]) if hand else R
    return replace(truth, path=Path("est.star"), R=R, t_angstrom=t, pixel_size=None, state=None)


@pytest.mark.parametrize("hand", [False, True])
def test_exact_poses_in_another_frame_have_no_error(hand: bool) -> None:
    scores = score_poses(_truth(), _moved(_truth(), hand))
    assert scores.frame.hand == hand
    assert scores.rotation_degrees.max() < 1e-4
    assert scores.shift_px.max() < 1e-6
    np.testing.assert_allclose(scores.frame.offset_angstrom, [4, -7, 3], atol=1e-6)
    np.testing.assert_allclose(scores.frame.Q, Rotation.from_rotvec([0.3, 2.0, -0.8]).as_matrix(), atol=1e-6)


def test_known_error_is_found() -> None:
    scores = score_poses(_truth(), _moved(_truth(), False, angle_degrees=6.0))
    assert scores.median_degrees == pytest.approx(6.0, abs=0.3)
    assert (scores.share_below(5), scores.share_below(10)) == (pytest.approx(0, abs=0.02), 1.0)


def test_wrong_poses_do_not_pull_at_the_frame() -> None:
    truth, estimate = _truth(), _moved(_truth(), True)
    estimate.R[:300] = Rotation.random(300, random_state=3).as_matrix()
    estimate.t_angstrom[:300] += 50
    scores = score_poses(truth, estimate)
    assert scores.rotation_degrees[300:].max() < 0.1
    assert scores.shift_px[300:].max() < 0.1
    assert scores.share_below(5) == pytest.approx(0.4, abs=0.01)


def test_random_poses_score_as_random() -> None:
    estimate = replace(_moved(_truth(), False), R=Rotation.random(N, random_state=4).as_matrix())
    assert score_poses(_truth(), estimate).median_degrees > 90


def test_symmetry_mates_are_right() -> None:
    truth = _truth()
    group = Rotation.create_group("T").as_matrix()
    turned = replace(truth, R=np.einsum("nij,njk->nik", group[np.arange(N) % 12], truth.R))
    estimate = _moved(turned, False)
    assert score_poses(truth, estimate, "T").rotation_degrees.max() < 1e-4
    assert score_poses(truth, estimate, "C1").share_below(10) < 0.3


def test_missing_molecules_count_as_wrong_and_junk_not_at_all() -> None:
    truth = _truth()
    truth.state[:100] = 0  # type: ignore[index]
    whole = _moved(truth, False)
    keep = np.flatnonzero(np.arange(N) % 5 != 0)
    estimate = replace(
        whole,
        images=tuple(whole.images[i] for i in keep),
        R=whole.R[keep],
        t_angstrom=whole.t_angstrom[keep],
        score=np.where(keep < 100, 0.0, 1.0),
    )
    scores = score_poses(truth, estimate)
    assert (scores.particles, scores.of) == (320, 400)
    assert scores.share_below(5) == pytest.approx(0.8)
    assert scores.mean_degrees == pytest.approx(0.2 * 180, abs=0.01)
    assert scores.shift_percentile_px(50) < 0.01
    assert scores.shift_percentile_px(90) == float("inf")
    assert scores.junk_auc == 1.0


def test_area_under_curve_counts_ties_half() -> None:
    score = np.array([3.0, 1.0, 2.0, 2.0, 0.0])
    positive = np.array([True, True, True, False, False])
    # pairs: 3>2, 3>0, 1<2, 1>0, 2=2, 2>0
    assert area_under_curve(score, positive) == pytest.approx(4.5 / 6)


def test_nothing_to_score_is_said() -> None:
    truth = _truth()
    truth.state[:] = 0  # type: ignore[index]
    with pytest.raises(ValueError, match="no pose to score"):
        score_poses(truth, _moved(truth, False))


def _star(path: Path, names: list[str], origins: str = "") -> Path:
    columns = ["rlnImageName", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", *origins.split()]
    rows = [" ".join([name, "10", "20", "30", *["1.5"] * len(origins.split())]) for name in names]
    path.write_text("data_\n\nloop_\n" + "".join(f"_{c}\n" for c in columns) + "\n".join(rows) + "\n")
    return path


def test_rows_are_matched_across_folders(tmp_path: Path) -> None:
    truth = read_poses(_star(tmp_path / "t.star", ["1@a/s.mrcs", "1@b/s.mrcs", "2@b/s.mrcs"]))
    estimate = read_poses(_star(tmp_path / "e.star", ["000002@../x/b/s.mrcs", "000001@../x/a/s.mrcs"]))
    assert match_rows(truth, estimate).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("names", "message"), [(["7@a/s.mrcs"], "not in the truth"), (["1@a/s.mrcs", "1@a/s.mrcs"], "twice")]
)
def test_unmatchable_rows_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    truth = read_poses(_star(tmp_path / "t.star", ["1@a/s.mrcs", "2@a/s.mrcs"]))
    with pytest.raises(BadInput, match=message):
        match_rows(truth, read_poses(_star(tmp_path / "e.star", names)))


def test_origins_in_pixels_need_a_pixel_size(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="pixel size is not known"):
        read_poses(_star(tmp_path / "e.star", ["1@a.mrcs"], "rlnOriginX rlnOriginY"))
    path = _star(tmp_path / "f.star", ["1@a.mrcs"], "rlnOriginX rlnOriginY rlnDetectorPixelSize rlnMagnification")
    table = read_poses(path)  # 1.5 um at a magnification of 1.5: 10000 angstrom a pixel
    np.testing.assert_allclose(table.t_angstrom, [[-15000, -15000]])


def test_poses_are_relions(tmp_path: Path) -> None:
    """R = A^T: the third row of A, the view, is the third column of R."""
    table = read_poses(_star(tmp_path / "e.star", ["1@a.mrcs"], "rlnOriginXAngst rlnOriginYAngst"))
    a, b = np.radians([10, 20])
    np.testing.assert_allclose(table.R[0, :, 2], [np.sin(b) * np.cos(a), np.sin(b) * np.sin(a), np.cos(b)])
    np.testing.assert_allclose(table.t_angstrom, [[-1.5, -1.5]])
