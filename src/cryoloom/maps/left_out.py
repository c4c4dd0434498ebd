"""Normal equations without some of their images: sums are recorded as they grow, and differences taken out again."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoloom.kernels.half_grid import GUARD
from cryoloom.maps.backprojection import Statistics
from cryoloom.physics.slicing import PADDING

# rounds to 0.1 % (r.m.s.), far below the noise of the images that a record tells apart
_RECORDED = torch.bfloat16


@dataclass(frozen=True, slots=True)
class Record:
    """Sums as they were at some time, within a radius, in a quarter of the memory of the sums.

    Attributes:
        side: M of the padded grid; reach: radius, grid pixels.
        values: num (real, imaginary part) and den of the points of all planes z, [n, 3] bfloat16: of each plane the
            lines and columns that lie within the radius.
    """

    side: int
    reach: int
    values: Tensor

    @staticmethod
    def of(sums: Statistics, radius: float) -> Record:
        """The sums at present, up to `radius` image Fourier pixels."""
        reach = min(sums.side // 2 - 1, math.ceil(PADDING * (radius + 0.5)))
        places = [_place(sums.side, reach, z) for z in range(sums.side)]
        values = torch.empty(sum(n * w for _, n, w in places), 3, dtype=_RECORDED, device=sums.device)
        at = 0
        for z, (y, n, w) in enumerate(places):
            part = values[at : at + n * w].view(n, w, 3)
            part[..., :2] = torch.view_as_real(sums.num[z, y : y + n, :w])
            part[..., 2] = sums.den[z, y : y + n, :w]
            at += n * w
        return Record(sums.side, reach, values)

    def add_to(self, num: Tensor, den: Tensor, z: slice, sign: int) -> None:
        """Add the recorded sums, times `sign`, to planes z of num and den, in place."""
        at = sum(n * w for _, n, w in (_place(self.side, self.reach, before) for before in range(z.start)))
        for plane in range(z.start, z.stop):
            y, n, w = _place(self.side, self.reach, plane)
            part = self.values[at : at + n * w].view(n, w, 3).float()
            here = plane - z.start
            torch.view_as_real(num[here, y : y + n, :w]).add_(part[..., :2], alpha=sign)
            den[here, y : y + n, :w].add_(part[..., 2], alpha=sign)
            at += n * w


@dataclass(frozen=True, slots=True)
class WithoutSome:
    """Sums without the images that were added between two times.

    Attributes:
        total: the sums of all images.
        before, after: the sums before and after those images; None where there were no others before or after.
    """

    total: Statistics
    before: Record | None
    after: Record | None

    @property
    def side(self) -> int:
        """M: side of the padded grid."""
        return self.total.side

    @property
    def device(self) -> torch.device:
        """Where the sums are."""
        return self.total.device

    def planes(self, z: slice) -> tuple[Tensor, Tensor]:
        """See `NormalEquations.planes`."""
        if self.after is None:
            shape = (z.stop - z.start, self.side, self.side // 2 + GUARD)
            num = torch.zeros(shape, dtype=torch.complex64, device=self.device)
            den = torch.zeros(shape, device=self.device)
        else:
            # rounded as the records are: where there were no other images, nothing is left
            num = torch.view_as_complex(torch.view_as_real(self.total.num[z]).to(_RECORDED).float())
            den = self.total.den[z].to(_RECORDED).float()
            self.after.add_to(num, den, z, -1)
        if self.before is not None:
            self.before.add_to(num, den, z, 1)
        return num, den.clamp_(min=0)


def without_each(total: Statistics, records: list[Record]) -> list[WithoutSome]:
    """The sums without each of the groups of images that were added one after the other.

    Args:
        records: of the sums between the groups: one fewer than these.
    """
    times = [None, *records, None]
    return [WithoutSome(total, before, after) for before, after in itertools.pairwise(times)]


def _place(side: int, reach: int, z: int) -> tuple[int, int, int]:
    """First line, number of lines and number of columns of a plane that lie within `reach` of the centre."""
    rest = reach**2 - (z - side // 2) ** 2
    if rest < 0:
        return 0, 0, 0
    n = math.isqrt(rest)
    return side // 2 - n, 2 * n + 1, n + 1
