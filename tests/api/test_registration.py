"""Additions by a program of one's own: one of each kind is registered and used by whole jobs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import cryoloom as cl
from cryoloom.particles.formats import FORMATS
from cryoloom.particles.particle_set import write_particles
from cryoloom.particles.table import ImageResults
from cryoloom.recipes.methods.registry import CONFORMATION_METHODS, POSE_METHODS
from cryoloom.report.panel import Panel
from cryoloom.report.panels import PANELS
from cryoloom.report.shown_run import ShownRun
from particles.toy_format import TOY
from recipes.toy_conformation_method import HALVES
from recipes.toy_pose_method import BLOB


def _count(run: ShownRun) -> str:
    return f"<p>A job of {len(run.run.particles)} particles</p>"


COUNT = Panel(name="count", section="Particles", title="Count", html=_count)
KINDS = [BLOB, HALVES, TOY, COUNT]


@pytest.fixture
def registered() -> Iterator[None]:
    """All of KINDS, in this test only."""
    for addition in KINDS:
        cl.register(addition)
    yield
    for registry, addition in ((POSE_METHODS, BLOB), (CONFORMATION_METHODS, HALVES), (FORMATS, TOY)):
        del registry[addition.name]
    PANELS.remove(COUNT)


@pytest.mark.usefixtures("registered")
def test_additions_of_every_kind_work_together_in_whole_jobs(small_set: Path, tmp_path: Path):
    """From a file of the toy format to a page with the toy panel by the toy pose method; then the toy conformations."""
    toy = tmp_path / "particles.toy"
    write_particles(toy, cl.open(small_set / "particles.star"), ImageResults())
    shared = {"particle_diameter": 160.0, "threads": 1, "device": "cpu", "quiet": True}
    found = cl.reconstruct(toy, tmp_path / "run", poses="blob", width=0.3, **shared)
    assert found.verdict is not None
    assert found.settings.methods["blob"].width == 0.3
    assert len(found.poses) == 100
    assert "A job of 100 particles" in (found.folder / "report.html").read_text()
    halves = cl.hetero(found.folder / "particles.star", tmp_path / "halves", method="halves", axis=1, **shared)
    assert halves.latents is not None
    assert halves.latents.mean.shape == (100, 1)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("addition", KINDS, ids=lambda addition: type(addition).__name__)
def test_a_name_is_given_once(addition):
    with pytest.raises(ValueError, match=f"'{addition.name}' is registered already"):
        cl.register(addition)
