"""The alternative to all classes: an unknown body, of which only the power spectrum is known.

Its coefficients are Gaussian with the power tau^2 that slices of the classes' maps have by shell. An image Y with CTF C
and noise variance s2 is then complex Gaussian of variance s2 + C^2 tau^2. An image of a class, at the right pose, is much
likelier under the class; junk of any shape is likelier under the body, since no map fits it.
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


def slice_power(references: Sequence[Reference], shares: Float[Tensor, " K"]) -> Float[Tensor, " P"]:
    """Mean power of the classes' slices at each frequency of their disc, by shell; classes count by their shares."""
    disc = references[0].disc
    power = sum(
        share * reference.quarter.abs().square().mean(0)
        for share, reference in zip(shares.tolist(), references, strict=True)
    )
    assert isinstance(power, Tensor)
    shell = shells_of(disc)
    count = torch.bincount(shell).clamp(min=1)
    return (torch.bincount(shell, power.double()) / count).float()[shell]


def shells_of(disc: FourierDisc) -> Tensor:
    """Shell of each frequency, int64 [P]."""
    return (disc.k.norm(dim=1) * disc.box * disc.pixel_size).round().long()


def generic_evidence(images: Images, power: Float[Tensor, " P"]) -> Float[Tensor, " B"]:
    """log p(image | unknown body) - log p(image | no particle), nats, on the disc of the images.

    Args:
        power: tau^2 at each frequency (`slice_power`).
    """
    variance = images.variance[images.group]
    ratio = images.ctf.square() * power / variance
    excess = images.observed.abs().square() / variance
    parts = []
    for contrast in CONTRASTS:
        x = contrast * ratio
        parts.append((0.5 * images.disc.weight * (excess * x / (1 + x) - torch.log1p(x))).sum(1))
    return torch.logsumexp(torch.stack(parts), 0) - math.log(len(CONTRASTS))
