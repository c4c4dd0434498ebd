"""Reconstruction of a map from weighted poses: normal equations on a Fourier grid and their regularised solution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import GUARD, lines_within, planes_to_volume, resize_half, shell_of, slabs
from cryoloom.kernels.images import Images, Samples
from cryoloom.maps.band import Band
from cryoloom.maps.fsc import fourier_shell_correlation
from cryoloom.maps.mask import SMOOTH_ANGSTROM, automatic_mask, radial_mean, soft_sphere
from cryoloom.physics.fourier import stretched
from cryoloom.physics.slicing import PADDING

# prior weight of empty voxels and of shells beyond the measured ones, relative to the mean weight
FLOOR = 1e-3
# bounds of the FSC when it is converted to a signal-to-noise ratio
LEAST_FSC, MOST_FSC = 0.02, 0.999


class NormalEquations(Protocol):
    """Normal equations of a map, which are read a few planes at a time: those of some images, or a combination."""

    @property
    def side(self) -> int:
        """M: side of the padded grid."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the planes are."""
        ...

    def planes(self, z: slice) -> tuple[Complex[Tensor, "n M H"], Float[Tensor, "n M H"]]:
        """num and den of some planes, not to be written to."""
        ...

    def weights(self, shells: int) -> Float[Tensor, "S 2"]:
        """Sum of den in each of the first shells, and the number of its points, float64."""
        ...


@dataclass(frozen=True, slots=True)
class Statistics:
    """Sums over images, half grids [M, M, M // 2 + 2]: num = sum w C Y e^{..}, complex64; den = sum w C^2, float32."""

    num: Tensor
    den: Tensor

    @property
    def side(self) -> int:
        """M: side of the padded grid."""
        return self.num.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the sums are."""
        return self.num.device

    def planes(self, z: slice) -> tuple[Tensor, Tensor]:
        """See `NormalEquations.planes`."""
        return self.num[z], self.den[z]

    def weights(self, shells: int) -> Float[Tensor, "S 2"]:
        """See `NormalEquations.weights`."""
        return _weights(self, shells)

    def blended(self, newest: Statistics, rate: float) -> Statistics:
        """Running mean of online EM: (1 - rate) times these plus rate times the newest."""
        return Statistics(torch.lerp(self.num, newest.num, rate), torch.lerp(self.den, newest.den, rate))

    def resized(self, side: int) -> Statistics:
        """The same normal equations at another band limit, with the same field of view."""
        return Statistics(resize_half(self.num, side), resize_half(self.den, side))


@dataclass(frozen=True, slots=True)
class Together:
    """Normal equations of the images of several sets: the sums, without a grid of their own."""

    parts: tuple[NormalEquations, ...]

    @property
    def side(self) -> int:
        """M: side of the padded grid."""
        return self.parts[0].side

    @property
    def device(self) -> torch.device:
        """Where the sums are."""
        return self.parts[0].device

    def planes(self, z: slice) -> tuple[Tensor, Tensor]:
        """See `NormalEquations.planes`."""
        num, den = self.parts[0].planes(z)
        for part in self.parts[1:]:
            more = part.planes(z)
            num, den = num + more[0], den + more[1]
        return num, den

    def weights(self, shells: int) -> Float[Tensor, "S 2"]:
        """See `NormalEquations.weights`."""
        found = [part.weights(shells) for part in self.parts]
        total = torch.stack([part[:, 0] for part in found]).sum(0)
        return torch.stack([total, found[0][:, 1]], 1)


@dataclass(frozen=True, slots=True)
class Packed:
    """Normal equations up to a radius, in half the memory: without the corners of their grid.

    Attributes:
        side: M of the padded grid; radius: image Fourier pixels; values: see `kernels.dispatch.pack`.
    """

    side: int
    radius: int
    values: Float[Tensor, "n 3"]

    @staticmethod
    def of(sums: Statistics, radius: int) -> Packed:
        """The sums up to a radius."""
        lines = lines_within(sums.side, radius, sums.device)
        return Packed(sums.side, radius, dispatch.pack(sums.num, sums.den, lines))

    @property
    def device(self) -> torch.device:
        """Where the sums are."""
        return self.values.device

    def planes(self, z: slice) -> tuple[Tensor, Tensor]:
        """See `NormalEquations.planes`."""
        return dispatch.unpack(self.values, lines_within(self.side, self.radius, self.device), z)

    def weights(self, shells: int) -> Float[Tensor, "S 2"]:
        """See `NormalEquations.weights`."""
        return _weights(self, shells)


@dataclass(frozen=True, slots=True)
class Cropped:
    """Normal equations at a smaller band limit, without a grid of their own."""

    whole: NormalEquations
    side: int

    @property
    def device(self) -> torch.device:
        """Where the sums are."""
        return self.whole.device

    def planes(self, z: slice) -> tuple[Tensor, Tensor]:
        """See `NormalEquations.planes`."""
        low = self.whole.side // 2 - self.side // 2
        columns = self.side // 2 + GUARD
        num, den = self.whole.planes(slice(low + z.start, low + z.stop))
        lines = slice(low, low + self.side)
        return num[:, lines, :columns], den[:, lines, :columns]

    def weights(self, shells: int) -> Float[Tensor, "S 2"]:
        """See `NormalEquations.weights`; shells must lie within the smaller grid."""
        return self.whole.weights(shells)


def _weights(equations: Statistics | Packed, shells: int) -> Float[Tensor, "S 2"]:
    """See `NormalEquations.weights`."""
    side, device = equations.side, equations.device
    total = torch.zeros(shells, 2, dtype=torch.float64, device=device)
    for z in slabs(side, side * (side // 2 + GUARD), device):
        den = equations.planes(z)[1]
        sums = dispatch.shell_sums(den, z.start, PADDING, reach=PADDING * (shells - 0.51), shells=shells)
        total += torch.stack([sums[0], sums[1].double()], 1)
    return total


def within(equations: NormalEquations, radius: int) -> NormalEquations:
    """The same normal equations on the grid for a smaller radius, in image Fourier pixels."""
    side = Band(radius).side
    return equations if equations.side <= side else Cropped(equations, side)


def accumulate(images: Images, samples: Samples, side: int) -> Statistics:
    """Normal equations of images at weighted poses on a padded half grid of `side`."""
    return Statistics(*dispatch.insert(images, samples, side))


def half_shells(side: int, last: int, device: torch.device | str = "cpu") -> Tensor:
    """Integer shell (image Fourier pixels) of each half-grid voxel, int64, clamped to `last`."""
    return shell_of(side, device=device).round().long().clamp(max=last)


def shell_means(values: Float[Tensor, "M M H"], shells: Tensor, count: int) -> Float[Tensor, " count"]:
    """Mean over the voxels of each shell."""
    flat = shells.reshape(-1)
    total = torch.bincount(flat, values.reshape(-1).double(), minlength=count)
    return (total / torch.bincount(flat, minlength=count).clamp(min=1)).float()[:count]


def solve(equations: NormalEquations, ssnr: Float[Tensor, " S"] | None, radius: float) -> Float[Tensor, "D D D"]:
    """Map num / (den + 1 / tau^2), band-limited to `radius` Fourier pixels.

    Args:
        ssnr: signal-to-noise ratio of the map by shell, tau^2 times the mean of den, for the Wiener filter. None gives
            the unfiltered map (den is floored).

    Returns:
        The volume of box M / 2, corrected for the interpolation kernel.
    """
    shells = shells_within(radius)
    total, count = equations.weights(shells).unbind(1)
    mean = (total / count.clamp(min=1)).float()
    if ssnr is None:
        prior = FLOOR * mean
    else:
        full = torch.cat([ssnr, ssnr[-1:].expand(max(0, shells - len(ssnr)))])[:shells].to(mean)
        prior = mean / full
    prior = prior + 1e-9 * mean.max()

    def quotients(z: slice) -> Tensor:
        num, den = equations.planes(z)
        return dispatch.quotients(num, den, z.start, PADDING, prior=prior, reach=PADDING * (radius + 0.5))

    return planes_to_volume(quotients, equations.side, equations.device)


def shells_within(radius: float) -> int:
    """Number of whole shells of a map band-limited to `radius`; its rim beyond them is weighed as the last one."""
    return int(radius) + 1


def particle_mask(box: int, diameter_px: float, device: torch.device | str = "cpu") -> Float[Tensor, "D D D"]:
    """Soft sphere around the particle, a tenth wider than its diameter and limited by the box."""
    soft = max(2.0, box / 16)
    radius = min(0.55 * diameter_px, box / 2 - soft)
    return soft_sphere(box, radius, soft, device=device)


def molecule_mask(
    halves: tuple[NormalEquations, NormalEquations],
    fsc: Float[Tensor, " S"],
    *,
    box: int,
    field_of_view: float,
    diameter_angstrom: float,
    resolution_angstrom: float | None,
) -> Float[Tensor, "D D D"]:
    """Mask of the molecule (`mask.automatic_mask`) in the map of both half sets, in a box.

    The mask is found at 15 angstrom or coarser: a map of twice that resolution is fine enough.

    Args:
        fsc: of the half maps, by shell, as far as their map goes.
        field_of_view: side of the images, angstrom; resolution_angstrom: of the map, if known.
    """
    radius = min(len(fsc) - 1, math.ceil(2 * field_of_view / SMOOTH_ANGSTROM))
    coarse = solve(within(Together(halves), radius), ssnr_of_sum(fsc[: radius + 1]), radius)
    pixel_size = field_of_view / len(coarse)
    coarse = coarse * particle_mask(len(coarse), diameter_angstrom / pixel_size, coarse.device)
    return stretched(automatic_mask(coarse, pixel_size, diameter_angstrom, resolution_angstrom), box)


def ssnr_of_half(fsc: Float[Tensor, " S"]) -> Float[Tensor, " S"]:
    """Signal-to-noise ratio of one half map by shell: FSC / (1 - FSC)."""
    f = fsc.clamp(LEAST_FSC, MOST_FSC).float()
    return f / (1 - f)


def ssnr_of_sum(fsc: Float[Tensor, " S"]) -> Float[Tensor, " S"]:
    """Signal-to-noise ratio of the map of both half sets by shell: 2 FSC / (1 - FSC)."""
    return 2 * ssnr_of_half(fsc)


def half_map_fsc(
    first: NormalEquations, second: NormalEquations, radius: float, mask: Float[Tensor, "D D D"]
) -> Float[Tensor, " S"]:
    """FSC of the two unfiltered maps within a mask, by shell up to floor(radius); float64."""
    a, b = (solve(s, None, radius) * mask for s in (first, second))
    return fourier_shell_correlation(a, b)[: int(radius) + 1]


def running_map(
    first: NormalEquations, second: NormalEquations, radius: float, mask: Float[Tensor, "D D D"]
) -> tuple[Float[Tensor, "D D D"], Float[Tensor, " S"]]:
    """Map of two sets of images that are used alternately, masked and Wiener-filtered by their FSC; and that FSC.

    Both sets are aligned to one map, so their FSC is too high: use it to weight shells, not to state a resolution.
    """
    fsc = half_map_fsc(first, second, radius, mask).clamp(min=0.05)
    return solve(Together((first, second)), ssnr_of_sum(fsc), radius) * mask, fsc


def negated_about_spheres(statistics: Statistics) -> Statistics:
    """Normal equations of the map in which what differs from the mean over each sphere about the centre is negated.

    The means are those of the map's transform over the shells of its padded grid, linear between them.
    """
    radius = shell_of(statistics.side, device=statistics.num.device).double() * PADDING
    radial = radial_mean(radius, statistics.num.real.double(), statistics.den.double()).float()
    return Statistics(2 * statistics.den * radial - statistics.num, statistics.den)


def moved(statistics: Statistics, offset_px: Float[Tensor, " 3"]) -> Statistics:
    """Normal equations of the map shifted by `offset_px` (x, y, z) voxels of the unpadded box M / 2."""
    side = statistics.side
    device = statistics.num.device
    step = 1.0 / side  # the padded grid samples the box M / 2 voxels at 1 / M cycles a voxel
    c = (torch.arange(side, device=device, dtype=torch.float32) - side // 2) * step
    x = torch.arange(statistics.num.shape[2], device=device, dtype=torch.float32) * step
    turns = c[:, None, None] * offset_px[2] + c[None, :, None] * offset_px[1] + x[None, None, :] * offset_px[0]
    return Statistics(statistics.num * torch.polar(torch.ones_like(turns), -2 * torch.pi * turns), statistics.den)
