"""Pose encoders, networks that map images to poses: the base class, and the encoder of cryoAI (Levy et al. 2022)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Self

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional

from cryoloom.inference.poses.frames import HALF_TURN
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels.images import Images
from cryoloom.physics.fourier import ifft2
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.rotations import geodesic_degrees


class PoseEncoder(nn.Module, ABC):
    """A network that maps images to candidate poses.

    Attributes:
        radius: radius in Fourier pixels of the disc of frequencies that the network reads.
        equivariant: whether rotating an image in its plane rotates its pose equally (for images without astigmatism).
        described: the numbers that the network is built from, for its file.
    """

    equivariant = False
    described: Mapping[str, float]

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.radius = radius

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers, for the file of the network."""
        return dict(self.state_dict())

    @classmethod
    def of_description(cls, described: Mapping[str, float]) -> Self:
        """A network built from the numbers of `described`, with initial weights; by default they are its arguments."""
        return cls(**described)

    @classmethod
    def of_file(cls, described: Mapping[str, float], tensors: dict[str, Tensor]) -> Self:
        """The network rebuilt from its file: the inverse of `described` and `tensors`."""
        encoder = cls.of_description(described)
        encoder.load_state_dict(tensors)
        return encoder

    @abstractmethod
    def forward(self, images: Images) -> PosePosterior:
        """K candidate poses for each of B images, whose disc reaches `radius` at least; differentiable where R and t
        are outputs of the network."""

    @abstractmethod
    def dream_loss(self, images: Images, R: Float[Tensor, "B 3 3"], t: Float[Tensor, "B 2"]) -> Tensor:
        """Loss of training on images with known poses; one correct hypothesis for each image suffices."""


def half_turned(images: Images) -> Images:
    """The same images rotated by 180 degrees in their plane: Y(-k) = conj Y(k) in Fourier space; CTFs are even."""
    return Images(images.observed.conj().resolve_conj(), images.ctf, images.variance, images.group, images.disc)


def with_half_turn(encoder: PoseEncoder, images: Images) -> PosePosterior:
    """Candidates from each image and from the image rotated by 180 degrees (R = R' diag(-1, -1, 1), t = -t').

    The symmetrised loss of cryoAI takes the better of the two. Without it half of the images converge to poses that are
    wrong by half a turn.
    """
    both = Images(
        torch.cat([images.observed, half_turned(images).observed]),
        images.ctf.repeat(2, 1),
        images.variance,
        images.group.repeat(2),
        images.disc,
    )
    found = encoder(both)
    B = len(images.observed)
    R = torch.cat([found.R[:B], found.R[B:] @ HALF_TURN.to(found.R)], 1)
    t = torch.cat([found.t[:B], -found.t[B:]], 1)
    return PosePosterior(R, t, torch.cat([found.log_weight[:B], found.log_weight[B:]], 1)).normalised()


def in_box(disc: FourierDisc, box: int) -> FourierDisc:
    """The same frequencies as those of a smaller or larger box over the same field of view."""
    return FourierDisc(
        box=box,
        pixel_size=disc.pixel_size * disc.box / box,
        radius=disc.radius,
        index=disc.index,
        k=disc.k,
        weight=disc.weight,
    )


def to_images(coefficients: Complex[Tensor, "B P"], disc: FourierDisc) -> Float[Tensor, "B D D"]:
    """Real images with these Fourier coefficients, zero elsewhere."""
    return ifft2(disc.scatter(coefficients)).real


def rotation_of_two_vectors(v: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation whose first two columns are two vectors, orthonormal by Gram-Schmidt (S2 x S2; Zhou et al. 2019)."""
    first = functional.normalize(v[..., :3], dim=-1)
    second = v[..., 3:] - (v[..., 3:] * first).sum(-1, keepdim=True) * first
    second = functional.normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second, dim=-1)], -1)


class GaussianFilters(nn.Module):
    """A bank of fixed Gaussian low-pass filters, each output standardised image by image."""

    variances: Tensor

    def __init__(self, count: int, least: float = 0.01, most: float = 100.0) -> None:
        """Variances from `least` to `most` in square pixels."""
        super().__init__()
        self.register_buffer("variances", torch.logspace(math.log10(least), math.log10(most), count))

    def forward(self, coefficients: Complex[Tensor, "B P"], disc: FourierDisc) -> Float[Tensor, "B F D D"]:
        """Filtered images."""
        square = disc.index.square().sum(1) / disc.box**2
        damping = torch.exp(-2 * math.pi**2 * self.variances[:, None] * square)
        filtered = to_images((coefficients[:, None] * damping).flatten(0, 1), disc)
        filtered = filtered.reshape(len(coefficients), -1, disc.box, disc.box)
        centred = filtered - filtered.mean((2, 3), keepdim=True)
        return centred / centred.std((2, 3), keepdim=True).clamp(min=1e-12)


# channels of the convolutions between poolings
PAPER = ((64, 64), (128, 128), (256, 256, 256), (256, 256), (256, 256))
COMPACT = ((16, 16), (32, 32), (64, 64))
FEATURES = 256  # features of an image from which its pose is predicted


class VGGEncoder(PoseEncoder):
    """Gaussian filter bank, convolutions like the first layers of VGG16, two fully connected heads.

    Rotations are parameterised as S2 x S2 (two vectors, Gram-Schmidt), shifts as two numbers. Each head gives one
    hypothesis; a further output gives their log weights.
    """

    def __init__(
        self,
        box: int,
        pixel_size: float,
        radius: float,
        blocks: tuple[tuple[int, ...], ...] = COMPACT,
        filters: int = 5,
        heads: int = 1,
        mixed_precision: bool = False,
    ) -> None:
        """Args:
        box, pixel_size: box and pixel size of the network's input images, just large enough for `radius`.
        mixed_precision: convolutions and dense layers in bfloat16; filters before and poses after stay float32.
        """
        super().__init__(radius)
        if blocks not in (PAPER, COMPACT):
            raise ValueError(f"blocks {blocks}: expected PAPER or COMPACT")
        self.described = {
            "box": box,
            "pixel_size": pixel_size,
            "radius": radius,
            "paper": float(blocks == PAPER),
            "filters": filters,
            "heads": heads,
        }
        self.box = box
        self.pixel_size = pixel_size
        self.mixed_precision = mixed_precision
        self.heads = heads
        self.filters = GaussianFilters(filters)
        layers: list[nn.Module] = []
        channels, side = filters, box
        for block in blocks:
            for width in block:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            if side >= 2:
                layers.append(nn.MaxPool2d(2))
                side //= 2
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        self.dense = nn.Sequential(
            nn.Linear(channels * side**2, 512),
            nn.ReLU(),
            nn.Linear(512, FEATURES),
            nn.ReLU(),
            # without it the outputs of an untrained network hardly depend on the image, and all images collapse to one
            # pose
            nn.BatchNorm1d(FEATURES, affine=False),
        )
        self.rotation = nn.Linear(FEATURES, 6 * heads)
        nn.init.normal_(self.rotation.weight, std=FEATURES**-0.5)
        nn.init.zeros_(self.rotation.bias)
        self.shift = nn.Linear(FEATURES, 2 * heads)
        nn.init.zeros_(self.shift.weight)
        nn.init.zeros_(self.shift.bias)
        self.likely = nn.Linear(FEATURES, heads)

    @classmethod
    def of_description(cls, described: Mapping[str, float]) -> Self:
        """See `PoseEncoder.of_description`."""
        d = described
        blocks = PAPER if d["paper"] else COMPACT
        return cls(
            int(d["box"]), d["pixel_size"], d["radius"], blocks, filters=int(d["filters"]), heads=int(d["heads"])
        )

    def forward(self, images: Images) -> PosePosterior:
        """See `PoseEncoder.forward`."""
        images = images.prefix(self.radius)
        pictures = self.filters(images.observed, in_box(images.disc, self.box))
        with torch.autocast(pictures.device.type, torch.bfloat16, enabled=self.mixed_precision):
            h = self.dense(self.trunk(pictures.contiguous(memory_format=torch.channels_last)))
        h = h.float()
        R = rotation_of_two_vectors(self.rotation(h).unflatten(1, (self.heads, 6)))
        t = self.shift(h).unflatten(1, (self.heads, 2)) * self.pixel_size
        return PosePosterior(R, t, functional.log_softmax(self.likely(h), 1))

    def dream_loss(self, images: Images, R: Float[Tensor, "B 3 3"], t: Float[Tensor, "B 2"]) -> Tensor:
        """Winner-takes-all loss: chordal distance of the nearest head, its shift error and negative log weight."""
        found = self(images)
        chord = (found.R - R[:, None]).square().sum((2, 3))
        best = chord.argmin(1, keepdim=True)
        moved = ((found.t - t[:, None]) / self.pixel_size).square().sum(2)
        # a small gradient for all heads, so that none is stuck far from all images
        rotation = 0.95 * chord.gather(1, best)[:, 0] + 0.05 * chord.mean(1)
        return (rotation + 0.1 * moved.gather(1, best)[:, 0] - found.log_weight.gather(1, best)[:, 0]).mean()


def best_of_candidates_degrees(found: PosePosterior, R: Float[Tensor, "B 3 3"], count: int) -> Float[Tensor, " B"]:
    """Angle between a known rotation and the nearest of the `count` candidates of largest weight."""
    top = found.top(count)
    return geodesic_degrees(top.R, R[:, None].to(top.R).expand_as(top.R)).amin(1)
