"""Candidate poses of all images from an encoder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels.images import Images
from cryoloom.particles.feed import ImageFeed

AT_ONCE = 500  # images at once


@torch.no_grad()
def propose(
    encode: Callable[[Images], PosePosterior], feed: ImageFeed, radius: float, noise: Float[Tensor, "G S"]
) -> PosePosterior:
    """Candidate poses of all images, computed in batches; on the CPU.

    Args:
        encode: trained encoder, its network in evaluation mode.
        radius: radius in Fourier pixels up to which the network reads images.
    """
    parts = []
    for start in range(0, len(feed), AT_ONCE):
        rows = np.arange(start, min(start + AT_ONCE, len(feed)))
        parts.append(encode(feed.images(rows, radius, noise)).to(torch.device("cpu")))
    R, t, weight = (torch.cat([getattr(p, name) for p in parts]) for name in ("R", "t", "log_weight"))
    return PosePosterior(R, t, weight)
