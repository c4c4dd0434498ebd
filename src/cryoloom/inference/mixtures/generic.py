"""The alternative to all classes: an unknown body at low resolution, of which only size and power spectrum are known.

Within a window of the particle's size its density is a Gaussian process whose power by shell is that of slices of the
classes' maps, tau^2. Its Fourier coefficients X then have E[X(k) X(k')*] = tau(k) tau(k') A(k - k'), A being the
transform of the window, and E[X(k) X(k')] = tau(k) tau(k') A(k + k'): real and imaginary parts are independent of each
other, with covariances tau tau' (A(k - k') +- A(k + k')) / 2. With CTF and noise the image is Gaussian, and its
evidence a determinant and a quadratic form. An image of a class, at the right pose, is much likelier under the class;
an image of anything else may be likelier under the body, since no map fits it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.poses.search import Reference
from cryoloom.kernels.images import Images
from cryoloom.physics.frequencies import FourierDisc

CONTRASTS = (0.25, 1.0, 4.0)  # power of the body relative to that of the classes; all are as likely a priori
WINDOW = 1.1  # diameter of the window, in particle diameters
AT_ONCE = 100  # images whose matrices are held at once


def slice_power(references: Sequence[Reference], shares: Float[Tensor, " K"]) -> Float[Tensor, " P"]:
    """Mean power of the classes' slices at each frequency of their disc, by shell; classes count by their shares."""
    disc = references[0].disc
    power = torch.zeros(len(disc.weight), device=references[0].quarter.device)
    for share, reference in zip(shares.tolist(), references, strict=True):
        power += share * reference.quarter.abs().square().mean(0)
    shell = (disc.k.norm(dim=1) * disc.box * disc.pixel_size).round().long()
    count = torch.bincount(shell).clamp(min=1)
    return (torch.bincount(shell, power.double()) / count).float()[shell]


class UnknownBody:
    """Evidence of images for an unknown body on a disc of frequencies."""

    def __init__(self, disc: FourierDisc, diameter_angstrom: float) -> None:
        """`diameter_angstrom`: of the particle; the disc is that of the images given later."""
        self.disc = disc
        own = disc.k[:, 0] > 0  # of coefficients that are conjugates of each other, one; its parts are independent
        own |= (disc.k[:, 0] == 0) & (disc.k[:, 1] > 0)
        self.own = torch.nonzero(own)[:, 0]
        k = disc.k[self.own].double()
        less, more = (_airy(WINDOW * diameter_angstrom * (k[:, None] + s * k).norm(dim=2)) for s in (-1, 1))
        # covariances of real and imaginary parts at tau = 1
        self.parts = torch.stack([0.5 * (less + more), 0.5 * (less - more)]).float()

    def evidence(self, images: Images, power: Float[Tensor, " P"]) -> Float[Tensor, " B"]:
        """log p(image | unknown body) - log p(image | no particle), nats.

        Args:
            images: on the disc; power: tau^2 at each frequency (`slice_power`).
        """
        parts = [self._some(images.rows(rows), power) for rows in _chunks(len(images), images.observed.device)]
        return torch.cat(parts)

    def _some(self, images: Images, power: Tensor) -> Tensor:
        # each part of a coefficient has half of its noise
        scale = (0.5 * images.variance[images.group][:, self.own]).rsqrt()
        y = torch.view_as_real(images.observed[:, self.own]).permute(2, 0, 1) * scale
        d = images.ctf[:, self.own] * scale * power[self.own].sqrt()
        covariance = d[:, :, None] * self.parts[:, None] * d[:, None, :]
        one = torch.eye(len(self.own), device=d.device)
        found = []
        for contrast in CONTRASTS:
            factor = torch.linalg.cholesky(one + contrast * covariance)
            solved = torch.linalg.solve_triangular(factor, y[..., None], upper=False)[..., 0]
            logs = torch.diagonal(factor, dim1=2, dim2=3).log().sum(2)
            found.append((0.5 * (y.square().sum(2) - solved.square().sum(2)) - logs).sum(0))
        return torch.logsumexp(torch.stack(found), 0) - math.log(len(CONTRASTS))


def _airy(x: Tensor) -> Tensor:
    """Transform of a disc of diameter d at frequency f, by x = d f: 2 J1(pi x) / (pi x), 1 at the origin."""
    u = math.pi * x.clamp(min=1e-6)
    return 2 * torch.special.bessel_j1(u) / u


def _chunks(count: int, device: torch.device) -> list[Tensor]:
    return list(torch.arange(count, device=device).split(AT_ONCE))
