"""Candidate poses of all images from an encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.poses.encoder_file import TrainedEncoder
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels.images import Images
from cryoloom.particles.feed import ImageFeed

AT_ONCE = 500  # images at once


@dataclass(frozen=True)
class Proposed:
    """Result of a recipe that trains an encoder.

    Attributes:
        encode: the trained encoder; poses: its candidates for all images, on the CPU.
        volume: [m, m, m], map learnt with the encoder, in its band-limited box; noise: [G, S], E|n|^2 by shell.
    """

    encode: TrainedEncoder
    poses: PosePosterior
    volume: Tensor
    noise: Tensor


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
