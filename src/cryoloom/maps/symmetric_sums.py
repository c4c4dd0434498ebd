"""Normal equations of a symmetric map: images inserted at few symmetry mates, the rest by exchanging grid axes.

The elements of a point group that map the cubic grid onto itself (all of O and T, twelve of the 60 of I) exchange and
reverse its axes, and trilinear insertion commutes with that: they act on the sums as on the images, without error. Only
one element of each of their cosets needs an insertion of its own: one for T and O, five for I, n for Cn with odd n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.kernels.images import Samples
from cryoloom.maps.backprojection import Statistics

_EXACT = 1e-5  # a matrix this near to integers exchanges axes


@dataclass(frozen=True, slots=True)
class SymmetricSums:
    """A point group, split into what acts on images and what acts on the grid: its elements are the products p m.

    Attributes:
        mates: [n, 3, 3], at which images are inserted; the identity comes first.
        steps: chain of sets of axis exchanges, each [m, 3, 3] of integers with the identity first; the products of one
            element of each set, later sets to the left, are all exchanges p of the group.
    """

    mates: Tensor
    steps: tuple[Tensor, ...]

    @staticmethod
    def of(group: Float[Tensor, "G 3 3"]) -> SymmetricSums:
        """The split of a group of rotations that holds the identity."""
        exchanges = group[(group - group.round()).abs().amax((1, 2)) < _EXACT].round()
        mates: list[Tensor] = []
        for g in group:
            # right cosets {p m}: g lies in that of m if g m^-1 exchanges axes
            if not any(_holds(exchanges, g @ m.T) for m in mates):
                mates.append(g)
        return SymmetricSums(torch.stack(mates), _chain(exchanges))

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

    def imposed(self, statistics: Statistics) -> Statistics:
        """The mean of normal equations over the exchanges of axes, as if all images had been inserted at each."""
        if not self.steps:
            return statistics
        return Statistics(self._mean(statistics.num), self._mean(statistics.den))

    def _mean(self, half: Tensor) -> Tensor:
        """Mean of a half grid over all exchanges."""
        side = half.shape[0]
        n = (side - 1) // 2
        low, high = side // 2 - n, side // 2 + n + 1
        kept = half[low:high, low:high, : n + 1]
        whole = torch.cat([kept[..., 1:].flip((0, 1, 2)).conj(), kept], 2)
        for step in self.steps:
            total = whole.clone()
            for p in step[1:]:
                total += _exchanged(whole, p)
            whole = total
        out = torch.zeros_like(half)
        out[low:high, low:high, : n + 1] = whole[..., n:] / math.prod(len(step) for step in self.steps)
        return out


def _exchanged(grid: Tensor, p: Tensor) -> Tensor:
    """The odd cube g'(k) = g(p^-1 k) about its centre, arrays [z, y, x]."""
    # k' = p k: component i of k' is s_i times component c_i of k, so axis i of the result is axis c_i of the grid
    columns = p.abs().argmax(1).tolist()
    signs = [float(p[i, c]) for i, c in enumerate(columns)]
    moved = grid.permute(*(2 - columns[i] for i in (2, 1, 0)))
    return moved.flip([2 - i for i in range(3) if signs[i] < 0])


def _chain(exchanges: Tensor) -> tuple[Tensor, ...]:
    """Sets whose products are the whole group of exchanges: coset representatives along a chain of subgroups."""
    # reversals first, then cyclic exchanges: each subgroup is small in the next one
    order = torch.argsort(_rank(exchanges), stable=True)
    reached, steps = exchanges[:1], []
    for p in exchanges[order]:
        if _holds(reached, p):
            continue
        larger = _closure(torch.cat([reached, p[None]]))
        cosets: list[Tensor] = []
        for g in larger:
            if not any(_holds(reached, c.T @ g) for c in cosets):
                cosets.append(g)
        steps.append(torch.stack(cosets))
        reached = larger
    return tuple(steps)


def _rank(exchanges: Tensor) -> Tensor:
    trace = exchanges.diagonal(dim1=1, dim2=2)
    reverses = trace.abs().sum(1) == 3
    cyclic = trace.abs().sum(1) == 0
    return torch.where(reverses, 0, torch.where(cyclic, 1, 2))


def _closure(elements: Tensor) -> Tensor:
    """The group that elements generate, those first."""
    found = list(elements)
    for a in found:  # grows as it is read
        for b in elements:
            product = a @ b
            if not _holds(torch.stack(found), product):
                found.append(product)
    return torch.stack(found)


def _holds(elements: Tensor, g: Tensor) -> bool:
    return bool(((elements - g).abs().amax((1, 2)) < 10 * _EXACT).any())
