"""A small good particle set on disk, for tests to read or to spoil."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from .files import StarText, mrc_bytes, noise_images, particle_row


@dataclass(frozen=True)
class SmallSet:
    """Six images of 16 px; `star` and `stack` exist."""

    star: Path
    stack: Path
    images: np.ndarray
    content: StarText


@pytest.fixture
def small(tmp_path: Path) -> SmallSet:
    """A good set in a folder of its own."""
    images = noise_images()
    content = StarText(rows=tuple(particle_row(i + 1) for i in range(len(images))))
    stack, star = tmp_path / "stack.mrcs", tmp_path / "particles.star"
    stack.write_bytes(mrc_bytes(images, pixel_size=3.5))
    star.write_text(content.text())
    return SmallSet(star, stack, images, content)
