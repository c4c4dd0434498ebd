"""Selection of the images with the most information at low resolution, by their CTF and noise."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.ctf import evaluate_ctf
from cryoloom.physics.noise import spread_shells

ENVELOPE = 2.5  # radius in Fourier pixels within which coefficients hold little information on the orientation
CHUNK = 2000  # CTFs evaluated at once


def information(feed: ImageFeed, rows: np.ndarray, radius: float, noise: Float[Tensor, "G S"]) -> Float[Tensor, " B"]:
    """Mean of C^2 / s2 over the disc of `radius`, in units of the mean noise of all groups.

    Strongly defocused images carry several times the signal of weakly defocused ones at 40 angstrom and below.
    """
    disc = feed.disc.prefix(radius)
    beyond = disc.k.norm(dim=1) * disc.box * disc.pixel_size > ENVELOPE
    relative = noise.float().mean(0, keepdim=True) / noise.float().clamp(min=1e-20)
    hermitian = torch.where(beyond, disc.weight, 0.0)
    weight = spread_shells(relative.cpu(), disc) * hermitian / hermitian.sum()
    particles = feed.source.particles
    parts = []
    for start in range(0, len(rows), CHUNK):
        index = torch.from_numpy(rows[start : start + CHUNK])
        square = evaluate_ctf(particles.ctf[index].to(dtype=torch.float32), disc.k).square()
        group = torch.from_numpy(particles.group[rows[start : start + CHUNK]])
        parts.append((square * weight[group]).sum(1))
    return torch.cat(parts)


def most_informative(
    feed: ImageFeed, rows: np.ndarray, radius: float, noise: Float[Tensor, "G S"], count: int
) -> np.ndarray:
    """The `count` most informative rows, in the order given; of equal ones the first."""
    if count >= len(rows):
        return rows
    order = information(feed, rows, radius, noise).argsort(descending=True, stable=True)
    return rows[np.sort(order[:count].numpy())]
