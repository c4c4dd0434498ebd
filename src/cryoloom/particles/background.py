"""The background outside the particle, by which images are normalised and in which the noise is measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.kernels import dispatch
from cryoloom.particles.borders import filled_borders, standardised_without

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
        slopes: two planes over the whole box, orthonormal outside the circle to each other and to a constant,
            [2, D, D] float32.
    """

    box: int
    radius: float
    mask: Tensor
    slopes: Tensor

    @staticmethod
    def create(box: int, particle_diameter_pixels: float) -> Background:
        """Background outside a circle of the particle's diameter, at most 0.95 of the box."""
        radius = min(particle_diameter_pixels, WIDEST_CIRCLE * box) / 2
        mask = (radius_map(box) > radius).float()
        axis = torch.arange(box, dtype=torch.float64) - box // 2
        planes = torch.stack([torch.ones(box, box), *torch.meshgrid(axis, axis, indexing="ij")]).double()
        # Q R = planes outside the circle: planes R^-1 is orthonormal there, and defined inside as well
        _, R = torch.linalg.qr((planes * mask).reshape(3, -1).T)
        slopes = torch.linalg.solve(R.T, planes.reshape(3, -1))[1:].reshape(2, box, box)
        return Background(box, radius, mask, slopes.float())

    def normalise(self, images: Float[Tensor, "B D D"], outlier_sigma: float) -> Float[Tensor, "B D D"]:
        """Images without the plane of their background, of background s.d. 1, clipped at `outlier_sigma`; a new tensor.

        Ice whose thickness changes, or the edge of a carbon film, tilts an image by more than the noise. The plane is
        fitted outside the circle by least squares.

        A hot pixel in the background would tilt the plane and inflate the s.d. by which it is judged. In images with
        values beyond `outlier_sigma`, plane and s.d. are therefore those of the pixels that are not outliers by median
        and median deviation. Borders that extraction filled count for neither, and become 0.

        Raises:
            Unusable: for images that are not finite or whose background is constant.
        """
        flat = images.reshape(len(images), -1)
        out = self._standardise(flat)
        wild = torch.nonzero(out.amax(-1).maximum(-out.amin(-1)) > outlier_sigma)[:, 0]
        if len(wild):
            robust = self._robust(flat[wild])
            fitted = torch.where(robust.abs() > outlier_sigma, 0, robust)
            try:
                out[wild] = self._standardise(robust, fitted)
            except Unusable as e:
                raise Unusable(wild.numpy()[e.places]) from None
        out = out.clamp_(-outlier_sigma, outlier_sigma).view_as(images)
        filled = filled_borders(images)
        if filled is not None:
            self._without_borders(images, filled, out, outlier_sigma)
        return out

    def _without_borders(self, images: Tensor, filled: Tensor, out: Tensor, outlier_sigma: float) -> None:
        """Write the images that have filled borders into `out`, normalised by the rest of their background."""
        unusable = []
        for i in torch.nonzero(filled.any(-1).any(-1))[:, 0].tolist():
            found = standardised_without(images[i], filled[i], self.mask > 0, outlier_sigma)
            if found is None:
                unusable.append(i)
            else:
                out[i] = found.clamp(-outlier_sigma, outlier_sigma)
        if unusable:
            raise Unusable(np.array(unusable, np.int64))

    def _standardise(self, flat: Float[Tensor, "B DD"], fitted: Float[Tensor, "B DD"] | None = None) -> Tensor:
        """Images in units of the background of `fitted`, by default their own, without its plane."""
        own = flat if fitted is None else fitted
        out, deviation = dispatch.standardised(flat, own, self.mask.reshape(-1), self.slopes.reshape(2, -1))
        bad = torch.nonzero(~(deviation > 0) | ~torch.isfinite(deviation) | ~torch.isfinite(out.sum(-1)))[:, 0]
        if len(bad):
            raise Unusable(bad.numpy())
        return out

    def _robust(self, flat: Float[Tensor, "B DD"]) -> Float[Tensor, "B DD"]:
        outside = flat[:, self.mask.reshape(-1) > 0]
        middle = outside.median(-1, keepdim=True).values
        deviation = 1.4826 * (outside - middle).abs().median(-1, keepdim=True).values
        # images of coarse integers may have a median deviation of 0 although they vary: their s.d. is used
        return (flat - middle) / torch.where(deviation > 0, deviation, outside.std(-1, keepdim=True))
