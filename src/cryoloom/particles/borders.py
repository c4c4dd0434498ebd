"""Borders of images that extraction filled where the micrograph ended: found, and normalised without them.

A box that reaches beyond the micrograph is filled with a constant, or with copies of its last row or column
(RELION). Such pixels hold no noise: they would narrow the background's s.d. and tilt its plane.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor


def filled_borders(images: Float[Tensor, "B D D"]) -> Bool[Tensor, "B D D"] | None:
    """Pixels of rows and columns at the edges that are constant or copies of the next one; None if there are none."""
    last = images.shape[-1] - 1
    edges = [(images[:, 0], images[:, 1]), (images[:, last], images[:, last - 1])]
    edges += [(images[..., 0], images[..., 1]), (images[..., last], images[..., last - 1])]
    suspect = torch.zeros(len(images), dtype=torch.bool)
    for edge, inner in edges:
        suspect |= (edge == edge[:, :1]).all(-1) | (edge == inner).all(-1)
    if not suspect.any():
        return None
    filled = torch.zeros(images.shape, dtype=torch.bool)
    for i in torch.nonzero(suspect)[:, 0].tolist():
        rows = _filled_lines(images[i])
        # of columns, what the filled rows leave: corners belong to both
        columns = _filled_lines(images[i][~rows].T) if not rows.all() else torch.ones(last + 1, dtype=torch.bool)
        filled[i] = rows[:, None] | columns[None, :]
    return filled


def _filled_lines(image: Tensor) -> Bool[Tensor, " H"]:
    """Rows from both ends that are constant or equal to the next one inwards."""
    return _filled_from_top(image) | _filled_from_top(image.flip(0)).flip(0)


def _filled_from_top(image: Tensor) -> Bool[Tensor, " H"]:
    constant = (image == image[:, :1]).all(1)
    copies = torch.cat([(image[:-1] == image[1:]).all(1), torch.zeros(1, dtype=torch.bool)])
    return (constant | copies).long().cumprod(0).bool()


def standardised_without(
    image: Float[Tensor, "D D"], filled: Bool[Tensor, "D D"], outside: Bool[Tensor, "D D"], outlier_sigma: float
) -> Float[Tensor, "D D"] | None:
    """An image without the plane of its background and of background s.d. 1, both from what is not filled; the filled
    pixels are 0. None where too little background is left, or it is constant."""
    seen = (outside & ~filled).numpy()
    pixels = image.double().numpy()
    if seen.sum() < max(12, 0.1 * float(outside.sum())):
        return None
    middle = np.median(pixels[seen])
    scale = 1.4826 * np.median(np.abs(pixels[seen] - middle))
    if scale > 0:
        seen &= np.abs(pixels - middle) <= outlier_sigma * scale
    y, x = np.indices(pixels.shape) - pixels.shape[0] // 2
    planes = np.stack([np.ones_like(pixels), y, x], -1)
    level, *_ = np.linalg.lstsq(planes[seen], pixels[seen], rcond=None)
    flat = pixels - planes @ level
    deviation = flat[seen].std()
    if not deviation > 0 or not np.isfinite(deviation):
        return None
    flat[filled.numpy()] = 0
    return torch.from_numpy((flat / deviation).astype(np.float32))
