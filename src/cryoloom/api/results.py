"""What single steps return: maps with their half maps and FSC, and FSC curves."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cryoloom.maps.fsc import GoldStandard, crossing, resolution_angstrom
from cryoloom.maps.io import DensityMap


@dataclass(frozen=True, repr=False)
class Maps:
    """A map, its half maps and their agreement; what `backproject` returns.

    Attributes:
        map: both half sets together, Wiener-filtered by the FSC.
        half_maps: one for each half set, unfiltered.
        mask: soft mask of the molecule, 0 to 1, within which the FSC was computed.
        fsc: gold-standard FSC of the half maps, corrected for the mask by phase randomisation.
    """

    map: DensityMap
    half_maps: tuple[DensityMap, DensityMap]
    mask: DensityMap
    fsc: GoldStandard

    @property
    def resolution_angstrom(self) -> float | None:
        """Resolution where the FSC falls below 0.143; None if the half maps do not correlate."""
        return self.fsc.resolution_angstrom

    def __repr__(self) -> str:
        side, pixel_size = len(self.map.data), self.map.pixel_size
        found = self.resolution_angstrom
        words = "half maps do not correlate" if found is None else f"resolution {found:.1f} Å at FSC 0.143"
        return f"Maps({side} x {side} x {side} voxels of {pixel_size:.4g} Å, {words})"


@dataclass(frozen=True, repr=False)
class FSCCurve:
    """Fourier shell correlation of two maps.

    Attributes:
        correlation: float64 [S], one value for each shell 0 ... S - 1, S = box // 2 + 1.
        box: side of the maps, voxels; pixel_size: side of a voxel, angstrom.
    """

    correlation: Tensor
    box: int
    pixel_size: float

    def resolution_angstrom(self, threshold: float = 0.5) -> float | None:
        """Resolution where the curve falls below a threshold; None if it is below it from the first shell on.

        Use 0.143 for two independent half maps and 0.5 for a map against a known structure.
        """
        return resolution_angstrom(crossing(self.correlation, threshold), self.box, self.pixel_size)

    @property
    def mean(self) -> float:
        """Mean correlation of the shells between the origin and Nyquist."""
        return float(self.correlation[1 : self.box // 2].mean())

    def __repr__(self) -> str:
        found = [(threshold, self.resolution_angstrom(threshold)) for threshold in (0.5, 0.143)]
        words = ", ".join(f"{'none' if r is None else f'{r:.2f} Å'} at {t}" for t, r in found)
        return f"FSCCurve({len(self.correlation)} shells, resolution {words}, mean {self.mean:.3f})"
