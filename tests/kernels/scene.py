"""Random scenes for the kernels: a white volume, images of several optics groups with noise, weighted poses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.kernels.images import Images, Samples
from cryoloom.physics.ctf import CTFParameters, evaluate_ctf
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.image_model import predict
from cryoloom.physics.rotations import random_rotations
from cryoloom.physics.slicing import volume_to_grid

PIXEL_SIZE = 3.0
GROUPS = 3


@dataclass(frozen=True)
class Scene:
    """A volume, B images of it and C > B weighted samples of those images at poses near and far.

    Attributes:
        grid: half grid, complex64; reference: full grid of the same volume, complex128.
        ctf: parameters of the B images; noise_free: prediction of each sample by the reference, complex128 [C, P].
    """

    box: int
    grid: Tensor
    reference: Tensor
    disc: FourierDisc
    ctf: CTFParameters
    images: Images
    samples: Samples

    @property
    def side(self) -> int:
        return self.grid.shape[0]

    @property
    def step(self) -> float:
        return 1.0 / (self.box * PIXEL_SIZE)

    def predicted(self) -> Tensor:
        """Prediction of each sample by the reference, complex128 [C, P]."""
        s = self.samples
        return predict(self.reference, s.R.double(), s.t.double(), self.ctf[s.image], self.disc)


def make_scene(box: int, generator: torch.Generator, count: int = 12) -> Scene:
    """A white volume is harsher than a molecule: no neighbour on the grid is like another."""
    volume = torch.randn(box, box, box, generator=generator)
    disc = FourierDisc.create(box, PIXEL_SIZE)
    ctf = CTFParameters.create(
        8e3 + 1.2e4 * torch.rand(count, generator=generator), 1e4, torch.rand(count, generator=generator)
    )
    group = torch.arange(count) % GROUPS
    P = len(disc.k)
    variance = (0.5 + torch.rand(GROUPS, P, generator=generator)) * box**3
    noise = torch.randn(count, P, dtype=torch.complex64, generator=generator)
    image = torch.cat([torch.arange(count), torch.randint(count, (count,), generator=generator)])
    R = random_rotations(len(image), generator).float()
    # on the grid's axes: points lie on grid lines, and the rim of an odd box on the last one
    R[0], R[1] = torch.eye(3), torch.tensor([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]])
    samples = Samples(
        image,
        R,
        5 * torch.randn(len(image), 2, generator=generator),
        torch.rand(len(image), generator=generator),
    )
    reference = volume_to_grid(volume.double())
    clean = predict(reference, R[:count].double(), samples.t[:count].double(), ctf, disc)
    observed = (clean.to(torch.complex64) + noise * variance[group].sqrt()).contiguous()
    images = Images(observed, evaluate_ctf(ctf, disc.k).float(), variance, group, disc)
    return Scene(
        box=box, grid=volume_to_half(volume), reference=reference, disc=disc, ctf=ctf, images=images, samples=samples
    )


def random_moments(count: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    """First [count, Q] and second moments (upper triangle) of random mixtures."""
    generator = torch.Generator().manual_seed(7)
    a = torch.randn(count, channels, generator=generator)
    i, j = torch.triu_indices(channels, channels)
    return a, a[:, i] * a[:, j] + (i == j)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected| over all entries."""
    return float((found - expected).norm() / expected.norm())
