"""Whole jobs from Python: a folder with its verdict, quiet when asked, resumable after Ctrl-C."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch

import cryoloom as cl
from cryoloom.jobs.final_maps import FITTING_MISFIT
from cryoloom.runs.progress import Progress, SilentProgress, StepInfo
from cryoloom.runs.record import read_record

from .test_steps import geodesic_degrees


@pytest.fixture(scope="module")
def posed(small_set: Path, images: cl.ImageFeed, true_map: cl.DensityMap, tmp_path_factory) -> Path:
    """STAR file of the small set with poses."""
    path = small_set / "posed.star"
    cl.write_particles(path, images, cl.refine(images, true_map))
    return path


def test_refinement_from_poses(posed: Path, small_set: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    particles = cl.open(posed)
    result = cl.reconstruct(particles, tmp_path / "run", start="poses", threads=1, device="cpu", quiet=True)
    out, err = capfd.readouterr()
    assert out == ""
    # warnings are shown even so: these poses come without half sets
    assert err.startswith("warning: the file has no half sets (rlnRandomSubset)")
    assert err.count("\n") == 1
    assert (result.folder / "report.html").is_file()
    assert result.verdict is not None
    assert "only if the given poses were refined in these half sets" in str(result.verdict)
    assert repr(result).startswith(f"FinishedRun('{tmp_path}/run': refine, ")
    assert result.map.data.shape == (32, 32, 32)
    assert len(result.poses) == len(result.particles) == 100
    scores = cl.evaluate(result.folder, small_set)
    assert scores.poses.share_below(10) > 0.95
    assert scores.map is not None
    assert len(result.half_maps) == 2
    assert cl.open_run(result.folder).record.status == "finished"
    assert float(result.mask.data.amax()) <= 1.0
    misfit = starfile.read(result.folder / "particles.star")["particles"]["cryoloomMisfit"].to_numpy()
    assert np.mean(misfit < FITTING_MISFIT) == pytest.approx(result.verdict.evidence.fitting)
    assert np.ptp(misfit) > 0.5


def test_progress_is_shown_unless_quiet(posed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    cl.reconstruct(posed, tmp_path / "run", start="poses", threads=1, device="cpu")
    out, err = capfd.readouterr()
    assert out == ""
    assert "refine: begins" in err
    assert f"Results in {tmp_path}/run" in err


def test_effects_that_are_not_modelled_are_said_recorded_and_shown(posed: Path, tmp_path: Path):
    tables = starfile.read(posed, always_dict=True)
    tables["optics"]["rlnBeamTiltX"] = 1.25
    tilted = posed.with_name("tilted.star")
    starfile.write(tables, tilted)
    result = cl.reconstruct(tilted, tmp_path / "run", start="poses", threads=1, device="cpu", quiet=True)
    assert result.verdict is not None
    assert [str(e) for e in result.verdict.evidence.unmodelled] == ["beam tilt (rlnBeamTiltX)"]
    assert "image model" in [f.name for f in result.verdict.findings]
    assert any("beam tilt (rlnBeamTiltX)" in note for note in result.record.input_notes)
    assert "effects that the image model does not have: beam tilt" in (result.folder / "report.html").read_text()
    written = starfile.read(result.folder / "particles.star", always_dict=True)
    assert written["optics"]["rlnBeamTiltX"].tolist() == [1.25]


class Interrupting(SilentProgress):
    """Presses Ctrl-C when a step is done."""

    def __init__(self, step: int) -> None:
        self._at = step

    def update(self, info: StepInfo) -> None:
        """A real SIGINT."""
        if info.step == self._at:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_leaves_a_folder_that_can_be_resumed(posed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = cl.reconstruct(posed, tmp_path / "whole", start="poses", threads=1, device="cpu", quiet=True)

    @contextmanager
    def interrupting(quiet: bool) -> Iterator[Progress]:
        yield Interrupting(1)

    with monkeypatch.context() as patch:
        patch.setattr("cryoloom.api.jobs.open_progress", interrupting)
        with pytest.raises(KeyboardInterrupt, match="refine is saved after step 1\nresume with"):
            cl.reconstruct(posed, tmp_path / "run", start="poses", threads=1, device="cpu")
    assert read_record(tmp_path / "run").status == "interrupted"
    resumed = cl.resume(tmp_path / "run", quiet=True)
    assert torch.equal(resumed.map.data, whole.map.data)
    assert float(geodesic_degrees(resumed.poses.R[:, 0], whole.poses.R[:, 0]).max()) == 0.0


def test_a_folder_with_a_run_is_not_overwritten(posed: Path, tmp_path: Path):
    cl.reconstruct(posed, tmp_path, start="poses", threads=1, device="cpu", quiet=True)
    with pytest.raises(ValueError, match="there is a run in this folder already"):
        cl.reconstruct(posed, tmp_path, start="poses", threads=1, device="cpu", quiet=True)


def test_a_symmetry_that_the_method_cannot_impose_is_refused_before_anything_is_computed(posed: Path, tmp_path: Path):
    with pytest.raises(cl.BadInput, match="--poses amortized can't impose a symmetry"):
        cl.reconstruct(posed, tmp_path / "run", poses="amortized", symmetry="C3")
    assert not list((tmp_path / "run").glob("*"))


@pytest.mark.slow
def test_the_whole_job(tmp_path: Path):
    made = cl.simulate(output=tmp_path / "set", count=1500, snr=0.2, box=48, pixel_size=5.3)
    result = cl.reconstruct(made.folder / "particles.star", tmp_path / "run", threads=1, device="cpu", quiet=True)
    assert result.verdict is not None
    assert result.verdict.outcome == "converged"
    assert cl.evaluate(result.folder, made.folder).poses.share_below(10) > 0.9
