"""Images as the kernels take them: Fourier coefficients with CTF and noise spectra, on the device."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.kernels.images import Images
from cryoloom.maps.backprojection import particle_mask
from cryoloom.particles.batches import ParticleSource, SomeOfASource
from cryoloom.particles.particle_set import ParticleSet
from cryoloom.particles.preprocess import Preprocessing, measure
from cryoloom.physics.ctf import evaluate_ctf
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.noise import spread_shells
from cryoloom.runs.machine import choose_device
from cryoloom.runs.seeds import torch_generator

# regularises the division of premultiplied images by their CTF, near the zeros of which there is no signal
LEAST_CTF2 = 1e-3
# size of the coefficients of a batch: the allocator keeps arrays of this size, and takes larger ones from the system
_BATCH_BYTES = 12 << 20


class ImageFeed:
    """Hands out `Images` of chosen rows within a radius. Holds no images itself: the source caches within its bound."""

    def __init__(self, source: ParticleSource | SomeOfASource, device: torch.device) -> None:
        self.source = source
        self.device = device
        self.disc = source.disc
        self.box = source.disc.box
        self.pixel_size = source.disc.pixel_size
        self.diameter_px = source.preprocessing.particle_diameter_angstrom / self.pixel_size
        self.groups = len(source.preprocessing.noise)

    def __len__(self) -> int:
        return len(self.source)

    def only(self, rows: np.ndarray) -> ImageFeed:
        """Some of the images, numbered anew in the order given; they share the cache."""
        return ImageFeed(self.source.only(rows), self.device)

    def __repr__(self) -> str:
        diameter = self.source.preprocessing.particle_diameter_angstrom
        return (
            f"ImageFeed({len(self):,} images of {self.box} x {self.box} px, {self.pixel_size:.4g} Å/px, particle "
            f"diameter {diameter:.0f} Å, optics groups {self.groups}, on {self.device})"
        )

    @property
    def field_of_view(self) -> float:
        """Side of the images, angstrom."""
        return self.box * self.pixel_size

    @property
    def noise(self) -> Float[Tensor, "G S"]:
        """Noise power by optics group and Fourier shell as first measured, float32 (E|n|^2, see `Preprocessing`)."""
        return self.source.preprocessing.noise.float()

    def radius_of(self, level: float) -> int:
        """Radius of a level in the working box; levels count Fourier pixels of a box as large as the particle."""
        return min((self.box - 1) // 2, max(3, round(level * self.box / self.diameter_px)))

    def mask(self, box: int) -> Float[Tensor, "D D D"]:
        """Soft sphere around the particle in a box of the working box's field of view."""
        return particle_mask(box, self.diameter_px * box / self.box, self.device)

    def prefix(self, radius: float) -> FourierDisc:
        """The disc of `radius` on the device."""
        d = self.disc.prefix(radius)
        return FourierDisc(
            box=d.box,
            pixel_size=d.pixel_size,
            radius=d.radius,
            index=d.index.to(self.device),
            k=d.k.to(self.device),
            weight=d.weight.to(self.device),
        )

    def at_once(self, radius: float, most: int) -> int:
        """Number of images of a batch on the disc of `radius`: at most `most`, fewer where they are large."""
        return max(1, min(most, _BATCH_BYTES // (8 * self.disc.count(radius))))

    def images(self, rows: np.ndarray, radius: float, noise: Float[Tensor, "G S"]) -> Images:
        """Images of `rows` on the disc of `radius` with noise spectra by shell (E|n|^2, one row per group)."""
        disc = self.disc.prefix(radius)
        batch = self.source.batch(rows, len(disc.weight))
        ctf = evaluate_ctf(batch.ctf.to(dtype=torch.float32), disc.k)
        observed = batch.observed
        if self.source.particles.ctf_premultiplied:
            observed = observed * (ctf / (ctf.square() + LEAST_CTF2))
        variance = spread_shells(noise.to(torch.float32).cpu(), disc).contiguous()
        to = self.device
        return Images(observed.to(to), ctf.to(to), variance.to(to), batch.group.to(to), self.prefix(radius))


def feed_of(
    particles: ParticleSet,
    *,
    particle_diameter_angstrom: float | None,
    box: int | None,
    device: str,
    seed: int,
    cache_bytes: int,
) -> ImageFeed:
    """The images of a set, normalised by contrast, diameter and noise that are measured on a sample of them.

    Args: see `ParticleSet.images`.
    """
    generator = torch_generator(seed, "preprocessing")
    preprocessing = measure(
        particles, particle_diameter_angstrom=particle_diameter_angstrom, box=box, generator=generator
    )
    return normalised_feed(particles, preprocessing, cache_bytes, choose_device(device, lambda message: None))


def normalised_feed(
    particles: ParticleSet, preprocessing: Preprocessing, cache_bytes: int, device: torch.device
) -> ImageFeed:
    """The images of a set on a device, normalised by what was measured of them."""
    disc = FourierDisc.create(preprocessing.box, preprocessing.pixel_size)
    return ImageFeed(ParticleSource(particles, preprocessing, disc, cache_bytes), device)
