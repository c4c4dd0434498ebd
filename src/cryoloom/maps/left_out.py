"""Normal equations without some of their images: sums are recorded as they grow, and differences taken out again.

Records are rounded to bfloat16, 0.17 % (r.m.s.), far below the noise of the images that they tell apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import lines_within
from cryoloom.maps.backprojection import NormalEquations, Statistics, shells_within


@dataclass(frozen=True, slots=True)
class Record:
    """Sums as they were at some time, up to a radius, in a quarter of the memory of the sums.

    Attributes:
        radius: image Fourier pixels; values: see `kernels.dispatch.record`.
        weights: sums of den and number of points by shell, see `NormalEquations.weights`.
    """

    radius: int
    values: Tensor
    weights: Float[Tensor, "S 2"]

    @staticmethod
    def of(sums: Statistics, radius: int) -> Record:
        """The sums at present."""
        values = dispatch.record(sums.num, sums.den, lines_within(sums.side, radius, sums.device))
        return Record(radius, values, sums.weights(shells_within(radius)))


@dataclass(frozen=True, slots=True)
class WithoutSome:
    """Sums without the images that were added between two times, up to the radius of the records.

    Attributes:
        total: the sums of all images; radius: of the records.
        before, after: the sums before and after those images; None where there were no others before or after.
        total_weights: see `NormalEquations.weights`, up to the radius.
    """

    total: NormalEquations
    radius: int
    before: Record | None
    after: Record | None
    total_weights: Float[Tensor, "S 2"]

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
        after, before = (None if record is None else record.values for record in (self.after, self.before))
        lines = lines_within(self.side, self.radius, self.device)
        # the total is rounded as the records are: where there were no other images, nothing is left
        return dispatch.left_out(*self.total.planes(z), after, before, lines=lines, first=z.start)

    def weights(self, shells: int) -> Float[Tensor, "S 2"]:
        """See `NormalEquations.weights`.

        Raises:
            ValueError: for shells beyond the radius of the records.
        """
        if shells > len(self.total_weights):
            held = len(self.total_weights)
            raise ValueError(f"weights of {shells} shells: records of radius {self.radius} hold {held}")
        found = self.total_weights.clone()
        added = found[:, 0] if self.after is None else self.after.weights[:, 0]
        found[:, 0] += (0 if self.before is None else self.before.weights[:, 0]) - added
        return found[:shells]


def without_each(total: NormalEquations, records: list[Record]) -> Sequence[NormalEquations]:
    """The sums without each of the groups of images that were added one after the other.

    Args:
        records: of the sums between the groups, one fewer than these; at least one.
    """
    radius, times = records[0].radius, [None, *records, None]
    weights = total.weights(shells_within(radius))
    return [WithoutSome(total, radius, before, after, weights) for before, after in itertools.pairwise(times)]
