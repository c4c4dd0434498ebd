"""The half-plane disc of frequencies on which images are compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoloom.physics.fourier import fft2


@dataclass(frozen=True, slots=True, repr=False)
class FourierDisc:
    """Frequencies kx >= 0 with 0 <= |k| <= radius, sorted by |k|, so that a smaller disc is a prefix of a larger one.

    The column kx = 0 keeps both signs of ky with weight 1; all other coefficients have weight 2: the weighted
    half-plane sum of a Hermitian function is its full-plane sum (the Nyquist row and column are left out).

    Attributes:
        box: side D of the images, pixels.
        pixel_size: angstrom.
        radius: radius of the disc, Fourier pixels.
        index: integer frequencies (ix, iy), [P, 2]; k = index / (box * pixel_size).
        k: frequencies (kx, ky) in 1/angstrom, [P, 2].
        weight: Hermitian weights, [P].
    """

    box: int
    pixel_size: float
    radius: float
    index: Tensor
    k: Tensor
    weight: Tensor

    def __repr__(self) -> str:
        count, box = len(self.weight), self.box
        return f"FourierDisc({count} frequencies up to r = {self.radius:g} px, box {box}, {self.pixel_size:.4g} Å/px)"

    @staticmethod
    def create(
        box: int,
        pixel_size: float,
        radius: float | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> FourierDisc:
        """Disc of `radius` Fourier pixels; None gives the largest possible radius, (D - 1) // 2."""
        limit = (box - 1) // 2
        radius = float(limit) if radius is None else min(float(radius), float(limit))
        n = int(radius)
        iy, ix = torch.meshgrid(torch.arange(-n, n + 1), torch.arange(0, n + 1), indexing="ij")
        square = ix**2 + iy**2
        keep = square <= radius**2
        ix, iy, square = ix[keep], iy[keep], square[keep]
        order = torch.argsort(square, stable=True)
        index = torch.stack([ix[order], iy[order]], -1).to(device)
        k = index.to(dtype) / (box * pixel_size)
        weight = torch.where(index[:, 0] == 0, 1.0, 2.0).to(dtype)
        return FourierDisc(box=box, pixel_size=float(pixel_size), radius=radius, index=index, k=k, weight=weight)

    @property
    def step(self) -> float:
        """Spacing of Fourier pixels, 1/angstrom: one over the field of view."""
        return 1.0 / (self.box * self.pixel_size)

    @property
    def radii(self) -> Tensor:
        """|index| of each coefficient in Fourier pixels, [P], non-decreasing."""
        return self.index.to(self.k.dtype).norm(dim=-1)

    @property
    def shells(self) -> Tensor:
        """Nearest integer radius of each coefficient, int64 [P]."""
        return self.radii.round().long()

    def count(self, radius: float) -> int:
        """Number of coefficients with |index| <= radius: the size of that smaller disc."""
        return int((self.index.square().sum(-1) <= radius**2).sum())

    def prefix(self, radius: float) -> FourierDisc:
        """The smaller disc of `radius`, whose coefficients are the first `count(radius)` of this one."""
        if radius >= self.radius:
            return self
        n = self.count(radius)
        return FourierDisc(
            box=self.box,
            pixel_size=self.pixel_size,
            radius=min(float(radius), self.radius),
            index=self.index[:n],
            k=self.k[:n],
            weight=self.weight[:n],
        )

    def gather(self, centred: Tensor) -> Tensor:
        """Coefficients [..., P] of a centred transform [..., D, D]."""
        c = self.box // 2
        return centred[..., self.index[:, 1] + c, self.index[:, 0] + c]

    def scatter(self, coefficients: Tensor) -> Tensor:
        """Centred Hermitian transform [..., D, D] that holds coefficients [..., P] and zero elsewhere."""
        c = self.box // 2
        out = coefficients.new_zeros(*coefficients.shape[:-1], self.box, self.box)
        out[..., c - self.index[:, 1], c - self.index[:, 0]] = coefficients.conj()
        out[..., self.index[:, 1] + c, self.index[:, 0] + c] = coefficients
        return out

    def transform(self, images: Tensor) -> Tensor:
        """Coefficients [..., P] of real images [..., D, D]."""
        return self.gather(fft2(images))
