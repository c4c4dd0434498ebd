"""Particle file formats, each a module and an entry in `FORMATS`."""

from __future__ import annotations

from pathlib import Path

from cryoloom.particles.errors import BadInput
from cryoloom.particles.formats.format import Format
from cryoloom.particles.formats.relion import RELION

FORMATS: dict[str, Format] = {
    RELION.name: RELION,
}


def format_of(path: Path) -> Format:
    """The format of a particle file, by its suffix.

    Raises:
        BadInput: for an unknown suffix; the message lists the formats that can be read.
    """
    for known in FORMATS.values():
        if path.suffix.lower() in known.suffixes:
            return known
    readable = "; ".join(f"{f.description} ({', '.join(f.suffixes)})" for f in FORMATS.values())
    if path.suffix in (".cs", ".csg"):
        raise BadInput.report(
            "cryoSPARC files can't be read yet.",
            file=path,
            expected=readable,
            fix="convert it to a STAR file with csparc2star.py (pyem)",
        )
    raise BadInput.report(
        "The suffix of the particle file belongs to no known format.",
        file=path,
        found=f"a name that ends in {path.suffix!r}",
        expected=readable,
    )
