"""Images beside reprojections: they agree where the poses are right and nowhere else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryoloom.particles.formats.relion.star import read_star
from cryoloom.particles.formats.relion.star_writer import write_star
from cryoloom.particles.particle_set import ParticleSet, open_particles
from cryoloom.particles.stated import StatedInput
from cryoloom.particles.texts import Texts
from cryoloom.report.map_views import MapView, view_map
from cryoloom.report.reprojections import SHOWN, Pairs, compare

from .fake_run import COUNT, write_run


def _opened(folder: Path) -> tuple[ParticleSet, MapView]:
    view = view_map(folder / "map.mrc")
    assert view is not None
    return open_particles(folder / "particles.star", scan=False), view


def _mean(pairs: Pairs) -> float:
    return float(np.mean([p.correlation for p in pairs.pairs]))


def test_right_poses_agree_with_their_images(finished_run: Path) -> None:
    particles, view = _opened(finished_run)
    pairs = compare(particles, view, 9.0, None, None)
    # measured 0.96 at this noise
    assert min(p.correlation for p in pairs.pairs) > 0.9
    assert not pairs.inverted


@pytest.mark.parametrize("column", ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"])
def test_wrong_poses_do_not(finished_run: Path, tmp_path: Path, column: str) -> None:
    """A wrong sign, of an angle or of a shift, costs agreement."""
    particles, view = _opened(finished_run)
    tables = {b.name: dict(b.columns) for b in read_star(finished_run / "particles.star").blocks}
    factor = -3 if "Origin" in column else -1
    tables["particles"][column] = Texts.of(f"{factor * v:.6f}" for v in tables["particles"][column].numbers())
    write_star(tmp_path / "wrong.star", list(tables.items()))
    wrong = open_particles(tmp_path / "wrong.star", StatedInput(datadir=str(finished_run)), scan=False)
    right = compare(particles, view, 9.0, None, None)
    assert _mean(compare(wrong, view, 9.0, None, None)) < _mean(right) - 0.1


def test_black_particles_are_turned_white(tmp_path: Path) -> None:
    particles, view = _opened(write_run(tmp_path / "run", sign=-1.0))
    pairs = compare(particles, view, 9.0, None, None)
    assert pairs.inverted
    assert min(p.correlation for p in pairs.pairs) > 0.9


def test_particles_are_spread_over_the_likelihood(finished_run: Path) -> None:
    particles, view = _opened(finished_run)
    score = np.random.default_rng(1).normal(size=COUNT)
    score[5] = np.nan
    pairs = compare(particles, view, None, score, np.arange(COUNT) / 10).pairs
    assert len(pairs) == SHOWN
    shown = [p.log_likelihood for p in pairs]
    assert shown == sorted(s for s in shown if s is not None)
    assert [p.rank for p in pairs] == pytest.approx([0.02, 0.2, 0.4, 0.6, 0.8, 0.98], abs=0.01)
    for p in pairs:
        assert p.name == f"{p.row:06d}@particles.mrcs"
        assert p.log_likelihood == score[p.row - 1]
        assert p.angular_error_degrees == (p.row - 1) / 10


def test_few_particles_are_shown_once(finished_run: Path) -> None:
    particles, view = _opened(finished_run)
    two = replace(particles, table=particles.table.take(np.arange(2)), places=particles.places.take(np.arange(2)))
    assert [p.row for p in compare(two, view, None, None, None).pairs] == [1, 2]
