"""Normal equations of a symmetric map: images inserted at few symmetry mates, the rest by exchanging grid axes.

The elements of a point group that map the cubic grid onto itself (all of O and T, twelve of the 60 of I) exchange and
reverse its axes, and trilinear insertion commutes with that: they act on the sums as on the images, without error. Only
one element of each of their cosets needs an insertion of its own: one for T and O, five for I, n for Cn with odd n.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.kernels.dispatch import Insertion
from cryoloom.kernels.images import Samples
from cryoloom.maps.backprojection import Statistics

_EXACT = 1e-5  # a matrix this near to integers exchanges axes


@dataclass(frozen=True, slots=True)
class SymmetricSums:
    """A point group, split into what acts on images and what acts on the grid: its elements are the products p m.

    Attributes:
        mates: [n, 3, 3], at which images are inserted; the identity comes first.
        exchanges: [m, 3, 3], all elements that exchange or reverse axes; the identity comes first.
    """

    mates: Tensor
    exchanges: Tensor

    @staticmethod
    def of(group: Float[Tensor, "G 3 3"]) -> SymmetricSums:
        """The split of a group of rotations, of which the identity comes first."""
        exchanges = group[(group - group.round()).abs().amax((1, 2)) < _EXACT].round()
        mates: list[Tensor] = []
        for g in group:
            # right cosets {p m}: g lies in that of m if g m^-1 exchanges axes
            if not any(_holds(exchanges, g @ m.T) for m in mates):
                mates.append(g)
        return SymmetricSums(torch.stack(mates), exchanges)

    def at_mates(self, samples: Samples) -> Samples:
        """Each sample at all mates m R (the volume has V(m x) = V(x)), its weight divided among them.

        The weights keep their sum: symmetry adds no images, each view is only inserted at several rotations.
        """
        n = len(self.mates)
        if n == 1:
            return samples
        R = torch.einsum("gij,cjk->cgik", self.mates.to(samples.R), samples.R).reshape(-1, 3, 3).contiguous()
        return Samples(
            samples.image.repeat_interleave(n),
            R,
            samples.t.repeat_interleave(n, 0),
            samples.weight.repeat_interleave(n) / n,
        )

    def imposed(self, inserted: Insertion) -> Statistics:
        """Sums of images inserted at all mates, with the mean over the exchanges of axes in their place."""
        if len(self.exchanges) > 1:
            inserted.average(self.exchanges)
        return Statistics(*inserted.sums())


def _holds(elements: Tensor, g: Tensor) -> bool:
    return bool(((elements - g).abs().amax((1, 2)) < 10 * _EXACT).any())
