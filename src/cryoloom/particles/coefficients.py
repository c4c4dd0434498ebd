"""Fourier coefficients of image batches on a disc, by one real transform and one gather."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryoloom.physics.frequencies import FourierDisc


@dataclass(frozen=True, slots=True)
class CoefficientReader:
    """Takes the coefficients of a working box's disc out of images of a larger or equal box.

    Equal to ``disc.transform(resize_real(images, disc.box, 2))`` without centred or smaller copies of the images:
    cropping in Fourier space leaves frequencies out, and moving the origin to ``D // 2`` is a phase factor.

    Attributes:
        box: side D of the images.
        position: index of each coefficient in the flattened rfft2, [P].
        phase: factor of each coefficient, for centring and the scale (m / D)^2, complex64 [P].
    """

    box: int
    position: Tensor
    phase: Tensor

    @staticmethod
    def create(disc: FourierDisc, box: int) -> CoefficientReader:
        """Reader for images of side `box`.

        Raises:
            ValueError: if the disc's box is larger than the images'.
        """
        if disc.box > box:
            raise ValueError(f"working box {disc.box} is larger than the images' box {box}: choose at most {box}")
        x, y = disc.index[:, 0], disc.index[:, 1]
        position = (y % box) * (box // 2 + 1) + x
        turns = ((x + y) * (box // 2) % box).double() / box
        scale = (disc.box / box) ** 2
        phase = torch.polar(torch.full_like(turns, scale), 2 * math.pi * turns)
        return CoefficientReader(box, position, phase.to(torch.complex64))

    def __call__(self, images: Float[Tensor, "B D D"]) -> Complex[Tensor, "B P"]:
        """Coefficients of real images."""
        spectrum = torch.fft.rfft2(images).reshape(len(images), -1)
        return spectrum.index_select(1, self.position).mul_(self.phase)

    def images(self, coefficients: Complex[Tensor, "B P"]) -> Float[Tensor, "B D D"]:
        """Real images with these coefficients and zeros elsewhere: the inverse of the call if no box is cropped."""
        half = coefficients.new_zeros(len(coefficients), self.box * (self.box // 2 + 1))
        half[:, self.position] = coefficients / self.phase
        return torch.fft.irfft2(half.view(len(coefficients), self.box, -1), s=(self.box, self.box))


def crop_images(images: Float[Tensor, "B D D"], box: int) -> Float[Tensor, "B m m"]:
    """Images at a smaller box over the same field of view, values kept: `fourier.resize_real` by real transforms."""
    old = images.shape[-1]
    if box == old:
        return images
    half = (min(box, old) - 1) // 2
    spectrum = torch.fft.rfft2(torch.fft.ifftshift(images, dim=(-2, -1)))
    out = spectrum.new_zeros(len(images), box, box // 2 + 1)
    out[:, : half + 1, : half + 1] = spectrum[:, : half + 1, : half + 1]
    out[:, -half:, : half + 1] = spectrum[:, -half:, : half + 1]
    return torch.fft.fftshift(torch.fft.irfft2(out, s=(box, box)), dim=(-2, -1)) * (box / old) ** 2
