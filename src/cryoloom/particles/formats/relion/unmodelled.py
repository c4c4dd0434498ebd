"""Effects that RELION writes down and that our image model does not have: named, never passed over in silence."""

from __future__ import annotations

import numpy as np

from cryoloom.particles.formats.relion.star import StarBlock
from cryoloom.particles.table import Effect, UnmodelledEffect
from cryoloom.particles.texts import Texts

# columns of each effect with the value that has none
EFFECTS: tuple[tuple[Effect, dict[str, float]], ...] = (
    ("beam tilt", {"rlnBeamTiltX": 0.0, "rlnBeamTiltY": 0.0}),
    ("higher aberrations", {"rlnOddZernike": 0.0, "rlnEvenZernike": 0.0}),
    (
        "anisotropic magnification",
        {"rlnMagMat00": 1.0, "rlnMagMat01": 0.0, "rlnMagMat10": 0.0, "rlnMagMat11": 1.0},
    ),
)


def unmodelled(particles: StarBlock, optics: StarBlock | None) -> tuple[UnmodelledEffect, ...]:
    """The effects that are present in the particle or the optics table."""
    tables = [table for table in (particles, optics) if table is not None]
    found = []
    for effect, neutral in EFFECTS:
        present = tuple(
            name
            for name, value in neutral.items()
            if any(name in t.columns and _differs(t.columns[name], value) for t in tables)
        )
        if present:
            found.append(UnmodelledEffect(effect, present))
    return tuple(found)


def _differs(texts: Texts, neutral: float) -> bool:
    """Whether any row has another value than the neutral one; Zernike coefficients are lists in brackets."""
    return any(_is_other(text, neutral) for text in texts.factorize()[1])


def _is_other(text: str, neutral: float) -> bool:
    parts = text.strip("[]").split(",")
    try:
        return bool(np.any(np.abs(np.array(parts, dtype=float) - neutral) > 1e-9))
    except ValueError:
        return True  # what can't be read is not known to be neutral
