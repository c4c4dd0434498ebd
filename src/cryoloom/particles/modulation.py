"""Detection of CTF premultiplication or phase flipping that the particle file does not declare."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryoloom.particles.background import radius_map
from cryoloom.particles.coefficients import CoefficientReader
from cryoloom.physics.frequencies import FourierDisc

# more images or larger boxes do not make the answer more certain
MOST_IMAGES = 300
MOST_BOX = 128
_SURE = 6.0


class Modulation:
    """Sums over images, fed batch by batch.

    The noise of premultiplied images has the zeros of the CTF. Multiplication by |C| concentrates the signal within the
    particle in phase-flipped images, multiplication by C in raw ones; this shows only if the signal reaches beyond the
    first zero of the CTF.
    """

    def __init__(self, box: int, pixel_size: float, diameter_angstrom: float) -> None:
        self.box = min(box, MOST_BOX)
        pixel_size = pixel_size * box / self.box
        self.disc = FourierDisc.create(self.box, pixel_size)
        self._reader = CoefficientReader.create(self.disc, box)
        self._place = CoefficientReader.create(self.disc, self.box)
        self._circle = radius_map(self.box) < 0.4 * diameter_angstrom / pixel_size
        self._low, self._high = torch.zeros(2), torch.zeros(2)
        self._gain: list[Tensor] = []

    def add(self, images: Float[Tensor, "B D D"], ctf: Float[Tensor, "B P"]) -> None:
        """Add normalised images with their CTF on `disc`."""
        observed = self._reader(images) * (self.disc.radii >= 3)
        power = observed.abs().square()
        relative = power / power.mean(0).clamp(min=1e-30)
        square = ctf.square()
        for total, chosen in ((self._low, square < 0.05), (self._high, square > 0.6)):
            total += torch.stack([(relative * chosen).sum(), chosen.sum()])
        self._gain.append(self._inside(observed * ctf) - self._inside(observed * ctf.abs()))

    def _inside(self, coefficients: Complex[Tensor, "B P"]) -> Float[Tensor, " B"]:
        """Share of each image's power within the particle."""
        square = self._place.images(coefficients).square()
        return square[:, self._circle].sum(1) / square.sum((1, 2)).clamp(min=1e-30)

    def premultiplied(self) -> bool:
        """Whether the power near the zeros of the CTF is far below that where the CTF is large, at equal frequency."""
        if self._low[1] < 1000 or self._high[1] < 1000:
            return False
        return bool(self._low[0] / self._low[1] < 0.35 * self._high[0] / self._high[1])

    def flip_score(self) -> float:
        """Standard score of 'phases were not flipped': far below 0 for flipped images, near 0 if undecided."""
        gain = torch.cat(self._gain)
        spread = gain.std() if len(gain) > 1 else gain.new_zeros(())
        return float(gain.mean() / spread.clamp(min=1e-12) * math.sqrt(len(gain)))

    def findings(self) -> list[str]:
        """Warnings for the user."""
        if self.premultiplied():
            return [
                "The images seem to be CTF-premultiplied (the noise has the zeros of the CTF), but no column says so: "
                "if true, set rlnCtfDataAreCtfPremultiplied to 1 for all rows and run again."
            ]
        if self.flip_score() < -_SURE:
            return [
                "The images seem to be phase-flipped, but no column says so: if true, set "
                "rlnCtfDataArePhaseFlipped to 1 for all rows and run again."
            ]
        return []
