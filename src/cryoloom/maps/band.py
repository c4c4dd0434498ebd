"""Sizes of grids that hold a map band-limited to a radius."""

from __future__ import annotations

from dataclasses import dataclass

MARGIN = 2  # shells kept beyond the radius: trilinear interpolation reads one voxel further out


@dataclass(frozen=True, slots=True)
class Band:
    """A band limit, a radius in Fourier pixels; these do not depend on the box, as the field of view is the same."""

    radius: int

    @property
    def box(self) -> int:
        """Side in voxels of the working box: the real-space box of a map with this band limit."""
        return 2 * (self.radius + MARGIN)

    @property
    def side(self) -> int:
        """Side in voxels of the padded half grid into which images of this band limit are inserted, twice the box."""
        return 2 * self.box

    @classmethod
    def of_box(cls, box: int) -> Band:
        """The band limit of a map in its smallest box: the inverse of `box`."""
        return cls(box // 2 - MARGIN)
