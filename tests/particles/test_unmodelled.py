"""Effects that a STAR file states and the image model does not have are named once, and only where they are present."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryoloom.particles.formats.relion.star import read_star
from cryoloom.particles.particle_set import ParticleSet, open_particles, write_particles
from cryoloom.particles.table import ImageResults, UnmodelledEffect

from .conftest import SmallSet

# tilt of each image of a RELION 3.0 file, and its microscope's voltage: four pairs
TILTS = (("0.5", "0.1"), ("0.50", "0.1"), ("0.0", "-0.2"), ("0.0", "-0.2"), ("0.0", "0.3"), ("0", "0.3"))
VOLTAGES = (300, 300, 300, 200, 300, 300)


def with_optics(small: SmallSet, **columns: str) -> tuple[str, ...]:
    """Notes on the set with more columns in its optics table."""
    content = small.content
    changed = replace(
        content,
        optics_columns=(*content.optics_columns, *columns),
        optics_rows=tuple(" ".join([row, *columns.values()]) for row in content.optics_rows),
    )
    small.star.write_text(changed.text())
    return open_particles(small.star, scan=False).notes


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"rlnBeamTiltX": "1.2", "rlnBeamTiltY": "0.0"},
            "Not part of the image model, which may limit the resolution: beam tilt (rlnBeamTiltX).",
        ),
        ({"rlnOddZernike": "[0.0,0.3,-0.1]"}, "higher aberrations (rlnOddZernike)"),
        ({"rlnMagMat00": "1.02", "rlnMagMat01": "0"}, "anisotropic magnification (rlnMagMat00)"),
        ({"rlnEvenZernike": "none"}, "higher aberrations (rlnEvenZernike)"),
    ],
)
def test_an_effect_that_is_present_is_named(small: SmallSet, columns: dict[str, str], words: str) -> None:
    found = [note for note in with_optics(small, **columns) if "image model" in note]
    assert len(found) == 1
    assert words in found[0]
    effects = open_particles(small.star, scan=False).table.unmodelled
    assert [str(e) for e in effects] == [words.split(": ")[-1].rstrip(".")]


def test_neutral_values_are_not_mentioned(small: SmallSet) -> None:
    notes = with_optics(
        small, rlnBeamTiltX="0.0", rlnOddZernike="[0,0.0]", rlnMagMat00="1.0", rlnMagMat01="0.0", rlnMagMat11="1"
    )
    assert not any("image model" in note for note in notes)


def relion30(small: SmallSet, tilts: tuple[tuple[str, str], ...] = TILTS) -> Path:
    """The set as a file of RELION 3.0, with a beam tilt in every row."""
    names = (
        "rlnImageName rlnDefocusU rlnDefocusV rlnDefocusAngle rlnVoltage rlnSphericalAberration rlnAmplitudeContrast"
    )
    columns = (*names.split(), "rlnMagnification", "rlnDetectorPixelSize", "rlnBeamTiltX", "rlnBeamTiltY", "someColumn")
    rows = tuple(
        f"{i}@stack.mrcs 15000 14000 33.25 {voltage} 2.7 0.1 10000 3.5 {x} {y} text{i}"
        for i, ((x, y), voltage) in enumerate(zip(tilts, VOLTAGES, strict=True), 1)
    )
    small.star.write_text(replace(small.content, optics_columns=(), columns=columns, rows=rows).text())
    return small.star


def optics_of_rows(star: Path, *names: str) -> np.ndarray:
    """Values of the optics table for every particle, [N, names]."""
    optics, particles = read_star(star).block("optics"), read_star(star).block("particles")
    assert optics is not None
    assert particles is not None
    numbers = optics.columns["rlnOpticsGroup"].numbers().tolist()
    row = [numbers.index(g) for g in particles.columns["rlnOpticsGroup"].numbers()]
    return np.stack([optics.columns[name].numbers()[row] for name in names], 1)


def written(particles: ParticleSet, rows: np.ndarray | None = None) -> Path:
    copy = particles.path.with_name("copy.star")
    write_particles(copy, particles, ImageResults(), rows)
    return copy


def test_the_tilt_of_single_particles_moves_to_the_optics_table(small: SmallSet) -> None:
    """RELION 3.0 has it in the particle table, where RELION 3.1 does not look for it."""
    particles = open_particles(relion30(small), scan=False)
    assert particles.table.unmodelled == (UnmodelledEffect("beam tilt", ("rlnBeamTiltX", "rlnBeamTiltY")),)
    # the groups of the run, which have noise spectra of their own, are those of the microscope
    assert particles.group.tolist() == [0, 0, 0, 1, 0, 0]
    assert any("4 optics groups instead of 2" in note for note in particles.notes)
    copy = written(particles)
    found = optics_of_rows(copy, "rlnBeamTiltX", "rlnBeamTiltY", "rlnVoltage", "rlnImagePixelSize", "rlnImageSize")
    expected = [[float(x), float(y), v, 3.5, 16] for (x, y), v in zip(TILTS, VOLTAGES, strict=True)]
    assert found.tolist() == expected
    again = open_particles(copy, scan=False)
    assert again.group.tolist() == [0, 0, 1, 2, 3, 3]
    assert "rlnBeamTiltX" not in again.table.columns
    assert again.table.unmodelled == particles.table.unmodelled
    assert again.ctf.voltage_kv.equal(particles.ctf.voltage_kv)
    assert again.table.texts("someColumn").equal(particles.table.texts("someColumn"))
    # and the table of RELION 3.1 stays as it is
    second = written(again)
    assert optics_of_rows(second, "rlnBeamTiltX", "rlnBeamTiltY").tolist() == found[:, :2].tolist()


def test_a_part_of_the_images_has_the_groups_that_it_needs(small: SmallSet) -> None:
    copy = written(open_particles(relion30(small), scan=False), np.array([5, 3]))
    assert optics_of_rows(copy, "rlnBeamTiltY", "rlnVoltage").tolist() == [[0.3, 300], [-0.2, 200]]
    assert open_particles(copy, scan=False).group_names == ("opticsGroup1", "opticsGroup2")


def test_as_many_groups_as_tilts(small: SmallSet) -> None:
    tilts = tuple((f"{0.1 * i:.2f}", "0") for i in range(6))
    copy = written(open_particles(relion30(small, tilts), scan=False))
    assert len(open_particles(copy, scan=False).group_names) == 6
    np.testing.assert_allclose(optics_of_rows(copy, "rlnBeamTiltX")[:, 0], 0.1 * np.arange(6))


def test_one_tilt_needs_no_more_groups(small: SmallSet) -> None:
    particles = open_particles(relion30(small, (("0.5", "0"),) * 6), scan=False)
    assert not any("optics groups instead" in note for note in particles.notes)
    assert open_particles(written(particles), scan=False).group.tolist() == particles.group.tolist()


@pytest.mark.skipif(shutil.which("relion_convert_star") is None, reason="RELION is not installed")
def test_relions_own_conversion_gives_the_same_groups(small: SmallSet) -> None:
    particles = open_particles(relion30(small), scan=False)
    theirs = small.star.with_name("relion.star")
    command = ["relion_convert_star", "--i", str(particles.path), "--o", str(theirs)]
    subprocess.run(command, check=True, cwd=small.star.parent, capture_output=True)
    names = ("rlnOpticsGroup", "rlnBeamTiltX", "rlnBeamTiltY", "rlnVoltage", "rlnImagePixelSize", "rlnImageSize")
    assert optics_of_rows(written(particles), *names).tolist() == optics_of_rows(theirs, *names).tolist()
