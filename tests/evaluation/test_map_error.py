"""Maps carried into the true frame: known motions are undone, and the command says what it found."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from cryoloom.cli.evaluate import register
from cryoloom.evaluation.map_error import score_map, soft_sphere
from cryoloom.evaluation.pose_error import CommonFrame, score_poses
from cryoloom.evaluation.pose_table import read_poses
from cryoloom.evaluation.scores import compare_with_claim
from cryoloom.maps.io import DensityMap, read_map, write_map
from cryoloom.runs.record import Machine, RunRecord, write_record

from .estimates import PIXEL, Case, make

CASE = Case(hand=True, wrong=0.0, jitter_degrees=1.0, blur=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set")
    make(CASE, path)
    return path


def _maps(folder: Path) -> tuple[DensityMap, DensityMap]:
    return read_map(folder / "truth_001.mrc"), read_map(folder / "est.mrc")


def test_carried_map_is_the_truth(folder: Path) -> None:
    truth, estimate = _maps(folder)
    frame = score_poses(read_poses(folder / "truth.star"), read_poses(folder / "est.star")).frame
    scores = score_map(truth, estimate, frame)
    # the estimate is the truth with noise of 0.3 of its s.d.
    assert scores.fsc[1:8].min() > 0.95
    sphere = soft_sphere(32, 12.0) > 0
    assert np.corrcoef(scores.moved[sphere], truth.data[sphere])[0, 1] > 0.97


def test_polishing_undoes_a_small_error_of_the_frame(folder: Path) -> None:
    truth, estimate = _maps(folder)
    frame = score_poses(read_poses(folder / "truth.star"), read_poses(folder / "est.star")).frame
    good = score_map(truth, estimate, frame)
    c, s = np.cos(0.08), np.sin(0.08)
    turned = replace(
        frame, Q=frame.Q @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), offset_angstrom=frame.offset_angstrom + 2.5
    )
    polished = score_map(truth, estimate, turned)
    np.testing.assert_allclose(polished.frame.Q, good.frame.Q, atol=2e-3)
    np.testing.assert_allclose(polished.frame.offset_angstrom, good.frame.offset_angstrom, atol=0.05)
    np.testing.assert_allclose(polished.fsc, good.fsc, atol=0.01)


def test_frame_is_found_from_maps_alone(folder: Path) -> None:
    truth, estimate = _maps(folder)
    frame = score_poses(read_poses(folder / "truth.star"), read_poses(folder / "est.star")).frame
    alone, known = score_map(truth, estimate, None), score_map(truth, estimate, frame)
    assert alone.frame.hand == frame.hand
    np.testing.assert_allclose(alone.fsc, known.fsc, atol=0.02)


def test_noise_does_not_agree(folder: Path) -> None:
    truth, _ = _maps(folder)
    noise = replace(truth, data=torch.from_numpy(np.random.default_rng(1).standard_normal((32,) * 3)).float())
    scores = score_map(truth, noise, CommonFrame(False, np.eye(3), np.zeros(3)))
    assert scores.shell(0.5) < 4
    assert abs(scores.area) < 0.15


def test_senseless_pairs_are_refused(folder: Path) -> None:
    truth, estimate = _maps(folder)
    frame = CommonFrame(False, np.eye(3), np.zeros(3))
    with pytest.raises(ValueError, match="differ in side"):
        score_map(truth, replace(estimate, pixel_size=2 * PIXEL), frame)
    with pytest.raises(ValueError, match="mask has shape"):
        score_map(truth, estimate, frame, mask=torch.ones(8, 8, 8))
    with pytest.raises(ValueError, match="does not have C3"):
        score_map(truth, estimate, frame, symmetry="C3")


@pytest.fixture
def run_folder(folder: Path, tmp_path: Path) -> Path:
    (tmp_path / "particles.star").write_bytes((folder / "est.star").read_bytes())
    (tmp_path / "map.mrc").write_bytes((folder / "est.mrc").read_bytes())
    return tmp_path


def _invoke(*arguments: str):
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, ["evaluate", "--threads", "1", *arguments], env={"COLUMNS": "120"})


def test_command_prints_a_table(folder: Path, run_folder: Path) -> None:
    truth = ("--truth", str(folder / "truth.star"), "--map", str(folder / "truth_001.mrc"))
    result = _invoke(str(run_folder), *truth)
    assert result.exit_code == 0, result.output
    for words in ("mirrored", "rotation error", "FSC 0.5 with the truth", "AUC"):
        assert words in result.output
    values = json.loads(_invoke(str(run_folder), *truth, "--json").output)
    median = re.search(r"median\s+([\d.]+) degrees", result.output)
    assert median is not None
    assert float(median.group(1)) == pytest.approx(values["rotation_median_deg"], abs=0.01)


def test_command_takes_files_without_a_run(folder: Path) -> None:
    result = _invoke("--truth", str(folder / "truth.star"), "--particles", str(folder / "est.star"))
    assert result.exit_code == 0, result.output
    assert "FSC" not in result.output


def test_command_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    result = _invoke(str(tmp_path), "--truth", str(folder / "truth.star"))
    assert isinstance(result.exception, ValueError)
    assert "particles.star" in str(result.exception)


def test_mask_in_place_of_the_sphere(folder: Path, tmp_path: Path) -> None:
    truth, estimate = _maps(folder)
    frame = score_poses(read_poses(folder / "truth.star"), read_poses(folder / "est.star")).frame
    tight = soft_sphere(32, 7.0)
    write_map(tmp_path / "mask.mrc", replace(truth, data=tight.float()))
    masked = score_map(truth, estimate, frame, mask=read_map(tmp_path / "mask.mrc").data)
    by_radius = score_map(truth, estimate, frame, radius_voxels=7.0)
    np.testing.assert_allclose(masked.fsc, by_radius.fsc, atol=1e-5)
    assert masked.area > score_map(truth, estimate, frame).area


def test_claims_of_the_run_are_compared(folder: Path, run_folder: Path) -> None:
    record = RunRecord(
        status="finished",
        command="reconstruct",
        argv=(),
        settings={},
        settings_hash="",
        versions={},
        seed=1,
        input_path="",
        fingerprint="",
        machine=Machine.here(1, "cpu"),
        timings=(),
        verdict={"resolution_angstrom": 4.0, "converged": True},
        started="",
        updated="",
    )
    write_record(run_folder / "run.json", record)
    truth = ("--truth", str(folder / "truth.star"), "--map", str(folder / "truth_001.mrc"))
    result = _invoke(str(run_folder), *truth)
    assert result.exit_code == 0, result.output
    assert re.search(r"converged\s+True", result.output)
    assert "the claim is too good" in result.output  # the map is true to about 8 A


def test_claim_sentences(folder: Path) -> None:
    truth, estimate = _maps(folder)
    frame = score_poses(read_poses(folder / "truth.star"), read_poses(folder / "est.star")).frame
    scores = score_map(truth, estimate, frame)
    found = scores.resolution_angstrom(0.5)
    assert found is not None
    assert "holds" in str(compare_with_claim({"resolution_angstrom": 0.95 * found}, scores))
    assert "too good" in str(compare_with_claim({"resolution_angstrom": 0.85 * found}, scores))
    assert "claims no resolution" in str(compare_with_claim({"resolution_angstrom": None}, scores))
    assert compare_with_claim({}, scores) is None
