"""The region outside the particle: what images are normalised by, and where the noise is measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.particles.errors import BadInput

# a wider circle leaves only a sliver of each corner, too few pixels for a mean and a spectrum
WIDEST_CIRCLE = 0.95


def radius_map(box: int) -> Float[Tensor, "D D"]:
    """Distance in pixels of each pixel from the centre ``D // 2``, float32."""
    axis = torch.arange(box, dtype=torch.float32) - box // 2
    return torch.hypot(axis[:, None], axis[None, :])


@dataclass(frozen=True, slots=True)
class Background:
    """The pixels of a box outside a centred circle.

    Attributes:
        box: side of the images, pixels.
        radius: of the circle, pixels; at most 0.475 of the box.
        mask: 1 outside, 0 inside, [D, D] float32.
    """

    box: int
    radius: float
    mask: Tensor

    @staticmethod
    def create(box: int, particle_diameter_pixels: float) -> Background:
        """Outside the particle, or outside 0.95 of the box where the particle is larger."""
        radius = min(particle_diameter_pixels, WIDEST_CIRCLE * box) / 2
        return Background(box, radius, (radius_map(box) > radius).float())

    def normalise(self, images: Float[Tensor, "B D D"], outlier_sigma: float) -> Float[Tensor, "B D D"]:
        """Images with background mean 0 and s.d. 1, values beyond `outlier_sigma` clipped; a new tensor.

        A hot pixel in the background would spoil the s.d. it is judged by: images that have any are measured again
        after clipping, until that changes nothing (at most 5 times).

        Raises:
            BadInput: for images that are not finite or whose background is constant, by their place in the batch.
        """
        flat = images.reshape(len(images), -1)
        out = self._standardise(flat)
        for _ in range(5):
            wild = torch.nonzero(out.amax(-1).maximum(-out.amin(-1)) > outlier_sigma)[:, 0]
            if not len(wild):
                break
            out[wild] = self._standardise(out[wild].clamp(-outlier_sigma, outlier_sigma))
        return out.clamp_(-outlier_sigma, outlier_sigma).view_as(images)

    def _standardise(self, flat: Float[Tensor, "B DD"]) -> Float[Tensor, "B DD"]:
        mask = self.mask.reshape(-1)
        count = mask.sum()
        # mean first, then squares of the differences: raw micrographs have means far above their s.d.
        out = flat - (flat @ mask / count)[:, None]
        deviation = (out.square() @ mask / count).sqrt()
        bad = torch.nonzero(~(deviation > 0) | ~torch.isfinite(deviation))[:, 0]
        if len(bad):
            raise BadInput(
                f"{len(bad)} image(s) have a background without contrast or with NaN pixels"
                f" (places {bad[:5].tolist()} of the batch): open the set with scan on, or drop them"
            )
        return out.div_(deviation[:, None])
