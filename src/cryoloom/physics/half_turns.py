"""Half turns about the axes of an image: what slices at rotations that differ by them have in common.

The slice of a real volume at R Rz, Rz the half turn about the view, is the complex conjugate of the slice at R, since
V(-k) = conj V(k). At R Rx, Rx the half turn about the x axis, it is the same slice mirrored, at (kx, -ky). The inner
products of an image with the slices at R, R Rz, R Rx and R Ry are therefore sums and differences of four: those of the
real and the imaginary part, each even or odd under the mirror. Together these are as long as one of the slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryoloom.physics.frequencies import FourierDisc

# none, and about z, x and y; applied from the right, in the frame of the image
HALF_TURNS = torch.diag_embed(torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0]]))


@dataclass(frozen=True, slots=True)
class MirrorPairs:
    """The frequencies of a disc in pairs (kx, ky) and (kx, -ky).

    Attributes:
        order: indices of the disc's coefficients, [P]: those with ky > 0, their partners in the same order, those with
            ky = 0.
        pairs: number of pairs.
    """

    order: Int[Tensor, " P"]
    pairs: int

    @staticmethod
    def of(disc: FourierDisc) -> MirrorPairs:
        """The pairs of a disc."""
        x, y = disc.index.unbind(1)
        key = x * (2 * int(disc.radius) + 1)
        upper, lower, axis = (torch.nonzero(side)[:, 0] for side in (y > 0, y < 0, y == 0))
        upper = upper[torch.argsort((key + y)[upper])]
        lower = lower[torch.argsort((key - y)[lower])]
        return MirrorPairs(torch.cat([upper, lower, axis]), len(upper))

    def parts(self, real: Float[Tensor, "*b P"], imaginary: Float[Tensor, "*b P"]) -> tuple[Tensor, ...]:
        """Even and odd part of the real and of the imaginary parts of coefficients in `order`, [*b, P - pairs] and
        [*b, pairs] in turn: sums and differences of partners."""
        n = self.pairs
        out = []
        for values in (real, imaginary):
            upper, lower, axis = values[..., :n], values[..., n : 2 * n], values[..., 2 * n :]
            out += [torch.cat([upper + lower, axis], -1), upper - lower]
        return tuple(out)

    def halved(self, parts: Sequence[Float[Tensor, "m _"]]) -> tuple[Tensor, ...]:
        """Parts whose products with those of others sum to the products of the coefficients."""
        even = torch.ones_like(parts[0][:1])
        even[:, : self.pairs] = 0.5
        return tuple(part * (0.5 if i % 2 else even) for i, part in enumerate(parts))

    def mirrored(self, values: Tensor) -> Tensor:
        """Coefficients [*b, P] in `order` at the mirrored frequencies."""
        n = self.pairs
        return torch.cat([values[..., n : 2 * n], values[..., :n], values[..., 2 * n :]], -1)


def unfolded(parts: Float[Tensor, "4 *b m"]) -> Float[Tensor, "*b 4*m"]:
    """Products with the slices at R, R Rz, R Rx and R Ry of m rotations R, one group after the other, from the four
    parts."""
    a, b, c, d = parts
    even, odd, other, rest = a + b, c + d, a - b, c - d
    return torch.cat([even + odd, even - odd, other + rest, other - rest], -1)


def in_groups(norms: Float[Tensor, "2 *b m"]) -> Float[Tensor, "*b 4*m"]:
    """What the slices at R and R Rz share, and those at R Rx and R Ry, in the order of `unfolded`."""
    return torch.cat([norms[0], norms[0], norms[1], norms[1]], -1)


def at_half_turns(slices: Complex[Tensor, "m P"], pairs: MirrorPairs) -> Complex[Tensor, "4*m P"]:
    """Slices at R, R Rz, R Rx and R Ry, in the order of the disc, from those at m rotations R."""
    mirrored = torch.empty_like(slices)
    mirrored[:, pairs.order] = pairs.mirrored(slices[:, pairs.order])
    return torch.cat([slices, slices.conj(), mirrored, mirrored.conj()])
