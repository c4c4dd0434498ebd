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
_CUT = 0.35
# regularises the division by the sum of squared CTFs, as a share of the number of images: low frequencies of a usual
# CTF stay damped, so that the mean projection has a trough at the particle's edge
_LEAST_CTF2 = 0.02
# the edge is where the mean projection has fallen to its minimum, but for this share of its range
_EDGE = 0.01
# the edge of the mean projection lies within the particle's farthest reaches, and shifts are to be included
_MARGIN = 1.15
# the range of the mean projection, in standard errors, from which on a particle is seen
_SEEN = 8.0
_SMALLEST, _LARGEST = 0.3, 0.95
SURE = 4.0  # s.d. from which on the contrast is known


@dataclass(frozen=True, slots=True)
class Size:
    """Diameter in angstrom; `seen` is False where no particle stands out and the diameter is a guess."""

    diameter_angstrom: float
    seen: bool


class Appearance:
    """Sums over images, fed batch by batch.

    Orientations and neighbours are random, so the mean of CTF-multiplied images is the particle's mean projection on a
    level ground: neighbours, ice and carbon, which differ from image to image, average out.
    """

    def __init__(self, box: int, pixel_size: float) -> None:
        self.box = min(box, LOOK_BOX)
        self.pixel_size = pixel_size * box / self.box
        nyquist = 0.5 / self.pixel_size
        self.disc = FourierDisc.create(self.box, self.pixel_size, radius=min(2.5 * _CUT, 1.0) * (self.box / 2 - 1))
        self._reader = CoefficientReader.create(self.disc, box)
        self._place = CoefficientReader.create(self.disc, self.box)
        self._filter = torch.exp(-0.5 * (self.disc.k.norm(dim=-1).double() / (_CUT * nyquist)) ** 2)
        self._filter[0] = 0
        self._count = 0
        points = len(self.disc.index)
        # even and odd images apart: their difference is the error of the mean
        self._sum, self._ctf2 = (torch.zeros(2, points, dtype=torch.float64) for _ in range(2))
        self._spread, self._power = (torch.zeros(points, dtype=torch.float64) for _ in range(2))

    def add(self, images: Float[Tensor, "B D D"], ctf: Float[Tensor, "B P"]) -> None:
        """Add images of zero mean and comparable scale, with their CTF on `disc`."""
        observed = self._reader(images)
        for half in (0, 1):
            mine = slice((half + self._count) % 2, None, 2)
            self._sum[half] += (observed[mine] * ctf[mine]).real.sum(0).double()
            self._ctf2[half] += ctf[mine].square().sum(0).double()
        self._count += len(images)
        self._spread += (ctf.square() * observed.abs().square()).sum(0).double()
        self._power += observed.abs().square().sum(0).double()

    def mean_projection(self) -> Float[Tensor, "2 S"]:
        """Mean projection by radius in pixels of `box`, of even and of odd images: corrected for the CTF, without its
        mean over the box, float64."""
        share = torch.tensor([self._count - self._count // 2, self._count // 2])[:, None]
        corrected = self._filter * self._sum / (self._ctf2 + _LEAST_CTF2 * share).clamp(min=1e-12)
        images = self._place.images(torch.complex(corrected, torch.zeros_like(corrected)).to(torch.complex64))
        shell = radius_map(self.box).round().long().reshape(-1)
        rings = torch.zeros(2, int(shell.max()) + 1, dtype=torch.float64)
        return rings.index_add(1, shell, images.reshape(2, -1).double()) / torch.bincount(shell)

    def size(self) -> Size:
        """Diameter at which the mean projection reaches the ground around it, on the large side.

        Measured on sets of nine molecules, with and without neighbours, ramps and carbon (64 px, SNR 0.05 to 0.1): -4
        to +20 % of the diameter that holds 99 % of the density; shifts count as size: +30 % for a particle of 28 px
        shifted by 2.5 px s.d.
        """
        halves = self.mean_projection()
        profile = halves.mean(0)[: math.ceil(0.55 * self.box)]
        # the innermost rings have few pixels; the edge lies farther out
        error = float((halves[0] - halves[1])[round(0.2 * self.box) : len(profile)].square().mean().sqrt()) / 2
        if profile.abs().argmax() == (-profile).argmax():  # black particles
            profile = -profile
        top = int(profile.argmax())
        bottom = float(profile[top:].min())
        span = float(profile[top]) - bottom
        unknown = Size(0.75 * self.box * self.pixel_size, False)
        if span < _SEEN * error:
            return unknown
        level = bottom + max(_EDGE * span, 2 * error)
        outer = top + int(torch.nonzero(profile[top:] <= level)[0])
        step = float((profile[outer - 1] - level) / (profile[outer - 1] - profile[outer])) if outer else 0.0
        share = min(max(2 * _MARGIN * (outer - 1 + step) / self.box, _SMALLEST), _LARGEST)
        found = Size(share * self.box * self.pixel_size, True)
        # of noise, the few pixels of the innermost rings may stand out, but no body of that size does
        return found if abs(self.contrast(found.diameter_angstrom)) >= SURE else unknown

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
        return float((weight * self._sum.sum(0)).sum() / variance.sqrt().clamp(min=1e-30))
