"""Encoders of conformations: networks that map an image with known pose to q(z|X) (Zhong et al. 2021, cryoDRGN)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional

from cryoloom.inference.conformations.posterior import DiagonalGaussian
from cryoloom.inference.poses.encoder import in_box, to_images
from cryoloom.kernels.images import Images
from cryoloom.physics.image_model import shift_ramp

LEAST_LOG_VARIANCE = -12.0
# small: samples as wide as the prior hide the information of the first latents, and the decoder learns it late or never
FIRST_LOG_VARIANCE = -4.0


class ImageEncoder(nn.Module, ABC):
    """Network from the residual of an image, after subtracting the projection of the mean volume, to q(z|X).

    Attributes:
        radius: radius in Fourier pixels of the disc of frequencies that the network reads.
        box: side of its input images, 2 (radius + 1) pixels.
    """

    inside: Tensor

    def __init__(self, radius: int, diameter: float, latent: int) -> None:
        """Args:
        diameter: diameter of the particle in box sides; pixels outside are ignored.
        """
        super().__init__()
        self.radius = radius
        self.box = 2 * (radius + 1)
        self.latent = latent
        axis = torch.arange(self.box) - self.box // 2
        square = axis[:, None].square() + axis.square()
        self.register_buffer("inside", square <= (0.5 * diameter * self.box) ** 2, persistent=False)

    def pictures(
        self, images: Images, expected: Complex[Tensor, "B P"], t: Float[Tensor, "B 2"]
    ) -> Float[Tensor, "B m m"]:
        """Residual images C (Y - X) / s2^(1/2), low-passed, particle centred; their noise has standard deviation <= 1.

        Multiplication by the CTF flips phases and weights frequencies by their signal.
        """
        images = images.prefix(self.radius)
        P = len(images.disc.weight)
        white = images.ctf / images.variance[images.group].sqrt()
        centred = (images.observed - expected[:, :P]) * white * shift_ramp(images.disc.k, -t)
        return to_images(centred, in_box(images.disc, self.box)) * self.box

    @abstractmethod
    def forward(
        self, images: Images, expected: Complex[Tensor, "B P"], R: Float[Tensor, "B 3 3"], t: Float[Tensor, "B 2"]
    ) -> DiagonalGaussian:
        """q(z|X) of B images whose disc reaches `radius` at least.

        Args:
            expected: coefficients predicted by the mean volume at the poses.
            R, t: poses, t in angstrom.
        """


class Heads(nn.Module):
    """Output layer: mean and log-variance from features."""

    def __init__(self, features: int, latent: int) -> None:
        super().__init__()
        self.mean = nn.Linear(features, latent)
        self.log_variance = nn.Linear(features, latent)
        with torch.no_grad():
            self.log_variance.weight.mul_(0.1)
            self.log_variance.bias.fill_(FIRST_LOG_VARIANCE)

    def forward(self, h: Float[Tensor, "B F"]) -> DiagonalGaussian:
        """q(z|X)."""
        return DiagonalGaussian(self.mean(h), self.log_variance(h).clamp(LEAST_LOG_VARIANCE, 5.0))


class MLPEncoder(ImageEncoder):
    """Residual fully connected layers on the pixels within the particle and on the pose."""

    def __init__(self, radius: int, diameter: float, latent: int, width: int = 256, layers: int = 3) -> None:
        super().__init__(radius, diameter, latent)
        pixels = int(self.inside.sum())
        self.first = nn.Linear(pixels + 9, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.heads = Heads(width, latent)

    def forward(
        self, images: Images, expected: Complex[Tensor, "B P"], R: Float[Tensor, "B 3 3"], t: Float[Tensor, "B 2"]
    ) -> DiagonalGaussian:
        """See `ImageEncoder.forward`."""
        seen = self.pictures(images, expected, t)[:, self.inside]
        h = self.first(torch.cat([seen, R.flatten(1)], 1))
        for block in self.blocks:
            h = functional.relu(h)
            h = h + block(h)
        return self.heads(functional.relu(h))


class CNNEncoder(ImageEncoder):
    """Strided convolutions, then fully connected layers on their features and on the pose."""

    def __init__(self, radius: int, diameter: float, latent: int, width: int = 256, layers: int = 3) -> None:
        """Args:
        layers: number of convolutions, each of which halves the side; channels double from 16.
        """
        super().__init__(radius, diameter, latent)
        convolutions: list[nn.Module] = []
        channels, side = 1, self.box
        for i in range(layers):
            wider = 16 << i
            convolutions += [nn.Conv2d(channels, wider, 5, stride=2, padding=2), nn.GroupNorm(8, wider), nn.ReLU()]
            channels, side = wider, math.ceil(side / 2)
        self.trunk = nn.Sequential(*convolutions, nn.Flatten())
        self.dense = nn.Sequential(
            nn.Linear(channels * side**2 + 9, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.heads = Heads(width, latent)

    def forward(
        self, images: Images, expected: Complex[Tensor, "B P"], R: Float[Tensor, "B 3 3"], t: Float[Tensor, "B 2"]
    ) -> DiagonalGaussian:
        """See `ImageEncoder.forward`."""
        seen = self.trunk((self.pictures(images, expected, t) * self.inside)[:, None])
        return self.heads(self.dense(torch.cat([seen, R.flatten(1)], 1)))
