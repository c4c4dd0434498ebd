"""The background outside the particle, by which images are normalised and in which the noise is measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# a wider circle leaves only a sliver of each corner, too few pixels for a mean and a spectrum
WIDEST_CIRCLE = 0.95


def radius_map(box: int) -> Float[Tensor, "D D"]:
    """Distance in pixels of each pixel from the centre ``D // 2``, float32."""
    axis = torch.arange(box, dtype=torch.float32) - box // 2
    return torch.hypot(axis[:, None], axis[None, :])


class Unusable(ValueError):
    """Some images of a batch can't be normalised; `places` are their indices in it, int64."""

    def __init__(self, places: np.ndarray) -> None:
        super().__init__(f"images {places.tolist()} of the batch have NaN pixels or a background without contrast")
        self.places = places


@dataclass(frozen=True, slots=True)
class Background:
    """The pixels of a box outside a centred circle.

    Attributes:
        box: side of the images, pixels.
        radius: radius of the circle, pixels; at most 0.475 of the box.
        mask: 1 outside, 0 inside, [D, D] float32.
    """

    box: int
    radius: float
    mask: Tensor

    @staticmethod
    def create(box: int, particle_diameter_pixels: float) -> Background:
        """Background outside a circle of the particle's diameter, at most 0.95 of the box."""
        radius = min(particle_diameter_pixels, WIDEST_CIRCLE * box) / 2
        return Background(box, radius, (radius_map(box) > radius).float())

    def normalise(self, images: Float[Tensor, "B D D"], outlier_sigma: float) -> Float[Tensor, "B D D"]:
        """Images with background mean 0 and s.d. 1, values beyond `outlier_sigma` clipped; a new tensor.

        A hot pixel in the background would inflate the s.d. by which it is judged. Images with values beyond
        `outlier_sigma` are therefore first clipped by median and median deviation, and then normalised.

        Raises:
            Unusable: for images that are not finite or whose background is constant.
        """
        flat = images.reshape(len(images), -1)
        out = self._standardise(flat)
        wild = torch.nonzero(out.amax(-1).maximum(-out.amin(-1)) > outlier_sigma)[:, 0]
        if len(wild):
            out[wild] = self._standardise(self._robust(flat[wild]).clamp(-outlier_sigma, outlier_sigma))
        return out.clamp_(-outlier_sigma, outlier_sigma).view_as(images)

    def _standardise(self, flat: Float[Tensor, "B DD"]) -> Float[Tensor, "B DD"]:
        # NumPy sums each row by itself, so an image gets the same bits in any batch; a matrix product does not
        pixels, mask = flat.numpy(), self.mask.reshape(-1).numpy()
        count = mask.sum()
        # mean first, then squares of the differences: raw micrographs have means far above their s.d.
        mean = torch.from_numpy((pixels * mask).sum(-1) / count)
        out = flat - mean[:, None]
        centred = out.numpy() * mask
        deviation = torch.from_numpy(np.sqrt(np.square(centred, out=centred).sum(-1) / count))
        bad = torch.nonzero(~(deviation > 0) | ~torch.isfinite(deviation) | ~torch.isfinite(out.sum(-1)))[:, 0]
        if len(bad):
            raise Unusable(bad.numpy())
        return out.div_(deviation[:, None])

    def _robust(self, flat: Float[Tensor, "B DD"]) -> Float[Tensor, "B DD"]:
        outside = flat[:, self.mask.reshape(-1) > 0]
        middle = outside.median(-1, keepdim=True).values
        deviation = 1.4826 * (outside - middle).abs().median(-1, keepdim=True).values
        # images of coarse integers may have a median deviation of 0 although they vary: their s.d. is used
        return (flat - middle) / torch.where(deviation > 0, deviation, outside.std(-1, keepdim=True))
