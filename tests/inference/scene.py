"""Images of the Gaussian cloud by its exact transform, for pose methods to place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.kernels.images import Images
from cryoloom.physics.ctf import CTFParameters, evaluate_ctf
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.image_model import shift_ramp
from cryoloom.physics.phantom import GaussianCloud
from cryoloom.physics.rotations import exponential
from cryoloom.physics.slicing import rotated_points

BOX, PIXEL_SIZE, GROUPS = 32, 4.0, 2


@dataclass(frozen=True)
class Phantom:
    """An asymmetric cloud of 40 A radius: its half grid, and the frequencies of its images."""

    cloud: GaussianCloud
    grid: Tensor
    disc: FourierDisc

    @staticmethod
    def create(seed: int = 4) -> Phantom:
        cloud = GaussianCloud.random(40, 40.0, 5.0, torch.Generator().manual_seed(seed))
        volume = cloud.density(BOX, PIXEL_SIZE)
        return Phantom(cloud, volume_to_half(volume.float()), FourierDisc.create(BOX, PIXEL_SIZE))

    def images(self, R: Tensor, t: Tensor, snr: float, generator: torch.Generator | None = None) -> Images:
        """Images at poses R [B, 3, 3], t [B, 2], of many defoci.

        Noise at `snr` (signal power over noise power on the whole disc) is assumed, and added where a generator is
        given. Every other image is of the second optics group, which has twice the noise.
        """
        B = len(R)
        ctf = evaluate_ctf(CTFParameters.create(torch.linspace(8e3, 2e4, B)), self.disc.k).float()
        slices = self.cloud.transform(rotated_points(self.disc.k.double(), R.double()))
        clean = (slices * shift_ramp(self.disc.k.double(), t.double()) * ctf).to(torch.complex64)
        power = (self.disc.weight * clean.abs().square()).sum(1).mean() / self.disc.weight.sum()
        variance = (power / snr * torch.tensor([1.0, 2.0])[:, None]).expand(GROUPS, clean.shape[1]).contiguous()
        images = Images(clean.contiguous(), ctf, variance, torch.arange(B) % GROUPS, self.disc)
        return images if generator is None else noisy(images, generator)


def noisy(images: Images, generator: torch.Generator) -> Images:
    """The images with noise of their variance, as the transform of real noise has it."""
    disc = images.disc
    noise = torch.randn(images.observed.shape, dtype=torch.complex64, generator=generator)
    # at kx = 0 the disc holds both members of a Friedel pair
    edge = disc.index[:, 0] == 0
    mate = (disc.index[edge][:, None] == -disc.index[edge]).all(-1).float().argmax(1)
    pair = noise[:, edge]
    noise[:, edge] = (pair + pair[:, mate].conj()) / 2**0.5
    observed = images.observed + noise * images.variance[images.group].sqrt()
    return Images(observed.contiguous(), images.ctf, images.variance, images.group, disc)


def turned(R: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Rotations turned by `degrees` about random axes of the image's frame."""
    axis = torch.randn(len(R), 3, generator=generator)
    axis = axis / axis.norm(dim=1, keepdim=True)
    return (R @ exponential(torch.deg2rad(torch.tensor(degrees)) * axis)).contiguous()
