"""Particle size and sign of the contrast, estimated from sums over many images before any pose is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.particles.background import radius_map
from cryoloom.particles.coefficients import CoefficientReader
from cryoloom.physics.frequencies import FourierDisc

# largest box in which images are examined: the particle's outline needs no more
LOOK_BOX = 64
# s.d. of the low-pass filter, in Nyquist frequencies: keeps what has much signal and is little delocalised by the CTF
_CUT = 0.2
# the particle's edge is where the variance over images, less that of the background, falls to this share of its peak
_EDGE = 0.045
_SMALLEST, _LARGEST = 0.3, 0.95


@dataclass(frozen=True, slots=True)
class Size:
    """Diameter in angstrom; `seen` is False where no particle stands out and the diameter is a guess."""

    diameter_angstrom: float
    seen: bool


class Appearance:
    """Sums over images, fed batch by batch.

    Poses are random, so the mean of CTF-multiplied images is the particle's mean projection, and their variance is
    above the background's wherever any particle reaches.
    """

    def __init__(self, box: int, pixel_size: float) -> None:
        self.box = min(box, LOOK_BOX)
        self.pixel_size = pixel_size * box / self.box
        self.disc = FourierDisc.create(self.box, self.pixel_size, radius=3 * _CUT * self.box / 2)
        self._reader = CoefficientReader.create(self.disc, box)
        self._place = CoefficientReader.create(self.disc, self.box)
        nyquist = 0.5 / self.pixel_size
        self._filter = torch.exp(-0.5 * (self.disc.k.norm(dim=-1) / (_CUT * nyquist)) ** 2)
        self._filter[0] = 0
        self._count = 0
        self._square = torch.zeros(self.box, self.box, dtype=torch.float64)
        self._sum = torch.zeros(len(self.disc.index), dtype=torch.float64)
        self._spread = torch.zeros(len(self.disc.index), dtype=torch.float64)
        self._power = torch.zeros(len(self.disc.index), dtype=torch.float64)

    def add(self, images: Float[Tensor, "B D D"], ctf: Float[Tensor, "B P"]) -> None:
        """Add images of zero mean and comparable scale, with their CTF on `disc`."""
        observed = self._reader(images)
        matched = observed * ctf
        self._square += self._place.images(matched * self._filter).square().sum(0).double()
        self._count += len(images)
        self._sum += matched.real.sum(0).double()
        self._spread += (ctf.square() * observed.abs().square()).sum(0).double()
        self._power += observed.abs().square().sum(0).double()

    def size(self) -> Size:
        """Diameter at which the variance over images has fallen to the background's, on the large side.

        Measured on sets of five simulated molecules (SNR 0.05 to 0.1, 64 px): -3 to +21 % of the diameter that holds
        99 % of the density; shifts count as size: +36 % for a particle of 29 px shifted by 2.5 px s.d.
        """
        shell = radius_map(self.box).round().long().reshape(-1)
        count = torch.bincount(shell)
        profile = torch.bincount(shell, weights=(self._square / self._count).reshape(-1)) / count
        outer = profile[math.ceil(0.5 * self.box) : math.ceil(0.6 * self.box)]
        floor, error = outer.mean(), outer.std()
        excess = profile - floor
        excess = (excess[:-2] + 2 * excess[1:-1] + excess[2:]) / 4  # index i is radius i + 1
        peak = excess[1 : self.box // 2].max()
        # a variance over n images has relative error sqrt(2 / n), averaged over the independent blobs of a ring
        error = torch.maximum(error, floor * math.sqrt(2 / self._count) / 4)
        if peak < 8 * error:
            return Size(0.75 * self.box * self.pixel_size, False)
        threshold = torch.maximum(_EDGE * peak, 3 * error)
        top = int(torch.nonzero(excess > peak / 2).max())
        below = torch.nonzero(excess[top:] < threshold)
        if len(below):
            i = top + int(below[0])
            step = float((excess[i - 1] - threshold) / (excess[i - 1] - excess[i]))
            radius = i + step
        else:
            radius = self.box
        share = min(max(2 * radius / self.box, _SMALLEST), _LARGEST)
        return Size(share * self.box * self.pixel_size, True)

    def contrast(self, diameter_angstrom: float) -> float:
        """Standard score of 'the particle is brighter than its surroundings': > 0 white, < 0 black.

        Matched filter with the main lobe of a sphere's transform, where every compact body has the sign of its mass.
        """
        q = math.pi * diameter_angstrom * self.disc.k.norm(dim=-1).double()
        lobe = 3 * (torch.sin(q) - q * torch.cos(q)) / q.clamp(min=1e-9) ** 3
        lobe = torch.where((q > 0) & (q < 4.4934), lobe, torch.zeros_like(q))
        if not (lobe > 0).any():  # the lobe lies within the first shell: take that one
            lobe = (self.disc.shells == 1).double()
        weight = lobe * self.disc.weight.double() * self._count / self._power.clamp(min=1e-30)
        # the real part has half the power of a coefficient, and the Friedel mate has the same real part
        variance = (weight.square() * self._spread / 2).sum()
        return float((weight * self._sum).sum() / variance.sqrt().clamp(min=1e-30))
