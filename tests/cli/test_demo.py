"""The demo: the whole program on a structure whose truth is known, from images to verdict."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numba
import pytest
import torch
from typer.testing import CliRunner

from cryoloom.cli.main import build_app
from cryoloom.evaluation.map_error import score_map
from cryoloom.evaluation.pose_error import score_poses
from cryoloom.evaluation.pose_table import read_poses
from cryoloom.jobs.verdict import Verdict
from cryoloom.jobs.verdict_text import headline
from cryoloom.maps.io import read_map
from cryoloom.runs.record import from_json, read_record


@pytest.fixture
def threads_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command sets the number of threads of the whole process."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(variable, os.environ.get(variable, "1"))
    counts = torch.get_num_threads(), numba.get_num_threads()
    yield
    torch.set_num_threads(counts[0])
    numba.set_num_threads(counts[1])


def demo(*arguments: str | Path):
    return CliRunner().invoke(build_app(), ["demo", *map(str, arguments)])


@pytest.mark.slow
def test_demo_solves_the_structure_and_knows_how_well(tmp_path: Path):
    # as users run it: the check of shapes in this process would make it several times slower
    result = subprocess.run(
        [sys.executable, "-c", "from cryoloom.cli.main import main; main()", "demo", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    run, particles = tmp_path / "run", tmp_path / "particles"

    poses = score_poses(read_poses(particles / "truth.star"), read_poses(run / "particles.star"))
    # measured: 1.2 degrees, 99.9 % and 0.10 px; shell 30.7 of 32
    assert poses.median_degrees < 2
    assert poses.share_below(10) > 0.98
    assert poses.shift_percentile_px(50) < 0.2
    maps = score_map(read_map(particles / "truth_001.mrc"), read_map(run / "map.mrc"), poses.frame)
    assert maps.shell(0.5) > 28

    record = read_record(run)
    assert record.status == "finished"
    assert record.verdict is not None
    assert record.verdict["outcome"] == "converged"
    assert (run / "report.html").stat().st_size > 10_000

    assert headline(from_json(Verdict, record.verdict, "run.json")) in result.stdout
    assert f"{poses.median_degrees:.2f} degrees" in result.stdout
    assert "the claim holds" in result.stdout
    assert re.search(r"\d+ s in all, \d+ s of CPU time", result.stdout)
    # whichever hand came out, it is said
    assert ("mirror image" in result.stdout) == poses.frame.hand


@pytest.mark.usefixtures("threads_as_before")
def test_folders_in_use_are_refused_before_anything_is_made(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    for arguments in ((), ("--overwrite",)):
        result = demo("--output", tmp_path, *arguments)
        assert result.exit_code == 2
        assert "thesis.txt" in result.stderr
        assert not (tmp_path / "particles").exists()


@pytest.mark.usefixtures("threads_as_before")
def test_images_of_an_earlier_demo_are_not_replaced_unasked(tmp_path: Path):
    (tmp_path / "particles").mkdir()
    kept = tmp_path / "particles" / "particles.star"
    kept.write_text("precious")
    result = demo("--output", tmp_path)
    assert result.exit_code == 2
    assert "particles" in result.stderr
    assert kept.read_text() == "precious"
