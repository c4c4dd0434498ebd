"""Effects that a STAR file states and the image model does not have are named once, and only where they are present."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cryoloom.particles.particle_set import open_particles, read_table, write_particles
from cryoloom.particles.table import ImageResults

from .conftest import SmallSet


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
        ({"rlnBeamTiltX": "1.2", "rlnBeamTiltY": "0.0"}, "Beam tilt (rlnBeamTiltX) is not part of the image model"),
        ({"rlnOddZernike": "[0.0,0.3,-0.1]"}, "Higher aberrations (rlnOddZernike)"),
        ({"rlnMagMat00": "1.02", "rlnMagMat01": "0"}, "Anisotropic magnification (rlnMagMat00)"),
        ({"rlnEvenZernike": "none"}, "Higher aberrations (rlnEvenZernike)"),
    ],
)
def test_an_effect_that_is_present_is_named(small: SmallSet, columns: dict[str, str], words: str) -> None:
    found = [note for note in with_optics(small, **columns) if "image model" in note]
    assert len(found) == 1
    assert words in found[0]


def test_neutral_values_are_not_mentioned(small: SmallSet) -> None:
    notes = with_optics(
        small, rlnBeamTiltX="0.0", rlnOddZernike="[0,0.0]", rlnMagMat00="1.0", rlnMagMat01="0.0", rlnMagMat11="1"
    )
    assert not any("image model" in note for note in notes)


def test_a_tilt_of_single_particles_is_seen_in_the_particle_table(small: SmallSet) -> None:
    """As RELION 3.0 writes it."""
    content = small.content
    rows = tuple(f"{row} {0.5 if i == 3 else 0.0}" for i, row in enumerate(content.rows))
    small.star.write_text(replace(content, columns=(*content.columns, "rlnBeamTiltY"), rows=rows).text())
    particles = open_particles(small.star, scan=False)
    assert any("Beam tilt (rlnBeamTiltY)" in note for note in particles.notes)
    copy = small.star.with_name("copy.star")
    write_particles(copy, particles, ImageResults())
    assert read_table(copy).texts("rlnBeamTiltY").equal(particles.table.texts("rlnBeamTiltY"))
