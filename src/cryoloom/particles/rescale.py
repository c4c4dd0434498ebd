"""Images of different boxes and pixel sizes brought to one frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, slots=True)
class Rescaling:
    """Band-limited resampling of square images about their centre ``D // 2``: out = matrix image matrix^T.

    The same matrix [m, D] serves both axes. The field of view may shrink but never grows, so nothing is extrapolated.
    """

    matrix: np.ndarray

    @staticmethod
    def create(box: int, pixel_size: float, new_box: int, new_pixel_size: float) -> Rescaling:
        """Rescaling from `box` pixels of `pixel_size` angstrom to `new_box` pixels of `new_pixel_size`, in any ratio.

        Trigonometric interpolation: grey values and frequencies up to the smaller Nyquist frequency are kept, others
        removed.
        """
        ratio = new_pixel_size / pixel_size
        position = (np.arange(new_box) - new_box // 2) * ratio
        limit = min((box - 1) // 2, int(np.ceil(box / (2 * ratio))) - 1)
        j = np.arange(-limit, limit + 1)
        phase = 2j * np.pi / box
        forward = np.exp(-phase * j[:, None] * (np.arange(box) - box // 2)[None])
        matrix = np.real(np.exp(phase * position[:, None] * j[None]) @ forward) / box
        return Rescaling(matrix.astype(np.float32))

    def apply(self, images: Float[np.ndarray, "B D D"]) -> Float[np.ndarray, "B m m"]:
        """Resampled images, float32; the mean of each is kept exactly."""
        return np.matmul(np.matmul(self.matrix, images), self.matrix.T)


def common_frame(boxes: list[int], sizes: list[float]) -> tuple[int, float]:
    """Box and pixel size that all groups can be brought to: the coarsest pixels, the smallest field of view (even).

    Groups that agree to 0.01 % keep their box, odd or even.
    """
    coarsest = max(sizes)
    same = all(abs(s / coarsest - 1) < 1e-4 for s in sizes) and len(set(boxes)) == 1
    if same:
        return boxes[0], coarsest
    view = min(b * s for b, s in zip(boxes, sizes, strict=True))
    return int(view / coarsest * (1 + 1e-4)) // 2 * 2, coarsest
